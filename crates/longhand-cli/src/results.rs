//! Results under the names that files give them.

use crate::container::{Tensor, Values};
use crate::full_file::{FullFile, OwnedInputs};
use crate::problem_file::ProblemFile;
use longhand::full::{Gradients, Output};
use longhand::{DType, Full};
use std::collections::BTreeMap;

/// `out`, `lse`, `grad.q`, … and their numbers, contiguous.
pub type Results = BTreeMap<String, Vec<f64>>;

/// Names the parts of a result. What a device stores as `dtype` (all but `lse` and the bias's
/// gradient, which are f32) is rounded to it.
pub fn from_parts<T: Into<f64> + Copy>(
    file: &FullFile,
    output: &Output<T>,
    gradients: Option<&Gradients<T>>,
    dtype: DType,
) -> Results {
    let mut results = Results::new();
    if let Some(table) = bucket_table(&file.problem) {
        results.insert("bucket_table".to_owned(), table);
    }
    let mut put = |name: &str, x: &[T], dtype: DType| {
        let x = x.iter().map(|&x| dtype.round(x.into())).collect();
        results.insert(name.to_owned(), x);
    };
    put("out", &output.out, dtype);
    put("lse", &output.lse, DType::F32);
    if let Some(g) = gradients {
        put("grad.q", &g.q, dtype);
        put("grad.k", &g.k, dtype);
        put("grad.v", &g.v, dtype);
        if let (Some(bias), true) = (&g.bias, file.inputs.bias.is_some()) {
            put("grad.bias", bias, DType::F32);
        }
        if let Some(table) = &g.bias_table {
            put("grad.bias_table", table, DType::F32);
        }
    }
    results
}

/// The results as the tensors of a file, floats as F32, buckets as I32.
pub fn to_tensors(file: &ProblemFile, results: &Results) -> BTreeMap<String, Tensor> {
    let tensor = |name: &String, x: &Vec<f64>| Tensor {
        shape: file.result_shape(name).unwrap_or(vec![x.len()]),
        values: match name.as_str() {
            "buckets" | "bucket_table" => Values::I32(x.iter().map(|&x| x as i32).collect()),
            _ => Values::F32(x.iter().map(|&x| x as f32).collect()),
        },
    };
    results.iter().map(|(name, x)| (name.clone(), tensor(name, x))).collect()
}

/// Sizes of a result called `name`, or `None` if the op has no such result.
pub fn result_shape(problem: &Full, inputs: &OwnedInputs<f32>, name: &str) -> Option<Vec<usize>> {
    let s = &problem.shape;
    let rows = |rows: usize, heads: usize| match problem.ragged {
        Some(_) => vec![rows, heads, s.head_dim],
        None => vec![s.batch, rows, heads, s.head_dim],
    };
    match name {
        "out" | "grad.q" => Some(rows(problem.rows_q(), s.heads_q)),
        "grad.k" | "grad.v" => Some(rows(problem.rows_k(), s.heads_kv)),
        "lse" if problem.ragged.is_some() => Some(vec![s.heads_q, problem.rows_q()]),
        "lse" => Some(vec![s.batch, s.heads_q, s.seqlen_q]),
        "grad.bias" if inputs.bias.is_some() => {
            problem.bias.map(|b| problem.bias_dims(&b).to_vec())
        }
        "bucket_table" if problem.buckets.is_some() => {
            Some(vec![(2 * s.seqlen_k).saturating_sub(1)])
        }
        "grad.bias_table" => problem.buckets.map(|b| vec![b.num_buckets, s.heads_q]),
        _ => None,
    }
}

/// The bucket of each distance from the farthest key in the past to the farthest in the future.
pub fn bucket_table(problem: &Full) -> Option<Vec<f64>> {
    let buckets = problem.buckets?;
    let farthest = problem.shape.seqlen_k as i64 - 1;
    Some((-farthest..=farthest).map(|d| buckets.bucket(-d) as f64).collect())
}
