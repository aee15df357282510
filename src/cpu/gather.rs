//! Rows and keys that are no neighbours in memory: bands, lists, sorted orders.
//!
//! A key has a coordinate, and a row sees a range of coordinates; where the two come from, a kind
//! says. Both ascend within a block, so that most tiles are seen whole or not at all.

use super::lanes::{LANES, Lanes, keep_open, key_by_key};
use super::tile::{BLOCK_M, BLOCK_N, GROUPS, SIDE, Tile};
use super::{Element, Isa, prefetch, with_isa};
use crate::Strides;

/// Rows of a block: lane after lane, the position and the first and last coordinate that it sees.
/// Lanes without a row see nothing.
pub(crate) struct Rows {
    pub(crate) len: usize,
    position: [[i32; LANES]; GROUPS],
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
struct Keys {
    len: usize,
    position: [i32; BLOCK_N],
    at: [i32; BLOCK_N],
}

impl Keys {
    /// The next of `keys`, positions and coordinates: as many as a tile has, or up to the last before
    /// a multiple of `end`.
    fn next(keys: &mut impl Iterator<Item = (i32, i32)>, end: i32) -> Self {
        let mut next = Keys { len: 0, position: [0; BLOCK_N], at: [0; BLOCK_N] };
        for (position, at) in keys.take(BLOCK_N) {
            next.position[next.len] = position;
            next.at[next.len] = at;
            next.len += 1;
            if (at + 1) % end == 0 {
                break;
            }
        }
        next
    }
}

/// What a kind makes of products before the masks of ranges.
pub(crate) trait Scores {
    /// Tiles end before multiples of this, where ranges do too, so that fewer are seen in part.
    fn end_of_tiles(&self) -> i32 {
        i32::MAX
    }
    /// Key `n` of the next tile is the one at position `j`.
    fn see(&mut self, _n: usize, _j: i32) {}
    /// Scores, in units of log2, of the products of the rows at positions `i` with the keys at `j`, of
    /// which the first is key `from` of the tile.
    fn score(&self, _s: &mut [Lanes], _i: &[i32; LANES], _j: &[i32], _from: usize) {}
}

/// The products are the scores.
pub(crate) struct Products;

impl Scores for Products {}

/// Rows that are asked for before they are loaded.
const AHEAD: usize = 16;
/// Keys that are asked for in the time that a group of rows takes.
const ASKED: usize = 9;

impl Tile<'_> {
    /// A new block: `rows` of `q`, times `scale`.
    pub(crate) fn load_rows<T: Element>(
        &mut self,
        isa: Isa,
        rows: &Rows,
        q: &Head<'_, T>,
        scale: f32,
    ) {
        self.begin(rows.len);
        (0..rows.len.min(AHEAD)).for_each(|n| prefetch(q.row(rows.position(n))));
        for n in 0..rows.len {
            if n + AHEAD < rows.len {
                prefetch(q.row(rows.position(n + AHEAD)));
            }
            self.load_q(isa, n, q.row(rows.position(n)), scale);
        }
    }

    /// All of `keys`, positions and coordinates that ascend, for all rows.
    pub(crate) fn attend<T: Element>(
        &mut self,
        isa: Isa,
        rows: &Rows,
        (k, v): (&Head<'_, T>, &Head<'_, T>),
        mut keys: impl Iterator<Item = (i32, i32)>,
        scores: &mut impl Scores,
    ) {
        let mut next = Keys::next(&mut keys, scores.end_of_tiles());
        while next.len > 0 {
            let tile = std::mem::replace(&mut next, Keys::next(&mut keys, scores.end_of_tiles()));
            for (n, &j) in tile.position[..tile.len].iter().enumerate() {
                scores.see(n, j);
                self.load_k(n, k.row(j as usize));
                self.load_v(n, v.row(j as usize));
            }
            self.end_k(tile.len);
            let finite = self.is_finite(isa, tile.len);
            // The tile after this one comes from memory while this one is computed, and not all at
            // once: a processor waits for no more than some tens of lines at a time.
            let mut ahead = next.position[..next.len].iter();
            let mut ask = |rows: usize| {
                for &j in ahead.by_ref().take(rows) {
                    prefetch(k.row(j as usize));
                    prefetch(v.row(j as usize));
                }
            };
            self.attend_tile(isa, rows, &tile, finite, scores, || ask(ASKED));
            ask(BLOCK_N);
        }
    }

    /// The tile's keys for all rows that see any of them; `meanwhile` is called for each group of rows.
    fn attend_tile(
        &mut self,
        isa: Isa,
        rows: &Rows,
        keys: &Keys,
        finite: bool,
        scores: &impl Scores,
        mut meanwhile: impl FnMut(),
    ) {
        let at = &keys.at[..keys.len];
        let (first, last) = (at[0], at[keys.len - 1]);
        for group in 0..rows.len.div_ceil(LANES) {
            let (start, end) = (&rows.start[group], &rows.last[group]);
            let lanes = LANES.min(rows.len - group * LANES);
            let (low, high) = (start[0], end[lanes - 1]);
            if last < low || first > high {
                continue;
            }
            // Those that any row of the group sees: a band need not end where a tile does.
            let before = if first < low { at.partition_point(|&at| at < low) } else { 0 };
            let to = if last > high { at.partition_point(|&at| at <= high) } else { keys.len };
            let from = before / SIDE * SIDE;
            if before == to {
                continue;
            }
            let seen = from..to;
            meanwhile();
            let at = &at[seen.clone()];
            let whole = at[0] >= start[lanes - 1] && at[at.len() - 1] <= end[0];
            let s: &mut [Lanes] = self.scores(isa, group, seen.clone());
            scores.score(s, &rows.position[group], &keys.position[seen.clone()], from);
            if !whole {
                type Range<'a> = &'a [i32; LANES];
                with_isa!(isa, mask(s: &mut [Lanes], at: &[i32], start: Range<'_>, end: Range<'_>));
            }
            self.add(isa, group, seen, !finite);
        }
    }
}

/// −∞ for keys outside a row's range.
#[inline(always)]
fn mask<const FMA: bool>(s: &mut [Lanes], at: &[i32], start: &[i32; LANES], end: &[i32; LANES]) {
    for (s, &at) in s.iter_mut().zip(at) {
        key_by_key();
        for n in 0..LANES {
            let seen = (at >= start[n]) & (at <= end[n]);
            s[n] = keep_open(s[n], seen);
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

    /// Of rows of `d` elements that begin `step` apart.
    pub(crate) fn of(x: &'a [T], step: usize, d: usize) -> Self {
        Head { x, step, d }
    }

    pub(crate) fn row(&self, i: usize) -> &'a [T] {
        &self.x[i * self.step..][..self.d]
    }
}
