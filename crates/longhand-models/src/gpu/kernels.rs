//! The kernels of the layer's operations: one text each for WebGPU and CUDA, the same parameters.

use crate::Result;
use std::sync::OnceLock;

macro_rules! kernels {
    ($($(#[$doc:meta])* $kernel:ident, $name:literal: $threads:literal, $shared:literal;)*) => {
        /// What a kernel computes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Kernel {
            $($(#[$doc])* $kernel,)*
        }

        impl Kernel {
            /// How many there are.
            pub(crate) const COUNT: usize = [$($name),*].len();

            /// The WGSL text.
            #[cfg(feature = "webgpu")]
            pub(crate) fn wgsl(self) -> &'static str {
                match self {
                    $(Kernel::$kernel => include_str!(concat!("../../shaders/", $name, ".wgsl")),)*
                }
            }

            /// The PTX text and its entry, the threads of its blocks and the bytes of shared memory
            /// they have.
            #[cfg(feature = "cuda")]
            pub(crate) fn ptx(self) -> (&'static str, &'static str, u32, u32) {
                match self {
                    $(Kernel::$kernel => {
                        let text = include_str!(concat!("../../kernels/", $name, ".sm80.ptx"));
                        (text, concat!("model_", $name), $threads, $shared)
                    })*
                }
            }
        }
    };
}

kernels! {
    /// `x wᵀ + b`.
    Linear, "linear": 64, 4608;
    /// A function of elements of one or two tensors.
    Elements, "elements": 64, 0;
    /// Norms of rows, a warp a row.
    Norm, "norm": 32, 0;
    /// Rows of a table by index.
    Gather, "gather": 64, 0;
    /// Elements from one place of four dimensions to another.
    Copy, "copy": 64, 0;
    /// Softmax of rows, a warp a row.
    Softmax, "softmax": 32, 0;
}

/// 32-bit words of a kernel's parameters.
pub(crate) const WORDS: usize = 20;

/// What a device makes of the kernels, each when it is first launched.
pub(crate) type Functions<F> = [OnceLock<Result<F>>; Kernel::COUNT];

/// Tensors that a kernel reads.
pub(crate) const READS: usize = 3;

/// Outputs on a side of [`Kernel::Linear`]'s tile.
pub(crate) const TILE: usize = 32;

/// Elements that a workgroup of the kernels of elements writes.
pub(crate) const BLOCK: usize = 64;
