//! Options that no fixture varies, each against an identity or a plain computation.

mod common;

use common::{Parameters, changed, copy, data, ids, near, noise, off, parameters, run};
use longhand_models::{Inputs, Model, Outputs, Tensor};
use serde_json::json;

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

#[test]
fn heads_of_their_own() {
    for (name, table, head, logits) in [
        ("bert", "bert.embeddings.word_embeddings", "cls.predictions.decoder", "prediction_logits"),
        ("roberta", "roberta.embeddings.word_embeddings", "lm_head.decoder", "logits"),
        ("albert", "albert.embeddings.word_embeddings", "predictions.decoder", "prediction_logits"),
        ("turing_nlg", "transformer.wte", "lm_head", "logits"),
        ("gpt", "transformer.tokens_embed", "lm_head", "logits"),
        ("bart", "model.shared", "lm_head", "logits"),
        ("t5", "shared", "lm_head", "logits"),
    ] {
        let tied = fixture(name);
        // T5 scales the states of a tied head, and of no other.
        let scale = if name == "t5" { 32f32.powf(-0.5) } else { 1.0 };
        let untied = |test: String, by: f32| {
            with(name, &test, json!({"tie_word_embeddings": false}), |weights| {
                let table = scaled(&weights[&format!("{table}.weight")], by);
                weights.insert(format!("{head}.weight"), table);
            })
        };
        same(&untied(format!("untied_{name}"), scale), &tied, logits);
        differ(&untied(format!("other_{name}"), 0.5 * scale), &tied, logits);
    }
}

#[test]
fn groups_of_albert_and_layers_in_a_group() {
    const GROUP: &str = "albert.encoder.albert_layer_groups.";
    let changed_ffn = |weights: &mut Parameters, at: &str| {
        let name = format!("{GROUP}{at}.ffn.weight");
        let other = scaled(&weights[&name], -1.5);
        weights.insert(name, other);
    };
    let one = fixture("albert");
    // Layers 0 and 1 are of the first group, layer 2 of the second.
    let two = with("albert", "albert_two", json!({"num_hidden_groups": 2}), |weights| {
        copied(weights, &format!("{GROUP}0."), &format!("{GROUP}1."));
        changed_ffn(weights, "1.albert_layers.0");
    });
    same(&two, &one, "hidden_states.2");
    differ(&two, &one, "hidden_states.3");
    let three = with("albert", "albert_three", json!({"num_hidden_groups": 3}), |weights| {
        copied(weights, &format!("{GROUP}0."), &format!("{GROUP}1."));
        copied(weights, &format!("{GROUP}0."), &format!("{GROUP}2."));
        changed_ffn(weights, "2.albert_layers.0");
    });
    same(&two, &three, "hidden_states.3");
    // Two layers that hold two blocks each, and four that hold one, of which two are alike.
    let options = json!({"num_hidden_layers": 2, "inner_group_num": 2});
    let inner = with("albert", "albert_inner", options, |weights| {
        copied(
            weights,
            &format!("{GROUP}0.albert_layers.0."),
            &format!("{GROUP}0.albert_layers.1."),
        );
        changed_ffn(weights, "0.albert_layers.1");
    });
    let options = json!({"num_hidden_layers": 4, "num_hidden_groups": 4});
    let flat = with("albert", "albert_flat", options, |weights| {
        (1..4).for_each(|i| copied(weights, &format!("{GROUP}0."), &format!("{GROUP}{i}.")));
        changed_ffn(weights, "1.albert_layers.0");
        changed_ffn(weights, "3.albert_layers.0");
    });
    for (k, of_flat) in [(1, "hidden_states.2"), (2, "hidden_states.4")] {
        let got = inner.floats(&format!("hidden_states.{k}")).unwrap();
        near(got.data(), flat.floats(of_flat).unwrap().data(), of_flat);
    }
}

