//! Noise for denoising: BART (Lewis et al., 2020, §2.2), as its published data program (fairseq)
//! does it with words of one token.
//!
//! A text is `[bos, …, eos]`. Neither end is ever touched; what is between are its words.

use super::*;

/// Words that a share of them chooses: ⌈ratio · words⌉.
pub fn budget(tokens: &[i32], ratio: f64) -> usize {
    (ratio * tokens.len().saturating_sub(2) as f64).ceil() as usize
}

/// Token masking: `words` become the mask, or the next random token where the draw of the next word
/// is below `random_ratio`.
pub fn mask(tokens: &[i32], words: &[usize], random_ratio: f64, actions: &Actions) -> Vec<i32> {
    let mut out = tokens.to_vec();
    let mut random = actions.random_tokens.iter();
    for (&word, &u) in words.iter().zip(&actions.uniforms) {
        let token = if u < random_ratio { random.next() } else { None };
        out[word + 1] = token.copied().unwrap_or(actions.mask_id);
    }
    out
}

/// Token deletion: without these words.
pub fn delete(tokens: &[i32], words: &[usize]) -> Vec<i32> {
    let mut keep = vec![true; tokens.len()];
    words.iter().for_each(|&word| keep[word + 1] = false);
    kept(tokens, &keep)
}

/// Text infilling, the spans: each shrinks to its first word, which is masked already. Those of no
/// length are to be inserted after.
pub fn shrink(tokens: &[i32], lengths: &[usize], words: &[usize]) -> Vec<i32> {
    let mut keep = vec![true; tokens.len()];
    for (&word, &length) in words.iter().zip(lengths) {
        // A span ends at eos; one that runs into another's mask deletes it too.
        let end = (word + 1 + length).min(tokens.len() - 1);
        keep[word + 2..end.max(word + 2)].fill(false);
    }
    kept(tokens, &keep)
}

/// Insertion of masks at these places of the longer text, its ends not counted. The first of them
/// are the `random` tokens.
pub fn insert(tokens: &[i32], places: &[usize], random: &[i32], mask_id: i32) -> Vec<i32> {
    let mut out = vec![None; tokens.len() + places.len()];
    for (k, &place) in places.iter().enumerate() {
        out[place + 1] = Some(random.get(k).copied().unwrap_or(mask_id));
    }
    let mut old = tokens.iter();
    out.into_iter().filter_map(|new| new.or_else(|| old.next().copied())).collect()
}

/// Where sentences end: behind a full stop (the first of a run) and before eos.
pub fn sentence_ends(tokens: &[i32], full_stop_id: i32) -> Vec<usize> {
    let last = tokens.len().saturating_sub(2);
    let stops = |i: usize| i == last || tokens[i] == full_stop_id;
    (1..=last).filter(|&i| stops(i) && !stops(i - 1)).map(|i| i + 1).collect()
}

/// Sentence permutation: the sentences that `moved` lists trade places, as `order` (of them)
/// says.
pub fn permute(tokens: &[i32], ends: &[usize], moved: &[usize], order: &[usize]) -> Vec<i32> {
    let starts = [1].iter().chain(ends);
    let old: Vec<&[i32]> = starts.zip(ends).map(|(&start, &end)| &tokens[start..end]).collect();
    let mut new = old.clone();
    moved.iter().zip(order).for_each(|(&to, &k)| new[to] = old[moved[k]]);
    let tail = ends.last().copied().unwrap_or(1);
    [&tokens[..1], &new.concat(), &tokens[tail..]].concat()
}

/// Document rotation: begins with the token at `offset`.
pub fn rotate(tokens: &[i32], offset: usize) -> Vec<i32> {
    let mut out = tokens.to_vec();
    let last = tokens.len() - 1;
    out[1..last].rotate_left(offset - 1);
    out
}

/// The first lengths that cover `budget` words, the last cut to fit; none if they do not.
pub fn covering(budget: usize, lengths: &[usize]) -> Option<Vec<usize>> {
    let (mut left, mut lengths) = (budget, lengths.iter());
    let mut spans = Vec::new();
    while left > 0 {
        let length = left.min(*lengths.next()?);
        left -= length;
        spans.push(length);
    }
    Some(spans)
}

