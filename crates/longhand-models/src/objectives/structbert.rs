//! Shuffled words: StructBERT (Wang et al., 2020, §2.2.1).

use super::*;

/// How many runs of words are shuffled in a sequence: at least one.
pub fn budget(length: usize, share: f64) -> usize {
    ((length as f64 * share).round_ties_even() as usize).max(1)
}

/// Where runs of `size` words begin: at the first places of `order` where no word is masked, no
/// other run is and the end is not reached.
pub fn runs(masked: &[bool], size: usize, budget: usize, order: &[usize]) -> Vec<usize> {
    let mut taken = masked.to_vec();
    let fits = |&start: &usize| {
        let Some(run) = taken.get_mut(start..start + size) else { return false };
        let free = !run.contains(&true);
        run.iter_mut().for_each(|word| *word |= free);
        free
    };
    order.iter().copied().filter(fits).take(budget).collect()
}

/// Masks the masked words and shuffles each run by its permutation; the words of both are to be
/// told, in their right places.
pub fn shuffle(
    ids: &[i32],
    masked: &[bool],
    mask_id: i32,
    runs: &[usize],
    permutations: &[usize],
) -> Corrupted {
    let mut out = Corrupted::unchanged(ids);
    for i in (0..ids.len()).filter(|&i| masked[i]) {
        out.put(i, mask_id);
    }
    let size = permutations.len() / runs.len().max(1);
    for (&start, permutation) in runs.iter().zip(permutations.chunks(size.max(1))) {
        for (i, &from) in permutation.iter().enumerate() {
            out.put(start + i, ids[start + from]);
        }
    }
    out
}

pub(crate) fn read(_: &'static Traits, config: &Config, _: &Weights) -> Built {
    let mask_id = config.size("mask_id")? as i32;
    let share = share(config, "share")?;
    let size = config.positive("k")?;
    rule(move |draws, out| {
        // The rule needs no vocabulary.
        let (ids, shape @ [rows, len]) = tokens(draws.inputs, "input_ids", i32::MAX as usize)?;
        let masked = flags(draws.inputs, "masked", &shape)?;
        let order = draws.orders("start_order", &shape)?;
        let budget = budget(len, share);
        let own = masked.chunks(len).zip(order.chunks(len));
        let runs: Vec<_> = own.map(|(masked, order)| runs(masked, size, budget, order)).collect();
        let most = runs.iter().map(Vec::len).max().unwrap_or(0);
        let permutations = draws.orders("permutations", &[rows, most, size])?;
        let own = ids.chunks(len).zip(masked.chunks(len)).zip(&runs);
        for (r, ((ids, masked), runs)) in own.enumerate() {
            let permutations = &permutations[r * most * size..][..runs.len() * size];
            shuffle(ids, masked, mask_id, runs, permutations).add_to(out, "");
        }
        Ok(())
    })
}