#[test]
fn mobilebert_with_true_norms_and_fewer_feed_forwards() {
    let plain = fixture("mobilebert");
    let normed = json!({"normalization_type": "layer_norm", "layer_norm_eps": 0.5});
    let normed = with("mobilebert", "mobilebert_norms", normed, |_| ());
    // The norm after the embeddings keeps the library's 1e-5 whatever the option says.
    let weights = parameters(&data("mobilebert"));
    let own = |name: &str| weights[&format!("mobilebert.embeddings.LayerNorm.{name}")].data();
    let (bare, got) =
        (plain.floats("hidden_states.0").unwrap(), normed.floats("hidden_states.0").unwrap());
    for i in 0..bare.rows() {
        let (w, b) = (own("weight"), own("bias"));
        let x: Vec<f64> = (0..48).map(|c| f64::from((bare.row(i)[c] - b[c]) / w[c])).collect();
        let mean = x.iter().sum::<f64>() / 48.0;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 48.0;
        let want = x
            .iter()
            .enumerate()
            .map(|(c, x)| (((x - mean) / (variance + 1e-5).sqrt()) as f32).mul_add(w[c], b[c]));
        let want: Vec<f32> = want.collect();
        assert!(off(got.row(i), &want) < 1e-3 * want.iter().fold(1.0, |m, x| x.abs().max(m)));
    }
    // A feed-forward that adds nothing, before a norm that changes nothing.
    let idle = |weights: &mut Parameters, n: usize| {
        for layer in 0..2 {
            let own = format!("mobilebert.encoder.layer.{layer}.ffn.{n}.output.");
            weights.insert(format!("{own}dense.weight"), Tensor::zeros(&[24, 40]));
            weights.insert(format!("{own}dense.bias"), Tensor::zeros(&[24]));
            weights.insert(format!("{own}LayerNorm.weight"), Tensor::new(&[24], vec![1.0; 24]));
            weights.insert(format!("{own}LayerNorm.bias"), Tensor::zeros(&[24]));
        }
    };
    let four = with("mobilebert", "mobilebert_idle", json!({}), |weights| idle(weights, 2));
    let three = json!({"num_feedforward_networks": 3});
    let three = with("mobilebert", "mobilebert_three", three, |weights| {
        weights.retain(|name, _| !name.contains(".ffn.2."));
    });
    same(&three, &four, "hidden_states.2");
    differ(&three, &plain, "hidden_states.2");
}

#[test]
fn mobileberts_pooler_and_what_its_attention_reads() {
    let plain = fixture("mobilebert");
    let first =
        with("mobilebert", "mobilebert_first", json!({"classifier_activation": false}), |w| {
            w.retain(|name, _| !name.contains("pooler"));
        });
    let (pooled, last) =
        (first.floats("pooler_output").unwrap(), plain.floats("hidden_states.2").unwrap());
    let length = last.shape()[1];
    for b in 0..pooled.rows() {
        near(pooled.row(b), last.row(b * length), "the first position");
    }
    // Queries and keys of the shared bottleneck, or of a map that does the bottleneck's work too.
    const LAYER: &str = "mobilebert.encoder.layer.";
    let options = json!({"key_query_shared_bottleneck": false});
    let own = with("mobilebert", "mobilebert_own", options, |weights| {
        for layer in 0..2 {
            let at = |name: &str| format!("{LAYER}{layer}.{name}");
            let take = |name: &str| weights[&at(name)].clone();
            // The norm is affine: W(n(Dx + d)) + b is one map of x.
            let (d, d_bias) = (
                take("bottleneck.attention.dense.weight"),
                take("bottleneck.attention.dense.bias"),
            );
            let n = take("bottleneck.attention.LayerNorm.weight");
            let n_bias = take("bottleneck.attention.LayerNorm.bias");
            let rows =
                (0..24).flat_map(|i| d.row(i).iter().map(|x| x * n.data()[i]).collect::<Vec<_>>());
            let inner = Tensor::new(&[24, 48], rows.collect());
            let shift = (0..24).map(|i| d_bias.data()[i] * n.data()[i] + n_bias.data()[i]);
            let shift = Tensor::new(&[1, 24], shift.collect());
            for name in ["query", "key"] {
                let own = |part: &str| at(&format!("attention.self.{name}.{part}"));
                let (w, b) = (weights[&own("weight")].clone(), weights[&own("bias")].clone());
                let moved = product(&shift, &w, true);
                let bias = b.data().iter().zip(moved.data()).map(|(b, m)| b + m).collect();
                weights.insert(own("weight"), product(&w, &inner, false));
                weights.insert(own("bias"), Tensor::new(&[24], bias));
            }
        }
        weights.retain(|name, _| !name.contains("bottleneck.attention."));
    });
    for name in ["hidden_states.1", "hidden_states.2"] {
        same(&own, &plain, name);
    }
}

