//! The assemblers that `./check --setup` puts under target/tools/ptxas, and what they said before,
//! by content under target/.

use longhand_cli::ptxas::{Assembled, Assembler, OPTIONS, tools_folder};
use longhand_cli::sass::compact;
use object::{Object, ObjectSection};
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
        let kept = self.kept(assembler, text, "with labels");
        recall(&kept).unwrap_or_else(|| {
            let made = assembler.assemble(text, &self.cache).expect("the assembler runs");
            keep(&kept, &made);
            made
        })
    }

    /// The same of many texts, without labels. nvdisasm takes a third of a second to start, as long
    /// as a text takes to assemble, so it is given the instructions of all texts in one piece.
    pub(crate) fn assemble_all(&self, assembler: &Assembler, texts: &[&str]) -> Vec<Assembled> {
        let mut raw = vec![];
        let begin = |text: &&str| {
            let kept = self.kept(assembler, text, "instructions");
            if let Some(made) = recall(&kept) {
                return (made, None);
            }
            let (said, cubin) = assembler.cubin(text, &self.cache).expect("the assembler runs");
            let accepted = cubin.is_some();
            let first = raw.len();
            raw.extend(cubin.iter().flat_map(|cubin| instructions(cubin)));
            (Assembled { accepted, said, code: String::new() }, Some((kept, first..raw.len())))
        };
        let mut all: Vec<_> = texts.iter().map(begin).collect();
        let printed = match raw.is_empty() {
            true => String::new(),
            false => assembler.disassemble(&["-b", "SM80"], &raw, &self.cache).expect("it runs"),
        };
        let compact = compact(&printed);
        let lines: Vec<&str> = compact.lines().collect();
        assert_eq!(lines.len() * INSTRUCTION, raw.len(), "one line an instruction");
        for (made, new) in &mut all {
            let Some((kept, bytes)) = new else { continue };
            made.code = lines[bytes.start / INSTRUCTION..bytes.end / INSTRUCTION].join("\n");
            keep(kept, made);
        }
        all.into_iter().map(|(made, _)| made).collect()
    }

    /// Where the record of a text is kept.
    fn kept(&self, assembler: &Assembler, text: &str, what: &str) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        (OPTIONS, &assembler.version, text, what).hash(&mut hasher);
        self.cache.join(format!("{}-{:016x}", assembler.version, hasher.finish()))
    }
}

/// Bytes of an instruction, from compute capability 7.0 on.
const INSTRUCTION: usize = 16;

/// The instructions of all functions in an object file.
fn instructions(cubin: &[u8]) -> Vec<u8> {
    let file = object::File::parse(cubin).expect("ptxas makes ELF");
    let functions = file.sections().filter(|s| s.name().is_ok_and(|n| n.starts_with(".text.")));
    functions.flat_map(|s| s.data().expect("inside the file").to_vec()).collect()
}

fn recall(kept: &Path) -> Option<Assembled> {
    let record = std::fs::read_to_string(kept).ok()?;
    let [accepted, said, code] = record.splitn(3, '\u{c}').collect::<Vec<_>>()[..] else {
        return None;
    };
    let (said, code) = (said.to_owned(), code.to_owned());
    Some(Assembled { accepted: accepted == "accepted", said, code })
}

fn keep(kept: &Path, made: &Assembled) {
    let word = if made.accepted { "accepted" } else { "rejected" };
    let record = format!("{word}\u{c}{}\u{c}{}", made.said, made.code);
    // Elsewhere first: another process may be reading.
    let part = kept.with_extension(format!("{}.part", std::process::id()));
    std::fs::write(&part, record).expect("target can be written");
    std::fs::rename(&part, kept).expect("target can be written");
}
