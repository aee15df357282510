//! Reformer's options, each against a plain computation or an identity, and its invalid inputs.

use crate::common::{
    copy, data, fails, ids, layer_norm, model, near, noise, off, parameters, run, set_options,
    write_parameters,
};
use longhand_models::{Device, Inputs, Model, Tensor};
use serde_json::json;

fn inputs(seed: usize, length: usize) -> Inputs {
    Inputs::new().ints_of("input_ids", &[2, length], ids(seed, 2 * length, 120))
}

#[test]
fn buckets_of_several_factors_are_the_largest_projections() {
    let factors = [2, 4];
    let model = model("reformer_factors", "reformer", json!({"num_buckets": factors}));
    // Per head: 12 elements, 2 rounds, 1 + 2 columns.
    let rotations = noise(1, &[2, 12, 2, 3]);
    let given = inputs(1, 32)
        .floats_of("rotations.1", rotations.clone())
        .floats_of("rotations.2", noise(2, &[2, 12, 2, 3]));
    let out = run(&model, &given);
    let weights = parameters(&data("reformer"));
    let of = |name: &str| &weights[&format!("reformer.encoder.layers.1.attention.{name}")];
    let x = out.floats("hidden_states.1").unwrap();
    let mut want = vec![0; 2 * 2 * 2 * 32];
    for row in 0..2 * 32 {
        let (weight, bias) = (of("layer_norm.weight"), of("layer_norm.bias"));
        let x = layer_norm(x.row(row), weight.data(), bias.data());
        for head in 0..2 {
            let map = of("self_attention.query_key.weight");
            let dot = |w: &[f32]| w.iter().zip(&x).map(|(&w, x)| f64::from(w) * x).sum::<f64>();
            let qk: Vec<f64> = (0..12).map(|e| dot(map.row(head * 12 + e))).collect();
            for round in 0..2 {
                let (mut bucket, mut step, mut first) = (0, 1, 0);
                for factor in factors {
                    let project = |column: usize| {
                        let at =
                            |e: usize| rotations.data()[((head * 12 + e) * 2 + round) * 3 + column];
                        (0..12).map(|e| qk[e] * f64::from(at(e))).sum::<f64>()
                    };
                    let columns = first..first + factor / 2;
                    let positive: Vec<f64> = columns.clone().map(project).collect();
                    let both: Vec<f64> =
                        positive.iter().copied().chain(positive.iter().map(|x| -x)).collect();
                    let most = (0..factor).max_by(|&a, &b| both[a].total_cmp(&both[b])).unwrap();
                    bucket += step * most;
                    (step, first) = (step * factor, columns.end);
                }
                let at = ((row / 32 * 2 + head) * 2 + round) * 32 + row % 32;
                want[at] = (bucket + round * 8) as i32;
            }
        }
    }
    let Some(longhand_models::Value::Ints(got)) = out.values.get("buckets.1") else {
        panic!("no buckets")
    };
    assert_eq!((&got.shape[..], &got.data), (&[2, 2, 2, 32][..], &want));
    assert!(want.iter().any(|&b| b % 8 == 7) && want.iter().any(|&b| b % 8 == 0));
}

#[test]
fn without_a_number_of_buckets_the_length_chooses_it() {
    let logits = |test: &str, buckets: serde_json::Value, chunk: usize| {
        let options = json!({"num_buckets": buckets, "lsh_attn_chunk_length": chunk});
        let out = run(&model(test, "reformer", options), &inputs(3, 32));
        out.floats("logits").unwrap().data().to_vec()
    };
    // Four chunks: eight buckets. Sixteen: 32, above twice max(sqrt(16), 2), so two factors.
    assert_eq!(logits("reformer_auto", json!(null), 8), logits("reformer_8", json!(8), 8));
    let chosen = logits("reformer_auto_2", json!(null), 2);
    assert_eq!(chosen, logits("reformer_4_8", json!([4, 8]), 2));
    assert_ne!(chosen, logits("reformer_32", json!(32), 2));
}

#[test]
fn feed_forward_and_head_in_chunks_are_the_same() {
    let plain = run(&Model::open(&data("reformer")).unwrap(), &inputs(4, 27));
    for (feed, head) in [(1, 0), (0, 5), (7, 64)] {
        let options = json!({"chunk_size_feed_forward": feed, "chunk_size_lm_head": head});
        let out = run(&model("reformer_chunks", "reformer", options), &inputs(4, 27));
        for name in ["logits", "hidden_states.3"] {
            let (got, want) = (out.floats(name).unwrap(), plain.floats(name).unwrap());
            assert_eq!(got.shape(), want.shape());
            near(got.data(), want.data(), name);
        }
    }
}

