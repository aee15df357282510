//! Problem files of op `lsh`.

use crate::container::{Container, Tensor};
use crate::failure::{Failure, Result};
use crate::params::{LshParams, read_lsh_params};
use crate::problem_file::{
    bytes_of, expect, expected_of, floats, in_words_of_the_file, ints, metadata, stored_as,
    tolerance,
};
use crate::results::Results;
use longhand::lsh::{Gradients, Inputs, Output};
use longhand::{DType, Lsh, Real};
use std::collections::BTreeMap;

/// The inputs of a problem, contiguous.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LshInputs<T> {
    /// `[batch, seqlen, heads, head_dim]`.
    pub qk: Vec<T>,
    /// As `qk`.
    pub v: Vec<T>,
    /// `[heads, head_dim, num_hashes, columns]`; a file has one tensor to a factor.
    pub rotations: Option<Vec<T>>,
    /// `[batch, heads, num_hashes, seqlen]`.
    pub buckets: Option<Vec<i32>>,
    /// `[batch, seqlen]`, 0 or 1.
    pub key_valid: Option<Vec<u8>>,
}

impl<T> LshInputs<T> {
    /// The same, borrowed, as the library takes them.
    pub fn as_inputs(&self) -> Inputs<'_, T> {
        Inputs {
            qk: &self.qk,
            v: &self.v,
            rotations: self.rotations.as_deref(),
            buckets: self.buckets.as_deref(),
            key_valid: self.key_valid.as_deref(),
        }
    }
}

impl LshInputs<f32> {
    /// What a device that stores `dtype` holds. Rotations are f32 on every device.
    pub fn stored_as<T: From<f32>>(&self, dtype: DType) -> LshInputs<T> {
        let rotations = self.rotations.as_ref().map(|x| stored_as(x, DType::F32));
        LshInputs {
            qk: stored_as(&self.qk, dtype),
            v: stored_as(&self.v, dtype),
            rotations,
            buckets: self.buckets.clone(),
            key_valid: self.key_valid.clone(),
        }
    }
}

/// One problem of LSH attention, read from a file and checked.
#[derive(Debug, Clone, PartialEq)]
pub struct LshFile {
    /// Name for messages: the path as given.
    pub name: String,
    /// What to compute; its dtype is f32 until a command sets another.
    pub problem: Lsh,
    /// Inputs of the forward pass.
    pub inputs: LshInputs<f32>,
    /// Upstream gradient of `out`, as `v`.
    pub grad_out: Option<Vec<f32>>,
    /// What the file says the results are, under their names without `expected.`.
    pub expected: BTreeMap<String, Tensor>,
    /// The fixture's own error.
    pub tolerance: Option<f64>,
}

const NAMES: [&str; 5] = ["qk", "v", "buckets", "key_valid", "grad.out"];

/// Reads the problem in `file`, called `name`.
pub(crate) fn parse(name: &str, file: &Container<'_>, with_expected: bool) -> Result<LshFile> {
    let p = read_lsh_params(metadata(file, "params")?)?;
    let factors = rotation_names(&p);
    for tensor in file.names() {
        let known = NAMES.contains(&tensor.as_str()) || factors.contains(&tensor);
        if !known && !tensor.starts_with("expected.") {
            let message = format!(
                "tensor '{tensor}': this problem has none of that name; it has {}, {} and expected.*",
                NAMES.join(", "),
                factors.join(", ")
            );
            return Err(Failure::input(message));
        }
    }
    let problem = problem_of(file, &p)?;
    let optional = |name: &str| match file.info(name) {
        Some(_) => floats(file, name).map(Some),
        None => Ok(None),
    };
    let given = problem.is_sorted() && problem.buckets_given;
    let inputs = LshInputs {
        qk: floats(file, "qk")?,
        v: floats(file, "v")?,
        rotations: problem.is_hashed().then(|| rotations(file, &problem, &factors)).transpose()?,
        buckets: given.then(|| ints(file, "buckets")).transpose()?,
        key_valid: problem.key_padding.then(|| bytes_of(file, "key_valid")).transpose()?,
    };
    let grad_out = optional("grad.out")?;
    problem.validate_inputs(&inputs.as_inputs()).map_err(in_words_of_the_file)?;
    let mut read = LshFile {
        name: name.to_owned(),
        problem,
        inputs,
        grad_out,
        expected: BTreeMap::new(),
        tolerance: tolerance(file)?,
    };
    if with_expected {
        read.expected = expected_of(file, &|name| read.result_shape(name))?;
    }
    Ok(read)
}

/// The names of the rotations' tensors: `rotations`, or one for each of several factors.
fn rotation_names(p: &LshParams) -> Vec<String> {
    match p.num_buckets.len() {
        0 | 1 => vec!["rotations".to_owned()],
        n => (0..n).map(|f| format!("rotations.{f}")).collect(),
    }
}

