//! Problem files: the `longhand-fixture/1` format.
//!
//! A safetensors file holds one problem: `__metadata__` has `format`, `op` and `params` (a JSON
//! object), the tensors are its inputs, `grad.out` and, in a fixture, `expected.*`. Everything a
//! file says is checked, and every error names the tensor or parameter, its value and the rule.

use crate::container::{Container, Tensor, Values, read_file};
use crate::failure::{Failure, Result};
use crate::full_file::{self, FullFile};
use crate::longformer_file::{self, LongformerFile};
use crate::lsh_file::{self, LshFile};
use crate::transformer_xl_file::{self, RelativeFile};
use crate::transformer_xl_inputs::Stream;
use longhand::{DType, Full, Longformer, Lsh, TransformerXl};
use std::collections::BTreeMap;
use std::path::Path;

/// The format this build reads.
pub const FORMAT: &str = "longhand-fixture/1";

/// Ops that this build computes.
pub const OPS: [&str; 7] =
    ["full", "longformer", "lsh", "transformer_xl", "xlnet", "rel_pos", "t5_bias"];

/// `x` after storage as `dtype`.
pub fn stored_as<T: From<f32>>(x: &[f32], dtype: DType) -> Vec<T> {
    let round = |&x: &f32| T::from(dtype.round(f64::from(x)) as f32);
    x.iter().map(round).collect()
}

/// A problem of any kind, without tensors.
#[derive(Debug, Clone, PartialEq)]
pub enum Problem {
    /// Full attention.
    Full(Full),
    /// Longformer's.
    Longformer(Longformer),
    /// Reformer's.
    Lsh(Lsh),
    /// With relative positions.
    TransformerXl(TransformerXl),
}

impl Problem {
    /// Floating-point operations of a forward pass, as its table counts them.
    pub fn flops(&self) -> f64 {
        match self {
            Problem::Full(p) => p.flops(),
            Problem::Longformer(p) => p.flops(p.max_globals),
            Problem::Lsh(p) => p.flops(),
            Problem::TransformerXl(p) => p.flops(),
        }
    }

    /// Bytes that a forward pass must at least move.
    pub fn bytes(&self) -> f64 {
        match self {
            Problem::Full(p) => p.bytes(),
            Problem::Longformer(p) => p.bytes(),
            Problem::Lsh(p) => p.bytes(),
            Problem::TransformerXl(p) => p.bytes(),
        }
    }
}

/// One problem, read from a file and checked.
#[derive(Debug, Clone, PartialEq)]
pub enum ProblemFile {
    /// Ops `full` and `t5_bias`.
    Full(FullFile),
    /// Op `longformer`.
    Longformer(LongformerFile),
    /// Op `lsh`.
    Lsh(LshFile),
    /// Ops `transformer_xl`, `xlnet` and `rel_pos`.
    Relative(Box<RelativeFile>),
}

impl From<FullFile> for ProblemFile {
    fn from(file: FullFile) -> Self {
        ProblemFile::Full(file)
    }
}

impl From<LongformerFile> for ProblemFile {
    fn from(file: LongformerFile) -> Self {
        ProblemFile::Longformer(file)
    }
}

impl From<LshFile> for ProblemFile {
    fn from(file: LshFile) -> Self {
        ProblemFile::Lsh(file)
    }
}

impl From<RelativeFile> for ProblemFile {
    fn from(file: RelativeFile) -> Self {
        ProblemFile::Relative(Box::new(file))
    }
}

