//! What a row of the table and a config say together: how large a model is.

use crate::attention::Heads;
use crate::config::WORDS;
use crate::ops::Activation;
use crate::parts::{Linear, Norm};
use crate::traits::{Factorised, Side, Traits};
use crate::{Config, Names, Result, Tensor, Weights, ensure};

/// A model's sizes, from its config.
#[derive(Clone)]
pub struct Sizes {
    /// The row that they are of.
    pub traits: Traits,
    /// What checkpoints call the parameters.
    pub names: Names,
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
    /// Between the maps of the feed-forward.
    pub activation: Activation,
    /// The feed-forward has a gate.
    pub gated: bool,
    /// The norms' epsilon.
    pub eps: f64,
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
        let hidden = config.positive("hidden_size")?;
        let inner = config.optional_size("intermediate_size")?;
        config.only("is_encoder_decoder", traits.side != Side::Alone)?;
        Ok(Sizes {
            traits: *traits,
            names: config.parameters("parameters"),
            hidden,
            heads: heads(traits, config, hidden, "num_attention_heads")?,
            layers: config.size("num_hidden_layers")?,
            projected_from: [hidden; 3],
            inner: inner.filter(|&n| n > 0).unwrap_or(4 * hidden),
            activation: match config.activation_or("hidden_act", "gelu")? {
                // What GPT-1 calls so.
                Activation::Gelu if config.name("hidden_act") == "afn" => Activation::GeluTanh,
                other => other,
            },
            gated: false,
            eps: config.number_or("layer_norm_eps", 1e-12)?,
            tied: config.flag_or("tie_word_embeddings", true)?,
        })
    }

    /// The table of words.
    ///
    /// # Errors
    ///
    /// If it is absent or misshapen.
    pub fn words(&self, config: &Config, tables: &Weights) -> Result<Tensor> {
        let width = match self.traits.factorised {
            Factorised::No => self.hidden,
            _ => config.positive("embedding_size")?,
        };
        tables.tensor(self.names.of(WORDS), &[config.positive("vocab_size")?, width])
    }

    /// The width of the tables, `words` among them: MobileBERT widens that one alone.
    pub fn width_of_tables(&self, words: &Tensor) -> usize {
        if self.traits.factorised == Factorised::No { self.hidden } else { words.width() }
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
        let name = self.names.of(name);
        Linear::read_as(weights, name, from, to, self.traits.order, self.traits.biased)
    }

    /// A norm of the row's kind.
    ///
    /// # Errors
    ///
    /// If a parameter is absent or misshapen.
    pub fn norm(&self, weights: &Weights, name: &str, width: usize) -> Result<Norm> {
        Norm::read(weights, self.names.of(name), width, self.traits.norm, self.eps)
    }
}

/// Heads, as many as `option` says, of a block that is `hidden` wide.
///
/// # Errors
///
/// If they have no width of their own and do not share that evenly.
pub fn heads(traits: &Traits, config: &Config, hidden: usize, option: &str) -> Result<Heads> {
    let count = config.positive(option)?;
    // BERT has no such option.
    let has_own = config.name("head_dim") != "head_dim";
    let own = if has_own { config.size_or("head_dim", 0)? } else { 0 };
    let rule = format!("must be a multiple of {} = {count}", config.name(option));
    let fits = own > 0 || hidden.is_multiple_of(count);
    ensure(fits, format_args!("config: {}", config.name("hidden_size")), hidden, rule)?;
    let heads = Heads::new(count, if own > 0 { own } else { hidden / count });
    Ok(if traits.scaled { heads } else { Heads { scale: 1.0, ..heads } })
}
