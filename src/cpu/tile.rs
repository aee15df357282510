//! A block of query rows over tiles of keys: what all kinds share.
//!
//! One pass with an online softmax (FlashAttention-2, algorithm 1), as the GPU kernels. Query rows
//! are the lanes of a vector: q is turned once for a block, a key's element is one number for all
//! lanes, the maximum and the sum of a row never leave their lane. So nothing of K or V is turned,
//! and a tile of them serves all groups of lanes of the block from the first cache. Neither rows nor
//! keys need to be neighbours in memory: a kind says which row is lane n and which is key n, and
//! masks and modifies the scores between the two products.

use super::lanes::{LANES, Lanes, exp2, multiply_add};
use super::{Element, Isa, with_isa};
use std::ops::Range;

/// Query rows of a block.
pub(crate) const BLOCK_M: usize = 256;
/// Keys of a tile.
pub(crate) const BLOCK_N: usize = 72;
/// Keys, or elements of a value, that are summed side by side: with two registers of rows each, 12 of
/// AVX2's 16 registers.
pub(crate) const SIDE: usize = 6;
/// Products that are summed one after the other. Of n in one chain the variance of the roundings is
/// n / 2 of the last one's, in chains of c it is (c + n / c) / 2; these cost 2 to 3 % of full
/// attention's time.
const CHAIN: usize = 16;
/// Groups of lanes of a block.
pub(crate) const GROUPS: usize = BLOCK_M / LANES;

/// One thread's block: a part of its workspace. Row `n` of the block is lane `n % LANES` of group
/// `n / LANES`.
pub(crate) struct Tile<'a> {
    /// Elements of a row.
    d: usize,
    /// Per group of rows and element.
    q: &'a mut [Lanes],
    /// Per group and element.
    o: &'a mut [Lanes],
    /// Per key of the tile: scores, then probabilities.
    s: &'a mut [Lanes],
    /// Per group: the largest score, in units of log2, and the sum.
    m: &'a mut [Lanes],
    l: &'a mut [Lanes],
    k: &'a mut [f32],
    v: &'a mut [f32],
    row: &'a mut [f32],
}

/// The row length of V's tile and of O.
fn padded(d: usize) -> usize {
    d.next_multiple_of(2)
}

impl<'a> Tile<'a> {
    /// f32 that one needs.
    pub(crate) fn len(d: usize) -> usize {
        let lanes = GROUPS * (d + padded(d) + 2) + BLOCK_N;
        lanes * LANES + BLOCK_N * (d + padded(d)) + padded(d)
    }

    /// One in `all`, as long as `len` says.
    pub(crate) fn new(d: usize, all: &'a mut [f32]) -> Self {
        let (lanes, rest) = all.split_at_mut((GROUPS * (d + padded(d) + 2) + BLOCK_N) * LANES);
        let (lanes, _) = lanes.as_chunks_mut::<LANES>();
        let (q, lanes) = lanes.split_at_mut(GROUPS * d);
        let (o, lanes) = lanes.split_at_mut(GROUPS * padded(d));
        let (s, lanes) = lanes.split_at_mut(BLOCK_N);
        let (m, l) = lanes.split_at_mut(GROUPS);
        let (k, rest) = rest.split_at_mut(BLOCK_N * d);
        let (v, row) = rest.split_at_mut(BLOCK_N * padded(d));
        Tile { d, q, o, s, m, l, k, v, row }
    }

    /// A new block of `rows` rows, none of which has seen a key. Lanes without a row hold what does
    /// no harm.
    pub(crate) fn begin(&mut self, rows: usize) {
        let groups = rows.div_ceil(LANES);
        self.q[..groups * self.d].fill([0.0; LANES]);
        self.o[..groups * padded(self.d)].fill([0.0; LANES]);
        self.m[..groups].fill([f32::NEG_INFINITY; LANES]);
        self.l[..groups].fill([0.0; LANES]);
    }

