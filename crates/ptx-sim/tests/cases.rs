//! Whole kernels with their expected bits and counters, and seeded changes that must be noticed.

use std::path::{Path, PathBuf};

use ptx_sim::case::{Case, Outcome};
use ptx_sim::{Counters, Module, Options};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/cases")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The cases with their texts.
fn cases() -> Vec<(Case, String)> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .collect();
    files.sort();
    assert_eq!(files.len(), 8);
    let mut all = Vec::new();
    for path in files {
        let case = Case::from_json(&read(&path)).unwrap();
        let text = read(&path.with_extension("ptx"));
        all.push((case, text));
    }
    all
}

fn run(case: &Case, text: &str, options: Options) -> Outcome {
    case.run(text, options).unwrap_or_else(|e| panic!("{}: {e}", case.case))
}

fn shown(outcome: &Outcome) -> String {
    outcome.diags.iter().map(|d| format!("{d}\n")).collect()
}

#[test]
fn clean_in_every_order() {
    for (case, text) in cases() {
        let mut first: Option<Outcome> = None;
        for options in Options::matrix() {
            let outcome = run(&case, &text, options);
            assert!(outcome.diags.is_empty(), "{} {options:?}\n{}", case.case, shown(&outcome));
            assert_eq!(outcome.mismatch, None, "{} {options:?}", case.case);
            match &first {
                None => first = Some(outcome),
                Some(first) => {
                    assert!(
                        outcome.memory == first.memory,
                        "{} {options:?}: other bits",
                        case.case
                    );
                }
            }
        }
    }
}

#[test]
fn clean_whatever_is_unspecified() {
    for (case, text) in cases() {
        let mut all = Options::numerics();
        for sms in [1, 2, 132] {
            all.push(Options { sms, ..Options::default() });
        }
        for smem_shift in [0, 1, 3] {
            // The base in the window is the hardware's on sm_90, where tiles rely on its alignment.
            let smem_base = (!case.target.contains("90")).then_some(1024);
            let smem_shift = if case.target.contains("90") { 0 } else { smem_shift };
            all.push(Options { smem_base, smem_shift, ..Options::default() });
        }
        for options in all {
            let outcome = run(&case, &text, options);
            assert!(
                outcome.is_clean(),
                "{} {options:?}\n{}{:?}",
                case.case,
                shown(&outcome),
                outcome.mismatch
            );
        }
    }
}

#[test]
fn every_change_is_noticed() {
    let mut seen = 0;
    for (case, text) in cases() {
        for mutation in &case.mutations {
            assert_eq!(text.matches(&mutation.find).count(), 1, "{} {}", case.case, mutation.id);
            let changed = text.replacen(&mutation.find, &mutation.replace, 1);
            seen += 1;
            for options in Options::matrix() {
                let outcome = run(&case, &changed, options);
                let at = format!("{} {} {options:?}", case.case, mutation.id);
                if mutation.wrong_result {
                    assert!(
                        outcome.mismatch.is_some() || !outcome.diags.is_empty(),
                        "{at}: unnoticed"
                    );
                    continue;
                }
                let found =
                    outcome.diags.iter().any(|d| mutation.any_of.iter().any(|m| m == d.code));
                assert!(
                    found,
                    "{at}: expected one of {:?}, found\n{}",
                    mutation.any_of,
                    shown(&outcome)
                );
            }
        }
    }
    assert_eq!(seen, 51);
}

#[test]
fn counters_are_exact() {
    for (case, text) in cases() {
        for options in Options::matrix() {
            let counters = run(&case, &text, options).counters;
            for (name, value) in &case.counters {
                check(&case.case, name, value, &counters);
            }
        }
    }
}

fn check(case: &str, name: &str, value: &serde_json::Value, counters: &Counters) {
    if let Some(by_opcode) = value.as_object() {
        for (opcode, n) in by_opcode {
            let counts = counters.opcodes_from(opcode);
            let found = match name {
                "lane_instructions" => counts.lane_instructions,
                "warp_instructions" => counts.warp_instructions,
                _ => panic!("{case}: counter {name} is unknown"),
            };
            assert_eq!(Some(found), n.as_u64(), "{case}: {name} of {opcode}");
        }
        return;
    }
    let total = &counters.total;
    let found = match name {
        "global_load_bytes_useful" => total.global_load_bytes,
        "global_store_bytes_useful" => total.global_store_bytes,
        "global_sectors_load" => total.global_sectors_load,
        "global_sectors_store" => total.global_sectors_store,
        "mma_flops" => counters.opcodes_from("mma").tc_flops,
        "wgmma_flops" => counters.opcodes_from("wgmma").tc_flops,
        "ldmatrix_wavefronts" => counters.opcodes_from("ldmatrix").shared_wavefronts,
        "ldmatrix_wavefronts_ideal" => counters.opcodes_from("ldmatrix").shared_ideal,
        "tma_bytes" | "bulk_bytes" => counters.bulk_bytes,
        "notes" => return,
        _ => panic!("{case}: counter {name} is unknown"),
    };
    assert_eq!(Some(found), value.as_u64(), "{case}: {name}");
}

/// A float reduction whose order is open is listed even where exact inputs hide it.
#[test]
fn reductions_without_order_are_listed() {
    let (_, text) = cases().into_iter().find(|(case, _)| case.case == "c07_last_cta").unwrap();
    let module = Module::parse(&text, "c07").unwrap();
    let sites = module.order_dependent();
    assert!(
        sites.iter().any(|(line, opcode)| *line > 0
            && opcode.starts_with("red")
            && opcode.ends_with("f32"))
    );
    let (_, text) = cases().into_iter().find(|(case, _)| case.case == "c01_axpy").unwrap();
    assert!(Module::parse(&text, "c01").unwrap().order_dependent().is_empty());
}
