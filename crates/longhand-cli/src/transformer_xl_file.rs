//! Problem files of the ops `transformer_xl`, `xlnet` and `rel_pos`: relative positions.

use crate::container::{Container, Tensor};
use crate::failure::{Failure, Result};
use crate::params::{RelativeParams, read_relative_params};
use crate::problem_file::{
    bytes_of, expect, expected_of, floats, in_words_of_the_file, ints, metadata, stored_as,
    tolerance,
};
use crate::results::Results;
use crate::transformer_xl_inputs::{RelativeInputs, Stream};
use longhand::transformer_xl::{Gradients, Output, bits_from_mask};
use longhand::{DType, Real, Strides, TransformerXl};
use std::collections::BTreeMap;

/// One problem with relative positions, read from a file and checked.
#[derive(Debug, Clone, PartialEq)]
pub struct RelativeFile {
    /// Name for messages: the path as given.
    pub name: String,
    /// `transformer_xl`, `xlnet` or `rel_pos`.
    pub op: &'static str,
    /// What to compute, of the content stream; its dtype is f32 until a command sets another.
    pub problem: TransformerXl,
    /// Queries of XLNet's second stream, if they stand at `targets`.
    pub targets_g: Option<usize>,
    /// Inputs of the forward pass.
    pub inputs: RelativeInputs<f32>,
    /// Upstream gradients of `out` and, of two streams, `out_g`.
    pub grad_out: Option<[Option<Vec<f32>>; 2]>,
    /// What the file says the results are, under their names without `expected.`.
    pub expected: BTreeMap<String, Tensor>,
    /// The fixture's own error.
    pub tolerance: Option<f64>,
}

const NAMES: [&str; 16] = [
    "q",
    "q_g",
    "k",
    "v",
    "r",
    "bias_u",
    "bias_v",
    "bias_s",
    "seg_embed",
    "seg_q",
    "seg_k",
    "perm_mask",
    "key_valid",
    "targets",
    "grad.out",
    "grad.out_g",
];
/// Those that only op `xlnet` has.
const XLNETS: [&str; 7] =
    ["q_g", "bias_s", "seg_embed", "seg_q", "seg_k", "perm_mask", "grad.out_g"];
const SEGMENTS: [&str; 4] = ["bias_s", "seg_embed", "seg_q", "seg_k"];

/// Reads the problem in `file`, called `name`, of one of the three ops.
pub(crate) fn parse(
    name: &str,
    op: &'static str,
    file: &Container<'_>,
    with_expected: bool,
) -> Result<RelativeFile> {
    let p = read_relative_params(metadata(file, "params")?, op)?;
    let has = |tensor: &str| match op {
        "xlnet" => NAMES.contains(&tensor),
        "rel_pos" => NAMES.contains(&tensor) && !XLNETS.contains(&tensor),
        _ => NAMES.contains(&tensor) && !XLNETS.contains(&tensor) && tensor != "key_valid",
    };
    for tensor in file.names() {
        if !has(&tensor) && !tensor.starts_with("expected.") {
            let known: Vec<&str> = NAMES.into_iter().filter(|n| has(n)).collect();
            let message = format!(
                "tensor '{tensor}': op '{op}' has none of that name; it has {} and expected.*",
                known.join(", ")
            );
            return Err(Failure::input(message));
        }
    }
    let (problem, targets_g) = problem_of(file, &p)?;
    let optional = |name: &str| match file.info(name) {
        Some(_) => floats(file, name).map(Some),
        None => Ok(None),
    };
    let of_segments = |name: &str| match problem.segments {
        true => ints(file, name).map(Some),
        false => Ok(None),
    };
    let seqlen_k = problem.shape.seqlen_k;
    let perm_mask = match problem.perm_mask {
        true if seqlen_k == 0 => Some(vec![]),
        true => {
            let mask = bytes_of(file, "perm_mask")?;
            if let Some(bad) = mask.iter().find(|&&x| x > 1) {
                let message = format!("tensor 'perm_mask' holds {bad}: must hold 0 or 1");
                return Err(Failure::input(message));
            }
            Some(bits_from_mask(&mask, seqlen_k)?)
        }
        false => None,
    };
    let inputs = RelativeInputs {
        q: floats(file, "q")?,
        q_g: if p.streams == 2 { Some(floats(file, "q_g")?) } else { None },
        k: floats(file, "k")?,
        v: floats(file, "v")?,
        r: floats(file, "r")?,
        bias_u: floats(file, "bias_u")?,
        bias_v: floats(file, "bias_v")?,
        bias_s: optional("bias_s")?,
        seg_embed: optional("seg_embed")?,
        seg_q: of_segments("seg_q")?,
        seg_k: of_segments("seg_k")?,
        perm_mask,
        key_valid: problem.key_padding.then(|| bytes_of(file, "key_valid")).transpose()?,
        targets: file.info("targets").map(|_| ints(file, "targets")).transpose()?,
    };
    let grad_out = match [optional("grad.out")?, optional("grad.out_g")?] {
        [None, None] => None,
        both => Some(both),
    };
    let mut read = RelativeFile {
        name: name.to_owned(),
        op,
        problem,
        targets_g,
        inputs,
        grad_out,
        expected: BTreeMap::new(),
        tolerance: tolerance(file)?,
    };
    for &stream in read.streams() {
        let (problem, inputs) = (read.problem(stream, DType::F32), read.inputs.as_inputs(stream));
        problem.validate_inputs(&inputs).map_err(in_words_of_the_file)?;
    }
    if with_expected {
        read.expected = expected_of(file, &|name| read.result_shape(name))?;
    }
    Ok(read)
}

