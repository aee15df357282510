//! Tiles of the attention kernels, and what follows from one for their templates: shared by the
//! kinds of attention.

use crate::{DType, Strides};
use minijinja::{Value, context};

/// Head dimensions that a kernel is expanded for; others are padded inside it.
pub const HEAD_DIMS: [u32; 6] = [32, 64, 96, 128, 192, 256];

/// The work of one CTA of the forward kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tile {
    /// Query rows of a CTA.
    pub block_m: u32,
    /// Keys of a tile.
    pub block_n: u32,
    /// Query rows of a warp, 16 or 32.
    pub rows: u32,
    /// Q stays in registers (else it is read from shared memory in every tile).
    pub q_in_registers: bool,
}

/// The head dimension of the kernel for a problem's, which was validated.
pub(crate) fn kernel_head_dim(head_dim: usize) -> u32 {
    HEAD_DIMS.into_iter().find(|&d| d as usize >= head_dim).expect("validated")
}

/// Whether rows begin and end on multiples of 16 bytes.
pub(crate) fn loads_by_chunks(dtype: DType, head_dim: usize, tensors: &[Strides]) -> bool {
    let chunk = 16 / dtype.bytes();
    let whole = |s: &Strides| [s.batch, s.seqlen, s.head].iter().all(|n| n.is_multiple_of(chunk));
    head_dim.is_multiple_of(chunk) && tensors.iter().all(whole)
}

/// How a CTA copies, keeps and stores rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows {
    pub(crate) tile: Tile,
    pub(crate) threads: u32,
    pub(crate) dtype: DType,
    /// The kernel's, which the row is padded to in shared memory.
    pub(crate) head_dim: u32,
    pub(crate) padded: bool,
    pub(crate) vec: bool,
}

impl Rows {
    pub(crate) fn row_bytes(&self) -> u32 {
        self.head_dim * self.dtype.bytes() as u32
    }

    /// Bytes of shared memory: Q, and two tiles each of K and V.
    pub(crate) fn shared_bytes(&self) -> u32 {
        (self.tile.block_m + 4 * self.tile.block_n) * self.row_bytes()
    }

    /// Lanes side by side on a row: neighbours read neighbouring chunks, and a thread's rows are a
    /// multiple of 8 apart, so that they share one permutation.
    fn lanes(&self) -> u32 {
        let chunks = self.row_bytes() / 16;
        (1 << chunks.trailing_zeros()).min(16).min(self.threads / 8)
    }

    /// What the macros that copy rows are given.
    pub(crate) fn copied(&self) -> Value {
        let lanes = self.lanes();
        context! {
            row_step => self.threads / lanes,
            row_bytes => self.row_bytes(),
            row_chunks => self.row_bytes() / 16 / lanes,
            elem => self.dtype.bytes(),
            chunk_step => lanes * 16,
            vec => self.vec,
            padded => self.padded,
        }
    }

    /// What the templates are given.
    pub(crate) fn values(&self) -> Value {
        let Tile { block_m, block_n, rows, q_in_registers } = self.tile;
        let row_bytes = self.row_bytes();
        let lanes = self.lanes();
        let key_mask = if row_bytes.is_multiple_of(128) { 7 } else { 3 };
        context! {
            block_m, block_n, rows, q_in_registers, row_bytes, key_mask,
            threads => self.threads,
            row_chunks => row_bytes / 16 / lanes,
            dtype => self.dtype.name(),
            head_dim => self.head_dim,
            copy_lanes => lanes,
            copy_shift => lanes.trailing_zeros(),
            row_shift => (self.threads / lanes).trailing_zeros(),
            store_shift => (32 / lanes).trailing_zeros(),
            xors => if key_mask == 7 { 4 } else { 2 },
            padded => self.padded,
            vec => self.vec,
        }
    }
}
