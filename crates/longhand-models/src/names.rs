//! What checkpoints call the parameters of the same things.

/// The parameters. Those of `body` stand under `prefix` (or, in a file of the body alone, under
/// nothing); those of a block under `layer`, whose `{}` is its number.
pub struct Names {
    /// Before the body's parameters.
    pub prefix: &'static str,
    /// The table of words (a file of the body alone is told by it), and those of positions and
    /// token types.
    pub word: &'static str,
    /// Positions.
    pub position: &'static str,
    /// Token types.
    pub token_type: &'static str,
    /// The norm after the embeddings.
    pub embedding_norm: &'static str,
    /// From the width of the tables to that of the states.
    pub embedding_map: &'static str,
    /// Before a block's parameters.
    pub layer: &'static str,
    /// The projections of queries, keys and values; the first of all three, if they are fused.
    pub projections: [&'static str; 3],
    /// Out of the heads.
    pub out: &'static str,
    /// The attention's norm.
    pub attention_norm: &'static str,
    /// Of attention over an encoder's states: what stands in the four projections' names, and what
    /// in its place.
    pub cross: [&'static str; 2],
    /// And its norm.
    pub cross_norm: &'static str,
    /// Into the feed-forward (with a gate, `_1` after it, and the gate's `_0`) and out of it.
    pub feed: [&'static str; 2],
    /// Its norm.
    pub feed_norm: &'static str,
    /// The norm after the last block, where norms stand in front.
    pub final_norm: &'static str,
    /// The head over the vocabulary (not under the prefix): its map, norm, bias and, where it is
    /// not tied, its matrix.
    pub head_map: &'static str,
    /// The head's norm.
    pub head_norm: &'static str,
    /// The logits' bias.
    pub head_bias: &'static str,
    /// The matrix of a head that is not tied, with `.weight`.
    pub head_decoder: &'static str,
}

pub(crate) const BERT_NAMES: Names = Names {
    prefix: "bert.",
    word: "embeddings.word_embeddings.weight",
    position: "embeddings.position_embeddings.weight",
    token_type: "embeddings.token_type_embeddings.weight",
    embedding_norm: "embeddings.LayerNorm",
    embedding_map: "",
    layer: "encoder.layer.{}.",
    projections: ["attention.self.query", "attention.self.key", "attention.self.value"],
    out: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    cross: ["", ""],
    cross_norm: "",
    feed: ["intermediate.dense", "output.dense"],
    feed_norm: "output.LayerNorm",
    final_norm: "",
    head_map: "cls.predictions.transform.dense",
    head_norm: "cls.predictions.transform.LayerNorm",
    head_bias: "cls.predictions.bias",
    head_decoder: "cls.predictions.decoder",
};

pub(crate) const ERNIE_NAMES: Names = Names { prefix: "ernie.", ..BERT_NAMES };

pub(crate) const MOBILE_NAMES: Names = Names { prefix: "mobilebert.", ..BERT_NAMES };

pub(crate) const ROBERTA_NAMES: Names = Names {
    prefix: "roberta.",
    head_map: "lm_head.dense",
    head_norm: "lm_head.layer_norm",
    head_bias: "lm_head.bias",
    head_decoder: "lm_head.decoder",
    ..BERT_NAMES
};

pub(crate) const LONGFORMER_NAMES: Names = Names { prefix: "longformer.", ..ROBERTA_NAMES };

pub(crate) const MOCKINGJAY_NAMES: Names = Names { prefix: "Transformer.", ..BERT_NAMES };

pub(crate) const WAV2VEC2_NAMES: Names = Names {
    prefix: "wav2vec2.",
    // Frames have it in place of a table.
    word: "feature_projection.projection.weight",
    layer: "layers.{}.",
    projections: ["attention.q_proj", "attention.k_proj", "attention.v_proj"],
    out: "attention.out_proj",
    attention_norm: "layer_norm",
    feed: ["feed_forward.intermediate_dense", "feed_forward.output_dense"],
    feed_norm: "final_layer_norm",
    final_norm: "layer_norm",
    ..BERT_NAMES
};

pub(crate) const ELECTRA_NAMES: Names = Names {
    prefix: "electra.",
    embedding_map: "embeddings_project",
    head_map: "generator_predictions.dense",
    head_norm: "generator_predictions.LayerNorm",
    head_bias: "generator_lm_head.bias",
    head_decoder: "generator_lm_head",
    ..BERT_NAMES
};

pub(crate) const MEGATRON_BERT_NAMES: Names = Names {
    attention_norm: "attention.ln",
    feed_norm: "ln",
    final_norm: "encoder.ln",
    ..BERT_NAMES
};

pub(crate) const ALBERT_NAMES: Names = Names {
    prefix: "albert.",
    embedding_map: "encoder.embedding_hidden_mapping_in",
    layer: "encoder.albert_layer_groups.{}.albert_layers.{}.",
    projections: ["attention.query", "attention.key", "attention.value"],
    out: "attention.dense",
    attention_norm: "attention.LayerNorm",
    feed: ["ffn", "ffn_output"],
    feed_norm: "full_layer_layer_norm",
    head_map: "predictions.dense",
    head_norm: "predictions.LayerNorm",
    head_bias: "predictions.bias",
    head_decoder: "predictions.decoder",
    ..BERT_NAMES
};

pub(crate) const DISTIL_NAMES: Names = Names {
    prefix: "distilbert.",
    layer: "transformer.layer.{}.",
    projections: ["attention.q_lin", "attention.k_lin", "attention.v_lin"],
    out: "attention.out_lin",
    attention_norm: "sa_layer_norm",
    feed: ["ffn.lin1", "ffn.lin2"],
    feed_norm: "output_layer_norm",
    head_map: "vocab_transform",
    head_norm: "vocab_layer_norm",
    head_bias: "vocab_projector.bias",
    head_decoder: "vocab_projector",
    ..BERT_NAMES
};

pub(crate) const BART_NAMES: Names = Names {
    prefix: "model.",
    word: "shared.weight",
    position: "embed_positions.weight",
    embedding_norm: "layernorm_embedding",
    layer: "layers.{}.",
    projections: ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    out: "self_attn.out_proj",
    attention_norm: "self_attn_layer_norm",
    cross: ["self_attn", "encoder_attn"],
    cross_norm: "encoder_attn_layer_norm",
    feed: ["fc1", "fc2"],
    feed_norm: "final_layer_norm",
    ..BERT_NAMES
};

pub(crate) const T5_NAMES: Names = Names {
    prefix: "",
    word: "shared.weight",
    layer: "block.{}.",
    projections: ["layer.0.SelfAttention.q", "layer.0.SelfAttention.k", "layer.0.SelfAttention.v"],
    out: "layer.0.SelfAttention.o",
    attention_norm: "layer.0.layer_norm",
    feed: ["layer.1.DenseReluDense.wi", "layer.1.DenseReluDense.wo"],
    feed_norm: "layer.1.layer_norm",
    final_norm: "final_layer_norm",
    ..BERT_NAMES
};

pub(crate) const T5_DECODER_NAMES: Names = Names {
    cross: ["layer.0.SelfAttention", "layer.1.EncDecAttention"],
    cross_norm: "layer.1.layer_norm",
    feed: ["layer.2.DenseReluDense.wi", "layer.2.DenseReluDense.wo"],
    feed_norm: "layer.2.layer_norm",
    ..T5_NAMES
};

pub(crate) const GPT_NAMES: Names = Names {
    prefix: "transformer.",
    word: "tokens_embed.weight",
    position: "positions_embed.weight",
    layer: "h.{}.",
    projections: ["attn.c_attn", "", ""],
    out: "attn.c_proj",
    attention_norm: "ln_1",
    feed: ["mlp.c_fc", "mlp.c_proj"],
    feed_norm: "ln_2",
    head_decoder: "lm_head",
    ..BERT_NAMES
};

pub(crate) const GPT2_NAMES: Names =
    Names { word: "wte.weight", position: "wpe.weight", final_norm: "ln_f", ..GPT_NAMES };

pub(crate) const MEGATRON_NAMES: Names = Names {
    prefix: "",
    word: "embedding.word_embeddings.weight",
    position: "embedding.position_embeddings.weight",
    layer: "transformer.layers.{}.",
    projections: ["attention.query_key_value", "", ""],
    out: "attention.dense",
    attention_norm: "input_layernorm",
    feed: ["mlp.dense_h_to_4h", "mlp.dense_4h_to_h"],
    feed_norm: "post_attention_layernorm",
    final_norm: "transformer.final_layernorm",
    ..GPT2_NAMES
};
