//! Attention by longhand's kinds. Here, and nowhere else in the layer, it is chosen what computes
//! one: the device's kernels, or the definition where a device has none yet.

// A build without GPUs makes none: see `gpu`.
#![cfg_attr(
    not(any(feature = "webgpu", feature = "cuda")),
    allow(unused_variables, unreachable_code)
)]

mod reformer;
mod relative;

pub use reformer::{Ring, chunked, hashed};
pub use relative::{Segment, relative};

use crate::gpu::attention::attend;
use crate::{Device, Ints, Result, Tensor};
use longhand::full::{Bias, Buckets};
use longhand::{DType, Full, Longformer, Shape, TransformerXl};

/// What a query may see, and what is added to its scores.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mask<'a> {
    /// `[batch, seqlen_k]`, 1 for a key that is there.
    pub key_valid: Option<&'a [u8]>,
    /// No key after the query's position.
    pub causal: bool,
    /// `[batch or 1, heads or 1, seqlen_q, seqlen_k]`; −∞ hides a key.
    pub bias: Option<&'a Tensor>,
    /// A bias for each bucket of distances and head, `[buckets, heads]`.
    pub buckets: Option<(Buckets, &'a Tensor)>,
}

impl<'a> Mask<'a> {
    /// Of padding alone.
    pub fn of(key_valid: Option<&'a [u8]>) -> Self {
        Mask { key_valid, ..Mask::default() }
    }
}

/// Sizes and the scale of one attention.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    /// Heads.
    pub count: usize,
    /// Elements of a head's row.
    pub dim: usize,
    /// What `q·k` is multiplied by.
    pub scale: f64,
}

impl Heads {
    /// Heads of `dim` elements, with the scale `1/√dim`.
    pub fn new(count: usize, dim: usize) -> Self {
        Heads { count, dim, scale: 1.0 / (dim.max(1) as f64).sqrt() }
    }
}

/// Full attention of `q` over `k` and `v`, each `[batch, seqlen, heads · dim]`. Gradient: the
/// kernels' backward pass, from the same tensors and `lse`.
///
/// # Errors
///
/// If the mask does not fit the sizes.
pub fn full(
    device: &Device,
    heads: &Heads,
    [q, k, v]: [&Tensor; 3],
    mask: &Mask<'_>,
) -> Result<Tensor> {
    let shape = Shape {
        batch: q.shape()[0],
        heads_q: heads.count,
        heads_kv: heads.count,
        seqlen_q: q.shape()[1],
        seqlen_k: k.shape()[1],
        head_dim: heads.dim,
    };
    let mut problem = Full::new(shape, DType::F32).softmax_scale(heads.scale);
    problem.causal = mask.causal;
    problem.key_padding = mask.key_valid.is_some();
    problem.bias =
        mask.bias.map(|b| Bias { per_batch: b.shape()[0] > 1, per_head: b.shape()[1] > 1 });
    problem.buckets = mask.buckets.map(|(buckets, _)| buckets);
    let (out, _) = attend!(device, problem, full(q, k, v)(q, k, v), {
        key_valid: mask.key_valid,
        bias: mask.bias,
        bias_table: mask.buckets.map(|(_, table)| table),
    });
    Ok(out)
}

/// Longformer's attention: `side` keys on each side of a position, and global positions (`[batch,
/// count]`, distinct, filled up with −1), whose rows read projections of their own. All tensors are
/// `[batch, seqlen, heads · dim]`. Gradient: as of [`full`].
///
/// # Errors
///
/// If the mask does not fit the sizes.
pub fn windowed(
    device: &Device,
    heads: &Heads,
    side: usize,
    [q, k, v]: [&Tensor; 3],
    globals: Option<(&Ints, [&Tensor; 3])>,
    key_valid: Option<&[u8]>,
) -> Result<Tensor> {
    let [batch, seqlen] = [q.shape()[0], q.shape()[1]];
    let mut problem = Longformer::new([batch, seqlen, heads.count, heads.dim], side, DType::F32);
    problem.softmax_scale = heads.scale;
    problem.max_globals = globals.map_or(0, |(globals, _)| globals.shape[1]);
    problem.key_padding = key_valid.is_some();
    let own = |n: usize| globals.map(|(_, x)| x[n]);
    let (out, _) = attend!(device, problem, longformer(q, k, v)(q, k, v), {
        q_global: own(0),
        k_global: own(1),
        v_global: own(2),
        global_indices: globals.map(|(globals, _)| &globals.data[..]),
        key_valid: key_valid,
    });
    Ok(out)
}

/// What is added to the scores of keys that are not there, where scores are compared.
const HIDDEN: f32 = -1e4;

/// The scaled scores before the softmax, `[batch, heads, seqlen_q, seqlen_k]`, those of keys that are
/// not there far below: distillation compares them. Gradients: `scale · g k` and `scale · gᵀ q`.
pub fn scores(heads: &Heads, [q, k]: [&Tensor; 2], key_valid: Option<&[u8]>) -> Tensor {
    let (batch, seqlen_q, seqlen_k) = (q.shape()[0], q.shape()[1], k.shape()[1]);
    let shape = [batch, heads.count, seqlen_q, seqlen_k];
    let score = |n: usize| {
        let (head, i, j) = (n / seqlen_k / seqlen_q, n / seqlen_k % seqlen_q, n % seqlen_k);
        let (b, own) = (head / heads.count, head % heads.count * heads.dim);
        let [q, k] = [(q, b * seqlen_q + i), (k, b * seqlen_k + j)].map(|(x, i)| &x.row(i)[own..]);
        let dot: f32 = q.iter().zip(k).take(heads.dim).map(|(q, k)| q * k).sum();
        let there = key_valid.is_none_or(|valid| valid[b * seqlen_k + j] != 0);
        dot * heads.scale as f32 + if there { 0.0 } else { HIDDEN }
    };
    Tensor::new(&shape, (0..shape.iter().product()).map(score).collect())
}
