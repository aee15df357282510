//! Problem files of op `longformer`.

use crate::container::{Container, Tensor};
use crate::failure::{Failure, Result};
use crate::params::{LongformerParams, read_longformer_params};
use crate::problem_file::{
    bytes_of, expect, expected_of, floats, in_words_of_the_file, ints, metadata, stored_as,
    tolerance,
};
use crate::results::Results;
use longhand::longformer::{Gradients, Inputs, Output};
use longhand::{DType, Longformer, Real};
use std::collections::BTreeMap;

/// The inputs of a problem, contiguous.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LongformerInputs<T> {
    /// `[batch, seqlen, heads, head_dim]`.
    pub q: Vec<T>,
    /// As `q`.
    pub k: Vec<T>,
    /// As `q`.
    pub v: Vec<T>,
    /// As `q`.
    pub q_global: Option<Vec<T>>,
    /// As `q`.
    pub k_global: Option<Vec<T>>,
    /// As `q`.
    pub v_global: Option<Vec<T>>,
    /// `[batch, max_globals]`.
    pub global_indices: Option<Vec<i32>>,
    /// `[batch, seqlen]`, 0 or 1.
    pub key_valid: Option<Vec<u8>>,
}

impl<T> LongformerInputs<T> {
    /// The same, borrowed, as the library takes them.
    pub fn as_inputs(&self) -> Inputs<'_, T> {
        Inputs {
            q: &self.q,
            k: &self.k,
            v: &self.v,
            q_global: self.q_global.as_deref(),
            k_global: self.k_global.as_deref(),
            v_global: self.v_global.as_deref(),
            global_indices: self.global_indices.as_deref(),
            key_valid: self.key_valid.as_deref(),
        }
    }
}

impl LongformerInputs<f32> {
    /// What a device that stores `dtype` holds.
    pub fn stored_as<T: From<f32>>(&self, dtype: DType) -> LongformerInputs<T> {
        let stored = |x: &Option<Vec<f32>>| x.as_ref().map(|x| stored_as(x, dtype));
        LongformerInputs {
            q: stored_as(&self.q, dtype),
            k: stored_as(&self.k, dtype),
            v: stored_as(&self.v, dtype),
            q_global: stored(&self.q_global),
            k_global: stored(&self.k_global),
            v_global: stored(&self.v_global),
            global_indices: self.global_indices.clone(),
            key_valid: self.key_valid.clone(),
        }
    }
}

/// One problem of Longformer's attention, read from a file and checked.
#[derive(Debug, Clone, PartialEq)]
pub struct LongformerFile {
    /// Name for messages: the path as given.
    pub name: String,
    /// What to compute; its dtype is f32 until a command sets another.
    pub problem: Longformer,
    /// Inputs of the forward pass.
    pub inputs: LongformerInputs<f32>,
    /// Upstream gradient of `out`, as `q`.
    pub grad_out: Option<Vec<f32>>,
    /// What the file says the results are, under their names without `expected.`.
    pub expected: BTreeMap<String, Tensor>,
    /// The fixture's own error.
    pub tolerance: Option<f64>,
}

const GLOBALS: [&str; 3] = ["q_global", "k_global", "v_global"];
const NAMES: [&str; 9] =
    ["q", "k", "v", "q_global", "k_global", "v_global", "global_indices", "key_valid", "grad.out"];

