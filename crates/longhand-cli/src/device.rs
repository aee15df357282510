//! Devices by name, and what each can do with a problem file.

use crate::failure::{Failure, Result};
use crate::full_file::FullFile;
use crate::problem_file::{ProblemFile, stored_as};
use crate::results::{Results, from_parts};
use crate::stages::Stages;
use crate::transformer_xl_inputs::Stream;
use crate::{cuda, webgpu};
use longhand::{DType, Full, Longformer, Lsh};
use std::time::Instant;

/// Where attention may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum DeviceKind {
    /// The definition, in f64.
    Reference,
    /// This machine's processor: forward by kernels, gradients as the reference.
    Cpu,
    /// Any GPU, through WebGPU.
    Webgpu,
    /// NVIDIA GPUs, through their driver.
    Cuda,
}

impl DeviceKind {
    /// All of them.
    pub const ALL: [DeviceKind; 4] =
        [DeviceKind::Reference, DeviceKind::Cpu, DeviceKind::Webgpu, DeviceKind::Cuda];

    /// As the command line spells it.
    pub fn name(self) -> &'static str {
        match self {
            DeviceKind::Reference => "reference",
            DeviceKind::Cpu => "cpu",
            DeviceKind::Webgpu => "webgpu",
            DeviceKind::Cuda => "cuda",
        }
    }
}

/// An open device.
pub enum Device {
    /// `reference` or `cpu`.
    Host(DeviceKind),
    /// `webgpu`.
    Webgpu(Box<webgpu::Gpu>),
    /// `cuda`.
    Cuda(Box<cuda::Gpu>),
}

/// What a device made of a problem.
#[derive(Debug, Clone, PartialEq)]
pub struct Computed {
    /// `out`, `lse` and, where computed, gradients.
    pub results: Results,
    /// Why there are no gradients, if they were asked for.
    pub backward_declined: Option<String>,
}

/// Times of one forward pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timing {
    /// The first launch, with compilation; `None` where nothing is compiled.
    pub first_ms: Option<f64>,
    /// The fastest of the launches after it.
    pub best_ms: f64,
    /// Device memory beyond inputs and results.
    pub workspace_bytes: u64,
}

impl From<longhand::cpu::Timing> for Timing {
    fn from(of: longhand::cpu::Timing) -> Self {
        let (first_ms, best_ms) = (Some(of.first_ms), of.best_ms);
        Timing { first_ms, best_ms, workspace_bytes: of.workspace_bytes }
    }
}

impl Device {
    /// Opens a device, or says why it cannot be had.
    pub fn open(kind: DeviceKind) -> Result<Self> {
        match kind {
            DeviceKind::Reference | DeviceKind::Cpu => Ok(Device::Host(kind)),
            DeviceKind::Webgpu => Ok(Device::Webgpu(Box::new(webgpu::open()?))),
            DeviceKind::Cuda => Ok(Device::Cuda(Box::new(cuda::open()?))),
        }
    }

    /// As the command line spells it.
    pub fn name(&self) -> &'static str {
        match self {
            Device::Host(kind) => kind.name(),
            Device::Webgpu(_) => DeviceKind::Webgpu.name(),
            Device::Cuda(_) => DeviceKind::Cuda.name(),
        }
    }

    /// Whether the device computes by kernels that are worth measuring: the reference's are not, and
    /// a simulator's times are a model's.
    pub fn is_measured(&self) -> bool {
        match self {
            Device::Host(kind) => *kind == DeviceKind::Cpu,
            Device::Webgpu(_) => true,
            Device::Cuda(gpu) => !gpu.is_simulated(),
        }
    }

    /// What the device is: an adapter's name, or this machine's processor.
    pub fn adapter(&self) -> String {
        match self {
            Device::Host(DeviceKind::Reference) => "the reference".to_owned(),
            Device::Host(_) => {
                let isa = longhand::cpu::Isa::choose();
                let isa = isa.map_or_else(|why| why.to_string(), |isa| isa.name().to_owned());
                format!("cpu ({isa})")
            }
            Device::Webgpu(gpu) => gpu.name(),
            Device::Cuda(gpu) => gpu.name(),
        }
    }

    /// Computes a problem in `dtype`. Gradients, if asked for, need the file's `grad.out`.
    pub fn compute(&self, file: &ProblemFile, dtype: DType, backward: bool) -> Result<Computed> {
        let results = match self {
            Device::Host(kind) => return on_host(*kind, file, dtype, backward),
            Device::Webgpu(gpu) => gpu.forward(file, dtype)?,
            Device::Cuda(gpu) => gpu.forward(file, dtype)?,
        };
        let reason = || format!("device {}: no backward kernel in this build yet", self.name());
        Ok(Computed { results, backward_declined: backward.then(reason) })
    }

    /// Times each kernel of the forward pass by itself, if the device and the kind know how.
    pub(crate) fn stages(
        &self,
        file: &ProblemFile,
        dtype: DType,
        repeats: usize,
    ) -> Result<Stages> {
        match (self, file) {
            (Device::Webgpu(gpu), ProblemFile::Lsh(file)) => gpu.stages(file, dtype, repeats),
            (Device::Cuda(gpu), ProblemFile::Lsh(file)) => gpu.stages(file, dtype, repeats),
            _ => Err(Failure::declined("--stages: only of op 'lsh' on devices webgpu and cuda")),
        }
    }

    /// Times the forward pass of a problem in `dtype`, best of `repeats`.
    pub fn time(&self, file: &ProblemFile, dtype: DType, repeats: usize) -> Result<Timing> {
        match (self, file) {
            (Device::Webgpu(gpu), _) => gpu.time(file, dtype, repeats),
            (Device::Cuda(gpu), _) => gpu.time(file, dtype, repeats),
            (Device::Host(DeviceKind::Cpu), ProblemFile::Full(file)) => {
                let problem = Full { dtype, ..file.problem };
                Ok(problem.time_cpu(&file.inputs.as_inputs(), repeats)?.into())
            }
            (Device::Host(DeviceKind::Cpu), ProblemFile::Longformer(file)) => {
                let problem = Longformer { dtype, ..file.problem.clone() };
                Ok(problem.time_cpu(&file.inputs.as_inputs(), repeats)?.into())
            }
            (Device::Host(DeviceKind::Cpu), ProblemFile::Lsh(file)) => {
                let problem = Lsh { dtype, ..file.problem.clone() };
                Ok(problem.time_cpu(&file.inputs.as_inputs(), repeats)?.into())
            }
            (Device::Host(DeviceKind::Cpu), ProblemFile::Relative(file)) => {
                let problem = file.problem(Stream::Content, dtype);
                let inputs = file.inputs.as_inputs(Stream::Content);
                Ok(problem.time_cpu(&inputs, repeats)?.into())
            }
            (Device::Host(_), ProblemFile::Full(file)) => {
                let inputs = file.inputs.stored_as::<f64>(dtype);
                on_clock(repeats, || file.problem.reference(&inputs.as_inputs()).map(|_| ()))
            }
            (Device::Host(_), ProblemFile::Longformer(file)) => {
                let inputs = file.inputs.stored_as::<f64>(dtype);
                on_clock(repeats, || file.problem.reference(&inputs.as_inputs()).map(|_| ()))
            }
            (Device::Host(_), ProblemFile::Lsh(file)) => {
                let inputs = file.inputs.stored_as::<f64>(dtype);
                on_clock(repeats, || file.problem.reference(&inputs.as_inputs()).map(|_| ()))
            }
            (Device::Host(_), ProblemFile::Relative(file)) => {
                let inputs = file.inputs.stored_as::<f64>(dtype);
                let inputs = inputs.as_inputs(Stream::Content);
                on_clock(repeats, || file.problem.reference(&inputs).map(|_| ()))
            }
        }
    }
}