#[test]
fn megatrons_older_orders_of_columns() {
    let plain = fixture("megatron_gpt");
    // Rows of head h, part p, element e, in the order of each version.
    let place = |version: i32, h: usize, p: usize, e: usize| match version {
        2 => (h * 3 + p) * 8 + e,
        1 => (h * 8 + e) * 3 + p,
        _ => (p * 4 + h) * 8 + e,
    };
    for version in 0..3 {
        let options = json!({"megatron_checkpoint_version": f64::from(version)});
        let other = with("megatron_gpt", &format!("megatron_{version}"), options, |weights| {
            for (name, x) in weights.iter_mut().filter(|(name, _)| name.contains("query_key_value"))
            {
                let width = if name.ends_with("bias") { 1 } else { 32 };
                let mut rows = vec![0.0; x.data().len()];
                for n in 0..96 {
                    let (h, p, e) = (n / 24, n / 8 % 3, n % 8);
                    let row = &x.data()[n * width..][..width];
                    rows[place(version, h, p, e) * width..][..width].copy_from_slice(row);
                }
                *x = Tensor::new(x.shape(), rows);
            }
        });
        same(&other, &plain, "logits");
    }
}

#[test]
fn gpt_2s_scores() {
    // Queries are the first third of the columns.
    let queries = |by: fn(usize) -> f32| {
        move |weights: &mut Parameters| {
            for (name, x) in weights.iter_mut().filter(|(name, _)| name.contains("c_attn")) {
                let layer = name.split('.').nth(2).unwrap().parse().unwrap();
                let scaled = x.data().iter().enumerate();
                let scaled = scaled.map(|(n, x)| if n % 96 < 32 { by(layer) * x } else { *x });
                *x = Tensor::new(x.shape(), scaled.collect());
            }
        }
    };
    let plain = fixture("turing_nlg");
    for (test, option, by) in [
        ("by_layer", "scale_attn_by_inverse_layer_idx", (|i| (i + 1) as f32) as fn(usize) -> f32),
        // Heads of 16.
        ("unscaled", "scale_attn_weights", |_| 0.25),
    ] {
        let options = json!({option: test == "by_layer"});
        let test = format!("turing_{test}");
        differ(
            &with("turing_nlg", &format!("{test}_bare"), options.clone(), |_| ()),
            &plain,
            "logits",
        );
        same(&with("turing_nlg", &test, options, queries(by)), &plain, "logits");
    }
    let inner = with("turing_nlg", "turing_inner", json!({"n_inner": 130}), |weights| {
        for layer in 0..3 {
            let at = |name: &str| format!("transformer.h.{layer}.mlp.{name}");
            let wide = noise(1, &[32, 2]);
            let up = &weights[&at("c_fc.weight")];
            let rows = (0..32).flat_map(|i| [up.row(i), wide.row(i)].concat()).collect();
            let bias = [weights[&at("c_fc.bias")].data(), &[0.1, 0.2]].concat();
            let down = [weights[&at("c_proj.weight")].data(), &[0.0; 64]].concat();
            weights.insert(at("c_fc.weight"), Tensor::new(&[32, 130], rows));
            weights.insert(at("c_fc.bias"), Tensor::new(&[130], bias));
            weights.insert(at("c_proj.weight"), Tensor::new(&[130, 32], down));
        }
    });
    same(&inner, &plain, "logits");
}

/// The plain table of words that clusters of narrower vectors and their projections stand for.
fn widened(weights: &mut Parameters, clusters: &[(usize, usize)], one_table: bool) {
    const TABLES: &str = "transformer.word_emb.";
    let mut rows = Vec::new();
    let shared = one_table.then(|| noise(50, &[120, clusters[0].1]));
    let mut first = 0;
    for (i, &(count, width)) in clusters.iter().enumerate() {
        let k = if one_table { 0 } else { i };
        let projection = noise(60 + k, &[32, width]);
        let table = match &shared {
            Some(all) => {
                Tensor::new(&[count, width], all.data()[first * width..][..count * width].to_vec())
            }
            None => noise(70 + k, &[count, width]),
        };
        rows.extend_from_slice(product(&table, &projection, true).data());
        if i == 0 {
            // The head's cluster logits read the projected states.
            let narrow = noise(80, &[2, width]);
            weights.insert("plain".to_owned(), product(&narrow, &projection, true));
            weights.insert("crit.cluster_weight".to_owned(), narrow);
            weights.insert("crit.out_projs.0".to_owned(), projection.clone());
        }
        let bias = weights["crit.out_layers.0.bias"].data()[first..first + count].to_vec();
        weights.insert(format!("bias.{i}"), Tensor::new(&[count], bias));
        let table = shared.clone().unwrap_or(table);
        weights.insert(format!("{TABLES}emb_layers.{k}.weight"), table);
        weights.insert(format!("{TABLES}emb_projs.{k}"), projection);
        first += count;
    }
    for i in 0..clusters.len() {
        let bias = weights.remove(&format!("bias.{i}")).unwrap();
        if !one_table {
            weights.insert(format!("crit.out_layers.{i}.bias"), bias);
        }
    }
    weights.insert("rows".to_owned(), Tensor::new(&[120, 32], rows));
}