impl ProblemFile {
    /// Reads a problem with its expected results.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        Self::parse(&name, &read_file(path)?, true)
    }

    /// Reads a problem and ignores any expected results.
    pub fn read_inputs(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        Self::parse(&name, &read_file(path)?, false)
    }

    /// Parses the bytes of a file called `name`.
    pub fn parse(name: &str, bytes: &[u8], with_expected: bool) -> Result<Self> {
        let relative = |name: &str, op, file: &Container<'_>, with_expected| {
            transformer_xl_file::parse(name, op, file, with_expected).map(ProblemFile::from)
        };
        let parse = || {
            let file = Container::parse(bytes)?;
            Ok(match op(&file)? {
                "longformer" => {
                    ProblemFile::Longformer(longformer_file::parse(name, &file, with_expected)?)
                }
                "lsh" => ProblemFile::Lsh(lsh_file::parse(name, &file, with_expected)?),
                "transformer_xl" => relative(name, "transformer_xl", &file, with_expected)?,
                "xlnet" => relative(name, "xlnet", &file, with_expected)?,
                "rel_pos" => relative(name, "rel_pos", &file, with_expected)?,
                "t5_bias" => {
                    ProblemFile::Full(full_file::parse(name, "t5_bias", &file, with_expected)?)
                }
                _ => ProblemFile::Full(full_file::parse(name, "full", &file, with_expected)?),
            })
        };
        parse().map_err(|e: Failure| e.at(name))
    }

    /// What is computed, stored as `dtype`.
    pub fn problem(&self, dtype: DType) -> Problem {
        match self {
            ProblemFile::Full(f) => Problem::Full(Full { dtype, ..f.problem }),
            ProblemFile::Longformer(f) => {
                Problem::Longformer(Longformer { dtype, ..f.problem.clone() })
            }
            ProblemFile::Lsh(f) => Problem::Lsh(Lsh { dtype, ..f.problem.clone() }),
            ProblemFile::Relative(f) => Problem::TransformerXl(f.problem(Stream::Content, dtype)),
        }
    }

    /// Its op.
    pub fn op(&self) -> &'static str {
        match self {
            ProblemFile::Full(f) => f.op,
            ProblemFile::Longformer(_) => "longformer",
            ProblemFile::Lsh(_) => "lsh",
            ProblemFile::Relative(f) => f.op,
        }
    }

    /// Name for messages: the path as given.
    pub fn name(&self) -> &str {
        match self {
            ProblemFile::Full(f) => &f.name,
            ProblemFile::Longformer(f) => &f.name,
            ProblemFile::Lsh(f) => &f.name,
            ProblemFile::Relative(f) => &f.name,
        }
    }

    /// What the file says the results are, under their names without `expected.`.
    pub fn expected(&self) -> &BTreeMap<String, Tensor> {
        match self {
            ProblemFile::Full(f) => &f.expected,
            ProblemFile::Longformer(f) => &f.expected,
            ProblemFile::Lsh(f) => &f.expected,
            ProblemFile::Relative(f) => &f.expected,
        }
    }

    /// The upstream gradient of `out` is given.
    pub fn has_grad_out(&self) -> bool {
        match self {
            ProblemFile::Full(f) => f.grad_out.is_some(),
            ProblemFile::Longformer(f) => f.grad_out.is_some(),
            ProblemFile::Lsh(f) => f.grad_out.is_some(),
            ProblemFile::Relative(f) => f.grad_out.is_some(),
        }
    }

    /// Sizes of a result called `name`, or `None` if the problem has no such result.
    pub fn result_shape(&self, name: &str) -> Option<Vec<usize>> {
        match self {
            ProblemFile::Full(f) => crate::results::result_shape(&f.problem, &f.inputs, name),
            ProblemFile::Longformer(f) => f.result_shape(name),
            ProblemFile::Lsh(f) => f.result_shape(name),
            ProblemFile::Relative(f) => f.result_shape(name),
        }
    }

    /// Bytes of one f32 score for each query, key and head: what a dense evaluation holds.
    pub fn dense_bytes(&self) -> u64 {
        let sizes = match self {
            ProblemFile::Full(f) => {
                let s = &f.problem.shape;
                [s.batch, s.heads_q, s.seqlen_q, s.seqlen_k]
            }
            ProblemFile::Longformer(f) => {
                let p = &f.problem;
                [p.batch, p.heads, p.seqlen, p.seqlen]
            }
            ProblemFile::Lsh(f) => {
                let p = &f.problem;
                [p.batch, p.heads, p.seqlen, p.seqlen]
            }
            ProblemFile::Relative(f) => {
                let s = &f.problem.shape;
                [s.batch, s.heads_q, s.seqlen_q, s.seqlen_k]
            }
        };
        sizes.iter().fold(4, |n, &f| n.saturating_mul(f as u64))
    }

    /// The problem of full attention, if it is one.
    pub fn into_full(self) -> Option<FullFile> {
        match self {
            ProblemFile::Full(file) => Some(file),
            _ => None,
        }
    }

    /// The problem of Longformer's attention, if it is one.
    pub fn into_longformer(self) -> Option<LongformerFile> {
        match self {
            ProblemFile::Longformer(file) => Some(file),
            _ => None,
        }
    }

    /// The problem with relative positions, if it is one.
    pub fn into_relative(self) -> Option<RelativeFile> {
        match self {
            ProblemFile::Relative(file) => Some(*file),
            _ => None,
        }
    }

    /// The problem of LSH attention, if it is one.
    pub fn into_lsh(self) -> Option<LshFile> {
        match self {
            ProblemFile::Lsh(file) => Some(file),
            _ => None,
        }
    }
}

/// An entry of `__metadata__`.
pub(crate) fn metadata<'a>(file: &'a Container<'_>, key: &str) -> Result<&'a str> {
    let value = file.metadata.get(key).map(String::as_str);
    value.ok_or_else(|| Failure::input(format!("__metadata__.{key} is absent: must be given")))
}

/// The op of a file of this format.
fn op<'a>(file: &'a Container<'_>) -> Result<&'a str> {
    let format = metadata(file, "format")?;
    if format != FORMAT {
        let message = format!("__metadata__.format = {format:?}: must be {FORMAT:?}");
        return Err(Failure::input(message));
    }
    let op = metadata(file, "op")?;
    known_op(op)?;
    Ok(op)
}

