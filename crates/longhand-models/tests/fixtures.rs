//! Every model folder against what its reference implementation computed in f64.

#[path = "../../../tests/common/mock.rs"]
mod mock;

use longhand_models::{Device, Inputs, Model, Outputs, Tensor, Value, ops};
use safetensors::{Dtype, SafeTensors};
use std::path::{Path, PathBuf};

/// The largest error of outputs and losses that the guide to the fixtures allows in f32.
const TOLERANCE: f64 = 1e-5;

/// That of Reformer: a row that sees only itself has a score near −1e5, and few digits after it.
const REFORMER: f64 = 2e-5;

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

/// Rows that count: of hidden states and logits, those whose `attention_mask` is 1.
fn valid_rows(inputs: &Inputs, name: &str, rows: usize) -> Vec<bool> {
    let all = vec![true; rows];
    // Seq2seq decoders attend to nothing padded, and means of distillation run over all rows.
    if name.starts_with("decoder.") || name.contains("scores") {
        return all;
    }
    let prefix = name.split_once('.').map_or("", |(p, _)| p);
    for mask in ["attention_mask".to_owned(), format!("{prefix}.attention_mask")] {
        if let Ok(mask) = inputs.ints(&mask)
            && mask.data.len() == rows
        {
            return mask.data.iter().map(|&m| m == 1).collect();
        }
    }
    if let (Ok(lengths), Ok(ids)) = (inputs.ints("lengths"), inputs.ints("input_ids"))
        && ids.data.len() == rows
    {
        let width = ids.shape[1];
        return (0..rows).map(|i| ((i % width) as i32) < lengths.data[i / width]).collect();
    }
    all
}

fn numbers(view: &safetensors::tensor::TensorView<'_>) -> Vec<f64> {
    let data = view.data();
    match view.dtype() {
        Dtype::F64 => data.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
        Dtype::F32 => {
            data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b).into()).collect()
        }
        Dtype::I32 => {
            data.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b).into()).collect()
        }
        other => panic!("a result of type {other:?}"),
    }
}

/// Holds every expected tensor of the folder against the model's; returns how many there were.
fn agrees(name: &str, device: &Device, tolerance: f64) -> usize {
    let folder = data().join(name);
    let model = Model::open(&folder).unwrap();
    let inputs = Inputs::read(&folder.join("input.safetensors")).unwrap();
    let outputs: Outputs = model.forward(&inputs, device).unwrap();
    let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let mut compared = 0;
    let mut wrong = Vec::new();
    for (key, view) in expected.tensors() {
        let training =
            key == "loss_after_sgd" || key.starts_with("grad.") || key.starts_with("after.");
        if training || key.starts_with("meta.") {
            continue;
        }
        compared += 1;
        let want = numbers(&view);
        let (shape, got): (&[usize], Vec<f64>) = match outputs.values.get(&key) {
            Some(Value::Floats(x)) => (x.shape(), x.data().iter().map(|&x| x.into()).collect()),
            Some(Value::Ints(x)) => (&x.shape, x.data.iter().map(|&x| x.into()).collect()),
            None => {
                wrong.push(format!("{key}: absent"));
                continue;
            }
        };
        if shape != view.shape() {
            wrong.push(format!("{key}: shape {shape:?}, not {:?}", view.shape()));
            continue;
        }
        let rows: usize = shape.iter().take(2).product();
        let width = want.len() / rows.max(1);
        let valid = valid_rows(&inputs, &key, rows);
        let mut most: f64 = 1.0;
        let mut error: f64 = 0.0;
        for (i, (g, w)) in got.iter().zip(&want).enumerate() {
            if valid[i / width.max(1)] {
                most = most.max(w.abs());
                let off = (g - w).abs();
                error = if off.is_nan() { f64::INFINITY } else { error.max(off) };
            }
        }
        let exact = view.dtype() == Dtype::I32;
        if error / most > if exact { 0.0 } else { tolerance } {
            wrong.push(format!("{key}: off by {:.2e}", error / most));
        }
    }
    assert!(wrong.is_empty(), "{name}:\n  {}", wrong.join("\n  "));
    compared
}