#[test]
fn transformer_xls_narrow_words() {
    for (test, options, clusters, one_table) in [
        ("embed", json!({"d_embed": 16}), [(40, 16), (40, 16), (40, 16)], true),
        ("divided", json!({"div_val": 2}), [(40, 32), (40, 16), (40, 8)], false),
    ] {
        let mut wide = Vec::new();
        let narrow = with("transfo_xl", &format!("transfo_xl_{test}"), options, |weights| {
            widened(weights, &clusters, one_table);
            wide = ["rows", "plain"].map(|name| weights.remove(name).unwrap()).to_vec();
        });
        let plain = with("transfo_xl", &format!("transfo_xl_{test}_wide"), json!({}), |weights| {
            weights.insert("transformer.word_emb.emb_layers.0.weight".to_owned(), wide[0].clone());
            weights.insert("crit.cluster_weight".to_owned(), wide[1].clone());
        });
        for name in ["segment.0.hidden_states.0", "segment.2.hidden_states.2"] {
            let (got, want) = (narrow.floats(name).unwrap(), plain.floats(name).unwrap());
            let most = want.data().iter().fold(1.0, |m: f32, x| m.max(x.abs()));
            assert!(off(got.data(), want.data()) < 2e-5 * most, "{test}: {name}");
        }
        let (got, want) = (
            narrow.floats("segment.2.log_probs").unwrap(),
            plain.floats("segment.2.log_probs").unwrap(),
        );
        let most = want.data().iter().fold(1.0, |m: f32, x| m.max(x.abs()));
        assert!(off(got.data(), want.data()) < 2e-5 * most, "{test}: log_probs");
    }
}

#[test]
fn transformer_xls_biases_of_all_layers_and_its_own_head() {
    let biases = |weights: &mut Parameters, shared: bool| {
        for (n, name) in ["r_w_bias", "r_r_bias"].into_iter().enumerate() {
            let bias = noise(30 + n, &[4, 8]);
            for layer in 0..2 {
                let own = format!("transformer.layers.{layer}.dec_attn.{name}");
                weights.remove(&own).unwrap();
                if !shared {
                    weights.insert(own, bias.clone());
                }
            }
            if shared {
                weights.insert(format!("transformer.{name}"), bias);
            }
        }
    };
    let name = "segment.2.log_probs";
    let shared = json!({"untie_r": false});
    let shared = with("transfo_xl", "transfo_xl_shared", shared, |w| biases(w, true));
    let own = with("transfo_xl", "transfo_xl_own", json!({}), |w| biases(w, false));
    same(&shared, &own, name);
    let head = json!({"tie_word_embeddings": false});
    let head = with("transfo_xl", "transfo_xl_head", head, |weights| {
        let table = weights["transformer.word_emb.emb_layers.0.weight"].clone();
        weights.insert("crit.out_layers.0.weight".to_owned(), table);
    });
    same(&head, &fixture("transfo_xl"), name);
    // Distances go to 17: mem_len and 8 positions.
    let clamp = |n: i32| {
        let options = json!({"clamp_len": n, "same_length": false});
        with("transfo_xl", &format!("transfo_xl_clamp_{n}"), options, |_| ())
    };
    same(&clamp(17), &clamp(-1), name);
    differ(&clamp(3), &clamp(-1), name);
}

