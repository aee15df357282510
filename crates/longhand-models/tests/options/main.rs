//! Options that no fixture varies, each against an identity or a plain computation.

#[path = "../common/mod.rs"]
mod common;
mod decoders;
mod defaults;
mod encoders;
mod published;
mod reformer;
mod wav2vec2;
mod xlnet;

use common::{Parameters, changed, copy, data, ids, near, noise, off, parameters, run};
use longhand_models::{Device, Inputs, Model, Outputs, Tensor};
use serde_json::json;
use std::path::Path;

fn given(name: &str) -> Inputs {
    Inputs::read(&data(name).join("input.safetensors")).unwrap()
}

fn fixture(name: &str) -> Outputs {
    run(&Model::open(&data(name)).unwrap(), &given(name))
}

fn with(
    name: &str,
    test: &str,
    options: serde_json::Value,
    change: impl FnOnce(&mut Parameters),
) -> Outputs {
    run(&changed(test, name, options, change).unwrap(), &given(name))
}

#[track_caller]
fn same(got: &Outputs, want: &Outputs, name: &str) {
    let (got, want) = (got.floats(name).unwrap(), want.floats(name).unwrap());
    assert_eq!(got.shape(), want.shape(), "{name}");
    near(got.data(), want.data(), name);
}

#[track_caller]
fn differ(got: &Outputs, want: &Outputs, name: &str) {
    let off = off(got.floats(name).unwrap().data(), want.floats(name).unwrap().data());
    assert!(off > 1e-4, "{name}: only {off:.1e} apart");
}

/// Parameters whose names begin with `from`, once more under `to`.
fn copied(weights: &mut Parameters, from: &str, to: &str) {
    let found: Vec<(String, Tensor)> = weights
        .iter()
        .filter_map(|(name, x)| Some((format!("{to}{}", name.strip_prefix(from)?), x.clone())))
        .collect();
    assert!(!found.is_empty(), "no {from}");
    weights.extend(found);
}

fn scaled(x: &Tensor, by: f32) -> Tensor {
    Tensor::new(x.shape(), x.data().iter().map(|x| by * x).collect())
}

/// `a b`, or `a bᵀ`.
fn product(a: &Tensor, b: &Tensor, transposed: bool) -> Tensor {
    let columns = if transposed { b.rows() } else { b.width() };
    let element = |i: usize, j: usize| {
        let b = |k: usize| if transposed { b.row(j)[k] } else { b.row(k)[j] };
        (0..a.width()).map(|k| f64::from(a.row(i)[k]) * f64::from(b(k))).sum::<f64>() as f32
    };
    let data = (0..a.rows()).flat_map(|i| (0..columns).map(move |j| (i, j)));
    Tensor::new(&[a.rows(), columns], data.map(|(i, j)| element(i, j)).collect())
}