/// The fastest of `repeats` runs of `work`.
fn on_clock(
    repeats: usize,
    work: impl Fn() -> std::result::Result<(), longhand::Error>,
) -> Result<Timing> {
    let mut best_ms = f64::INFINITY;
    for _ in 0..repeats.max(1) {
        let start = Instant::now();
        work()?;
        best_ms = best_ms.min(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(Timing { first_ms: None, best_ms, workspace_bytes: 0 })
}

/// By the processor's kernels, or, and for gradients, by the definition in f64; the results rounded as
/// a device stores them.
fn on_host(kind: DeviceKind, file: &ProblemFile, dtype: DType, backward: bool) -> Result<Computed> {
    let forward = match kind {
        DeviceKind::Cpu => Some(on_cpu(file, dtype)?),
        _ => None,
    };
    let backward = backward && file.has_grad_out();
    let mut results = match (forward.is_some() && !backward, file) {
        (true, _) => Results::new(),
        (_, ProblemFile::Full(file)) => full_on_host(file, dtype, backward)?,
        (_, ProblemFile::Longformer(file)) => file.reference::<f64>(dtype, backward)?,
        (_, ProblemFile::Lsh(file)) => file.reference::<f64>(dtype, backward)?,
        (_, ProblemFile::Relative(file)) => file.reference::<f64>(dtype, backward)?,
    };
    results.extend(forward.into_iter().flatten());
    for (name, x) in &mut results {
        let stored = match name.as_str() {
            "lse" | "lse_g" | "lse_rounds" => DType::F32,
            // Gradients of what is f32 on a device.
            "grad.bias" | "grad.bias_table" | "grad.bias_u" | "grad.bias_v" | "grad.bias_s"
            | "grad.seg_embed" => DType::F32,
            "buckets" | "bucket_table" => continue,
            _ => dtype,
        };
        x.iter_mut().for_each(|x| *x = stored.round(*x));
    }
    Ok(Computed { results, backward_declined: None })
}

/// A forward pass by the processor's kernels.
fn on_cpu(file: &ProblemFile, dtype: DType) -> Result<Results> {
    Ok(match file {
        ProblemFile::Full(file) => {
            let problem = Full { dtype, ..file.problem };
            let output = problem.run_cpu(&file.inputs.as_inputs())?;
            from_parts(file, &output, None, dtype)
        }
        ProblemFile::Longformer(file) => {
            let problem = Longformer { dtype, ..file.problem.clone() };
            file.results(&problem.run_cpu(&file.inputs.as_inputs())?, None)
        }
        ProblemFile::Lsh(file) => {
            let problem = Lsh { dtype, ..file.problem.clone() };
            file.results(&problem.run_cpu(&file.inputs.as_inputs())?, None)
        }
        ProblemFile::Relative(file) => {
            let mut results = Results::new();
            for &stream in file.streams() {
                let problem = file.problem(stream, dtype);
                let output = problem.run_cpu(&file.inputs.as_inputs(stream))?;
                file.put(&mut results, stream, &output);
            }
            results
        }
    })
}

fn full_on_host(file: &FullFile, dtype: DType, backward: bool) -> Result<Results> {
    let inputs = file.inputs.stored_as::<f64>(dtype);
    let output = file.problem.reference(&inputs.as_inputs())?;
    let gradients = match file.grad_out.as_ref().filter(|_| backward) {
        Some(g) => {
            let g = stored_as::<f64>(g, dtype);
            Some(file.problem.reference_backward(&inputs.as_inputs(), &g)?)
        }
        None => None,
    };
    Ok(from_parts(file, &output, gradients.as_ref(), dtype))
}
