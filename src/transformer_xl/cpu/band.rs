//! Scores by two products, the position term a banded one: where additions have no units of their own,
//! or rows are no neighbours.
//!
//! Key j of a tile and lane i of a group of neighbouring rows meet the table's row of distance
//! δ₀ + i − j: a band of as many distances as the tile has keys, and 15 more. Its product with
//! q + bias_v is computed like scores, a vector of rows for each distance; the scores begin at its
//! diagonals, which are read without leaving a lane. The tile before had the band's 15 farthest
//! distances, so those products are kept for each group. The table's rows lie in a window that moves
//! towards the future, a tile's length at a time; each is converted once for a block.

use super::tile::{GROUPS, ROWS};
use crate::cpu::lanes::{LANES, Lanes};
use crate::cpu::products::{dots, scores};
use crate::cpu::tile::{BLOCK_N, SIDE};
use crate::cpu::{Isa, with_isa};

/// Distances of a band beyond the tile's length.
const MORE: usize = LANES - 1;
/// The same in whole steps of the product.
const PADDED_MORE: usize = MORE.next_multiple_of(SIDE);
/// Rows of the table that a tile needs: its first group's nearest to its last group's farthest.
const SPAN: usize = BLOCK_N + ROWS - LANES + PADDED_MORE;
/// Rows of the window: it is moved to the end when it has come to the beginning.
const WINDOW: usize = SPAN + 6 * BLOCK_N;
const BAND: usize = BLOCK_N + PADDED_MORE;
/// Lanes of a half, which are read from where their diagonals are.
const HALF: usize = LANES / 2;
const BITS: usize = HALF.ilog2() as usize;
/// −1 for the lanes whose number has the bit.
const MASKS: [[i32; HALF]; BITS] = {
    let mut masks = [[0; HALF]; BITS];
    let mut at = 0;
    while at < BITS * HALF {
        let (bit, lane) = (at / HALF, at % HALF);
        masks[bit][lane] = -((lane >> bit & 1) as i32);
        at += 1;
    }
    masks
};

/// One thread's part of the workspace.
pub(super) struct Band<'a> {
    /// Elements of a row.
    d: usize,
    /// q + bias_v, per group of rows and element.
    q: &'a mut [Lanes],
    /// Per group: products of the last tile's nearest distances.
    kept: &'a mut [[Lanes; MORE]],
    /// The least distance of those.
    kept_from: [i64; GROUPS],
    /// Products of a group and a tile, by distance.
    band: &'a mut [Lanes],
    /// Rows of the table, by distance, up to the window's end or not.
    window: &'a mut [f32],
    /// The window's first row, the distance that it is of, and how many there are.
    first: usize,
    low: i64,
    count: usize,
    row: &'a mut [f32],
}

impl<'a> Band<'a> {
    /// f32 that one needs.
    pub(super) fn len(d: usize) -> usize {
        (GROUPS * (d + MORE) + BAND) * LANES + (WINDOW + 1) * d
    }

    /// One in `all`, as long as `len` says.
    pub(super) fn new(d: usize, all: &'a mut [f32]) -> Self {
        let (lanes, rest) = all.split_at_mut((GROUPS * (d + MORE) + BAND) * LANES);
        let (q, lanes) = lanes.as_chunks_mut::<LANES>().0.split_at_mut(GROUPS * d);
        let (kept, band) = lanes.split_at_mut(GROUPS * MORE);
        let (window, row) = rest.split_at_mut(WINDOW * d);
        Band {
            d,
            q,
            kept: kept.as_chunks_mut().0,
            kept_from: [i64::MIN; GROUPS],
            band,
            window,
            first: 0,
            low: 0,
            count: 0,
            row,
        }
    }

    /// Row `n` of the block is `x`, turned. A group's other lanes are 0 after `n = 0` of it.
    pub(super) fn load_q(&mut self, n: usize, x: &[f32]) {
        let group = &mut self.q[n / LANES * self.d..][..self.d];
        if n.is_multiple_of(LANES) {
            group.fill([0.0; LANES]);
        }
        for (q, x) in group.iter_mut().zip(x) {
            q[n % LANES] = *x;
        }
    }

    /// The window has the distances that a tile of rows `0..rows` needs, where row 0 has distance
    /// `near` to the tile's first key. `load` writes a distance's row of the table.
    pub(super) fn load_window(
        &mut self,
        near: i64,
        rows: usize,
        mut load: impl FnMut(i64, &mut [f32]),
    ) {
        let low = near - (BLOCK_N as i64 - 1);
        let high = near + (rows.next_multiple_of(LANES) - LANES + PADDED_MORE) as i64;
        let needed = (high - low + 1) as usize;
        let kept = usize::try_from(high - self.low + 1).unwrap_or(0).min(self.count);
        let kept = if low <= self.low { kept } else { 0 };
        let new = needed - kept;
        if self.first < new || kept == 0 {
            let from = self.first * self.d;
            self.first = WINDOW - kept;
            self.window.copy_within(from..from + kept * self.d, self.first * self.d);
        }
        self.first -= new;
        (self.low, self.count) = (low, needed);
        for n in 0..new {
            load(low + n as i64, &mut self.window[(self.first + n) * self.d..][..self.d]);
        }
    }

