//! The definition of full attention, forward and backward, as loops over rows.
//!
//! Written for reading; it is what every kernel is held to. A row's scores are the only scratch
//! (`seqlen_k` numbers per thread), so long problems run in linear memory.

use super::{Full, Inputs};
use crate::real::{Real, add_scaled, dot, row, row_start};
use crate::{Error, Strides};
use rayon::prelude::*;

/// What a forward pass gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Output<T> {
    /// As `q`, laid out by [`super::Layout::out`]. Gaps between rows are 0.
    pub out: Vec<T>,
    /// Natural logarithm of the sum of exponentials, `[batch, heads_q, seqlen_q]` (ragged:
    /// `[heads_q, total_q]`); −inf for a row with nothing to attend.
    pub lse: Vec<T>,
}

/// Gradients of `sum(out · grad_out)`, each laid out as its input.
#[derive(Debug, Clone, PartialEq)]
pub struct Gradients<T> {
    /// With respect to `q`.
    pub q: Vec<T>,
    /// With respect to `k`, summed over the query heads that read it.
    pub k: Vec<T>,
    /// With respect to `v`.
    pub v: Vec<T>,
    /// With respect to `bias`, summed over the dimensions it broadcasts.
    pub bias: Option<Vec<T>>,
    /// With respect to `bias_table`.
    pub bias_table: Option<Vec<T>>,
    /// With respect to `alibi_slopes`.
    pub alibi_slopes: Option<Vec<T>>,
}

/// One sequence of the batch: where its rows begin in each tensor, and its lengths.
#[derive(Debug, Clone, Copy)]
struct Sequence {
    batch: usize,
    q: usize,
    k: usize,
    v: usize,
    out: usize,
    /// Row of `lse` within a head.
    lse: usize,
    seqlen_q: usize,
    seqlen_k: usize,
}

/// The scores of one row: `(key, score, d score / d (q·k))` of every key it may attend.
type Row<T> = Vec<(usize, T, T)>;

const ROWS_PER_TASK: usize = 64;

impl Full {
    /// Attention straight from the formula, in `T`. `Err` if the tensors do not fit the problem.
    pub fn reference<T: Real>(&self, inputs: &Inputs<'_, T>) -> Result<Output<T>, Error> {
        self.validate_inputs(inputs)?;
        let d = self.shape.head_dim;
        let mut result = Output {
            out: vec![T::zero(); self.spans()[3]],
            lse: vec![T::neg_infinity(); self.lse_len()],
        };
        let tasks = self.tasks(inputs);
        let rows: Vec<(Vec<T>, Vec<T>)> = tasks
            .par_iter()
            .map(|&(seq, head, first)| {
                let last = seq.seqlen_q.min(first + ROWS_PER_TASK);
                let mut out = vec![T::zero(); (last - first) * d];
                let mut lse = Vec::with_capacity(last - first);
                for (i, out) in (first..last).zip(out.chunks_exact_mut(d)) {
                    lse.push(self.row(inputs, &seq, head, i, out));
                }
                (out, lse)
            })
            .collect();
        for (&(seq, head, first), (out, lse)) in tasks.iter().zip(&rows) {
            for (i, row) in (first..).zip(out.chunks_exact(d)) {
                let at = row_start(seq.out, self.layout.out, i, head);
                result.out[at..at + d].copy_from_slice(row);
            }
            let at = self.lse_row(&seq, head) + first;
            result.lse[at..at + lse.len()].copy_from_slice(lse);
        }
        Ok(result)
    }

    /// Gradients of `sum(out · grad_out)`, straight from the formula. `grad_out` is laid out as
    /// `out`.
    ///
    /// With `P` the probabilities and `Δ_i = grad_out_i · out_i`:
    /// `dV = Pᵀ grad_out`, `dP = grad_out Vᵀ`, `dS = P ∘ (dP − Δ)`, `dQ = scale · dS K`,
    /// `dK = scale · dSᵀ Q` (FlashAttention-2, section 3.2).
    pub fn reference_backward<T: Real>(
        &self,
        inputs: &Inputs<'_, T>,
        grad_out: &[T],
    ) -> Result<Gradients<T>, Error> {
        self.validate_inputs(inputs)?;
        crate::problem::at_least("grad_out", grad_out.len(), self.spans()[3])?;
        let s = &self.shape;
        let tasks: Vec<(Sequence, usize)> = self
            .sequences(inputs)
            .into_iter()
            .flat_map(|seq| (0..s.heads_kv).map(move |h| (seq, h)))
            .collect();
        let parts: Vec<Part<T>> = tasks
            .par_iter()
            .map(|(seq, head_kv)| self.backward_of_head(inputs, grad_out, seq, *head_kv))
            .collect();

        let [q, k, v, _] = self.spans();
        let mut total = Gradients {
            q: vec![T::zero(); q],
            k: vec![T::zero(); k],
            v: vec![T::zero(); v],
            bias: inputs.bias.map(|b| vec![T::zero(); b.len()]),
            bias_table: inputs.bias_table.map(|b| vec![T::zero(); b.len()]),
            alibi_slopes: inputs.alibi_slopes.map(|a| vec![T::zero(); a.len()]),
        };
        let (d, group) = (s.head_dim, s.heads_q / s.heads_kv);
        for ((seq, head_kv), part) in tasks.iter().zip(&parts) {
            for g in 0..group {
                let head = head_kv * group + g;
                let rows = &part.q[g * seq.seqlen_q * d..(g + 1) * seq.seqlen_q * d];
                add_rows(&mut total.q, seq.q, self.layout.q, head, rows, d);
                if let Some(slopes) = &mut total.alibi_slopes {
                    slopes[head] += part.alibi_slopes[g];
                }
                if let Some(table) = &mut total.bias_table {
                    let of_head = table.iter_mut().skip(head).step_by(s.heads_q);
                    let buckets = part.bias_table.iter().skip(g).step_by(group);
                    of_head.zip(buckets).for_each(|(sum, &x)| *sum += x);
                }
                if let Some(bias) = &mut total.bias {
                    let len = seq.seqlen_q * seq.seqlen_k;
                    let at = self.bias_start(seq, head);
                    for (sum, &x) in bias[at..at + len].iter_mut().zip(&part.bias[g * len..]) {
                        *sum += x;
                    }
                }
            }
            add_rows(&mut total.k, seq.k, self.layout.k, *head_kv, &part.k, d);
            add_rows(&mut total.v, seq.v, self.layout.v, *head_kv, &part.v, d);
        }
        Ok(total)
    }

