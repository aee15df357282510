//! The naive evaluation that sets the tolerance: the formula as an unfused framework would run it,
//! every intermediate stored in the dtype.

use crate::compare::tolerance;
use crate::failure::Result;
use crate::full_file::{FullFile, OwnedInputs};
use crate::problem_file::{ProblemFile, stored_as};
use crate::results::{Results, bucket_table, from_parts};
use crate::{longformer_naive, lsh_naive, transformer_xl_naive};
use longhand::full::{Gradients, Output};
use longhand::{DType, Full};
use std::collections::BTreeMap;

/// Forward, and gradients if `backward` and the file has `grad.out`.
pub fn evaluate(file: &ProblemFile, dtype: DType, backward: bool) -> Result<Results> {
    match file {
        ProblemFile::Full(file) => full(file, dtype, backward),
        ProblemFile::Longformer(file) if dtype == DType::F32 => {
            file.reference::<f32>(dtype, backward)
        }
        ProblemFile::Longformer(file) => longformer_naive::evaluate(file, dtype, backward),
        ProblemFile::Lsh(file) if dtype == DType::F32 => file.reference::<f32>(dtype, backward),
        ProblemFile::Lsh(file) => lsh_naive::evaluate(file, dtype, backward),
        ProblemFile::Relative(file) if dtype == DType::F32 => {
            file.reference::<f32>(dtype, backward)
        }
        ProblemFile::Relative(file) => transformer_xl_naive::evaluate(file, dtype, backward),
    }
}

fn full(file: &FullFile, dtype: DType, backward: bool) -> Result<Results> {
    let grad_out = file.grad_out.as_ref().filter(|_| backward);
    if dtype == DType::F32 {
        let inputs = file.inputs.as_inputs();
        let output = file.problem.reference::<f32>(&inputs)?;
        let gradients = match grad_out {
            Some(g) => Some(file.problem.reference_backward(&inputs, g)?),
            None => None,
        };
        return Ok(from_parts(file, &output, gradients.as_ref(), DType::F32));
    }
    let half = Half { problem: &file.problem, inputs: file.inputs.stored_as::<f64>(dtype), dtype };
    let grad_out = grad_out.map(|g| stored_as::<f64>(g, dtype));
    let (output, gradients) = half.evaluate(grad_out.as_deref());
    Ok(from_parts(file, &output, gradients.as_ref(), dtype))
}

/// The largest error that each result may have when computed in `dtype`.
pub fn tolerances(
    file: &ProblemFile,
    dtype: DType,
    backward: bool,
) -> Result<BTreeMap<String, f64>> {
    tolerances_by(file, dtype, &reference(file, backward)?)
}

/// The same, with the [`reference()`] at hand; it says which results are asked for.
pub fn tolerances_by(
    file: &ProblemFile,
    dtype: DType,
    reference: &Results,
) -> Result<BTreeMap<String, f64>> {
    let naive = evaluate(file, dtype, reference.keys().any(|name| name.starts_with("grad.")))?;
    let of = |(name, x): (&String, &Vec<f64>)| {
        (name.clone(), tolerance(name, dtype, x, &reference[name]))
    };
    Ok(naive.iter().map(of).collect())
}

/// The reference in f64 on the file's own inputs, nothing rounded.
pub fn reference(file: &ProblemFile, backward: bool) -> Result<Results> {
    let file = match file {
        ProblemFile::Full(file) => file,
        ProblemFile::Longformer(file) => return file.reference::<f64>(DType::F32, backward),
        ProblemFile::Lsh(file) => return file.reference::<f64>(DType::F32, backward),
        ProblemFile::Relative(file) => return file.reference::<f64>(DType::F32, backward),
    };
    let inputs = file.inputs.stored_as::<f64>(DType::F32);
    let output = file.problem.reference(&inputs.as_inputs())?;
    let mut results =
        Results::from([("out".to_owned(), output.out), ("lse".to_owned(), output.lse)]);
    results.extend(bucket_table(&file.problem).map(|x| ("bucket_table".to_owned(), x)));
    if let Some(grad_out) = file.grad_out.as_ref().filter(|_| backward) {
        let grad_out = stored_as::<f64>(grad_out, DType::F32);
        let g = file.problem.reference_backward(&inputs.as_inputs(), &grad_out)?;
        for (name, x) in [("grad.q", g.q), ("grad.k", g.k), ("grad.v", g.v)] {
            results.insert(name.to_owned(), x);
        }
        results.extend(g.bias.map(|x| ("grad.bias".to_owned(), x)));
        results.extend(g.bias_table.map(|x| ("grad.bias_table".to_owned(), x)));
    }
    Ok(results)
}

struct Half<'a> {
    problem: &'a Full,
    inputs: OwnedInputs<f64>,
    dtype: DType,
}

