//! Options of encoders.

use super::*;

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

/// Attention that reads what the bottleneck's input makes, with the map of queries and keys stored
/// beside it, as the public implementation writes it.
#[test]
fn mobileberts_attention_may_read_the_bottlenecks_input() {
    const LAYER: &str = "mobilebert.encoder.layer.";
    let values = |layer: usize| noise(90 + layer, &[24, 24]);
    let narrow = json!({"use_bottleneck_attention": true});
    let narrow = with("mobilebert", "mobilebert_narrow", narrow, |weights| {
        for layer in 0..2 {
            weights.insert(format!("{LAYER}{layer}.attention.self.value.weight"), values(layer));
        }
    });
    // The same by maps of the wide states: what queries and keys share is the input's map, and
    // values have it in theirs, since the norm is affine.
    let wide = with("mobilebert", "mobilebert_wide", json!({}), |weights| {
        for layer in 0..2 {
            let at = |name: &str| format!("{LAYER}{layer}.{name}");
            let from = at("bottleneck.input.");
            copied(weights, &from, &at("bottleneck.attention."));
            let take = |name: &str| weights[&format!("{from}{name}")].clone();
            let (d, d_bias) = (take("dense.weight"), take("dense.bias"));
            let (n, n_bias) = (take("LayerNorm.weight"), take("LayerNorm.bias"));
            let rows = (0..24).flat_map(|i| d.row(i).iter().map(move |x| (i, x)));
            let inner = Tensor::new(&[24, 48], rows.map(|(i, x)| x * n.data()[i]).collect());
            let shift = (0..24).map(|i| d_bias.data()[i] * n.data()[i] + n_bias.data()[i]);
            let moved = product(&Tensor::new(&[1, 24], shift.collect()), &values(layer), true);
            let bias = weights.get_mut(&at("attention.self.value.bias")).unwrap();
            bias.data_mut().iter_mut().zip(moved.data()).for_each(|(b, m)| *b += m);
            let name = at("attention.self.value.weight");
            weights.insert(name, product(&values(layer), &inner, false));
        }
    });
    same(&narrow, &wide, "hidden_states.2");
}

/// Parameters that nothing reads where the tables are as wide as the states.
#[test]
fn mobileberts_tables_of_full_width() {
    let options = json!({"embedding_size": 48, "trigram_input": false});
    const TABLE: &str = "mobilebert.embeddings.word_embeddings.weight";
    const MAP: &str = "mobilebert.embeddings.embedding_transformation.weight";
    let full = |test: &str, map: Tensor| {
        with("mobilebert", test, options.clone(), |weights| {
            weights.insert(TABLE.to_owned(), noise(95, &[120, 48]));
            weights.insert(MAP.to_owned(), map);
            let rest = "cls.predictions.dense.weight".to_owned();
            weights.insert(rest, Tensor::new(&[0, 120], Vec::new()));
        })
    };
    let [some, other] = [("full", 96), ("full_other", 97)]
        .map(|(test, seed)| full(&format!("mobilebert_{test}"), noise(seed, &[48, 48])));
    same(&some, &other, "prediction_logits");
    // A map that changes nothing, of words with their neighbours, whose parts are zeros.
    let one = (0..48 * 144).map(|n| if n % 144 == n / 144 + 48 { 1.0 } else { 0.0 }).collect();
    let mapped = with("mobilebert", "mobilebert_full_map", json!({"embedding_size": 48}), |w| {
        w.insert(TABLE.to_owned(), noise(95, &[120, 48]));
        w.insert(MAP.to_owned(), Tensor::new(&[48, 144], one));
        w.get_mut(&MAP.replace("weight", "bias")).unwrap().data_mut().fill(0.0);
        w.remove("cls.predictions.dense.weight").unwrap();
    });
    same(&some, &mapped, "prediction_logits");
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
