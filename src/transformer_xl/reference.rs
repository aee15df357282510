//! The definition of relative-position attention, forward and backward, as loops over rows.
//!
//! Written for reading; it is what every kernel is held to. A row's scores are the only scratch.

use super::{Inputs, Memory, TransformerXl};
use crate::Error;
use crate::real::{Real, add_scaled, dot, row, row_start};
use rayon::prelude::*;

/// What a forward pass gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Output<T> {
    /// As `q`, laid out by [`super::Layout::out`]. Gaps between rows are 0.
    pub out: Vec<T>,
    /// Natural logarithm of the sum of exponentials, `[batch, heads_q, seqlen_q]`; −inf for a row
    /// with nothing to attend.
    pub lse: Vec<T>,
}

/// Gradients of `sum(out · grad_out)`, each laid out as its input.
#[derive(Debug, Clone, PartialEq)]
pub struct Gradients<T> {
    /// With respect to `q`.
    pub q: Vec<T>,
    /// With respect to `k`.
    pub k: Vec<T>,
    /// With respect to `v`.
    pub v: Vec<T>,
    /// With respect to `k_memory`: the projections of the memory learn from it.
    pub k_memory: Option<Vec<T>>,
    /// With respect to `v_memory`.
    pub v_memory: Option<Vec<T>>,
    /// With respect to `r`; clamped distances add up in their row, unused rows are 0.
    pub r: Vec<T>,
    /// With respect to `bias_u`.
    pub bias_u: Vec<T>,
    /// With respect to `bias_v`.
    pub bias_v: Vec<T>,
    /// With respect to `bias_s`.
    pub bias_s: Option<Vec<T>>,
    /// With respect to `seg_embed`.
    pub seg_embed: Option<Vec<T>>,
}

/// A key that a row attends.
struct Seen<T> {
    j: usize,
    s: T,
    /// Row of the position table.
    r: usize,
    /// Row of `seg_embed`.
    segment: usize,
}

/// A query, and its sums with the biases.
struct Query<T> {
    position: usize,
    u: Vec<T>,
    v: Vec<T>,
    s: Option<Vec<T>>,
}

impl TransformerXl {
    /// Attention straight from the formula, in `T`. `Err` if the tensors do not fit the problem.
    pub fn reference<T: Real>(&self, inputs: &Inputs<'_, T>) -> Result<Output<T>, Error> {
        self.validate_inputs(inputs)?;
        let s = &self.shape;
        let mut result = Output {
            out: vec![T::zero(); self.span("out")],
            lse: vec![T::neg_infinity(); self.lse_len()],
        };
        if s.seqlen_q == 0 {
            return Ok(result);
        }
        let of =
            |n: usize| [n / (s.heads_q * s.seqlen_q), n / s.seqlen_q % s.heads_q, n % s.seqlen_q];
        let rows: Vec<(Vec<T>, T)> = (0..self.lse_len())
            .into_par_iter()
            .map(|n| {
                let mut out = vec![T::zero(); s.head_dim];
                let seen = self.seen(inputs, &self.query(inputs, of(n)), of(n));
                let lse = self.attend(inputs, &seen, of(n), &mut out);
                (out, lse)
            })
            .collect();
        for (n, (out, lse)) in rows.into_iter().enumerate() {
            let [b, h, i] = of(n);
            let at = row_start(b * self.layout.out.batch, self.layout.out, i, h);
            result.out[at..at + s.head_dim].copy_from_slice(&out);
            result.lse[n] = lse;
        }
        Ok(result)
    }

