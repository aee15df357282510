//! Sentences to vectors, as sentence-transformers makes them: a folder of modules (a transformer,
//! pooling, normalisation), each with a small configuration of its own.

use crate::config::read_json;
use crate::generate::padded_after;
use crate::{Config, Device, Error, Inputs, Model, Result, Tensor, reject};
use rayon::prelude::*;
use std::path::Path;
use tokenizers::{Tokenizer, TruncationParams};

/// Tokens of one batch, about: more would leave the cache, fewer leave threads without work.
const TOKENS_OF_BATCH: usize = 2048;

/// A model of sentences.
pub struct SentenceEncoder {
    model: Model,
    tokenizer: Tokenizer,
    lowers: bool,
    modes: Vec<Pooling>,
    normalises: bool,
}

/// What becomes of a column of a sentence's token states.
type Pooling = fn(&[f64]) -> f64;

/// By the options that ask for them, in the order in which their vectors are put together.
const POOLINGS: [(&str, Pooling); 4] = [
    ("pooling_mode_cls_token", |tokens| tokens.first().copied().unwrap_or_default()),
    ("pooling_mode_max_tokens", |tokens| tokens.iter().copied().fold(f64::NEG_INFINITY, f64::max)),
    ("pooling_mode_mean_tokens", |tokens| tokens.iter().sum::<f64>() / count(tokens)),
    ("pooling_mode_mean_sqrt_len_tokens", |tokens| {
        tokens.iter().sum::<f64>() / count(tokens).sqrt()
    }),
];

fn count(tokens: &[f64]) -> f64 {
    (tokens.len() as f64).max(1e-9)
}

impl SentenceEncoder {
    /// Reads a folder with `modules.json`, `tokenizer.json` and a model.
    ///
    /// # Errors
    ///
    /// If a file is absent or damaged, or names a module or a pooling that is not supported.
    pub fn open(folder: &Path) -> Result<Self> {
        let modules = folder.join("modules.json");
        let bad = |why: &str| Error::input(why).at(modules.display());
        let list = read_json(&modules)?;
        let list = list.as_array().and_then(|all| all.iter().map(module).collect());
        let list: Vec<_> =
            list.ok_or_else(|| bad("must be a list of modules, each of type and path"))?;
        let [("Transformer", transformer), ("Pooling", pooling), rest @ ..] = &list[..] else {
            return Err(bad("must begin with a Transformer and a Pooling"));
        };
        let other = |(kind, _): &(&str, _)| bad(&format!("a module {kind:?} is not supported"));
        reject(rest.iter().find(|(kind, _)| *kind != "Normalize"), other)?;
        let transformer = folder.join(transformer);
        let pooling = folder.join(pooling).join("config.json");
        let at = |e: Error| e.at(pooling.display());
        let modes = read_modes(&Config::read(&pooling)?).map_err(at)?;
        let normalises = !rest.is_empty();
        let model = Model::open(&transformer)?;
        let sentence = transformer.join("sentence_bert_config.json");
        let config = Config::read(&transformer.join("config.json"))?;
        let longest = config.size_or("max_position_embeddings", 512)?;
        let named = sentence.is_file();
        let sentence = if named { Config::read(&sentence)? } else { Config::parse("{}")? };
        let longest = sentence.size_or("max_seq_length", longest)?;
        let lowers = sentence.flag_or("do_lower_case", false)?;
        let tokenizer = read_tokenizer(&transformer, Some(longest))?;
        Ok(SentenceEncoder { model, tokenizer, lowers, modes, normalises })
    }

    /// One vector per sentence, `[sentences, width]`. Sentences longer than the model's limit are
    /// cut.
    ///
    /// # Errors
    ///
    /// If the tokenizer fails or gives ids that the model does not have.
    pub fn embed(&self, sentences: &[&str], device: &Device) -> Result<Tensor> {
        let ids = sentences.par_iter().map(|x| self.tokens(x)).collect::<Result<Vec<_>>>()?;
        // Sentences of a length together: little padding.
        let mut order: Vec<usize> = (0..ids.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(ids[i].len()));
        let mut vectors = vec![Vec::new(); ids.len()];
        let mut rest = &order[..];
        while let Some(&first) = rest.first() {
            let count = (TOKENS_OF_BATCH / ids[first].len().max(1)).clamp(1, rest.len());
            let (batch, after) = rest.split_at(count);
            let batch_ids: Vec<&[i32]> = batch.iter().map(|&i| &ids[i][..]).collect();
            let (padded, valid) = padded_after(&batch_ids, 0);
            let valid = valid.into_iter().map(i32::from).collect();
            let inputs = Inputs::new().ints_of("attention_mask", &padded.shape, valid);
            let inputs = inputs.ints_of("input_ids", &padded.shape, padded.data);
            let states = self.model.encode(&inputs, device)?;
            for (row, &i) in batch.iter().enumerate() {
                vectors[i] = pool(&self.modes, &states, row, ids[i].len());
                if self.normalises {
                    normalise(&mut vectors[i]);
                }
            }
            rest = after;
        }
        let width = vectors.first().map_or(0, Vec::len);
        Ok(Tensor::new(&[ids.len(), width], vectors.concat()))
    }

