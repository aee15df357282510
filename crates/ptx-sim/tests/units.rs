//! Arithmetic, instruction by instruction, against vectors and formulas that share no code with it.

#[path = "units/exact.rs"]
mod exact;
#[path = "units/exhaustive.rs"]
mod exhaustive;
#[path = "units/floats.rs"]
mod floats;
#[path = "units/lanes.rs"]
mod lanes;
#[path = "units/matrix.rs"]
mod matrix;

use std::collections::BTreeMap;

/// Ops of the vectors that are not arithmetic.
const NOT_ARITHMETIC: [&str; 4] = ["shfl.bfly", "shfl.down", "shfl.idx", "shfl.up"];

#[test]
fn vectors() {
    let all: BTreeMap<String, Vec<serde_json::Value>> =
        serde_json::from_str(include_str!("data/units.json")).unwrap();
    let hex = |v: &serde_json::Value| u64::from_str_radix(v.as_str().unwrap(), 16).unwrap();
    let mut done = 0;
    let mut wrong = Vec::new();
    for (op, vectors) in &all {
        if NOT_ARITHMETIC.contains(&op.as_str()) {
            continue;
        }
        let rows: Vec<Vec<u64>> =
            vectors.iter().map(|v| v[0].as_array().unwrap().iter().map(hex).collect()).collect();
        for (row, (got, v)) in rows.iter().zip(lanes::rows(op, &rows).iter().zip(vectors)) {
            done += 1;
            if *got != hex(&v[1]) {
                wrong.push(format!("{op} {row:x?}: {got:x}, expected {}", v[1]));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(20)].join("\n")
    );
    assert_eq!(done, 5998 - 4 * 28);
}
