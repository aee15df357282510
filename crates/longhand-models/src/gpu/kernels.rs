//! The kernels of the layer's operations: one text each for WebGPU and CUDA, the same parameters.

use super::Buffer;
use crate::Result;
use std::sync::OnceLock;

/// What a kernel computes, by its place in [`KERNELS`].
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kernel {
    /// `x wᵀ + b`.
    Linear,
    /// A function of elements of one or two tensors.
    Elements,
    /// Norms of rows, a warp a row.
    Norm,
    /// Rows of a table by index.
    Gather,
    /// Elements from one place of four dimensions to another.
    Copy,
    /// Softmax of rows, a warp a row.
    Softmax,
}

/// A kernel's texts, and how the second of them is launched.
// A build for one kind of GPU reads one text.
#[allow(dead_code)]
pub(crate) struct Text {
    pub(crate) wgsl: &'static str,
    pub(crate) ptx: &'static str,
    pub(crate) entry: &'static str,
    pub(crate) threads: u32,
    /// Bytes of shared memory of a block.
    pub(crate) shared: u32,
}

macro_rules! text {
    ($name:literal, $threads:literal, $shared:literal) => {
        Text {
            wgsl: include_str!(concat!("../../shaders/", $name, ".wgsl")),
            ptx: include_str!(concat!("../../kernels/", $name, ".sm80.ptx")),
            entry: concat!("model_", $name),
            threads: $threads,
            shared: $shared,
        }
    };
}

/// The kernels in the order of [`Kernel`].
pub(crate) static KERNELS: [Text; 6] = [
    text!("linear", 64, 4608),
    text!("elements", 64, 0),
    text!("norm", 32, 0),
    text!("gather", 64, 0),
    text!("copy", 64, 0),
    text!("softmax", 32, 0),
];

/// 32-bit words of a kernel's parameters.
pub(crate) const WORDS: usize = 20;

/// A kernel's parameters.
pub(crate) type Words = [u32; WORDS];

/// What a device makes of the kernels, each when it is first launched.
pub(crate) type Functions<F> = [OnceLock<Result<F>>; KERNELS.len()];

/// Tensors that a kernel reads.
pub(crate) const READS: usize = 3;

/// Those, and the one that it writes.
pub(crate) type Buffers<'a> = [&'a Buffer; READS + 1];

/// Outputs on a side of [`Kernel::Linear`]'s tile.
pub(crate) const TILE: usize = 32;

/// Elements that a workgroup of the kernels of elements writes.
pub(crate) const BLOCK: usize = 64;