/// The GPU of that name, or `None` (and loudly so) where there is none and none is required.
fn opened(name: &str) -> Option<Device> {
    match Device::named(name) {
        Ok(device) => Some(device),
        Err(why) => {
            let required = std::env::var("LONGHAND_REQUIRE").unwrap_or_default();
            assert!(!required.contains(name), "LONGHAND_REQUIRE={required}, but {why}");
            eprintln!("SKIPPED: {why}");
            None
        }
    }
}

/// A folder on a GPU, where `read_backs` tensors come back during the pass, none a hidden state.
fn agrees_on_gpu(name: &str, device: &Device, read_backs: usize) {
    let Device::Gpu(gpu) = device else { panic!("{device:?}") };
    let before = gpu.read_backs();
    agrees(name, device, TOLERANCE);
    assert_eq!(gpu.read_backs() - before, read_backs, "{name}: tensors that came back");
}

/// A test for each folder, with the number of results that it holds.
macro_rules! folders {
    ($($name:ident: $results:literal),* $(,)?) => {
        $(#[test]
        fn $name() {
            let name = stringify!($name);
            let tolerance = if name == "reformer" { REFORMER } else { TOLERANCE };
            assert_eq!(agrees(name, &Device::Cpu, tolerance), $results);
        })*
        const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

folders! {
    adapter_houlsby: 5,
    albert: 7,
    bart: 8,
    bert: 7,
    bert_tokens: 2,
    char_cnn: 3,
    distilbert: 10,
    distilbert_classes: 2,
    electra: 13,
    electra_classes: 2,
    elmo: 11,
    ernie: 6,
    fasttext: 5,
    finetune_full: 5,
    finetune_head: 5,
    glove: 4,
    gpt: 5,
    longformer: 5,
    mass: 8,
    megatron_bert: 6,
    megatron_gpt: 5,
    mobilebert: 6,
    mockingjay: 6,
    q8bert: 46,
    reformer: 11,
    roberta: 5,
    roberta_classes: 2,
    rule_audio_masking: 4,
    rule_bart_noising: 8,
    rule_ernie_masking: 2,
    rule_mass_masking: 5,
    rule_mlm_masking: 6,
    rule_sentence_pairs: 12,
    rule_structbert_words: 2,
    rule_t5_span_corruption: 5,
    rule_xlnet_permutation: 3,
    structbert: 8,
    t5: 10,
    tinybert: 18,
    transfo_xl: 24,
    turing_nlg: 6,
    unilm: 6,
    wav2vec2: 18,
    word2vec_cbow: 7,
    word2vec_skipgram: 8,
    xlnet: 21,
}

#[test]
fn every_folder_has_a_test() {
    let folders = std::fs::read_dir(data()).unwrap().map(|f| f.unwrap().file_name());
    let mut folders: Vec<String> = folders.map(|f| f.into_string().unwrap()).collect();
    folders.sort();
    assert_eq!(folders, NAMES);
}

#[test]
fn the_definition_agrees_too() {
    agrees("bert", &Device::Reference, TOLERANCE);
    agrees("gpt", &Device::Reference, TOLERANCE);
    agrees("xlnet", &Device::Reference, TOLERANCE);
    agrees("reformer", &Device::Reference, REFORMER);
    agrees("wav2vec2", &Device::Reference, TOLERANCE);
}

/// A member of each kind of attention and one of none, and how many tensors come back while it runs:
/// logits or vectors that a loss reads; Reformer's buckets; of wav2vec 2.0 which entries were chosen
/// and, for its losses, those, the contexts and the share of each entry.
const KINDS: &[(&str, usize)] = &[
    ("bert", 2),
    ("turing_nlg", 1),
    ("t5", 1),
    ("longformer", 1),
    ("transfo_xl", 3),
    ("xlnet", 2),
    ("reformer", 5),
    ("wav2vec2", 6),
    ("char_cnn", 1),
    ("q8bert", 3),
    ("elmo", 3),
];

#[test]
fn hidden_states_stay_on_webgpu() {
    let Some(device) = opened("webgpu") else { return };
    KINDS.iter().for_each(|&(name, read_backs)| agrees_on_gpu(name, &device, read_backs));
}

/// Where no loss reads more, which entries were chosen is all that comes back of wav2vec 2.0.
#[test]
fn entries_are_looked_up_on_webgpu() {
    let Some(device) = opened("webgpu") else { return };
    let Device::Gpu(gpu) = &device else { panic!("{device:?}") };
    let folder = data().join("wav2vec2");
    let sound = Inputs::read(&folder.join("input.safetensors")).unwrap();
    let sound = sound.floats("input_values").unwrap().clone();
    let inputs = Inputs::new().floats_of("input_values", sound);
    Model::open(&folder).unwrap().forward(&inputs, &device).unwrap();
    assert_eq!(gpu.read_backs(), 1);
}

/// What has no kernels yet comes back, is computed on the host and goes on.
#[test]
fn every_folder_agrees_on_webgpu() {
    let Some(device) = opened("webgpu") else { return };
    for name in NAMES {
        agrees(name, &device, TOLERANCE);
    }
}

#[test]
fn hidden_states_stay_on_cuda() {
    let mock = mock::install();
    let Some(device) = opened("cuda") else { return };
    KINDS.iter().for_each(|&(name, read_backs)| agrees_on_gpu(name, &device, read_backs));
    let report = mock.as_ref().map(mock::Mock::report).unwrap_or_default();
    assert!(!report.contains("error["), "{report}");
}

/// What no folder holds: halves, numbers beyond the most and those that are none, a range of 0.
#[test]
fn rounding_is_the_same_on_every_device() {
    let mock = mock::install();
    for device in [Some(Device::Cpu), opened("webgpu"), opened("cuda")].into_iter().flatten() {
        let on = |shape: &[usize], data: &[f32]| Tensor::new(shape, data.to_vec()).on(&device);
        let holds = |x: Tensor, want: &[f32]| {
            let same = |(g, w): (&f32, &f32)| g == w || g.is_nan() && w.is_nan();
            let all = x.data().len() == want.len() && x.data().iter().zip(want).all(same);
            assert!(all, "{device:?}: {:?}, not {want:?}", x.data());
        };
        let x = on(&[2, 4], &[0.25, 0.75, -1.25, 100.0, -100.0, f32::NAN, 0.0, -0.26]);
        let half = ops::unit(&on(&[1], &[63.5]), 127.0);
        let rounded = ops::round(&x, &half, 127.0);
        let nan = f32::NAN;
        holds(rounded.clone(), &[0.0, 2.0, -2.0, 127.0, -127.0, nan, 0.0, -1.0]);
        holds(ops::in_units(rounded, &half), &[0.0, 1.0, -1.0, 63.5, -63.5, nan, 0.0, -0.5]);
        holds(ops::clamp(x, 0.5), &[0.25, 0.5, -0.5, 0.5, -0.5, nan, 0.0, -0.26]);
        holds(ops::unit(&on(&[1], &[0.0]), 127.0), &[1.0]);
        let places = ops::argmax_rows(&on(&[2, 3], &[-2.0, -1.0, -1.0, 5.0, 4.0, 3.0]));
        let table = on(&[2, 2], &[1.0, 2.0, 3.0, 4.0]);
        holds(ops::gather_at(&table, &places), &[3.0, 4.0, 1.0, 2.0]);
        holds(ops::argmax_rows(&on(&[1, 70], &[1.0; 70])), &[0.0]);
        let none = -f32::INFINITY;
        holds(ops::argmax_rows(&on(&[2, 2], &[none, none, nan, nan])), &[0.0, 0.0]);
        holds(ops::largest(&on(&[3, 2], &[-0.5, 2.0, -3.0, 1.0, 0.0, 2.5])), &[3.0]);
    }
    let report = mock.as_ref().map(mock::Mock::report).unwrap_or_default();
    assert!(!report.contains("error["), "{report}");
}
