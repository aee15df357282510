//! What is not a model, or not an input of one, gets one clear error.

mod common;

use common::{copy, data, fails};
use longhand_models::{Config, Device, Inputs, Model};
use std::path::Path;

fn edit_config(folder: &Path, from: &str, to: &str) {
    let path = folder.join("config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "the config has no {from}");
    std::fs::write(&path, text.replace(from, to)).unwrap();
}

fn bert() -> (Model, Inputs) {
    let folder = data("bert");
    let inputs = Inputs::read(&folder.join("input.safetensors")).unwrap();
    (Model::open(&folder).unwrap(), inputs)
}

#[test]
fn a_wrong_folder() {
    fails(Model::open(Path::new("/nowhere/at/all")), &["/nowhere/at/all", "not a folder"]);
    fails(Model::open(&data("")), &["config.json"]);
    let folder = copy("no_weights", "bert");
    std::fs::remove_file(folder.join("model.safetensors")).unwrap();
    fails(Model::open(&folder), &["model.safetensors", "model.safetensors.index.json"]);
}

#[test]
fn a_damaged_file() {
    let folder = copy("damaged", "bert");
    let weights = std::fs::read(folder.join("model.safetensors")).unwrap();
    for end in [0, 5, 8, 100, weights.len() - 1] {
        std::fs::write(folder.join("model.safetensors"), &weights[..end]).unwrap();
        fails(Model::open(&folder), &["model.safetensors", "not a safetensors file"]);
    }
    std::fs::write(folder.join("config.json"), "[1, 2").unwrap();
    fails(Model::open(&folder), &["config.json"]);
    fails(Inputs::read(&folder.join("config.json")), &["config.json", "not a safetensors file"]);
    fails(Inputs::read(&folder), &["not a regular file"]);
}

#[test]
fn an_unknown_model() {
    let folder = copy("unknown", "bert");
    edit_config(&folder, "\"model_type\": \"bert\"", "\"model_type\": \"burt\"");
    fails(Model::open(&folder), &["model_type", "\"burt\"", "roberta"]);
}

#[test]
fn options_that_are_not_supported() {
    for (i, (from, to, words)) in [
        ("\"absolute\"", "\"relative_key\"", &["position_embedding_type", "relative_key"][..]),
        ("\"is_decoder\": false", "\"is_decoder\": true", &["is_decoder", "true"]),
        ("\"hidden_act\": \"gelu\"", "\"hidden_act\": \"mish\"", &["hidden_act = \"mish\""]),
        ("\"use_cache\"", "\"use_rotary\"", &["use_rotary", "no such option"]),
        ("\"num_attention_heads\": 4", "\"num_attention_heads\": 5", &["hidden_size", "multiple"]),
        ("\"num_attention_heads\": 4", "\"num_attention_heads\": 0", &["num_attention_heads"]),
        ("\"num_attention_heads\": 4", "\"num_attention_heads\": \"4\"", &["num_attention_heads"]),
        ("\"hidden_size\": 32", "\"hidden_size\": -32", &["hidden_size", "-32"]),
        ("\"hidden_size\": 32", "\"hidden_size\": null", &["hidden_size", "absent"]),
        ("\"layer_norm_eps\": 1e-12", "\"layer_norm_eps\": \"small\"", &["layer_norm_eps"]),
    ]
    .into_iter()
    .enumerate()
    {
        let folder = copy(&format!("option_{i}"), "bert");
        edit_config(&folder, from, to);
        fails(Model::open(&folder), words);
    }
}

#[test]
fn options_of_other_members_that_are_not_supported() {
    for (i, (name, from, to, words)) in [
        ("q8bert", "\"weight_bits\": 8", "\"weight_bits\": 4", &["weight_bits", "4"][..]),
        ("mobilebert", "\"no_norm\"", "\"batch_norm\"", &["normalization_type", "batch_norm"]),
        ("electra", "\"share_embeddings\": true", "\"share_embeddings\": false", &["share_emb"]),
        ("tinybert", "\"temperature\": 1.0", "\"temperature\": 0", &["temperature"]),
        ("tinybert", "\"num_hidden_layers\": 4", "\"num_hidden_layers\": 0", &["multiple"]),
        (
            "adapter_houlsby",
            "\"adapter_reduction_factor\": 4",
            "\"adapter_reduction_factor\": 64",
            &["factor"],
        ),
        ("gpt", "\"is_decoder\"", "\"alibi\": true, \"is_decoder\"", &["alibi"]),
    ]
    .into_iter()
    .enumerate()
    {
        let folder = copy(&format!("member_option_{i}"), name);
        edit_config(&folder, from, to);
        fails(Model::open(&folder), words);
    }
}

#[test]
fn a_tensor_that_is_absent_misshapen_or_too_many() {
    let folder = copy("more_layers", "bert");
    edit_config(&folder, "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3");
    fails(Model::open(&folder), &["bert.encoder.layer.2.attention.self.query.weight", "absent"]);
    let folder = copy("fewer_layers", "bert");
    edit_config(&folder, "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1");
    fails(Model::open(&folder), &["bert.encoder.layer.1.", "not one of this model's"]);
    let folder = copy("misshapen", "bert");
    edit_config(&folder, "\"intermediate_size\": 64", "\"intermediate_size\": 48");
    fails(Model::open(&folder), &["intermediate.dense.weight", "[64, 32]", "[48, 32]"]);
    let folder = copy("another_model", "gpt");
    std::fs::copy(data("bert").join("config.json"), folder.join("config.json")).unwrap();
    fails(Model::open(&folder), &["bert.embeddings.", "absent"]);
}

#[test]
fn a_sharded_folder() {
    let folder = copy("sharded", "bert");
    let index = folder.join("model.safetensors.index.json");
    std::fs::rename(folder.join("model.safetensors"), folder.join("part.safetensors")).unwrap();
    std::fs::write(&index, r#"{"weight_map": {"x": "part.safetensors", "y": "part.safetensors"}}"#)
        .unwrap();
    Model::open(&folder).unwrap();
    std::fs::write(&index, r#"{"weight_map": {"x": "../part.safetensors"}}"#).unwrap();
    fails(Model::open(&folder), &["index.json", "names no file beside it"]);
    std::fs::write(&index, r#"{"weight_map": {"x": "other.safetensors"}}"#).unwrap();
    fails(Model::open(&folder), &["other.safetensors"]);
    std::fs::write(&index, r#"{"weights": 1}"#).unwrap();
    fails(Model::open(&folder), &["weight_map"]);
}

#[test]
fn inputs_that_do_not_fit() {
    let (model, good) = bert();
    let shape = good.ints("input_ids").unwrap().shape.clone();
    let ids = good.ints("input_ids").unwrap().data.clone();
    let run = |inputs: &Inputs| model.forward(inputs, &Device::Cpu);
    run(&good).unwrap();
    let with =
        |name: &str, shape: &[usize], data: Vec<i32>| good.clone().ints_of(name, shape, data);

    fails(run(&Inputs::new()), &["input_ids", "absent"]);
    let mut large = ids.clone();
    large[7] = 120;
    fails(run(&with("input_ids", &shape, large)), &["input_ids[7]", "120"]);
    let mut negative = ids.clone();
    negative[0] = -1;
    fails(run(&with("input_ids", &shape, negative)), &["input_ids[0]", "-1"]);
    fails(run(&Inputs::new().ints_of("input_ids", &[1, 41], vec![5; 41])), &["41", "40 rows"]);
    fails(run(&with("attention_mask", &[3, 12], vec![1; 36])), &["attention_mask", "[3, 13]"]);
    fails(run(&with("attention_mask", &shape, vec![2; 39])), &["attention_mask", "0 or 1"]);
    fails(run(&with("token_type_ids", &shape, vec![2; 39])), &["token_type_ids[0]", "below 2"]);
    fails(run(&with("labels", &[13, 3], vec![1; 39])), &["labels", "[3, 13]"]);
    fails(run(&with("labels", &shape, vec![120; 39])), &["labels[0]", "120"]);
    fails(run(&with("next_sentence_label", &[3], vec![7; 3])), &["next_sentence_label[0]", "7"]);
    fails(run(&Inputs::new().ints_of("input_ids", &[39], vec![1; 39])), &["2 dimensions"]);
}

#[test]
fn an_empty_batch_and_an_empty_sequence() {
    let (model, _) = bert();
    for shape in [[0, 4], [2, 0]] {
        let inputs = Inputs::new().ints_of("input_ids", &shape, Vec::new());
        fails(model.forward(&inputs, &Device::Cpu), &["input_ids", "empty"]);
    }
}

#[test]
fn a_config_that_is_no_object() {
    for text in ["", "3", "[]", "{\"a\": }", "nul"] {
        assert!(Config::parse(text).is_err(), "{text:?}");
    }
}
