//! Fixtures with something changed.
#![allow(dead_code)]

use longhand_models::{Device, Inputs, Model, Outputs, Result, Tensor};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub(crate) fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// A folder of its own with a copy of a fixture's config and weights.
pub(crate) fn copy(test: &str, name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    std::fs::create_dir_all(&folder).unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(data(name).join(file), folder.join(file)).unwrap();
    }
    folder
}

fn edit_config(folder: &Path, edit: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) {
    let path = folder.join("config.json");
    let mut config = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    edit(&mut config);
    std::fs::write(&path, serde_json::to_string(&config).unwrap()).unwrap();
}

/// Puts options in the place of others, or beside them.
pub(crate) fn set_options(folder: &Path, options: serde_json::Value) {
    edit_config(folder, |config| config.extend(options.as_object().unwrap().clone()));
}

/// Leaves an option out.
pub(crate) fn unset_option(folder: &Path, key: &str) {
    edit_config(folder, |config| assert!(config.remove(key).is_some(), "no {key}"));
}

/// A fixture with other options.
pub(crate) fn model(test: &str, name: &str, options: serde_json::Value) -> Model {
    let folder = copy(test, name);
    set_options(&folder, options);
    Model::open(&folder).unwrap()
}

/// A fixture's parameters.
pub(crate) type Parameters = BTreeMap<String, Tensor>;

/// The parameters of a folder, all f32.
pub(crate) fn parameters(folder: &Path) -> Parameters {
    let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let read = |(name, view): (String, TensorView<'_>)| {
        let floats = view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
        (name, Tensor::new(view.shape(), floats.collect()))
    };
    tensors.tensors().into_iter().map(read).collect()
}

/// Writes other parameters into a folder.
pub(crate) fn write_parameters(folder: &Path, parameters: &Parameters) {
    let bytes: BTreeMap<&String, Vec<u8>> = parameters
        .iter()
        .map(|(name, x)| (name, x.data().iter().flat_map(|x| x.to_le_bytes()).collect()))
        .collect();
    let views = parameters.iter().map(|(name, x)| {
        (name, TensorView::new(Dtype::F32, x.shape().to_vec(), &bytes[name]).unwrap())
    });
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
}

/// A fixture with other options and parameters.
pub(crate) fn changed(
    test: &str,
    name: &str,
    options: serde_json::Value,
    change: impl FnOnce(&mut Parameters),
) -> Result<Model> {
    let folder = copy(test, name);
    set_options(&folder, options);
    let mut weights = parameters(&folder);
    change(&mut weights);
    write_parameters(&folder, &weights);
    Model::open(&folder)
}

pub(crate) fn run(model: &Model, inputs: &Inputs) -> Outputs {
    model.forward(inputs, &Device::Cpu).unwrap()
}

/// Numbers without a pattern, from −1 to 1.
pub(crate) fn noise(seed: usize, shape: &[usize]) -> Tensor {
    let numbers = (0..shape.iter().product()).map(|n: usize| {
        let x = ((n + 1) as f64 * 12.9898 + seed as f64 * 78.233).sin() * 43_758.547;
        (2.0 * (x - x.floor()) - 1.0) as f32
    });
    Tensor::new(shape, numbers.collect())
}

/// The norm of a row, eps 1e-12.
pub(crate) fn layer_norm(row: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f64> {
    let n = row.len() as f64;
    let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let variance = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
    let normed = row.iter().map(|&x| (f64::from(x) - mean) / (variance + 1e-12).sqrt());
    let scaled = normed.zip(weight).zip(bias);
    scaled.map(|((x, &w), &b)| x * f64::from(w) + f64::from(b)).collect()
}

/// Ids below `end` without a pattern.
pub(crate) fn ids(seed: usize, count: usize, end: usize) -> Vec<i32> {
    let unit = |x: &f32| (f64::from(*x) + 1.0) / 2.0;
    noise(seed, &[count]).data().iter().map(|x| (unit(x) * end as f64) as i32).collect()
}

/// The largest difference.
pub(crate) fn off(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len(), "numbers to compare");
    got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0.0, f32::max)
}

#[track_caller]
pub(crate) fn near(got: &[f32], want: &[f32], what: &str) {
    let off = off(got, want);
    assert!(off < 2e-5, "{what}: off by {off:.2e}");
}

/// The error of `result`, which must have all of `words` and be one line.
#[track_caller]
pub(crate) fn fails<T>(result: Result<T>, words: &[&str]) {
    let error = result.err().expect("an error").to_string();
    for word in words {
        assert!(error.contains(word), "{error:?} does not say {word:?}");
    }
    assert!(!error.contains('\n'), "{error:?} is more than a line");
}
