//! What the rows of a group of lanes see.

use crate::cpu::lanes::{LANES, Lanes};
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
    for (s, of_key) in s.iter_mut().zip(of_keys) {
        for (lane, s) in s.iter_mut().enumerate() {
            let same = sight.segment[lane] == *of_key;
            *s += if same { sight.same[lane] } else { sight.other[lane] };
        }
    }
}

/// Masks the scores of the keys from `first` on. A bit of `blocked` masks a pair (word 0 begins at a
/// multiple of 32 keys), a 0 of `valid` a key.
#[inline(always)]
pub(super) fn mask<const FMA: bool>(
    sight: &Sight,
    first: usize,
    blocked: &[[u32; LANES]; WORDS],
    valid: Option<&[u8]>,
    s: &mut [Lanes],
) {
    for (n, s) in s.iter_mut().enumerate() {
        let (key, bit) = ((first + n) as i32, (first + n) % WORD);
        let blocked = &blocked[(first % WORD + n) / WORD];
        let valid = valid.is_none_or(|valid| valid[n] != 0);
        for (lane, s) in s.iter_mut().enumerate() {
            let inside = (key >= sight.start[lane]) & (key < sight.end[lane]);
            let open = inside & valid & (blocked[lane] >> bit & 1 == 0) | (key == sight.own[lane]);
            *s = if open { *s } else { f32::NEG_INFINITY };
        }
    }
}
