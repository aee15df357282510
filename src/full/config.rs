//! Which WGSL kernel computes a problem on a device, and the source it expands to. No device is
//! touched here.

mod expand;

pub use expand::{Slot, Stage};

use super::{Buckets, Full};
use crate::webgpu::Caps;
use crate::{DType, Declined, Error, Strides};

/// Head dimensions that a kernel is expanded for; others are padded inside it.
pub const HEAD_DIMS: [u32; 6] = [32, 64, 96, 128, 192, 256];

/// Below this many workgroups a GPU is not filled, and the keys are split.
pub(crate) const FEW_WORKGROUPS: usize = 64;

/// Keys of one split. Fixed, so that results do not depend on the device.
pub const SPLIT_LEN: usize = 512;

/// The shape of the forward kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// Register tiles over workgroup memory: GPUs.
    Tile {
        /// Query rows of a workgroup.
        block_m: u32,
        /// Row groups of invocations; each invocation owns `block_m / tr` rows.
        tr: u32,
        /// Invocations that share a row; a tile has `4 tc` keys.
        tc: u32,
        /// Elements of the head dimension staged at a time.
        dc: u32,
        /// Q, K and V are staged as f16.
        stage_f16: bool,
        /// Rows are reduced by subgroup shuffles.
        subgroups: bool,
        /// The keys are split over workgroups and a second kernel combines the parts.
        split: bool,
    },
    /// Whole rows in registers over texture reads: CPU adapters. A first kernel copies q, k and v
    /// to textures.
    Rows {
        /// Query rows of an invocation.
        rows: u32,
        /// Keys of a step.
        keys: u32,
        /// Texels along the textures.
        texture_width: u32,
    },
}

/// Invocations of a workgroup of [`Kernel::Rows`]: one vector of a software rasteriser.
pub(crate) const LANES: u32 = 8;

/// Everything that the expanded source depends on; the key of the pipeline cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Config {
    /// Which kernel and its tile sizes.
    pub kernel: Kernel,
    /// Storage of the four large tensors.
    pub dtype: DType,
    /// The head dimension of the kernel.
    pub head_dim: u32,
    /// The problem's is smaller.
    pub padded: bool,
    /// Rows can be loaded four elements at a time.
    pub vec4: bool,
    /// The shader uses the f16 type (else f16 is unpacked from u32).
    pub f16: bool,
    /// See [`Full::softcap`].
    pub softcap: bool,
    /// See [`Full::alibi`].
    pub alibi: bool,
    /// See [`Full::bias`].
    pub bias: bool,
    /// See [`Full::buckets`].
    pub buckets: Option<Buckets>,
    /// See [`Full::key_padding`].
    pub key_padding: bool,
    /// See [`Full::ragged`].
    pub ragged: bool,
}

/// Picks the kernel for `problem` on a device, or says why there is none.
pub fn select(problem: &Full, caps: &Caps) -> Result<Config, Error> {
    problem.validate()?;
    let s = &problem.shape;
    if s.seqlen_q.max(s.seqlen_k) > 1 << 30 {
        let reason = format!(
            "seqlen {} is above 2^30, which 32-bit positions hold",
            s.seqlen_q.max(s.seqlen_k)
        );
        return Err(Declined::new(reason).into());
    }
    let head_dim = HEAD_DIMS.into_iter().find(|&d| d as usize >= s.head_dim).expect("validated");
    let config = Config {
        kernel: rows(problem, head_dim, caps).unwrap_or_else(|| tile(problem, head_dim, caps)),
        dtype: problem.dtype,
        head_dim,
        padded: s.head_dim != head_dim as usize,
        vec4: loads_by_vec4(problem),
        f16: problem.dtype == DType::F16 && caps.f16 && loads_by_vec4(problem),
        softcap: problem.softcap > 0.0,
        alibi: problem.alibi,
        bias: problem.bias.is_some(),
        buckets: problem.buckets,
        key_padding: problem.key_padding,
        ragged: problem.ragged.is_some(),
    };
    config.check(caps)?;
    Ok(config)
}

/// Whether rows begin and end on multiples of four elements.
fn loads_by_vec4(problem: &Full) -> bool {
    let l = &problem.layout;
    let four = |s: &Strides| [s.batch, s.seqlen, s.head].iter().all(|n| n.is_multiple_of(4));
    problem.shape.head_dim.is_multiple_of(4) && [l.q, l.k, l.v, l.out].iter().all(four)
}

/// Workgroup memory of a head's biases by buckets.
fn table_bytes(buckets: &Option<Buckets>) -> u32 {
    buckets.map_or(0, |b| 4 * b.num_buckets as u32).next_multiple_of(16)
}

