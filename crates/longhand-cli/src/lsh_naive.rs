//! LSH attention's naive evaluation: as [`crate::naive`], round by round over one sorted list, as
//! the published models do it. Masks and lse, which half precision does not hold, stay as they are,
//! and a key is taken back through its normalisation in full precision, as norms usually are.

use crate::failure::Result;
use crate::lsh_file::{LshFile, LshInputs};
use crate::naive::{add_scaled, dot, softmax};
use crate::problem_file::stored_as;
use crate::results::Results;
use longhand::lsh::{Gradients, Wrap};
use longhand::{DType, Lsh};

/// Forward, and gradients if `backward` and the file has `grad.out`, every intermediate stored in
/// `dtype`.
pub(crate) fn evaluate(file: &LshFile, dtype: DType, backward: bool) -> Result<Results> {
    let p = &file.problem;
    let x = file.inputs.stored_as::<f64>(dtype);
    let grad_out = file.grad_out.as_ref().filter(|_| backward).map(|g| stored_as::<f64>(g, dtype));
    // The hash comes from the library, and with it the shape of the result.
    let mut output = p.reference(&x.as_inputs())?;
    let mut g = Gradients { qk: vec![0.0; x.qk.len()], v: vec![0.0; x.v.len()] };
    let d = p.head_dim;
    for b in 0..p.batch {
        for h in 0..p.heads {
            let at = |i: usize| ((b * p.seqlen + i) * p.heads + h) * d;
            let norms: Vec<f64> = (0..p.seqlen)
                .map(|j| dot(&x.qk[at(j)..][..d], &x.qk[at(j)..][..d]) / d as f64)
                .map(|square| (square + p.key_norm_eps).sqrt().recip())
                .collect();
            let key = |j: usize| -> Vec<f64> {
                x.qk[at(j)..][..d].iter().map(|&k| dtype.round(k * norms[j])).collect()
            };
            let keys: Vec<Vec<f64>> = (0..p.seqlen).map(key).collect();
            let mut grad_keys = vec![vec![0.0; d]; p.seqlen];
            let list = List::new(p, &output.buckets, b, h);
            for i in 0..p.seqlen {
                let rounds: Vec<Vec<usize>> = (0..p.rounds()).map(|r| list.seen(p, r, i)).collect();
                let q = &x.qk[at(i)..][..d];
                let scores = |seen: &[usize]| -> Vec<f64> {
                    let all = rounds.iter().flatten();
                    let met = |j: usize| all.clone().filter(|&&k| k == j).count();
                    seen.iter()
                        .map(|&j| match (i == j, is_masked(p, &x, b, i, j)) {
                            (true, _) => p.self_mask_value - correction(p, || met(j)),
                            (_, true) => p.mask_value - correction(p, || met(j)),
                            _ => {
                                let s = dtype.round(p.softmax_scale * dot(q, &keys[j]));
                                dtype.round(s - correction(p, || met(j)))
                            }
                        })
                        .collect()
                };
                let mut of_rounds = vec![];
                for seen in &rounds {
                    let (weights, lse) = softmax(dtype, &scores(seen)).expect("a row sees itself");
                    let mut out = vec![0.0; d];
                    for (&j, &w) in seen.iter().zip(&weights) {
                        add_scaled(&mut out, w, &x.v[at(j)..][..d]);
                    }
                    out.iter_mut().for_each(|x| *x = dtype.round(*x));
                    of_rounds.push((weights, lse, out));
                }
                let lses: Vec<f64> = of_rounds.iter().map(|(_, lse, _)| *lse).collect();
                let (of_round, lse) = softmax(dtype, &lses).expect("there is a round");
                output.lse[(b * p.heads + h) * p.seqlen + i] = lse;
                let out = &mut output.out[at(i)..][..d];
                out.fill(0.0);
                for (r, (_, lse, o)) in of_rounds.iter().enumerate() {
                    let row = (b * p.heads + h) * p.rounds() + r;
                    output.lse_rounds[row * p.seqlen + i] = *lse;
                    add_scaled(out, of_round[r], o);
                }
                out.iter_mut().for_each(|x| *x = dtype.round(*x));
                let Some(go) = &grad_out else { continue };
                let go = &go[at(i)..][..d];
                // (w, dp) of every key met, as automatic differentiation has them.
                let met: Vec<(usize, f64, f64)> = (rounds.iter().zip(&of_rounds).zip(&of_round))
                    .flat_map(|((seen, (weights, _, _)), of_round)| {
                        seen.iter().zip(weights).map(move |(&j, w)| (j, w * of_round))
                    })
                    .map(|(j, w)| {
                        let dp = dtype.round(dot(go, &x.v[at(j)..][..d]));
                        (j, dtype.round(w), dp)
                    })
                    .collect();
                let delta: f64 = met.iter().map(|(_, w, dp)| w * dp).sum();
                for (j, w, dp) in met {
                    add_scaled(&mut g.v[at(j)..][..d], w, go);
                    if i != j && !is_masked(p, &x, b, i, j) {
                        let ds = dtype.round(dtype.round(w * (dp - delta)) * p.softmax_scale);
                        add_scaled(&mut g.qk[at(i)..][..d], ds, &keys[j]);
                        add_scaled(&mut grad_keys[j], ds, q);
                    }
                }
            }
            for (j, dk) in grad_keys.iter().enumerate() {
                let radial = dot(&keys[j], dk) / d as f64;
                let dx = &mut g.qk[at(j)..][..d];
                add_scaled(dx, norms[j], dk);
                add_scaled(dx, -norms[j] * radial, &keys[j]);
            }
        }
    }
    for x in g.qk.iter_mut().chain(&mut g.v) {
        *x = dtype.round(*x);
    }
    Ok(file.results(&output, grad_out.is_some().then_some(&g)))
}

