//! Where a model runs.

use crate::gpu::Gpu;
use crate::{Error, Result, Tensor};

/// Where a model runs.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Device {
    /// Attention by its definition, the rest as on `Cpu`.
    Reference,
    /// This machine's processor.
    #[default]
    Cpu,
    /// A GPU, through WebGPU or CUDA.
    Gpu(Gpu),
}

impl Device {
    /// The device of that name, opened. Of WebGPU's adapters it is the one whose name contains
    /// `LONGHAND_ADAPTER` (else the fastest), of CUDA's devices the first.
    ///
    /// # Errors
    ///
    /// If this build or this machine has none.
    pub fn named(name: &str) -> Result<Self> {
        match name {
            "reference" => Ok(Device::Reference),
            "cpu" => Ok(Device::Cpu),
            #[cfg(feature = "webgpu")]
            "webgpu" => {
                let want = std::env::var("LONGHAND_ADAPTER").ok();
                let context = longhand::webgpu::Context::open(want.as_deref())?;
                Ok(Device::Gpu(Gpu::webgpu(context)))
            }
            #[cfg(feature = "cuda")]
            "cuda" => Ok(Device::Gpu(Gpu::cuda(longhand::cuda::Context::open(0)?)?)),
            #[allow(unreachable_patterns)]
            "webgpu" | "cuda" => Err(Error::Declined(format!(
                "device {name}: this build is without it (cargo feature {name:?})"
            ))),
            _ => Err(Error::invalid("device", name, "must be reference, cpu, webgpu or cuda")),
        }
    }

    /// Ends a pass: brings its results to the host, all at once, and gives the first error that the
    /// device has met with.
    pub(crate) fn finish<T>(
        &self,
        result: Result<T>,
        tensors: impl FnOnce(&T) -> Vec<&Tensor>,
    ) -> Result<T> {
        let Device::Gpu(gpu) = self else { return result };
        let fetched = gpu.fetch(&result.as_ref().map_or_else(|_| Vec::new(), tensors));
        result.and_then(|value| fetched.map(|()| value))
    }
}