    /// S of one group begins at the position term. `near`: the distance of the group's first row and
    /// the tile's first key. `s`: whole steps of [`SIDE`] keys.
    pub(super) fn begin_scores(&mut self, isa: Isa, group: usize, near: i64, s: &mut [Lanes]) {
        let (d, keys) = (self.d, s.len());
        let low = near - (keys as i64 - 1);
        let reuse = self.kept_from[group] == near + 1;
        let count = if reuse { keys } else { keys + PADDED_MORE };
        let at = self.first + (low - self.low) as usize;
        {
            let q: &[Lanes] = &self.q[group * d..][..d];
            let r: &[f32] = &self.window[at * d..][..count * d];
            let band: &mut [Lanes] = &mut self.band[..count];
            with_isa!(isa, scores(q: &[Lanes], r: &[f32], band: &mut [Lanes]));
        }
        if reuse {
            self.band[keys..keys + MORE].copy_from_slice(&self.kept[group]);
        }
        if s.len() == BLOCK_N {
            self.kept[group].copy_from_slice(&self.band[..MORE]);
            self.kept_from[group] = low;
        }
        let band: &[Lanes] = self.band;
        with_isa!(isa, diagonals(band: &[Lanes], s: &mut [Lanes]));
    }

    /// The same of one row of the block that has no neighbours: its distance to the tile's first key
    /// is `near`.
    pub(super) fn begin_row(
        &mut self,
        isa: Isa,
        n: usize,
        near: i64,
        s: &mut [Lanes],
        mut load: impl FnMut(i64, &mut [f32]),
    ) {
        let (d, lane) = (self.d, n % LANES);
        let mut sums = [0f32; BLOCK_N + SIDE];
        for (to, q) in self.row.iter_mut().zip(&self.q[n / LANES * d..][..d]) {
            *to = q[lane];
        }
        for (n, row) in self.window.chunks_exact_mut(d).take(s.len()).enumerate() {
            load(near - n as i64, row);
        }
        let q: &[f32] = self.row;
        let rows: &[f32] = &self.window[..s.len() * d];
        let sums: &mut [f32] = &mut sums[..s.len()];
        with_isa!(isa, dots(q: &[f32], rows: &[f32], sums: &mut [f32]));
        for (s, sum) in s.iter_mut().zip(&*sums) {
            s[lane] = *sum;
        }
    }
}

/// Lane i of key n: row `len − 1 − n + i` of the band. Whole steps of [`SIDE`] keys.
#[inline(always)]
fn diagonals<const FMA: bool>(band: &[Lanes], s: &mut [Lanes]) {
    diagonals_of_half(band, 0, s);
    diagonals_of_half(&band[HALF..], HALF, s);
}

/// The same of the lanes from `at` on. Rows are selected, lanes stay: after the selection of a bit,
/// every lane whose number has it is of so many rows further. Each row is read once, and what later
/// ones need of it stays in registers.
#[inline(always)]
fn diagonals_of_half(band: &[Lanes], at: usize, s: &mut [Lanes]) {
    type Half = [f32; HALF];
    // Hidden from the compiler, which would else find slower ways to select, lane by lane.
    let masks = std::hint::black_box(MASKS);
    let half = |row: &Lanes| -> Half { std::array::from_fn(|n| row[at + n]) };
    let further = |bit: usize, near: &Half, far: &Half| -> Half {
        std::array::from_fn(|n| if masks[bit][n] < 0 { far[n] } else { near[n] })
    };
    let first: [Half; HALF - 1] = std::array::from_fn(|n| half(&band[n]));
    let moved: [Half; 6] = std::array::from_fn(|n| further(0, &first[n], &first[n + 1]));
    let mut row = first[6];
    let mut ones = [moved[4], moved[5]];
    let mut twos: [Half; 4] = std::array::from_fn(|n| further(1, &moved[n], &moved[n + 2]));
    let steps = s.as_chunks_mut::<SIDE>().0.iter_mut().rev();
    for (s, rows) in steps.zip(band[HALF - 1..].as_chunks::<SIDE>().0) {
        for (s, next) in s.iter_mut().rev().zip(rows) {
            let next = half(next);
            let one = further(0, &row, &next);
            let two = further(1, &ones[0], &one);
            let four = further(2, &twos[0], &two);
            (row, ones, twos) = (next, [ones[1], one], [twos[1], twos[2], twos[3], two]);
            s[at..][..HALF].copy_from_slice(&four);
        }
    }
}