fn is_masked(p: &Lsh, x: &LshInputs<f64>, b: usize, i: usize, j: usize) -> bool {
    let valid = x.key_valid.as_ref().is_none_or(|valid| valid[b * p.seqlen + j] != 0);
    !valid || (p.causal && j > i)
}

fn correction(p: &Lsh, met: impl Fn() -> usize) -> f64 {
    if p.duplicates_once { (met() as f64).ln() } else { 0.0 }
}

/// All rounds' positions in one list, with nothing at the ends of the rounds.
struct List {
    items: Vec<Option<usize>>,
    /// Where round r's position i stands.
    place: Vec<Vec<usize>>,
    chunk_len: usize,
}

impl List {
    fn new(p: &Lsh, buckets: &[i32], b: usize, h: usize) -> List {
        let n = p.seqlen;
        let chunk_len = if p.is_sorted() { p.chunk_len } else { n.max(1) };
        let (mut items, mut place) = (vec![], vec![]);
        for r in 0..p.rounds() {
            let row = ((b * p.heads + h) * p.num_hashes + r) * n;
            let mut order: Vec<(i32, usize)> =
                (0..n).map(|i| (buckets.get(row + i).copied().unwrap_or(0), i)).collect();
            order.sort_unstable();
            let mut places = vec![0; n];
            for (_, i) in order {
                places[i] = items.len();
                items.push(Some(i));
            }
            place.push(places);
            items.resize(items.len().next_multiple_of(chunk_len), None);
        }
        List { items, place, chunk_len }
    }

    /// What position `i` sees in round `r`.
    fn seen(&self, p: &Lsh, r: usize, i: usize) -> Vec<usize> {
        let (before, after) = p.seen_chunks();
        let chunks = (self.items.len() / self.chunk_len) as i64;
        let (base, ring) = match p.wrap {
            Wrap::AcrossRounds => (0, chunks),
            Wrap::PerRound => (r as i64 * chunks / p.rounds() as i64, chunks / p.rounds() as i64),
        };
        let own = (self.place[r][i] / self.chunk_len) as i64 - base;
        (own - before as i64..=own + after as i64)
            .map(|c| (base + c.rem_euclid(ring)) as usize * self.chunk_len)
            .flat_map(|first| self.items[first..first + self.chunk_len].iter().flatten().copied())
            .collect()
    }
}