#[test]
fn padding_by_hand_is_the_models_own_padding() {
    let model = Model::open(&data("reformer")).unwrap();
    let short = ids(5, 19, 120);
    let padded = [&short[..], &[0; 5]].concat();
    let mask = [vec![1; 19], vec![0; 5]].concat();
    let own = run(&model, &Inputs::new().ints_of("input_ids", &[1, 19], short));
    let by_hand = Inputs::new().ints_of("input_ids", &[1, 24], padded).ints_of(
        "attention_mask",
        &[1, 24],
        mask,
    );
    let by_hand = run(&model, &by_hand);
    let (got, want) = (own.floats("logits").unwrap(), by_hand.floats("logits").unwrap());
    assert_eq!(got.data(), &want.data()[..19 * 120]);
    // Chunks of both kinds fill what it is padded to.
    let options = json!({"lsh_attn_chunk_length": 4, "local_attn_chunk_length": 6});
    let both = crate::common::model("reformer_lengths", "reformer", options);
    let out = run(&both, &Inputs::new().ints_of("input_ids", &[1, 17], ids(5, 17, 120)));
    let Some(longhand_models::Value::Ints(buckets)) = out.values.get("buckets.1") else {
        panic!("no buckets")
    };
    assert_eq!(buckets.shape, [1, 2, 2, 24]);
    let encoded = model
        .encode(&Inputs::new().ints_of("input_ids", &[1, 19], ids(5, 19, 120)), &Device::Cpu)
        .unwrap();
    assert_eq!(encoded.data(), own.floats("hidden_states.3").unwrap().data());
}

#[test]
fn positions_of_three_axes_and_of_a_table() {
    let axes =
        [(2, 6), (2, 6), (8, 20)].map(|(steps, width)| noise(width + steps, &[steps, width]));
    let options = json!({"axial_pos_shape": [2, 2, 8], "axial_pos_embds_dim": [6, 6, 20]});
    let folder = copy("reformer_axes", "reformer");
    let mut weights = parameters(&folder);
    let prefix = "reformer.embeddings.position_embeddings.";
    for (axis, table) in axes.iter().enumerate() {
        let mut shape = [1, 1, 1, table.width()];
        shape[axis] = table.rows();
        let name = format!("{prefix}weights.{axis}");
        weights.insert(name, table.clone().reshape(&shape));
    }
    write_parameters(&folder, &weights);
    set_options(&folder, options);
    let by_axes = run(&Model::open(&folder).unwrap(), &inputs(6, 32));

    let row = |p: usize| [axes[0].row(p / 16), axes[1].row(p / 8 % 2), axes[2].row(p % 8)].concat();
    let table = Tensor::new(&[32, 32], (0..32).flat_map(row).collect());
    (0..3).for_each(|axis| drop(weights.remove(&format!("{prefix}weights.{axis}"))));
    weights.insert(format!("{prefix}embedding.weight"), table);
    write_parameters(&folder, &weights);
    set_options(&folder, json!({"axial_pos_embds": false}));
    let by_table = run(&Model::open(&folder).unwrap(), &inputs(6, 32));
    for name in ["hidden_states.0", "logits"] {
        let (got, want) = (by_axes.floats(name).unwrap(), by_table.floats(name).unwrap());
        assert_eq!(got.data(), want.data(), "{name}");
    }
}

#[test]
fn a_seed_draws_the_rotations() {
    let logits = |seed: serde_json::Value| {
        let model = model(&format!("reformer_seed_{seed}"), "reformer", json!({"hash_seed": seed}));
        run(&model, &inputs(7, 32)).floats("logits").unwrap().data().to_vec()
    };
    let drawn = [json!(null), json!(1), json!(2)].map(logits);
    assert_eq!(logits(json!(1)), drawn[1]);
    assert_eq!(logits(json!(null)), drawn[0]);
    assert!(off(&drawn[1], &drawn[2]) > 1e-4 && off(&drawn[0], &drawn[1]) > 1e-4);
}

#[test]
fn the_labels_of_a_decoder_are_the_next_tokens_and_of_others_their_own() {
    for (decodes, row) in [(true, 8), (false, 9)] {
        let model = model("reformer_labels", "reformer", json!({"is_decoder": decodes}));
        let mut labels = vec![-100; 64];
        labels[9] = 17;
        let out = run(&model, &inputs(8, 32).ints_of("labels", &[2, 32], labels));
        let logits = out.floats("logits").unwrap().row(row);
        let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
        let want = sum.ln() - f64::from(logits[17]);
        near(out.floats("loss").unwrap().data(), &[want as f32], "the loss");
    }
}

