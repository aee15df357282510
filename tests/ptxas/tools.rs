//! The assemblers that `./check --setup` puts under target/tools/ptxas, and what they said before,
//! by content under target/.

use longhand_cli::ptxas::{Assembled, Assembler, OPTIONS, tools_folder};
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

/// The versions that a text must pass: each finds what the others miss.
const VERSIONS: [&str; 3] = ["12.0.76", "12.9.86", "13.5.37"];

pub(crate) struct Tools {
    pub(crate) assemblers: Vec<Assembler>,
    cache: PathBuf,
}

impl Tools {
    /// The tools of this machine. Their absence is loud, and an error if `LONGHAND_REQUIRE` is set.
    pub(crate) fn find() -> Option<Tools> {
        let assemblers = Assembler::all(&tools_folder(Path::new(env!("CARGO_MANIFEST_DIR"))));
        let found: Vec<&str> = assemblers.iter().map(|a| a.version.as_str()).collect();
        if found != VERSIONS {
            let why = format!("ptxas {found:?} under target/tools, not {VERSIONS:?}");
            let required = std::env::var("LONGHAND_REQUIRE").unwrap_or_default();
            assert!(required.is_empty(), "LONGHAND_REQUIRE={required}, but {why}");
            eprintln!("SKIPPED: {why}; run ./check --setup");
            return None;
        }
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("inside target");
        let cache = target.join("ptxas-cache");
        std::fs::create_dir_all(&cache).expect("target can be written");
        Some(Tools { assemblers, cache })
    }

    /// Assembles and disassembles `text`, or recalls what came of it.
    pub(crate) fn assemble(&self, assembler: &Assembler, text: &str) -> Assembled {
        let mut hasher = DefaultHasher::new();
        (OPTIONS, &assembler.version, text).hash(&mut hasher);
        let kept = self.cache.join(format!("{}-{:016x}", assembler.version, hasher.finish()));
        if let Ok(record) = std::fs::read_to_string(&kept)
            && let [accepted, said, code] = record.splitn(3, '\u{c}').collect::<Vec<_>>()[..]
        {
            let (said, code) = (said.to_owned(), code.to_owned());
            return Assembled { accepted: accepted == "accepted", said, code };
        }
        let made = assembler.assemble(text, &self.cache).expect("the assembler runs");
        let word = if made.accepted { "accepted" } else { "rejected" };
        let record = format!("{word}\u{c}{}\u{c}{}", made.said, made.code);
        // Elsewhere first: another process may be reading.
        let part = kept.with_extension(format!("{}.part", std::process::id()));
        std::fs::write(&part, record).expect("target can be written");
        std::fs::rename(&part, &kept).expect("target can be written");
        made
    }
}
