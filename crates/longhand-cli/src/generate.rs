//! Inputs for problems that no file gives: the same numbers on every machine.

use crate::failure::{Failure, Result};
use crate::full_file::{FullFile, OwnedInputs};
use crate::longformer_file::{LongformerFile, LongformerInputs};
use crate::lsh_file::{LshFile, LshInputs};
use crate::problem_file::ProblemFile;
use crate::transformer_xl_file::RelativeFile;
use crate::transformer_xl_inputs::RelativeInputs;
use longhand::random::split_mix;
use longhand::{Full, Longformer, Lsh, TransformerXl};
use std::collections::BTreeMap;

/// The most that generated inputs may take.
const MOST_BYTES: u64 = 8 << 30;

/// A problem of full attention with inputs of its own, that expects nothing.
pub fn full(problem: &Full) -> Result<ProblemFile> {
    Ok(ProblemFile::Full(FullFile {
        name: "generated".to_owned(),
        op: if problem.buckets.is_some() { "t5_bias" } else { "full" },
        problem: *problem,
        inputs: inputs(problem)?,
        grad_out: None,
        expected: BTreeMap::new(),
        tolerance: None,
    }))
}

/// A problem of Longformer's attention with inputs of its own and as many globals as it allows,
/// spread evenly.
pub fn longformer(problem: &Longformer) -> Result<ProblemFile> {
    problem.validate()?;
    let elements = problem.span(&problem.layout.q);
    let tensors = if problem.has_global_tensors() { 6 } else { 3 };
    fits(elements as u64 * tensors * 4)?;
    let globals = problem.max_globals;
    let row: Vec<i32> =
        (0..globals).map(|n| (n * problem.seqlen / globals.max(1)) as i32).collect();
    let own = |seed| problem.has_global_tensors().then(|| normal(seed, elements));
    Ok(ProblemFile::Longformer(LongformerFile {
        name: "generated".to_owned(),
        problem: problem.clone(),
        inputs: LongformerInputs {
            q: normal(1, elements),
            k: normal(2, elements),
            v: normal(3, elements),
            q_global: own(4),
            k_global: own(5),
            v_global: own(6),
            global_indices: (globals > 0).then(|| row.repeat(problem.batch)),
            key_valid: None,
        },
        grad_out: None,
        expected: BTreeMap::new(),
        tolerance: None,
    }))
}

/// A problem of LSH attention with inputs and rotations of its own.
pub fn lsh(problem: &Lsh) -> Result<ProblemFile> {
    problem.validate()?;
    let elements = problem.span(&problem.layout.qk);
    let rotations = if problem.is_hashed() { problem.rotations_len() } else { 0 };
    fits((elements as u64 * 2 + rotations as u64).saturating_mul(4))?;
    let rotations = problem.is_hashed().then(|| problem.rotations(3));
    let inputs = LshInputs {
        qk: normal(1, elements),
        v: normal(2, elements),
        rotations,
        ..LshInputs::default()
    };
    Ok(ProblemFile::Lsh(LshFile {
        name: "generated".to_owned(),
        problem: problem.clone(),
        inputs,
        grad_out: None,
        expected: BTreeMap::new(),
        tolerance: None,
    }))
}

/// A problem of op `op`, with relative positions and inputs of its own.
pub fn relative(op: &'static str, problem: &TransformerXl) -> Result<ProblemFile> {
    problem.validate()?;
    let spans = ["q", "k", "v", "r"].map(|name| problem.span(name));
    fits(spans.iter().map(|&n| n as u64).fold(0, u64::saturating_add).saturating_mul(4))?;
    let [q, k, v, r] = spans;
    let of_heads = problem.shape.heads_q * problem.shape.head_dim;
    let (s, segment) = (problem.shape, problem.segment_len());
    // Spread evenly.
    let targets: Vec<i32> = (0..s.seqlen_q).map(|n| (n * segment / s.seqlen_q) as i32).collect();
    // Two segments, a quarter of the pairs masked, the last key padding.
    let segments = |len: usize| (0..s.batch * len).map(|n| i32::from(n % len >= len / 2)).collect();
    let word = |n: usize| (split_mix(9, n as u64) & split_mix(10, n as u64)) as u32;
    let words = s.batch * segment * problem.perm_words();
    let valid = |n: usize| u8::from(!(n + 1).is_multiple_of(s.seqlen_k) || s.seqlen_k == 1);
    Ok(ProblemFile::from(RelativeFile {
        name: "generated".to_owned(),
        op,
        problem: *problem,
        targets_g: None,
        inputs: RelativeInputs {
            q: normal(1, q),
            k: normal(2, k),
            v: normal(3, v),
            r: normal(4, r),
            bias_u: normal(5, of_heads),
            bias_v: normal(6, of_heads),
            targets: problem.targets.map(|_| targets.repeat(s.batch)),
            bias_s: problem.segments.then(|| normal(7, of_heads)),
            seg_embed: problem.segments.then(|| normal(8, 2 * of_heads)),
            seg_q: problem.segments.then(|| segments(segment)),
            seg_k: problem.segments.then(|| segments(s.seqlen_k)),
            perm_mask: problem.perm_mask.then(|| (0..words).map(word).collect()),
            key_valid: problem.key_padding.then(|| (0..s.batch * s.seqlen_k).map(valid).collect()),
            ..RelativeInputs::default()
        },
        grad_out: None,
        expected: BTreeMap::new(),
        tolerance: None,
    }))
}

fn fits(bytes: u64) -> Result<()> {
    if bytes > MOST_BYTES {
        let message = format!("the inputs would take {bytes} bytes: must be at most {MOST_BYTES}");
        return Err(Failure::input(message));
    }
    Ok(())
}

/// Roughly normal `q`, `k`, `v` of 8 significant bits (exact in every dtype) and ALiBi's usual
/// slopes. Bias, key padding and ragged batches are not generated.
pub fn inputs(problem: &Full) -> Result<OwnedInputs<f32>> {
    problem.validate()?;
    let [q, k, v, _] = problem.spans();
    let bytes = [q, k, v].iter().map(|&n| n as u64).fold(0, u64::saturating_add).saturating_mul(4);
    fits(bytes)?;
    let heads = problem.shape.heads_q;
    let slope = |h: usize| 2f32.powf(-8.0 * (h + 1) as f32 / heads as f32);
    Ok(OwnedInputs {
        q: normal(1, q),
        k: normal(2, k),
        v: normal(3, v),
        alibi_slopes: problem.alibi.then(|| (0..heads).map(slope).collect()),
        bias_table: problem.buckets.map(|b| normal(4, b.num_buckets * heads)),
        ..OwnedInputs::default()
    })
}

/// `len` numbers of mean 0 and variance 1: sums of eight uniform bytes, in steps of 1/32.
fn normal(seed: u64, len: usize) -> Vec<f32> {
    let number = |x: u64| {
        let sum: u32 = x.to_le_bytes().iter().map(|&b| u32::from(b)).sum();
        // Mean 1020, standard deviation 209.
        ((sum as f32 - 1020.0) / 209.0 * 32.0).round() / 32.0
    };
    (0..len as u64).map(|n| number(split_mix(seed, n))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_numbers_are_normal_and_exact_in_every_dtype() {
        let x = normal(1, 10_000);
        let mean = x.iter().sum::<f32>() / 1e4;
        let variance = x.iter().map(|x| x * x).sum::<f32>() / 1e4;
        assert!(mean.abs() < 0.05 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
        for dtype in [longhand::DType::F16, longhand::DType::BF16] {
            assert!(x.iter().all(|&x| dtype.round(x.into()) == f64::from(x)));
        }
    }
}
