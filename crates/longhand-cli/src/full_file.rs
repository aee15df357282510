//! Problem files of the ops `full` and `t5_bias`.

use crate::container::{Container, Tensor};
use crate::failure::{Failure, Result};
use crate::params::{Params, read_params, read_t5_params};
use crate::problem_file::{
    bytes_of, expect, expected_of, floats, in_words_of_the_file, ints, metadata, stored_as,
    tolerance,
};
use crate::results::result_shape;
use longhand::full::{Bias, Inputs, Ragged};
use longhand::{DType, Full};
use std::collections::BTreeMap;

/// The inputs of a problem, contiguous.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OwnedInputs<T> {
    /// `[batch, seqlen_q, heads_q, head_dim]`, or `[total_q, heads_q, head_dim]`.
    pub q: Vec<T>,
    /// `[batch, seqlen_k, heads_kv, head_dim]`, or `[total_k, heads_kv, head_dim]`.
    pub k: Vec<T>,
    /// As `k`.
    pub v: Vec<T>,
    /// `[heads_q]`.
    pub alibi_slopes: Option<Vec<T>>,
    /// `[batch or 1, heads_q or 1, seqlen_q, seqlen_k]`.
    pub bias: Option<Vec<T>>,
    /// `[num_buckets, heads_q]`.
    pub bias_table: Option<Vec<T>>,
    /// `[batch, seqlen_k]`, 0 or 1.
    pub key_valid: Option<Vec<u8>>,
    /// `[batch + 1]`.
    pub cu_seqlens_q: Option<Vec<i32>>,
    /// `[batch + 1]`.
    pub cu_seqlens_k: Option<Vec<i32>>,
}

impl<T> OwnedInputs<T> {
    /// The same, borrowed, as the library takes them.
    pub fn as_inputs(&self) -> Inputs<'_, T> {
        Inputs {
            q: &self.q,
            k: &self.k,
            v: &self.v,
            alibi_slopes: self.alibi_slopes.as_deref(),
            bias: self.bias.as_deref(),
            bias_table: self.bias_table.as_deref(),
            key_valid: self.key_valid.as_deref(),
            cu_seqlens_q: self.cu_seqlens_q.as_deref(),
            cu_seqlens_k: self.cu_seqlens_k.as_deref(),
        }
    }
}

impl OwnedInputs<f32> {
    /// What a device that stores `dtype` holds: `q`, `k`, `v` rounded, the rest (always f32) as
    /// it is.
    pub fn stored_as<T: From<f32>>(&self, dtype: DType) -> OwnedInputs<T> {
        let wide = |x: &Vec<f32>| x.iter().map(|&x| T::from(x)).collect();
        OwnedInputs {
            q: stored_as(&self.q, dtype),
            k: stored_as(&self.k, dtype),
            v: stored_as(&self.v, dtype),
            alibi_slopes: self.alibi_slopes.as_ref().map(wide),
            bias: self.bias.as_ref().map(wide),
            bias_table: self.bias_table.as_ref().map(wide),
            key_valid: self.key_valid.clone(),
            cu_seqlens_q: self.cu_seqlens_q.clone(),
            cu_seqlens_k: self.cu_seqlens_k.clone(),
        }
    }
}

/// One problem of full attention, read from a file and checked.
#[derive(Debug, Clone, PartialEq)]
pub struct FullFile {
    /// Name for messages: the path as given.
    pub name: String,
    /// `full` or `t5_bias`.
    pub op: &'static str,
    /// What to compute; its dtype is f32 until a command sets another.
    pub problem: Full,
    /// Inputs of the forward pass.
    pub inputs: OwnedInputs<f32>,
    /// Upstream gradient of `out`, as `q`.
    pub grad_out: Option<Vec<f32>>,
    /// What the file says the results are, under their names without `expected.`.
    pub expected: BTreeMap<String, Tensor>,
    /// The fixture's own error.
    pub tolerance: Option<f64>,
}

/// Reads the problem in `file`, called `name`, of one of the two ops.
pub(crate) fn parse(
    name: &str,
    op: &'static str,
    file: &Container<'_>,
    with_expected: bool,
) -> Result<FullFile> {
    let params = metadata(file, "params")?;
    let (params, buckets) = match op {
        "t5_bias" => read_t5_params(params).map(|(params, buckets)| (params, Some(buckets)))?,
        _ => (read_params(params)?, None),
    };
    check_names(file, op, &params)?;
    let (mut problem, cu) = problem_of(file, &params)?;
    if let Some(buckets) = buckets {
        problem = problem.buckets(buckets);
        let dims = [Some(buckets.num_buckets), Some(params.shape.heads_q)];
        expect(file, "bias_table", "F32", &dims, "[num_buckets, heads]")?;
    }

    let inputs = OwnedInputs {
        q: floats(file, "q")?,
        k: floats(file, "k")?,
        v: floats(file, "v")?,
        alibi_slopes: problem.alibi.then(|| floats(file, "alibi_slopes")).transpose()?,
        bias: problem.bias.map(|_| floats(file, "bias")).transpose()?,
        bias_table: problem.buckets.map(|_| floats(file, "bias_table")).transpose()?,
        key_valid: problem.key_padding.then(|| bytes_of(file, "key_valid")).transpose()?,
        cu_seqlens_q: cu.as_ref().map(|(q, _)| q.clone()),
        cu_seqlens_k: cu.map(|(_, k)| k),
    };
    let grad_out = match file.info("grad.out") {
        Some(_) => Some(floats(file, "grad.out")?),
        None => None,
    };
    problem.validate_inputs(&inputs.as_inputs()).map_err(in_words_of_the_file)?;
    check_longest(&inputs, &params)?;

    let expected = match with_expected {
        true => expected_of(file, &|name| result_shape(&problem, &inputs, name))?,
        false => BTreeMap::new(),
    };
    let tolerance = tolerance(file)?;
    Ok(FullFile { name: name.to_owned(), op, problem, inputs, grad_out, expected, tolerance })
}

