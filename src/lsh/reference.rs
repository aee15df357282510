//! The definition of LSH attention, forward and backward, as loops over rows.
//!
//! Written for reading; it is what every kernel is held to. Scratch: the order of the positions in
//! each round, and a row's keys.

use super::{Inputs, Lsh, Wrap};
use crate::Error;
use crate::real::{Real, add_scaled, dot, row, row_start};
use rayon::prelude::*;

/// What a forward pass gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Output<T> {
    /// As `qk`, laid out by [`super::Layout::out`]. Gaps between rows are 0.
    pub out: Vec<T>,
    /// Natural logarithm of the sum of exponentials over all rounds, `[batch, heads, seqlen]`.
    pub lse: Vec<T>,
    /// That of each round, `[batch, heads, rounds, seqlen]`.
    pub lse_rounds: Vec<T>,
    /// The bucket of each position in each round, `[batch, heads, num_hashes, seqlen]`; empty if
    /// nothing is sorted.
    pub buckets: Vec<i32>,
    /// The position at each place of the sorted order, `[batch, heads, num_hashes, seqlen]`; empty
    /// if nothing is sorted.
    pub order: Vec<i32>,
}

/// Gradients of `sum(out · grad_out)`, each laid out as its input. None flows through the hash.
#[derive(Debug, Clone, PartialEq)]
pub struct Gradients<T> {
    /// With respect to `qk`, in both of its roles.
    pub qk: Vec<T>,
    /// With respect to `v`.
    pub v: Vec<T>,
}

/// A position between two buckets: see [`Lsh::near_ties`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NearTie {
    /// The sequence.
    pub batch: usize,
    /// The head.
    pub head: usize,
    /// The round of hashing.
    pub round: usize,
    /// The position.
    pub position: usize,
    /// How far the best two projections are apart.
    pub gap: f64,
}

/// One head of one sequence: where its positions stand in each round.
struct Order {
    buckets: Vec<i32>,
    /// Per round and place, a position.
    positions: Vec<Vec<usize>>,
    /// Per round and position, its place.
    places: Vec<Vec<usize>>,
}

/// A key that a row meets.
struct Seen<T> {
    j: usize,
    s: T,
    /// The score is a mask's, which passes no gradient on.
    masked: bool,
}

/// A row's result, its lse in each round, and the largest score and the sum of exponentials over
/// all rounds. Near −1e5 their lse has few digits left in f32, so that it gives no probability.
struct Row<T> {
    out: Vec<T>,
    lse_rounds: Vec<T>,
    most: T,
    sum: T,
}

impl Lsh {
    /// Attention straight from the formula, in `T`. `Err` if the tensors do not fit the problem.
    pub fn reference<T: Real>(&self, inputs: &Inputs<'_, T>) -> Result<Output<T>, Error> {
        self.validate_inputs(inputs)?;
        let mut result = Output {
            out: vec![T::zero(); self.span(&self.layout.out)],
            lse: Vec::with_capacity(self.lse_len()),
            lse_rounds: Vec::with_capacity(self.lse_rounds_len()),
            buckets: Vec::with_capacity(self.buckets_len()),
            order: Vec::with_capacity(self.buckets_len()),
        };
        let (d, n, rounds) = (self.head_dim, self.seqlen, self.rounds());
        for b in 0..self.batch {
            for h in 0..self.heads {
                let order = self.order(inputs, b, h);
                let norms = self.norms(inputs, b, h);
                let attend = |i: usize| self.attend(inputs, &order, &norms, [b, h, i]);
                let rows: Vec<Row<T>> = (0..n).into_par_iter().map(attend).collect();
                for r in 0..rounds {
                    result.lse_rounds.extend(rows.iter().map(|row| row.lse_rounds[r]));
                }
                for (i, row) in rows.into_iter().enumerate() {
                    let at = row_start(b * self.layout.out.batch, self.layout.out, i, h);
                    result.out[at..at + d].copy_from_slice(&row.out);
                    result.lse.push(row.most + row.sum.ln());
                }
                result.buckets.extend(order.buckets);
                if self.is_sorted() {
                    result.order.extend(order.positions.iter().flatten().map(|&i| i as i32));
                }
            }
        }
        Ok(result)
    }

