//! Long inputs, end to end, at a length that a test can afford; `examples/long_input.rs` takes more.

mod common;
#[path = "common/stretched.rs"]
mod stretched;

use longhand_models::{Device, Inputs, Model, Outputs, Tensor, Value};
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

/// The rows that a hash puts into a bucket by less than a hundred thousandth of the projection: there
/// a rounding decides, and then whole chunks differ. `states` are the layer's input.
fn near_tied(folder: &Path, layer: usize, states: &Tensor, rotations: &Tensor) -> Vec<usize> {
    let weights = common::parameters(folder);
    let of = |name: &str| &weights[&format!("reformer.encoder.layers.{layer}.attention.{name}")];
    let (weight, bias) = (of("layer_norm.weight").data(), of("layer_norm.bias").data());
    let map = of("self_attention.query_key.weight");
    let &[heads, dim, rounds, columns] = rotations.shape() else { panic!("rotations") };
    let is_tied = |&row: &usize| {
        let x = common::layer_norm(states.row(row), weight, bias);
        let dot = |w: &[f32]| w.iter().zip(&x).map(|(&w, x)| f64::from(w) * x).sum::<f64>();
        let qk: Vec<f64> = (0..heads * dim).map(|e| dot(map.row(e))).collect();
        (0..heads * rounds).any(|n| {
            let (head, round) = (n / rounds, n % rounds);
            let at = |e: usize, c: usize| {
                rotations.data()[((head * dim + e) * rounds + round) * columns + c]
            };
            let project =
                |c: usize| (0..dim).map(|e| qk[head * dim + e] * f64::from(at(e, c))).sum::<f64>();
            let mut sizes: Vec<f64> =
                (0..columns).flat_map(|c| [project(c), -project(c)]).collect();
            sizes.sort_by(f64::total_cmp);
            let [.., second, most] = sizes[..] else { panic!("two buckets") };
            most - second < 1e-5 * most
        })
    };
    (0..states.rows()).filter(is_tied).collect()
}

/// With rotations that leave no bucket to a rounding, every row agrees.
#[test]
fn reformer_agrees_with_the_definition() {
    const LENGTH: usize = 1024;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("reformer");
    let model = Model::open(&stretched::reformer(folder.clone(), LENGTH)).unwrap();
    let ids: Vec<i32> = (0..LENGTH as i32).map(|i| 3 + i * i % 101).collect();
    // Two heads of 12, two rounds, 32 buckets for 16 chunks.
    let rotations = [1, 2].map(|layer| common::noise(layer, &[2, 12, 2, 16]));
    let inputs = Inputs::new()
        .ints_of("input_ids", &[1, LENGTH], ids)
        .floats_of("rotations.1", rotations[0].clone())
        .floats_of("rotations.2", rotations[1].clone());
    let [got, want] =
        [Device::Cpu, Device::Reference].map(|device| model.forward(&inputs, &device).unwrap());
    for (layer, rotations) in [1, 2].into_iter().zip(&rotations) {
        let states = want.floats(&format!("hidden_states.{layer}")).unwrap();
        assert_eq!(near_tied(&folder, layer, states, rotations), [0; 0], "layer {layer}");
        let of = |out: &Outputs| match out.values.get(&format!("buckets.{layer}")) {
            Some(Value::Ints(buckets)) => buckets.clone(),
            _ => panic!("layer {layer} does not hash"),
        };
        assert_eq!(of(&got), of(&want), "layer {layer}");
    }
    let states = |out: &Outputs| out.floats("hidden_states.3").unwrap().data().to_vec();
    common::near(&states(&got), &states(&want), "states");
}
