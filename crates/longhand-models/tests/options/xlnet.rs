//! XLNet's options, each against an identity, and its invalid inputs.

use crate::common::{
    copy, data, fails, ids, model, near, noise, off, parameters, run, write_parameters,
};
use longhand_models::{Device, Inputs, Model, Outputs, Tensor};
use serde_json::json;

fn states<'a>(out: &'a Outputs, name: &str) -> &'a Tensor {
    out.floats(name).unwrap()
}

/// Rows `from..to` of each sequence.
fn rows(x: &Tensor, from: usize, to: usize) -> Vec<f32> {
    let (batch, length, width) = (x.shape()[0], x.shape()[1], x.width());
    let of = |b: usize| &x.data()[(b * length + from) * width..(b * length + to) * width];
    (0..batch).flat_map(of).copied().collect()
}

/// Segments of one sequence of ids, cut at `ends`.
fn segments(all: &[i32], ends: &[usize]) -> Inputs {
    let mut inputs = Inputs::new();
    let mut from = 0;
    for (s, &end) in ends.iter().enumerate() {
        inputs = inputs.ints_of(&format!("input_ids.{s}"), &[1, end - from], all[from..end].into());
        from = end;
    }
    inputs
}

#[test]
fn one_sided_segments_with_a_memory_of_all_are_one_long_segment() {
    let options = json!({"attn_type": "uni", "mem_len": null, "reuse_len": null});
    let model = model("xlnet_uni", "xlnet", options);
    let all = ids(1, 17, 120);
    let targets = |inputs: Inputs, s: usize, at: &[i32]| {
        inputs.ints_of(&format!("target_positions.{s}"), &[1, at.len()], at.into())
    };
    // The memory is of the first part; another part in the last segment.
    let parts = |inputs: Inputs, s: usize, of: Vec<i32>| {
        inputs.ints_of(&format!("token_type_ids.{s}"), &[1, of.len()], of)
    };
    let long = segments(&all, &[17]);
    let long = parts(long, 0, [vec![0; 12], vec![1; 5]].concat());
    let cut = parts(segments(&all, &[6, 11, 17]), 2, vec![0, 1, 1, 1, 1, 1]);
    let cut = parts(parts(cut, 0, vec![0; 6]), 1, vec![0; 5]);
    let long = run(&model, &targets(long, 0, &[13, 16, 11]));
    let cut = run(&model, &targets(cut, 2, &[2, 5, 0]));
    for layer in 0..=2 {
        let whole = states(&long, &format!("segment.0.hidden_states_h.{layer}"));
        for (s, from, to) in [(0, 0, 6), (1, 6, 11), (2, 11, 17)] {
            let part = states(&cut, &format!("segment.{s}.hidden_states_h.{layer}"));
            near(part.data(), &rows(whole, from, to), "contents");
        }
        let name = format!("hidden_states_g.{layer}");
        let query = states(&cut, &format!("segment.2.{name}"));
        near(query.data(), states(&long, &format!("segment.0.{name}")).data(), "queries");
    }
    assert_eq!(states(&cut, "segment.2.mems.1").shape(), [1, 17, 32]);
}

#[test]
fn the_second_half_of_a_batch_of_both_directions_is_read_backwards() {
    let model = model("xlnet_bi_data", "xlnet", json!({"bi_data": true}));
    let forwards = ids(2, 9, 120);
    let backwards: Vec<i32> = forwards.iter().rev().copied().collect();
    let both = Inputs::new()
        .ints_of("input_ids.0", &[2, 9], [&forwards[..], &backwards].concat())
        .ints_of("target_positions.0", &[2, 2], vec![1, 5, 7, 3]);
    let out = run(&model, &both);
    let h = states(&out, "segment.0.hidden_states_h.2");
    for i in 0..9 {
        near(h.row(9 + 8 - i), h.row(i), "contents");
    }
    let g = states(&out, "segment.0.hidden_states_g.2");
    near(g.row(2), g.row(0), "queries");
    near(g.row(3), g.row(1), "queries");
    let plain = run(&Model::open(&data("xlnet")).unwrap(), &both);
    assert!(off(states(&plain, "segment.0.hidden_states_h.2").row(17), h.row(0)) > 1e-3);
    let odd = Inputs::new().ints_of("input_ids.0", &[1, 9], forwards);
    fails(model.forward(&odd, &Device::Cpu), &["batch", "1", "even", "bi_data"]);
}

