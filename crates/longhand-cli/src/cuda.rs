//! The CUDA device: the one place of this program that speaks to that backend.

#[cfg(feature = "cuda")]
use crate::device::Timing;
use crate::failure::Result;
#[cfg(feature = "cuda")]
use crate::full_file::OwnedInputs;
#[cfg(feature = "cuda")]
use crate::longformer_file::LongformerInputs;
#[cfg(feature = "cuda")]
use longhand::full::Output;
#[cfg(feature = "cuda")]
use longhand::longformer;
use longhand::{Full, Longformer};

#[cfg(feature = "cuda")]
use crate::failure::Failure;
#[cfg(feature = "cuda")]
use longhand::cuda::{Caps, Context};

#[cfg(not(feature = "cuda"))]
pub(crate) use crate::absent::Gpu;

/// An open GPU.
#[cfg(feature = "cuda")]
pub struct Gpu {
    context: Context,
}

/// What there is to say about the GPUs of this machine.
pub(crate) struct Report {
    /// A line for each device.
    pub(crate) devices: Vec<String>,
    /// The device that would be used, with its capabilities; or why there is none.
    pub(crate) opened: Result<(Gpu, Vec<String>)>,
}

/// An architecture that kernels are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arch {
    Sm80,
    Sm90a,
}

/// The driver's first device; `CUDA_VISIBLE_DEVICES` says which that is.
#[cfg(feature = "cuda")]
pub(crate) fn open() -> Result<Gpu> {
    Ok(Gpu { context: Context::open(0)? })
}

#[cfg(feature = "cuda")]
impl Gpu {
    /// The device's name and capability, and the driver.
    pub(crate) fn name(&self) -> String {
        describe(self.context.name(), self.context.caps())
    }

    /// Whether kernels run in a simulator, so that no time of theirs is a GPU's.
    pub(crate) fn is_simulated(&self) -> bool {
        self.context.is_simulated()
    }

    pub(crate) fn forward(&self, problem: &Full, inputs: &OwnedInputs<f32>) -> Result<Output<f32>> {
        Ok(problem.run_cuda(&self.context, &inputs.as_inputs())?)
    }

    /// Longformer's forward pass.
    pub(crate) fn longformer(
        &self,
        problem: &Longformer,
        inputs: &LongformerInputs<f32>,
    ) -> Result<longformer::Output<f32>> {
        Ok(problem.run_cuda(&self.context, &inputs.as_inputs())?)
    }

    pub(crate) fn time_longformer(
        &self,
        problem: &Longformer,
        inputs: &LongformerInputs<f32>,
        repeats: usize,
    ) -> Result<Timing> {
        self.measured()?;
        Ok(timing(problem.time_cuda(&self.context, &inputs.as_inputs(), repeats)?))
    }

    pub(crate) fn time(
        &self,
        problem: &Full,
        inputs: &OwnedInputs<f32>,
        repeats: usize,
    ) -> Result<Timing> {
        self.measured()?;
        Ok(timing(problem.time_cuda(&self.context, &inputs.as_inputs(), repeats)?))
    }

    /// Declines where no time is a GPU's.
    fn measured(&self) -> Result<()> {
        if self.is_simulated() {
            let why = "is a simulator: its times are a model's and are not recorded";
            return Err(Failure::declined(format!("device cuda: {} {why}", self.context.name())));
        }
        Ok(())
    }

    /// The kernels of a Longformer problem and their tile sizes.
    pub(crate) fn describe_longformer(&self, problem: &Longformer) -> Result<String> {
        let config = longhand::longformer::cuda::config::select(problem, self.context.caps())?;
        Ok(config.describe())
    }

    /// The kernel variant and tile sizes of a problem.
    pub(crate) fn describe(&self, problem: &Full) -> Result<String> {
        Ok(longhand::full::cuda::config::select(problem, self.context.caps())?.describe())
    }
}

#[cfg(feature = "cuda")]
fn timing(timing: longhand::cuda::Timing) -> Timing {
    Timing {
        first_ms: Some(timing.first_ms),
        best_ms: timing.best_ms,
        workspace_bytes: timing.workspace_bytes,
    }
}

#[cfg(feature = "cuda")]
fn describe(name: &str, caps: &Caps) -> String {
    let (major, minor) = caps.compute_capability;
    let driver = caps.driver_version;
    let (cuda, release) = (driver / 1000, driver / 10 % 100);
    let simulated = if name.starts_with("PTX-SIM") { ", simulated" } else { "" };
    format!(
        "{name} (compute capability {major}.{minor}, driver of CUDA {cuda}.{release}{simulated})"
    )
}

/// Looks at every device.
#[cfg(feature = "cuda")]
pub(crate) fn report() -> Report {
    let line = |device: longhand::cuda::Device| match &device.caps {
        Ok(caps) => format!("found: {}", describe(&device.name, caps)),
        Err(why) => format!("found: {}: {why}", device.name),
    };
    let facts = |gpu: Gpu| {
        let (name, caps) = (gpu.name(), format!("{:?}", gpu.context.caps()));
        (gpu, vec![name, caps])
    };
    Report {
        // What hinders this hinders opening too, which says so.
        devices: Context::devices().unwrap_or_default().into_iter().map(line).collect(),
        opened: open().map(facts),
    }
}

/// The PTX of a problem: (name, text) of each kernel. With `here`, for this machine's GPU, else
/// for a device of `arch`.
#[cfg(feature = "cuda")]
pub(crate) fn sources(problem: &Full, arch: Arch, here: bool) -> Result<Vec<(String, String)>> {
    Ok(problem.sources_cuda(&caps(arch, here)?)?)
}

/// As `sources`, of Longformer.
#[cfg(feature = "cuda")]
pub(crate) fn sources_longformer(
    problem: &Longformer,
    arch: Arch,
    here: bool,
) -> Result<Vec<(String, String)>> {
    Ok(problem.sources_cuda(&caps(arch, here)?)?)
}

#[cfg(feature = "cuda")]
fn caps(arch: Arch, here: bool) -> Result<Caps> {
    Ok(match (here, arch) {
        (true, _) => *open()?.context.caps(),
        (false, Arch::Sm80) => Caps::a100(),
        (false, Arch::Sm90a) => Caps::h100(),
    })
}

#[cfg(not(feature = "cuda"))]
mod absent {
    use super::*;
    use crate::absent::declined;

    pub(crate) fn open() -> Result<Gpu> {
        declined("cuda")
    }

    pub(crate) fn report() -> Report {
        Report { devices: Vec::new(), opened: declined("cuda") }
    }

    pub(crate) fn sources(_: &Full, _: Arch, _here: bool) -> Result<Vec<(String, String)>> {
        declined("cuda")
    }

    pub(crate) fn sources_longformer(
        _: &Longformer,
        _: Arch,
        _here: bool,
    ) -> Result<Vec<(String, String)>> {
        declined("cuda")
    }
}

#[cfg(not(feature = "cuda"))]
pub(crate) use absent::{open, report, sources, sources_longformer};