    fn backward_of_head<T: Real>(
        &self,
        inputs: &Inputs<'_, T>,
        grad_out: &[T],
        seq: &Sequence,
        head_kv: usize,
    ) -> Part<T> {
        let s = &self.shape;
        let (d, group) = (s.head_dim, s.heads_q / s.heads_kv);
        let (lq, lk) = (seq.seqlen_q, seq.seqlen_k);
        let scale = T::of(self.softmax_scale);
        let mut part = Part {
            q: vec![T::zero(); group * lq * d],
            k: vec![T::zero(); lk * d],
            v: vec![T::zero(); lk * d],
            bias: vec![T::zero(); if inputs.bias.is_some() { group * lq * lk } else { 0 }],
            bias_table: vec![T::zero(); self.buckets.map_or(0, |b| b.num_buckets) * group],
            alibi_slopes: vec![T::zero(); group],
        };
        let mut out = vec![T::zero(); d];
        for g in 0..group {
            let head = head_kv * group + g;
            for i in 0..lq {
                out.fill(T::zero());
                let lse = self.row(inputs, seq, head, i, &mut out);
                if lse == T::neg_infinity() {
                    continue;
                }
                let q = row(inputs.q, seq.q, self.layout.q, i, head, d);
                let go = row(grad_out, seq.out, self.layout.out, i, head, d);
                let delta = dot(go, &out);
                for (j, score, slope) in self.scores(inputs, seq, head, i) {
                    let k = row(inputs.k, seq.k, self.layout.k, j, head_kv, d);
                    let v = row(inputs.v, seq.v, self.layout.v, j, head_kv, d);
                    let p = (score - lse).exp();
                    let ds = p * (dot(go, v) - delta);
                    let dqk = ds * slope * scale;
                    add_scaled(&mut part.v[j * d..][..d], p, go);
                    add_scaled(&mut part.k[j * d..][..d], dqk, q);
                    add_scaled(&mut part.q[(g * lq + i) * d..][..d], dqk, k);
                    part.alibi_slopes[g] += T::zero() - ds * distance::<T>(i, j, seq).abs();
                    if let Some(buckets) = &self.buckets {
                        let bucket = buckets.bucket(past(i, j, seq));
                        part.bias_table[bucket * group + g] += ds;
                    }
                    if let Some(x) = part.bias.get_mut((g * lq + i) * lk + j) {
                        *x += ds;
                    }
                }
            }
        }
        part
    }

    /// One row: adds `out_i` to `out` (zeros before) and returns its lse.
    fn row<T: Real>(
        &self,
        inputs: &Inputs<'_, T>,
        seq: &Sequence,
        head: usize,
        i: usize,
        out: &mut [T],
    ) -> T {
        let scores = self.scores(inputs, seq, head, i);
        let most = scores.iter().fold(T::neg_infinity(), |m, &(_, s, _)| m.max(s));
        let has_nan = scores.iter().any(|(_, s, _)| s.is_nan());
        if most == T::neg_infinity() && !has_nan {
            return most;
        }
        let head_kv = head / (self.shape.heads_q / self.shape.heads_kv);
        let mut sum = T::zero();
        for &(j, s, _) in &scores {
            let p = (s - most).exp();
            sum += p;
            add_scaled(
                out,
                p,
                row(inputs.v, seq.v, self.layout.v, j, head_kv, self.shape.head_dim),
            );
        }
        out.iter_mut().for_each(|x| *x = *x / sum);
        most + sum.ln()
    }

