//! A block of query rows over tiles of keys.
//!
//! One pass with an online softmax (FlashAttention-2, algorithm 1), as the GPU kernels. Query rows
//! are the lanes of a vector: q is turned once for a block, a key's element is one number for all
//! lanes, the maximum and the sum of a row never leave their lane. So nothing of K or V is turned,
//! and a tile of them serves all groups of lanes of the block from the first cache.
//!
//! Floor: 4·B·H·Lq·Lk·D operations (half if causal) by the processor's multiply-add units.

use super::{Args, Full};
use crate::cpu::lanes::{LANES, Lanes, exp2, multiply_add};
use crate::cpu::{Element, Isa, SharedRows, with_isa};
use crate::real::row_start;
use std::f32::consts::LOG2_E;
use std::ops::Range;

/// Query rows of a task.
pub(super) const BLOCK_M: usize = 256;
/// Keys of a tile.
pub(super) const BLOCK_N: usize = 36;
/// Keys, or elements of a value, that are summed side by side: with two registers of rows each, 12 of
/// AVX2's 16 registers.
const SIDE: usize = 6;
const GROUPS: usize = BLOCK_M / LANES;

/// The parts of one thread's workspace.
pub(super) struct Scratch<'a> {
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
    d.next_multiple_of(SIDE)
}

impl<'a> Scratch<'a> {
    pub(super) fn len(p: &Full) -> usize {
        let d = p.shape.head_dim;
        let lanes = GROUPS * (d + padded(d) + 2) + BLOCK_N;
        lanes * LANES + BLOCK_N * (d + padded(d)) + padded(d)
    }

