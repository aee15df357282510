//! The definition of Longformer's attention, forward and backward, as loops over rows.
//!
//! Written for reading; it is what every kernel is held to. A row's keys are the only scratch.

use super::{Inputs, Longformer};
use crate::real::{Real, add_scaled, dot, row, row_start};
use crate::{Error, Strides};
use rayon::prelude::*;

/// What a forward pass gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Output<T> {
    /// As `q`, laid out by [`super::Layout::out`]. Gaps between rows are 0.
    pub out: Vec<T>,
    /// Natural logarithm of the sum of exponentials of the row that gives `out`, `[batch, heads,
    /// seqlen]`; −inf for an invalid position or a row with nothing to attend.
    pub lse: Vec<T>,
}

/// Gradients of `sum(out · grad_out)`, each laid out as its input.
#[derive(Debug, Clone, PartialEq)]
pub struct Gradients<T> {
    /// With respect to `q`; with shared projections, of both roles.
    pub q: Vec<T>,
    /// With respect to `k`.
    pub k: Vec<T>,
    /// With respect to `v`.
    pub v: Vec<T>,
    /// With respect to `q_global`, where there are tensors of their own.
    pub q_global: Option<Vec<T>>,
    /// With respect to `k_global`.
    pub k_global: Option<Vec<T>>,
    /// With respect to `v_global`.
    pub v_global: Option<Vec<T>>,
}

/// The global positions of one sequence: those listed that are valid.
struct Globals {
    list: Vec<usize>,
    is: Vec<bool>,
}

