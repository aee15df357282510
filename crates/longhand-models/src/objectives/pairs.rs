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

/// A sentence, the one that follows it in its text, and one of another text.
pub type Sentences<'a> = [&'a [i32]; 3];
const FIRST: usize = 0;
const NEXT: usize = 1;
const RANDOM: usize = 2;

/// What is asked about pairs: for draws below each bound, which two of [`Sentences`], and the label.
pub type Question = &'static [(f64, [usize; 2], i32)];

/// BERT's: label 0 the next sentence, 1 a random one.
pub const NEXT_SENTENCE: Question = &[(0.5, [FIRST, RANDOM], 1), (1.0, [FIRST, NEXT], 0)];

/// ALBERT's: label 0 in order, 1 swapped.
pub const SENTENCE_ORDER: Question = &[(0.5, [NEXT, FIRST], 1), (1.0, [FIRST, NEXT], 0)];

/// StructBERT's: label 0 a random sentence, 1 the next, 2 the previous.
pub const STRUCTURAL: Question =
    &[(1.0 / 3.0, [FIRST, RANDOM], 0), (2.0 / 3.0, [FIRST, NEXT], 1), (1.0, [NEXT, FIRST], 2)];

impl<'a> Pair<'a> {
    /// The pair that a draw chooses.
    pub fn chosen(sentences: Sentences<'a>, question: Question, uniform: f64) -> Self {
        let below = question.partition_point(|&(bound, ..)| bound <= uniform);
        let (_, pair, label) = question[below.min(question.len() - 1)];
        let [first, second] = pair.map(|i| sentences[i]);
        Pair { first, second, label }
    }

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

pub(crate) fn read(_: &'static Traits, config: &Config, _: &Weights) -> Built {
    let [cls, sep, pad] = each(["cls_id", "sep_id", "pad_id"], |key| Ok(config.size(key)? as i32))?;
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
        for (name, question) in
            [("nsp.", NEXT_SENTENCE), ("sop.", SENTENCE_ORDER), ("structural.", STRUCTURAL)]
        {
            let pair =
                |(r, &u): (usize, &f64)| Pair::chosen([first[r], next[r], random[r]], question, u);
            let pairs: Vec<Pair<'_>> = uniforms.iter().enumerate().map(pair).collect();
            let over =
                |pair: &Pair<'_>| (pair.first.len() + pair.second.len() + 3).saturating_sub(length);
            // One at least, so that a file without them is always told so.
            let steps = pairs.iter().map(over).fold(1, usize::max);
            let cuts = draws.uniforms("truncate_uniforms", &[pairs.len(), steps])?;
            for (pair, cuts) in pairs.into_iter().zip(cuts.chunks(steps)) {
                let pair = pair.truncated(length - 3, cuts);
                // What BERT reads: `[CLS] first [SEP] second [SEP]`, padded.
                let mut ids = [&[cls], pair.first, &[sep], pair.second, &[sep]].concat();
                let (front, end) = (pair.first.len() + 2, ids.len());
                let mut put = |what, shape: &[usize], row: Vec<i32>| {
                    out.add_row(&format!("{name}{what}"), shape, row)
                };
                let inside = |range: Range<usize>| {
                    (0..length).map(|i| i32::from(range.contains(&i))).collect()
                };
                ids.resize(length, pad);
                put("labels", &[], vec![pair.label]);
                put("input_ids", &[length], ids);
                put("token_type_ids", &[length], inside(front..end));
                put("attention_mask", &[length], inside(0..end));
            }
        }
        Ok(())
    })
}
