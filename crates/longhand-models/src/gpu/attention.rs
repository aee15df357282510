//! Attention where the device says: on the processor from slices, on a GPU by longhand's plans with
//! the layer's memory.

use super::{Buffer, Gpu};
use crate::Tensor;
use std::sync::Arc;

/// What an attention reads: a tensor, or a small table that is the same in every layer.
pub(crate) trait Operand {
    /// Its elements on `gpu`.
    fn buffer(self, gpu: &Gpu) -> Arc<Buffer>;
}

impl Operand for &Tensor {
    fn buffer(self, gpu: &Gpu) -> Arc<Buffer> {
        Tensor::buffer(self, gpu)
    }
}

impl<T: bytemuck::NoUninit> Operand for &[T] {
    fn buffer(self, gpu: &Gpu) -> Arc<Buffer> {
        Arc::new(gpu.constant(bytemuck::cast_slice(self)))
    }
}

impl Gpu {
    /// The memory that a plan wants beside its tensors, if it wants any.
    pub(crate) fn workspace(&self, bytes: u64) -> Option<Buffer> {
        (bytes > 0).then(|| self.empty((bytes as usize).div_ceil(4)))
    }
}

/// Computes `problem` of the kind in module `kind`: `kind(rows) new` names the operands that are
/// always there and says how its `Inputs::new` and `Args::new` take them, the braces hold optional
/// ones (on a GPU also buffers that are written). Gives the result's tensor, of the first operand's
/// shape, and what else the processor has computed.
///
/// A backend's `Args` have the same fields on WebGPU and on CUDA; `at` is where a buffer lies, a
/// binding here, an address there.
macro_rules! attend {
    (
        $device:expr, $problem:expr, $kind:ident($first:ident $(, $row:ident)*) ($($new:expr),*),
        { $($field:ident: $given:expr),* $(,)? } $(, writes { $($room:ident: $written:expr),* })?
    ) => {
        match $device {
            $crate::Device::Gpu(gpu) => {
                use $crate::gpu::attention::Operand;
                // No plan is bound to memory that is not there.
                gpu.fetch(&[])?;
                let out = gpu.empty($first.len());
                let lse = gpu.empty($problem.lse_len());
                let shape = $first.shape();
                let $first = Operand::buffer($first, gpu);
                $(let $row = Operand::buffer($row, gpu);)*
                $(let $field = $given.map(|x| Operand::buffer(x, gpu));)*
                match *gpu.backend() {
                    #[cfg(feature = "webgpu")]
                    $crate::gpu::Backend::Webgpu(ref backend) => {
                        use $crate::gpu::webgpu::binding as at;
                        let plan = $problem.plan_webgpu(&backend.context)?;
                        let workspace = gpu.workspace(plan.workspace_bytes());
                        let ($first $(, $row)*) = (at(&$first)? $(, at(&$row)?)*);
                        let args = longhand::$kind::webgpu::Args {
                            $($field: $field.as_deref().map(at).transpose()?,)*
                            $($($room: $written.map(at).transpose()?,)*)?
                            workspace: workspace.as_ref().map(at).transpose()?,
                            ..longhand::$kind::webgpu::Args::new($($new,)* at(&out)?, at(&lse)?)
                        };
                        backend.queue(plan.bind(&args)?)?;
                    }
                    #[cfg(feature = "cuda")]
                    $crate::gpu::Backend::Cuda(ref backend) => {
                        use $crate::gpu::cuda::address as at;
                        let plan = $problem.plan_cuda(&backend.context)?;
                        let workspace = gpu.workspace(plan.workspace_bytes());
                        let ($first $(, $row)*) = (at(&$first)? $(, at(&$row)?)*);
                        let args = longhand::$kind::cuda::Args {
                            $($field: $field.as_deref().map(at).transpose()?,)*
                            $($($room: $written.map(at).transpose()?,)*)?
                            workspace: workspace.as_ref().map(at).transpose()?,
                            ..longhand::$kind::cuda::Args::new($($new,)* at(&out)?, at(&lse)?)
                        };
                        // SAFETY: every buffer is as large as the problem says, on this device, and is
                        // written by later work of the same stream only; positions of a list of
                        // globals are distinct.
                        #[allow(unsafe_code)]
                        unsafe { plan.launch(&backend.stream, &args) }?;
                    }
                }
                (Tensor::on_gpu(shape, out), None)
            }
            device => {
                let shape = $first.shape();
                let ($first $(, $row)*) = ($first.data() $(, $row.data())*);
                let inputs = longhand::$kind::Inputs {
                    $($field: $given.map(AsRef::as_ref),)*
                    ..longhand::$kind::Inputs::new($($new),*)
                };
                let mut result = match device {
                    $crate::Device::Reference => $problem.reference(&inputs)?,
                    _ => $problem.run_cpu(&inputs)?,
                };
                (Tensor::new(shape, std::mem::take(&mut result.out)), Some(result))
            }
        }
    };
}
pub(crate) use attend;
