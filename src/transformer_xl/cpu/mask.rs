//! What the rows of a group of lanes see.

use crate::cpu::lanes::{LANES, Lanes, keep_open, key_by_key, select};
use crate::cpu::{Isa, with_isa};
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
    let [same, other] = [&sight.same, &sight.other].map(|x| x.map(f32::to_bits));
    for (s, of_key) in s.iter_mut().zip(of_keys) {
        key_by_key();
        for (lane, s) in s.iter_mut().enumerate() {
            let all = u32::from(sight.segment[lane] == *of_key).wrapping_neg();
            *s += f32::from_bits(select(all, same[lane], other[lane]));
        }
    }
}

/// A bit for each pair of a group and a tile: set where the score is masked. Word 0 begins at a
/// multiple of 32 keys.
pub(super) type Closed = [[u32; LANES]; WORDS];

/// The keys of a tile that are masked for all rows.
pub(super) type Invalid = [u32; WORDS];

/// Of the keys from `first` on, those whose byte of `valid` is 0.
pub(super) fn invalid(first: usize, valid: &[u8]) -> Invalid {
    let mut invalid = [0; WORDS];
    let (mut n, mut bit) = (0, first % WORD);
    for byte in valid {
        invalid[n] |= u32::from(*byte == 0) << bit;
        (n, bit) = if bit + 1 == WORD { (n + 1, 0) } else { (n, bit + 1) };
    }
    invalid
}

impl Sight {
    /// Closes the pairs of `keys` outside of what a row sees, and opens each row's own. Whether any is
    /// closed.
    pub(super) fn close(&self, isa: Isa, keys: &Range<usize>, closed: &mut Closed) -> bool {
        let base = keys.start / WORD * WORD;
        if !self.is_whole(keys) {
            let (sight, base, closed): (&Sight, i32, &mut Closed) = (self, base as i32, closed);
            with_isa!(isa, close_outside(sight: &Sight, base: i32, closed: &mut Closed));
        }
        for (lane, own) in self.own.iter().enumerate() {
            key_by_key();
            // −1 and what lies before the tile are large.
            let own = (*own as usize).wrapping_sub(base);
            if own < WORDS * WORD {
                closed[own / WORD][lane] &= !(1 << (own % WORD));
            }
        }
        closed.as_flattened().iter().fold(0, |any, word| any | word) != 0
    }
}

/// Closes what window and chunks do not let a row see, of the words from key `base` on.
#[inline(always)]
fn close_outside<const FMA: bool>(sight: &Sight, base: i32, closed: &mut Closed) {
    for (closed, base) in closed.iter_mut().zip((base..).step_by(WORD)) {
        for (lane, closed) in closed.iter_mut().enumerate() {
            *closed |= !bits_between(sight.start[lane] - base, sight.end[lane] - base);
        }
    }
}

/// Bits `from` to `to − 1` of a word, which may lie outside of it.
#[inline(always)]
fn bits_between(from: i32, to: i32) -> u32 {
    let below = |end: i32| match end >= WORD as i32 {
        true => u32::MAX,
        false => (1 << end.max(0)) - 1,
    };
    below(to) & !below(from)
}

/// Masks the scores of the keys from `first` on.
#[inline(always)]
pub(super) fn mask<const FMA: bool>(closed: &Closed, first: usize, s: &mut [Lanes]) {
    for (n, s) in (first % WORD..).zip(s) {
        key_by_key();
        let (words, up) = (&closed[n / WORD], WORD - 1 - n % WORD);
        for (word, s) in words.iter().zip(s) {
            // The sign is what a register selects by.
            *s = keep_open(*s, (word << up) as i32 >= 0);
        }
    }
}

#[test]
fn bits_are_those_of_the_keys() {
    for (from, to) in [(0, 0), (3, 40), (-29, 8), (32, 38), (-32, 64), (9, 5), (-9, -5), (31, 32)] {
        let expected = (0..32).filter(|n| (from..to).contains(n)).map(|n| 1 << n).sum();
        assert_eq!(bits_between(from, to), expected, "{from} {to}");
    }
}
