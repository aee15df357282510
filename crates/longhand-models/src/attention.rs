//! Attention by longhand's kinds. Here, and nowhere else in the layer, it is chosen what computes
//! one: the device's kernels, or the definition where a device has none yet.

mod reformer;
mod streams;

pub use reformer::{Ring, Rotations, chunked, hashed};
pub use streams::{StreamMask, Streams, distances};

use crate::gpu::attention as on_gpu;
use crate::{Device, Result, Tensor};
use longhand::full::cpu::Args;
use longhand::full::{Bias, Buckets};
use longhand::{DType, Full, Longformer, Shape, TransformerXl, longformer, transformer_xl};

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
    /// Heads that share `width`, with the scale `1/√dim`.
    pub fn of_width(count: usize, width: usize) -> Self {
        let dim = width / count.max(1);
        Heads { count, dim, scale: 1.0 / (dim.max(1) as f64).sqrt() }
    }
}

/// What a run on the processor writes.
struct Room {
    out: Vec<f32>,
    lse: Vec<f32>,
    workspace: Vec<f32>,
}

impl Room {
    /// For results of `q`'s size; `workspace` tells its length of the number of threads.
    fn new(q: &Tensor, lse: usize, workspace: impl Fn(usize) -> usize) -> Self {
        Room::of(q.len(), lse, workspace)
    }

