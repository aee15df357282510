//! The sample problems shipped inside the program.

/// Name and bytes of each, small problem files with expected results.
pub(crate) const ALL: [(&str, &[u8]); 17] = [
    ("length1", include_bytes!("../samples/length1.safetensors")),
    ("gqa_h4_kv2_causal", include_bytes!("../samples/gqa_h4_kv2_causal.safetensors")),
    ("window_9_0_causal", include_bytes!("../samples/window_9_0_causal.safetensors")),
    ("softcap_causal", include_bytes!("../samples/softcap_causal.safetensors")),
    ("varlen_window_alibi", include_bytes!("../samples/varlen_window_alibi.safetensors")),
    (
        "key_padding_with_empty_batch",
        include_bytes!("../samples/key_padding_with_empty_batch.safetensors"),
    ),
    (
        "causal_lq_gt_lk_empty_rows",
        include_bytes!("../samples/causal_lq_gt_lk_empty_rows.safetensors"),
    ),
    ("combined", include_bytes!("../samples/combined.safetensors")),
    ("globals_scattered_w4", include_bytes!("../samples/globals_scattered_w4.safetensors")),
    ("dilation_1_2_3", include_bytes!("../samples/dilation_1_2_3.safetensors")),
    ("padding_and_globals", include_bytes!("../samples/padding_and_globals.safetensors")),
    ("rounds_2_causal", include_bytes!("../samples/lsh_rounds_2_causal.safetensors")),
    ("factorised_4_2", include_bytes!("../samples/lsh_factorised_4_2.safetensors")),
    ("padding", include_bytes!("../samples/lsh_padding.safetensors")),
    ("same_length", include_bytes!("../samples/same_length.safetensors")),
    ("bi_two_streams_mem", include_bytes!("../samples/bi_two_streams_mem.safetensors")),
    ("cached_keys_6_chunk_4", include_bytes!("../samples/cached_keys_6_chunk_4.safetensors")),
];
