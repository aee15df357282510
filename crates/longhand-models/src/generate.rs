//! Continuing sequences: a prompt is read once, then a token at a time, and what was read before
//! stays in a [`Cache`].

use crate::traits::Side;
use crate::{
    Cache, Config, Device, Error, Ints, Model, Result, Tensor, ensure, ops, reject, require, when,
};
use longhand::random::{split_mix, uniform};
use serde_json::Value;
use std::collections::BTreeSet;

/// What a member has of prompts before it reads them: a cache, and the ids to read first.
pub type Begun = Result<(Cache, Ints)>;

/// A member that continues sequences.
pub trait Generator {
    /// A cache for these prompts, and the ids to [`advance`](Self::advance) over first. `memory`
    /// is for models that keep the last so many positions only (where it is not given, as many as
    /// the config says).
    ///
    /// # Errors
    ///
    /// If a prompt is empty or an id out of range, or the model has no such memory.
    fn begin(&self, prompts: &[&[i32]], memory: Option<usize>, device: &Device) -> Begun;

    /// Reads `ids`, `[batch, length]`, after what the cache holds; returns their last states,
    /// `[batch, length, hidden]`.
    ///
    /// # Errors
    ///
    /// If an id is out of range, or there are more positions than the model has.
    fn advance(&self, ids: &Ints, cache: &mut Cache, device: &Device) -> Result<Tensor>;

    /// Positions that it remembers by its config, if it is a model with a memory.
    fn memory(&self) -> Option<usize> {
        None
    }

    /// Of states, the logits of the token after each, `[batch, length, vocab]`.
    fn predict(&self, states: &Tensor) -> Tensor;
}

/// How to continue.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// Tokens to add, at most.
    pub tokens: usize,
    /// Positions that the model remembers, if it is one with a memory.
    pub memory: Option<usize>,
    /// What logits are divided by; 0 takes the likeliest token each time.
    pub temperature: f64,
    /// Draw from the likeliest tokens only, as few as have this probability together.
    pub top_p: f64,
    /// The same seed draws the same tokens.
    pub seed: u64,
    /// What a model's folder may say.
    pub rules: Rules,
}

impl Default for Generation {
    fn default() -> Self {
        let (memory, rules) = (None, Rules::default());
        Generation { tokens: 100, memory, temperature: 0.0, top_p: 1.0, seed: 0, rules }
    }
}

/// What a folder says of continuing; a sequence's tokens are those of its prompt or, of a model with an
/// encoder, of its start.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rules {
    /// Tokens that end a sequence; they are not part of the result.
    pub stop: Vec<i32>,
    /// What a decoder begins with, if not with what the model's config says.
    pub start: Option<i32>,
    /// The token after the first one of a sequence.
    pub second: Option<i32>,
    /// The last of `tokens` tokens.
    pub last: Option<i32>,
    /// Nothing stops a sequence that has fewer tokens,
    pub min_length: usize,
    /// or fewer new ones.
    pub min_new_tokens: usize,
    /// No run of so many tokens comes twice in a sequence; 0: they may.
    pub no_repeat_ngram_size: usize,
    /// What positive logits of a sequence's tokens are divided by, and negative ones multiplied.
    pub repetition_penalty: Option<f64>,
}