/// `Err` unless this build computes `op`.
pub fn known_op(op: &str) -> Result<()> {
    match OPS.contains(&op) {
        true => Ok(()),
        false => Err(Failure::input(format!("op {op:?}: must be one of {}", OPS.join(", ")))),
    }
}

/// `__metadata__.tolerance`, if there is one.
pub(crate) fn tolerance(file: &Container<'_>) -> Result<Option<f64>> {
    file.metadata.get("tolerance").map(|text| tolerance_of(text)).transpose()
}

fn tolerance_of(text: &str) -> Result<f64> {
    let number = text.parse::<f64>().ok().filter(|x| x.is_finite() && *x >= 0.0);
    let rule = || format!("__metadata__.tolerance = {text:?}: must be a number of at least 0");
    number.ok_or_else(|| Failure::input(rule()))
}

/// Type and sizes of a tensor must be these (`None`: any); gives the sizes.
pub(crate) fn expect(
    file: &Container<'_>,
    name: &str,
    dtype: &str,
    dims: &[Option<usize>],
    rule: &str,
) -> Result<Vec<usize>> {
    let Some((got, shape)) = file.info(name) else {
        let message = format!("tensor '{name}' is absent: must be {dtype} {rule}");
        return Err(Failure::input(message));
    };
    if got != dtype {
        return Err(Failure::input(format!("tensor '{name}' is {got}: must be {dtype} {rule}")));
    }
    let agree = |(size, want): (&usize, &Option<usize>)| want.is_none_or(|w| w == *size);
    if shape.len() != dims.len() || !shape.iter().zip(dims).all(agree) {
        let want: Vec<String> =
            dims.iter().map(|d| d.map_or("any".to_owned(), |n| n.to_string())).collect();
        let message =
            format!("tensor '{name}' has shape {shape:?}: must be {rule} = [{}]", want.join(", "));
        return Err(Failure::input(message));
    }
    Ok(shape)
}

fn wrong_type(name: &str, dtype: &str) -> Failure {
    Failure::input(format!("tensor '{name}': must be {dtype}"))
}

pub(crate) fn floats(file: &Container<'_>, name: &str) -> Result<Vec<f32>> {
    match file.tensor(name).map(|t| t.values) {
        Some(Values::F32(x)) => Ok(x),
        _ => Err(wrong_type(name, "F32")),
    }
}

pub(crate) fn ints(file: &Container<'_>, name: &str) -> Result<Vec<i32>> {
    match file.tensor(name).map(|t| t.values) {
        Some(Values::I32(x)) => Ok(x),
        _ => Err(wrong_type(name, "I32")),
    }
}

pub(crate) fn bytes_of(file: &Container<'_>, name: &str) -> Result<Vec<u8>> {
    match file.tensor(name).map(|t| t.values) {
        Some(Values::U8(x)) => Ok(x),
        _ => Err(wrong_type(name, "U8")),
    }
}

/// The library calls things by its own names; the file has others.
pub(crate) fn in_words_of_the_file(e: longhand::Error) -> Failure {
    let longhand::Error::Invalid { field, value, rule } = e else {
        return Failure::from(e);
    };
    let field = match field.as_str() {
        "softmax_scale" => "params.scale".to_owned(),
        "softcap" => "params.softcap".to_owned(),
        other => match other.strip_prefix("shape.") {
            Some(param) => format!("params.{param}"),
            None => other.to_owned(),
        },
    };
    Failure::input(format!("{field} = {value}: {rule}"))
}

/// The results that a file expects; `shape` knows the problem's.
pub(crate) fn expected_of(
    file: &Container<'_>,
    shape: &dyn Fn(&str) -> Option<Vec<usize>>,
) -> Result<BTreeMap<String, Tensor>> {
    let mut expected = BTreeMap::new();
    for full_name in file.names() {
        let Some(name) = full_name.strip_prefix("expected.") else {
            continue;
        };
        let Some(dims) = shape(name) else {
            let message = format!("tensor '{full_name}': this problem has no result '{name}'");
            return Err(Failure::input(message));
        };
        if name.starts_with("grad.") && file.info("grad.out").is_none() {
            let message = format!("tensor '{full_name}': must come with grad.out, which is absent");
            return Err(Failure::input(message));
        }
        let dims: Vec<_> = dims.into_iter().map(Some).collect();
        let dtype = if name == "buckets" || name == "bucket_table" { "I32" } else { "F64" };
        expect(file, &full_name, dtype, &dims, "the shape of the result")?;
        if let Some(tensor) = file.tensor(&full_name) {
            expected.insert(name.to_owned(), tensor);
        }
    }
    Ok(expected)
}