/// The problem of the content stream, and the second one's number of targets.
fn problem_of(file: &Container<'_>, p: &RelativeParams) -> Result<(TransformerXl, Option<usize>)> {
    let [batch, seqlen_q, heads, head_dim] = [p.batch, p.seqlen_q, p.heads, p.head_dim];
    let targets = match file.info("targets") {
        Some(_) => {
            Some(expect(file, "targets", "I32", &[Some(batch), None], "[batch, targets]")?[1])
        }
        None => None,
    };
    let rows_q = |targets: Option<usize>| match targets {
        Some(count) => {
            ([batch, count, heads, head_dim].map(Some), "[batch, targets, heads, head_dim]")
        }
        None => {
            ([batch, seqlen_q, heads, head_dim].map(Some), "[batch, seqlen_q, heads, head_dim]")
        }
    };
    // Of two streams, only the second one's queries stand at positions of their own.
    let (targets, targets_g) = if p.streams == 2 { (None, targets) } else { (targets, None) };
    let ((q, q_rule), (q_g, q_g_rule)) = (rows_q(targets), rows_q(targets_g));
    let k = [batch, p.seqlen_k, heads, head_dim].map(Some);
    let of_heads = [Some(heads), Some(head_dim)];
    expect(file, "q", "F32", &q, q_rule)?;
    expect(file, "k", "F32", &k, "[batch, seqlen_k, heads, head_dim]")?;
    expect(file, "v", "F32", &k, "[batch, seqlen_k, heads, head_dim]")?;
    let rule = "[rows, heads, head_dim]";
    let rows = expect(file, "r", "F32", &[None, Some(heads), Some(head_dim)], rule)?[0];
    expect(file, "bias_u", "F32", &of_heads, "[heads, head_dim]")?;
    expect(file, "bias_v", "F32", &of_heads, "[heads, head_dim]")?;
    if p.streams == 2 {
        expect(file, "q_g", "F32", &q_g, q_g_rule)?;
    } else if file.info("q_g").is_some() || file.info("grad.out_g").is_some() {
        return Err(Failure::input("tensor 'q_g': params.streams = 1, must be 2"));
    }
    for (name, dims, rule) in [("grad.out", &q, "as q"), ("grad.out_g", &q_g, "as q_g")] {
        if file.info(name).is_some() {
            expect(file, name, "F32", dims, rule)?;
        }
    }
    let shape = longhand::Shape {
        batch,
        heads_q: heads,
        heads_kv: heads,
        seqlen_q,
        seqlen_k: p.seqlen_k,
        head_dim,
    };
    // Any constructor: all that they differ in is set.
    let mut problem = TransformerXl {
        shape,
        window: p.window,
        chunks: p.chunks,
        own_position: p.own_position,
        rows,
        distance_offset: p.distance_offset,
        clamp_len: p.clamp_len,
        softmax_scale: p.scale,
        ..TransformerXl::conformer([batch, seqlen_q, heads, head_dim], 0, DType::F32)
    };
    let keys = Strides::bshd(p.seqlen_k, heads, head_dim);
    (problem.layout.k, problem.layout.v) = (keys, keys);
    if SEGMENTS.iter().any(|name| file.info(name).is_some()) {
        let ids = [Some(batch), Some(seqlen_q)];
        expect(file, "bias_s", "F32", &of_heads, "[heads, head_dim]")?;
        let embed = [Some(2), Some(heads), Some(head_dim)];
        expect(file, "seg_embed", "F32", &embed, "[2, heads, head_dim]")?;
        expect(file, "seg_q", "I32", &ids, "[batch, seqlen_q]")?;
        let ids = [Some(batch), Some(p.seqlen_k)];
        expect(file, "seg_k", "I32", &ids, "[batch, seqlen_k]")?;
        problem = problem.segments();
    }
    if file.info("perm_mask").is_some() {
        let dims = [batch, seqlen_q, p.seqlen_k].map(Some);
        expect(file, "perm_mask", "U8", &dims, "[batch, seqlen_q, seqlen_k]")?;
        problem = problem.perm_mask();
    }
    if file.info("key_valid").is_some() {
        let dims = [Some(batch), Some(p.seqlen_k)];
        expect(file, "key_valid", "U8", &dims, "[batch, seqlen_k]")?;
        problem = problem.key_padding();
    }
    if let Some(count) = targets {
        problem = problem.targets(count);
    }
    problem.validate().map_err(in_words_of_the_file)?;
    Ok((problem, targets_g))
}