/// Masks for so many spans of no length in a text of `length`: the published program computes their
/// share of it, and from that again their number.
pub fn inserts(spans: usize, length: usize) -> usize {
    (length as f64 * (spans as f64 / length as f64)).ceil() as usize
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
    let tokens = ["mask_id", "full_stop_id", "bos_id", "eos_id"];
    let [mask_id, full_stop, bos, eos] = each(tokens, |key| token(config, key, vocab))?;
    let ratio = |name| share(config, name);
    let ratios = each(["mask_ratio", "delete_ratio", "infill_ratio"], ratio)?;
    let others = ["insert_ratio", "permute_ratio", "random_ratio"];
    let [inserted, permuted, random_ratio] = each(others, ratio)?;
    // The table ends at the first probability below 1e-7; above 16 that is the first of all.
    let lambda = config.number_in("poisson_lambda", 1e-3..=16.0)?;
    // A text has no padding.
    config.ignore("pad_id");
    rule(move |draws, out| {
        let tokens = text(draws, vocab, [bos, eos])?;
        let length = tokens.len();
        let order = draws.orders("word_order", &[length - 2])?;
        let actions = Actions {
            mask_id,
            uniforms: draws.uniforms("mask_uniforms", &[length])?,
            random_tokens: draws.below("random_tokens", &[length], vocab)?,
        };
        let inserting = |tokens: &[i32], count: usize| -> Result<Vec<i32>> {
            let lucky = (count as f64 * random_ratio).ceil() as usize;
            let order = draws.orders("insert_order", &[tokens.len() + count - 2])?;
            let random = draws.below("random_tokens", &[lucky], vocab)?;
            Ok(insert(tokens, &order[..count], &random, mask_id))
        };
        let [masked, deleted, infilled] = ratios.map(|ratio| &order[..budget(tokens, ratio)]);

        let lengths = span_lengths(lambda, &span_draws(draws, length, lambda)?);
        let spans = covering(infilled.len(), &lengths).ok_or_else(|| {
            let sum: usize = lengths.iter().sum();
            let rule = format!("must cover {} words", infilled.len());
            Error::invalid("the spans that \"span_uniforms\" draws", sum, rule)
        })?;
        let (spans, empty): (Vec<_>, Vec<_>) = spans.into_iter().partition(|&length| length > 0);
        let begun = mask(tokens, &order[..spans.len()], random_ratio, &actions);
        let shrunk = shrink(&begun, &spans, &order);

        let ends = sentence_ends(tokens, full_stop);
        let moved = (ends.len() as f64 * 2.0 * permuted / 2.0).ceil() as usize;
        let sentences = draws.orders("sentence_order", &[ends.len()])?;
        let places = draws.orders("sentence_order2", &[moved])?;
        let permutation = permute(tokens, &ends, &sentences[..moved], &places);

        let mut put = |name: &str, x: Vec<i32>| out.put_ints(name, Ints::new(&[x.len()], x));
        put("masking", mask(tokens, masked, random_ratio, &actions));
        put("deletion", delete(tokens, deleted));
        put("infilling", inserting(&shrunk, inserts(empty.len(), shrunk.len()))?);
        put("insertion", inserting(tokens, (length as f64 * inserted).ceil() as usize)?);
        put("sentence_permutation", permutation);
        put("rotation", rotate(tokens, offset(draws, length)?));
        put("span_lengths", lengths.iter().map(|&n| n as i32).collect());
        put("sentence_ends", ends.iter().map(|&n| n as i32).collect());
        Ok(())
    })
}

/// The input `tokens`, `[bos, …, eos]`.
fn text<'a>(draws: &Draws<'a>, vocab: usize, [bos, eos]: [i32; 2]) -> Result<&'a [i32]> {
    let (ids, [length]) = tokens(draws.inputs, "tokens", vocab)?;
    let is_text = length > 2 && ids[0] == bos && ids[length - 1] == eos;
    let rule = format!("must be [length] from 3, beginning with {bos}, ending with {eos}");
    ensure(is_text, "tokens", format_args!("[{length}]"), rule).map(|()| ids)
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
