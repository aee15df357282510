//! The WebGPU device: the one place of this program that speaks to that backend.

#[cfg(feature = "webgpu")]
use crate::device::Timing;
use crate::failure::Result;
#[cfg(feature = "webgpu")]
use crate::lsh_file::LshFile;
use crate::problem_file::Problem;
#[cfg(feature = "webgpu")]
use crate::problem_file::ProblemFile;
#[cfg(feature = "webgpu")]
use crate::results::{Results, from_parts};
#[cfg(feature = "webgpu")]
use crate::stages::{self, Stages};
#[cfg(feature = "webgpu")]
use crate::transformer_xl_inputs::Stream;
use longhand::Merge;
use longhand::transformer_xl::Sinusoids;
#[cfg(feature = "webgpu")]
use longhand::{DType, Full, Longformer, Lsh};

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

    /// The results of a problem's forward pass in `dtype`.
    pub(crate) fn forward(&self, file: &ProblemFile, dtype: DType) -> Result<Results> {
        let gpu = &self.context;
        Ok(match file {
            ProblemFile::Full(f) => {
                let problem = Full { dtype, ..f.problem };
                from_parts(f, &problem.run_webgpu(gpu, &f.inputs.as_inputs())?, None, dtype)
            }
            ProblemFile::Longformer(f) => {
                let problem = Longformer { dtype, ..f.problem.clone() };
                f.results(&problem.run_webgpu(gpu, &f.inputs.as_inputs())?, None)
            }
            ProblemFile::Lsh(f) => {
                let problem = Lsh { dtype, ..f.problem.clone() };
                f.results(&problem.run_webgpu(gpu, &f.inputs.as_inputs())?, None)
            }
            ProblemFile::Relative(f) => {
                let mut results = Results::new();
                for &stream in f.streams() {
                    let problem = f.problem(stream, dtype);
                    let output = problem.run_webgpu(gpu, &f.inputs.as_inputs(stream))?;
                    f.put(&mut results, stream, &output);
                }
                results
            }
        })
    }

    /// Times that pass.
    pub(crate) fn time(&self, file: &ProblemFile, dtype: DType, repeats: usize) -> Result<Timing> {
        let gpu = &self.context;
        Ok(timing(match file {
            ProblemFile::Full(f) => {
                let problem = Full { dtype, ..f.problem };
                problem.time_webgpu(gpu, &f.inputs.as_inputs(), repeats)?
            }
            ProblemFile::Longformer(f) => {
                let problem = Longformer { dtype, ..f.problem.clone() };
                problem.time_webgpu(gpu, &f.inputs.as_inputs(), repeats)?
            }
            ProblemFile::Lsh(f) => {
                let problem = Lsh { dtype, ..f.problem.clone() };
                problem.time_webgpu(gpu, &f.inputs.as_inputs(), repeats)?
            }
            ProblemFile::Relative(f) => {
                let inputs = f.inputs.as_inputs(Stream::Content);
                f.problem(Stream::Content, dtype).time_webgpu(gpu, &inputs, repeats)?
            }
        }))
    }

    /// Times each kernel of LSH attention's pass, next to what the device's rates allow.
    pub(crate) fn stages(&self, file: &LshFile, dtype: DType, repeats: usize) -> Result<Stages> {
        let problem = Lsh { dtype, ..file.problem.clone() };
        let of = problem.time_stages_webgpu(&self.context, &file.inputs.as_inputs(), repeats)?;
        let (dense, inputs) = stages::dense(problem.head_dim, dtype)?;
        let timing = dense.time_webgpu(&self.context, &inputs.as_inputs(), repeats)?;
        let flops_per_ms = dense.flops() / timing.best_ms;
        Ok(Stages::new(of, self.context.bandwidth()? / 1e3, flops_per_ms))
    }

    /// The kernel variant and tile sizes of a problem.
    pub(crate) fn describe(&self, problem: &Problem) -> Result<String> {
        Ok(match problem {
            Problem::Full(p) => p.plan_webgpu(&self.context)?.describe(),
            Problem::Longformer(p) => p.plan_webgpu(&self.context)?.describe(),
            Problem::Lsh(p) => p.plan_webgpu(&self.context)?.describe(),
            Problem::TransformerXl(p) => p.plan_webgpu(&self.context)?.describe(),
        })
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
pub(crate) fn sources(problem: &Problem, here: bool) -> Result<Vec<(String, String)>> {
    let caps = caps(here)?;
    Ok(match problem {
        Problem::Full(p) => p.sources_webgpu(&caps)?,
        Problem::Longformer(p) => p.sources_webgpu(&caps)?,
        Problem::Lsh(p) => p.sources_webgpu(&caps)?,
        Problem::TransformerXl(p) => p.sources_webgpu(&caps)?,
    })
}

/// The source of the kernel that makes `table`.
#[cfg(feature = "webgpu")]
pub(crate) fn sources_of_table(table: &Sinusoids, here: bool) -> Result<Vec<(String, String)>> {
    Ok(table.sources_webgpu(&caps(here)?)?)
}

/// The source of the kernel that merges two results.
#[cfg(feature = "webgpu")]
pub(crate) fn sources_of_merge(merge: &Merge, here: bool) -> Result<Vec<(String, String)>> {
    Ok(merge.sources_webgpu(&caps(here)?)?)
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

    pub(crate) fn sources(_: &Problem, _here: bool) -> Result<Vec<(String, String)>> {
        declined("webgpu")
    }

    pub(crate) fn sources_of_table(_: &Sinusoids, _here: bool) -> Result<Vec<(String, String)>> {
        declined("webgpu")
    }

    pub(crate) fn sources_of_merge(_: &Merge, _here: bool) -> Result<Vec<(String, String)>> {
        declined("webgpu")
    }
}

#[cfg(not(feature = "webgpu"))]
pub(crate) use absent::{open, report, sources, sources_of_merge, sources_of_table};
