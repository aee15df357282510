//! Tint over many sources: the `tint` program if it is on PATH, else the one inside Dawn's Node
//! module (npm's `webgpu`), which `./check --setup` puts under target/tools.

use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(Debug)]
pub(crate) enum Tint {
    Program,
    /// The folder of npm's `webgpu`.
    Dawn(PathBuf),
}

/// Tint on this machine. Its absence is loud, and an error if `LONGHAND_REQUIRE` is set.
pub(crate) fn find() -> Option<Tint> {
    let runs = |program: &str| Command::new(program).arg("--version").output().is_ok();
    let wanted = std::env::var("LONGHAND_TINT").unwrap_or_default();
    let tools = std::env::var_os("LONGHAND_TOOLS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools"), PathBuf::from);
    let dawn = tools.join("node_modules/webgpu");
    if wanted != "dawn" && runs("tint") {
        return Some(Tint::Program);
    }
    if dawn.join("index.js").exists() && runs("node") {
        return Some(Tint::Dawn(dawn));
    }
    let why = "no tint: neither `tint` on PATH nor node and Dawn's module; run ./check --setup";
    let required = std::env::var("LONGHAND_REQUIRE").unwrap_or_default();
    assert!(required.is_empty(), "LONGHAND_REQUIRE={required}, but {why}");
    eprintln!("SKIPPED: {why}");
    None
}

/// The texts that tint rejects, by number, with what it says.
pub(crate) fn reject(tint: &Tint, texts: &[&str]) -> Vec<(usize, String)> {
    let folder =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("tint-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let paths: Vec<PathBuf> = (0..texts.len()).map(|n| folder.join(format!("{n}.wgsl"))).collect();
    for (path, text) in paths.iter().zip(texts) {
        // Tint wants what naga rejects; so the shaders leave it out, as a JavaScript host adds it.
        let enable = if text.contains("subgroup") { "enable subgroups;\n" } else { "" };
        std::fs::write(path, format!("{enable}{text}")).unwrap();
    }
    let rejected = match tint {
        Tint::Program => by_program(&paths),
        Tint::Dawn(module) => by_dawn(module, &folder),
    };
    std::fs::remove_dir_all(&folder).unwrap();
    rejected
}

fn by_program(paths: &[PathBuf]) -> Vec<(usize, String)> {
    let one = |(n, path): (usize, &PathBuf)| {
        let output = Command::new("tint")
            .args(["--format", "wgsl", "-o"])
            .arg(path.with_extension("out"))
            .arg(path)
            .output()
            .expect("tint ran before");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (!output.status.success()).then_some((n, said))
    };
    paths.iter().enumerate().filter_map(one).collect()
}

/// The script prints `N<TAB>message` for each rejected N.wgsl, then how many files it read.
fn by_dawn(module: &Path, folder: &Path) -> Vec<(usize, String)> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gates/tint.mjs");
    let output = Command::new("node").arg(script).arg(module).arg(folder).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = said.lines().collect();
    let files = std::fs::read_dir(folder).unwrap().count();
    let complete = lines.last() == Some(&format!("read {files}").as_str());
    assert!(complete, "{said}{}", String::from_utf8_lossy(&output.stderr));
    lines
        .iter()
        .filter_map(|line| line.split_once('\t'))
        .map(|(n, why)| (n.parse().expect("a number"), why.replace("\\n", "\n")))
        .collect()
}
