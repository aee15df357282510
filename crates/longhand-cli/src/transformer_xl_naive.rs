//! Relative-position attention's naive evaluation: as [`crate::naive`], with the three terms of a
//! score stored one by one, as a framework without a fused kernel has them.

use crate::failure::Result;
use crate::naive::{add_scaled, dot, softmax};
use crate::problem_file::stored_as;
use crate::results::Results;
use crate::transformer_xl_file::RelativeFile;
use crate::transformer_xl_inputs::RelativeInputs;
use longhand::transformer_xl::{Gradients, Inputs, Output};
use longhand::{DType, TransformerXl};

/// Forward, and gradients if `backward` and the file has upstream ones, every intermediate stored
/// in `dtype`.
pub(crate) fn evaluate(file: &RelativeFile, dtype: DType, backward: bool) -> Result<Results> {
    let x: RelativeInputs<f64> = file.inputs.stored_as(dtype);
    file.evaluate(
        backward,
        |stream| Ok(naive(&file.problem(stream, dtype), &x.as_inputs(stream), None).0),
        |stream, go| {
            let go = stored_as::<f64>(go, dtype);
            let problem = file.problem(stream, dtype);
            Ok(naive(&problem, &x.as_inputs(stream), Some(&go)).1)
        },
    )
    .map(|mut results| {
        for (_, x) in results.iter_mut().filter(|(name, _)| !name.starts_with("lse")) {
            x.iter_mut().for_each(|x| *x = dtype.round(*x));
        }
        results
    })
}