    /// Gradients of `sum(out · grad_out)`, straight from the formula. `grad_out` is laid out as
    /// `out`. As full attention's; the gradient of a score goes to the key, to the row of the table
    /// and to the segment, and to q and a bias from each of the three.
    pub fn reference_backward<T: Real>(
        &self,
        inputs: &Inputs<'_, T>,
        grad_out: &[T],
    ) -> Result<Gradients<T>, Error> {
        self.validate_inputs(inputs)?;
        let (s, l) = (&self.shape, &self.layout);
        crate::problem::at_least("grad_out", grad_out.len(), self.span("out"))?;
        let zeros = |name: &str| vec![T::zero(); self.span(name)];
        let (d, of_heads) = (s.head_dim, vec![T::zero(); s.heads_q * s.head_dim]);
        let mut g = Gradients {
            q: zeros("q"),
            k: zeros("k"),
            v: zeros("v"),
            k_memory: self.memory.map(|_| zeros("k_memory")),
            v_memory: self.memory.map(|_| zeros("v_memory")),
            r: zeros("r"),
            bias_u: of_heads.clone(),
            bias_v: of_heads.clone(),
            bias_s: self.segments.then(|| of_heads.clone()),
            seg_embed: self.segments.then(|| [&of_heads[..], &of_heads[..]].concat()),
        };
        let scale = T::of(self.softmax_scale);
        let mut out = vec![T::zero(); d];
        for n in 0..self.lse_len() {
            let [b, h, i] =
                [n / (s.heads_q * s.seqlen_q), n / s.seqlen_q % s.heads_q, n % s.seqlen_q];
            let query = self.query(inputs, [b, h, i]);
            let seen = self.seen(inputs, &query, [b, h, i]);
            out.fill(T::zero());
            let lse = self.attend(inputs, &seen, [b, h, i], &mut out);
            if lse == T::neg_infinity() {
                continue;
            }
            let go = row(grad_out, b * l.out.batch, l.out, i, h, d);
            let delta = dot(go, &out);
            // Of q + bias_u and q + bias_v, and of the products with the two segments' rows: summed
            // over the row first, since a row's ds cancel.
            let mut with_bias = [vec![T::zero(); d], vec![T::zero(); d]];
            let mut with_segment = [T::zero(); 2];
            for key in seen {
                let ([k, v], in_memory, [k_at, v_at]) = self.key(inputs, b, h, key.j);
                let r = row(inputs.r, 0, l.r, key.r, h, d);
                let p = (key.s - lse).exp();
                let ds = p * (dot(go, v) - delta) * scale;
                let (to_k, to_v) = match (&mut g.k_memory, &mut g.v_memory) {
                    (Some(k), Some(v)) if in_memory => (k, v),
                    _ => (&mut g.k, &mut g.v),
                };
                add_scaled(&mut to_v[v_at..v_at + d], p, go);
                add_scaled(&mut to_k[k_at..k_at + d], ds, &query.u);
                let r_at = row_start(0, l.r, key.r, h);
                add_scaled(&mut g.r[r_at..r_at + d], ds, &query.v);
                add_scaled(&mut with_bias[0], ds, k);
                add_scaled(&mut with_bias[1], ds, r);
                with_segment[key.segment] += ds;
            }
            let to_q = row_start(b * l.q.batch, l.q, i, h)..;
            for (sum, bias) in with_bias.iter().zip([&mut g.bias_u, &mut g.bias_v]) {
                add_scaled(&mut g.q[to_q.clone()][..d], T::one(), sum);
                add_scaled(&mut bias[h * d..][..d], T::one(), sum);
            }
            if let (Some(embed), Some(to_embed), Some(bias), Some(with_s)) =
                (inputs.seg_embed, &mut g.seg_embed, &mut g.bias_s, &query.s)
            {
                let mut sum = vec![T::zero(); d];
                for (x, ds) in with_segment.into_iter().enumerate() {
                    let at = (x * s.heads_q + h) * d;
                    add_scaled(&mut sum, ds, &embed[at..at + d]);
                    add_scaled(&mut to_embed[at..at + d], ds, with_s);
                }
                add_scaled(&mut g.q[to_q][..d], T::one(), &sum);
                add_scaled(&mut bias[h * d..][..d], T::one(), &sum);
            }
        }
        Ok(g)
    }