/// Reads the problem in `file`, called `name`.
pub(crate) fn parse(
    name: &str,
    file: &Container<'_>,
    with_expected: bool,
) -> Result<LongformerFile> {
    let p = read_longformer_params(metadata(file, "params")?)?;
    for tensor in file.names() {
        if !NAMES.contains(&tensor.as_str()) && !tensor.starts_with("expected.") {
            let message = format!(
                "tensor '{tensor}': op 'longformer' has none of that name; it has {} and expected.*",
                NAMES.join(", ")
            );
            return Err(Failure::input(message));
        }
    }
    let problem = problem_of(file, &p)?;
    let optional = |name: &str| match file.info(name) {
        Some(_) => floats(file, name).map(Some),
        None => Ok(None),
    };
    let own = |name: &str| if problem.has_global_tensors() { optional(name) } else { Ok(None) };
    let inputs = LongformerInputs {
        q: floats(file, "q")?,
        k: floats(file, "k")?,
        v: floats(file, "v")?,
        q_global: own("q_global")?,
        k_global: own("k_global")?,
        v_global: own("v_global")?,
        global_indices: (problem.max_globals > 0)
            .then(|| ints(file, "global_indices"))
            .transpose()?,
        key_valid: problem.key_padding.then(|| bytes_of(file, "key_valid")).transpose()?,
    };
    let grad_out = optional("grad.out")?;
    problem.validate_inputs(&inputs.as_inputs()).map_err(in_words_of_the_file)?;
    let mut read = LongformerFile {
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

fn problem_of(file: &Container<'_>, p: &LongformerParams) -> Result<Longformer> {
    let shape = [p.batch, p.seqlen, p.heads, p.head_dim];
    let mut problem = Longformer::new(shape, 0, DType::F32)
        .window(p.window.0, p.window.1)
        .dilation(&p.dilation)
        .softmax_scale(p.scale);
    problem.causal = p.causal;
    let dims = shape.map(Some);
    let rule = "[batch, seqlen, heads, head_dim]";
    for name in ["q", "k", "v"] {
        expect(file, name, "F32", &dims, rule)?;
    }
    let given = GLOBALS.map(|name| file.info(name).is_some());
    for (name, given) in GLOBALS.iter().zip(given) {
        if given {
            expect(file, name, "F32", &dims, rule)?;
        }
    }
    if file.info("grad.out").is_some() {
        expect(file, "grad.out", "F32", &dims, "as q")?;
    }
    if file.info("global_indices").is_some() {
        let dims = expect(file, "global_indices", "I32", &[Some(p.batch), None], "[batch, g]")?;
        problem.max_globals = dims[1];
    }
    // Without tensors of their own the global rows use the local ones.
    problem.shared_projections = given == [false; 3];
    if file.info("key_valid").is_some() {
        let dims = [Some(p.batch), Some(p.seqlen)];
        expect(file, "key_valid", "U8", &dims, "[batch, seqlen]")?;
        problem.key_padding = true;
    }
    Ok(problem)
}

impl LongformerFile {
    /// Sizes of a result called `name`, or `None` if the problem has no such result. A file that
    /// gives global tensors has their gradients, zero where there are no globals.
    pub fn result_shape(&self, name: &str) -> Option<Vec<usize>> {
        let p = &self.problem;
        let own = !p.shared_projections;
        match name {
            "out" | "grad.q" | "grad.k" | "grad.v" => {
                Some(vec![p.batch, p.seqlen, p.heads, p.head_dim])
            }
            "grad.q_global" | "grad.k_global" | "grad.v_global" if own => {
                Some(vec![p.batch, p.seqlen, p.heads, p.head_dim])
            }
            "lse" => Some(vec![p.batch, p.heads, p.seqlen]),
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

    /// Names the parts of a result.
    pub fn results<T: Into<f64> + Copy>(
        &self,
        output: &Output<T>,
        gradients: Option<&Gradients<T>>,
    ) -> Results {
        let mut results = Results::new();
        let mut put = |name: &str, x: &[T]| {
            results.insert(name.to_owned(), x.iter().map(|&x| x.into()).collect());
        };
        put("out", &output.out);
        put("lse", &output.lse);
        if let Some(g) = gradients {
            put("grad.q", &g.q);
            put("grad.k", &g.k);
            put("grad.v", &g.v);
            for (name, x) in [
                ("grad.q_global", &g.q_global),
                ("grad.k_global", &g.k_global),
                ("grad.v_global", &g.v_global),
            ] {
                if let Some(x) = x {
                    put(name, x);
                }
            }
        }
        if gradients.is_some()
            && !self.problem.shared_projections
            && !self.problem.has_global_tensors()
        {
            for name in GLOBALS {
                results.insert(format!("grad.{name}"), vec![0.0; self.inputs.q.len()]);
            }
        }
        results
    }
}
