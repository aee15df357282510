//! The WebGPU device: the one place of this program that speaks to that backend.

use crate::device::Timing;
use crate::failure::Result;
use crate::full_file::OwnedInputs;
use crate::longformer_file::LongformerInputs;
use longhand::full::Output;
use longhand::{Full, Longformer, longformer};

#[cfg(feature = "webgpu")]
use longhand::webgpu::{Caps, Context};

/// An open GPU.
pub struct Gpu {
    #[cfg(feature = "webgpu")]
    context: Context,
}

/// What there is to say about the GPUs of this machine.
pub(crate) struct Report {
    /// A line for each adapter.
    pub(crate) adapters: Vec<String>,
    /// The adapter that would be used, with its capabilities; or why there is none.
    pub(crate) opened: Result<(Gpu, Vec<String>)>,
}

#[cfg(feature = "webgpu")]
impl Gpu {
    /// The adapter whose name contains `LONGHAND_ADAPTER`, or the fastest.
    pub(crate) fn open() -> Result<Self> {
        let want = std::env::var("LONGHAND_ADAPTER").ok();
        Ok(Gpu { context: Context::open(want.as_deref())? })
    }

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
        opened: Gpu::open().map(facts).map(|(name, caps, gpu)| (gpu, vec![name, caps])),
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
        true => Ok(*Gpu::open()?.context.caps()),
        // WGSL's f16 is an option of a device; without it f16 storage is unpacked by hand.
        false => Ok(Caps::baseline()),
    }
}

#[cfg(not(feature = "webgpu"))]
mod absent {
    use super::*;
    use crate::failure::Failure;

    fn declined<T>() -> Result<T> {
        Err(Failure::declined("device webgpu: not in this build (feature webgpu is off)"))
    }

    impl Gpu {
        pub(crate) fn open() -> Result<Self> {
            declined()
        }

        pub(crate) fn name(&self) -> String {
            String::new()
        }

        pub(crate) fn forward(&self, _: &Full, _: &OwnedInputs<f32>) -> Result<Output<f32>> {
            declined()
        }

        pub(crate) fn longformer(
            &self,
            _: &Longformer,
            _: &LongformerInputs<f32>,
        ) -> Result<longformer::Output<f32>> {
            declined()
        }

        pub(crate) fn time_longformer(
            &self,
            _: &Longformer,
            _: &LongformerInputs<f32>,
            _: usize,
        ) -> Result<Timing> {
            declined()
        }

        pub(crate) fn time(&self, _: &Full, _: &OwnedInputs<f32>, _: usize) -> Result<Timing> {
            declined()
        }

        pub(crate) fn describe(&self, _: &Full) -> Result<String> {
            declined()
        }

        pub(crate) fn describe_longformer(&self, _: &Longformer) -> Result<String> {
            declined()
        }
    }

    pub(crate) fn report() -> Report {
        Report { adapters: Vec::new(), opened: declined() }
    }

    pub(crate) fn sources(_: &Full, _here: bool) -> Result<Vec<(String, String)>> {
        declined()
    }

    pub(crate) fn sources_longformer(_: &Longformer, _here: bool) -> Result<Vec<(String, String)>> {
        declined()
    }
}

#[cfg(not(feature = "webgpu"))]
pub(crate) use absent::{report, sources, sources_longformer};
