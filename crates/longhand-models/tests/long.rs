//! Long inputs, end to end, at a length that a test can afford; `examples/long_input.rs` takes more.

#[path = "common/stretched.rs"]
mod stretched;

use longhand_models::{Device, Inputs, Model, Tensor};
use std::path::Path;

fn states(model: &Model, ids: &[i32]) -> Tensor {
    let inputs = Inputs::new().ints_of("input_ids", &[1, ids.len()], ids.to_vec());
    model.encode(&inputs, &Device::Cpu).unwrap()
}

/// A token reaches as far as the windows of two layers, whatever the length.
#[test]
fn longformer_sees_its_windows_and_no_farther() {
    const LENGTH: usize = 2048;
    // Windows of 32 and 16: 16 + 8 on each side.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("longformer");
    let model = Model::open(&stretched::longformer(folder, LENGTH, [32, 16])).unwrap();
    let mut ids: Vec<i32> = (0..LENGTH as i32).map(|i| 3 + i * 7 % 100).collect();
    let before = states(&model, &ids);
    let at = LENGTH / 2;
    ids[at] += 1;
    let after = states(&model, &ids);
    let changed = |i: usize| before.row(i) != after.row(i);
    let reach: Vec<usize> = (0..LENGTH).filter(|&i| changed(i)).collect();
    assert_eq!((reach.first(), reach.last()), (Some(&(at - 24)), Some(&(at + 24))));
}
