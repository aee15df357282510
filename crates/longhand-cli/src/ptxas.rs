//! NVIDIA's assemblers, run on a text: what they say of it, and the machine code they make.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

/// One version of the assembler, with a disassembler that reads what it makes.
#[derive(Debug, Clone)]
pub struct Assembler {
    /// As `./check --setup` names its folder: `12.9.86`.
    pub version: String,
    ptxas: PathBuf,
    nvdisasm: PathBuf,
}

/// What an assembler made of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assembled {
    /// It is valid, and `code` is what it comes to.
    pub accepted: bool,
    /// What the assembler printed.
    pub said: String,
    /// Labels and instructions, one a line.
    pub code: String,
}

/// Resources, as `ptxas -v` states them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes that were moved from registers to memory and back.
    pub spilled: u32,
    /// Bytes of a thread's stack.
    pub stack: u32,
    /// Bytes of shared memory that the kernel declares.
    pub static_shared: u32,
}

/// The options that every text is assembled with.
pub const OPTIONS: [&str; 5] =
    ["-arch=sm_80", "-O3", "-v", "--warn-on-spills", "--warn-on-local-memory-usage"];

/// The folder with the project's tools: `LONGHAND_TOOLS`, else `target/tools` below `root`.
pub fn tools_folder(root: &Path) -> PathBuf {
    std::env::var_os("LONGHAND_TOOLS").map_or_else(|| root.join("target/tools"), PathBuf::from)
}

impl Assembler {
    /// Every assembler under `tools`, oldest first; none without a disassembler.
    pub fn all(tools: &Path) -> Vec<Assembler> {
        let folder = tools.join("ptxas");
        let Some(nvdisasm) = program(&folder.join("nvdisasm"), "nvdisasm") else {
            return vec![];
        };
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let mut found: Vec<Assembler> = entries
            .filter_map(|entry| {
                let version = entry.file_name().into_string().ok()?;
                let ptxas = program(&entry.path(), "ptxas")?;
                Some(Assembler { version, ptxas, nvdisasm: nvdisasm.clone() })
            })
            .collect();
        found.sort_by(|a, b| a.version.cmp(&b.version));
        found
    }

    /// Assembles and disassembles `text`, with its files in the folder `scratch`.
    pub fn assemble(&self, text: &str, scratch: &Path) -> io::Result<Assembled> {
        let (said, cubin) = self.cubin(text, scratch)?;
        let Some(cubin) = cubin else {
            return Ok(Assembled { accepted: false, said, code: String::new() });
        };
        let code = crate::sass::compact(&self.disassemble(&["-c"], &cubin, scratch)?);
        Ok(Assembled { accepted: true, said, code })
    }

    /// What ptxas says of `text`, and the object file if it takes it.
    pub fn cubin(&self, text: &str, scratch: &Path) -> io::Result<(String, Option<Vec<u8>>)> {
        let [ptx, cubin] = files(scratch, ["ptx", "cubin"]);
        std::fs::write(&ptx, text)?;
        let mut command = Command::new(&self.ptxas);
        let output = command.args(OPTIONS).args([&ptx, Path::new("-o"), &cubin]).output();
        let made = std::fs::read(&cubin);
        for path in [ptx, cubin] {
            // The second is not there if the text was rejected.
            let _ = std::fs::remove_file(path);
        }
        let output = output?;
        let [said, printed] = [&output.stderr, &output.stdout].map(|x| String::from_utf8_lossy(x));
        let cubin = if output.status.success() { Some(made?) } else { None };
        Ok((said.into_owned() + &printed, cubin))
    }

    /// What nvdisasm prints of `code` with `options`.
    pub fn disassemble(&self, options: &[&str], code: &[u8], scratch: &Path) -> io::Result<String> {
        let [file] = files(scratch, ["cubin"]);
        std::fs::write(&file, code)?;
        let output = Command::new(&self.nvdisasm).args(options).arg(&file).output();
        let _ = std::fs::remove_file(file);
        let output = output?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(format!("nvdisasm: {why}")));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Paths in `scratch` that nobody else is given.
fn files<const N: usize>(scratch: &Path, extensions: [&str; N]) -> [PathBuf; N] {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    let base = scratch.join(format!("longhand-{}-{n}", std::process::id()));
    extensions.map(|extension| base.with_extension(extension))
}

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
    pub fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        let separates = |c: char| c.is_whitespace() || c == ',';
        let words: Vec<&str> = self.said.split(separates).filter(|w| !w.is_empty()).collect();
        for n in 0..words.len() {
            let number = |at: usize| words.get(at).and_then(|w| w.parse::<u32>().ok()).unwrap_or(0);
            match words[n..] {
                ["Used", _, "registers", ..] => usage.registers = number(n + 1),
                [_, "bytes", "stack", "frame", ..] => usage.stack = number(n),
                [_, "bytes", "spill", "stores" | "loads", ..] => usage.spilled += number(n),
                [_, "bytes", "smem", ..] => usage.static_shared = number(n),
                _ => {}
            }
        }
        usage
    }
}

#[test]
fn usage_is_read_from_what_ptxas_prints() {
    let said = "ptxas info    : Compiling entry function 'f' for 'sm_80'\n\
                ptxas info    : Function properties for f\n    \
                8 bytes stack frame, 16 bytes spill stores, 12 bytes spill loads\n\
                ptxas info    : Used 168 registers, 64 bytes smem, 400 bytes cmem[0]\n";
    let usage = Assembled { accepted: true, said: said.into(), code: String::new() }.usage();
    assert_eq!(usage, Usage { registers: 168, spilled: 28, stack: 8, static_shared: 64 });
}