impl Rules {
    /// What a folder's configuration says of continuing. How to search it does not say: that is
    /// greedy or drawn, as the other options say, and beams are declined.
    pub(crate) fn said_by(folder: &Config) -> Result<Self> {
        let id = |key: &str| Ok::<_, Error>(folder.optional_size(key)?.map(|id| id as i32));
        folder.only("num_beams", 1)?;
        folder.only("num_return_sequences", 1)?;
        let rule = "must be ids: whole numbers from 0 to 2^31 - 1";
        let of = |id: &Value| i32::try_from(id.as_u64()?).ok();
        let stop = folder.optional("eos_token_id", rule, |v| match v {
            Value::Array(ids) => ids.iter().map(of).collect(),
            id => Some(vec![of(id)?]),
        })?;
        let forced = folder.flag_or("force_bos_token_to_be_generated", false)?;
        let new = folder.optional_size("min_new_tokens")?;
        let second = when(forced, || id("bos_token_id"))?.flatten();
        Ok(Rules {
            stop: stop.unwrap_or_default(),
            start: id("decoder_start_token_id")?,
            second: id("forced_bos_token_id")?.or(second),
            last: id("forced_eos_token_id")?,
            // A number of new tokens takes the other's place.
            min_length: if new.is_some() { 0 } else { folder.size_or("min_length", 0)? },
            min_new_tokens: new.unwrap_or(0),
            no_repeat_ngram_size: folder.size_or("no_repeat_ngram_size", 0)?,
            repetition_penalty: Some(folder.positive_or("repetition_penalty", 1.0)?),
        })
    }
}

impl Generation {
    fn validate(&self) -> Result<()> {
        let rule = "must be 0 (the likeliest token) or positive";
        let fits = self.temperature >= 0.0 && self.temperature.is_finite();
        ensure(fits, "temperature", self.temperature, rule)?;
        let fits = self.top_p > 0.0 && self.top_p <= 1.0;
        ensure(fits, "top_p", self.top_p, "must be above 0 and at most 1")
    }

    /// The token after those of a sequence, `step` of which are new, by its logits.
    fn next(&self, logits: &[f32], seen: &[i32], step: usize, u: f64) -> i32 {
        let rules = &self.rules;
        let last = rules.last.filter(|_| step + 1 == self.tokens);
        if let Some(token) = last.or(rules.second.filter(|_| seen.len() == 1)) {
            return token;
        }
        let mut logits = logits.to_vec();
        let mut change = |id: i32, f: &dyn Fn(f32) -> f32| {
            if let Some(x) = logits.get_mut(id as usize) {
                *x = f(*x);
            }
        };
        let penalty = rules.repetition_penalty.unwrap_or(1.0) as f32;
        let penalised = |x: f32| if x < 0.0 { x * penalty } else { x / penalty };
        seen.iter().collect::<BTreeSet<_>>().into_iter().for_each(|&id| change(id, &penalised));
        let never = |_| f32::NEG_INFINITY;
        let n = rules.no_repeat_ngram_size;
        if n > 0 && n <= seen.len() {
            let tail = &seen[seen.len() + 1 - n..];
            let runs = seen.windows(n).filter(|run| run.starts_with(tail));
            runs.for_each(|run| change(run[n - 1], &never));
        }
        if seen.len() < rules.min_length || step < rules.min_new_tokens {
            rules.stop.iter().for_each(|&id| change(id, &never));
        }
        self.pick(&logits, u) as i32
    }

    /// The token after these logits; `u` decides, from 0 to 1.
    fn pick(&self, logits: &[f32], u: f64) -> usize {
        let likeliest = ops::argmax(logits);
        if self.temperature == 0.0 {
            return likeliest;
        }
        let most = f64::from(logits[likeliest]);
        let weight = |&x: &f32| ((f64::from(x) - most) / self.temperature).exp();
        let weights: Vec<f64> = logits.iter().map(weight).collect();
        let mut order: Vec<usize> = (0..weights.len()).collect();
        order.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]));
        let enough = self.top_p * weights.iter().sum::<f64>();
        let (mut kept, mut sum) = (0, 0.0);
        while kept < order.len() && (kept == 0 || sum < enough) {
            sum += weights[order[kept]];
            kept += 1;
        }
        let mut left = u * sum;
        let drawn = order[..kept].iter().find(|&&i| {
            left -= weights[i];
            left < 0.0
        });
        drawn.copied().unwrap_or(likeliest)
    }
}

/// A number from 0 to 1 for each sequence and step: a sequence draws the same whatever else is in
/// the batch after it.
fn draw(seed: u64, row: usize, step: usize) -> f64 {
    uniform(split_mix(seed, row as u64), step as u64)
}

