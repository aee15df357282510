//! A block of query rows over the keys that it sees.
//!
//! Floor: 4·B·H·Lq·Lk·D operations (half if causal) by the processor's multiply-add units.

use super::{Args, Full};
use crate::cpu::lanes::{LANES, Lanes, keep_open, key_by_key, tanh};
use crate::cpu::tile::{BLOCK_M, BLOCK_N, Tile};
use crate::cpu::{Element, Isa, SharedRows, prefetch, with_isa};
use crate::real::row_start;
use std::f32::consts::LOG2_E;
use std::ops::Range;

/// Rows `first` to `first + BLOCK_M` of one head of one sequence.
pub(super) struct Block<'a, T> {
    pub(super) problem: &'a Full,
    pub(super) args: &'a Args<'a, T>,
    pub(super) isa: Isa,
    pub(super) head: usize,
    pub(super) batch: usize,
    pub(super) first: usize,
}

/// Where a sequence's rows begin in each tensor, and its lengths.
struct Sequence {
    q: usize,
    k: usize,
    v: usize,
    out: usize,
    lse: usize,
    seqlen_q: usize,
    seqlen_k: usize,
}

impl<T: Element> Block<'_, T> {
    pub(super) fn run(
        &self,
        tile: &mut Tile<'_>,
        out: &SharedRows<'_, T>,
        lse: &SharedRows<'_, f32>,
    ) {
        let p = self.problem;
        let seq = self.sequence();
        if self.first >= seq.seqlen_q {
            return;
        }
        let rows = self.first..seq.seqlen_q.min(self.first + BLOCK_M);
        let see = |i: usize| p.mask().keys(i, seq.seqlen_q, seq.seqlen_k);
        self.load_q(tile, &seq, rows.clone());
        let mut by_distance = ByDistance::new();
        let (begin, end) = (see(rows.start).start, see(rows.end - 1).end);
        let groups = rows.len().div_ceil(LANES);
        for from in (begin..end).step_by(BLOCK_N) {
            let keys = from..end.min(from + BLOCK_N);
            let valid = self.valid(keys.clone());
            if valid == Some(0) {
                continue;
            }
            // Most tiles of a padded sequence hold no padding.
            let padded = valid.is_some_and(|valid| valid < keys.len());
            let finite = self.load_tile(tile, &seq, keys.clone());
            if p.alibi || p.buckets.is_some() {
                let near = (rows.start + seq.seqlen_k) as i64 - (seq.seqlen_q + from) as i64;
                by_distance.fill(near, |distance| self.bias_of(distance));
            }
            for group in 0..groups {
                // Some of the next tile's rows, so that they are near when it is loaded.
                let next = |n: usize| (keys.end + n * BLOCK_N / groups).min(end);
                self.prefetch(&seq, next(group)..next(group + 1));
                let first = rows.start + group * LANES;
                let last = rows.end.min(first + LANES) - 1;
                let (low, high) = (see(first), see(last));
                let keys = keys.start..keys.end.min(high.end);
                if keys.is_empty() || keys.end <= low.start {
                    continue;
                }
                let s = tile.scores(self.isa, group, 0..keys.len());
                self.modify(s, first..last + 1, keys.start);
                if p.alibi || p.buckets.is_some() {
                    let biases: &[f32] = by_distance.of_group(group);
                    with_isa!(self.isa, add_biases(biases: &[f32], s: &mut [Lanes]));
                }
                let whole = keys.start >= high.start && keys.end <= low.end;
                let masked = !whole || padded;
                if masked {
                    self.mask(s, &seq, first..last + 1, keys.clone());
                }
                // A bias may mask, too.
                let careful = (masked || p.bias.is_some()) && !finite;
                tile.add(self.isa, group, 0..keys.len(), careful);
            }
        }
        self.store(tile, &seq, rows, out, lse);
    }

    fn sequence(&self) -> Sequence {
        let (p, b) = (self.problem, self.batch);
        let (s, l) = (&p.shape, &p.layout);
        match (self.args.cu_seqlens_q, self.args.cu_seqlens_k) {
            (Some(q), Some(k)) => {
                let [q0, q1, k0, k1] = [q[b], q[b + 1], k[b], k[b + 1]].map(|x| x as usize);
                Sequence {
                    q: q0 * l.q.seqlen,
                    k: k0 * l.k.seqlen,
                    v: k0 * l.v.seqlen,
                    out: q0 * l.out.seqlen,
                    lse: self.head * p.rows_q() + q0,
                    seqlen_q: q1 - q0,
                    seqlen_k: k1 - k0,
                }
            }
            _ => Sequence {
                q: b * l.q.batch,
                k: b * l.k.batch,
                v: b * l.v.batch,
                out: b * l.out.batch,
                lse: (b * s.heads_q + self.head) * s.seqlen_q,
                seqlen_q: s.seqlen_q,
                seqlen_k: s.seqlen_k,
            },
        }
    }

    /// How many of `keys` may be attended, where padding may not.
    fn valid(&self, keys: Range<usize>) -> Option<usize> {
        let first = self.batch * self.problem.shape.seqlen_k;
        let valid = self.args.key_valid.map(|x| &x[first..][keys])?;
        Some(valid.iter().filter(|x| **x != 0).count())
    }

    /// q times the scale (to units of log2, unless a softcap comes in between), turned.
    fn load_q(&self, tile: &mut Tile<'_>, seq: &Sequence, rows: Range<usize>) {
        let (p, d) = (self.problem, self.problem.shape.head_dim);
        let scale = match p.softcap > 0.0 {
            true => p.softmax_scale as f32,
            false => (p.softmax_scale * std::f64::consts::LOG2_E) as f32,
        };
        tile.begin(rows.len());
        for (n, i) in rows.enumerate() {
            let at = row_start(seq.q, p.layout.q, i, self.head);
            tile.load_q(self.isa, n, &self.args.q[at..at + d], scale);
        }
    }

    /// K and V of a tile. Whether all of V is finite.
    fn load_tile(&self, tile: &mut Tile<'_>, seq: &Sequence, keys: Range<usize>) -> bool {
        let (p, d) = (self.problem, self.problem.shape.head_dim);
        let head = self.head / (p.shape.heads_q / p.shape.heads_kv);
        let len = keys.len();
        tile.end_k(len);
        for (n, j) in keys.enumerate() {
            let at = row_start(seq.k, p.layout.k, j, head);
            tile.load_k(n, &self.args.k[at..at + d]);
            let at = row_start(seq.v, p.layout.v, j, head);
            tile.load_v(n, &self.args.v[at..at + d]);
        }
        tile.is_finite(self.isa, len)
    }

    /// Asks for rows of a later tile.
    fn prefetch(&self, seq: &Sequence, keys: Range<usize>) {
        let (p, d) = (self.problem, self.problem.shape.head_dim);
        let head = self.head / (p.shape.heads_q / p.shape.heads_kv);
        for j in keys {
            prefetch(&self.args.k[row_start(seq.k, p.layout.k, j, head)..][..d]);
            prefetch(&self.args.v[row_start(seq.v, p.layout.v, j, head)..][..d]);
        }
    }

    /// Softcap and bias; the scores are in units of log2 afterwards.
    fn modify(&self, s: &mut [Lanes], rows: Range<usize>, first_key: usize) {
        let p = self.problem;
        if p.softcap > 0.0 {
            let (cap, s): (f64, &mut [Lanes]) = (p.softcap, s);
            with_isa!(self.isa, cap_scores(cap: f64, s: &mut [Lanes]));
        }
        if let (Some(bias), Some(x)) = (p.bias, self.args.bias) {
            let [_, heads, seqlen_q, seqlen_k] = p.bias_dims(&bias);
            let b = if bias.per_batch { self.batch } else { 0 };
            let h = if bias.per_head { self.head } else { 0 };
            let first_row = (b * heads + h) * seqlen_q;
            for (lane, i) in rows.enumerate() {
                let row = &x[(first_row + i) * seqlen_k + first_key..][..s.len()];
                for (s, x) in s.iter_mut().zip(row) {
                    s[lane] += x * LOG2_E;
                }
            }
        }
    }

    /// What a pair's distance adds, in units of log2.
    fn bias_of(&self, distance: i64) -> f32 {
        let heads = self.problem.shape.heads_q;
        let slope = self.args.alibi_slopes.map_or(0.0, |x| x[self.head]);
        let of_bucket = match (&self.problem.buckets, self.args.bias_table) {
            (Some(buckets), Some(table)) => table[buckets.bucket(distance) * heads + self.head],
            _ => 0.0,
        };
        (of_bucket - slope * distance.unsigned_abs() as f32) * LOG2_E
    }

    fn mask(&self, s: &mut [Lanes], seq: &Sequence, rows: Range<usize>, keys: Range<usize>) {
        let p = self.problem;
        let valid = self.args.key_valid.map(|x| &x[self.batch * p.shape.seqlen_k..][keys.clone()]);
        let mut see = [[0i32; LANES]; 2];
        for (lane, i) in rows.enumerate() {
            let keys = p.mask().keys(i, seq.seqlen_q, seq.seqlen_k);
            (see[0][lane], see[1][lane]) = (keys.start as i32, keys.end as i32);
        }
        let (see, first): (&[[i32; LANES]; 2], i32) = (&see, keys.start as i32);
        with_isa!(self.isa, mask(
            see: &[[i32; LANES]; 2],
            first: i32,
            valid: Option<&[u8]>,
            s: &mut [Lanes],
        ));
    }

    fn store(
        &self,
        tile: &mut Tile<'_>,
        seq: &Sequence,
        rows: Range<usize>,
        out: &SharedRows<'_, T>,
        lse: &SharedRows<'_, f32>,
    ) {
        let (p, d) = (self.problem, self.problem.shape.head_dim);
        for (n, i) in rows.enumerate() {
            let (row, lse_of_row) = tile.result(self.isa, n);
            let at = row_start(seq.out, p.layout.out, i, self.head);
            // SAFETY: no other block has this row, and no two rows share an element (`validate`).
            #[allow(unsafe_code)]
            let (out, lse) = unsafe { (out.row(at, d), lse.row(seq.lse + i, 1)) };
            T::store(row, out);
            lse[0] = lse_of_row;
        }
    }
}