#[test]
fn both_devices_agree_with_other_neighbours_and_more_rounds() {
    let options = json!({
        "lsh_num_chunks_before": 0, "lsh_num_chunks_after": 1, "local_num_chunks_after": 1,
        "local_attn_chunk_length": 4, "num_hashes": 3, "num_buckets": 8, "is_decoder": false,
    });
    let model = model("reformer_neighbours", "reformer", options);
    let given = inputs(9, 30);
    let [cpu, reference] =
        [Device::Cpu, Device::Reference].map(|device| model.forward(&given, &device).unwrap());
    for name in ["logits", "hidden_states.1", "hidden_states.3"] {
        near(cpu.floats(name).unwrap().data(), reference.floats(name).unwrap().data(), name);
    }
}

#[test]
fn one_chunk_is_not_hashed() {
    let model = Model::open(&data("reformer")).unwrap();
    let all = ids(10, 8, 120);
    let run_of =
        |ids: &[i32]| run(&model, &Inputs::new().ints_of("input_ids", &[1, ids.len()], ids.into()));
    let whole = run_of(&all);
    assert!(!whole.values.contains_key("buckets.1"));
    // A decoder's positions see what is before them.
    let part = run_of(&all[..5]);
    let (got, want) = (part.floats("logits").unwrap(), whole.floats("logits").unwrap());
    near(got.data(), &want.data()[..5 * 120], "the first five");
}

#[test]
fn options_and_inputs_that_do_not_fit() {
    for (option, words) in [
        (json!({"num_buckets": 3}), &["num_buckets", "3", "even"][..]),
        (json!({"num_buckets": [2, 0]}), &["num_buckets", "[2,0]"]),
        (json!({"attn_layers": ["local", "global"]}), &["attn_layers", "lsh"]),
        (json!({"attn_layers": []}), &["attn_layers"]),
        (json!({"num_hidden_layers": 4}), &["num_hidden_layers", "4", "only 3"]),
        (json!({"axial_pos_embds_dim": [12, 12]}), &["axial_pos_embds_dim", "[12, 12]", "32"]),
        (json!({"axial_pos_shape": [4]}), &["axial_pos_embds_dim", "1 widths"]),
        (json!({"axial_pos_shape": [4, 16]}), &["weights.1", "[1, 16, 20]"]),
        (json!({"tie_word_embeddings": true}), &["tie_word_embeddings", "true"]),
        (json!({"num_hashes": 2_000_000_000}), &["num_hashes", "1024"]),
        (json!({"local_num_chunks_after": 5000}), &["local_num_chunks_after", "5000"]),
        (json!({"pad_token_id": 200}), &["pad_token_id", "200", "120"]),
        (json!({"attn_layers": ["lsh", "lsh", "lsh"]}), &["layers.0.", "query_key", "absent"]),
    ] {
        let folder = copy("reformer_option", "reformer");
        set_options(&folder, option);
        fails(Model::open(&folder), words);
    }
    let model = Model::open(&data("reformer")).unwrap();
    let good = Inputs::read(&data("reformer").join("input.safetensors")).unwrap();
    let run = |inputs: Inputs| model.forward(&inputs, &Device::Cpu);
    let with = |name: &str, shape: &[usize], value: i32| {
        run(good.clone().ints_of(name, shape, vec![value; shape.iter().product()]))
    };
    fails(run(Inputs::new()), &["input_ids", "absent"]);
    let long = Inputs::new().ints_of("input_ids", &[1, 33], vec![1; 33]);
    fails(run(long), &["the length of input_ids", "33", "40", "32 positions"]);
    fails(with("input_ids", &[2, 27], 120), &["input_ids[0]", "120"]);
    fails(
        run(Inputs::new().ints_of("input_ids", &[9], vec![1; 9])),
        &["input_ids", "2 dimensions"],
    );
    fails(with("attention_mask", &[2, 26], 1), &["attention_mask", "[2, 27]"]);
    fails(with("attention_mask", &[2, 27], 3), &["attention_mask", "0 or 1"]);
    fails(with("train_labels", &[2, 31], 1), &["train_labels", "[2, 32]"]);
    fails(with("train_labels", &[2, 32], 120), &["train_labels[0]", "120"]);
    fails(with("labels", &[2, 27], -1), &["labels[0]", "-1"]);
    let rotations = good.clone().floats_of("rotations.2", noise(1, &[2, 12, 2, 3]));
    fails(run(rotations), &["rotations.2", "[2, 12, 2, 3]", "[2, 12, 2, 2]"]);
}