    /// The final scores of row `i` over the keys it may attend.
    fn scores<T: Real>(
        &self,
        inputs: &Inputs<'_, T>,
        seq: &Sequence,
        head: usize,
        i: usize,
    ) -> Row<T> {
        let s = &self.shape;
        let head_kv = head / (s.heads_q / s.heads_kv);
        let q = row(inputs.q, seq.q, self.layout.q, i, head, s.head_dim);
        let (scale, cap) = (T::of(self.softmax_scale), T::of(self.softcap));
        let bias = inputs
            .bias
            .map(|b| &b[self.bias_start(seq, head) + i * seq.seqlen_k..][..seq.seqlen_k]);
        let valid = inputs.key_valid.map(|m| &m[seq.batch * s.seqlen_k..][..s.seqlen_k]);
        let keys = self.mask().keys(i, seq.seqlen_q, seq.seqlen_k);
        keys.filter(|&j| valid.is_none_or(|valid| valid[j] != 0))
            .map(|j| {
                let mut score =
                    scale * dot(q, row(inputs.k, seq.k, self.layout.k, j, head_kv, s.head_dim));
                let mut slope = T::one();
                if cap > T::zero() {
                    let tanh = (score / cap).tanh();
                    score = cap * tanh;
                    slope = T::one() - tanh * tanh;
                }
                if let Some(slopes) = inputs.alibi_slopes {
                    score = score - slopes[head] * distance::<T>(i, j, seq).abs();
                }
                if let Some(bias) = bias {
                    score += bias[j];
                }
                if let (Some(buckets), Some(table)) = (&self.buckets, inputs.bias_table) {
                    score += table[buckets.bucket(past(i, j, seq)) * s.heads_q + head];
                }
                (j, score, slope)
            })
            .collect()
    }

    fn tasks<T>(&self, inputs: &Inputs<'_, T>) -> Vec<(Sequence, usize, usize)> {
        let sequences = self.sequences(inputs).into_iter();
        sequences
            .flat_map(|seq| (0..self.shape.heads_q).map(move |head| (seq, head)))
            .flat_map(|(seq, head)| {
                (0..seq.seqlen_q).step_by(ROWS_PER_TASK).map(move |first| (seq, head, first))
            })
            .collect()
    }

    fn sequences<T>(&self, inputs: &Inputs<'_, T>) -> Vec<Sequence> {
        let (s, l) = (&self.shape, &self.layout);
        let packed = |b: usize| -> Option<[usize; 4]> {
            let (q, k) = (inputs.cu_seqlens_q?, inputs.cu_seqlens_k?);
            Some([q[b], q[b + 1], k[b], k[b + 1]].map(|x| x as usize))
        };
        // Sequences without queries give nothing. They cost no memory either, so a small file may
        // claim billions of them, or of heads of them.
        if s.seqlen_q == 0 {
            return Vec::new();
        }
        (0..s.batch)
            .map(|batch| match packed(batch) {
                Some([q0, q1, k0, k1]) => Sequence {
                    batch,
                    q: q0 * l.q.seqlen,
                    k: k0 * l.k.seqlen,
                    v: k0 * l.v.seqlen,
                    out: q0 * l.out.seqlen,
                    lse: q0,
                    seqlen_q: q1 - q0,
                    seqlen_k: k1 - k0,
                },
                None => Sequence {
                    batch,
                    q: batch * l.q.batch,
                    k: batch * l.k.batch,
                    v: batch * l.v.batch,
                    out: batch * l.out.batch,
                    lse: batch * s.heads_q * s.seqlen_q,
                    seqlen_q: s.seqlen_q,
                    seqlen_k: s.seqlen_k,
                },
            })
            .filter(|seq| seq.seqlen_q > 0)
            .collect()
    }

    fn lse_row(&self, seq: &Sequence, head: usize) -> usize {
        seq.lse + head * self.rows_q()
    }

    fn bias_start(&self, seq: &Sequence, head: usize) -> usize {
        let Some(bias) = &self.bias else { return 0 };
        let [_, heads, lq, lk] = self.bias_dims(bias);
        let b = if bias.per_batch { seq.batch } else { 0 };
        let h = if bias.per_head { head } else { 0 };
        (b * heads + h) * lq * lk
    }
}

/// The gradients that one key head of one sequence gives.
struct Part<T> {
    q: Vec<T>,
    k: Vec<T>,
    v: Vec<T>,
    bias: Vec<T>,
    bias_table: Vec<T>,
    alibi_slopes: Vec<T>,
}

/// How far key `j` lies in the past of query `i`.
fn past(i: usize, j: usize, seq: &Sequence) -> i64 {
    i as i64 + seq.seqlen_k as i64 - seq.seqlen_q as i64 - j as i64
}

/// The same as a factor.
fn distance<T: Real>(i: usize, j: usize, seq: &Sequence) -> T {
    T::of(past(i, j, seq) as f64)
}

fn add_rows<T: Real>(
    x: &mut [T],
    base: usize,
    strides: Strides,
    head: usize,
    rows: &[T],
    d: usize,
) {
    for (i, row) in rows.chunks_exact(d).enumerate() {
        let at = row_start(base, strides, i, head);
        add_scaled(&mut x[at..at + d], T::one(), row);
    }
}