    /// Gradients of `sum(out · grad_out)`, straight from the formula. `grad_out` is laid out as
    /// `out`. With the weights of the rounds put in, a pair's probability is `exp(s − lse)` in
    /// every round: the rounds are one softmax over all that a row meets.
    pub fn reference_backward<T: Real>(
        &self,
        inputs: &Inputs<'_, T>,
        grad_out: &[T],
    ) -> Result<Gradients<T>, Error> {
        self.validate_inputs(inputs)?;
        let l = &self.layout;
        crate::problem::at_least("grad_out", grad_out.len(), self.span(&l.out))?;
        let mut g = Gradients {
            qk: vec![T::zero(); self.span(&l.qk)],
            v: vec![T::zero(); self.span(&l.v)],
        };
        let (d, n) = (self.head_dim, self.seqlen);
        let scale = T::of(self.softmax_scale);
        for b in 0..self.batch {
            for h in 0..self.heads {
                let order = self.order(inputs, b, h);
                let norms = self.norms(inputs, b, h);
                let qk = |i: usize| row(inputs.qk, b * l.qk.batch, l.qk, i, h, d);
                // Of the keys after their normalisation.
                let mut keys = vec![T::zero(); n * d];
                for i in 0..n {
                    let Row { out, most, sum, .. } = self.attend(inputs, &order, &norms, [b, h, i]);
                    let go = row(grad_out, b * l.out.batch, l.out, i, h, d);
                    let delta = dot(go, &out);
                    let at = row_start(b * l.qk.batch, l.qk, i, h);
                    for r in 0..self.rounds() {
                        for Seen { j, s, masked } in self.seen(inputs, &order, &norms, [b, h, i], r)
                        {
                            let p = (s - most).exp() / sum;
                            let v = row(inputs.v, b * l.v.batch, l.v, j, h, d);
                            let v_at = row_start(b * l.v.batch, l.v, j, h);
                            add_scaled(&mut g.v[v_at..v_at + d], p, go);
                            if masked {
                                continue;
                            }
                            let ds = p * (dot(go, v) - delta) * scale;
                            add_scaled(&mut g.qk[at..at + d], ds * norms[j], qk(j));
                            add_scaled(&mut keys[j * d..][..d], ds, qk(i));
                        }
                    }
                }
                // k̂ = x·ρ with ρ = 1/sqrt(mean(x²) + eps):  dx = ρ dk̂ − x ρ³ (x·dk̂) / d.
                for (j, &norm) in norms.iter().enumerate() {
                    let dk = &keys[j * d..][..d];
                    let at = row_start(b * l.qk.batch, l.qk, j, h);
                    let radial = norm * norm * norm * dot(qk(j), dk) / T::of(d as f64);
                    add_scaled(&mut g.qk[at..at + d], norm, dk);
                    add_scaled(&mut g.qk[at..at + d], -radial, qk(j));
                }
            }
        }
        Ok(g)
    }

    fn is_valid<T>(&self, inputs: &Inputs<'_, T>, b: usize, i: usize) -> bool {
        inputs.key_valid.is_none_or(|valid| valid[b * self.seqlen + i] != 0)
    }

    /// What each key is multiplied by: `1/sqrt(mean(qk²) + eps)`.
    fn norms<T: Real>(&self, inputs: &Inputs<'_, T>, b: usize, h: usize) -> Vec<T> {
        let (l, d) = (&self.layout.qk, self.head_dim);
        let norm = |j: usize| {
            let x = row(inputs.qk, b * l.batch, *l, j, h, d);
            (dot(x, x) / T::of(d as f64) + T::of(self.key_norm_eps)).sqrt().recip()
        };
        (0..self.seqlen).map(norm).collect()
    }