/// Texels along the textures of [`Kernel::Rows`].
pub(crate) fn texture_width(caps: &Caps) -> u32 {
    (caps.max_texture_size / 2).min(4096)
}

/// Rows of an invocation of [`Kernel::Rows`] and keys of a step.
pub(crate) fn rows_and_keys(head_dim: u32) -> (u32, u32) {
    // More rows share a key's reads, but are spilled and take longer to compile. Up to 64 the fastest
    // that lavapipe compiles within a second; beyond, it takes longer whatever the shape.
    match head_dim {
        32 => (6, 2),
        64 | 96 => (4, 1),
        128 => (3, 1),
        _ => (2, 1),
    }
}

/// The kernel for CPU adapters, if this is one and the textures are large enough.
fn rows(problem: &Full, head_dim: u32, caps: &Caps) -> Option<Kernel> {
    let width = texture_width(caps);
    let (most, keys) = rows_and_keys(head_dim);
    let kernel = |rows| Kernel::Rows { rows, keys, texture_width: width };
    // Biases by buckets need workgroup memory too.
    let room = caps.max_workgroup_storage.saturating_sub(table_bytes(&problem.buckets));
    let has_room = |rows: &u32| kernel(*rows).workgroup_bytes(head_dim) <= room;
    let kernel = kernel((1..=most).rev().find(has_room).unwrap_or(1));
    let fits = |slot| {
        let [width, height] = kernel.texture_size(
            head_dim,
            slot,
            problem.texel_rows(slot, problem.shape.batch, problem.shape.heads_kv),
        );
        width <= caps.max_texture_size && height <= caps.max_texture_size
    };
    let textures = [Slot::QTexels, Slot::KvTexels, Slot::ValidTexels];
    (caps.cpu && textures.into_iter().all(fits)).then_some(kernel)
}

impl Full {
    /// Rows of a texture: of q per query head, of K and V per key head, valid keys per sequence.
    pub(super) fn texel_rows(&self, slot: Slot, batches: usize, heads_kv: usize) -> u64 {
        let s = &self.shape;
        let batches = if self.ragged.is_some() { 1 } else { batches as u64 };
        let (rows_q, rows_k) = (self.rows_q() as u64, self.rows_k() as u64);
        match slot {
            Slot::QTexels => batches * (heads_kv * (s.heads_q / s.heads_kv)) as u64 * rows_q,
            Slot::KvTexels => batches * heads_kv as u64 * rows_k,
            Slot::ValidTexels if self.key_padding => batches * rows_k,
            _ => 0,
        }
    }
}

fn tile(problem: &Full, head_dim: u32, caps: &Caps) -> Kernel {
    let s = &problem.shape;
    let blocks = |block_m: u32| s.seqlen_q.div_ceil(block_m as usize) * s.batch * s.heads_q;
    let partial_bytes = (s.seqlen_k.div_ceil(SPLIT_LEN) * s.seqlen_q * s.batch * s.heads_q) as u64
        * u64::from(head_dim + 2)
        * 4;
    let split = blocks(32) < FEW_WORKGROUPS
        && s.seqlen_k >= 2 * SPLIT_LEN
        && partial_bytes <= caps.max_binding_size;
    let few_rows = s.seqlen_q <= 8;
    // Accumulators of an invocation: MR · D / TC scalars, at most 64.
    let block_m = match (few_rows, head_dim) {
        (true, _) => 8,
        (false, 192..) => 16,
        _ => 32,
    };
    let (tr, tc) = (8, 8);
    let subgroups = caps.subgroup_size.is_some_and(|n| n >= tc);
    let stage_f16 = problem.dtype == DType::F16 && caps.f16 && loads_by_vec4(problem);
    let wide = |block_m, dc| Kernel::Tile { block_m, tr, tc, dc, stage_f16, subgroups, split };
    let candidates = match (few_rows, head_dim) {
        // 64 rows where the adapter has the memory and the registers allow it.
        (false, ..=64) if blocks(64) >= FEW_WORKGROUPS => vec![wide(64, 32), wide(block_m, 32)],
        _ => vec![wide(block_m, 32)],
    };
    let fits = |k: &Kernel| k.workgroup_bytes(head_dim) <= caps.max_workgroup_storage;
    let smallest = candidates[candidates.len() - 1];
    candidates.into_iter().find(fits).unwrap_or(smallest)
}

impl Kernel {
    /// Query rows of one workgroup.
    pub fn block_m(&self) -> u32 {
        match *self {
            Kernel::Tile { block_m, .. } => block_m,
            Kernel::Rows { rows, .. } => LANES * rows,
        }
    }

