//! Options of decoders, and of encoders with decoders.

use super::*;

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
        // Projections are shared by all clusters but the first, where no list says.
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("transfo_xl_{test}"));
        common::unset_option(&folder, "tie_projs");
        let unsaid = run(&Model::open(&folder).unwrap(), &given("transfo_xl"));
        same(&unsaid, &narrow, "segment.2.log_probs");
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

/// Rows as f64, and the plain operations on them.
type Rows = Vec<Vec<f64>>;

fn rows_of(x: &Tensor) -> Rows {
    (0..x.rows()).map(|i| x.row(i).iter().map(|&x| x.into()).collect()).collect()
}

fn mapped(x: &Rows, weight: &Tensor, bias: Option<&Tensor>) -> Rows {
    let dot = |x: &[f64], w: &[f32]| x.iter().zip(w).map(|(x, &w)| x * f64::from(w)).sum::<f64>();
    let of = |x: &Vec<f64>| {
        let add = |i: usize| bias.map_or(0.0, |b| f64::from(b.data()[i]));
        (0..weight.rows()).map(|i| dot(x, weight.row(i)) + add(i)).collect()
    };
    x.iter().map(of).collect()
}

fn normed(x: &Rows, weight: &Tensor, bias: &Tensor) -> Rows {
    let of = |x: &Vec<f64>| {
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
        let scaled = x.iter().zip(weight.data()).zip(bias.data());
        scaled
            .map(|((x, &w), &b)| {
                (x - mean) / (variance + 1e-5).sqrt() * f64::from(w) + f64::from(b)
            })
            .collect()
    };
    x.iter().map(of).collect()
}

#[test]
fn transformer_xl_with_norms_in_front() {
    const MEMORY: usize = 3;
    let options = json!({
        "pre_lnorm": true, "n_layer": 1, "mem_len": MEMORY, "same_length": false, "clamp_len": -1,
    });
    let mut weights = Parameters::new();
    let out = with("transfo_xl", "transfo_xl_pre", options, |all| {
        all.retain(|name, _| !name.contains("layers.1."));
        weights = all.clone();
    });
    let own = |name: &str| &weights[&format!("transformer.layers.0.{name}")];
    let norm = |x: &Rows, name: &str| {
        normed(
            x,
            own(&format!("{name}.layer_norm.weight")),
            own(&format!("{name}.layer_norm.bias")),
        )
    };
    let x = out.floats("segment.0.hidden_states.0").unwrap();
    let length = x.shape()[1];
    // The first sequence; its memory is of zeros, which the norm makes its bias.
    let x: Rows = rows_of(x)[..length].to_vec();
    let all = [vec![vec![0.0; 32]; MEMORY], x.clone()].concat();
    let qkv = mapped(&norm(&all, "dec_attn"), own("dec_attn.qkv_net.weight"), None);
    let position = |p: usize| {
        let angle = |i: usize| p as f64 / 10_000f64.powf(2.0 * i as f64 / 32.0);
        (0..16).map(|i| angle(i).sin()).chain((0..16).map(|i| angle(i).cos())).collect()
    };
    let table: Rows = (0..MEMORY + length).map(position).collect();
    let table = mapped(&table, own("dec_attn.r_net.weight"), None);
    let (u, v) = (own("dec_attn.r_w_bias"), own("dec_attn.r_r_bias"));
    let mut mixed = vec![vec![0.0; 32]; length];
    for (i, mixed) in mixed.iter_mut().enumerate() {
        for h in 0..4 {
            let score = |j: usize| {
                let term = |e: usize| {
                    let (c, q) = (h * 8 + e, qkv[MEMORY + i][h * 8 + e]);
                    (q + f64::from(u.data()[c])) * qkv[j][32 + c]
                        + (q + f64::from(v.data()[c])) * table[MEMORY + i - j][c]
                };
                ((0..8).map(term).sum::<f64>() / 8f64.sqrt()).exp()
            };
            let scores: Vec<f64> = (0..=MEMORY + i).map(score).collect();
            let sum: f64 = scores.iter().sum();
            for (j, s) in scores.iter().enumerate() {
                (h * 8..h * 8 + 8).for_each(|c| mixed[c] += s / sum * qkv[j][64 + c]);
            }
        }
    }
    let add = |a: &Rows, b: &Rows| -> Rows {
        a.iter().zip(b).map(|(a, b)| a.iter().zip(b).map(|(a, b)| a + b).collect()).collect()
    };
    let y = add(&mapped(&mixed, own("dec_attn.o_net.weight"), None), &x);
    let (up, up_bias) = (own("pos_ff.CoreNet.0.weight"), own("pos_ff.CoreNet.0.bias"));
    let mut inside = mapped(&norm(&y, "pos_ff"), up, Some(up_bias));
    inside.iter_mut().flatten().for_each(|x| *x = x.max(0.0));
    let (down, down_bias) = (own("pos_ff.CoreNet.3.weight"), own("pos_ff.CoreNet.3.bias"));
    let want = add(&mapped(&inside, down, Some(down_bias)), &y);
    let got = out.floats("segment.0.hidden_states.1").unwrap();
    for (i, want) in want.iter().enumerate() {
        let want: Vec<f32> = want.iter().map(|&x| x as f32).collect();
        near(got.row(i), &want, "a layer with norms in front");
    }
}

/// A file of the body alone, as the public `BartModel` writes it and `bart-base` is published; its
/// logits are those of the tied table.
#[test]
fn a_body_of_bart() {
    let plain = json!({"tie_word_embeddings": true});
    let whole = with("bart", "bart_whole", plain.clone(), |weights| {
        let bias = weights.get_mut("final_logits_bias").unwrap();
        *bias = Tensor::zeros(bias.shape());
    });
    let body = with("bart", "bart_body", plain, |weights| {
        let own = |(name, x): (&String, &Tensor)| {
            Some((name.strip_prefix("model.")?.to_owned(), x.clone()))
        };
        *weights = weights.iter().filter_map(own).collect();
    });
    for name in ["encoder.hidden_states.2", "decoder.hidden_states.2", "logits"] {
        same(&body, &whole, name);
    }
}
