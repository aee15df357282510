//! A block of query rows over the keys that it sees.
//!
//! Floor: 4·B·H·Lq·Lk·D operations (half if causal) by the processor's multiply-add units.

use super::{Args, Full};
use crate::cpu::lanes::{LANES, Lanes};
use crate::cpu::tile::{BLOCK_M, BLOCK_N, Tile};
use crate::cpu::{Element, Isa, SharedRows};
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
        let (begin, end) = (see(rows.start).start, see(rows.end - 1).end);
        for from in (begin..end).step_by(BLOCK_N) {
            let keys = from..end.min(from + BLOCK_N);
            let finite = self.load_tile(tile, &seq, keys.clone());
            for group in 0..(rows.len()).div_ceil(LANES) {
                let first = rows.start + group * LANES;
                let last = rows.end.min(first + LANES) - 1;
                let (low, high) = (see(first), see(last));
                if keys.start >= high.end || keys.end <= low.start {
                    continue;
                }
                let whole = keys.start >= high.start && keys.end <= low.end;
                let masked = !whole || p.key_padding || keys.len() < BLOCK_N || p.bias.is_some();
                self.group(tile, &seq, group, first..last + 1, keys.clone(), (masked, finite));
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
            tile.load_q(n, &self.args.q[at..at + d], scale);
        }
    }

    /// K and V of a tile. Whether all of V is finite.
    fn load_tile(&self, tile: &mut Tile<'_>, seq: &Sequence, keys: Range<usize>) -> bool {
        let (p, d) = (self.problem, self.problem.shape.head_dim);
        let head = self.head / (p.shape.heads_q / p.shape.heads_kv);
        tile.end_k(keys.len());
        let mut finite = true;
        for (n, j) in keys.enumerate() {
            let at = row_start(seq.k, p.layout.k, j, head);
            tile.load_k(n, &self.args.k[at..at + d]);
            let at = row_start(seq.v, p.layout.v, j, head);
            finite &= tile.load_v(n, &self.args.v[at..at + d]);
        }
        finite
    }

    /// One tile for the rows of one group.
    fn group(
        &self,
        tile: &mut Tile<'_>,
        seq: &Sequence,
        group: usize,
        rows: Range<usize>,
        keys: Range<usize>,
        (masked, finite): (bool, bool),
    ) {
        let p = self.problem;
        let s = tile.scores(self.isa, group, keys.len());
        if p.softcap > 0.0 || p.alibi || p.bias.is_some() || p.buckets.is_some() {
            self.modify(s, seq, rows.clone(), keys.start);
        }
        if masked {
            self.mask(s, seq, rows, keys.clone());
        }
        tile.add(self.isa, group, keys.len(), masked && !finite);
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
        tile: &mut Tile<'_>,
        seq: &Sequence,
        rows: Range<usize>,
        out: &SharedRows<'_, T>,
        lse: &SharedRows<'_, f32>,
    ) {
        let (p, d) = (self.problem, self.problem.shape.head_dim);
        for (n, i) in rows.enumerate() {
            let (row, lse_of_row) = tile.result(n);
            let at = row_start(seq.out, p.layout.out, i, self.head);
            // SAFETY: no other block has this row, and no two rows share an element (`validate`).
            #[allow(unsafe_code)]
            let (out, lse) = unsafe { (out.row(at, d), lse.row(seq.lse + i, 1)) };
            T::store(row, out);
            lse[0] = lse_of_row;
        }
    }
}