#[test]
fn a_window_over_everything_is_robertas_attention() {
    let inputs = Inputs::new().ints_of(
        "input_ids",
        &[2, 19],
        ids(1, 38, 118).iter().map(|x| x + 2).collect(),
    );
    let options = json!({"attention_window": [38, 64]});
    let wide = changed("longformer_wide", "longformer", options, |_| ()).unwrap();
    let weights = parameters(&data("longformer"));
    let folder = copy("longformer_as_roberta", "roberta");
    common::set_options(&folder, json!({"max_position_embeddings": 72}));
    let renamed =
        |(name, x): (&String, &Tensor)| (name.replace("longformer.", "roberta."), x.clone());
    let own = weights.iter().filter(|(name, _)| !name.contains("_global"));
    common::write_parameters(&folder, &own.map(renamed).collect());
    let full = Model::open(&folder).unwrap();
    same(&run(&wide, &inputs), &run(&full, &inputs), "logits");
    let narrow = Model::open(&data("longformer")).unwrap();
    differ(&run(&narrow, &inputs), &run(&full, &inputs), "logits");
}

#[test]
fn robertas_positions_begin_after_the_padding_id() {
    let ids: Vec<i32> = ids(2, 14, 110).iter().map(|x| x + 10).collect();
    let inputs = |pad: i32| {
        let mut ids = ids.clone();
        ids[12..].fill(pad);
        Inputs::new().ints_of("input_ids", &[1, 14], ids).ints_of(
            "attention_mask",
            &[1, 14],
            [vec![1; 12], vec![0; 2]].concat(),
        )
    };
    let plain = Model::open(&data("roberta")).unwrap();
    let moved = changed("roberta_pad", "roberta", json!({"pad_token_id": 4}), |weights| {
        let table = weights.get_mut("roberta.embeddings.position_embeddings.weight").unwrap();
        let rows = [vec![0.0; 3 * 32], table.data()[..37 * 32].to_vec()].concat();
        *table = Tensor::new(&[40, 32], rows);
    });
    let (got, want) = (run(&moved.unwrap(), &inputs(4)), run(&plain, &inputs(1)));
    let name = "hidden_states.2";
    let (got, want) = (got.floats(name).unwrap(), want.floats(name).unwrap());
    near(&got.data()[..12 * 32], &want.data()[..12 * 32], name);
}

#[test]
fn barts_scaled_words_and_sides_of_other_sizes() {
    let plain = fixture("bart");
    let scaled = with("bart", "bart_scaled", json!({"scale_embedding": true}), |weights| {
        let words = weights.get_mut("model.shared.weight").unwrap();
        *words = scaled(words, 32f32.powf(-0.5));
    });
    same(&scaled, &plain, "decoder.hidden_states.2");
    // One block fewer in either side, and the states before it stay.
    for (side, other) in [("encoder", "decoder"), ("decoder", "encoder")] {
        let options = json!({format!("{side}_layers"): 1});
        let short = with("bart", &format!("bart_{side}"), options, |weights| {
            weights.retain(|name, _| !name.contains(&format!("{side}.layers.1.")));
        });
        same(&short, &plain, "encoder.hidden_states.1");
        assert!(short.floats(&format!("{side}.hidden_states.2")).is_err());
        assert!(short.floats(&format!("{other}.hidden_states.2")).is_ok());
    }
}