    pub(super) fn new(p: &Full, all: &'a mut [f32]) -> Self {
        let d = p.shape.head_dim;
        let (lanes, rest) = all.split_at_mut((GROUPS * (d + padded(d) + 2) + BLOCK_N) * LANES);
        let (lanes, _) = lanes.as_chunks_mut::<LANES>();
        let (q, lanes) = lanes.split_at_mut(GROUPS * d);
        let (o, lanes) = lanes.split_at_mut(GROUPS * padded(d));
        let (s, lanes) = lanes.split_at_mut(BLOCK_N);
        let (m, l) = lanes.split_at_mut(GROUPS);
        let (k, rest) = rest.split_at_mut(BLOCK_N * d);
        let (v, row) = rest.split_at_mut(BLOCK_N * padded(d));
        Scratch { q, o, s, m, l, k, v, row }
    }
}

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
        scratch: &mut Scratch<'_>,
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
        self.load_q(scratch, &seq, rows.clone());
        scratch.o.fill([0.0; LANES]);
        scratch.m.fill([f32::NEG_INFINITY; LANES]);
        scratch.l.fill([0.0; LANES]);
        let (begin, end) = (see(rows.start).start, see(rows.end - 1).end);
        for from in (begin..end).step_by(BLOCK_N) {
            let keys = from..end.min(from + BLOCK_N);
            let finite = self.load_tile(scratch, &seq, keys.clone());
            for group in 0..(rows.len()).div_ceil(LANES) {
                let first = rows.start + group * LANES;
                let last = rows.end.min(first + LANES) - 1;
                let (low, high) = (see(first), see(last));
                if keys.start >= high.end || keys.end <= low.start {
                    continue;
                }
                let whole = keys.start >= high.start && keys.end <= low.end;
                let masked = !whole || p.key_padding || keys.len() < BLOCK_N || p.bias.is_some();
                self.tile(scratch, &seq, group, first..last + 1, keys.clone(), (masked, finite));
            }
        }
        self.store(scratch, &seq, rows, out, lse);
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

    /// q times the scale (to units of log2, unless a softcap comes in between), turned.
    fn load_q(&self, scratch: &mut Scratch<'_>, seq: &Sequence, rows: Range<usize>) {
        let (p, d) = (self.problem, self.problem.shape.head_dim);
        let scale = match p.softcap > 0.0 {
            true => p.softmax_scale as f32,
            false => (p.softmax_scale * f64::from(LOG2_E)) as f32,
        };
        // Lanes without a row hold what does no harm.
        scratch.q.fill([0.0; LANES]);
        for (n, i) in rows.enumerate() {
            let at = row_start(seq.q, p.layout.q, i, self.head);
            T::load(&self.args.q[at..at + d], &mut scratch.row[..d]);
            let group = &mut scratch.q[n / LANES * d..][..d];
            for (q, x) in group.iter_mut().zip(&scratch.row[..d]) {
                q[n % LANES] = x * scale;
            }
        }
    }

    /// K and V of a tile as f32, side by side; the keys of an unfinished group are 0. Whether all of
    /// V is finite.
    fn load_tile(&self, scratch: &mut Scratch<'_>, seq: &Sequence, keys: Range<usize>) -> bool {
        let (p, d) = (self.problem, self.problem.shape.head_dim);
        let head = self.head / (p.shape.heads_q / p.shape.heads_kv);
        scratch.k[keys.len() * d..].fill(0.0);
        let mut finite = true;
        for (n, j) in keys.enumerate() {
            let at = row_start(seq.k, p.layout.k, j, head);
            T::load(&self.args.k[at..at + d], &mut scratch.k[n * d..][..d]);
            let at = row_start(seq.v, p.layout.v, j, head);
            let v = &mut scratch.v[n * padded(d)..][..padded(d)];
            T::load(&self.args.v[at..at + d], &mut v[..d]);
            v[d..].fill(0.0);
            // By the bits of the magnitude, which the compiler compares side by side.
            let largest = v.iter().fold(0, |m, x| x.abs().to_bits().max(m));
            finite &= largest < f32::INFINITY.to_bits();
        }
        finite
    }

    /// One tile for the rows of one group.
    fn tile(
        &self,
        scratch: &mut Scratch<'_>,
        seq: &Sequence,
        group: usize,
        rows: Range<usize>,
        keys: Range<usize>,
        (masked, finite): (bool, bool),
    ) {
        let (p, d) = (self.problem, self.problem.shape.head_dim);
        let q: &[Lanes] = &scratch.q[group * d..][..d];
        let padded_keys = keys.len().next_multiple_of(SIDE);
        let s: &mut [Lanes] = &mut scratch.s[..padded_keys];
        let k: &[f32] = &scratch.k[..padded_keys * d];
        with_isa!(self.isa, scores(q: &[Lanes], k: &[f32], s: &mut [Lanes]));
        let s: &mut [Lanes] = &mut scratch.s[..keys.len()];
        if p.softcap > 0.0 || p.alibi || p.bias.is_some() || p.buckets.is_some() {
            self.modify(s, seq, rows.clone(), keys.start);
        }
        if masked {
            self.mask(s, seq, rows, keys.clone());
        }
        let o: &mut [Lanes] = &mut scratch.o[group * padded(d)..][..padded(d)];
        let (m, l): (&mut Lanes, &mut Lanes) = (&mut scratch.m[group], &mut scratch.l[group]);
        with_isa!(self.isa, softmax(s: &mut [Lanes], m: &mut Lanes, l: &mut Lanes, o: &mut [Lanes]));
        let v: &[f32] = &scratch.v[..keys.len() * padded(d)];
        let s: &[Lanes] = s;
        match masked && !finite {
            // 0 · NaN would reach rows that do not see the key.
            true => careful_values(s, v, o),
            false => with_isa!(self.isa, values(s: &[Lanes], v: &[f32], o: &mut [Lanes])),
        }
    }

    /// Softcap and biases; the scores are in units of log2 afterwards.
    fn modify(&self, s: &mut [Lanes], seq: &Sequence, rows: Range<usize>, first_key: usize) {
        let p = self.problem;
        let shape = &p.shape;
        let cap = p.softcap as f32;
        let bias = self.args.bias.zip(p.bias).map(|(x, bias)| {
            let [_, heads, seqlen_q, seqlen_k] = p.bias_dims(&bias);
            let b = if bias.per_batch { self.batch } else { 0 };
            let h = if bias.per_head { self.head } else { 0 };
            &x[(b * heads + h) * seqlen_q * seqlen_k..][..seqlen_q * seqlen_k]
        });
        let slope = self.args.alibi_slopes.map(|x| x[self.head] * LOG2_E);
        for (n, s) in s.iter_mut().enumerate() {
            let j = first_key + n;
            for (i, s) in rows.clone().zip(s) {
                let past = (i + seq.seqlen_k) as i64 - (seq.seqlen_q + j) as i64;
                if cap > 0.0 {
                    *s = (*s / cap).tanh() * cap * LOG2_E;
                }
                if let Some(slope) = slope {
                    *s -= slope * past.unsigned_abs() as f32;
                }
                if let Some(bias) = bias {
                    *s += bias[i * shape.seqlen_k + j] * LOG2_E;
                }
                if let (Some(buckets), Some(table)) = (&p.buckets, self.args.bias_table) {
                    *s += table[buckets.bucket(past) * shape.heads_q + self.head] * LOG2_E;
                }
            }
        }
    }

    fn mask(&self, s: &mut [Lanes], seq: &Sequence, rows: Range<usize>, keys: Range<usize>) {
        let p = self.problem;
        let valid = self.args.key_valid.map(|x| &x[self.batch * p.shape.seqlen_k..]);
        let mut see = [(0, 0); LANES];
        for (see, i) in see.iter_mut().zip(rows) {
            let keys = p.mask().keys(i, seq.seqlen_q, seq.seqlen_k);
            *see = (keys.start, keys.end);
        }
        for (s, j) in s.iter_mut().zip(keys) {
            let valid = valid.is_none_or(|valid| valid[j] != 0);
            for (s, (start, end)) in s.iter_mut().zip(see) {
                if !(valid && j >= start && j < end) {
                    *s = f32::NEG_INFINITY;
                }
            }
        }
    }

    fn store(
        &self,
        scratch: &mut Scratch<'_>,
        seq: &Sequence,
        rows: Range<usize>,
        out: &SharedRows<'_, T>,
        lse: &SharedRows<'_, f32>,
    ) {
        let (p, d) = (self.problem, self.problem.shape.head_dim);
        for (n, i) in rows.enumerate() {
            let (group, lane) = (n / LANES, n % LANES);
            let (m, l) = (scratch.m[group][lane], scratch.l[group][lane]);
            let inverse = if l == 0.0 { 0.0 } else { 1.0 / l };
            let o = &scratch.o[group * padded(d)..][..d];
            for (x, o) in scratch.row.iter_mut().zip(o) {
                *x = o[lane] * inverse;
            }
            let at = row_start(seq.out, p.layout.out, i, self.head);
            // SAFETY: no other block has this row, and no two rows share an element (`validate`).
            #[allow(unsafe_code)]
            let (out, lse) = unsafe { (out.row(at, d), lse.row(seq.lse + i, 1)) };
            T::store(&scratch.row[..d], out);
            lse[0] = match l == 0.0 {
                true => f32::NEG_INFINITY,
                false => {
                    let log2 = f64::from(m) + f64::from(l).log2();
                    (log2 * std::f64::consts::LN_2) as f32
                }
            };
        }
    }
}

