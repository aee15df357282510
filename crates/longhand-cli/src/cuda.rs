//! The CUDA device: the one place of this program that speaks to that backend.

#[cfg(feature = "cuda")]
use crate::device::Timing;
#[cfg(feature = "cuda")]
use crate::failure::Failure;
use crate::failure::Result;
#[cfg(feature = "cuda")]
use crate::lsh_file::LshFile;
use crate::problem_file::Problem;
#[cfg(feature = "cuda")]
use crate::problem_file::ProblemFile;
#[cfg(feature = "cuda")]
use crate::results::{Results, from_parts};
#[cfg(feature = "cuda")]
use crate::stages::{self, Stages};
#[cfg(feature = "cuda")]
use crate::transformer_xl_inputs::Stream;
use longhand::Merge;
#[cfg(feature = "cuda")]
use longhand::cuda::{Caps, Context};
use longhand::transformer_xl::Sinusoids;
#[cfg(feature = "cuda")]
use longhand::{DType, Full, Longformer, Lsh};

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

    /// The results of a problem's forward pass in `dtype`.
    pub(crate) fn forward(&self, file: &ProblemFile, dtype: DType) -> Result<Results> {
        let gpu = &self.context;
        Ok(match file {
            ProblemFile::Full(f) => {
                let problem = Full { dtype, ..f.problem };
                from_parts(f, &problem.run_cuda(gpu, &f.inputs.as_inputs())?, None, dtype)
            }
            ProblemFile::Longformer(f) => {
                let problem = Longformer { dtype, ..f.problem.clone() };
                f.results(&problem.run_cuda(gpu, &f.inputs.as_inputs())?, None)
            }
            ProblemFile::Lsh(f) => {
                let problem = Lsh { dtype, ..f.problem.clone() };
                f.results(&problem.run_cuda(gpu, &f.inputs.as_inputs())?, None)
            }
            ProblemFile::Relative(f) => {
                let mut results = Results::new();
                for &stream in f.streams() {
                    let problem = f.problem(stream, dtype);
                    let output = problem.run_cuda(gpu, &f.inputs.as_inputs(stream))?;
                    f.put(&mut results, stream, &output);
                }
                results
            }
        })
    }

    /// Times that pass.
    pub(crate) fn time(&self, file: &ProblemFile, dtype: DType, repeats: usize) -> Result<Timing> {
        self.measured()?;
        let gpu = &self.context;
        Ok(timing(match file {
            ProblemFile::Full(f) => {
                let problem = Full { dtype, ..f.problem };
                problem.time_cuda(gpu, &f.inputs.as_inputs(), repeats)?
            }
            ProblemFile::Longformer(f) => {
                let problem = Longformer { dtype, ..f.problem.clone() };
                problem.time_cuda(gpu, &f.inputs.as_inputs(), repeats)?
            }
            ProblemFile::Lsh(f) => {
                let problem = Lsh { dtype, ..f.problem.clone() };
                problem.time_cuda(gpu, &f.inputs.as_inputs(), repeats)?
            }
            ProblemFile::Relative(f) => {
                let inputs = f.inputs.as_inputs(Stream::Content);
                f.problem(Stream::Content, dtype).time_cuda(gpu, &inputs, repeats)?
            }
        }))
    }

    /// Times each kernel of LSH attention's pass, next to what the device's rates allow.
    pub(crate) fn stages(&self, file: &LshFile, dtype: DType, repeats: usize) -> Result<Stages> {
        self.measured()?;
        let problem = Lsh { dtype, ..file.problem.clone() };
        let of = problem.time_stages_cuda(&self.context, &file.inputs.as_inputs(), repeats)?;
        let (dense, inputs) = stages::dense(problem.head_dim, dtype)?;
        let timing = dense.time_cuda(&self.context, &inputs.as_inputs(), repeats)?;
        let flops_per_ms = dense.flops() / timing.best_ms;
        Ok(Stages::new(of, self.context.bandwidth()? / 1e3, flops_per_ms))
    }

    /// Declines where no time is a GPU's.
    fn measured(&self) -> Result<()> {
        if self.is_simulated() {
            let why = "is a simulator: its times are a model's and are not recorded";
            return Err(Failure::declined(format!("device cuda: {} {why}", self.context.name())));
        }
        Ok(())
    }

    /// The kernel variant and tile sizes of a problem.
    pub(crate) fn describe(&self, problem: &Problem) -> Result<String> {
        let caps = self.context.caps();
        Ok(match problem {
            Problem::Full(p) => longhand::full::cuda::config::select(p, caps)?.describe(),
            Problem::Longformer(p) => {
                longhand::longformer::cuda::config::select(p, caps)?.describe()
            }
            Problem::Lsh(p) => longhand::lsh::cuda::config::select(p, caps)?.describe(),
            Problem::TransformerXl(p) => {
                longhand::transformer_xl::cuda::config::select(p, caps)?.describe()
            }
        })
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
pub(crate) fn sources(problem: &Problem, arch: Arch, here: bool) -> Result<Vec<(String, String)>> {
    let caps = caps(arch, here)?;
    Ok(match problem {
        Problem::Full(p) => p.sources_cuda(&caps)?,
        Problem::Longformer(p) => p.sources_cuda(&caps)?,
        Problem::Lsh(p) => p.sources_cuda(&caps)?,
        Problem::TransformerXl(p) => p.sources_cuda(&caps)?,
    })
}

/// The source of the kernel that makes `table`.
#[cfg(feature = "cuda")]
pub(crate) fn sources_of_table(
    table: &Sinusoids,
    arch: Arch,
    here: bool,
) -> Result<Vec<(String, String)>> {
    Ok(table.sources_cuda(&caps(arch, here)?)?)
}

/// The source of the kernel that merges two results.
#[cfg(feature = "cuda")]
pub(crate) fn sources_of_merge(
    merge: &Merge,
    arch: Arch,
    here: bool,
) -> Result<Vec<(String, String)>> {
    Ok(merge.sources_cuda(&caps(arch, here)?)?)
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

    pub(crate) fn sources(_: &Problem, _: Arch, _here: bool) -> Result<Vec<(String, String)>> {
        declined("cuda")
    }

    pub(crate) fn sources_of_table(
        _: &Sinusoids,
        _: Arch,
        _here: bool,
    ) -> Result<Vec<(String, String)>> {
        declined("cuda")
    }

    pub(crate) fn sources_of_merge(
        _: &Merge,
        _: Arch,
        _here: bool,
    ) -> Result<Vec<(String, String)>> {
        declined("cuda")
    }
}

#[cfg(not(feature = "cuda"))]
pub(crate) use absent::{open, report, sources, sources_of_merge, sources_of_table};