    fn tokens(&self, text: &str) -> Result<Vec<i32>> {
        let text = text.trim();
        let lowered = self.lowers.then(|| text.to_lowercase());
        tokens(&self.tokenizer, lowered.as_deref().unwrap_or(text), true)
    }
}

/// What kind of module it is, and its folder.
fn module(module: &serde_json::Value) -> Option<(&str, &str)> {
    let kind = module.get("type")?.as_str()?;
    Some((kind.rsplit('.').next().unwrap_or(kind), module.get("path")?.as_str()?))
}

/// The vector of sentence `row` of a batch, which has `length` tokens: one mode after the other.
fn pool(modes: &[Pooling], states: &Tensor, row: usize, length: usize) -> Vec<f32> {
    let (data, width, longest) = (states.data(), states.width(), states.shape()[1]);
    let at = |i: usize, column: usize| f64::from(data[(row * longest + i) * width + column]);
    let column = |column: usize| (0..length).map(|i| at(i, column)).collect();
    let columns: Vec<Vec<f64>> = (0..width).map(column).collect();
    modes.iter().flat_map(|mode| columns.iter().map(|tokens| mode(tokens) as f32)).collect()
}

/// To a length of 1.
fn normalise(vector: &mut [f32]) {
    let norm: f64 = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    let norm = norm.sqrt().max(1e-12);
    vector.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
}

/// The folder's tokenizer, with its stored padding and truncation replaced.
pub(crate) fn read_tokenizer(folder: &Path, longest: Option<usize>) -> Result<Tokenizer> {
    let path = folder.join("tokenizer.json");
    let bad = |e: tokenizers::Error| Error::input(e).at(path.display());
    let mut tokenizer = Tokenizer::from_file(&path).map_err(bad)?;
    tokenizer.with_padding(None);
    let cut = |max_length| TruncationParams { max_length, ..Default::default() };
    tokenizer.with_truncation(longest.map(cut)).map_err(bad)?;
    Ok(tokenizer)
}

/// The ids of a text, special tokens with it or not.
pub(crate) fn tokens(tokenizer: &Tokenizer, text: &str, special: bool) -> Result<Vec<i32>> {
    let encoding = tokenizer.encode_fast(text, special).map_err(failed)?;
    Ok(encoding.get_ids().iter().map(|&id| id as i32).collect())
}

pub(crate) fn failed(e: tokenizers::Error) -> Error {
    Error::input(format!("the tokenizer: {e}"))
}

/// The modes of a pooling module.
fn read_modes(config: &Config) -> Result<Vec<Pooling>> {
    config.ignore("word_embedding_dimension");
    let mut modes = Vec::new();
    for (key, mode) in POOLINGS {
        modes.extend(config.flag_or(key, false)?.then_some(mode));
    }
    config.only("pooling_mode_weightedmean_tokens", false)?;
    config.only("pooling_mode_lasttoken", false)?;
    config.only("include_prompt", true)?;
    config.finish()?;
    if modes.is_empty() { Err(Error::input("no pooling mode is true")) } else { Ok(modes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_pool_the_tokens_and_no_padding() {
        let states = Tensor::new(&[2, 3, 2], vec![0., 0., 0., 0., 0., 0., 1., -4., 3., 2., 9., 9.]);
        let root = 2f64.sqrt();
        let expected = [[1., -4.], [3., 2.], [2., -1.], [(4. / root) as f32, (-2. / root) as f32]];
        for ((name, mode), expected) in POOLINGS.into_iter().zip(expected) {
            assert_eq!(pool(&[mode], &states, 1, 2), expected, "{name}");
        }
        let [(_, first), (_, max), ..] = POOLINGS;
        let mut both = pool(&[max, first], &states, 1, 2);
        assert_eq!(both, [3., 2., 1., -4.]);
        normalise(&mut both);
        assert_eq!(both, [3., 2., 1., -4.].map(|x: f64| (x / 30f64.sqrt()) as f32));
    }
}