    /// A key's rows of `k` and `v`, whether they lie in the memory, and where they begin.
    fn key<'a, T>(
        &self,
        inputs: &Inputs<'a, T>,
        b: usize,
        h: usize,
        j: usize,
    ) -> ([&'a [T]; 2], bool, [usize; 2]) {
        let (s, l) = (&self.shape, &self.layout);
        let head = h / (s.heads_q / s.heads_kv);
        let (k, v, rows, in_memory) = match (self.memory, inputs.k_memory, inputs.v_memory) {
            (Some(Memory { len, rows, start }), Some(k), Some(v)) if j < len => {
                ((k, l.k_memory), (v, l.v_memory), (start + j) % rows, true)
            }
            (memory, ..) => {
                ((inputs.k, l.k), (inputs.v, l.v), j - memory.map_or(0, |m| m.len), false)
            }
        };
        let at = [k, v].map(|(_, strides)| row_start(b * strides.batch, strides, rows, head));
        ([&k.0[at[0]..][..s.head_dim], &v.0[at[1]..][..s.head_dim]], in_memory, at)
    }

    fn query<T: Real>(&self, inputs: &Inputs<'_, T>, [b, h, i]: [usize; 3]) -> Query<T> {
        let (l, d) = (&self.layout, self.shape.head_dim);
        let q = row(inputs.q, b * l.q.batch, l.q, i, h, d);
        let with = |bias: &[T]| -> Vec<T> {
            q.iter().zip(&bias[h * d..][..d]).map(|(&q, &bias)| q + bias).collect()
        };
        let target = inputs.targets.map(|x| x[b * self.shape.seqlen_q + i] as usize);
        Query {
            position: target.unwrap_or(i),
            u: with(inputs.bias_u),
            v: with(inputs.bias_v),
            s: inputs.bias_s.map(with),
        }
    }

    /// The keys of a row, with their scores.
    fn seen<T: Real>(
        &self,
        inputs: &Inputs<'_, T>,
        query: &Query<T>,
        [b, h, _]: [usize; 3],
    ) -> Vec<Seen<T>> {
        let (s, d) = (&self.shape, self.shape.head_dim);
        let (segment_len, position) = (self.segment_len(), query.position);
        let valid = inputs.key_valid.map(|x| &x[b * s.seqlen_k..][..s.seqlen_k]);
        let perm = inputs
            .perm_mask
            .map(|x| &x[(b * segment_len + position) * self.perm_words()..][..self.perm_words()]);
        let sees = |j: usize| {
            valid.is_none_or(|valid| valid[j] != 0)
                && perm.is_none_or(|words| words[j / 32] >> (j % 32) & 1 == 0)
        };
        let mut keys: Vec<usize> = self.keys(position).filter(|&j| sees(j)).collect();
        let own = self.own_position.then(|| position + s.seqlen_k - segment_len);
        if let Some(own) = own.filter(|own| !keys.contains(own)) {
            keys.push(own);
            keys.sort_unstable();
        }
        let scale = T::of(self.softmax_scale);
        let one = |j: usize| {
            let distance = (position + s.seqlen_k) as i64 - (segment_len + j) as i64;
            let r = self.row_of(distance);
            let ([k, _], ..) = self.key(inputs, b, h, j);
            let mut x = dot(&query.u, k) + dot(&query.v, row(inputs.r, 0, self.layout.r, r, h, d));
            let mut segment = 0;
            if let (Some(seg_q), Some(seg_k), Some(embed), Some(with_s)) =
                (inputs.seg_q, inputs.seg_k, inputs.seg_embed, &query.s)
            {
                let other = seg_q[b * segment_len + position] != seg_k[b * s.seqlen_k + j];
                segment = usize::from(other);
                x += dot(with_s, &embed[(segment * s.heads_q + h) * d..][..d]);
            }
            Seen { j, s: scale * x, r, segment }
        };
        keys.into_iter().map(one).collect()
    }

    /// Adds the row's result to `out` (zeros before) and returns its lse.
    fn attend<T: Real>(
        &self,
        inputs: &Inputs<'_, T>,
        seen: &[Seen<T>],
        [b, h, _]: [usize; 3],
        out: &mut [T],
    ) -> T {
        let most = seen.iter().fold(T::neg_infinity(), |m, x| m.max(x.s));
        if most == T::neg_infinity() && !seen.iter().any(|x| x.s.is_nan()) {
            return most;
        }
        let mut sum = T::zero();
        for key in seen {
            let p = (key.s - most).exp();
            sum += p;
            add_scaled(out, p, self.key(inputs, b, h, key.j).0[1]);
        }
        out.iter_mut().for_each(|x| *x = *x / sum);
        most + sum.ln()
    }
}
