//! The position term of a tile: a banded product.
//!
//! Key j of a tile and lane i of a group of neighbouring rows meet the table's row of distance
//! δ₀ + i − j: a band of as many distances as the tile has keys, and 15 more. Its product with
//! q + bias_v is computed like scores, a vector of rows for each distance; the scores begin at its
//! diagonals, which are read without leaving a lane. The tile before had the band's 15 farthest
//! distances, so those products are kept for each group. The table's rows lie in a window that moves
//! towards the future, a tile's length at a time; each is converted once for a block.

use crate::cpu::lanes::{LANES, Lanes, multiply_add};
use crate::cpu::tile::{BLOCK_M, BLOCK_N, GROUPS, SIDE, scores};
use crate::cpu::{Element, Isa, with_isa};

/// Distances of a band beyond the tile's length.
const MORE: usize = LANES - 1;
/// The same in whole steps of the product.
const PADDED_MORE: usize = MORE.next_multiple_of(SIDE);
/// Rows of the table that a tile needs: its first group's nearest to its last group's farthest.
const SPAN: usize = BLOCK_N + BLOCK_M - LANES + PADDED_MORE;
/// Rows of the window: it is moved to the end when it has come to the beginning.
const WINDOW: usize = SPAN + 6 * BLOCK_N;
const BAND: usize = BLOCK_N + PADDED_MORE;
/// Lanes of a half, which are read from where their diagonals are.
const HALF: usize = LANES / 2;
const BITS: usize = HALF.ilog2() as usize;
/// Rows of a step of theirs.
const STEP: usize = HALF / 2;
/// All ones for the lanes whose number has the bit.
const MASKS: [Bits; BITS] = {
    let mut masks = [[0; HALF]; BITS];
    let mut at = 0;
    while at < BITS * HALF {
        let (bit, lane) = (at / HALF, at % HALF);
        masks[bit][lane] = if lane >> bit & 1 == 1 { u32::MAX } else { 0 };
        at += 1;
    }
    masks
};

/// One thread's part of the workspace.
pub(super) struct Positions<'a> {
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

impl<'a> Positions<'a> {
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
        Positions {
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
    /// the tile's first key.
    pub(super) fn begin_scores(&mut self, isa: Isa, group: usize, near: i64, s: &mut [Lanes]) {
        let d = self.d;
        let keys = s.len().next_multiple_of(SIDE);
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
        // The last key's diagonal begins at the least distance that is needed.
        let band: &[Lanes] = &self.band[keys - s.len()..];
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
        for (to, q) in self.row.iter_mut().zip(&self.q[n / LANES * d..][..d]) {
            *to = q[lane];
        }
        for (n, row) in self.window.chunks_exact_mut(d).take(s.len()).enumerate() {
            load(near - n as i64, row);
        }
        let q: &[f32] = self.row;
        let rows: &[f32] = &self.window[..s.len() * d];
        with_isa!(isa, dots(q: &[f32], rows: &[f32], s: &mut [Lanes], lane: usize));
    }
}

/// Lane i of key n: row `len − 1 − n + i` of the band. Rows behind those may be read.
#[inline(always)]
fn diagonals<const FMA: bool>(band: &[Lanes], s: &mut [Lanes]) {
    for at in [0, HALF] {
        // Hidden from the compiler, which would else find slower ways to select, lane by lane.
        let mut half = Half { masks: std::hint::black_box(MASKS), ..Half::default() };
        let rows = &band[at..];
        // The first two steps only fill what the others need, and have a row too much before them.
        half.step([0, 0, 1, 2].map(|n| &rows[n]), at);
        half.step([3, 4, 5, 6].map(|n| &rows[n]), at);
        for (s, rows) in s.rchunks_mut(STEP).zip(rows[7..].as_chunks::<STEP>().0) {
            let diagonals = half.step(rows.each_ref(), at);
            for (s, row) in s.iter_mut().rev().zip(diagonals) {
                s[at..][..HALF].copy_from_slice(&row.map(f32::from_bits));
            }
        }
    }
}

/// Bits of the lanes of half a row.
type Bits = [u32; HALF];

/// Selects rows, never lanes: after the selection of a bit, every lane whose number has it is of so
/// many rows further. What a later step needs stays in registers.
#[derive(Default)]
struct Half {
    masks: [Bits; BITS],
    rows: [Bits; 1 + STEP],
    ones: [Bits; 2 + STEP],
    twos: [Bits; 4 + STEP],
}

impl Half {
    /// From row n on, the diagonals of row n − 7 on.
    #[inline(always)]
    fn step(&mut self, rows: [&Lanes; STEP], at: usize) -> [Bits; STEP] {
        let [one, two, four] = &self.masks;
        self.rows[0] = self.rows[STEP];
        for (to, row) in self.rows[1..].iter_mut().zip(rows) {
            *to = std::array::from_fn(|lane| row[at + lane].to_bits());
        }
        for n in 0..2 {
            self.ones[n] = self.ones[n + STEP];
        }
        for n in 0..STEP {
            self.ones[n + 2] = select(&self.rows[n], &self.rows[n + 1], one);
        }
        for n in 0..4 {
            self.twos[n] = self.twos[n + STEP];
        }
        for n in 0..STEP {
            self.twos[n + 4] = select(&self.ones[n], &self.ones[n + 2], two);
        }
        std::array::from_fn(|n| select(&self.twos[n], &self.twos[n + 4], four))
    }
}

#[inline(always)]
fn select(near: &Bits, far: &Bits, mask: &Bits) -> Bits {
    std::array::from_fn(|n| near[n] & !mask[n] | far[n] & mask[n])
}

/// One lane of S: a row's products with the table's rows.
#[inline(always)]
fn dots<const FMA: bool>(q: &[f32], rows: &[f32], s: &mut [Lanes], lane: usize) {
    for (s, row) in s.iter_mut().zip(rows.chunks_exact(q.len())) {
        let mut sums = [0f32; LANES];
        let (q, rest_q) = q.as_chunks::<LANES>();
        let (row, rest) = row.as_chunks::<LANES>();
        for (q, row) in q.iter().zip(row) {
            for (sum, (q, row)) in sums.iter_mut().zip(q.iter().zip(row)) {
                *sum = multiply_add::<FMA>(*q, *row, *sum);
            }
        }
        let rest: f32 = rest_q.iter().zip(rest).map(|(q, row)| q * row).sum();
        s[lane] = sums.iter().sum::<f32>() + rest;
    }
}

/// A distance's row of the table, or zeros where no pair has it.
pub(super) fn load_row<T: Element>(row: Option<&[T]>, to: &mut [f32]) {
    match row {
        Some(row) => T::load(row, to),
        None => to.fill(0.0),
    }
}
