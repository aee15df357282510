//! Noise for denoising: BART (Lewis et al., 2020, §2.2), as its published data program (fairseq)
//! does it with words of one token.
//!
//! A text is `[bos, …, eos]`. Neither end is ever touched; what is between are its words.

use super::*;

/// Tokens and shares that all kinds of noise use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Noise {
    /// Stands for what was taken out.
    pub mask_id: i32,
    /// Ends a sentence.
    pub full_stop_id: i32,
    /// The share of masks that are random tokens instead.
    pub random_ratio: f64,
}

/// Which words noise takes, and what is put in their place.
#[derive(Debug, Clone, Copy)]
pub struct Words<'a> {
    /// A permutation of the words, bos not counted.
    pub order: &'a [usize],
    /// In [0, 1), one for each word taken.
    pub uniforms: &'a [f64],
    /// One for each word taken at most.
    pub random_tokens: &'a [i32],
}

/// Words that a share of them chooses: ⌈ratio · words⌉.
pub fn budget(tokens: &[i32], ratio: f64) -> usize {
    (ratio * tokens.len().saturating_sub(2) as f64).ceil() as usize
}

impl Noise {
    /// Token masking: the first `count` words drawn become the mask, or the next random token
    /// where the draw says so.
    pub fn mask(&self, tokens: &[i32], count: usize, draws: Words<'_>) -> Vec<i32> {
        let mut out = tokens.to_vec();
        let mut random = draws.random_tokens.iter();
        for (&word, &u) in draws.order.iter().zip(draws.uniforms).take(count) {
            out[word + 1] = match u < self.random_ratio {
                true => random.next().copied().unwrap_or(self.mask_id),
                false => self.mask_id,
            };
        }
        out
    }

    /// Token deletion: without the first `count` words of `order`.
    pub fn delete(tokens: &[i32], count: usize, order: &[usize]) -> Vec<i32> {
        let mut keep = vec![true; tokens.len()];
        order.iter().take(count).for_each(|&word| keep[word + 1] = false);
        kept(tokens, &keep)
    }

    /// Text infilling, the spans: each shrinks to one mask, which stands at the next word
    /// drawn. Those of no length are to be inserted after: [`Spans::inserts_into`].
    pub fn shrink(&self, tokens: &[i32], lengths: &[usize], draws: Words<'_>) -> Vec<i32> {
        let masked = self.mask(tokens, lengths.len(), draws);
        let mut keep = vec![true; tokens.len()];
        for (&word, &length) in draws.order.iter().zip(lengths) {
            // A span ends at eos; one that runs into another's mask deletes it too.
            let end = (word + 1 + length).min(tokens.len() - 1);
            keep[word + 2..end.max(word + 2)].fill(false);
        }
        kept(&masked, &keep)
    }

    /// Insertion of masks at these places of the longer text, its ends not counted. The first of them
    /// are the `random` tokens.
    pub fn insert(&self, tokens: &[i32], places: &[usize], random: &[i32]) -> Vec<i32> {
        let mut out = vec![None; tokens.len() + places.len()];
        for (k, &place) in places.iter().enumerate() {
            out[place + 1] = Some(random.get(k).copied().unwrap_or(self.mask_id));
        }
        let mut old = tokens.iter();
        out.into_iter().filter_map(|new| new.or_else(|| old.next().copied())).collect()
    }

    /// Where sentences end: behind a full stop (the first of a run) and before eos.
    pub fn sentence_ends(&self, tokens: &[i32]) -> Vec<usize> {
        let last = tokens.len().saturating_sub(2);
        let stops = |i: usize| i == last || tokens[i] == self.full_stop_id;
        (1..=last).filter(|&i| stops(i) && !stops(i - 1)).map(|i| i + 1).collect()
    }