    /// Keys of one tile.
    pub fn block_n(&self) -> u32 {
        match *self {
            Kernel::Tile { tc, .. } => 4 * tc,
            Kernel::Rows { keys, .. } => keys,
        }
    }

    /// Invocations of one workgroup.
    pub fn threads(&self) -> u32 {
        match *self {
            Kernel::Tile { tr, tc, .. } => tr * tc,
            Kernel::Rows { .. } => LANES,
        }
    }

    /// Whether a combining kernel follows.
    pub fn splits(&self) -> bool {
        match *self {
            Kernel::Tile { split, .. } => split,
            Kernel::Rows { .. } => false,
        }
    }

    /// Workgroup memory: every variable rounded up to 16 bytes.
    pub fn workgroup_bytes(&self, head_dim: u32) -> u32 {
        self.workgroup_bytes_with(head_dim, 0)
    }

    /// The same with so many rows staged beside those of Q and K.
    pub(crate) fn workgroup_bytes_with(&self, head_dim: u32, band: u32) -> u32 {
        match *self {
            Kernel::Tile { block_m, tc, stage_f16, subgroups, .. } => {
                let stage = self.stage(head_dim, band).0 * if stage_f16 { 8 } else { 16 };
                let ps = block_m * (self.block_n() / 4 + 1) * 16;
                let red = if subgroups { 0 } else { block_m * tc * 4 };
                stage.next_multiple_of(16) + ps + red + 16
            }
            Kernel::Rows { rows, .. } => LANES * rows * head_dim * 4,
        }
    }

    /// Of the staging array: its length, where V begins in it, and the V rows it takes; in vec4s.
    fn stage(&self, head_dim: u32, band: u32) -> (u32, u32, u32) {
        match *self {
            Kernel::Tile { block_m, dc, .. } => {
                let ld = dc / 4 + 1;
                let qk = (block_m + self.block_n() + band) * ld;
                // Q stays where it is if it comes in one piece.
                let base = if dc >= head_dim { block_m * ld } else { 0 };
                let room = (qk - base) / (head_dim / 4);
                let rows = (1 << room.max(1).ilog2()).clamp(4, self.block_n());
                (qk.max(base + rows * head_dim / 4), base, rows)
            }
            Kernel::Rows { .. } => (0, 0, 0),
        }
    }

    /// How many texture rows of `slot` lie side by side, as a power of two's exponent.
    pub(crate) fn texel_shift(&self, head_dim: u32, slot: Slot) -> u32 {
        let Kernel::Rows { texture_width, .. } = *self else { return 0 };
        (texture_width / texels_of_row(head_dim, slot)).max(1).ilog2()
    }

    /// Width and height of the texture that holds so many rows of `slot`. Never a power of two:
    /// lavapipe compiles a kernel anew when a texture's size becomes one or ceases to be.
    pub fn texture_size(&self, head_dim: u32, slot: Slot, rows: u64) -> [u32; 2] {
        let shift = self.texel_shift(head_dim, slot);
        let height = rows.max(1).div_ceil(1 << shift).min(u64::from(u32::MAX));
        let side_by_side = if height == 1 { rows.max(1) as u32 } else { 1 << shift };
        let odd = |n: u32| if n.is_power_of_two() { n.saturating_add(1) } else { n };
        [odd(side_by_side * texels_of_row(head_dim, slot)), odd(height as u32)]
    }
}

/// Texels of a row of q, of a key and its value, or of a key's validity.
pub(crate) fn texels_of_row(head_dim: u32, slot: Slot) -> u32 {
    match slot {
        Slot::QTexels => head_dim / 4,
        Slot::KvTexels => head_dim / 2,
        _ => 1,
    }
}

impl Config {
    /// The same kernel for tensors whose rows begin anywhere. Tile and staging stay, so it fits
    /// wherever the other fits.
    pub fn with_scalar_loads(self) -> Self {
        Config { vec4: false, ..self }
    }

    /// Workgroup memory of a stage.
    pub fn workgroup_bytes(&self, stage: Stage) -> u32 {
        match stage {
            Stage::Forward => {
                self.kernel.workgroup_bytes(self.head_dim) + table_bytes(&self.buckets)
            }
            Stage::Pack | Stage::Combine => 0,
        }
    }

    fn check(&self, caps: &Caps) -> Result<(), Declined> {
        let buffers = |stage: Stage| {
            self.slots(stage).into_iter().filter(Slot::is_storage_buffer).count() as u32
        };
        let buffers = self.stages().into_iter().map(buffers).max().unwrap_or(0);
        caps.allows(self.workgroup_bytes(Stage::Forward), buffers, self.kernel.threads())
    }
}