    fn order<T: Real>(&self, inputs: &Inputs<'_, T>, b: usize, h: usize) -> Order {
        let n = self.seqlen;
        if !self.is_sorted() {
            let all: Vec<usize> = (0..n).collect();
            return Order { buckets: vec![], positions: vec![all.clone()], places: vec![all] };
        }
        let bucket = |item: usize| {
            let (r, i) = (item / n, item % n);
            match inputs.buckets {
                _ if !self.is_valid(inputs, b, i) => self.buckets() as i32,
                Some(given) => given[((b * self.heads + h) * self.num_hashes + r) * n + i],
                None => self.hash(inputs, [b, h, r, i]) as i32,
            }
        };
        let buckets: Vec<i32> = (0..self.num_hashes * n).into_par_iter().map(bucket).collect();
        let sorted = |of_round: &[i32]| {
            let mut positions: Vec<usize> = (0..n).collect();
            positions.sort_by_key(|&i| of_round[i]); // stable
            positions
        };
        let positions: Vec<Vec<usize>> = buckets.chunks_exact(n).map(sorted).collect();
        let inverse = |positions: &Vec<usize>| {
            let mut places = vec![0; n];
            positions.iter().enumerate().for_each(|(place, &i)| places[i] = place);
            places
        };
        let places = positions.iter().map(inverse).collect();
        Order { buckets, positions, places }
    }

    /// The bucket of position `i` in round `r`.
    fn hash<T: Real>(&self, inputs: &Inputs<'_, T>, [b, h, r, i]: [usize; 4]) -> usize {
        let rotations = inputs.rotations.expect("validated");
        let (columns, d) = (self.columns(), self.head_dim);
        let x = row(inputs.qk, b * self.layout.qk.batch, self.layout.qk, i, h, d);
        let mut y = vec![T::zero(); columns];
        for (c, &x) in x.iter().enumerate() {
            let at = ((h * d + c) * self.num_hashes + r) * columns;
            add_scaled(&mut y, x, &rotations[at..at + columns]);
        }
        let (mut bucket, mut below, mut first) = (0, 1, 0);
        for &factor in &self.num_buckets {
            let y = &y[first..first + factor / 2];
            let both = y.iter().copied().chain(y.iter().map(|&y| -y));
            let start = (0, T::neg_infinity());
            let (best, _) =
                both.enumerate().fold(start, |best, x| if x.1 > best.1 { x } else { best });
            bucket += below * best;
            below *= factor;
            first += factor / 2;
        }
        bucket
    }

    /// The positions whose bucket may come out otherwise in f32: of some factor, the best two of
    /// [y ; −y] are no further apart than rounding may move them, `2·d·2^−24·Σ|x·r|` for the larger
    /// of the two sums. Computed in f64. Empty if nothing is hashed.
    pub fn near_ties<T: Real + Into<f64>>(
        &self,
        inputs: &Inputs<'_, T>,
    ) -> Result<Vec<NearTie>, Error> {
        self.validate_inputs(inputs)?;
        let Some(rotations) = inputs.rotations.filter(|_| self.is_hashed()) else {
            return Ok(vec![]);
        };
        let (columns, d, n) = (self.columns(), self.head_dim, self.seqlen);
        let per_round = self.heads * self.num_hashes;
        let at = |item: usize| {
            let (i, r) = (item % n, item / n % self.num_hashes);
            (item / n / per_round, item / n / self.num_hashes % self.heads, r, i)
        };
        let look = |item: usize| -> Option<NearTie> {
            let (batch, head, round, position) = at(item);
            if !self.is_valid(inputs, batch, position) {
                return None;
            }
            let l = &self.layout.qk;
            let x = row(inputs.qk, batch * l.batch, *l, position, head, d);
            let mut y = vec![(0.0f64, 0.0f64); columns];
            for (c, &x) in x.iter().enumerate() {
                let at = ((head * d + c) * self.num_hashes + round) * columns;
                for (y, &r) in y.iter_mut().zip(&rotations[at..at + columns]) {
                    let product: f64 = x.into() * r.into();
                    *y = (y.0 + product, y.1 + product.abs());
                }
            }
            let mut first = 0;
            let mut closest: Option<f64> = None;
            for &factor in &self.num_buckets {
                let y = &y[first..first + factor / 2];
                first += factor / 2;
                let mut both: Vec<(f64, f64)> =
                    y.iter().flat_map(|&(y, sum)| [(y, sum), (-y, sum)]).collect();
                both.sort_by(|a, b| b.0.total_cmp(&a.0));
                let (gap, sum) = (both[0].0 - both[1].0, both[0].1.max(both[1].1));
                if gap <= 2.0 * d as f64 * sum / f64::from(1 << 24) {
                    closest = Some(closest.map_or(gap, |least| least.min(gap)));
                }
            }
            closest.map(|gap| NearTie { batch, head, round, position, gap })
        };
        let items = self.batch * self.heads * self.num_hashes * n;
        Ok((0..items).into_par_iter().filter_map(look).collect())
    }

