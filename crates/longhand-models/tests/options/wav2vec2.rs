//! wav2vec 2.0's options, each against a plain computation or an identity, and its invalid inputs.

use crate::common::changed;
use crate::common::{
    Parameters, copy, data, fails, model, near, noise, off, parameters, run, set_options,
};
use longhand_models::{Device, Inputs, Model, Tensor};
use serde_json::json;

fn given() -> Inputs {
    Inputs::read(&data("wav2vec2").join("input.safetensors")).unwrap()
}

fn norm(row: &mut [f64], weight: &Tensor, bias: &Tensor) {
    let n = row.len() as f64;
    let mean = row.iter().sum::<f64>() / n;
    let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
    for (i, x) in row.iter_mut().enumerate() {
        let normed = (*x - mean) / (variance + 1e-5).sqrt();
        *x = normed * f64::from(weight.data()[i]) + f64::from(bias.data()[i]);
    }
}

#[test]
fn frames_are_normed_over_their_channels_with_biases() {
    const LAYERS: [(usize, usize, usize); 3] = [(1, 10, 5), (16, 3, 2), (16, 2, 2)];
    let mut kept = Parameters::new();
    let options = json!({
        "feat_extract_norm": "layer", "conv_bias": true, "feat_extract_activation": "relu",
    });
    let model = changed("wav2vec2_layer", "wav2vec2", options, |weights| {
        for i in 0..3 {
            let own = format!("wav2vec2.feature_extractor.conv_layers.{i}.");
            for (k, name) in
                ["conv.bias", "layer_norm.weight", "layer_norm.bias"].iter().enumerate()
            {
                weights.insert(format!("{own}{name}"), noise(7 * i + k, &[16]));
            }
        }
        kept = weights.clone();
    });
    let sound = noise(9, &[1, 130]);
    let out = run(&model.unwrap(), &Inputs::new().floats_of("input_values", sound.clone()));
    let mut x: Vec<Vec<f64>> = sound.data().iter().map(|&x| vec![f64::from(x)]).collect();
    for (i, (from, width, stride)) in LAYERS.into_iter().enumerate() {
        let own = |name: &str| &kept[&format!("wav2vec2.feature_extractor.conv_layers.{i}.{name}")];
        let frame = |first: usize| {
            let channel = |to: usize| {
                let at =
                    |c: usize, k: usize| own("conv.weight").data()[(to * from + c) * width + k];
                let term = |n: usize| {
                    x[first + n % width][n / width] * f64::from(at(n / width, n % width))
                };
                (0..from * width).map(term).sum::<f64>() + f64::from(own("conv.bias").data()[to])
            };
            let mut row: Vec<f64> = (0..16).map(channel).collect();
            norm(&mut row, own("layer_norm.weight"), own("layer_norm.bias"));
            row.into_iter().map(|x| x.max(0.0)).collect::<Vec<f64>>()
        };
        x = (0..=(x.len() - width) / stride).map(|n| frame(n * stride)).collect();
    }
    let features = out.floats("extract_features").unwrap();
    assert_eq!(features.shape(), [1, 6, 16]);
    for (i, row) in x.iter_mut().enumerate() {
        let own = |name: &str| &kept[&format!("wav2vec2.feature_projection.layer_norm.{name}")];
        norm(row, own("weight"), own("bias"));
        let row: Vec<f32> = row.iter().map(|&x| x as f32).collect();
        near(features.row(i), &row, "a frame");
    }
}

#[test]
fn stable_norms_stand_in_front() {
    let plain = run(&Model::open(&data("wav2vec2")).unwrap(), &given());
    let stable = model("wav2vec2_stable", "wav2vec2", json!({"do_stable_layer_norm": true}));
    let stable = run(&stable, &given());
    let weights = parameters(&data("wav2vec2"));
    let own = |name: &str| &weights[&format!("wav2vec2.encoder.layer_norm.{name}")];
    // What enters the blocks is normed in the one and not in the other.
    let bare = stable.floats("hidden_states.0").unwrap();
    let normed = plain.floats("hidden_states.0").unwrap();
    for i in 0..bare.rows() {
        let mut row: Vec<f64> = bare.row(i).iter().map(|&x| x.into()).collect();
        norm(&mut row, own("weight"), own("bias"));
        let row: Vec<f32> = row.iter().map(|&x| x as f32).collect();
        near(&row, normed.row(i), "the blocks' input");
    }
    // What leaves them the other way round: undoing the norm's scale leaves a variance of 1.
    let last = stable.floats("hidden_states.2").unwrap();
    let (weight, bias) = (own("weight").data(), own("bias").data());
    let undone: Vec<f64> =
        (0..32).map(|c| f64::from((last.row(3)[c] - bias[c]) / weight[c])).collect();
    let mean = undone.iter().sum::<f64>() / 32.0;
    let variance = undone.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 32.0;
    assert!(mean.abs() < 1e-4 && (variance - 1.0).abs() < 1e-3, "{mean}, {variance}");
}

