//! What a row of the table and a config say together: how large a model is.

use crate::attention::Heads;
use crate::ops::Activation;
use crate::parts::{Linear, Norm};
use crate::traits::{Factorised, Side, Traits};
use crate::{Config, Result, Tensor, Weights, ensure};

/// A model's sizes, from its config.
#[derive(Clone)]
pub struct Sizes {
    /// The row that they are of.
    pub traits: Traits,
    /// Width of the states.
    pub hidden: usize,
    /// Blocks.
    pub layers: usize,
    /// Heads of a block.
    pub heads: Heads,
    /// Widths that queries, keys and values are projected from.
    pub projected_from: [usize; 3],
    /// Width inside the feed-forward.
    pub inner: usize,
    /// Rows of the word table.
    pub vocab: usize,
    /// Rows of the position table.
    pub positions: usize,
    /// Rows of the table of token types.
    pub types: usize,
    /// Width of the tables.
    pub embedding: usize,
    /// Between the maps of the feed-forward.
    pub activation: Activation,
    /// The feed-forward has a gate.
    pub gated: bool,
    /// The norms' epsilon.
    pub eps: f64,
    /// The padding's id.
    pub pad: usize,
    /// The head's matrix is the word table.
    pub tied: bool,
}

impl Sizes {
    /// Reads what every row of the table has.
    ///
    /// # Errors
    ///
    /// If a size is absent or has no meaning, or an option asks for what nobody supports.
    pub fn read(traits: &Traits, config: &Config) -> Result<Self> {
        let blocks = Sizes::read_blocks(traits, config)?;
        Ok(Sizes {
            vocab: config.positive("vocab_size")?,
            positions: config.positive(traits.keys.positions)?,
            types: if traits.token_types { config.size_or("type_vocab_size", 2)? } else { 0 },
            embedding: match traits.factorised {
                Factorised::No => blocks.hidden,
                _ => config.positive("embedding_size")?,
            },
            pad: config.size_or("pad_token_id", 0)?,
            ..blocks
        })
    }

    /// The sizes of a stack without tables: what has no words.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn read_blocks(traits: &Traits, config: &Config) -> Result<Self> {
        let keys = traits.keys;
        let hidden = config.positive(keys.hidden)?;
        let count = config.positive(keys.heads)?;
        let own = config.size_or(keys.head_dim, 0)?;
        let rule = format!("must be a multiple of {} = {count}", keys.heads);
        let fits = own > 0 || hidden.is_multiple_of(count);
        ensure(fits, format_args!("config: {}", keys.hidden), hidden, rule)?;
        let heads = Heads::new(count, if own > 0 { own } else { hidden / count });
        config.only("is_encoder_decoder", traits.side != Side::Alone)?;
        let (activation, default) = keys.activation;
        Ok(Sizes {
            traits: *traits,
            hidden,
            heads: if traits.scaled { heads } else { Heads { scale: 1.0, ..heads } },
            layers: if keys.layers.is_empty() { 0 } else { config.size(keys.layers)? },
            projected_from: [hidden; 3],
            inner: config.optional_size(keys.inner)?.filter(|&n| n > 0).unwrap_or(4 * hidden),
            vocab: 0,
            positions: 0,
            types: 0,
            embedding: hidden,
            activation: match config.activation_or(activation, default)? {
                Activation::Gelu if keys.gelu_is_tanh => Activation::GeluTanh,
                other => other,
            },
            gated: false,
            eps: config.number_or(keys.eps.0, keys.eps.1)?,
            pad: 0,
            tied: config.flag_or("tie_word_embeddings", true)?,
        })
    }

    /// The table of words.
    ///
    /// # Errors
    ///
    /// If it is absent or misshapen.
    pub fn words(&self, tables: &Weights) -> Result<Tensor> {
        tables.tensor(self.traits.names.word, &[self.vocab, self.embedding])
    }

    /// The head's matrix: the table of words or, if it is not tied, the tensor `name`.
    ///
    /// # Errors
    ///
    /// If that is absent or misshapen.
    pub fn head(&self, weights: &Weights, name: &str, words: &Tensor) -> Result<Tensor> {
        if self.tied { Ok(words.clone()) } else { weights.tensor(name, words.shape()) }
    }

    /// A map as the row stores them, with a bias if its maps have one.
    ///
    /// # Errors
    ///
    /// If a parameter is absent or misshapen.
    pub fn map(&self, weights: &Weights, name: &str, from: usize, to: usize) -> Result<Linear> {
        Linear::read_as(weights, name, from, to, self.traits.order, self.traits.biased)
    }

    /// A norm of the row's kind.
    ///
    /// # Errors
    ///
    /// If a parameter is absent or misshapen.
    pub fn norm(&self, weights: &Weights, name: &str, width: usize) -> Result<Norm> {
        Norm::read(weights, name, width, self.traits.norm, self.eps)
    }
}
