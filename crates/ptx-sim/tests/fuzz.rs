//! Damaged texts: an error or a result, never a panic, never a hang. Seeded.

mod common;

use std::path::Path;

use common::Words;
use ptx_sim::{Completion, Device, Launch, Module, Options, Profile, Schedule};

fn texts() -> Vec<String> {
    let mut all = Vec::new();
    for directory in ["tests/data/cases", "tests/codes", "tests/data/triton", "tests/data/kernels"]
    {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
        let mut paths: Vec<_> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "ptx"))
            .collect();
        paths.sort();
        all.extend(paths.into_iter().map(|path| std::fs::read_to_string(path).unwrap()));
    }
    all
}

/// Bytes are changed, dropped and repeated.
#[test]
fn bytes() {
    let mut words = Words(1);
    for text in texts() {
        let rounds = 400_000 / text.len().max(2000);
        for _ in 0..rounds {
            let mut bytes = text.clone().into_bytes();
            for _ in 0..1 + words.below(4) {
                let at = words.below(bytes.len().max(1) as u64) as usize;
                if bytes.len() < 8 {
                    break;
                }
                match words.below(5) {
                    0 => bytes[at] = words.below(256) as u8,
                    1 => bytes[at] = b"{}[]();,.:%@!<>|-+\"/*0x9\n"[words.below(25) as usize],
                    2 => drop(bytes.remove(at)),
                    3 => bytes.truncate(at.max(1)),
                    _ => {
                        let end = (at + 1 + words.below(60) as usize).min(bytes.len());
                        let piece = bytes[at..end].to_vec();
                        bytes.splice(at..at, piece);
                    }
                }
            }
            let _ = Module::parse(&String::from_utf8_lossy(&bytes), "fuzz.ptx");
        }
    }
}

/// What nests or is long must not overflow anything.
#[test]
fn depths_and_sizes() {
    let head = ".version 8.0\n.target sm_80\n.address_size 64\n";
    let kernel = |body: &str| format!("{head}.visible .entry k(.param .u64 a) {{ {body} }}");
    let mut all = vec![
        kernel(&"{".repeat(100_000)),
        kernel(&format!("mov.u32 {};", "{".repeat(100_000))),
        kernel(&format!("mov.u32 {};", "[".repeat(100_000))),
        kernel(&format!("mov.u32 {}p;", "!".repeat(100_000))),
        format!("{head}.global .u32 x[2] = {}", "{".repeat(100_000)),
        format!("{head}.global .u32 x[1] = {{1, 2, 3}};"),
        kernel("add.u32"),
        "/*".repeat(1000),
        "\"".into(),
        ".version 4294967296.0".into(),
    ];
    for declaration in [
        ".shared .b8 x[4294967295]; .shared .b8 y[4294967295];",
        ".local .b8 x[4294967295]; .local .align 65536 .b8 y[9];",
        ".shared .align 2147483648 .b8 x[9];",
        ".reg .b32 %r<4294967295>;",
        ".reg .b64 %r<1048576>; .reg .b64 %s<1048576>;",
        ".shared .b64 x[65536][65536][65536];",
    ] {
        all.push(kernel(declaration));
        all.push(format!("{head}{declaration}"));
    }
    for text in all {
        let _ = Module::parse(&text, "fuzz.ptx");
    }
}

/// Tokens are dropped, swapped and replaced by others of the text; what still decodes runs.
#[test]
fn tokens() {
    let mut words = Words(2);
    let (mut ran, mut failed) = (0, 0);
    for text in texts() {
        // The kernel's own tokens; spaces are kept as they are.
        let pieces: Vec<&str> =
            text.split_inclusive([' ', ',', ';', '\n', '.', '[', ']', '{', '}']).collect();
        let from =
            pieces.iter().position(|p| p.contains(".entry") || p.contains("entry")).unwrap_or(0);
        let rounds = 150_000 / text.len().max(1500);
        for _ in 0..rounds {
            let mut changed = pieces.clone();
            for _ in 0..1 + words.below(3) {
                let span = (changed.len() - from) as u64;
                let at = from + words.below(span) as usize;
                let other = from + words.below(span) as usize;
                match words.below(3) {
                    0 => drop(changed.remove(at)),
                    1 => changed.swap(at, other),
                    _ => changed[at] = pieces[other.min(pieces.len() - 1)],
                }
            }
            let Ok(module) = Module::parse(&changed.concat(), "fuzz.ptx") else { continue };
            let schedules = [
                Schedule::RoundRobin(4),
                Schedule::Greedy,
                Schedule::Pct(3, 3),
                Schedule::Random(5),
            ];
            let completions =
                [Completion::Eager, Completion::Late, Completion::Early, Completion::Random];
            let options = Options {
                schedule: schedules[words.below(4) as usize],
                completion: completions[words.below(4) as usize],
                step_budget: 300_000,
                ..Options::default()
            };
            for entry in module.entries() {
                let profile = if module.target >= 90 { Profile::h100() } else { Profile::a100() };
                let mut device = Device::new(profile, options);
                let mut params = vec![0u8; entry.param_bytes as usize];
                for param in &entry.params {
                    let value = match param.size {
                        8 => {
                            let buffer = device.alloc(4096).unwrap();
                            device.fill(buffer, 4096, 1).unwrap();
                            buffer
                        }
                        _ => 64,
                    };
                    let n = (param.size as usize).min(8);
                    params[param.offset as usize..][..n].copy_from_slice(&value.to_le_bytes()[..n]);
                }
                let launch = Launch {
                    cluster: entry.cluster.unwrap_or([1, 1, 1]),
                    ..Launch::new([2, 1, 1], entry.reqntid.unwrap_or([128, 1, 1]), 16384)
                };
                ran += 1;
                match device.launch(&module, &entry.name, &launch, &params) {
                    Ok(report) => assert!(report.diags.iter().all(|d| d.code.len() > 3)),
                    Err(report) => {
                        assert!(!report.diags.is_empty());
                        failed += 1;
                    }
                }
            }
        }
    }
    println!("{ran} ran, {failed} of them with errors");
    assert!(ran > 300);
}
