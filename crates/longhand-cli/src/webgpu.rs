//! The WebGPU device: the one place of this program that speaks to that backend.

use crate::device::Timing;
use crate::failure::{Failure, Result};
use crate::problem_file::OwnedInputs;
use longhand::Full;
use longhand::full::Output;

/// An open GPU.
pub struct Gpu {}

/// What there is to say about the GPUs of this machine.
pub(crate) struct Report {
    /// A line for each adapter.
    pub(crate) adapters: Vec<String>,
    /// The adapter that would be used, with its capabilities; or why there is none.
    pub(crate) opened: Result<(Gpu, Vec<String>)>,
}

const NOT_YET: &str = "device webgpu: not in this build yet";

impl Gpu {
    pub(crate) fn open() -> Result<Self> {
        Err(Failure::declined(NOT_YET))
    }

    pub(crate) fn name(&self) -> String {
        String::new()
    }

    pub(crate) fn forward(&self, _: &Full, _: &OwnedInputs<f32>) -> Result<Output<f32>> {
        Err(Failure::declined(NOT_YET))
    }

    pub(crate) fn time(&self, _: &Full, _: &OwnedInputs<f32>, _: usize) -> Result<Timing> {
        Err(Failure::declined(NOT_YET))
    }

    /// The kernel variant and tile sizes of a problem.
    pub(crate) fn describe(&self, _: &Full) -> Result<String> {
        Err(Failure::declined(NOT_YET))
    }
}

/// Looks at every adapter.
pub(crate) fn report() -> Report {
    Report {
        adapters: Vec::new(),
        opened: Gpu::open().map(|gpu| (gpu, Vec::new())),
    }
}

/// The WGSL of a problem: (name, text) of each kernel. With `here`, for this machine's GPU, else
/// for WebGPU's guaranteed limits.
pub(crate) fn sources(_: &Full, _here: bool) -> Result<Vec<(String, String)>> {
    Err(Failure::declined(NOT_YET))
}