const POSITIONAL: &str = "wav2vec2.encoder.pos_conv_embed.conv.";

/// The places of the positional kernel from `first` on, under these names.
fn positional(weights: &mut Parameters, first: usize, zero: bool, names: [&str; 2]) {
    let take = |x: &Tensor| {
        let width = x.width() - first;
        let rows = (0..x.rows()).flat_map(|i| x.row(i)[first..].to_vec()).collect();
        Tensor::new(&[&x.shape()[..2], &[width]].concat(), rows)
    };
    for (n, name) in names.into_iter().enumerate() {
        let old = format!("{POSITIONAL}parametrizations.weight.original{n}");
        let mut x = take(&weights.remove(&old).unwrap());
        if zero && n == 0 {
            x.data_mut()[0] = 0.0;
        }
        weights.insert(format!("{POSITIONAL}{name}"), x);
    }
}

#[test]
fn an_odd_positional_kernel_and_the_published_names() {
    // Of six places, the first is three frames back, and no more frames are ahead than of five.
    let now = ["parametrizations.weight.original0", "parametrizations.weight.original1"];
    let even =
        changed("wav2vec2_even", "wav2vec2", json!({}), |w| positional(w, 0, true, now)).unwrap();
    let odd = json!({"num_conv_pos_embeddings": 5});
    let odd = changed("wav2vec2_odd", "wav2vec2", odd, |w| {
        positional(w, 1, false, ["weight_g", "weight_v"])
    });
    let (even, odd) = (run(&even, &given()), run(&odd.unwrap(), &given()));
    for name in ["hidden_states.0", "hidden_states.2"] {
        near(odd.floats(name).unwrap().data(), even.floats(name).unwrap().data(), name);
    }
    let plain = run(&Model::open(&data("wav2vec2")).unwrap(), &given());
    let name = "hidden_states.0";
    let change = off(plain.floats(name).unwrap().data(), even.floats(name).unwrap().data());
    assert!(change > 1e-3, "the first place does nothing");
}

#[test]
fn masks_that_are_switched_off() {
    let plain = run(&Model::open(&data("wav2vec2")).unwrap(), &given());
    let off = model("wav2vec2_no_masks", "wav2vec2", json!({"apply_spec_augment": false}));
    let off = run(&off, &given());
    let name = "unmasked.last_hidden_state";
    assert_eq!(off.floats("hidden_states.2").unwrap().data(), off.floats(name).unwrap().data());
    assert_eq!(plain.floats(name).unwrap().data(), off.floats(name).unwrap().data());
    assert_ne!(plain.floats("hidden_states.2").unwrap().data(), off.floats(name).unwrap().data());
    let bare = changed("wav2vec2_bare", "wav2vec2", json!({}), |weights| {
        weights.remove("wav2vec2.masked_spec_embed").unwrap();
    });
    fails(
        bare.unwrap().forward(&given(), &Device::Cpu),
        &["mask_time_indices", "masked_spec_embed"],
    );
}

#[test]
fn temperatures_and_weights_of_the_losses() {
    let plain = run(&Model::open(&data("wav2vec2")).unwrap(), &given());
    let options = json!({"contrastive_logits_temperature": 1e9, "diversity_loss_weight": 2.0});
    let other = run(&model("wav2vec2_losses", "wav2vec2", options), &given());
    let of = |out: &longhand_models::Outputs, name: &str| out.floats(name).unwrap().data()[0];
    let diversity = of(&plain, "eval.diversity_loss");
    assert_eq!(of(&other, "eval.diversity_loss"), diversity);
    let loss = of(&other, "eval.contrastive_loss") + 2.0 * diversity;
    near(&[of(&other, "eval.loss")], &[loss], "the loss");
    // At that temperature all candidates are alike: ln of their number, for each masked frame.
    let (inputs, name) = (given(), "eval.negative_equals_positive");
    let Some(longhand_models::Value::Ints(same)) = other.values.get(name) else {
        panic!("no {name}")
    };
    let masked = inputs.ints("mask_time_indices").unwrap();
    let candidates =
        |frame: usize| 1 + same.data[frame * 5..][..5].iter().filter(|s| **s == 0).count();
    let frames = (0..40).filter(|&i| masked.data[i] != 0);
    let want: f64 = frames.map(|i| (candidates(i) as f64).ln()).sum();
    near(&[of(&other, "eval.contrastive_loss")], &[want as f32], "alike candidates");
}

