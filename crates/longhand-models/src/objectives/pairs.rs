//! Pairs of sentences: next or random (BERT, Devlin et al., 2019, §3.1), swapped (ALBERT, Lan et
//! al., 2020, §3.1), previous, next or random (StructBERT, Wang et al., 2020, §2.2.2).

use super::*;

/// Two sentences and how the second relates to the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair<'a> {
    /// Stands in front.
    pub first: &'a [i32],
    /// Stands behind.
    pub second: &'a [i32],
    /// The answer.
    pub label: i32,
}

/// A sentence, the one that follows it, and one from elsewhere.
#[derive(Debug, Clone, Copy)]
pub struct Sentences<'a> {
    /// The sentence.
    pub first: &'a [i32],
    /// The next one of its text.
    pub next: &'a [i32],
    /// One of another text.
    pub random: &'a [i32],
}

/// BERT's: label 0 the next sentence, 1 a random one.
pub fn next_sentence<'a>(s: &Sentences<'a>, uniform: f64) -> Pair<'a> {
    match uniform < 0.5 {
        true => Pair { first: s.first, second: s.random, label: 1 },
        false => Pair { first: s.first, second: s.next, label: 0 },
    }
}

/// ALBERT's: label 0 in order, 1 swapped.
pub fn sentence_order<'a>(s: &Sentences<'a>, uniform: f64) -> Pair<'a> {
    match uniform < 0.5 {
        true => Pair { first: s.next, second: s.first, label: 1 },
        false => Pair { first: s.first, second: s.next, label: 0 },
    }
}

/// StructBERT's: label 0 a random sentence, 1 the next, 2 the previous.
pub fn structural<'a>(s: &Sentences<'a>, uniform: f64) -> Pair<'a> {
    match uniform {
        u if u < 1.0 / 3.0 => Pair { first: s.first, second: s.random, label: 0 },
        u if u < 2.0 / 3.0 => Pair { first: s.first, second: s.next, label: 1 },
        _ => Pair { first: s.next, second: s.first, label: 2 },
    }
}

impl<'a> Pair<'a> {
    /// Both cut to `most` tokens: one at a time from the longer (the second, if none is), in front
    /// where the next draw is below 0.5, else at its end. Takes as many draws as tokens are cut.
    pub fn truncated(mut self, most: usize, uniforms: &[f64]) -> Self {
        let over = (self.first.len() + self.second.len()).saturating_sub(most);
        for &u in uniforms.iter().take(over) {
            let longer = match self.first.len() > self.second.len() {
                true => &mut self.first,
                false => &mut self.second,
            };
            *longer = if u < 0.5 { &longer[1..] } else { &longer[..longer.len() - 1] };
        }
        self
    }
}

type Choose = for<'a> fn(&Sentences<'a>, f64) -> Pair<'a>;

pub(crate) fn read(_: &'static Traits, config: &Config, _: &Weights) -> Built {
    let tokens = each(["cls_id", "sep_id", "pad_id"], |key| Ok(config.size(key)? as i32))?;
    // Two tokens and three marks at least.
    let length = config.size_in("max_length", 5..=1 << 20)?;
    rule(move |draws, out| {
        let sentences = |name| {
            let rows = ragged(draws.inputs, name, i32::MAX as usize)?;
            let empty = |r| Error::input(format!("input {name:?}: row {r} is empty"));
            reject(rows.iter().position(|row| row.is_empty()), empty).map(|()| rows)
        };
        let [first, next, random] = each(["first", "next", "random"], sentences)?;
        let sizes = [first.len(), next.len(), random.len()];
        let alike = sizes == [first.len(); 3];
        ensure(alike, "rows of first, next, random", format!("{sizes:?}"), "must be as many")?;
        let uniforms = draws.uniforms("uniforms", &[first.len()])?;
        let kinds: [(&str, Choose); 3] =
            [("nsp", next_sentence), ("sop", sentence_order), ("structural", structural)];
        for (name, choose) in kinds {
            let pair = |(r, &u): (usize, &f64)| {
                choose(&Sentences { first: first[r], next: next[r], random: random[r] }, u)
            };
            let pairs = uniforms.iter().enumerate().map(pair).collect();
            out.absorb(&format!("{name}."), pack(draws, pairs, tokens, length)?);
        }
        Ok(())
    })
}

/// What BERT reads of pairs: `[CLS] first [SEP] second [SEP]`, padded.
fn pack(
    draws: &Draws<'_>,
    pairs: Vec<Pair<'_>>,
    [cls, sep, pad]: [i32; 3],
    length: usize,
) -> Result<Outputs> {
    let size = |pair: &Pair<'_>| (pair.first.len() + pair.second.len() + 3).saturating_sub(length);
    // One at least, so that a file without them is always told so.
    let steps = pairs.iter().map(size).fold(1, usize::max);
    let shape = [pairs.len(), length];
    let uniforms = draws.uniforms("truncate_uniforms", &[pairs.len(), steps])?;
    let labels = pairs.iter().map(|pair| pair.label).collect();
    let (mut ids, mut types, mut mask) = (Vec::new(), Vec::new(), Vec::new());
    for (pair, uniforms) in pairs.into_iter().zip(uniforms.chunks(steps)) {
        let pair = pair.truncated(length - 3, uniforms);
        let front = pair.first.len() + 2;
        let mut row = [&[cls], pair.first, &[sep], pair.second, &[sep]].concat();
        mask.extend((0..length).map(|i| i32::from(i < row.len())));
        types.extend((0..length).map(|i| i32::from((front..row.len()).contains(&i))));
        row.resize(length, pad);
        ids.append(&mut row);
    }
    let mut out = Outputs::default();
    out.put_ints("labels", Ints::new(&shape[..1], labels));
    out.put_ints("input_ids", Ints::new(&shape, ids));
    out.put_ints("token_type_ids", Ints::new(&shape, types));
    out.put_ints("attention_mask", Ints::new(&shape, mask));
    Ok(out)
}
