//! Span corruption: T5 (Raffel et al., 2020, §3.1.4), as its published preprocessors do it.

use super::*;

/// How many tokens are noise, and in how many spans.
///
/// # Errors
///
/// If a sequence of `length` cannot be cut so: it needs a kept token before each span.
pub fn counts(length: usize, density: f64, mean_span: f64) -> Result<[usize; 2]> {
    ensure(length >= 2, "the length of tokens", length, "must be at least 2")?;
    let noise = ((length as f64 * density).round_ties_even() as usize).clamp(1, length - 1);
    let spans = ((noise as f64 / mean_span).round_ties_even() as usize).max(1);
    let kept = length - noise;
    let rule = format!("{spans} spans in {noise} noise and {kept} kept tokens");
    ensure(spans <= noise.min(kept), "config: mean_noise_span_length", mean_span, rule)?;
    Ok([noise, spans])
}

/// Lengths of `parts` segments of `total`: ones before zeros, shuffled by `order` (`[total − 1]`);
/// a one begins a segment.
pub fn segments(total: usize, parts: usize, order: &[usize]) -> Vec<usize> {
    let mut lengths = vec![1];
    for &from in order.iter().take(total.saturating_sub(1)) {
        match lengths.last_mut() {
            Some(last) if from + 1 >= parts => *last += 1,
            _ => lengths.push(1),
        }
    }
    lengths
}

/// Where noise is, of kept and noise segments in turn, a kept one first.
pub fn noise_mask(kept: &[usize], noise: &[usize]) -> Vec<bool> {
    let pairs = kept.iter().zip(noise);
    pairs.flat_map(|(&k, &n)| (0..k + n).map(move |i| i >= k)).collect()
}

/// The tokens with a sentinel, falling from `first`, in place of each span of `noise`.
/// With the mask inverted, the targets.
pub fn with_sentinels(tokens: &[i32], noise: &[bool], first: i32) -> Vec<i32> {
    let mut out = Vec::new();
    let mut sentinel = first;
    for (i, &token) in tokens.iter().enumerate() {
        if !noise[i] {
            out.push(token);
        } else if i == 0 || !noise[i - 1] {
            out.push(sentinel);
            sentinel -= 1;
        }
    }
    out
}

pub(crate) fn read(_: &'static Traits, config: &Config, _: &Weights) -> Built {
    let vocab = config.positive("vocab_size")?;
    let [eos, first] = each(["eos_id", "first_sentinel"], |key| token(config, key, vocab))?;
    let density = share(config, "noise_density")?;
    let mean_span = config.number_in("mean_noise_span_length", 1.0..=1e9)?;
    rule(move |draws, out| {
        let (ids, [length]) = tokens(draws.inputs, "tokens", vocab)?;
        let [noise, spans] = counts(length, density, mean_span)?;
        let rule = format!("too few sentinels for {spans} spans");
        ensure(spans <= first as usize + 1, "config: first_sentinel", first, rule)?;
        let order = |name, total: usize| draws.orders(name, &[total - 1]);
        let kept = segments(length - noise, spans, &order("keep_shuffle", length - noise)?);
        let noise = segments(noise, spans, &order("noise_shuffle", noise)?);
        let mask = noise_mask(&kept, &noise);
        let rest: Vec<bool> = mask.iter().map(|noise| !noise).collect();
        let ended = |tokens: Vec<i32>| [tokens, vec![eos]].concat();
        let mut put = |name: &str, x: Vec<i32>| out.put_ints(name, Ints::new(&[x.len()], x));
        put("inputs", ended(with_sentinels(ids, &mask, first)));
        put("targets", ended(with_sentinels(ids, &rest, first)));
        put("keep_lengths", kept.iter().map(|&n| n as i32).collect());
        put("noise_lengths", noise.iter().map(|&n| n as i32).collect());
        put("noise_mask", mask.iter().map(|&x| i32::from(x)).collect());
        Ok(())
    })
}