#[test]
fn beyond_clamp_len_distances_are_alike() {
    let plain = Model::open(&data("xlnet")).unwrap();
    let clamped = |n: i32| model(&format!("xlnet_clamp_{n}"), "xlnet", json!({"clamp_len": n}));
    let all = ids(3, 8, 120);
    let mut swapped = all.clone();
    swapped.swap(4, 6);
    let first = |model: &Model, ids: &[i32]| {
        let out = run(model, &segments(ids, &[8]));
        states(&out, "segment.0.hidden_states_h.1").row(1).to_vec()
    };
    let want = first(&plain, &all);
    for far in [0, 7, 100] {
        near(&first(&clamped(far), &all), &want, "a clamp that clamps nothing");
    }
    // Both at distances of 3 and more from position 1.
    near(&first(&clamped(3), &swapped), &first(&clamped(3), &all), "positions 4 and 6 exchanged");
    assert!(off(&first(&plain, &swapped), &want) > 1e-4);
    assert!(off(&first(&clamped(4), &swapped), &first(&clamped(4), &all)) > 1e-5);
}

#[test]
fn same_length_sees_as_far_back_as_the_memory_is_long() {
    let options = json!({"attn_type": "uni", "same_length": true, "mem_len": 3, "reuse_len": null});
    let model = model("xlnet_same_length", "xlnet", options);
    let all = ids(4, 14, 120);
    let h = |ids: &[i32], s: usize| {
        let out = run(&model, &segments(ids, &[7, 14]));
        states(&out, &format!("segment.{s}.hidden_states_h.1")).clone()
    };
    // Without a memory a position sees itself alone, and equal tokens are equal.
    let mut twice = all.clone();
    twice[5] = twice[2];
    let states = h(&twice, 0);
    near(states.row(5), states.row(2), "equal tokens");
    // After a memory of three: positions up to three back.
    let mut other = all.clone();
    other[8] = (other[8] + 1) % 120;
    let (before, after) = (h(&all, 1), h(&other, 1));
    for i in 0..7 {
        let seen = (1..=4).contains(&i);
        assert_eq!(off(before.row(i), after.row(i)) > 1e-6, seen, "position {i}");
    }
}

#[test]
fn memories_are_as_long_as_the_options_say() {
    let all = ids(5, 20, 120);
    let inputs = segments(&all, &[8, 13, 20]);
    for (i, (memory, reused, lengths)) in [
        (json!(null), json!(null), [8, 13, 20]),
        (json!(0), json!(4), [4, 8, 12]),
        (json!(9), json!(null), [8, 9, 9]),
        (json!(10), json!(6), [6, 10, 10]),
    ]
    .into_iter()
    .enumerate()
    {
        let options = json!({"mem_len": memory, "reuse_len": reused});
        let out = run(&model(&format!("xlnet_memory_{i}"), "xlnet", options), &inputs);
        for (s, length) in lengths.into_iter().enumerate() {
            let kept = states(&out, &format!("segment.{s}.mems.0"));
            assert_eq!(kept.shape(), [1, length, 32], "memory {memory}, reused {reused}");
        }
    }
    let none = run(&model("xlnet_none", "xlnet", json!({"use_mems_eval": false})), &inputs);
    assert!(none.floats("segment.1.mems.0").is_err());
    let alone = Inputs::new().ints_of("input_ids.0", &[1, 5], all[8..13].into());
    let alone = run(&Model::open(&data("xlnet")).unwrap(), &alone);
    let name = "hidden_states_h.2";
    let (got, want) = (format!("segment.1.{name}"), format!("segment.0.{name}"));
    assert_eq!(states(&none, &got).data(), states(&alone, &want).data());
}