#[test]
fn a_body_without_codebooks_gives_its_states() {
    let body = changed("wav2vec2_body", "wav2vec2", json!({}), |weights| {
        weights.retain(|name, _| name.starts_with("wav2vec2."));
    });
    let out = run(&body.unwrap(), &given());
    let plain = run(&Model::open(&data("wav2vec2")).unwrap(), &given());
    let name = "hidden_states.2";
    assert_eq!(out.floats(name).unwrap().data(), plain.floats(name).unwrap().data());
    assert!(out.floats("projected_states").is_err());
}

#[test]
fn options_and_inputs_that_do_not_fit() {
    for (option, words) in [
        (json!({"feat_extract_norm": "batch"}), &["feat_extract_norm", "batch"][..]),
        (json!({"feat_extract_norm": "layer"}), &["conv_layers.1.layer_norm.weight", "absent"]),
        (json!({"conv_bias": true}), &["conv_layers.0.conv.bias", "absent"]),
        (json!({"conv_stride": [5, 2]}), &["conv_stride", "[5, 2]", "3 entries"]),
        (json!({"conv_kernel": [10, 0, 2]}), &["conv_kernel", "[10,0,2]"]),
        (json!({"num_feat_extract_layers": 7}), &["num_feat_extract_layers", "7"]),
        (json!({"add_adapter": true}), &["add_adapter", "true"]),
        (json!({"adapter_attn_dim": 16}), &["adapter_attn_dim", "16"]),
        (json!({"num_conv_pos_embedding_groups": 5}), &["num_conv_pos_embedding_groups", "5"]),
        (json!({"num_codevector_groups": 3}), &["codevector_dim", "16", "3"]),
        (json!({"contrastive_logits_temperature": 0}), &["contrastive_logits_temperature"]),
        (json!({"conv_pos_batch_norm": true}), &["conv_pos_batch_norm", "no such option"]),
    ] {
        let folder = copy("wav2vec2_option", "wav2vec2");
        set_options(&folder, option);
        fails(Model::open(&folder), words);
    }
    let model = Model::open(&data("wav2vec2")).unwrap();
    let run = |inputs: Inputs| model.forward(&inputs, &Device::Cpu);
    let with = |name: &str, shape: &[usize], value: i32| {
        run(given().ints_of(name, shape, vec![value; shape.iter().product()]))
    };
    let sound = |shape: &[usize]| run(Inputs::new().floats_of("input_values", noise(1, shape)));
    fails(run(Inputs::new()), &["input_values", "absent"]);
    fails(sound(&[420]), &["input_values", "2 dimensions"]);
    fails(sound(&[1, 20]), &["input_values", "[1, 20]", "one frame"]);
    fails(sound(&[0, 400]), &["input_values", "[0, 400]"]);
    fails(with("input_values", &[2, 420], 1), &["input_values", "integers"]);
    fails(with("attention_mask", &[2, 419], 1), &["attention_mask", "[2, 420]"]);
    fails(with("attention_mask", &[2, 420], 2), &["attention_mask", "0 or 1"]);
    fails(with("attention_mask", &[2, 420], 0), &["attention_mask[0]", "one frame"]);
    fails(with("mask_time_indices", &[2, 19], 1), &["mask_time_indices", "[2, 20]"]);
    fails(with("mask_time_indices", &[2, 20], 0), &["mask_time_indices", "mark a frame"]);
    fails(with("sampled_negative_indices", &[2, 20], 1), &["sampled_negative_indices", "[2, 20]"]);
    fails(
        with("sampled_negative_indices", &[2, 20, 5], 40),
        &["sampled_negative_indices[0]", "40"],
    );
    let gumbel = given().floats_of("gumbel", noise(1, &[40, 4]));
    fails(run(gumbel), &["gumbel", "[40, 4]", "[80, 4]"]);
}

/// A file of the body alone, as the public `Wav2Vec2Model` writes it.
#[test]
fn a_body_without_codebooks() {
    let body = changed("wav2vec2_body", "wav2vec2", json!({}), |weights| {
        let own = |(name, x): (&String, &Tensor)| {
            Some((name.strip_prefix("wav2vec2.")?.to_owned(), x.clone()))
        };
        *weights = weights.iter().filter_map(own).collect();
    });
    let body = run(&body.unwrap(), &given());
    let whole = run(&Model::open(&data("wav2vec2")).unwrap(), &given());
    for name in ["hidden_states.0", "hidden_states.2", "extract_features"] {
        near(body.floats(name).unwrap().data(), whole.floats(name).unwrap().data(), name);
    }
    assert!(body.floats("projected_states").is_err());
}
