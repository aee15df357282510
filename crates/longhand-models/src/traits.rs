//! What the common code asks about a model: the columns of the table in [`family`](crate::family).

use crate::block::Place;
use crate::network::Built;
use crate::ops::Activation;
use crate::parts::{NormKind, Order};
use crate::{Config, Weights};

/// Where the rows of the position table come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Positions {
    /// There is no such table.
    None,
    /// 0, 1, 2, …
    Counted,
    /// 2, 3, 4, …: the first two rows are no positions.
    FromTwo,
    /// Counted over what is not padding, from `pad_token_id + 1`; padding stays at `pad_token_id`.
    FromPadding,
}

impl Positions {
    /// The row of the first position, where it is the same for all inputs.
    pub(crate) fn first(self) -> usize {
        if self == Positions::FromTwo { 2 } else { 0 }
    }
}

/// Whether the tables may be narrower than the blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Factorised {
    /// They are not.
    No,
    /// They may be, and only then is there a map between.
    IfNarrower,
    /// There is always a map between.
    Always,
}

/// Whether a stack is one of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// It is not.
    Alone,
    /// Its states are what a decoder looks at.
    Encoder,
    /// Its blocks also attend over an encoder's states.
    Decoder,
}

/// What stands between the last states and the vocabulary.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenHead {
    /// A linear map, an activation and a norm come first.
    pub transform: bool,
    /// The activation, if not the config's.
    pub activation: Option<Activation>,
    /// The logits have a bias of their own.
    pub bias: bool,
    /// What the logits are called among the results.
    pub output: &'static str,
}

/// A judgement about the two halves of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairHead {
    /// Its labels among the inputs.
    pub labels: &'static str,
    /// Its logits among the results.
    pub output: &'static str,
}

/// One row: everything that the common code asks about a model.
#[derive(Clone, Copy)]
pub struct Traits {
    /// `model_type` in its configs.
    pub model_type: &'static str,
    /// An option that tells it from others of that type.
    pub marker: Option<&'static str>,
    /// The difference to BERT that is not in the fields, or the idea behind those that are.
    pub idea: &'static str,
    /// How its checkpoints store matrices.
    pub order: Order,
    /// Where norms stand.
    pub place: Place,
    /// Which norm.
    pub norm: NormKind,
    /// A norm after the embeddings.
    pub embedding_norm: bool,
    /// Which rows of the position table.
    pub positions: Positions,
    /// A table of token types.
    pub token_types: bool,
    /// Tables narrower than the blocks, with a map between.
    pub factorised: Factorised,
    /// One more table, of tasks, if the config switches it on.
    pub task_types: bool,
    /// Which of two stacks.
    pub side: Side,
    /// No position sees a later one.
    pub causal: bool,
    /// A position sees its neighbours and a few global ones.
    pub windowed: bool,
    /// Queries, keys and values are projected by one matrix, whose columns the checkpoint's version
    /// sorts; else by three.
    pub fused: bool,
    /// The maps of the blocks have biases.
    pub biased: bool,
    /// Scores are divided by the root of a head's width.
    pub scaled: bool,
    /// Neighbouring blocks share their parameters, by groups.
    pub grouped: bool,
    /// The head over the vocabulary.
    pub head: TokenHead,
    /// Something is made of the first position: `tanh(W h + b)`.
    pub pooled: bool,
    /// Classes of the input are not made of that, but of another map of the first position, with this
    /// activation.
    pub classes: Option<Activation>,
    /// What is judged from what the pooler makes.
    pub pair: Option<PairHead>,
    /// A head may judge each token, in place of the one over the vocabulary.
    pub judges: bool,
    /// There are parameters at all.
    pub has_weights: bool,
    /// Reads a member of this row.
    pub read: Read,
}

/// Reads a member.
pub type Read = fn(&'static Traits, &Config, &Weights) -> Built;