    /// Sentence permutation: the sentences that `moved` lists trade places, as `order` (of them)
    /// says.
    pub fn permute(tokens: &[i32], ends: &[usize], moved: &[usize], order: &[usize]) -> Vec<i32> {
        let mut from: Vec<usize> = (0..ends.len()).collect();
        moved.iter().zip(order).for_each(|(&to, &k)| from[to] = moved[k]);
        let sentence = |&i: &usize| {
            let start = if i > 0 { ends[i - 1] } else { 1 };
            &tokens[start..ends[i]]
        };
        let tail = ends.last().copied().unwrap_or(1);
        let mut out = tokens[..1].to_vec();
        from.iter().for_each(|i| out.extend(sentence(i)));
        out.extend(&tokens[tail..]);
        out
    }

    /// Document rotation: begins with the token at `offset`.
    pub fn rotate(tokens: &[i32], offset: usize) -> Vec<i32> {
        let mut out = tokens.to_vec();
        let last = tokens.len() - 1;
        out[1..last].rotate_left(offset - 1);
        out
    }
}

/// Spans to be filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spans {
    /// Lengths from 1.
    pub lengths: Vec<usize>,
    /// How many have no length.
    pub inserts: usize,
}

impl Spans {
    /// The first lengths that cover `budget` words, the last cut to fit; none if they do not.
    pub fn covering(budget: usize, lengths: &[usize]) -> Option<Self> {
        let mut spans = Spans { lengths: Vec::new(), inserts: 0 };
        let (mut left, mut lengths) = (budget, lengths.iter());
        while left > 0 {
            let length = left.min(*lengths.next()?);
            left -= length;
            match length {
                0 => spans.inserts += 1,
                n => spans.lengths.push(n),
            }
        }
        Some(spans)
    }

    /// Masks for them in a text of `length`: the published program computes their share of it, and
    /// from that again their number.
    pub fn inserts_into(&self, length: usize) -> usize {
        (length as f64 * (self.inserts as f64 / length as f64)).ceil() as usize
    }
}

/// The lengths that draws choose by a Poisson distribution: its table ends with the first
/// probability below 1e-7, as published.
pub fn span_lengths(lambda: f64, uniforms: &[f64]) -> Vec<usize> {
    let mut table = vec![(-lambda).exp()];
    while let Some(&p) = table.last().filter(|&&p| p >= 1e-7 && table.len() < 128) {
        table.push(p * lambda / table.len() as f64);
    }
    let total: f64 = table.iter().sum();
    let mut sum = 0.0;
    for p in &mut table {
        sum += *p / total;
        *p = sum;
    }
    let most = table.len() - 1;
    uniforms.iter().map(|&u| table.partition_point(|&cdf| cdf <= u).min(most)).collect()
}

fn kept(tokens: &[i32], keep: &[bool]) -> Vec<i32> {
    tokens.iter().zip(keep).filter(|(_, keep)| **keep).map(|(&token, _)| token).collect()
}

