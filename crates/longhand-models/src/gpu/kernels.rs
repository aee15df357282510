//! The kernels of the layer's operations: one text each for WebGPU and CUDA, the same parameters.

/// What a kernel computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// `x wᵀ + b`.
    Linear,
    /// A function of elements of one or two tensors.
    Elements,
    /// Norms of rows.
    Norm,
    /// Rows of a table by index.
    Gather,
    /// Elements from one place of four dimensions to another.
    Copy,
    /// Softmax of rows.
    Softmax,
}

/// 32-bit words of a kernel's parameters.
pub(crate) const WORDS: usize = 20;

/// Tensors that a kernel reads.
pub(crate) const READS: usize = 3;

/// Outputs on a side of [`Kernel::Linear`]'s tile.
pub(crate) const TILE: usize = 32;

/// Elements that a workgroup of the kernels of elements writes.
pub(crate) const BLOCK: usize = 64;

impl Kernel {
    pub(crate) const ALL: [Kernel; 6] = [
        Kernel::Linear,
        Kernel::Elements,
        Kernel::Norm,
        Kernel::Gather,
        Kernel::Copy,
        Kernel::Softmax,
    ];

    /// The WGSL text.
    #[cfg(feature = "webgpu")]
    pub(crate) fn wgsl(self) -> &'static str {
        match self {
            Kernel::Linear => include_str!("../../shaders/linear.wgsl"),
            Kernel::Elements => include_str!("../../shaders/elements.wgsl"),
            Kernel::Norm => include_str!("../../shaders/norm.wgsl"),
            Kernel::Gather => include_str!("../../shaders/gather.wgsl"),
            Kernel::Copy => include_str!("../../shaders/copy.wgsl"),
            Kernel::Softmax => include_str!("../../shaders/softmax.wgsl"),
        }
    }

    /// The PTX text.
    #[cfg(feature = "cuda")]
    pub(crate) fn ptx(self) -> &'static str {
        match self {
            Kernel::Linear => include_str!("../../kernels/linear.sm80.ptx"),
            Kernel::Elements => include_str!("../../kernels/elements.sm80.ptx"),
            Kernel::Norm => include_str!("../../kernels/norm.sm80.ptx"),
            Kernel::Gather => include_str!("../../kernels/gather.sm80.ptx"),
            Kernel::Copy => include_str!("../../kernels/copy.sm80.ptx"),
            Kernel::Softmax => include_str!("../../kernels/softmax.sm80.ptx"),
        }
    }

    /// The PTX text's entry, the threads of its blocks and the bytes of shared memory they have.
    #[cfg(feature = "cuda")]
    pub(crate) fn launch(self) -> (&'static str, u32, u32) {
        match self {
            Kernel::Linear => ("model_linear", 64, 4608),
            Kernel::Elements => ("model_elements", 64, 0),
            // A warp a row.
            Kernel::Norm => ("model_norm", 32, 0),
            Kernel::Gather => ("model_gather", 64, 0),
            Kernel::Copy => ("model_copy", 64, 0),
            Kernel::Softmax => ("model_softmax", 32, 0),
        }
    }
}