/// A row: its tensors and the keys it sees.
struct Row<'a, T> {
    q: &'a [T],
    k: (&'a [T], Strides),
    v: (&'a [T], Strides),
    keys: Vec<usize>,
}

impl Longformer {
    /// Attention straight from the formula, in `T`. `Err` if the tensors do not fit the problem.
    pub fn reference<T: Real>(&self, inputs: &Inputs<'_, T>) -> Result<Output<T>, Error> {
        self.validate_inputs(inputs)?;
        let mut result = Output {
            out: vec![T::zero(); self.span(&self.layout.out)],
            lse: vec![T::neg_infinity(); self.lse_len()],
        };
        if self.seqlen == 0 {
            return Ok(result);
        }
        let d = self.head_dim;
        for b in 0..self.batch {
            let globals = self.globals_of(inputs, b);
            let rows: Vec<(Vec<T>, T)> = (0..self.heads * self.seqlen)
                .into_par_iter()
                .map(|n| {
                    let (h, i) = (n / self.seqlen, n % self.seqlen);
                    let mut out = vec![T::zero(); d];
                    let row = self.row(inputs, &globals, b, h, i);
                    let lse = self.attend(&row, b, h, &mut out);
                    (out, lse)
                })
                .collect();
            for (n, (out, lse)) in rows.into_iter().enumerate() {
                let (h, i) = (n / self.seqlen, n % self.seqlen);
                let at = row_start(b * self.layout.out.batch, self.layout.out, i, h);
                result.out[at..at + d].copy_from_slice(&out);
                result.lse[(b * self.heads + h) * self.seqlen + i] = lse;
            }
        }
        Ok(result)
    }

    /// Gradients of `sum(out · grad_out)`, straight from the formula. `grad_out` is laid out as
    /// `out`. As full attention's, with each row's own keys and tensors.
    pub fn reference_backward<T: Real>(
        &self,
        inputs: &Inputs<'_, T>,
        grad_out: &[T],
    ) -> Result<Gradients<T>, Error> {
        self.validate_inputs(inputs)?;
        let l = &self.layout;
        crate::problem::at_least("grad_out", grad_out.len(), self.span(&l.out))?;
        let zeros = |strides: &Strides| vec![T::zero(); self.span(strides)];
        let own = self.has_global_tensors();
        let mut g = Gradients {
            q: zeros(&l.q),
            k: zeros(&l.k),
            v: zeros(&l.v),
            q_global: own.then(|| zeros(&l.q_global)),
            k_global: own.then(|| zeros(&l.k_global)),
            v_global: own.then(|| zeros(&l.v_global)),
        };
        if self.seqlen == 0 {
            return Ok(g);
        }
        let (d, scale) = (self.head_dim, T::of(self.softmax_scale));
        let mut out = vec![T::zero(); d];
        for b in 0..self.batch {
            let globals = self.globals_of(inputs, b);
            for h in 0..self.heads {
                for i in 0..self.seqlen {
                    let r = self.row(inputs, &globals, b, h, i);
                    out.fill(T::zero());
                    let lse = self.attend(&r, b, h, &mut out);
                    if lse == T::neg_infinity() {
                        continue;
                    }
                    let go = row(grad_out, b * l.out.batch, l.out, i, h, d);
                    let delta = dot(go, &out);
                    let global = globals.is[i];
                    let (dq, dk, dv) = match (&mut g.q_global, &mut g.k_global, &mut g.v_global) {
                        (Some(q), Some(k), Some(v)) if global => (q, k, v),
                        _ => (&mut g.q, &mut g.k, &mut g.v),
                    };
                    let q_strides = if global && own { l.q_global } else { l.q };
                    let q_at = row_start(b * q_strides.batch, q_strides, i, h);
                    for &j in &r.keys {
                        let k = row(r.k.0, b * r.k.1.batch, r.k.1, j, h, d);
                        let v = row(r.v.0, b * r.v.1.batch, r.v.1, j, h, d);
                        let p = (scale * dot(r.q, k) - lse).exp();
                        let ds = p * (dot(go, v) - delta) * scale;
                        let k_at = row_start(b * r.k.1.batch, r.k.1, j, h);
                        let v_at = row_start(b * r.v.1.batch, r.v.1, j, h);
                        add_scaled(&mut dv[v_at..v_at + d], p, go);
                        add_scaled(&mut dk[k_at..k_at + d], ds, r.q);
                        add_scaled(&mut dq[q_at..q_at + d], ds, k);
                    }
                }
            }
        }
        Ok(g)
    }

    fn is_valid<T>(&self, inputs: &Inputs<'_, T>, b: usize, i: usize) -> bool {
        inputs.key_valid.is_none_or(|valid| valid[b * self.seqlen + i] != 0)
    }

    fn globals_of<T>(&self, inputs: &Inputs<'_, T>, b: usize) -> Globals {
        let mut is = vec![false; self.seqlen];
        if let Some(all) = inputs.global_indices {
            for &position in &all[b * self.max_globals..][..self.max_globals] {
                if position >= 0 && self.is_valid(inputs, b, position as usize) {
                    is[position as usize] = true;
                }
            }
        }
        Globals { list: (0..self.seqlen).filter(|&i| is[i]).collect(), is }
    }

    fn row<'a, T>(
        &self,
        inputs: &Inputs<'a, T>,
        globals: &Globals,
        b: usize,
        h: usize,
        i: usize,
    ) -> Row<'a, T> {
        let l = &self.layout;
        let global = globals.is[i];
        let (q, k, v) = match (inputs.q_global, inputs.k_global, inputs.v_global) {
            (Some(q), Some(k), Some(v)) if global => {
                ((q, l.q_global), (k, l.k_global), (v, l.v_global))
            }
            _ => ((inputs.q, l.q), (inputs.k, l.k), (inputs.v, l.v)),
        };
        let mut keys = Vec::new();
        if self.is_valid(inputs, b, i) {
            let sees = |j: &usize| self.is_valid(inputs, b, *j) && !(self.causal && *j > i);
            if global {
                keys.extend((0..self.seqlen).filter(sees));
            } else {
                let (first, step, count) = self.band(i, h);
                let band = (0..count).map(|t| first + t * step).filter(|&j| !globals.is[j]);
                keys.extend(band.chain(globals.list.iter().copied()).filter(sees));
            }
        }
        Row { q: row(q.0, b * q.1.batch, q.1, i, h, self.head_dim), k, v, keys }
    }

    /// Adds the row's result to `out` (zeros before) and returns its lse.
    fn attend<T: Real>(&self, r: &Row<'_, T>, b: usize, h: usize, out: &mut [T]) -> T {
        let (d, scale) = (self.head_dim, T::of(self.softmax_scale));
        let key = |j: usize| row(r.k.0, b * r.k.1.batch, r.k.1, j, h, d);
        let scores: Vec<T> = r.keys.iter().map(|&j| scale * dot(r.q, key(j))).collect();
        let most = scores.iter().fold(T::neg_infinity(), |m, &s| m.max(s));
        if most == T::neg_infinity() && !scores.iter().any(|s| s.is_nan()) {
            return most;
        }
        let mut sum = T::zero();
        for (&j, &s) in r.keys.iter().zip(&scores) {
            let p = (s - most).exp();
            sum += p;
            add_scaled(out, p, row(r.v.0, b * r.v.1.batch, r.v.1, j, h, d));
        }
        out.iter_mut().for_each(|x| *x = *x / sum);
        most + sum.ln()
    }
}