impl Model {
    /// Begins to read prompts; see [`Generator::begin`].
    ///
    /// # Errors
    ///
    /// As there, and if the model does not generate.
    pub fn begin(&self, prompts: &[&[i32]], memory: Option<usize>, device: &Device) -> Begun {
        require(!prompts.is_empty(), || Error::input("prompts: must be at least one"))?;
        let empty = |i| Error::input(format!("prompt {i}: must not be empty"));
        reject(prompts.iter().position(|prompt| prompt.is_empty()), empty)?;
        self.generator()?.begin(prompts, memory, device)
    }

    /// Reads on; see [`Generator::advance`].
    ///
    /// # Errors
    ///
    /// As there, and if the model does not generate.
    pub fn advance(&self, ids: &Ints, cache: &mut Cache, device: &Device) -> Result<Tensor> {
        self.generator()?.advance(ids, cache, device)
    }

    /// Logits of the next tokens; see [`Generator::predict`].
    ///
    /// # Errors
    ///
    /// If the model does not generate, or the device that the states lie on has failed.
    pub fn predict(&self, states: &Tensor) -> Result<Tensor> {
        let logits = self.generator()?.predict(states);
        logits.gpu().map(|gpu| gpu.fetch(&[&logits])).transpose()?;
        Ok(logits)
    }

    /// Continues each prompt; returns what was added. Of a model with an encoder, prompts are what
    /// it reads, and the decoder writes from its start. `each` hears of every step: as many tokens
    /// as the longest sequence has so far.
    ///
    /// # Errors
    ///
    /// If the model does not generate, a prompt is empty or holds an id that the model has not, the
    /// model has fewer positions, or an option has no meaning.
    pub fn generate(
        &self,
        prompts: &[&[i32]],
        options: &Generation,
        device: &Device,
        each: &mut dyn FnMut(usize),
    ) -> Result<Vec<Vec<i32>>> {
        options.validate()?;
        let (mut cache, mut ids) = self.begin(prompts, options.memory, device)?;
        if let (Side::Encoder, Some(start)) = (self.traits().side, options.rules.start) {
            ids.data.fill(start);
        }
        let rows = ids.data.chunks_exact(ids.shape[1]).zip(&cache.padding);
        let mut seen: Vec<Vec<i32>> = rows.map(|(row, &n)| row[n..].to_vec()).collect();
        // The last so many tokens of a row, up to one that ends it.
        let written = |row: &[i32], new: usize| -> Vec<i32> {
            let new = row[row.len() - new..].iter().copied();
            new.take_while(|token| !options.rules.stop.contains(token)).collect()
        };
        let mut new = 0;
        while new < options.tokens && seen.iter().any(|row| written(row, new).len() == new) {
            let states = self.advance(&ids, &mut cache, device)?;
            let logits = self.predict(&ops::last_rows(&states, 1))?;
            for (i, row) in seen.iter_mut().enumerate() {
                row.push(options.next(logits.row(i), row, new, draw(options.seed, i, new)));
            }
            let last = seen.iter().map(|row| row[row.len() - 1]).collect();
            ids = Ints::new(&[seen.len(), 1], last);
            new += 1;
            each(new);
        }
        Ok(seen.iter().map(|row| written(row, new)).collect())
    }
}

/// Which of `keys` are behind the padding of each sequence, if any has some.
pub(crate) fn behind(padding: &[usize], keys: usize) -> Option<Vec<u8>> {
    let of_row = |&pad: &usize| (0..keys).map(move |key| u8::from(key >= pad));
    padding.iter().any(|&pad| pad > 0).then(|| padding.iter().flat_map(of_row).collect())
}

