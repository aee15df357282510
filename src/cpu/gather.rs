//! Rows and keys that are no neighbours in memory: bands, lists, sorted orders.
//!
//! A key has a coordinate, and a row sees a range of coordinates; where the two come from, a kind
//! says. Both ascend within a block, so that most tiles are seen whole or not at all.

use super::lanes::{LANES, Lanes};
use super::tile::{BLOCK_M, BLOCK_N, GROUPS, Tile};
use super::{Element, Isa, with_isa};
use crate::Strides;

/// Rows of a block: lane after lane, the position and the first and last coordinate that it sees.
/// Lanes without a row see nothing.
pub(crate) struct Rows {
    pub(crate) len: usize,
    pub(crate) position: [[i32; LANES]; GROUPS],
    start: [[i32; LANES]; GROUPS],
    last: [[i32; LANES]; GROUPS],
}

impl Rows {
    pub(crate) fn new() -> Self {
        let (start, last) = ([[0; LANES]; GROUPS], [[-1; LANES]; GROUPS]);
        Rows { len: 0, position: [[-1; LANES]; GROUPS], start, last }
    }

    /// One more, whose range does not begin or end before that of the one before.
    pub(crate) fn push(&mut self, position: i32, start: i32, last: i32) {
        debug_assert!(self.len < BLOCK_M);
        let (group, lane) = (self.len / LANES, self.len % LANES);
        self.position[group][lane] = position;
        self.start[group][lane] = start;
        self.last[group][lane] = last;
        self.len += 1;
    }

    /// Other ranges for the same rows, from their positions.
    pub(crate) fn see(&mut self, range: impl Fn(i32) -> (i32, i32)) {
        for n in 0..self.len {
            let (group, lane) = (n / LANES, n % LANES);
            (self.start[group][lane], self.last[group][lane]) = range(self.position[group][lane]);
        }
    }

    /// The position of row `n`.
    pub(crate) fn position(&self, n: usize) -> usize {
        self.position[n / LANES][n % LANES] as usize
    }
}

/// Keys of a tile.
pub(crate) struct Keys {
    pub(crate) len: usize,
    pub(crate) position: [i32; BLOCK_N],
    at: [i32; BLOCK_N],
    /// All values are finite.
    finite: bool,
}

impl Keys {
    pub(crate) fn new() -> Self {
        Keys { len: 0, position: [0; BLOCK_N], at: [0; BLOCK_N], finite: true }
    }

    /// One more; its number. `finite`: its value is.
    pub(crate) fn push(&mut self, position: i32, at: i32, finite: bool) {
        self.position[self.len] = position;
        self.at[self.len] = at;
        self.finite &= finite;
        self.len += 1;
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len == BLOCK_N
    }
}

impl Tile<'_> {
    /// The tile's keys for all rows that see any of them; `modify` is given each group's scores, in
    /// units of log2, before the masks.
    pub(crate) fn attend(
        &mut self,
        isa: Isa,
        rows: &Rows,
        keys: &Keys,
        modify: impl Fn(&mut [Lanes], usize),
    ) {
        if keys.len == 0 {
            return;
        }
        self.end_k(keys.len);
        let at = &keys.at[..keys.len];
        let (first, last) = (at[0], at[keys.len - 1]);
        for group in 0..rows.len.div_ceil(LANES) {
            let (start, end) = (&rows.start[group], &rows.last[group]);
            let lanes = LANES.min(rows.len - group * LANES);
            if last < start[0] || first > end[lanes - 1] {
                continue;
            }
            let whole = first >= start[lanes - 1] && last <= end[0];
            let s: &mut [Lanes] = self.scores(isa, group, keys.len);
            modify(s, group);
            if !whole {
                type Range<'a> = &'a [i32; LANES];
                with_isa!(isa, mask(s: &mut [Lanes], at: &[i32], start: Range<'_>, end: Range<'_>));
            }
            self.add(isa, group, keys.len, !keys.finite);
        }
    }
}

/// −∞ for keys outside a row's range.
#[inline(always)]
fn mask<const FMA: bool>(s: &mut [Lanes], at: &[i32], start: &[i32; LANES], end: &[i32; LANES]) {
    for (s, &at) in s.iter_mut().zip(at) {
        for n in 0..LANES {
            let seen = (at >= start[n]) & (at <= end[n]);
            s[n] = if seen { s[n] } else { f32::NEG_INFINITY };
        }
    }
}

/// The rows of one head of one sequence.
pub(crate) struct Head<'a, T> {
    x: &'a [T],
    step: usize,
    d: usize,
}

impl<'a, T: Element> Head<'a, T> {
    pub(crate) fn new(x: &'a [T], strides: Strides, b: usize, h: usize, d: usize) -> Self {
        Head { x: &x[b * strides.batch + h * strides.head..], step: strides.seqlen, d }
    }

    pub(crate) fn row(&self, i: usize) -> &'a [T] {
        &self.x[i * self.step..][..self.d]
    }
}
