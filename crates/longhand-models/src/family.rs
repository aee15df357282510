//! The family in one table: what each model does otherwise than BERT.
//!
//! BERT is a row of embeddings (word + position + token type, normed), a stack of equal blocks
//! (attention over all positions, then a feed-forward; each added to its input, then normed), and
//! heads. Every other row takes BERT's and changes what the paper changed.

use crate::block::Place;
use crate::members::{self, characters, elmo, fasttext, glove, word2vec};
use crate::ops::Activation;
use crate::parts::{NormKind, Order};
use crate::traits::{Factorised, PairHead, Positions, Read, Side, TokenHead, Traits};
use crate::{Config, Error, Result, network, objectives};

const MLM: TokenHead =
    TokenHead { transform: true, activation: None, bias: true, output: "prediction_logits" };
const LM: TokenHead =
    TokenHead { transform: false, activation: None, bias: false, output: "logits" };
const NEXT_SENTENCE: PairHead =
    PairHead { labels: "next_sentence_label", output: "seq_relationship_logits" };

/// The measure of all others.
pub const BERT: Traits = Traits {
    model_type: "bert",
    marker: None,
    idea: "masked tokens and the next sentence, from both sides at once",
    order: Order::OutIn,
    place: Place::Post,
    norm: NormKind::Layer,
    embedding_norm: true,
    positions: Positions::Counted,
    token_types: true,
    factorised: Factorised::No,
    task_types: false,
    side: Side::Alone,
    causal: false,
    windowed: false,
    fused: false,
    biased: true,
    scaled: true,
    grouped: false,
    head: MLM,
    pooled: true,
    classes: None,
    pair: Some(NEXT_SENTENCE),
    judges: false,
    has_weights: true,
    read: network::read,
};

/// Without what is made of the first position.
const OF_TOKENS: Traits = Traits { pooled: false, pair: None, ..BERT };

const ROBERTA: Traits = Traits {
    model_type: "roberta",
    idea: "BERT's network, trained longer, masks drawn anew, without sentence pairs",
    positions: Positions::FromPadding,
    // Whatever `hidden_act` says.
    head: TokenHead { activation: Some(Activation::Gelu), output: "logits", ..MLM },
    classes: Some(Activation::Tanh),
    pair: None,
    ..BERT
};

const ELECTRA: Traits = Traits {
    model_type: "electra",
    idea: "tells real tokens from a small generator's",
    factorised: Factorised::IfNarrower,
    head: TokenHead { activation: Some(Activation::Gelu), output: "logits", ..MLM },
    classes: Some(Activation::Gelu),
    judges: true,
    ..OF_TOKENS
};

const DISTILBERT: Traits = Traits {
    model_type: "distilbert",
    idea: "half the blocks, taught by BERT's distribution",
    token_types: false,
    head: TokenHead { output: "logits", ..MLM },
    classes: Some(Activation::Relu),
    ..OF_TOKENS
};

const MOCKINGJAY: Traits = Traits {
    model_type: "mockingjay",
    idea: "frames of sound instead of words, sinusoids instead of a table of positions",
    token_types: false,
    read: members::mockingjay::read,
    ..OF_TOKENS
};

const GPT: Traits = Traits {
    model_type: "openai-gpt",
    idea: "no position sees a later one: the next token",
    order: Order::InOut,
    embedding_norm: false,
    token_types: false,
    causal: true,
    fused: true,
    head: LM,
    ..OF_TOKENS
};

const GPT2: Traits = Traits {
    model_type: "gpt2",
    idea: "GPT with norms in front (Turing-NLG is a large one)",
    place: Place::Pre,
    ..GPT
};

const TRANSFORMER_XL: Traits = Traits {
    model_type: "transfo-xl",
    order: Order::OutIn,
    idea: "a memory of earlier segments, and positions that are distances",
    read: members::transformer_xl::read,
    ..GPT
};

const BART: Traits = Traits {
    model_type: "bart",
    idea: "an encoder and a decoder that looks at it: noised text in, the original out",
    positions: Positions::FromTwo,
    token_types: false,
    side: Side::Encoder,
    head: TokenHead { bias: true, ..LM },
    read: members::seq2seq::read_bart,
    ..OF_TOKENS
};

/// A row of nothing that is BERT's.
const fn other(model_type: &'static str, idea: &'static str, read: Read) -> Traits {
    Traits { model_type, idea, read, ..BERT }
}

/// A row without a network: a rule that makes training examples, what each model is to undo.
const fn rule(model_type: &'static str, idea: &'static str, read: Read) -> Traits {
    Traits { has_weights: false, ..other(model_type, idea, read) }
}

