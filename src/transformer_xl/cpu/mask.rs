//! What the rows of a group of lanes see.

use crate::cpu::lanes::{LANES, Lanes, keep_open};
use std::ops::Range;

/// Bits of a word of `perm_mask`.
pub(super) const WORD: usize = 32;
/// Words that the keys of a tile may touch.
pub(super) const WORDS: usize = crate::cpu::tile::BLOCK_N.div_ceil(WORD) + 1;

/// The keys of each row of a group, and what their segments add. A lane without a row sees none.
#[derive(Clone, Copy)]
pub(super) struct Sight {
    start: [i32; LANES],
    end: [i32; LANES],
    /// Seen whatever the masks say; −1: none.
    own: [i32; LANES],
    /// From the first key that a row sees to the last, and those that all rows see.
    any: [usize; 2],
    all: [usize; 2],
    segment: [i32; LANES],
    same: Lanes,
    other: Lanes,
}

impl Sight {
    /// A group without rows.
    pub(super) const NONE: Sight = Sight {
        start: [0; LANES],
        end: [0; LANES],
        own: [-1; LANES],
        any: [usize::MAX, 0],
        all: [0, usize::MAX],
        segment: [0; LANES],
        same: [0.0; LANES],
        other: [0.0; LANES],
    };

    /// The row of `lane` sees `keys`, and `own` whatever the masks say.
    pub(super) fn add(&mut self, lane: usize, keys: Range<usize>, own: Option<usize>) {
        (self.start[lane], self.end[lane]) = (keys.start as i32, keys.end as i32);
        self.own[lane] = own.map_or(-1, |own| own as i32);
        self.all = [self.all[0].max(keys.start), self.all[1].min(keys.end)];
        for seen in [Some(keys), own.map(|own| own..own + 1)].into_iter().flatten() {
            if !seen.is_empty() {
                self.any = [self.any[0].min(seen.start), self.any[1].max(seen.end)];
            }
        }
    }

    /// The row of `lane` is in `segment`; keys of the same add `same` to its scores, others `other`.
    pub(super) fn add_segment(&mut self, lane: usize, segment: i32, [same, other]: [f32; 2]) {
        (self.segment[lane], self.same[lane], self.other[lane]) = (segment, same, other);
    }

    /// From the first key that a row sees to the last.
    pub(super) fn any(&self) -> Range<usize> {
        self.any[0]..self.any[1]
    }

    /// Whether window and chunks leave every row all of `keys`.
    pub(super) fn is_whole(&self, keys: &Range<usize>) -> bool {
        self.all[0] <= keys.start && keys.end <= self.all[1]
    }
}

/// Adds the segments' term, of keys in segments `of_keys`.
#[inline(always)]
pub(super) fn add_segments<const FMA: bool>(sight: &Sight, of_keys: &[i32], s: &mut [Lanes]) {
    // Selected by bits: of a choice the compiler makes one of two addresses, lane by lane.
    let [same, other] = [&sight.same, &sight.other].map(|x| x.map(f32::to_bits));
    for (s, of_key) in s.iter_mut().zip(of_keys) {
        for (lane, s) in s.iter_mut().enumerate() {
            let all = u32::from(sight.segment[lane] == *of_key).wrapping_neg();
            *s += f32::from_bits(same[lane] & all | other[lane] & !all);
        }
    }
}

/// A bit for each pair of a group and a tile: set where the score is masked. Word 0 begins at a
/// multiple of 32 keys.
pub(super) type Closed = [[u32; LANES]; WORDS];

impl Sight {
    /// The pairs with keys from `first` on that are masked: those outside of what a row sees, unless
    /// it sees them all (`whole`), those of `blocked` and keys that are not in `valid`.
    pub(super) fn closed(
        &self,
        first: usize,
        whole: bool,
        valid: &[u32; WORDS],
        blocked: impl Fn(usize) -> [u32; WORDS],
    ) -> Closed {
        let mut closed = [[0; LANES]; WORDS];
        let base = first / WORD * WORD;
        for (lane, own) in self.own.into_iter().enumerate() {
            let blocked = blocked(lane);
            for (n, closed) in closed.iter_mut().enumerate() {
                closed[lane] = blocked[n] | !valid[n];
                if !whole {
                    let (from, to) = (self.start[lane] as usize, self.end[lane] as usize);
                    closed[lane] |= !bits_between(from, to, base + n * WORD);
                }
            }
            let own = usize::try_from(own).ok().and_then(|own| own.checked_sub(base));
            if let Some(own) = own.filter(|own| *own < WORDS * WORD) {
                closed[own / WORD][lane] &= !(1 << (own % WORD));
            }
        }
        closed
    }
}

/// Of the 32 keys from `base` on, a bit for each from `from` to `to - 1`.
fn bits_between(from: usize, to: usize, base: usize) -> u32 {
    let [from, to] = [from, to].map(|key| key.saturating_sub(base).min(WORD));
    if from < to { u32::MAX >> (WORD - (to - from)) << from } else { 0 }
}

/// Masks the scores of the keys from `first` on.
#[inline(always)]
pub(super) fn mask<const FMA: bool>(closed: &Closed, first: usize, s: &mut [Lanes]) {
    for (n, s) in (first % WORD..).zip(s) {
        let (words, up) = (&closed[n / WORD], WORD - 1 - n % WORD);
        for (word, s) in words.iter().zip(s) {
            // The sign is what a register selects by.
            *s = keep_open(*s, (word << up) as i32 >= 0);
        }
    }
}

#[test]
fn bits_are_those_of_the_keys() {
    for (from, to, base) in
        [(0, 0, 0), (3, 40, 0), (3, 40, 32), (64, 70, 64), (0, 96, 32), (9, 5, 0)]
    {
        let expected = (0..WORD).filter(|n| (from..to).contains(&(base + n))).map(|n| 1 << n).sum();
        assert_eq!(bits_between(from, to, base), expected, "{from} {to} {base}");
    }
}
