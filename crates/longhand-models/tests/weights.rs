//! Weights as files hold them: other types than f32, and what is heard while they are read.

mod common;

use common::{copy, data, parameters};
use half::{bf16, f16};
use longhand_models::{Device, Inputs, Model, Outputs, Tensor, Value};
use safetensors::{Dtype, tensor::TensorView};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// BERT's folder with every parameter as `bytes` makes it, of type `dtype`.
fn stored_as(name: &str, dtype: Dtype, bytes: impl Fn(f32) -> Vec<u8>) -> PathBuf {
    let folder = copy(name, "bert");
    let stored: Vec<(String, Vec<usize>, Vec<u8>)> = parameters(&folder)
        .into_iter()
        .map(|(name, x)| {
            let data = x.data().iter().flat_map(|&x| bytes(x)).collect();
            (name, x.shape().to_vec(), data)
        })
        .collect();
    let views = stored.iter().map(|(name, shape, data)| {
        (&name[..], TensorView::new(dtype, shape.clone(), data).unwrap())
    });
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
    folder
}

fn forward(folder: &Path) -> Outputs {
    let inputs = Inputs::read(&data("bert").join("input.safetensors")).unwrap();
    Model::open(folder).unwrap().forward(&inputs, &Device::Cpu).unwrap()
}

/// The largest difference of any result; 0 is the same bits.
fn difference(a: &Outputs, b: &Outputs) -> f32 {
    let mut most: f32 = 0.0;
    for (name, value) in &a.values {
        let Value::Floats(x) = value else { panic!("{name} holds integers") };
        let y = b.floats(name).unwrap();
        x.data().iter().zip(y.data()).for_each(|(x, y)| most = most.max((x - y).abs()));
    }
    most
}

#[test]
fn narrow_types_are_read_as_the_numbers_they_hold() {
    let exact = forward(&data("bert"));
    let wide = |x: f32| x.to_le_bytes().to_vec();
    for (name, dtype, narrow, rounded, far) in [
        (
            "f16",
            Dtype::F16,
            (|x| f16::from_f32(x).to_le_bytes().to_vec()) as fn(f32) -> Vec<u8>,
            (|x| f16::from_f32(x).to_f32()) as fn(f32) -> f32,
            0.02,
        ),
        (
            "bf16",
            Dtype::BF16,
            |x| bf16::from_f32(x).to_le_bytes().to_vec(),
            |x| bf16::from_f32(x).to_f32(),
            0.2,
        ),
        ("f64", Dtype::F64, |x| f64::from(x).to_le_bytes().to_vec(), |x| x, 0.0),
    ] {
        let narrow = forward(&stored_as(name, dtype, narrow));
        let rounded =
            forward(&stored_as(&format!("{name}_rounded"), Dtype::F32, |x| wide(rounded(x))));
        assert_eq!(difference(&narrow, &rounded), 0.0, "{name}");
        let off = difference(&narrow, &exact);
        assert!(off <= far && (off > 0.0) == (far > 0.0), "{name}: off by {off}");
    }
    let ids = stored_as("ids", Dtype::I32, wide);
    let error = Model::open(&ids).err().expect("an error").to_string();
    assert!(error.contains("I32"), "{error}");
}

#[test]
fn every_byte_of_the_weights_is_heard_of_once() {
    // The second reads one table for all its clusters of words.
    for name in ["bert", "transfo_xl"] {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let ears = heard.clone();
        let each = move |done, all| ears.lock().unwrap().push((done, all));
        Model::open_with(&data(name), Box::new(each)).unwrap();
        let heard = heard.lock().unwrap();
        let of_one = |x: &Tensor| 4 * x.data().len() as u64;
        let all: u64 = parameters(&data(name)).values().map(of_one).sum();
        assert!(heard.windows(2).all(|w| w[0].0 <= w[1].0));
        assert_eq!(heard.last(), Some(&(all, all)), "{name}");
    }
}
