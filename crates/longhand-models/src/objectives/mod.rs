//! What models are trained to undo: rules that corrupt a sequence and say what is to be restored.
//!
//! | file | rule | source |
//! | --- | --- | --- |
//! | `mlm` | masked tokens, one by one or by whole words; replaced ones | BERT, §3.1; RoBERTa, §4.1; ELECTRA, §2 |
//! | `ernie` | masked words, phrases, entities | ERNIE (Sun et al., 2019), §3.2 |
//! | `mass` | one masked span, written by the decoder | MASS, §3.1 |
//! | `t5` | masked spans, each behind a sentinel | T5, §3.1.4 |
//! | `bart` | five kinds of noise, and insertion | BART, §2.2 |
//! | `structbert` | shuffled words | StructBERT, §2.2.1 |
//! | `pairs` | next, swapped and previous sentences | BERT, §3.1; ALBERT, §3.1; StructBERT, §2.2.2 |
//! | `xlnet` | orders of factorisation | XLNet, §2.2 |
//! | `audio` | masked frames, distractors | Mockingjay, §2.2; wav2vec 2.0, §3.1, §3.2 |
//! | `negatives` | words that were not there | word2vec (Mikolov et al., 2013b), §2.2, §2.3 |
//!
//! The rules are plain functions of one sequence and of the numbers drawn for it; nothing else is
//! random. As members of the family they take batches by name, and the draws by name too. In place
//! of draws a file may hold `seed`, I32 `[1]`: then [`Random`] draws those that it lacks.

pub mod audio;
pub mod bart;
mod draws;
pub mod ernie;
pub mod mass;
pub mod mlm;
pub mod negatives;
pub mod pairs;
pub mod structbert;
pub mod t5;
pub mod xlnet;

pub use draws::{Draws, Random, fnv1a};

use crate::network::{Built, member};
use crate::traits::Traits;
use crate::{
    Config, Error, Inputs, Ints, Outputs, Result, Tensor, Weights, each, ensure, reject, require,
    when,
};
use std::ops::Range;

/// The label of a position that is not scored.
pub const NOT_SCORED: i32 = -100;

/// A sequence after its corruption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corrupted {
    /// What the model reads, `[length]`.
    pub input_ids: Vec<i32>,
    /// The token to be told at each position, or [`NOT_SCORED`], `[length]`.
    pub labels: Vec<i32>,
}

impl Corrupted {
    /// The sequence as it is, nothing scored.
    pub fn unchanged(ids: &[i32]) -> Self {
        Corrupted { input_ids: ids.to_vec(), labels: vec![NOT_SCORED; ids.len()] }
    }

    /// Puts a token in the place of another, which is to be told.
    pub fn put(&mut self, i: usize, token: i32) {
        self.labels[i] = std::mem::replace(&mut self.input_ids[i], token);
    }

    /// One more row of the results `input_ids` and `labels`.
    fn add_to(self, out: &mut Outputs, prefix: &str) {
        let len = self.labels.len();
        out.add_row(&format!("{prefix}input_ids"), &[len], self.input_ids);
        out.add_row(&format!("{prefix}labels"), &[len], self.labels);
    }
}

/// What may take a token's place, and draws for every position: one that decides, and a token.
#[derive(Debug, Clone)]
pub struct Actions {
    /// The token `[MASK]`.
    pub mask_id: i32,
    /// In [0, 1), `[length]`.
    pub uniforms: Vec<f64>,
    /// `[length]`.
    pub random_tokens: Vec<i32>,
}

/// A rule as a member of the family.
fn rule(apply: impl Fn(&Draws<'_>, &mut Outputs) -> Result<()> + Send + Sync + 'static) -> Built {
    member(move |inputs, _, out| apply(&Draws::new(inputs)?, out))
}

/// An option that is a share: a number from 0 to 1.
fn share(config: &Config, key: &str) -> Result<f64> {
    config.number_in(key, 0.0..=1.0)
}

/// An option that is a token of the vocabulary.
fn token(config: &Config, key: &str, vocab: usize) -> Result<i32> {
    Ok(config.size_in(key, 0..=vocab - 1)? as i32)
}

/// Tokens and their shape.
type Tokens<'a, const N: usize> = Result<(&'a [i32], [usize; N])>;

/// The input `name`, `[length]` or `[batch, length]`, each of the vocabulary.
fn tokens<'a, const N: usize>(inputs: &'a Inputs, name: &str, vocab: usize) -> Tokens<'a, N> {
    let ids = inputs.ints(name)?;
    let shape = ids.sizes(name)?;
    ids.indices(name, vocab)?;
    Ok((&ids.data, shape))
}

/// Sequences of one length, each with its [`Actions`], behind `[batch, length]`.
type Batch<'a> = Result<([usize; 2], Vec<(&'a [i32], Actions)>)>;

/// The sequences of the first of these inputs, and the draws for them, the second.
fn batch<'a>(draws: &Draws<'a>, names: [&str; 2], vocab: usize, mask_id: i32) -> Batch<'a> {
    let (ids, shape @ [_, len]) = tokens(draws.inputs, names[0], vocab)?;
    let uniforms = draws.uniforms(names[1], &shape)?;
    let random_tokens = draws.below("random_tokens", &shape, vocab)?;
    let of_rows = uniforms.chunks(len).zip(random_tokens.chunks(len));
    let actions = of_rows.map(|(uniforms, tokens)| Actions {
        mask_id,
        uniforms: uniforms.to_vec(),
        random_tokens: tokens.to_vec(),
    });
    Ok((shape, ids.chunks(len).zip(actions).collect()))
}

/// The rows of the input `name`, `[rows, length]`, each of the vocabulary, without the −1 behind
/// them.
pub(crate) fn ragged<'a>(inputs: &'a Inputs, name: &str, vocab: usize) -> Result<Vec<&'a [i32]>> {
    let ids = inputs.ints(name)?;
    let [_, width] = ids.sizes(name)?;
    let row = |(r, row): (usize, &'a [i32])| {
        let end = row.iter().position(|&x| x == -1).unwrap_or(width);
        let fits = |i: usize, x: i32| match i < end {
            true => (0..vocab as i64).contains(&x.into()),
            false => x == -1,
        };
        let rule = format!("must be below {vocab}, or -1 behind the last of a row");
        let bad = |(i, x)| Error::invalid(format!("{name}[{}]", r * width + i), x, rule);
        reject(row.iter().enumerate().find(|&(i, &x)| !fits(i, x)), bad).map(|()| &row[..end])
    };
    ids.data.chunks(width).enumerate().map(row).collect()
}

/// The input `name` of these sizes, each 0 or 1.
fn flags(inputs: &Inputs, name: &str, shape: &[usize]) -> Result<Vec<bool>> {
    let flags = inputs.ints_shaped(name, shape)?.indices(name, 2)?;
    Ok(flags.into_iter().map(|x| x == 1).collect())
}
