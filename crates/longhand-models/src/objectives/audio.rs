//! Masked frames of sound: Mockingjay (Liu et al., 2020, §2.2) as s3prl does it; spans and
//! distractors of wav2vec 2.0 (Baevski et al., 2020, §3.1, §3.2) as Hugging Face does it.

use super::*;

/// How many runs of `run` frames Mockingjay masks.
pub fn frame_runs(length: usize, run: usize, proportion: f64) -> usize {
    (length as f64 * proportion / run as f64).round_ties_even() as usize
}

/// Masks runs of frames: those that begin at the first places of `order`. One draw for all says
/// what they become: below 0.8 zeros, below 0.9 the runs at the first places of `random`, else
/// themselves. Of each masked frame, the one that is read in its place; −1 is zeros.
///
/// # Panics
///
/// If `length` is less than a run, and yet there are runs; or more than an order's places.
pub fn mask_frames(
    length: usize,
    run: usize,
    runs: usize,
    dice: f64,
    [order, random]: [&[usize]; 2],
) -> Vec<Option<i32>> {
    let last = length.saturating_sub(run + 1);
    let starts = |order: &[usize]| -> Vec<usize> {
        order.iter().copied().filter(|&start| start <= last).take(runs).collect()
    };
    let mut out = vec![None; order.len()];
    for (to, from) in starts(order).into_iter().zip(starts(random)) {
        for i in 0..run {
            out[to + i] = Some(match dice {
                x if x < 0.8 => -1,
                x if x < 0.9 => (from + i) as i32,
                _ => (to + i) as i32,
            });
        }
    }
    out
}

/// wav2vec's mask of one utterance, one flag for each place of `order`: spans at the first places
/// that leave room for one. `epsilon`, a draw, rounds their number at random.
pub fn mask_spans(
    length: usize,
    span: usize,
    [probability, epsilon]: [f64; 2],
    least: usize,
    order: &[usize],
) -> Vec<bool> {
    let count = (probability * length as f64 / span as f64 + epsilon) as usize;
    let count = count.max(least).min(length / span);
    let mut mask = vec![false; order.len()];
    for &start in order.iter().filter(|&&start| start + span <= length).take(count) {
        mask[start..start + span].fill(true);
    }
    mask
}

/// For each masked frame, others of the same utterance, each equally likely; `[frames, count]`,
/// zeros for frames that are not masked.
///
/// # Errors
///
/// If one frame only is masked: there is no other.
pub fn distractors(mask: &[bool], uniforms: &[f64]) -> Result<Vec<usize>> {
    let masked: Vec<usize> = (0..mask.len()).filter(|&i| mask[i]).collect();
    let count = uniforms.len() / mask.len().max(1);
    let rule = "a masked frame needs others to be told from";
    ensure(masked.len() != 1 || count == 0, "masked frames of an utterance", 1, rule)?;
    let mut out = vec![0; uniforms.len()];
    for (rank, &frame) in masked.iter().enumerate() {
        for k in frame * count..(frame + 1) * count {
            let v = (uniforms[k] * (masked.len() - 1) as f64) as usize;
            out[k] = masked[v + usize::from(v >= rank)];
        }
    }
    Ok(out)
}

pub(crate) fn read(_: &'static Traits, config: &Config, _: &Weights) -> Built {
    let [run, span] = each(["mask_consecutive", "mask_length"], |key| config.positive(key))?;
    let shares = ["mask_proportion", "mask_prob"];
    let [proportion, probability] = each(shares, |key| share(config, key))?;
    let [least, count] = each(["min_masks", "num_negatives"], |key| config.size(key))?;
    rule(move |draws, out| {
        let (lengths, total) = lengths(draws)?;
        let rows = lengths.len();
        let fits = |&n: &usize| n > 0 && (run <= n || frame_runs(n, run, proportion) == 0);
        let rule = format!("must hold a run of {run} frames");
        let bad = |r| Error::invalid(format!("lengths[{r}]"), lengths[r], rule);
        reject(lengths.iter().position(|n| !fits(n)), bad)?;
        let shape = [rows, total];
        let names = ["start_order", "random_order", "span_order"];
        let [starts, random, spans] = each(names, |name| draws.orders(name, &shape))?;
        let dice = draws.uniforms("dice", &[rows])?;
        let epsilon = draws.uniforms("epsilon", &[1])?[0];
        let uniforms = draws.uniforms("negative_uniforms", &[rows, total, count])?;
        for (r, &length) in lengths.iter().enumerate() {
            let own = r * total..(r + 1) * total;
            let [starts, random, spans] = [&starts, &random, &spans].map(|x| &x[own.clone()]);
            let runs = frame_runs(length, run, proportion);
            let frames = mask_frames(length, run, runs, dice[r], [starts, random]);
            let label = frames.iter().map(|read| i32::from(read.is_some()));
            let source = frames.iter().enumerate().map(|(i, read)| read.unwrap_or(i as i32));
            let masked = mask_spans(length, span, [probability, epsilon], least, spans);
            let others = distractors(&masked, &uniforms[own.start * count..own.end * count])?;
            let others = others.into_iter().map(|i| (i + own.start) as i32);
            out.add_row("mockingjay_label", &[total], label);
            out.add_row("mockingjay_source_frame", &[total], source);
            out.add_row("wav2vec2_mask", &[total], masked.into_iter().map(i32::from));
            out.add_row("wav2vec2_negatives", &[total, count], others);
        }
        Ok(())
    })
}

/// The input `lengths`, `[utterances]`, and the frames that the longest may have: as many as the
/// orders that are given.
fn lengths(draws: &Draws<'_>) -> Result<(Vec<usize>, usize)> {
    let lengths = draws.inputs.ints("lengths")?;
    let [_] = lengths.sizes("lengths")?;
    let longest = lengths.data.iter().copied().max().unwrap_or(0).max(0) as usize;
    let name = "span_order";
    let given = when(draws.inputs.has(name), || draws.inputs.ints(name)?.sizes(name))?;
    let total = given.map_or(longest, |[_, total]| total);
    Ok((lengths.indices("lengths", total + 1)?, total))
}