    /// Row `n` of the block is `scale · x`, turned.
    pub(crate) fn load_q<T: Element>(&mut self, n: usize, x: &[T], scale: f32) {
        T::load(x, &mut self.row[..self.d]);
        let group = &mut self.q[n / LANES * self.d..][..self.d];
        for (q, x) in group.iter_mut().zip(&self.row[..self.d]) {
            q[n % LANES] = x * scale;
        }
    }

    /// Key `n` of the tile.
    pub(crate) fn load_k<T: Element>(&mut self, n: usize, x: &[T]) -> &mut [f32] {
        let k = &mut self.k[n * self.d..][..self.d];
        T::load(x, k);
        k
    }

    /// The tile's keys, row after row.
    pub(crate) fn k(&mut self) -> &mut [f32] {
        self.k
    }

    /// Value `n` of the tile. Whether all of it is finite.
    pub(crate) fn load_v<T: Element>(&mut self, n: usize, x: &[T]) -> bool {
        let v = &mut self.v[n * padded(self.d)..][..padded(self.d)];
        T::load(x, &mut v[..self.d]);
        v[self.d..].fill(0.0);
        // Adding one to an exponent of all ones carries into the sign.
        let carry = |x: &f32| x.abs().to_bits() + (1 << 23);
        v.iter().fold(0, |all, x| all | carry(x)) >> 31 == 0
    }

    /// The tile has `keys` keys: those that an unfinished step of [`SIDE`] needs beside them are 0.
    pub(crate) fn end_k(&mut self, keys: usize) {
        self.k[keys * self.d..keys.next_multiple_of(SIDE) * self.d].fill(0.0);
    }

    /// S = K Qᵀ of one group and those `keys` of the tile, a vector of rows for each key. They begin
    /// with a whole step of [`SIDE`].
    pub(crate) fn scores(&mut self, isa: Isa, group: usize, keys: Range<usize>) -> &mut [Lanes] {
        debug_assert!(keys.start.is_multiple_of(SIDE));
        let (len, padded) = (keys.len(), keys.len().next_multiple_of(SIDE));
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
    ) -> &mut [Lanes] {
        let padded_keys = keys.next_multiple_of(SIDE);
        begin(&mut self.s[..padded_keys]);
        let q: &[Lanes] = &self.q[group * self.d..][..self.d];
        let k: &[f32] = &self.k[..padded_keys * self.d];
        let s: &mut [Lanes] = &mut self.s[..padded_keys];
        with_isa!(isa, add_scores(q: &[Lanes], k: &[f32], s: &mut [Lanes]));
        &mut self.s[..keys]
    }

    /// S, in units of log2 and −∞ where it is masked, into the group's running result. `careful`: a
    /// value that is not finite must not reach rows that give its key no weight.
    pub(crate) fn add(&mut self, isa: Isa, group: usize, keys: Range<usize>, careful: bool) {
        let s: &mut [Lanes] = &mut self.s[..keys.len()];
        let o: &mut [Lanes] = &mut self.o[group * padded(self.d)..][..padded(self.d)];
        let (m, l): (&mut Lanes, &mut Lanes) = (&mut self.m[group], &mut self.l[group]);
        with_isa!(isa, softmax(s: &mut [Lanes], m: &mut Lanes, l: &mut Lanes, o: &mut [Lanes]));
        let v: &[f32] = &self.v[keys.start * padded(self.d)..keys.end * padded(self.d)];
        let s: &[Lanes] = s;
        match careful {
            // 0 · NaN would reach rows that do not see the key.
            true => careful_values(s, v, o),
            false => with_isa!(isa, values(s: &[Lanes], v: &[f32], o: &mut [Lanes])),
        }
    }

