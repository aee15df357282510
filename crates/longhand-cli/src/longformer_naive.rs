//! Longformer's naive evaluation: as [`crate::naive`], with each row's own keys and tensors.

use crate::failure::Result;
use crate::longformer_file::{LongformerFile, LongformerInputs};
use crate::naive::{add_scaled, dot, softmax};
use crate::problem_file::stored_as;
use crate::results::Results;
use longhand::longformer::{Gradients, Output};
use longhand::{DType, Longformer};

/// Forward, and gradients if `backward` and the file has `grad.out`, every intermediate stored in
/// `dtype`.
pub(crate) fn evaluate(file: &LongformerFile, dtype: DType, backward: bool) -> Result<Results> {
    let p = &file.problem;
    let x = file.inputs.stored_as::<f64>(dtype);
    let grad_out = file.grad_out.as_ref().filter(|_| backward).map(|g| stored_as::<f64>(g, dtype));
    let mut output =
        Output { out: vec![0.0; x.q.len()], lse: vec![f64::NEG_INFINITY; p.lse_len()] };
    let zeros = || vec![0.0; x.q.len()];
    let own = p.has_global_tensors();
    let mut g = Gradients {
        q: zeros(),
        k: zeros(),
        v: zeros(),
        q_global: own.then(zeros),
        k_global: own.then(zeros),
        v_global: own.then(zeros),
    };
    let d = p.head_dim;
    for b in 0..p.batch {
        let globals = globals_of(p, &x, b);
        for h in 0..p.heads {
            let at = |i: usize| ((b * p.seqlen + i) * p.heads + h) * d;
            for i in 0..p.seqlen {
                let global = globals[i];
                let (q, k, v) = match (&x.q_global, &x.k_global, &x.v_global) {
                    (Some(q), Some(k), Some(v)) if global => (q, k, v),
                    _ => (&x.q, &x.k, &x.v),
                };
                let q = &q[at(i)..][..d];
                let keys = keys_of(p, &x, &globals, [b, h, i]);
                let scores: Vec<f64> = keys
                    .iter()
                    .map(|&j| dtype.round(p.softmax_scale * dot(q, &k[at(j)..][..d])))
                    .collect();
                let Some((probabilities, lse)) = softmax(dtype, &scores) else { continue };
                output.lse[(b * p.heads + h) * p.seqlen + i] = lse;
                let out = &mut output.out[at(i)..][..d];
                for (&j, &w) in keys.iter().zip(&probabilities) {
                    add_scaled(out, w, &v[at(j)..][..d]);
                }
                out.iter_mut().for_each(|x| *x = dtype.round(*x));
                let Some(go) = &grad_out else { continue };
                let go = &go[at(i)..][..d];
                let dp: Vec<f64> =
                    keys.iter().map(|&j| dtype.round(dot(go, &v[at(j)..][..d]))).collect();
                let delta = dot(&probabilities, &dp);
                let (dq, dk, dv) = match (&mut g.q_global, &mut g.k_global, &mut g.v_global) {
                    (Some(q), Some(k), Some(v)) if global => (q, k, v),
                    _ => (&mut g.q, &mut g.k, &mut g.v),
                };
                for (n, &j) in keys.iter().enumerate() {
                    let ds = dtype.round(probabilities[n] * (dp[n] - delta));
                    let dqk = dtype.round(ds * p.softmax_scale);
                    add_scaled(&mut dv[at(j)..][..d], probabilities[n], go);
                    add_scaled(&mut dq[at(i)..][..d], dqk, &k[at(j)..][..d]);
                    add_scaled(&mut dk[at(j)..][..d], dqk, q);
                }
            }
        }
    }
    let all = [Some(&mut g.q), Some(&mut g.k), Some(&mut g.v)];
    let own = [g.q_global.as_mut(), g.k_global.as_mut(), g.v_global.as_mut()];
    for x in all.into_iter().chain(own).flatten().flatten() {
        *x = dtype.round(*x);
    }
    Ok(file.results(&output, grad_out.is_some().then_some(&g)))
}

fn is_valid(p: &Longformer, x: &LongformerInputs<f64>, b: usize, i: usize) -> bool {
    x.key_valid.as_ref().is_none_or(|valid| valid[b * p.seqlen + i] != 0)
}

fn globals_of(p: &Longformer, x: &LongformerInputs<f64>, b: usize) -> Vec<bool> {
    let mut is = vec![false; p.seqlen];
    for &i in x.global_indices.iter().flat_map(|all| &all[b * p.max_globals..][..p.max_globals]) {
        if i >= 0 {
            is[i as usize] = is_valid(p, x, b, i as usize);
        }
    }
    is
}

/// Keys that a row sees, by asking of each whether it does.
fn keys_of(
    p: &Longformer,
    x: &LongformerInputs<f64>,
    globals: &[bool],
    [b, h, i]: [usize; 3],
) -> Vec<usize> {
    let step = p.dilation_of(h);
    let in_band = |j: usize| {
        let (side, distance) = if j <= i { (p.left, i - j) } else { (p.right, j - i) };
        distance.is_multiple_of(step) && distance / step <= side
    };
    let sees = |j: usize| {
        is_valid(p, x, b, i)
            && is_valid(p, x, b, j)
            && !(p.causal && j > i)
            && (globals[i] || globals[j] || in_band(j))
    };
    (0..p.seqlen).filter(|&j| sees(j)).collect()
}