    /// For `len` results.
    fn of(len: usize, lse: usize, workspace: impl Fn(usize) -> usize) -> Self {
        let workspace = vec![0.0; workspace(rayon::current_num_threads())];
        Room { out: vec![0.0; len], lse: vec![0.0; lse], workspace }
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
    if let Device::Gpu(gpu) = device {
        return on_gpu::full(gpu, &problem, [q, k, v], mask);
    }
    let bias = mask.bias.map(Tensor::data);
    let bias_table = mask.buckets.map(|(_, table)| table.data());
    let out_shape = q.shape();
    match device {
        Device::Reference => {
            let mut inputs = longhand::full::Inputs::new(q.data(), k.data(), v.data());
            inputs.key_valid = mask.key_valid;
            inputs.bias = bias;
            inputs.bias_table = bias_table;
            Ok(Tensor::new(out_shape, problem.reference(&inputs)?.out))
        }
        _ => {
            let plan = problem.plan_cpu()?;
            let Room { mut out, mut lse, mut workspace } =
                Room::new(q, problem.lse_len(), |threads| plan.workspace_len(threads));
            let mut args = Args::new([q.data(), k.data(), v.data()], &mut out, &mut lse);
            args.key_valid = mask.key_valid;
            args.bias = bias;
            args.bias_table = bias_table;
            plan.run(args, &mut workspace)?;
            Ok(Tensor::new(out_shape, out))
        }
    }
}

/// Global positions: `[batch, count]`, distinct, filled up with −1.
#[derive(Debug, Clone)]
pub struct Globals {
    /// The positions.
    pub indices: Vec<i32>,
    /// How many a row may list.
    pub count: usize,
}

/// Longformer's attention: `side` keys on each side of a position, and global positions, whose rows
/// read projections of their own. All tensors are `[batch, seqlen, heads · dim]`. Gradient: as of
/// [`full`].
///
/// # Errors
///
/// If the mask does not fit the sizes.
pub fn windowed(
    device: &Device,
    heads: &Heads,
    side: usize,
    [q, k, v]: [&Tensor; 3],
    globals: Option<(&Globals, [&Tensor; 3])>,
    key_valid: Option<&[u8]>,
) -> Result<Tensor> {
    let [batch, seqlen] = [q.shape()[0], q.shape()[1]];
    let mut problem = Longformer::new([batch, seqlen, heads.count, heads.dim], side, DType::F32);
    problem.softmax_scale = heads.scale;
    problem.max_globals = globals.map_or(0, |(globals, _)| globals.count);
    problem.key_padding = key_valid.is_some();
    if let Device::Gpu(gpu) = device {
        return on_gpu::windowed(gpu, &problem, [q, k, v], globals, key_valid);
    }
    let [q_global, k_global, v_global] = [0, 1, 2].map(|i| globals.map(|(_, x)| x[i].data()));
    let global_indices = globals.map(|(globals, _)| &globals.indices[..]);
    let [local_q, local_k, local_v] = [q.data(), k.data(), v.data()];
    match device {
        Device::Reference => {
            let mut inputs = longformer::Inputs::new(local_q, local_k, local_v);
            inputs.q_global = q_global;
            inputs.k_global = k_global;
            inputs.v_global = v_global;
            inputs.global_indices = global_indices;
            inputs.key_valid = key_valid;
            Ok(Tensor::new(q.shape(), problem.reference(&inputs)?.out))
        }
        _ => {
            let plan = problem.plan_cpu()?;
            let Room { mut out, mut lse, mut workspace } =
                Room::new(q, problem.lse_len(), |threads| plan.workspace_len(threads));
            let mut args =
                longformer::cpu::Args::new([local_q, local_k, local_v], &mut out, &mut lse);
            args.q_global = q_global;
            args.k_global = k_global;
            args.v_global = v_global;
            args.global_indices = global_indices;
            args.key_valid = key_valid;
            plan.run(args, &mut workspace)?;
            Ok(Tensor::new(q.shape(), out))
        }
    }
}

/// Transformer-XL's attention of the segment's `q` over `k` and `v` of memory and segment; `r`
/// `[seqlen_k, heads · dim]` by distance, ascending. `options`: the farthest key that is seen, and
/// the distance beyond which all are alike. Gradient: as of [`full`], also to `r` and the biases.
///
/// # Errors
///
/// If the sizes do not fit.
pub fn relative(
    device: &Device,
    heads: &Heads,
    [q, k, v]: [&Tensor; 3],
    r: &Tensor,
    [bias_u, bias_v]: [&Tensor; 2],
    (left, clamp_len): (Option<usize>, Option<usize>),
) -> Result<Tensor> {
    let [batch, seqlen] = [q.shape()[0], q.shape()[1]];
    let shape = [batch, seqlen, heads.count, heads.dim];
    let mut problem = TransformerXl::with_memory(shape, k.shape()[1] - seqlen, DType::F32);
    problem.softmax_scale = heads.scale;
    problem.window.left = left;
    problem.clamp_len = clamp_len;
    if let Device::Gpu(gpu) = device {
        let beside = on_gpu::Beside::default();
        return on_gpu::relative(gpu, &problem, [q, k, v], r, [bias_u, bias_v], &beside);
    }
    let (rows, biases) = ([q.data(), k.data(), v.data()], [bias_u.data(), bias_v.data()]);
    match device {
        Device::Reference => {
            let inputs = transformer_xl::Inputs::new(rows, r.data(), biases);
            Ok(Tensor::new(q.shape(), problem.reference(&inputs)?.out))
        }
        _ => {
            let plan = problem.plan_cpu()?;
            let Room { mut out, mut lse, mut workspace } =
                Room::new(q, problem.lse_len(), |threads| plan.workspace_len(threads));
            let args = transformer_xl::cpu::Args::new(rows, r.data(), biases, &mut out, &mut lse);
            plan.run(args, &mut workspace)?;
            Ok(Tensor::new(q.shape(), out))
        }
    }
}

/// The scaled scores before the softmax, `[batch, heads, seqlen_q, seqlen_k]`, `hidden` added at
/// keys that are not there: distillation compares them. Gradients: `scale · g k` and `scale · gᵀ q`.
pub fn scores(
    heads: &Heads,
    [q, k]: [&Tensor; 2],
    key_valid: Option<&[u8]>,
    hidden: f32,
) -> Tensor {
    let (batch, seqlen_q, seqlen_k) = (q.shape()[0], q.shape()[1], k.shape()[1]);
    let width = heads.count * heads.dim;
    let mut data = Vec::with_capacity(batch * heads.count * seqlen_q * seqlen_k);
    for b in 0..batch {
        for h in 0..heads.count {
            for i in 0..seqlen_q {
                let q = &q.data()[(b * seqlen_q + i) * width + h * heads.dim..][..heads.dim];
                for j in 0..seqlen_k {
                    let k = &k.data()[(b * seqlen_k + j) * width + h * heads.dim..][..heads.dim];
                    let dot: f32 = q.iter().zip(k).map(|(q, k)| q * k).sum();
                    let there = key_valid.is_none_or(|valid| valid[b * seqlen_k + j] != 0);
                    data.push(dot * heads.scale as f32 + if there { 0.0 } else { hidden });
                }
            }
        }
    }
    Tensor::new(&[batch, heads.count, seqlen_q, seqlen_k], data)
}