    /// The result of row `n`: its elements, and the natural logarithm of its sum of exponentials
    /// (−∞ of a row that has seen nothing).
    pub(crate) fn result(&mut self, n: usize) -> (&mut [f32], f32) {
        let (group, lane) = (n / LANES, n % LANES);
        let (m, l) = (self.m[group][lane], self.l[group][lane]);
        let inverse = if l == 0.0 { 0.0 } else { 1.0 / l };
        let o = &self.o[group * padded(self.d)..][..self.d];
        for (x, o) in self.row.iter_mut().zip(o) {
            *x = o[lane] * inverse;
        }
        let lse = match l == 0.0 {
            true => f32::NEG_INFINITY,
            false => {
                let log2 = f64::from(m) + f64::from(l).log2();
                (log2 * std::f64::consts::LN_2) as f32
            }
        };
        (&mut self.row[..self.d], lse)
    }
}

/// S = K Qᵀ: a key's element times all rows. `k` has whole steps of [`SIDE`] keys.
#[inline(always)]
pub(crate) fn scores<const FMA: bool>(q: &[Lanes], k: &[f32], s: &mut [Lanes]) {
    products::<FMA, false>(q, k, s);
}

/// S += K Qᵀ, a sum of its own first: fewer roundings in a row.
#[inline(always)]
pub(crate) fn add_scores<const FMA: bool>(q: &[Lanes], k: &[f32], s: &mut [Lanes]) {
    products::<FMA, true>(q, k, s);
}

/// Products of a row are summed in chains, and then these.
#[inline(always)]
fn products<const FMA: bool, const ADD: bool>(q: &[Lanes], k: &[f32], s: &mut [Lanes]) {
    let d = q.len();
    let (chains, rest) = q.as_chunks::<CHAIN>();
    for (keys, s) in k.chunks_exact(SIDE * d).zip(s.as_chunks_mut::<SIDE>().0) {
        let keys = std::array::from_fn::<_, SIDE, _>(|n| keys[n * d..][..d].as_chunks::<CHAIN>());
        for (n, q) in chains.iter().enumerate() {
            let keys = keys.map(|key| &key.0[n]);
            let mut sums = [[0f32; LANES]; SIDE];
            for x in 0..CHAIN {
                multiply_by::<FMA>(keys.map(|key| key[x]), &q[x], &mut sums);
            }
            end_chain(sums, s, ADD || n > 0);
        }
        if !rest.is_empty() {
            let mut sums = [[0f32; LANES]; SIDE];
            for (x, q) in rest.iter().enumerate() {
                multiply_by::<FMA>(keys.map(|key| key.1[x]), q, &mut sums);
            }
            end_chain(sums, s, ADD || !chains.is_empty());
        }
    }
}

/// An element of some keys times that of the rows, added to their sums.
#[inline(always)]
fn multiply_by<const FMA: bool>(keys: [f32; SIDE], q: &Lanes, sums: &mut [Lanes; SIDE]) {
    for (sum, key) in sums.iter_mut().zip(keys) {
        for (sum, q) in sum.iter_mut().zip(q) {
            *sum = multiply_add::<FMA>(key, *q, *sum);
        }
    }
}

/// Sums of a chain of products into the scores: added, or the first.
#[inline(always)]
fn end_chain(mut sums: [Lanes; SIDE], s: &mut [Lanes; SIDE], add: bool) {
    if add {
        for (sum, s) in sums.as_flattened_mut().iter_mut().zip(s.as_flattened()) {
            *sum += s;
        }
    }
    *s = sums;
}

/// The larger of each.
#[inline(always)]
fn raise(most: &mut Lanes, by: &Lanes) {
    for (most, by) in most.iter_mut().zip(by) {
        *most = if *by > *most { *by } else { *most };
    }
}

/// 2^(s − base) into `s` of some keys, and added to `l`.
#[inline(always)]
fn weigh<const FMA: bool, const N: usize>(s: &mut [f32; N], base: &Lanes, l: &mut Lanes) {
    for s in s.as_chunks_mut::<LANES>().0 {
        for (s, base) in s.iter_mut().zip(base) {
            *s -= base;
        }
    }
    exp2::<FMA, N>(s);
    for s in s.as_chunks::<LANES>().0 {
        for (l, s) in l.iter_mut().zip(s) {
            *l += s;
        }
    }
}