fn naive(
    p: &TransformerXl,
    x: &Inputs<'_, f64>,
    grad_out: Option<&[f64]>,
) -> (Output<f64>, Gradients<f64>) {
    let (s, dtype) = (&p.shape, p.dtype);
    let d = s.head_dim;
    let mut output =
        Output { out: vec![0.0; x.q.len()], lse: vec![f64::NEG_INFINITY; p.lse_len()] };
    let zeros = |x: &[f64]| vec![0.0; x.len()];
    let mut g = Gradients {
        q: zeros(x.q),
        k: zeros(x.k),
        v: zeros(x.v),
        k_memory: None,
        v_memory: None,
        r: zeros(x.r),
        bias_u: zeros(x.bias_u),
        bias_v: zeros(x.bias_v),
        bias_s: x.bias_s.map(zeros),
        seg_embed: x.seg_embed.map(zeros),
    };
    let at_k = |b: usize, j: usize, h: usize| ((b * s.seqlen_k + j) * s.heads_q + h) * d;
    for n in 0..p.lse_len() {
        let (b, h, i) = (n / (s.heads_q * s.seqlen_q), n / s.seqlen_q % s.heads_q, n % s.seqlen_q);
        let at_q = ((b * s.seqlen_q + i) * s.heads_q + h) * d;
        let q = &x.q[at_q..at_q + d];
        let with = |bias: &[f64]| -> Vec<f64> {
            q.iter().zip(&bias[h * d..]).map(|(q, bias)| dtype.round(q + bias)).collect()
        };
        let (qu, qv, qs) = (with(x.bias_u), with(x.bias_v), x.bias_s.map(with));
        let (at, segment_len) =
            (x.targets.map_or(i, |t| t[b * s.seqlen_q + i] as usize), p.segment_len());
        let keys: Vec<usize> = (0..s.seqlen_k).filter(|&j| sees(p, x, b, at, j)).collect();
        let row_of_r = |j: usize| {
            let distance = (at + s.seqlen_k) as i64 - (segment_len + j) as i64;
            (p.row_of(distance) * s.heads_q + h) * d
        };
        let embed_of = |j: usize| {
            let other = x.seg_q.zip(x.seg_k).is_some_and(|(seg_q, seg_k)| {
                seg_q[b * segment_len + at] != seg_k[b * s.seqlen_k + j]
            });
            (usize::from(other) * s.heads_q + h) * d
        };
        let score = |&j: &usize| {
            let content = dtype.round(dot(&qu, &x.k[at_k(b, j, h)..][..d]));
            let position = dtype.round(dot(&qv, &x.r[row_of_r(j)..][..d]));
            let mut sum = dtype.round(content + position);
            if let (Some(qs), Some(embed)) = (&qs, x.seg_embed) {
                sum = dtype.round(sum + dtype.round(dot(qs, &embed[embed_of(j)..][..d])));
            }
            dtype.round(p.softmax_scale * sum)
        };
        let scores: Vec<f64> = keys.iter().map(score).collect();
        let Some((weights, lse)) = softmax(dtype, &scores) else { continue };
        output.lse[n] = lse;
        let out = &mut output.out[at_q..at_q + d];
        for (&j, &w) in keys.iter().zip(&weights) {
            add_scaled(out, w, &x.v[at_k(b, j, h)..][..d]);
        }
        out.iter_mut().for_each(|x| *x = dtype.round(*x));
        let Some(go) = grad_out else { continue };
        let go = &go[at_q..at_q + d];
        let dp: Vec<f64> =
            keys.iter().map(|&j| dtype.round(dot(go, &x.v[at_k(b, j, h)..][..d]))).collect();
        let delta = dot(&weights, &dp);
        // Of q + u, q + v and q + s, each stored before they are summed.
        let (mut du, mut dv, mut ds) = (vec![0.0; d], vec![0.0; d], vec![0.0; d]);
        for (n, &j) in keys.iter().enumerate() {
            let dscore = dtype.round(dtype.round(weights[n] * (dp[n] - delta)) * p.softmax_scale);
            let (k, r) = (at_k(b, j, h), row_of_r(j));
            add_scaled(&mut g.v[k..k + d], weights[n], go);
            add_scaled(&mut g.k[k..k + d], dscore, &qu);
            add_scaled(&mut g.r[r..r + d], dscore, &qv);
            add_scaled(&mut du, dscore, &x.k[k..k + d]);
            add_scaled(&mut dv, dscore, &x.r[r..r + d]);
            if let (Some(qs), Some(embed), Some(to)) = (&qs, x.seg_embed, &mut g.seg_embed) {
                let at = embed_of(j);
                add_scaled(&mut to[at..at + d], dscore, qs);
                add_scaled(&mut ds, dscore, &embed[at..at + d]);
            }
        }
        let parts = [(du, Some(&mut g.bias_u)), (dv, Some(&mut g.bias_v)), (ds, g.bias_s.as_mut())];
        for (part, bias) in parts {
            let part: Vec<f64> = part.into_iter().map(|x| dtype.round(x)).collect();
            add_scaled(&mut g.q[at_q..at_q + d], 1.0, &part);
            if let Some(bias) = bias {
                add_scaled(&mut bias[h * d..][..d], 1.0, &part);
            }
        }
    }
    (output, g)
}

/// Whether a query at position `i` of its segment attends key `j`, by asking each mask.
fn sees(p: &TransformerXl, x: &Inputs<'_, f64>, b: usize, i: usize, j: usize) -> bool {
    let (s, segment_len) = (&p.shape, p.segment_len());
    let position = i as i64 + s.seqlen_k as i64 - segment_len as i64;
    let distance = position - j as i64;
    let near = |side: Option<usize>, distance: i64| side.is_none_or(|n| distance <= n as i64);
    let in_chunks = p.chunks.is_none_or(|chunks| {
        let size = chunks.size as i64;
        let between = position.div_euclid(size) - j as i64 / size;
        between >= 0 && near(chunks.left, between)
    });
    let permuted = x.perm_mask.is_none_or(|words| {
        let word = words[(b * segment_len + i) * p.perm_words() + j / 32];
        word & (1 << (j % 32)) == 0
    });
    let valid = x.key_valid.is_none_or(|valid| valid[b * s.seqlen_k + j] == 1);
    let plain = near(p.window.left, distance) && near(p.window.right, -distance);
    plain && in_chunks && permuted && valid || p.own_position && distance == 0
}

#[cfg(test)]
mod tests {
    use crate::transformer_xl_inputs::Stream;

    #[test]
    fn streams_are_numbered_as_upstream_gradients_are() {
        assert_eq!([Stream::Content as usize, Stream::Query as usize], [0, 1]);
    }
}
