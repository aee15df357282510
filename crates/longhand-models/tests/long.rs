//! Long inputs, end to end, at a length that a test can afford; `examples/long_input.rs` takes more.

#[path = "common/stretched.rs"]
mod stretched;

use longhand_models::{Device, Inputs, Model, Tensor};
use std::path::Path;

fn states(model: &Model, ids: &[i32], device: &Device) -> Tensor {
    let inputs = Inputs::new().ints_of("input_ids", &[1, ids.len()], ids.to_vec());
    model.encode(&inputs, device).unwrap()
}

/// A token reaches as far as the windows of two layers, whatever the length.
#[test]
fn longformer_sees_its_windows_and_no_farther() {
    const LENGTH: usize = 2048;
    // Windows of 32 and 16: 16 + 8 on each side.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("longformer");
    let model = Model::open(&stretched::longformer(folder, LENGTH, [32, 16])).unwrap();
    let mut ids: Vec<i32> = (0..LENGTH as i32).map(|i| 3 + i * 7 % 100).collect();
    let before = states(&model, &ids, &Device::Cpu);
    let at = LENGTH / 2;
    ids[at] += 1;
    let after = states(&model, &ids, &Device::Cpu);
    let changed = |i: usize| before.row(i) != after.row(i);
    let reach: Vec<usize> = (0..LENGTH).filter(|&i| changed(i)).collect();
    assert_eq!((reach.first(), reach.last()), (Some(&(at - 24)), Some(&(at + 24))));
}

/// Where two buckets are nearly alike, a rounding may decide, and then a chunk of rows differs.
#[test]
fn reformer_agrees_with_the_definition() {
    const LENGTH: usize = 1024;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("reformer");
    let model = Model::open(&stretched::reformer(folder, LENGTH)).unwrap();
    let ids: Vec<i32> = (0..LENGTH as i32).map(|i| 3 + i * i % 101).collect();
    let [got, want] = [Device::Cpu, Device::Reference].map(|device| states(&model, &ids, &device));
    let far = |i: &usize| got.row(*i).iter().zip(want.row(*i)).any(|(g, w)| (g - w).abs() > 2e-5);
    let far = (0..LENGTH).filter(far).count();
    assert!(far <= LENGTH / 8, "{far} rows differ");
}