/// Scores to probabilities relative to the largest score so far; l and O follow it.
#[inline(always)]
fn softmax<const FMA: bool>(s: &mut [Lanes], m: &mut Lanes, l: &mut Lanes, o: &mut [Lanes]) {
    let mut most = *m;
    for s in s.iter() {
        raise(&mut most, s);
    }
    let (mut base, mut alpha) = ([0f32; LANES], [0f32; LANES]);
    let mut grew = false;
    for n in 0..LANES {
        // Of a row that has seen nothing, anything finite.
        base[n] = if most[n] == f32::NEG_INFINITY { 0.0 } else { most[n] };
        alpha[n] = m[n] - base[n];
        grew |= most[n] != m[n];
    }
    *m = most;
    if grew {
        exp2::<FMA, LANES>(&mut alpha);
        for o in o.iter_mut().chain([&mut *l]) {
            for (o, alpha) in o.iter_mut().zip(alpha) {
                *o *= alpha;
            }
        }
    }
    // Of the tile alone first: over a long row one chain would round at each key.
    let mut sum = [0f32; LANES];
    let (pairs, rest) = s.as_flattened_mut().as_chunks_mut::<{ 2 * LANES }>();
    for s in pairs {
        weigh::<FMA, { 2 * LANES }>(s, &base, &mut sum);
    }
    for s in rest.as_chunks_mut::<LANES>().0 {
        weigh::<FMA, LANES>(s, &base, &mut sum);
    }
    for (l, sum) in l.iter_mut().zip(sum) {
        *l += sum;
    }
}

/// O += Vᵀ P.
#[inline(always)]
fn values<const FMA: bool>(p: &[Lanes], v: &[f32], o: &mut [Lanes]) {
    let pitch = o.len();
    // As many side by side as registers hold, and two fours rather than six and two.
    let narrow = match pitch % SIDE {
        2 if pitch > SIDE => SIDE + 2,
        rest => rest,
    };
    let (wide, rest) = o.split_at_mut(pitch - narrow);
    for (n, o) in wide.as_chunks_mut::<SIDE>().0.iter_mut().enumerate() {
        columns::<FMA, SIDE>(p, &v[n * SIDE..], pitch, o);
    }
    let at = wide.len();
    let (fours, rest) = rest.as_chunks_mut::<4>();
    for (n, o) in fours.iter_mut().enumerate() {
        columns::<FMA, 4>(p, &v[at + n * 4..], pitch, o);
    }
    for o in rest.as_chunks_mut::<2>().0 {
        columns::<FMA, 2>(p, &v[pitch - 2..], pitch, o);
    }
}

/// O += Vᵀ P of N elements of the values, whose rows are `pitch` apart.
#[inline(always)]
fn columns<const FMA: bool, const N: usize>(
    p: &[Lanes],
    v: &[f32],
    pitch: usize,
    o: &mut [Lanes; N],
) {
    let mut sums = *o;
    for (p, v) in p.iter().zip(v.chunks(pitch)) {
        for (sum, v) in sums.iter_mut().zip(&v[..N]) {
            for (sum, p) in sum.iter_mut().zip(p) {
                *sum = multiply_add::<FMA>(*v, *p, *sum);
            }
        }
    }
    *o = sums;
}

/// The same where P is not 0.
fn careful_values(p: &[Lanes], v: &[f32], o: &mut [Lanes]) {
    for (p, v) in p.iter().zip(v.chunks_exact(o.len())) {
        for (o, v) in o.iter_mut().zip(v) {
            for (o, p) in o.iter_mut().zip(p) {
                if *p != 0.0 {
                    *o += v * p;
                }
            }
        }
    }
}
