//! The WebGPU device: the one place of this program that speaks to that backend.

#[cfg(feature = "webgpu")]
use crate::device::Timing;
use crate::failure::Result;
#[cfg(feature = "webgpu")]
use crate::full_file::OwnedInputs;
#[cfg(feature = "webgpu")]
use crate::longformer_file::LongformerInputs;
#[cfg(feature = "webgpu")]
use longhand::full::Output;
#[cfg(feature = "webgpu")]
use longhand::longformer;
use longhand::{Full, Longformer};

#[cfg(feature = "webgpu")]
use longhand::webgpu::{Caps, Context};

#[cfg(not(feature = "webgpu"))]
pub(crate) use crate::absent::Gpu;

/// An open GPU.
#[cfg(feature = "webgpu")]
pub struct Gpu {
    context: Context,
}

/// What there is to say about the GPUs of this machine.
pub(crate) struct Report {
    /// A line for each adapter.
    pub(crate) adapters: Vec<String>,
    /// The adapter that would be used, with its capabilities; or why there is none.
    pub(crate) opened: Result<(Gpu, Vec<String>)>,
}

/// The adapter whose name contains `LONGHAND_ADAPTER`, or the fastest.
#[cfg(feature = "webgpu")]
pub(crate) fn open() -> Result<Gpu> {
    let want = std::env::var("LONGHAND_ADAPTER").ok();
    Ok(Gpu { context: Context::open(want.as_deref())? })
}

#[cfg(feature = "webgpu")]
impl Gpu {
    /// The adapter's name, backend and kind.
    pub(crate) fn name(&self) -> String {
        let info = self.context.info();
        format!("{} ({}, {:?})", info.name, info.backend, info.device_type)
    }

    pub(crate) fn forward(&self, problem: &Full, inputs: &OwnedInputs<f32>) -> Result<Output<f32>> {
        Ok(problem.run_webgpu(&self.context, &inputs.as_inputs())?)
    }

    /// Longformer's forward pass.
    pub(crate) fn longformer(
        &self,
        problem: &Longformer,
        inputs: &LongformerInputs<f32>,
    ) -> Result<longformer::Output<f32>> {
        Ok(problem.run_webgpu(&self.context, &inputs.as_inputs())?)
    }

    pub(crate) fn time_longformer(
        &self,
        problem: &Longformer,
        inputs: &LongformerInputs<f32>,
        repeats: usize,
    ) -> Result<Timing> {
        Ok(timing(problem.time_webgpu(&self.context, &inputs.as_inputs(), repeats)?))
    }

    pub(crate) fn time(
        &self,
        problem: &Full,
        inputs: &OwnedInputs<f32>,
        repeats: usize,
    ) -> Result<Timing> {
        Ok(timing(problem.time_webgpu(&self.context, &inputs.as_inputs(), repeats)?))
    }

    /// The kernel variant and tile sizes of a problem.
    pub(crate) fn describe(&self, problem: &Full) -> Result<String> {
        Ok(problem.plan_webgpu(&self.context)?.describe())
    }

    pub(crate) fn describe_longformer(&self, problem: &Longformer) -> Result<String> {
        Ok(problem.plan_webgpu(&self.context)?.describe())
    }
}

#[cfg(feature = "webgpu")]
fn timing(of: longhand::full::webgpu::Timing) -> Timing {
    Timing { first_ms: Some(of.first_ms), best_ms: of.best_ms, workspace_bytes: of.workspace_bytes }
}

/// Looks at every adapter.
#[cfg(feature = "webgpu")]
pub(crate) fn report() -> Report {
    let facts = |gpu: Gpu| {
        let caps = format!("{:?}", gpu.context.caps());
        (Gpu::name(&gpu), caps, gpu)
    };
    Report {
        adapters: Context::adapters()
            .into_iter()
            .map(|info| {
                let (name, backend, kind) = (info.name, info.backend, info.device_type);
                let driver = format!("{} {}", info.driver, info.driver_info);
                format!("found: {name} ({backend}, {kind:?}) {}", driver.trim())
            })
            .collect(),
        opened: open().map(facts).map(|(name, caps, gpu)| (gpu, vec![name, caps])),
    }
}

/// The WGSL of a problem: (name, text) of each kernel. With `here`, for this machine's GPU, else
/// for WebGPU's guaranteed limits.
#[cfg(feature = "webgpu")]
pub(crate) fn sources(problem: &Full, here: bool) -> Result<Vec<(String, String)>> {
    Ok(problem.sources_webgpu(&caps(here)?)?)
}

/// The same of Longformer's.
#[cfg(feature = "webgpu")]
pub(crate) fn sources_longformer(
    problem: &Longformer,
    here: bool,
) -> Result<Vec<(String, String)>> {
    Ok(problem.sources_webgpu(&caps(here)?)?)
}

#[cfg(feature = "webgpu")]
fn caps(here: bool) -> Result<Caps> {
    match here {
        true => Ok(*open()?.context.caps()),
        // WGSL's f16 is an option of a device; without it f16 storage is unpacked by hand.
        false => Ok(Caps::baseline()),
    }
}

#[cfg(not(feature = "webgpu"))]
mod absent {
    use super::*;
    use crate::absent::declined;

    pub(crate) fn open() -> Result<Gpu> {
        declined("webgpu")
    }

    pub(crate) fn report() -> Report {
        Report { adapters: Vec::new(), opened: declined("webgpu") }
    }

    pub(crate) fn sources(_: &Full, _here: bool) -> Result<Vec<(String, String)>> {
        declined("webgpu")
    }

    pub(crate) fn sources_longformer(_: &Longformer, _here: bool) -> Result<Vec<(String, String)>> {
        declined("webgpu")
    }
}

#[cfg(not(feature = "webgpu"))]
pub(crate) use absent::{open, report, sources, sources_longformer};