#[test]
fn an_untied_head_and_states_for_embedding() {
    let folder = copy("xlnet_untied", "xlnet");
    crate::common::set_options(&folder, json!({"tie_word_embeddings": false}));
    fails(Model::open(&folder), &["lm_loss.weight", "absent"]);
    let mut weights = parameters(&folder);
    weights.insert("lm_loss.weight".to_owned(), noise(6, &[120, 32]));
    write_parameters(&folder, &weights);
    let model = Model::open(&folder).unwrap();
    let out = run(&model, &segments(&ids(6, 5, 120), &[5]));
    let h = states(&out, "segment.0.hidden_states_h.2");
    let logits = states(&out, "segment.0.logits");
    for (i, &got) in logits.row(3).iter().enumerate() {
        let row = weights["lm_loss.weight"].row(i);
        let dot: f32 = row.iter().zip(h.row(3)).map(|(w, h)| w * h).sum();
        near(&[got], &[dot + weights["lm_loss.bias"].data()[i]], "a logit");
    }
    let inputs = Inputs::new().ints_of("input_ids", &[1, 5], ids(6, 5, 120));
    let encoded = model.encode(&inputs, &Device::Cpu).unwrap();
    assert_eq!(encoded.data(), states(&out, "single_stream.last_hidden_state").data());
}

#[test]
fn both_devices_agree_on_every_option_at_once() {
    let options = json!({"attn_type": "uni", "bi_data": true, "clamp_len": 3, "d_inner": 56});
    let model = model("xlnet_all", "xlnet", options);
    let inputs = Inputs::read(&data("xlnet").join("input.safetensors")).unwrap();
    let [cpu, reference] = [Device::Cpu, Device::Reference].map(|d| model.forward(&inputs, &d));
    let (cpu, reference) = (cpu.unwrap(), reference.unwrap());
    for name in ["segment.1.logits", "segment.1.hidden_states_h.2", "segment.1.mems.1"] {
        near(states(&cpu, name).data(), states(&reference, name).data(), name);
    }
}

#[test]
fn options_and_inputs_that_do_not_fit() {
    for (option, words) in [
        (json!({"attn_type": "both"}), &["attn_type", "both"][..]),
        (json!({"clamp_len": "far"}), &["clamp_len", "far"]),
        (json!({"mem_len": -3}), &["mem_len", "-3"]),
        (json!({"d_head": 16}), &["transformer.layer.0.rel_attn.q", "[32, 4, 16]"]),
        (json!({"ff_activation": "mish"}), &["mish"]),
        (json!({"n_layer": 0}), &["n_layer"]),
    ] {
        let folder = copy("xlnet_option", "xlnet");
        crate::common::set_options(&folder, option);
        fails(Model::open(&folder), words);
    }
    let model = Model::open(&data("xlnet")).unwrap();
    let good = Inputs::read(&data("xlnet").join("input.safetensors")).unwrap();
    let wrong = |name: &str, shape: &[usize], value: i32, words: &[&str]| {
        let count = shape.iter().product();
        let inputs = good.clone().ints_of(name, shape, vec![value; count]);
        fails(model.forward(&inputs, &Device::Cpu), words);
    };
    fails(model.forward(&Inputs::new(), &Device::Cpu), &["input_ids.0", "absent"]);
    wrong("input_ids.0", &[2, 12], 120, &["input_ids.0[0]", "120"]);
    wrong("input_ids.1", &[2, 12], -1, &["input_ids.1[0]", "-1"]);
    wrong("input_ids.1", &[3, 12], 1, &["input_ids.1", "2 rows"]);
    wrong("input_ids.0", &[24], 1, &["input_ids.0", "2 dimensions"]);
    wrong("attention_mask.1", &[2, 11], 1, &["segment 1", "attention_mask", "[2, 12]"]);
    wrong("attention_mask.0", &[2, 12], 2, &["attention_mask", "0 or 1"]);
    wrong("perm_mask.0", &[2, 12], 1, &["segment 0", "perm_mask", "[2, 12, 12]"]);
    wrong("perm_mask.0", &[2, 12, 12], -1, &["perm_mask", "0 or 1"]);
    wrong("token_type_ids.0", &[1, 12], 0, &["token_type_ids", "[2, 12]"]);
    wrong("target_positions.0", &[2, 4], 12, &["target_positions.0[0]", "12"]);
    wrong("target_positions.0", &[1, 4], 0, &["target_positions", "must be [2, 4]"]);
    wrong("labels.0", &[2, 3], 1, &["labels.0", "must be [2, 4]"]);
    wrong("labels.0", &[2, 4], 120, &["labels.0[0]", "120"]);
}
