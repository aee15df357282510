//! Orders of factorisation: XLNet (Yang et al., 2019, §2.2), as its published data program does it.

use super::*;
use std::iter::repeat_n;

/// Which positions may not be seen, `[length, length]`: row i does not see column j where this is
/// true.
///
/// `ranks` is a permutation: what has the lower rank is told first. A target sees what is told
/// before it, everything else its own rank too; plain tokens, neither targets nor marks (`[CLS]`,
/// `[SEP]`), are known from the beginning and seen by all.
pub fn hidden(ranks: &[usize], is_target: &[bool], is_mark: &[bool]) -> Vec<bool> {
    let plain = |i: usize| !is_target[i] && !is_mark[i];
    let rank = |i: usize| if plain(i) { -1 } else { ranks[i] as i64 };
    let own = |i: usize| rank(i) + i64::from(!is_target[i] || is_mark[i]);
    let all = 0..ranks.len();
    all.clone().flat_map(|i| all.clone().map(move |j| !plain(j) && own(i) <= rank(j))).collect()
}

pub(crate) fn read(_: &'static Traits, config: &Config, _: &Weights) -> Built {
    let marks = each(["cls_id", "sep_id"], |key| Ok(config.size(key)? as i32))?;
    let count = config.positive("num_predict")?;
    rule(move |draws, out| {
        // The rule needs no vocabulary.
        let (ids, shape @ [rows, len]) = tokens(draws.inputs, "input_ids", i32::MAX as usize)?;
        let rule = format!("must be at most the length, {len}");
        ensure(count <= len, "config: num_predict", count, rule)?;
        let large = || Error::declined(format!("perm_mask [{rows}, {len}, {len}] in one piece"));
        require(ids.len().saturating_mul(len) <= 1 << 28, large)?;
        let is_mark: Vec<bool> = ids.iter().map(|id| marks.contains(id)).collect();
        let is_target = flags(draws.inputs, "is_target", &shape)?;
        let ranks = draws.orders("permutation", &shape)?;
        let own = ids.chunks(len).zip(is_mark.chunks(len));
        let own = own.zip(is_target.chunks(len).zip(ranks.chunks(len)));
        for (r, ((ids, marks), (targets, ranks))) in own.enumerate() {
            let mask = hidden(ranks, targets, marks).into_iter().map(i32::from);
            out.add_row("perm_mask", &[len, len], mask);
            let told: Vec<usize> = (0..len).filter(|&i| targets[i]).collect();
            let rule = format!("num_predict is {count}");
            ensure(told.len() <= count, format_args!("targets of row {r}"), told.len(), rule)?;
            // Fewer targets than `num_predict`: the rest stands at position 0 and is not scored.
            let rest = count - told.len();
            let positions = told.iter().map(|&i| i as i32).chain(repeat_n(0, rest));
            out.add_row("target_positions", &[count], positions);
            let labels = told.iter().map(|&i| ids[i]).chain(repeat_n(NOT_SCORED, rest));
            out.add_row("labels", &[count], labels);
        }
        Ok(())
    })
}