impl RelativeFile {
    /// The streams that the problem has.
    pub fn streams(&self) -> &'static [Stream] {
        match self.inputs.q_g {
            Some(_) => &[Stream::Content, Stream::Query],
            None => &[Stream::Content],
        }
    }

    /// The problem of a stream, stored as `dtype`.
    pub fn problem(&self, stream: Stream, dtype: DType) -> TransformerXl {
        let problem = TransformerXl { dtype, ..self.problem };
        match stream {
            Stream::Content => problem,
            Stream::Query => match self.targets_g {
                Some(count) => problem.query_stream().targets(count),
                None => problem.query_stream(),
            },
        }
    }

    /// Sizes of a result called `name`, or `None` if the problem has no such result.
    pub fn result_shape(&self, name: &str) -> Option<Vec<usize>> {
        let p = &self.problem;
        let s = &p.shape;
        let (two, segments) = (self.inputs.q_g.is_some(), p.segments);
        let queries_g = self.targets_g.unwrap_or(s.seqlen_q);
        match name {
            "out" | "grad.q" => Some(vec![s.batch, s.seqlen_q, s.heads_q, s.head_dim]),
            "out_g" | "grad.q_g" if two => Some(vec![s.batch, queries_g, s.heads_q, s.head_dim]),
            "grad.k" | "grad.v" => Some(vec![s.batch, s.seqlen_k, s.heads_q, s.head_dim]),
            "lse" => Some(vec![s.batch, s.heads_q, s.seqlen_q]),
            "lse_g" if two => Some(vec![s.batch, s.heads_q, queries_g]),
            "grad.r" => Some(vec![p.rows, s.heads_q, s.head_dim]),
            "grad.bias_u" | "grad.bias_v" => Some(vec![s.heads_q, s.head_dim]),
            "grad.bias_s" if segments => Some(vec![s.heads_q, s.head_dim]),
            "grad.seg_embed" if segments => Some(vec![2, s.heads_q, s.head_dim]),
            _ => None,
        }
    }

    /// Every stream by `forward` and, if `backward` and the file has upstream gradients, by
    /// `gradients`.
    pub(crate) fn evaluate<T: Real + Into<f64>>(
        &self,
        backward: bool,
        forward: impl Fn(Stream) -> Result<Output<T>>,
        gradients: impl Fn(Stream, &[f32]) -> Result<Gradients<T>>,
    ) -> Result<Results> {
        let mut results = Results::new();
        for &stream in self.streams() {
            self.put(&mut results, stream, &forward(stream)?);
            let given = self.grad_out.as_ref().filter(|_| backward);
            if let Some(go) = given.and_then(|both| both[stream as usize].as_ref()) {
                self.add(&mut results, stream, &gradients(stream, go)?);
            }
        }
        Ok(results)
    }

    /// By the definition, in `T`, on inputs stored as `dtype`.
    pub fn reference<T: Real + From<f32> + Into<f64>>(
        &self,
        dtype: DType,
        backward: bool,
    ) -> Result<Results> {
        let inputs = self.inputs.stored_as::<T>(dtype);
        self.evaluate(
            backward,
            |stream| Ok(self.problem(stream, dtype).reference(&inputs.as_inputs(stream))?),
            |stream, go| {
                let go = stored_as::<T>(go, dtype);
                let problem = self.problem(stream, dtype);
                Ok(problem.reference_backward(&inputs.as_inputs(stream), &go)?)
            },
        )
    }

    /// Names a stream's results.
    pub fn put<T: Into<f64> + Copy>(
        &self,
        results: &mut Results,
        stream: Stream,
        output: &Output<T>,
    ) {
        let [out, lse] = match stream {
            Stream::Content => ["out", "lse"],
            Stream::Query => ["out_g", "lse_g"],
        };
        let numbers = |x: &[T]| x.iter().map(|&x| x.into()).collect();
        results.insert(out.to_owned(), numbers(&output.out));
        results.insert(lse.to_owned(), numbers(&output.lse));
    }

    /// Adds a stream's gradients: both streams read the same keys, values, table and biases.
    fn add<T: Into<f64> + Copy>(&self, results: &mut Results, stream: Stream, g: &Gradients<T>) {
        let q = match stream {
            Stream::Content => "grad.q",
            Stream::Query => "grad.q_g",
        };
        let tensors = [
            (q, Some(&g.q)),
            ("grad.k", Some(&g.k)),
            ("grad.v", Some(&g.v)),
            ("grad.r", Some(&g.r)),
            ("grad.bias_u", Some(&g.bias_u)),
            ("grad.bias_v", Some(&g.bias_v)),
            ("grad.bias_s", g.bias_s.as_ref()),
            ("grad.seg_embed", g.seg_embed.as_ref()),
        ];
        for (name, x) in tensors {
            let Some(x) = x else { continue };
            let sum = results.entry(name.to_owned()).or_insert_with(|| vec![0.0; x.len()]);
            sum.iter_mut().zip(x).for_each(|(sum, &x)| *sum += x.into());
        }
    }
}