/// One sequence: its number, its first rows in `q` and `k`, its lengths.
#[derive(Clone, Copy)]
struct Sequence {
    batch: usize,
    q: usize,
    k: usize,
    seqlen_q: usize,
    seqlen_k: usize,
}

/// A row of the score matrix: keys, stored scores, and the derivative's factor of each.
struct Row {
    keys: Vec<usize>,
    scores: Vec<f64>,
    tanh: Vec<f64>,
}

impl Half<'_> {
    fn round(&self, x: f64) -> f64 {
        self.dtype.round(x)
    }

    fn evaluate(&self, grad_out: Option<&[f64]>) -> (Output<f64>, Option<Gradients<f64>>) {
        let mut output = Output {
            out: vec![0.0; self.inputs.q.len()],
            lse: vec![f64::NEG_INFINITY; self.problem.lse_len()],
        };
        let mut gradients = grad_out.map(|_| Gradients {
            q: vec![0.0; self.inputs.q.len()],
            k: vec![0.0; self.inputs.k.len()],
            v: vec![0.0; self.inputs.v.len()],
            bias: self.inputs.bias.as_ref().map(|b| vec![0.0; b.len()]),
            bias_table: self.inputs.bias_table.as_ref().map(|b| vec![0.0; b.len()]),
            alibi_slopes: None,
        });
        for seq in self.sequences() {
            for head in 0..self.problem.shape.heads_q {
                self.head(&seq, head, grad_out, &mut output, gradients.as_mut());
            }
        }
        if let Some(g) = &mut gradients {
            for x in
                g.k.iter_mut()
                    .chain(&mut g.v)
                    .chain(g.bias.iter_mut().flatten())
                    .chain(g.bias_table.iter_mut().flatten())
            {
                *x = self.round(*x);
            }
        }
        (output, gradients)
    }

    fn head(
        &self,
        seq: &Sequence,
        head: usize,
        grad_out: Option<&[f64]>,
        output: &mut Output<f64>,
        mut gradients: Option<&mut Gradients<f64>>,
    ) {
        let s = &self.problem.shape;
        let (d, head_kv) = (s.head_dim, head / (s.heads_q / s.heads_kv));
        let at_k = |j: usize| ((seq.k + j) * s.heads_kv + head_kv) * d;
        // dK and dV of this head are products of their own, stored before heads are summed.
        let backward = gradients.is_some();
        let mut dk = vec![0.0; if backward { seq.seqlen_k * d } else { 0 }];
        let mut dv = dk.clone();
        for i in 0..seq.seqlen_q {
            let row = self.scores(seq, head, i);
            let at_q = ((seq.q + i) * s.heads_q + head) * d;
            let Some((p, lse)) = softmax(self.dtype, &row.scores) else {
                continue;
            };
            output.lse[self.lse_at(seq, head, i)] = lse;
            let out = &mut output.out[at_q..at_q + d];
            for (&j, &p) in row.keys.iter().zip(&p) {
                add_scaled(out, p, &self.inputs.v[at_k(j)..][..d]);
            }
            out.iter_mut().for_each(|x| *x = self.round(*x));

            let (Some(go), Some(g)) = (grad_out, gradients.as_deref_mut()) else {
                continue;
            };
            let go = &go[at_q..at_q + d];
            let dp: Vec<f64> = row
                .keys
                .iter()
                .map(|&j| self.round(dot(go, &self.inputs.v[at_k(j)..][..d])))
                .collect();
            let delta = dot(&p, &dp);
            let dq = &mut g.q[at_q..at_q + d];
            for (n, &j) in row.keys.iter().enumerate() {
                let ds = self.round(p[n] * (dp[n] - delta));
                add_scaled(&mut dv[j * d..][..d], p[n], go);
                let dqk = self.through_scale(ds, row.tanh[n]);
                add_scaled(dq, dqk, &self.inputs.k[at_k(j)..][..d]);
                add_scaled(&mut dk[j * d..][..d], dqk, &self.inputs.q[at_q..at_q + d]);
                if let (Some(sum), Some(at)) = (&mut g.bias_table, self.bucket_at(seq, head, i, j))
                {
                    sum[at] += ds;
                }
                if let (Some(sum), Some(at)) = (&mut g.bias, self.bias_at(seq, head, i)) {
                    sum[at + j] += ds;
                }
            }
            dq.iter_mut().for_each(|x| *x = self.round(*x));
        }
        if let Some(g) = gradients {
            for (sum, head) in [(&mut g.k, dk), (&mut g.v, dv)] {
                for j in 0..seq.seqlen_k {
                    let rows = sum[at_k(j)..][..d].iter_mut().zip(&head[j * d..]);
                    rows.for_each(|(sum, &x)| *sum += self.round(x));
                }
            }
        }
    }

    fn scores(&self, seq: &Sequence, head: usize, i: usize) -> Row {
        let (s, x) = (&self.problem.shape, &self.inputs);
        let (d, head_kv) = (s.head_dim, head / (s.heads_q / s.heads_kv));
        let q = &x.q[((seq.q + i) * s.heads_q + head) * d..][..d];
        let valid = |j: usize| match &x.key_valid {
            Some(mask) => mask[seq.batch * s.seqlen_k + j] != 0,
            None => true,
        };
        let bias = self.bias_at(seq, head, i);
        let window = self.problem.mask().keys(i, seq.seqlen_q, seq.seqlen_k);
        let keys: Vec<usize> = window.filter(|&j| valid(j)).collect();
        let (mut scores, mut tanh) = (Vec::new(), Vec::new());
        for &j in &keys {
            let k = &x.k[((seq.k + j) * s.heads_kv + head_kv) * d..][..d];
            let mut score = self.round(self.problem.softmax_scale * dot(q, k));
            let mut t = 0.0;
            if self.problem.softcap > 0.0 {
                t = self.round(self.round(score / self.problem.softcap).tanh());
                score = self.round(t * self.problem.softcap);
            }
            if let Some(slopes) = &x.alibi_slopes {
                let distance = (i + seq.seqlen_k) as f64 - (seq.seqlen_q + j) as f64;
                score = self.round(score - slopes[head] * distance.abs());
            }
            if let (Some(bias), Some(at)) = (&x.bias, bias) {
                score = self.round(score + bias[at + j]);
            }
            if let (Some(table), Some(at)) = (&x.bias_table, self.bucket_at(seq, head, i, j)) {
                score = self.round(score + table[at]);
            }
            scores.push(score);
            tanh.push(t);
        }
        Row { keys, scores, tanh }
    }

    /// From the gradient of a score to that of `q·k`: back through the softcap and the scale.
    fn through_scale(&self, ds: f64, tanh: f64) -> f64 {
        let mut x = ds;
        if self.problem.softcap > 0.0 {
            x = self.round(x * self.problem.softcap);
            x = self.round(x * (1.0 - tanh * tanh));
            x = self.round(x / self.problem.softcap);
        }
        self.round(x * self.problem.softmax_scale)
    }

    fn sequences(&self) -> Vec<Sequence> {
        let s = &self.problem.shape;
        let sequence = |batch: usize| match (&self.inputs.cu_seqlens_q, &self.inputs.cu_seqlens_k) {
            (Some(q), Some(k)) => {
                let [q0, q1, k0, k1] =
                    [q[batch], q[batch + 1], k[batch], k[batch + 1]].map(|x| x as usize);
                Sequence { batch, q: q0, k: k0, seqlen_q: q1 - q0, seqlen_k: k1 - k0 }
            }
            _ => Sequence {
                batch,
                q: batch * s.seqlen_q,
                k: batch * s.seqlen_k,
                seqlen_q: s.seqlen_q,
                seqlen_k: s.seqlen_k,
            },
        };
        if s.seqlen_q == 0 {
            return Vec::new();
        }
        (0..s.batch).map(sequence).filter(|seq| seq.seqlen_q > 0).collect()
    }

    fn lse_at(&self, seq: &Sequence, head: usize, i: usize) -> usize {
        match self.problem.ragged {
            Some(r) => head * r.total_q + seq.q + i,
            None => (seq.batch * self.problem.shape.heads_q + head) * seq.seqlen_q + i,
        }
    }

    /// The place of a pair's bias in the table of buckets.
    fn bucket_at(&self, seq: &Sequence, head: usize, i: usize, j: usize) -> Option<usize> {
        let past = (i + seq.seqlen_k) as i64 - (seq.seqlen_q + j) as i64;
        Some(self.problem.buckets?.bucket(past) * self.problem.shape.heads_q + head)
    }

    /// Where row `i` of the bias begins.
    fn bias_at(&self, seq: &Sequence, head: usize, i: usize) -> Option<usize> {
        let bias = self.problem.bias.as_ref()?;
        let [_, heads, seqlen_q, seqlen_k] = self.problem.bias_dims(bias);
        let b = if bias.per_batch { seq.batch } else { 0 };
        let h = if bias.per_head { head } else { 0 };
        Some(((b * heads + h) * seqlen_q + i) * seqlen_k)
    }
}

/// Stored probabilities and the lse of a row, or `None` if there is nothing to attend.
pub(crate) fn softmax(dtype: DType, scores: &[f64]) -> Option<(Vec<f64>, f64)> {
    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if most == f64::NEG_INFINITY && !scores.iter().any(|s| s.is_nan()) {
        return None;
    }
    let sum: f64 = scores.iter().map(|s| (s - most).exp()).sum();
    let p = scores.iter().map(|s| dtype.round((s - most).exp() / sum));
    Some((p.collect(), most + sum.ln()))
}

pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

pub(crate) fn add_scaled(sum: &mut [f64], factor: f64, x: &[f64]) {
    for (sum, &x) in sum.iter_mut().zip(x) {
        *sum += factor * x;
    }
}
