//! Folders as they are published.

use super::*;

#[test]
fn options_of_published_models() {
    let gpt = json!({"n_ctx": 32, "predict_special_tokens": true, "summary_type": "cls_index"});
    for (i, (name, options)) in [
        ("bert", json!({"directionality": "bidi", "chunk_size_feed_forward": 8, "pooler_type": "first_token_transform"})),
        (
            "bert",
            json!({
                "torchscript": false, "use_bfloat16": false, "tie_encoder_decoder": false,
                "tf_legacy_loss": false, "temperature": 1.0, "typical_p": 1.0, "num_beam_groups": 1,
                "diversity_penalty": 0.0, "encoder_no_repeat_ngram_size": 0, "output_scores": false,
                "remove_invalid_values": false, "return_dict_in_generate": false,
            }),
        ),
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
    ]
    .into_iter()
    .enumerate()
    {
        changed(&format!("published_{i}"), name, options, |_| ()).unwrap();
    }
    for (name, options, words) in [
        ("bart", json!({"normalize_before": true}), ["normalize_before", "only false"]),
        ("bart", json!({"extra_pos_embeddings": 0}), ["extra_pos_embeddings", "only 2"]),
        ("longformer", json!({"attention_mode": "tvm"}), ["attention_mode", "longformer"]),
        ("albert", json!({"net_structure_type": 1}), ["net_structure_type", "only 0"]),
        ("t5", json!({"feed_forward_proj": "gated-mish"}), ["feed_forward_proj", "gated-mish"]),
        ("transfo_xl", json!({"tie_weight": false}), ["tie_weight", "only true"]),
        // Nothing would be seen.
        ("transfo_xl", json!({"mem_len": 0}), ["mem_len = 0", "same_length"]),
        ("bert", json!({"tie_encoder_decoder": true}), ["tie_encoder_decoder", "only false"]),
        // Options of GPT-2, and of Megatron's checkpoints of it.
        ("gpt", json!({"scale_attn_weights": false}), ["scale_attn_weights", "no such option"]),
        ("gpt", json!({"scale_attn_by_inverse_layer_idx": true}), ["inverse_layer", "no such"]),
        ("turing_nlg", json!({"megatron_checkpoint_version": 2.0}), ["megatron", "no such option"]),
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