type CuSeqlens = Option<(Vec<i32>, Vec<i32>)>;

/// The problem that the parameters and the tensors' sizes describe, once they agree.
fn problem_of(file: &Container<'_>, p: &Params) -> Result<(Full, CuSeqlens)> {
    let s = p.shape;
    let mut problem =
        Full::new(s, DType::F32).window(p.window).softmax_scale(p.scale).softcap(p.softcap);
    problem.causal = p.causal;
    let cu = if p.varlen {
        let ends = [Some(s.batch + 1)];
        expect(file, "cu_seqlens_q", "I32", &ends, "[batch + 1]")?;
        expect(file, "cu_seqlens_k", "I32", &ends, "[batch + 1]")?;
        let q = [None, Some(s.heads_q), Some(s.head_dim)];
        let k = [None, Some(s.heads_kv), Some(s.head_dim)];
        let total_q = expect(file, "q", "F32", &q, "[total_q, heads_q, head_dim]")?[0];
        let rule = "[total_k, heads_kv, head_dim]";
        let total_k = expect(file, "k", "F32", &k, rule)?[0];
        expect(file, "v", "F32", &[Some(total_k), k[1], k[2]], rule)?;
        problem = problem.ragged(Ragged { total_q, total_k });
        Some((ints(file, "cu_seqlens_q")?, ints(file, "cu_seqlens_k")?))
    } else {
        let q = [s.batch, s.seqlen_q, s.heads_q, s.head_dim].map(Some);
        let k = [s.batch, s.seqlen_k, s.heads_kv, s.head_dim].map(Some);
        let rule = "[batch, seqlen_k, heads_kv, head_dim]";
        expect(file, "q", "F32", &q, "[batch, seqlen_q, heads_q, head_dim]")?;
        expect(file, "k", "F32", &k, rule)?;
        expect(file, "v", "F32", &k, rule)?;
        None
    };
    if file.info("grad.out").is_some() {
        let (_, q) = file.info("q").unwrap_or_default();
        let as_q: Vec<_> = q.into_iter().map(Some).collect();
        expect(file, "grad.out", "F32", &as_q, "as q")?;
    }
    if file.info("alibi_slopes").is_some() {
        expect(file, "alibi_slopes", "F32", &[Some(s.heads_q)], "[heads_q]")?;
        problem = problem.alibi();
    }
    if file.info("key_valid").is_some() && !p.varlen {
        let dims = [Some(s.batch), Some(s.seqlen_k)];
        expect(file, "key_valid", "U8", &dims, "[batch, seqlen_k]")?;
        problem = problem.key_padding();
    }
    if let (Some((_, shape)), false) = (file.info("bias"), p.varlen) {
        // A dimension of 1 broadcasts, also where 1 is the whole of it.
        let is = |n: usize, all: usize| shape.get(n) == Some(&all) && all != 1;
        let bias = Bias { per_batch: is(0, s.batch), per_head: is(1, s.heads_q) };
        let dims = problem.bias_dims(&bias).map(Some);
        let rule = "[batch or 1, heads_q or 1, seqlen_q, seqlen_k]";
        expect(file, "bias", "F32", &dims, rule)?;
        problem = problem.bias(bias);
    }
    Ok((problem, cu))
}

/// Every tensor must have a role in this layout.
fn check_names(file: &Container<'_>, op: &str, p: &Params) -> Result<()> {
    let full = op == "full";
    for name in file.names() {
        let known = match name.as_str() {
            "q" | "k" | "v" | "grad.out" => true,
            "bias_table" => !full,
            "alibi_slopes" => full,
            "bias" | "key_valid" if p.varlen => {
                let message = format!("tensor '{name}': not defined for layout \"varlen\"");
                return Err(Failure::input(message));
            }
            "cu_seqlens_q" | "cu_seqlens_k" if !p.varlen => {
                let message = format!("tensor '{name}': only layout \"varlen\" has it");
                return Err(Failure::input(message));
            }
            "key_valid" => true,
            "bias" | "cu_seqlens_q" | "cu_seqlens_k" => full,
            other => other.starts_with("expected."),
        };
        if !known {
            let others = match full {
                true => "alibi_slopes, bias, key_valid, cu_seqlens_q, cu_seqlens_k",
                false => "bias_table, key_valid",
            };
            let message = format!(
                "tensor '{name}': op '{op}' has none of that name; it has q, k, v, {others}, \
                 grad.out and expected.*"
            );
            return Err(Failure::input(message));
        }
    }
    Ok(())
}

/// `seqlen_q` and `seqlen_k` of a ragged batch are its longest sequences, not a bound of them.
fn check_longest(inputs: &OwnedInputs<f32>, p: &Params) -> Result<()> {
    for (name, ends, said) in [
        ("seqlen_q", &inputs.cu_seqlens_q, p.shape.seqlen_q),
        ("seqlen_k", &inputs.cu_seqlens_k, p.shape.seqlen_k),
    ] {
        let Some(ends) = ends else { continue };
        let longest = ends.windows(2).map(|w| (w[1] - w[0]) as usize).max().unwrap_or(0);
        if longest != said {
            let message =
                format!("params.{name} = {said}: must be the longest sequence, {longest}");
            return Err(Failure::input(message));
        }
    }
    Ok(())
}
