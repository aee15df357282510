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
};
use mlm::Actions;

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
}

/// The corrupted rows of a batch as `input_ids` and `labels`.
fn corrupted(shape: &[usize; 2], rows: impl Iterator<Item = Corrupted>) -> Outputs {
    let (ids, labels): (Vec<_>, Vec<_>) = rows.map(|row| (row.input_ids, row.labels)).unzip();
    let mut out = Outputs::default();
    out.put_ints("input_ids", Ints::new(shape, ids.concat()));
    out.put_ints("labels", Ints::new(shape, labels.concat()));
    out
}

/// A rule as a member of the family.
fn rule(apply: impl Fn(&Draws<'_>, &mut Outputs) -> Result<()> + Send + Sync + 'static) -> Built {
    member(move |inputs, _, out| apply(&Draws::new(inputs)?, out))
}

/// Row `i` of rows of `width`.
fn row<T>(x: &[T], i: usize, width: usize) -> &[T] {
    &x[i * width..][..width]
}

/// An option that is a share: a number from 0 to 1.
fn share(config: &Config, key: &str) -> Result<f64> {
    config.number_in(key, 0.0..=1.0)
}

/// An option that is a token of the vocabulary.
fn token(config: &Config, key: &str, vocab: usize) -> Result<i32> {
    Ok(config.size_in(key, 0..=vocab - 1)? as i32)
}

/// The input `name`, `[batch, length]`, each of the vocabulary.
fn tokens<'a>(inputs: &'a Inputs, name: &str, vocab: usize) -> Result<(&'a [i32], [usize; 2])> {
    let ids = inputs.ints(name)?;
    let shape = ids.sizes(name)?;
    ids.indices(name, vocab)?;
    Ok((&ids.data, shape))
}

/// Sequences of one length, and what becomes of each of their tokens that is chosen.
struct Batch<'a> {
    ids: &'a [i32],
    shape: [usize; 2],
    uniforms: Vec<f64>,
    random_tokens: Vec<i32>,
}

impl<'a> Batch<'a> {
    fn read(draws: &Draws<'a>, [ids, uniforms]: [&str; 2], vocab: usize) -> Result<Self> {
        let (ids, shape) = tokens(draws.inputs, ids, vocab)?;
        let uniforms = draws.uniforms(uniforms, &shape)?;
        let random_tokens = draws.below("random_tokens", &shape, vocab)?;
        Ok(Batch { ids, shape, uniforms, random_tokens })
    }

    fn rows(&self) -> impl Iterator<Item = (&[i32], Actions<'_>)> {
        let len = self.shape[1];
        let draws = self.uniforms.chunks(len).zip(self.random_tokens.chunks(len));
        let actions = draws.map(|(uniforms, random_tokens)| Actions { uniforms, random_tokens });
        self.ids.chunks(len).zip(actions)
    }
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