/// Every row; those that others take from stand above, by their names here. Of rows of one
/// `model_type`, those with a marker stand first.
pub static FAMILY: &[Traits] = &[
    // StructBERT.
    Traits {
        marker: Some("sentence_classes"),
        idea: "shuffled words are put in order; previous, next or random sentence",
        pair: Some(PairHead { labels: "sentence_label", output: "sentence_logits" }),
        ..BERT
    },
    // UniLM.
    Traits {
        marker: Some("unilm_modes"),
        idea: "the mask decides: both sides, one side, or a source and its target",
        head: TokenHead { output: "logits", ..MLM },
        pair: None,
        read: members::unilm::read,
        ..BERT
    },
    BERT,
    ROBERTA,
    Traits {
        model_type: "longformer",
        idea: "long texts: a window in each block, and global positions where a task needs them",
        // The public class would make the first position global by itself.
        classes: None,
        windowed: true,
        ..ROBERTA
    },
    Traits {
        model_type: "albert",
        idea: "few parameters: narrow tables, one block used many times; order of sentences",
        factorised: Factorised::Always,
        grouped: true,
        pair: Some(PairHead { labels: "sentence_order_label", output: "sop_logits" }),
        ..BERT
    },
    Traits {
        model_type: "megatron-bert",
        idea: "norms in front, so that many blocks train",
        place: Place::Pre,
        embedding_norm: false,
        ..BERT
    },
    Traits {
        model_type: "ernie",
        idea: "whole words, phrases and entities are masked; a table of tasks",
        task_types: true,
        ..BERT
    },
    ELECTRA,
    Traits { model_type: "electra_pretraining", read: members::electra::read, ..ELECTRA },
    DISTILBERT,
    Traits {
        model_type: "distilbert_distillation",
        read: members::distillation::distilbert,
        ..DISTILBERT
    },
    Traits {
        model_type: "tinybert_distillation",
        idea: "narrower too, taught by BERT's scores and states layer by layer",
        read: members::distillation::tinybert,
        ..BERT
    },
    Traits {
        model_type: "mobilebert",
        idea: "a bottleneck around each block, several feed-forwards in it, norms without statistics",
        read: members::mobilebert::read,
        ..BERT
    },
    Traits {
        model_type: "q8bert",
        idea: "products of 8-bit integers",
        read: members::q8bert::read,
        ..BERT
    },
    MOCKINGJAY,
    Traits {
        model_type: "wav2vec2",
        idea: "frames that convolutions make of sound, positions by one more; a masked frame is told \
           by its entries in codebooks",
        read: members::wav2vec2::read,
        ..MOCKINGJAY
    },
    GPT,
    GPT2,
    Traits {
        model_type: "megatron_gpt",
        idea: "GPT-2 cut over many GPUs: a head's queries, keys and values lie together",
        order: Order::OutIn,
        ..GPT2
    },
    TRANSFORMER_XL,
    Traits {
        model_type: "xlnet",
        idea: "Transformer-XL's memory and distances; tokens in any order: contents are one stream, \
           queries that do not see what they predict another",
        causal: false,
        head: TokenHead { bias: true, ..LM },
        read: members::xlnet::read,
        ..TRANSFORMER_XL
    },
    Traits {
        model_type: "reformer",
        idea: "long texts in little memory: a position sees those that hash alike, or its neighbours; \
           positions of two axes; layers that can be run backwards",
        order: Order::OutIn,
        fused: false,
        head: TokenHead { bias: true, ..LM },
        read: members::reformer::read,
        ..GPT2
    },
    BART,
    Traits {
        model_type: "mass",
        idea: "BART's network; the decoder writes the span that the encoder does not see, in its place",
        head: LM,
        ..BART
    },
    Traits {
        model_type: "t5",
        idea: "norms in front, without means or biases; distances bias the scores, which are not scaled",
        positions: Positions::None,
        place: Place::Pre,
        norm: NormKind::Rms,
        embedding_norm: false,
        biased: false,
        scaled: false,
        head: LM,
        read: members::seq2seq::read_t5,
        ..BART
    },
    other(
        "word2vec_skipgram",
        "before BERT: one vector a word, such that it tells its neighbours from random words",
        word2vec::read,
    ),
    other("word2vec_cbow", "the neighbours together tell the word", word2vec::read),
    other(
        "glove",
        "word2vec from counts: products are logarithms of how often words stand together",
        glove::read,
    ),
    other(
        "fasttext",
        "word2vec with a vector for each run of characters, so that any word has one",
        fasttext::read,
    ),
    other("char_cnn", "before BERT: a word's vector from its characters", characters::read),
    other("elmo", "before BERT: recurrent, one direction at a time, all layers mixed", elmo::read),
    rule("rule_mlm_masking", "BERT's 80/10/10, of tokens or of whole words", objectives::mlm::read),
    rule("rule_ernie_masking", "of words, phrases and entities", objectives::ernie::read),
    rule("rule_mass_masking", "one span, for the decoder to write", objectives::mass::read),
    rule("rule_t5_span_corruption", "spans, each behind a sentinel", objectives::t5::read),
    rule("rule_bart_noising", "five kinds of noise, and insertion", objectives::bart::read),
    rule("rule_structbert_words", "trigrams out of order", objectives::structbert::read),
    rule("rule_sentence_pairs", "next, swapped, previous or random", objectives::pairs::read),
    rule("rule_xlnet_permutation", "who is told before whom", objectives::xlnet::read),
    rule("rule_audio_masking", "frames, spans, distractors", objectives::audio::read),
];

/// The row of a config.
///
/// # Errors
///
/// If its `model_type` is absent or not in the table.
pub fn row(config: &Config) -> Result<&'static Traits> {
    let model_type = config.text_or("model_type", "")?;
    let fits = |row: &&Traits| {
        row.model_type == model_type && row.marker.is_none_or(|marker| config.has(marker))
    };
    FAMILY.iter().find(fits).ok_or_else(|| {
        let mut known: Vec<&str> = FAMILY.iter().map(|row| row.model_type).collect();
        known.dedup();
        let rule = format!("must be one of {}", known.join(", "));
        Error::invalid("config: model_type", format!("{model_type:?}"), rule)
    })
}
