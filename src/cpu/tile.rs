//! A block of query rows over tiles of keys: what all kinds share.
//!
//! q is turned once for a block, and a key's element is one number for all lanes. So nothing of K or V is
//! turned, and a tile of them serves all groups of lanes of the block from the first cache. Neither rows
//! nor keys need to be neighbours in memory: a kind says which row is lane n and which is key n, and
//! masks and modifies the scores between the two products.

use super::lanes::{LANES, Lanes, from_line};
use super::products::{add_scores, scores};
use super::results::{Results, is_finite, padded};
use super::turn::to_lanes;
use super::{Element, Isa, with_isa};
use std::ops::Range;

/// Query rows of a block.
pub(crate) const BLOCK_M: usize = 256;
/// Keys of a tile.
pub(crate) const BLOCK_N: usize = 72;
/// Keys, or elements of a value, that are summed side by side: with two registers of rows each, 12 of
/// AVX2's 16 registers.
pub(crate) const SIDE: usize = 6;
/// Groups of lanes of a block.
pub(crate) const GROUPS: usize = BLOCK_M / LANES;

/// One thread's block: a part of its workspace. Row `n` of the block is lane `n % LANES` of group
/// `n / LANES`.
pub(crate) struct Tile<'a> {
    /// Elements of a row.
    d: usize,
    /// Per group of rows and element.
    q: &'a mut [Lanes],
    /// Per key of the tile: scores, then probabilities.
    s: &'a mut [Lanes],
    k: &'a mut [f32],
    v: &'a mut [f32],
    /// Rows of the block.
    count: usize,
    results: Results<'a>,
}

impl<'a> Tile<'a> {
    /// f32 that one needs.
    pub(crate) fn len(d: usize) -> usize {
        Tile::len_of(BLOCK_M, d)
    }

    /// The same of one of so many rows, a multiple of the lanes.
    pub(crate) fn len_of(rows: usize, d: usize) -> usize {
        LANES + rows * d + BLOCK_N * (LANES + d + padded(d)) + Results::len_of(rows, d)
    }

    /// One in `all`, as long as `len` says.
    pub(crate) fn new(d: usize, all: &'a mut [f32]) -> Self {
        Tile::of(BLOCK_M, d, all)
    }

    /// One of so many rows, as long as `len_of` says.
    pub(crate) fn of(rows: usize, d: usize, all: &'a mut [f32]) -> Self {
        let (q, rest) = from_line(all).split_at_mut(rows * d);
        let (s, rest) = rest.split_at_mut(BLOCK_N * LANES);
        let (k, rest) = rest.split_at_mut(BLOCK_N * d);
        let (v, rest) = rest.split_at_mut(BLOCK_N * padded(d));
        let (q, s) = (q.as_chunks_mut().0, s.as_chunks_mut().0);
        Tile { d, q, s, k, v, count: 0, results: Results::of(rows, d, rest) }
    }

    /// A new block of `rows` rows, none of which has seen a key.
    pub(crate) fn begin(&mut self, rows: usize) {
        self.count = rows;
        self.results.begin(rows);
    }

    /// Row `n` of the block is `scale · x`. They come in order, and the group's last one turns it.
    pub(crate) fn load_q<T: Element>(&mut self, isa: Isa, n: usize, x: &[T], scale: f32) {
        let (group, lane, d) = (n / LANES, n % LANES, self.d);
        T::load(x, &mut self.results.rows[lane * d..][..d]);
        if lane == LANES - 1 || n + 1 == self.count {
            // Lanes without a row hold what does no harm.
            self.results.rows[(lane + 1) * d..].fill(0.0);
            to_lanes(isa, self.results.rows, scale, &mut self.q[group * d..][..d]);
        }
    }

    /// Key `n` of the tile.
    pub(crate) fn load_k<T: Element>(&mut self, n: usize, x: &[T]) -> &mut [f32] {
        let k = &mut self.k[n * self.d..][..self.d];
        T::load(x, k);
        k
    }

    /// Value `n` of the tile.
    pub(crate) fn load_v<T: Element>(&mut self, n: usize, x: &[T]) {
        let v = &mut self.v[n * padded(self.d)..][..padded(self.d)];
        T::load(x, &mut v[..self.d]);
        v[self.d..].fill(0.0);
    }

    /// Whether the tile's first `keys` values are finite.
    pub(crate) fn is_finite(&self, isa: Isa, keys: usize) -> bool {
        is_finite(isa, &self.v[..keys * padded(self.d)])
    }

    /// The tile has `keys` keys: those that an unfinished step of [`SIDE`] may need beside them are 0.
    pub(crate) fn end_k(&mut self, keys: usize) {
        self.k[keys * self.d..keys.next_multiple_of(SIDE) * self.d].fill(0.0);
    }

    /// S = K Qᵀ of one group and those `keys` of the tile, a vector of rows for each key. They begin
    /// with a whole step of [`SIDE`].
    pub(crate) fn scores(&mut self, isa: Isa, group: usize, keys: Range<usize>) -> &mut [Lanes] {
        debug_assert!(keys.start.is_multiple_of(SIDE));
        let (len, padded) = (keys.len(), keys.len().next_multiple_of(2));
        let q: &[Lanes] = &self.q[group * self.d..][..self.d];
        let k: &[f32] = &self.k[keys.start * self.d..][..padded * self.d];
        let s: &mut [Lanes] = &mut self.s[..padded];
        with_isa!(isa, scores(q: &[Lanes], k: &[f32], s: &mut [Lanes]));
        &mut self.s[..len]
    }

    /// The same, added to what `begin` writes; its last step may hold what is no key's.
    pub(crate) fn scores_from(
        &mut self,
        isa: Isa,
        group: usize,
        keys: usize,
        begin: impl FnOnce(&mut [Lanes]),
    ) {
        let padded_keys = keys.next_multiple_of(SIDE);
        let s: &mut [Lanes] = &mut self.s[..padded_keys];
        begin(s);
        let q: &[Lanes] = &self.q[group * self.d..][..self.d];
        let k: &[f32] = &self.k[..padded_keys * self.d];
        with_isa!(isa, add_scores(q: &[Lanes], k: &[f32], s: &mut [Lanes]));
    }

    /// The tile's keys, row after row.
    pub(crate) fn k(&mut self) -> &mut [f32] {
        self.k
    }

    /// S of those keys of the tile into the group's running result: see [`Results::add`].
    pub(crate) fn add(&mut self, isa: Isa, group: usize, keys: Range<usize>, careful: bool) {
        let (results, s, v) = self.apart(keys);
        results.add(isa, group, s, v, careful);
    }

    /// What that takes: the results, the scores, and the values from the first of the keys on.
    pub(crate) fn apart(&mut self, keys: Range<usize>) -> (&mut Results<'a>, &mut [Lanes], &[f32]) {
        let v = &self.v[keys.start * padded(self.d)..];
        (&mut self.results, &mut self.s[..keys.len()], v)
    }

    /// The result of row `n`: see [`Results::result`].
    pub(crate) fn result(&mut self, isa: Isa, n: usize) -> (&mut [f32], f32) {
        self.results.result(isa, n)
    }

    /// The results of a group: see [`Results::results`].
    pub(crate) fn results(&mut self, isa: Isa, group: usize) -> (&mut [f32], &Lanes) {
        self.results.results(isa, group)
    }
}