    /// The chunk, in the ring of all rounds, of position `i` in round `r`.
    fn chunk(&self, order: &Order, r: usize, i: usize) -> usize {
        r * self.chunks_of_round() + order.places[r][i] / self.chunk_len
    }

    /// The chunks that chunk `c` sees, in order; one may come twice.
    fn chunks_seen(&self, c: usize) -> impl Iterator<Item = usize> {
        let (before, after) = self.seen_chunks();
        let ring = self.ring();
        let base = match self.wrap {
            Wrap::AcrossRounds => 0,
            Wrap::PerRound => c / ring * ring,
        };
        (0..before + 1 + after).map(move |t| base + (c - base + t + before * (ring - 1)) % ring)
    }

    /// What row `i` meets in round `r`.
    fn seen<T: Real>(
        &self,
        inputs: &Inputs<'_, T>,
        order: &Order,
        norms: &[T],
        [b, h, i]: [usize; 3],
        r: usize,
    ) -> Vec<Seen<T>> {
        let (l, d, n) = (&self.layout.qk, self.head_dim, self.seqlen);
        let q = row(inputs.qk, b * l.batch, *l, i, h, d);
        let mut seen = Vec::new();
        for chunk in self.chunks_seen(self.chunk(order, r, i)) {
            let (round, first) =
                (chunk / self.chunks_of_round(), chunk % self.chunks_of_round() * self.chunk_len);
            for &j in &order.positions[round][first..n.min(first + self.chunk_len)] {
                let masked = !self.is_valid(inputs, b, j) || (self.causal && j > i);
                let mut s = match (i == j, masked) {
                    (true, _) => T::of(self.self_mask_value),
                    (_, true) => T::of(self.mask_value),
                    _ => {
                        let k = row(inputs.qk, b * l.batch, *l, j, h, d);
                        T::of(self.softmax_scale) * dot(q, k) * norms[j]
                    }
                };
                if self.duplicates_once {
                    s = s - T::of(self.times_met(order, i, j) as f64).ln();
                }
                seen.push(Seen { j, s, masked: masked || i == j });
            }
        }
        seen
    }

    /// How often row `i` meets `j`, over all rounds.
    fn times_met(&self, order: &Order, i: usize, j: usize) -> usize {
        let chunks_of_j: Vec<usize> = (0..self.rounds()).map(|r| self.chunk(order, r, j)).collect();
        let met = |r| {
            let seen = self.chunks_seen(self.chunk(order, r, i));
            seen.map(|c| chunks_of_j.iter().filter(|&&x| x == c).count()).sum::<usize>()
        };
        (0..self.rounds()).map(met).sum()
    }

    /// A row's result and its softmax.
    fn attend<T: Real>(
        &self,
        inputs: &Inputs<'_, T>,
        order: &Order,
        norms: &[T],
        [b, h, i]: [usize; 3],
    ) -> Row<T> {
        let (l, d) = (&self.layout.v, self.head_dim);
        let mut rounds = Vec::with_capacity(self.rounds());
        for r in 0..self.rounds() {
            let seen = self.seen(inputs, order, norms, [b, h, i], r);
            let most = seen.iter().fold(T::neg_infinity(), |m, x| m.max(x.s));
            let (mut out, mut sum) = (vec![T::zero(); d], T::zero());
            for Seen { j, s, .. } in seen {
                let p = (s - most).exp();
                sum += p;
                add_scaled(&mut out, p, row(inputs.v, b * l.batch, *l, j, h, d));
            }
            rounds.push((out, most, sum));
        }
        let most = rounds.iter().fold(T::neg_infinity(), |m, x| m.max(x.1));
        let (mut out, mut sum) = (vec![T::zero(); d], T::zero());
        for (of_round, m, l) in &rounds {
            let weight = (*m - most).exp();
            sum += weight * *l;
            add_scaled(&mut out, weight, of_round);
        }
        out.iter_mut().for_each(|x| *x = *x / sum);
        let lse_rounds = rounds.iter().map(|(_, m, l)| *m + l.ln()).collect();
        Row { out, lse_rounds, most, sum }
    }
}
