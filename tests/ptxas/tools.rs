//! The assemblers and the disassembler, as `./check --setup` puts them under target/tools/ptxas,
//! and what they said before, by content under target/.

use super::sass::{self, MainLoop};
use std::collections::{BTreeMap, hash_map::DefaultHasher};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The versions that a text must pass: each finds what the others miss.
const VERSIONS: [&str; 3] = ["12.0.76", "12.9.86", "13.5.37"];

pub(crate) struct Tools {
    ptxas: BTreeMap<String, PathBuf>,
    nvdisasm: PathBuf,
    versions: Vec<String>,
    cache: PathBuf,
}

/// What an assembler made of a text.
pub(crate) struct Assembled {
    pub(crate) accepted: bool,
    pub(crate) said: String,
    /// How often each opcode stands in the machine code.
    pub(crate) opcodes: BTreeMap<String, usize>,
    /// The loop with the most tensor-core products.
    pub(crate) main_loop: Option<MainLoop>,
}

/// Resources, as `ptxas -v` states them.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    pub(crate) registers: u32,
    pub(crate) spilled: u32,
    pub(crate) stack: u32,
    pub(crate) static_shared: u32,
}

impl Tools {
    /// The tools of this machine. Their absence is loud, and an error if `LONGHAND_REQUIRE` is set.
    pub(crate) fn find() -> Option<Tools> {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("inside target");
        let tools = std::env::var_os("LONGHAND_TOOLS").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools"),
            PathBuf::from,
        );
        let folder = tools.join("ptxas");
        let ptxas: BTreeMap<String, PathBuf> = VERSIONS
            .into_iter()
            .filter_map(|v| Some((v.to_owned(), program(&folder.join(v), "ptxas")?)))
            .collect();
        let nvdisasm = program(&folder.join("nvdisasm"), "nvdisasm");
        match nvdisasm {
            Some(nvdisasm) if ptxas.len() == VERSIONS.len() => {
                let cache = target.join("ptxas-cache");
                std::fs::create_dir_all(&cache).expect("target can be written");
                let versions = ptxas.keys().cloned().collect();
                Some(Tools { ptxas, nvdisasm, versions, cache })
            }
            _ => {
                let why = "ptxas or nvdisasm is missing under target/tools; run ./check --setup";
                let required = std::env::var("LONGHAND_REQUIRE").unwrap_or_default();
                assert!(required.is_empty(), "LONGHAND_REQUIRE={required}, but {why}");
                eprintln!("SKIPPED: {why}");
                None
            }
        }
    }

    pub(crate) fn versions(&self) -> &[String] {
        &self.versions
    }

    /// Assembles and disassembles `text`, or recalls what came of it.
    pub(crate) fn assemble(&self, version: &str, text: &str) -> Assembled {
        let mut hasher = DefaultHasher::new();
        (COMMAND, version, text).hash(&mut hasher);
        let kept = self.cache.join(format!("{version}-{:016x}", hasher.finish()));
        let record = std::fs::read_to_string(&kept).unwrap_or_else(|_| {
            let record = self.run(version, text);
            std::fs::write(&kept, &record).expect("target can be written");
            record
        });
        let mut parts = record.splitn(3, '\u{c}');
        let accepted = parts.next() == Some("accepted");
        let said = parts.next().unwrap_or_default().to_owned();
        let code = parts.next().unwrap_or_default();
        Assembled { accepted, said, opcodes: sass::opcodes(code), main_loop: sass::main_loop(code) }
    }

    /// "accepted" or "rejected", what ptxas said, the machine code.
    fn run(&self, version: &str, text: &str) -> String {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let base = self.cache.join(format!("work-{}-{n}", std::process::id()));
        let (ptx, cubin) = (base.with_extension("ptx"), base.with_extension("cubin"));
        std::fs::write(&ptx, text).expect("target can be written");
        let output = Command::new(&self.ptxas[version])
            .args(COMMAND)
            .args([&ptx, Path::new("-o"), &cubin])
            .output()
            .expect("the program runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        let mut record = format!("rejected\u{c}{said}\u{c}");
        if output.status.success() {
            let sass = Command::new(&self.nvdisasm).arg("-c").arg(&cubin).output();
            let sass = sass.expect("the program runs");
            assert!(sass.status.success(), "{}", String::from_utf8_lossy(&sass.stderr));
            let code = String::from_utf8_lossy(&sass.stdout).into_owned();
            record = format!("accepted\u{c}{said}\u{c}{}", sass::compact(&code));
        }
        for path in [ptx, cubin] {
            let _ = std::fs::remove_file(path);
        }
        record
    }
}

const COMMAND: [&str; 5] =
    ["-arch=sm_80", "-O3", "-v", "--warn-on-spills", "--warn-on-local-memory-usage"];

/// The program `name` somewhere below `folder`.
fn program(folder: &Path, name: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?;
    let mut folders = vec![];
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            folders.push(path);
        } else if path.file_name().is_some_and(|n| n == name) {
            return Some(path);
        }
    }
    folders.iter().find_map(|folder| program(folder, name))
}

impl Assembled {
    /// What ptxas says the kernel uses.
    pub(crate) fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        let words: Vec<&str> = self
            .said
            .split(|c: char| c.is_whitespace() || c == ',')
            .filter(|w| !w.is_empty())
            .collect();
        for n in 0..words.len() {
            let number = |at: usize| words.get(at).and_then(|w| w.parse::<u32>().ok()).unwrap_or(0);
            match words[n..] {
                ["Used", _, "registers", ..] => usage.registers = number(n + 1),
                [_, "bytes", "stack", "frame", ..] => usage.stack = number(n),
                [_, "bytes", "spill", ..] => usage.spilled += number(n),
                [_, "bytes", "smem", ..] => usage.static_shared = number(n),
                _ => {}
            }
        }
        usage
    }
}