#[test]
fn t5s_gates_and_sides_of_other_sizes() {
    let plain = fixture("t5");
    let short = with("t5", "t5_short", json!({"num_decoder_layers": 1}), |weights| {
        weights.retain(|name, _| !name.contains("decoder.block.1."));
    });
    same(&short, &plain, "encoder.hidden_states.2");
    assert!(short.floats("decoder.hidden_states.2").is_err());
    // One block whose attention adds nothing: its feed-forward and the last norm are left.
    let options = json!({
        "feed_forward_proj": "gated-gelu", "is_gated_act": true, "dense_act_fn": "gelu_new",
        "num_layers": 1, "num_decoder_layers": 2,
    });
    let mut kept = Parameters::new();
    let gated = with("t5", "t5_gated", options, |weights| {
        weights.retain(|name, _| !name.contains("encoder.block.1."));
        for (n, name) in
            ["encoder.block.0.layer.1", "decoder.block.0.layer.2", "decoder.block.1.layer.2"]
                .into_iter()
                .enumerate()
        {
            let at = |part: &str| format!("{name}.DenseReluDense.{part}.weight");
            weights.remove(&at("wi")).unwrap();
            weights.insert(at("wi_0"), noise(40 + n, &[56, 32]));
            weights.insert(at("wi_1"), noise(45 + n, &[56, 32]));
        }
        weights.insert(
            "encoder.block.0.layer.0.SelfAttention.o.weight".to_owned(),
            Tensor::zeros(&[32, 32]),
        );
        kept = weights.clone();
    });
    let norm = |x: &[f64], name: &str| -> Vec<f64> {
        let square = x.iter().map(|x| x * x).sum::<f64>() / 32.0;
        let weight = kept[name].data();
        x.iter().zip(weight).map(|(x, &w)| x / (square + 1e-6).sqrt() * f64::from(w)).collect()
    };
    let dots = |x: &[f64], part: &str| -> Vec<f64> {
        let map = &kept[&format!("encoder.block.0.layer.1.DenseReluDense.{part}.weight")];
        let dot = |row: &[f32]| row.iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum();
        (0..map.rows()).map(|i| dot(map.row(i))).collect()
    };
    let (before, after) = (
        gated.floats("encoder.hidden_states.0").unwrap(),
        gated.floats("encoder.hidden_states.1").unwrap(),
    );
    for i in 0..before.rows() {
        let x: Vec<f64> = before.row(i).iter().map(|&x| x.into()).collect();
        let n = norm(&x, "encoder.block.0.layer.1.layer_norm.weight");
        let gate = dots(&n, "wi_0").into_iter().map(|x| {
            0.5 * x
                * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        });
        let inside: Vec<f64> = gate.zip(dots(&n, "wi_1")).map(|(g, x)| g * x).collect();
        let y: Vec<f64> = dots(&inside, "wo").iter().zip(&x).map(|(y, x)| x + y).collect();
        let want: Vec<f32> =
            norm(&y, "encoder.final_layer_norm.weight").iter().map(|&x| x as f32).collect();
        near(after.row(i), &want, "a gated feed-forward");
    }
}

#[test]
fn ernies_tasks_are_one_more_row_to_add() {
    let row = |weights: &Parameters| {
        weights["ernie.embeddings.task_type_embeddings.weight"].row(1).to_vec()
    };
    let tasks = changed("ernie_tasks", "ernie", json!({}), |_| ()).unwrap();
    let ids = ids(3, 9, 120);
    let inputs = Inputs::new().ints_of("input_ids", &[1, 9], ids);
    let with_task = run(&tasks, &inputs.clone().ints_of("task_type_ids", &[1, 9], vec![1; 9]));
    let without = changed("ernie_plain", "ernie", json!({"use_task_id": false}), |weights| {
        let row = row(weights);
        let words = weights.get_mut("ernie.embeddings.word_embeddings.weight").unwrap();
        words.data_mut().iter_mut().enumerate().for_each(|(n, x)| *x += row[n % 32]);
        weights.remove("ernie.embeddings.task_type_embeddings.weight").unwrap();
    });
    same(&run(&without.unwrap(), &inputs), &with_task, "hidden_states.2");
}

#[test]
fn mockingjays_shared_layer_and_its_squares() {
    const LAYER: &str = "Transformer.encoder.layer.";
    let copies = with("mockingjay", "mockingjay_copies", json!({}), |weights| {
        weights.retain(|name, _| !name.starts_with(&format!("{LAYER}1.")));
        copied(weights, &format!("{LAYER}0."), &format!("{LAYER}1."));
    });
    let options = json!({"share_layer": true, "loss": "MSE"});
    let shared = with("mockingjay", "mockingjay_shared", options, |weights| {
        weights.retain(|name, _| !name.starts_with(&format!("{LAYER}1.")));
    });
    same(&shared, &copies, "predicted");
    let (inputs, predicted) = (given("mockingjay"), shared.floats("predicted").unwrap());
    let (target, marked) =
        (inputs.floats("spec_target").unwrap(), inputs.ints("mask_label").unwrap());
    let entries: Vec<usize> = (0..marked.data.len()).filter(|&i| marked.data[i] != 0).collect();
    let square = |&i: &usize| f64::from(predicted.data()[i] - target.data()[i]).powi(2);
    let want = entries.iter().map(square).sum::<f64>() / entries.len() as f64;
    near(shared.floats("loss").unwrap().data(), &[want as f32], "the mean square");
}