fn problem_of(file: &Container<'_>, p: &LshParams) -> Result<Lsh> {
    let shape = [p.batch, p.seqlen, p.heads, p.head_dim];
    let mut problem = Lsh {
        causal: p.causal,
        duplicates_once: p.duplicates_once,
        key_norm_eps: p.key_norm_eps,
        self_mask_value: p.self_mask_value,
        mask_value: p.mask_value,
        ..Lsh::new(shape, p.chunk_len, p.num_hashes, DType::F32)
            .num_buckets(&p.num_buckets)
            .chunks(p.chunks_before, p.chunks_after)
            .wrap(p.wrap)
            .softmax_scale(p.scale)
    };
    let dims = shape.map(Some);
    let rule = "[batch, seqlen, heads, head_dim]";
    expect(file, "qk", "F32", &dims, rule)?;
    expect(file, "v", "F32", &dims, rule)?;
    if file.info("grad.out").is_some() {
        expect(file, "grad.out", "F32", &dims, "as v")?;
    }
    if file.info("key_valid").is_some() {
        let dims = [Some(p.batch), Some(p.seqlen)];
        expect(file, "key_valid", "U8", &dims, "[batch, seqlen]")?;
        problem.key_padding = true;
    }
    if file.info("buckets").is_some() {
        let dims = [p.batch, p.heads, p.num_hashes, p.seqlen].map(Some);
        expect(file, "buckets", "I32", &dims, "[batch, heads, num_hashes, seqlen]")?;
        problem.buckets_given = true;
    }
    problem.validate().map_err(in_words_of_the_file)?;
    Ok(problem)
}

/// The tensors of all factors as one: columns of the first, then of the second, …
fn rotations(file: &Container<'_>, p: &Lsh, names: &[String]) -> Result<Vec<f32>> {
    let rows = p.heads * p.head_dim * p.num_hashes;
    let mut all = vec![0.0; rows * p.columns()];
    let mut first = 0;
    for (name, factor) in names.iter().zip(&p.num_buckets) {
        let columns = factor / 2;
        let dims = [p.heads, p.head_dim, p.num_hashes, columns].map(Some);
        expect(file, name, "F32", &dims, "[heads, head_dim, num_hashes, num_buckets / 2]")?;
        let from = floats(file, name)?;
        for (to, from) in all.chunks_exact_mut(p.columns()).zip(from.chunks_exact(columns)) {
            to[first..first + columns].copy_from_slice(from);
        }
        first += columns;
    }
    Ok(all)
}

impl LshFile {
    /// Sizes of a result called `name`, or `None` if the problem has no such result.
    pub fn result_shape(&self, name: &str) -> Option<Vec<usize>> {
        let p = &self.problem;
        match name {
            "out" | "grad.qk" | "grad.v" => Some(vec![p.batch, p.seqlen, p.heads, p.head_dim]),
            "lse" => Some(vec![p.batch, p.heads, p.seqlen]),
            "lse_rounds" | "buckets" if p.is_sorted() => {
                Some(vec![p.batch, p.heads, p.num_hashes, p.seqlen])
            }
            _ => None,
        }
    }

    /// By the definition, in `T`, on inputs stored as `dtype`.
    pub fn reference<T: Real + From<f32> + Into<f64>>(
        &self,
        dtype: DType,
        backward: bool,
    ) -> Result<Results> {
        let inputs = self.inputs.stored_as::<T>(dtype);
        let output = self.problem.reference(&inputs.as_inputs())?;
        let gradients = match self.grad_out.as_ref().filter(|_| backward) {
            Some(g) => {
                let g = stored_as::<T>(g, dtype);
                Some(self.problem.reference_backward(&inputs.as_inputs(), &g)?)
            }
            None => None,
        };
        Ok(self.results(&output, gradients.as_ref()))
    }

    /// Names the parts of a result. Where nothing is sorted there are no rounds to tell of.
    pub fn results<T: Into<f64> + Copy>(
        &self,
        output: &Output<T>,
        gradients: Option<&Gradients<T>>,
    ) -> Results {
        let numbers = |x: &[T]| x.iter().map(|&x| x.into()).collect();
        let mut results = Results::from([
            ("out".to_owned(), numbers(&output.out)),
            ("lse".to_owned(), numbers(&output.lse)),
        ]);
        if self.problem.is_sorted() {
            let buckets = output.buckets.iter().map(|&b| f64::from(b)).collect();
            results.insert("lse_rounds".to_owned(), numbers(&output.lse_rounds));
            results.insert("buckets".to_owned(), buckets);
        }
        if let Some(g) = gradients {
            results.insert("grad.qk".to_owned(), numbers(&g.qk));
            results.insert("grad.v".to_owned(), numbers(&g.v));
        }
        results
    }
}
