//! Attention on a GPU: longhand's plans with the layer's memory.

use super::{Backend, Buffer, Gpu, lock};
use crate::attention::{Beside, Globals, Mask};
use crate::{Result, Tensor};
use longhand::{Full, Longformer, Lsh, TransformerXl};
use std::sync::Arc;

/// What one launch reads and writes.
struct Room {
    out: Buffer,
    lse: Buffer,
}

impl Gpu {
    fn room(&self, q: &Tensor, lse: usize) -> Room {
        Room { out: self.empty(q.len()), lse: self.empty(lse) }
    }

    /// The memory that a plan wants beside its tensors, if it wants any.
    fn workspace(&self, bytes: u64) -> Option<Buffer> {
        (bytes > 0).then(|| self.empty((bytes as usize).div_ceil(4)))
    }

    fn all<const N: usize>(&self, tensors: [&Tensor; N]) -> [Arc<Buffer>; N] {
        tensors.map(|tensor| tensor.buffer(self))
    }

    /// The error that the device has met with, so that no plan is bound to memory that is not there.
    fn sound(&self) -> Result<()> {
        lock(&self.inner.failure).clone().map_or(Ok(()), Err)
    }
}

/// Plans `problem` of the kind in module `kind`, binds its tensors and queues it. A backend's `Args` have
/// the same fields on WebGPU and on CUDA; `at` is where a buffer lies, a binding here, an address there.
macro_rules! queue {
    ($gpu:ident, $problem:ident, $kind:ident $new:tt, { $($field:ident: $buffer:expr),* $(,)? }) => {{
        $gpu.sound()?;
        match $gpu.inner.backend {
            #[cfg(feature = "webgpu")]
            Backend::Webgpu(ref backend) => {
                use super::webgpu::{binding as at, optional};
                let plan = $problem.plan_webgpu(backend.context())?;
                let workspace = $gpu.workspace(plan.workspace_bytes());
                let args = longhand::$kind::webgpu::Args {
                    $($field: optional($buffer)?,)*
                    workspace: optional(workspace.as_ref())?,
                    ..longhand::$kind::webgpu::Args::new $new
                };
                backend.queue(plan.bind(&args)?)?;
            }
            #[cfg(feature = "cuda")]
            Backend::Cuda(ref backend) => {
                use super::cuda::{address as at, optional};
                let plan = $problem.plan_cuda(backend.context())?;
                let workspace = $gpu.workspace(plan.workspace_bytes());
                let args = longhand::$kind::cuda::Args {
                    $($field: optional($buffer)?,)*
                    workspace: optional(workspace.as_ref())?,
                    ..longhand::$kind::cuda::Args::new $new
                };
                // SAFETY: every buffer is as large as the problem says, on this device, and is written
                // by later work of the same stream only; positions of a list of globals are distinct.
                #[allow(unsafe_code)]
                unsafe { plan.launch(backend.stream(), &args) }?;
            }
        }
    }};
}

pub(crate) fn full(
    gpu: &Gpu,
    problem: &Full,
    tensors: [&Tensor; 3],
    mask: &Mask<'_>,
) -> Result<Tensor> {
    let [q, k, v] = gpu.all(tensors);
    let Room { out, lse } = gpu.room(tensors[0], problem.lse_len());
    let bias = mask.bias.map(|bias| bias.buffer(gpu));
    let table = mask.buckets.map(|(_, table)| table.buffer(gpu));
    let valid = mask.key_valid.map(|valid| gpu.constant(valid));
    queue!(gpu, problem, full(at(&q)?, at(&k)?, at(&v)?, at(&out)?, at(&lse)?), {
        bias: bias.as_deref(),
        bias_table: table.as_deref(),
        key_valid: valid.as_ref(),
    });
    Ok(Tensor::on_gpu(tensors[0].shape(), out))
}