/// `cap · tanh(s / cap)`, to units of log2.
#[inline(always)]
fn cap_scores<const FMA: bool>(cap: f64, s: &mut [Lanes]) {
    // Of the least and the largest caps either would be infinite, and 0 · ∞ is NaN.
    let [inverse, cap] =
        [1.0 / cap, cap * std::f64::consts::LOG2_E].map(|x| x.min(f64::from(f32::MAX)) as f32);
    for s in s {
        s.iter_mut().for_each(|s| *s *= inverse);
        tanh::<FMA, LANES>(s);
        s.iter_mut().for_each(|s| *s *= cap);
    }
}

/// Masks the scores of the keys from `first` on: lane n sees those of `see[0][n]..see[1][n]` that are
/// valid.
#[inline(always)]
fn mask<const FMA: bool>(
    see: &[[i32; LANES]; 2],
    first: i32,
    valid: Option<&[u8]>,
    s: &mut [Lanes],
) {
    for (n, s) in s.iter_mut().enumerate() {
        key_by_key();
        let key = first + n as i32;
        let valid = valid.is_none_or(|valid| valid[n] != 0);
        for (lane, s) in s.iter_mut().enumerate() {
            let open = (key >= see[0][lane]) & (key < see[1][lane]) & valid;
            *s = keep_open(*s, open);
        }
    }
}

