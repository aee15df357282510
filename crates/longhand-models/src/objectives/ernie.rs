//! Knowledge masking: ERNIE (Sun et al., 2019, §3.2), as its published data program does it.

use super::*;

/// The units (words, phrases, entities) of a row of labels: 0 begins one, 1 continues it, −1 is
/// none's. With `by_token` each token is a unit of its own.
pub fn units(labels: &[i32], by_token: bool) -> Vec<Range<usize>> {
    let mut units: Vec<Range<usize>> = Vec::new();
    for (i, &label) in labels.iter().enumerate().filter(|&(_, &label)| label >= 0) {
        match units.last_mut() {
            Some(unit) if label == 1 && !by_token && unit.end == i => unit.end += 1,
            _ => units.push(i..i + 1),
        }
    }
    units
}

/// Masks the units whose first token's draw is at most `probability`. The same draw says what
/// becomes of that token, so it counts as a part of `probability`; the others' of 1: more than 0.2
/// of it masks, more than 0.1 replaces by a random token.
pub fn mask_units(
    ids: &[i32],
    units: &[Range<usize>],
    probability: f64,
    actions: &Actions,
) -> Corrupted {
    let mut out = Corrupted::unchanged(ids);
    for unit in units.iter().filter(|unit| actions.uniforms[unit.start] <= probability) {
        for i in unit.clone() {
            let base = if i == unit.start { probability } else { 1.0 };
            let token = match actions.uniforms[i] {
                u if u > 0.2 * base => actions.mask_id,
                u if u > 0.1 * base => actions.random_tokens[i],
                _ => ids[i],
            };
            out.put(i, token);
        }
    }
    out
}

pub(crate) fn read(_: &'static Traits, config: &Config, _: &Weights) -> Built {
    let vocab = config.positive("vocab_size")?;
    let mask_id = token(config, "mask_id", vocab)?;
    let probability = share(config, "unit_probability")?;
    rule(move |draws, out| {
        let (shape @ [count, len], rows) = batch(draws, ["input_ids", "uniforms"], vocab, mask_id)?;
        let labels = &draws.inputs.ints_shaped("unit_labels", &shape)?.data;
        let by_word = flags(draws.inputs, "word_level", &[count])?;
        let goes_on = |i: usize| labels[i] == 1 && !i.is_multiple_of(len) && labels[i - 1] != -1;
        let bad = |&i: &usize| !goes_on(i) && !matches!(labels[i], -1 | 0);
        let rule = "must be 0 (a unit begins), 1 (it goes on) or -1 (none)";
        let error = |i| Error::invalid(format!("unit_labels[{i}]"), labels[i], rule);
        reject((0..labels.len()).find(bad), error)?;
        let own = labels.chunks(len).zip(by_word);
        for ((ids, actions), (labels, by_word)) in rows.iter().zip(own) {
            let units = units(labels, !by_word);
            mask_units(ids, &units, probability, actions).add_to(out, "");
        }
        Ok(())
    })
}