pub(crate) fn read(_: &'static Traits, config: &Config, _: &Weights) -> Built {
    let vocab = config.positive("vocab_size")?;
    let noise = Noise {
        mask_id: token(config, "mask_id", vocab)?,
        full_stop_id: token(config, "full_stop_id", vocab)?,
        random_ratio: share(config, "random_ratio")?,
    };
    let ends = [token(config, "bos_id", vocab)?, token(config, "eos_id", vocab)?];
    let ratio = |name| share(config, name);
    let ratios = each(["mask_ratio", "delete_ratio", "infill_ratio"], ratio)?;
    let [inserted, permuted] = each(["insert_ratio", "permute_ratio"], ratio)?;
    // The table ends at the first probability below 1e-7; above 16 that is the first of all.
    let lambda = config.number_in("poisson_lambda", 1e-3..=16.0)?;
    // A text has no padding.
    config.ignore("pad_id");
    rule(move |draws, out| {
        let tokens = text(draws, vocab, ends)?;
        let length = tokens.len();
        let order = draws.orders("word_order", &[length - 2])?;
        let uniforms = draws.uniforms("mask_uniforms", &[length])?;
        let random = draws.below("random_tokens", &[length], vocab)?;
        let words = Words { order: &order, uniforms: &uniforms, random_tokens: &random };
        let insert = |tokens: &[i32], count: usize| -> Result<Vec<i32>> {
            let lucky = (count as f64 * noise.random_ratio).ceil() as usize;
            let order = draws.orders("insert_order", &[tokens.len() + count - 2])?;
            let random = draws.below("random_tokens", &[lucky], vocab)?;
            Ok(noise.insert(tokens, &order[..count], &random))
        };
        let [masked, deleted, infilled] = ratios.map(|ratio| budget(tokens, ratio));

        let lengths = span_lengths(lambda, &span_draws(draws, length, lambda)?);
        let spans = Spans::covering(infilled, &lengths).ok_or_else(|| {
            let sum: usize = lengths.iter().sum();
            let rule = format!("must cover {infilled} words");
            Error::invalid("the spans that \"span_uniforms\" draws", sum, rule)
        })?;
        let shrunk = noise.shrink(tokens, &spans.lengths, words);

        let ends = noise.sentence_ends(tokens);
        let moved = (ends.len() as f64 * 2.0 * permuted / 2.0).ceil() as usize;
        let sentences = draws.orders("sentence_order", &[ends.len()])?;
        let places = draws.orders("sentence_order2", &[moved])?;
        let permutation = Noise::permute(tokens, &ends, &sentences[..moved], &places);

        let mut put = |name: &str, x: Vec<i32>| out.put_ints(name, Ints::new(&[x.len()], x));
        put("masking", noise.mask(tokens, masked, words));
        put("deletion", Noise::delete(tokens, deleted, &order));
        put("infilling", insert(&shrunk, spans.inserts_into(shrunk.len()))?);
        put("insertion", insert(tokens, (length as f64 * inserted).ceil() as usize)?);
        put("sentence_permutation", permutation);
        put("rotation", Noise::rotate(tokens, offset(draws, length)?));
        put("span_lengths", lengths.iter().map(|&n| n as i32).collect());
        put("sentence_ends", ends.iter().map(|&n| n as i32).collect());
        Ok(())
    })
}

/// The input `tokens`, `[bos, …, eos]`.
fn text<'a>(draws: &Draws<'a>, vocab: usize, [bos, eos]: [i32; 2]) -> Result<&'a [i32]> {
    let ids = draws.inputs.ints("tokens")?;
    ids.indices("tokens", vocab)?;
    match (&ids.shape[..], &ids.data[..]) {
        (&[(3..)], tokens @ [first, .., last]) if (*first, *last) == (bos, eos) => Ok(tokens),
        (shape, _) => {
            let rule = format!("must be [length] from 3, beginning with {bos}, ending with {eos}");
            Err(Error::invalid("tokens", format!("{shape:?}"), rule))
        }
    }
}

/// All draws of span lengths that are given; from a seed enough of them for any share of words,
/// but for bad luck.
fn span_draws(draws: &Draws<'_>, length: usize, lambda: f64) -> Result<Vec<f64>> {
    let name = "span_uniforms";
    let count = match draws.inputs.has(name) {
        true => draws.inputs.floats(name)?.shape().first().copied().unwrap_or(0),
        false => (2.0 * length as f64 / lambda.min(1.0)) as usize + 64,
    };
    draws.uniforms(name, &[count])
}

/// Where rotation begins, from 1 to the place of eos.
fn offset(draws: &Draws<'_>, length: usize) -> Result<usize> {
    let name = "rotation_offset";
    let offset = draws.below(name, &[1], length)?[0];
    let rule = format!("must be from 1 to {}", length - 1);
    ensure(offset > 0 || !draws.inputs.has(name), format_args!("{name}[0]"), offset, rule)?;
    Ok((offset as usize).max(1))
}