/// Biases of a tile by distance: those of a diagonal are the same.
struct ByDistance {
    /// Of a block's distances to a tile, from the nearest on.
    biases: [f32; BLOCK_M + BLOCK_N],
    /// The distance of `biases[0]`, if they are filled.
    low: Option<i64>,
}

impl ByDistance {
    fn new() -> Self {
        ByDistance { biases: [0.0; BLOCK_M + BLOCK_N], low: None }
    }

    /// For a tile whose first key lies `near` positions in the past of the block's first row.
    fn fill(&mut self, near: i64, of: impl Fn(i64) -> f32) {
        let low = near - (BLOCK_N as i64 - 1);
        // The tile before had all but the nearest.
        let new = match self.low == Some(low + BLOCK_N as i64) {
            true => BLOCK_N,
            false => self.biases.len(),
        };
        self.biases.copy_within(..BLOCK_M + BLOCK_N - new, new);
        for (n, bias) in self.biases[..new].iter_mut().enumerate() {
            *bias = of(low + n as i64);
        }
        self.low = Some(low);
    }

    /// Those of a group's first row, from the tile's last key on, and so on.
    fn of_group(&self, group: usize) -> &[f32] {
        &self.biases[group * LANES..][..BLOCK_N + LANES - 1]
    }
}

/// Adds each pair's bias: lane i of key n has that of distance i − n.
#[inline(always)]
fn add_biases<const FMA: bool>(biases: &[f32], s: &mut [Lanes]) {
    for (s, biases) in s.iter_mut().zip(biases.windows(LANES).rev()) {
        for (s, bias) in s.iter_mut().zip(biases) {
            *s += bias;
        }
    }
}
