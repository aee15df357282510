//! For every code that the simulator can report, a minimal kernel that triggers exactly it:
//! `codes/CODE.ptx`, whose comments say how it is launched where that matters.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ptx_sim::{Device, Launch, Module, Options, Profile};

/// Codes whose kernels need a tensor map, or more than a minimal kernel: the cases' changes trigger them.
const ELSEWHERE: [&str; 9] = [
    "CLUSTER-PEER-EXITED",
    "MBAR-STALE-PHASE",
    "MULTICAST-MASK",
    "SETMAXNREG",
    "TMA-ALIGN",
    "TMA-COORD",
    "TMA-DESC",
    "WGMMA-AREG-INFLIGHT",
    "WGMMA-SWIZZLE-MISMATCH",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Codes in the sources: string literals of capitals.
fn codes_of_sources(directory: &Path, codes: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name == "main.rs" {
            continue;
        }
        if path.is_dir() {
            codes_of_sources(&path, codes);
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for literal in text.split('"').skip(1) {
            let shaped = literal.len() >= 4
                && literal.starts_with(|c: char| c.is_ascii_uppercase())
                && literal
                    .chars()
                    .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '-')
                && !literal.starts_with("LHTMAP"); // the magic number of maps
            if shaped {
                codes.insert(literal.to_owned());
            }
        }
    }
}

fn files() -> BTreeSet<String> {
    std::fs::read_dir(root().join("tests/codes"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect()
}

#[test]
fn every_code_has_a_kernel() {
    let mut codes = BTreeSet::new();
    codes_of_sources(&root().join("src"), &mut codes);
    for code in ELSEWHERE {
        codes.remove(code);
    }
    let files = files();
    let missing: Vec<_> = codes.difference(&files).collect();
    assert!(missing.is_empty(), "without tests/codes/CODE.ptx: {missing:?}");
}

#[test]
fn every_code_is_explained() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let mut codes = BTreeSet::new();
    codes_of_sources(&root().join("src"), &mut codes);
    let missing: Vec<_> = codes.iter().filter(|c| !readme.contains(&format!("`{c}`"))).collect();
    assert!(missing.is_empty(), "not in README.md: {missing:?}");
}

#[test]
fn every_kernel_triggers_its_code_alone() {
    let mut wrong = Vec::new();
    for code in files() {
        let path = root().join("tests/codes").join(format!("{code}.ptx"));
        let text = std::fs::read_to_string(&path).unwrap();
        let found = run(&text);
        let with = key(&text, "with").map(str::to_owned);
        let expected: BTreeSet<String> = with.into_iter().chain([code.clone()]).collect();
        if found != expected {
            wrong.push(format!("{code}.ptx: {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A word of the `// launch:` comment.
fn key<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let line = text.lines().find_map(|line| line.strip_prefix("// launch:"))?;
    line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

/// The codes reported.
fn run(text: &str) -> BTreeSet<String> {
    let number = |name: &str, or: u32| key(text, name).map_or(or, |v| v.parse().unwrap());
    let codes = |diags: &[ptx_sim::Diag]| diags.iter().map(|d| d.code.to_owned()).collect();
    let module = match Module::parse(text, "code.ptx") {
        Ok(module) => module,
        Err(diag) => return codes(&[*diag]),
    };
    let options: Options = key(text, "options").unwrap_or("").parse().unwrap();
    let profile =
        if key(text, "device") == Some("h100") { Profile::h100() } else { Profile::a100() };
    let mut device = Device::new(profile, options);
    let a = device.alloc(4096).unwrap();
    let b = device.alloc(4096).unwrap();
    device.write(a, &vec![7; 4096]).unwrap();
    match key(text, "host") {
        Some("alloc") => return codes(&[*device.alloc(0).unwrap_err()]),
        Some("free") => return codes(&[*device.free(a + 1).unwrap_err()]),
        Some("freed") => device.free(a).unwrap(),
        Some("readonly") => device.tag(a, true, "a"),
        Some(other) => panic!("host={other}"),
        None => {}
    }
    let mut params: Vec<u8> = [a.to_le_bytes(), b.to_le_bytes()].concat();
    params.extend(100u32.to_le_bytes());
    params.truncate(number("params", 20) as usize);
    let launch = Launch {
        cluster: [number("cluster", 1), 1, 1],
        smem_limit: number("limit", u32::MAX),
        ..Launch::new([number("grid", 1), 1, 1], [number("block", 32), 1, 1], number("smem", 0))
    };
    match device.launch(&module, key(text, "entry").unwrap_or("k"), &launch, &params) {
        Ok(report) => codes(&report.diags),
        Err(report) => codes(&report.diags),
    }
}