#[test]
fn options_of_published_models() {
    let gpt = json!({"n_ctx": 32, "predict_special_tokens": true, "summary_type": "cls_index"});
    for (name, options) in [
        ("bert", json!({"directionality": "bidi", "pooler_type": "first_token_transform"})),
        ("albert", json!({"net_structure_type": 0, "gap_size": 0, "num_memory_blocks": 0})),
        ("longformer", json!({"attention_mode": "longformer", "ignore_attention_mask": false})),
        ("gpt", gpt.clone()),
        ("turing_nlg", gpt),
        ("transfo_xl", json!({"tie_weight": true, "ext_len": 0, "tgt_len": 128})),
        ("reformer", json!({"sinusoidal_pos_embds": false, "output_past": true})),
        (
            "bart",
            json!({
                "normalize_before": false, "normalize_embedding": true, "classif_dropout": 0.1,
                "static_position_embeddings": false, "extra_pos_embeddings": 2,
                "add_bias_logits": false, "add_final_layer_norm": false, "min_length": 12,
            }),
        ),
        ("t5", json!({"n_positions": 512, "output_past": true})),
        (
            "wav2vec2",
            json!({"mask_channel_prob": 0.1, "no_mask_time_overlap": false, "gradient_checkpointing": true}),
        ),
    ] {
        changed(&format!("published_{name}"), name, options, |_| ()).unwrap();
    }
    for (name, options, words) in [
        ("bart", json!({"normalize_before": true}), ["normalize_before", "only false"]),
        ("bart", json!({"extra_pos_embeddings": 0}), ["extra_pos_embeddings", "only 2"]),
        ("longformer", json!({"attention_mode": "tvm"}), ["attention_mode", "longformer"]),
        ("albert", json!({"net_structure_type": 1}), ["net_structure_type", "only 0"]),
        ("transfo_xl", json!({"tie_weight": false}), ["tie_weight", "only true"]),
    ] {
        let refused = changed("published_other", name, options, |_| ());
        common::fails(refused, &words);
    }
}

#[test]
fn a_plain_distilbert_of_the_published_kind() {
    let folder = copy("distilbert_alone", "distilbert");
    let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    let mut student = config["student"].take();
    student["tie_weights_"] = json!(true);
    std::fs::write(folder.join("config.json"), student.to_string()).unwrap();
    let own = |(name, x): (&String, &Tensor)| {
        Some((name.strip_prefix("student.")?.to_owned(), x.clone()))
    };
    let weights = parameters(&folder).iter().filter_map(own).collect();
    common::write_parameters(&folder, &weights);
    let alone = run(&Model::open(&folder).unwrap(), &given("distilbert"));
    let (got, both) = (alone.floats("logits").unwrap(), fixture("distilbert"));
    near(got.data(), both.floats("student.logits").unwrap().data(), "logits");
}

#[test]
fn weights_of_16_bits_are_the_same_numbers_in_32() {
    for (dtype, bits) in [(safetensors::Dtype::F16, 10), (safetensors::Dtype::BF16, 7)] {
        let narrow = copy(&format!("bert_{bits}"), "bert");
        let wide = copy(&format!("bert_{bits}_wide"), "bert");
        let mut rounded = parameters(&narrow);
        let mut bytes: Parameters16 = Vec::new();
        for (name, x) in &mut rounded {
            let halves: Vec<(u16, f32)> = x.data().iter().map(|&x| half_of(x, bits)).collect();
            *x = Tensor::new(x.shape(), halves.iter().map(|h| h.1).collect());
            let data = halves.iter().flat_map(|h| h.0.to_le_bytes()).collect();
            bytes.push((name.clone(), x.shape().to_vec(), data));
        }
        common::write_parameters(&wide, &rounded);
        let views = bytes.iter().map(|(name, shape, data)| {
            (name, safetensors::tensor::TensorView::new(dtype, shape.clone(), data).unwrap())
        });
        safetensors::serialize_to_file(views, None, &narrow.join("model.safetensors")).unwrap();
        let of = |folder| run(&Model::open(folder).unwrap(), &given("bert"));
        let (narrow, wide) = (of(&narrow), of(&wide));
        let logits = |out: &Outputs| out.floats("prediction_logits").unwrap().data().to_vec();
        assert_eq!(logits(&narrow), logits(&wide), "{dtype:?}");
        differ(&narrow, &fixture("bert"), "prediction_logits");
    }
}

/// Names, shapes and bytes.
type Parameters16 = Vec<(String, Vec<usize>, Vec<u8>)>;

/// The 16-bit number with so many bits of mantissa, and its value.
fn half_of(x: f32, bits: u32) -> (u16, f32) {
    match bits {
        10 => (half::f16::from_f32(x).to_bits(), half::f16::from_f32(x).to_f32()),
        _ => (half::bf16::from_f32(x).to_bits(), half::bf16::from_f32(x).to_f32()),
    }
}