/// Prompts as one tensor, shorter ones with `pad` before them, and how many of those each has.
pub(crate) fn padded_before(prompts: &[&[i32]], pad: i32) -> (Ints, Vec<usize>) {
    let longest = prompts.iter().map(|prompt| prompt.len()).max().unwrap_or(0);
    let padding: Vec<usize> = prompts.iter().map(|prompt| longest - prompt.len()).collect();
    let row = |(prompt, &n): (&&[i32], &usize)| [vec![pad; n], prompt.to_vec()].concat();
    let data = prompts.iter().zip(&padding).flat_map(row).collect();
    (Ints::new(&[prompts.len(), longest], data), padding)
}

/// Prompts as one tensor, shorter ones with `pad` after them, and which positions are theirs.
pub(crate) fn padded_after(prompts: &[&[i32]], pad: i32) -> (Ints, Vec<u8>) {
    let (mut ids, padding) = padded_before(prompts, pad);
    let length = ids.shape[1];
    let rows = ids.data.chunks_exact_mut(length.max(1));
    rows.zip(&padding).for_each(|(row, &pad)| row.rotate_left(pad));
    let there = |&pad: &usize| (0..length).map(move |i| u8::from(i + pad < length));
    (ids, padding.iter().flat_map(there).collect())
}

/// Refuses a memory of a model that keeps everything.
pub(crate) fn keeps_all(memory: Option<usize>) -> Result<()> {
    let rule = "this model has none, it keeps every position that it reads";
    reject(memory, |rows| Error::declined(format_args!("memory = {rows}: {rule}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_follow_the_softmax_and_top_p_cuts_the_tail() {
        // Probabilities 0.5, 0.3, 0.15, 0.05.
        let logits = [0.3f32, 0.05, 0.5, 0.15].map(f32::ln);
        let count = |options: &Generation| {
            let mut counts = [0; 4];
            (0..20_000).for_each(|step| counts[options.pick(&logits, draw(7, 0, step))] += 1);
            counts.map(|n| f64::from(n) / 20_000.0)
        };
        let near = |got: [f64; 4], want: [f64; 4]| {
            let off = got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0.0, f64::max);
            assert!(off < 0.015, "{got:?}, not {want:?}");
        };
        let plain = Generation { temperature: 1.0, ..Generation::default() };
        near(count(&plain), [0.3, 0.05, 0.5, 0.15]);
        // 0.5 + 0.3 reach 0.7, so the other two are never drawn.
        near(count(&Generation { top_p: 0.7, ..plain.clone() }), [0.375, 0.0, 0.625, 0.0]);
        // At temperature 1/2 probabilities are squared.
        let cold = Generation { temperature: 0.5, ..plain.clone() };
        near(count(&cold), [0.09, 0.0025, 0.25, 0.0225].map(|p| p / 0.365));
        assert_eq!(count(&Generation { top_p: 1e-9, ..plain }), [0.0, 0.0, 1.0, 0.0]);
        assert_eq!(count(&Generation::default()), [0.0, 0.0, 1.0, 0.0]);
    }

    /// As transformers' `RepetitionPenaltyLogitsProcessor`: less likely, whatever the sign.
    #[test]
    fn a_token_that_was_there_is_penalised() {
        let rules = Rules { repetition_penalty: Some(2.0), ..Rules::default() };
        let options = Generation { rules, ..Generation::default() };
        assert_eq!(options.next(&[4.0, 3.0], &[0, 0], 0, 0.0), 1);
        assert_eq!(options.next(&[-1.0, -1.5], &[0, 0], 0, 0.0), 1);
        assert_eq!(options.next(&[7.0, 3.0], &[0, 0], 0, 0.0), 0, "once for every token");
    }

    #[test]
    fn the_ends_of_the_interval_draw_a_token() {
        let options = Generation { temperature: 1.0, ..Generation::default() };
        assert_eq!(options.pick(&[1.0, f32::NEG_INFINITY], 1.0 - f64::EPSILON), 0);
        assert_eq!(options.pick(&[f32::NEG_INFINITY, 1.0], 0.0), 1);
        assert_eq!(Generation::default().pick(&[2.0, 2.0], 0.0), 0);
    }
}