/// S = K Qᵀ: a key's element times all rows.
#[inline(always)]
fn scores<const FMA: bool>(q: &[Lanes], k: &[f32], s: &mut [Lanes]) {
    let d = q.len();
    for (keys, s) in k.chunks_exact(SIDE * d).zip(s.as_chunks_mut::<SIDE>().0) {
        let keys: [&[f32]; SIDE] = std::array::from_fn(|n| &keys[n * d..][..d]);
        let mut sums = [[0f32; LANES]; SIDE];
        for (x, q) in q.iter().enumerate() {
            for (sum, key) in sums.iter_mut().zip(keys) {
                for (sum, q) in sum.iter_mut().zip(q) {
                    *sum = multiply_add::<FMA>(key[x], *q, *sum);
                }
            }
        }
        *s = sums;
    }
}

/// Scores to probabilities relative to the largest score so far; l and O follow it.
#[inline(always)]
fn softmax<const FMA: bool>(s: &mut [Lanes], m: &mut Lanes, l: &mut Lanes, o: &mut [Lanes]) {
    let mut most = *m;
    for s in s.iter() {
        for (most, s) in most.iter_mut().zip(s) {
            *most = if *s > *most { *s } else { *most };
        }
    }
    let (mut base, mut alpha) = ([0f32; LANES], [0f32; LANES]);
    let mut grew = false;
    for n in 0..LANES {
        // Of a row that has seen nothing, anything finite.
        base[n] = if most[n] == f32::NEG_INFINITY { 0.0 } else { most[n] };
        alpha[n] = exp2::<FMA>(m[n] - base[n]);
        grew |= most[n] != m[n];
        l[n] *= alpha[n];
    }
    *m = most;
    for s in s.iter_mut() {
        for n in 0..LANES {
            s[n] = exp2::<FMA>(s[n] - base[n]);
            l[n] += s[n];
        }
    }
    if grew {
        for o in o.iter_mut() {
            for n in 0..LANES {
                o[n] *= alpha[n];
            }
        }
    }
}

/// O += Vᵀ P.
#[inline(always)]
fn values<const FMA: bool>(p: &[Lanes], v: &[f32], o: &mut [Lanes]) {
    let d = o.len();
    for (n, o) in o.as_chunks_mut::<SIDE>().0.iter_mut().enumerate() {
        let mut sums = *o;
        for (p, v) in p.iter().zip(v.chunks_exact(d)) {
            let v = &v[n * SIDE..][..SIDE];
            for (sum, v) in sums.iter_mut().zip(v) {
                for (sum, p) in sum.iter_mut().zip(p) {
                    *sum = multiply_add::<FMA>(*v, *p, *sum);
                }
            }
        }
        *o = sums;
    }
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