pub(crate) fn windowed(
    gpu: &Gpu,
    problem: &Longformer,
    tensors: [&Tensor; 3],
    globals: Option<(&Globals, [&Tensor; 3])>,
    key_valid: Option<&[u8]>,
) -> Result<Tensor> {
    let [q, k, v] = gpu.all(tensors);
    let Room { out, lse } = gpu.room(tensors[0], problem.lse_len());
    let own = globals.map(|(_, tensors)| gpu.all(tensors));
    let own = |n: usize| own.as_ref().map(|own| &*own[n]);
    let indices = globals.map(|(list, _)| gpu.constant(bytemuck::cast_slice(&list.indices)));
    let valid = key_valid.map(|valid| gpu.constant(valid));
    queue!(gpu, problem, longformer(at(&q)?, at(&k)?, at(&v)?, at(&out)?, at(&lse)?), {
        q_global: own(0),
        k_global: own(1),
        v_global: own(2),
        global_indices: indices.as_ref(),
        key_valid: valid.as_ref(),
    });
    Ok(Tensor::on_gpu(tensors[0].shape(), out))
}

pub(crate) fn relative(
    gpu: &Gpu,
    problem: &TransformerXl,
    tensors: [&Tensor; 3],
    r: &Tensor,
    biases: [&Tensor; 2],
    beside: &Beside<'_>,
) -> Result<Tensor> {
    let [q, k, v] = gpu.all(tensors);
    let [bias_u, bias_v] = gpu.all(biases);
    let r = r.buffer(gpu);
    let [bias_s, seg_embed] = [beside.bias_s, beside.seg_embed].map(|x| x.map(|x| x.buffer(gpu)));
    let words = |x: Option<&[i32]>| x.map(|x| gpu.constant(bytemuck::cast_slice(x)));
    let [seg_q, seg_k, targets] = [beside.seg_q, beside.seg_k, beside.targets].map(words);
    let perm_mask = beside.perm_mask.map(|x| gpu.constant(bytemuck::cast_slice(x)));
    let key_valid = beside.key_valid.map(|x| gpu.constant(x));
    let Room { out, lse } = gpu.room(tensors[0], problem.lse_len());
    queue!(gpu, problem, transformer_xl([at(&q)?, at(&k)?, at(&v)?], at(&r)?, [at(&bias_u)?, at(&bias_v)?], at(&out)?, at(&lse)?), {
        bias_s: bias_s.as_deref(),
        seg_embed: seg_embed.as_deref(),
        seg_q: seg_q.as_ref(),
        seg_k: seg_k.as_ref(),
        perm_mask: perm_mask.as_ref(),
        key_valid: key_valid.as_ref(),
        targets: targets.as_ref(),
    });
    Ok(Tensor::on_gpu(tensors[0].shape(), out))
}

/// Returns the buckets too, as bits of i32.
pub(crate) fn hashed(
    gpu: &Gpu,
    problem: &Lsh,
    tensors: [&Tensor; 2],
    rotations: Option<&Tensor>,
    key_valid: Option<&[u8]>,
) -> Result<(Tensor, Option<Tensor>)> {
    let [qk, v] = gpu.all(tensors);
    let Room { out, lse } = gpu.room(tensors[0], problem.lse_len());
    let rotations = rotations.map(|x| x.buffer(gpu));
    let key_valid = key_valid.map(|x| gpu.constant(x));
    let sorted = problem.is_sorted();
    let buckets = sorted.then(|| gpu.empty(problem.buckets_len()));
    let lse_rounds = sorted.then(|| gpu.empty(problem.lse_rounds_len()));
    queue!(gpu, problem, lsh(at(&qk)?, at(&v)?, at(&out)?, at(&lse)?), {
        rotations: rotations.as_deref(),
        buckets: buckets.as_ref(),
        key_valid: key_valid.as_ref(),
        lse_rounds: lse_rounds.as_ref(),
    });
    let shape = tensors[0].shape();
    let buckets = buckets.map(|x| Tensor::on_gpu(&[problem.buckets_len()], x));
    Ok((Tensor::on_gpu(shape, out), buckets))
}
