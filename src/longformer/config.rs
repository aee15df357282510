//! Which WGSL kernels compute a problem on a device, and the sources they expand to. No device is
//! touched here.

mod expand;

pub use expand::{Slot, Stage};

pub use crate::full::config::Kernel;

use super::Longformer;
use crate::full::config::{HEAD_DIMS, LANES, rows_and_keys, texture_width};
use crate::webgpu::Caps;
use crate::{DType, Declined, Error, Strides};

/// Workgroups that the global rows are spread over by splitting their keys, at least. Fixed, so
/// that results do not depend on the device.
const GLOBAL_WORKGROUPS: usize = 128;

/// Fewest keys of one split.
const SPLIT_LEN: usize = 512;

/// Rows of K and V that lie in a texture at a time, where one head has not more: what is read back
/// is still in the cache then, and a launch for them is long beside what it costs to begin one.
const PACKED_ROWS: usize = 1 << 14;

/// Everything that the expanded sources depend on; the key of the pipeline cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Config {
    /// The kernel of the local rows.
    pub local: Kernel,
    /// The kernel of the global rows; the same as `local` where there are none.
    pub global: Kernel,
    /// Storage of the large tensors.
    pub dtype: DType,
    /// The head dimension of the kernels.
    pub head_dim: u32,
    /// The problem's is smaller.
    pub padded: bool,
    /// Rows can be loaded four elements at a time.
    pub vec4: bool,
    /// The shader uses the f16 type (else f16 is unpacked from u32).
    pub f16: bool,
    /// There may be globals.
    pub globals: bool,
    /// They have projections of their own.
    pub own_projections: bool,
    /// See [`Longformer::key_padding`].
    pub key_padding: bool,
    /// Some head's keys lie apart.
    pub dilated: bool,
}

/// Picks the kernels for `problem` on a device, or says why there are none.
pub fn select(problem: &Longformer, caps: &Caps) -> Result<Config, Error> {
    problem.validate()?;
    if problem.seqlen > 1 << 30 {
        let reason =
            format!("seqlen {} is above 2^30, which 32-bit positions hold", problem.seqlen);
        return Err(Declined::new(reason).into());
    }
    let head_dim = HEAD_DIMS.into_iter().find(|&d| d as usize >= problem.head_dim).expect("valid");
    let vec4 = loads_by_vec4(problem);
    let globals = problem.max_globals > 0;
    let kernel = |rows, split| match texels_fit(problem, head_dim, caps) {
        true => rows_kernel(head_dim, caps, rows),
        false => tile(problem, head_dim, caps, rows, split),
    };
    let local = kernel(problem.seqlen, false);
    let global = if globals { kernel(problem.max_globals, true) } else { local };
    let config = Config {
        local,
        global,
        dtype: problem.dtype,
        head_dim,
        padded: problem.head_dim != head_dim as usize,
        vec4,
        f16: problem.dtype == DType::F16 && caps.f16 && vec4,
        globals,
        own_projections: problem.has_global_tensors(),
        key_padding: problem.key_padding,
        dilated: problem.dilation.iter().any(|&n| n != 1),
    };
    config.check(caps)?;
    problem.check_bindings(head_dim, caps)?;
    Ok(config)
}

/// Whether rows begin and end on multiples of four elements.
fn loads_by_vec4(problem: &Longformer) -> bool {
    let four = |s: &Strides| [s.batch, s.seqlen, s.head].iter().all(|n| n.is_multiple_of(4));
    problem.head_dim.is_multiple_of(4) && problem.tensors().iter().all(|(_, s)| four(s))
}

/// Whether this is a CPU adapter whose textures take the problem.
fn texels_fit(problem: &Longformer, head_dim: u32, caps: &Caps) -> bool {
    let kernel = rows_kernel(head_dim, caps, problem.seqlen);
    let fits = |slot: Slot| {
        let size = kernel.texture_size(head_dim, slot.texels(), problem.texel_rows(slot));
        size.into_iter().all(|n| n <= caps.max_texture_size)
    };
    caps.cpu && [Slot::KvTexels, Slot::MarkTexels].into_iter().all(fits)
}

/// The kernel for CPU adapters for so many rows of each head: no more to an invocation than there
/// are, since those would only be computed for nothing.
fn rows_kernel(head_dim: u32, caps: &Caps, rows: usize) -> Kernel {
    let (most, keys) = match head_dim {
        // A step's keys share the reading and writing of O; a fourth takes longer to compile and
        // gains little.
        64 => (4, 3),
        _ => rows_and_keys(head_dim),
    };
    let rows = rows.div_ceil(LANES as usize).clamp(1, most as usize) as u32;
    Kernel::Rows { rows, keys, texture_width: texture_width(caps) }
}

/// The tile kernel for so many rows of each head.
fn tile(problem: &Longformer, head_dim: u32, caps: &Caps, rows: usize, split: bool) -> Kernel {
    let few_rows = rows <= 8;
    // Accumulators of an invocation: MR · D / TC scalars, at most 64.
    let block_m = match (few_rows, head_dim) {
        (true, _) => 8,
        (false, 192..) => 16,
        _ => 32,
    };
    let (tr, tc) = (8, 8);
    Kernel::Tile {
        block_m,
        tr,
        tc,
        dc: 32,
        stage_f16: problem.dtype == DType::F16 && caps.f16 && loads_by_vec4(problem),
        subgroups: caps.subgroup_size.is_some_and(|n| n >= tc),
        split,
    }
}

impl Longformer {
    /// What does not fit a binding is declined: one head's rows see keys of the whole sequence.
    fn check_bindings(&self, head_dim: u32, caps: &Caps) -> Result<(), Declined> {
        let tensor = |(name, strides): (&'static str, Strides)| {
            (name, self.span(&strides) as u64 * self.dtype.bytes() as u64)
        };
        let mut all: Vec<(&str, u64)> = self.tensors().into_iter().map(tensor).collect();
        all.push(("lse", self.lse_len() as u64 * 4));
        all.push(("global_indices", (self.batch * self.max_globals) as u64 * 4));
        all.push(("key_valid", (self.batch * self.seqlen) as u64));
        all.push(("marks", self.marks_bytes()));
        all.push(("partial", self.partial_bytes(head_dim)));
        caps.binds(&all)
    }

    /// Rows of a texture: of K and V, per sequence and head that lie in it at a time; of marks,
    /// texels.
    pub(super) fn texel_rows(&self, slot: Slot) -> u64 {
        match slot {
            Slot::MarkTexels => (self.batch * (1 + self.max_globals + self.seqlen)) as u64,
            _ => (self.packed_heads() * self.seqlen) as u64,
        }
    }

    /// How many (batch, head) pairs share the texture of K and V at a time.
    pub(super) fn packed_heads(&self) -> usize {
        (PACKED_ROWS / self.seqlen.max(1)).clamp(1, (self.batch * self.heads).max(1))
    }

    /// Bytes of what is found out about positions: see `shaders/longformer_prepare.wgsl`.
    pub(super) fn marks_bytes(&self) -> u64 {
        if self.max_globals == 0 && !self.key_padding {
            return 0;
        }
        (self.batch * (1 + self.max_globals + self.seqlen.div_ceil(16))) as u64 * 4
    }

    /// Bytes of the global rows' parts.
    pub(super) fn partial_bytes(&self, head_dim: u32) -> u64 {
        let rows = self.splits().0 * self.batch * self.heads * self.max_globals;
        rows as u64 * u64::from(head_dim + 2) * 4
    }

    /// Into how many parts of how many keys the global rows' keys are split.
    pub(super) fn splits(&self) -> (usize, usize) {
        let blocks = (self.max_globals.div_ceil(32) * self.batch * self.heads).max(1);
        let wanted = GLOBAL_WORKGROUPS.div_ceil(blocks);
        let splits = wanted.min(self.seqlen.div_ceil(SPLIT_LEN)).max(1);
        let len = self.seqlen.div_ceil(splits).next_multiple_of(32).max(32);
        (self.seqlen.div_ceil(len).max(1), len)
    }
}

impl Config {
    /// The same kernels for tensors whose rows begin anywhere. Tile and staging stay, so they fit
    /// wherever the others fit.
    pub fn with_scalar_loads(self) -> Self {
        Config { vec4: false, ..self }
    }

    /// Whether positions differ: some are global, or not valid.
    pub fn marked(&self) -> bool {
        self.globals || self.key_padding
    }

    /// Workgroup memory of a kernel of this launch.
    pub fn workgroup_bytes(&self, stage: Stage) -> u32 {
        let tile_keys = |kernel: &Kernel| match kernel {
            Kernel::Tile { .. } if self.marked() => kernel.block_n() * 4,
            _ => 0,
        };
        match stage {
            // Rows of vec4s are stored as they are.
            Stage::Local if self.vec4 && matches!(self.local, Kernel::Rows { .. }) => 0,
            Stage::Local => self.local.workgroup_bytes(self.head_dim) + tile_keys(&self.local),
            Stage::Global => {
                // The tile kernel shares the number of globals, too.
                let shared = if matches!(self.global, Kernel::Tile { .. }) { 16 } else { 0 };
                self.global.workgroup_bytes(self.head_dim) + tile_keys(&self.global) + shared
            }
            Stage::Prepare | Stage::Pack | Stage::PackGlobal | Stage::Combine => 0,
        }
    }

    fn check(&self, caps: &Caps) -> Result<(), Declined> {
        // The preparing kernel has the most.
        let threads = if self.marked() { 256 } else { self.local.threads().max(LANES) };
        for stage in self.stages() {
            let buffers = self.slots(stage).iter().filter(|s| s.is_storage_buffer()).count() as u32;
            caps.allows(self.workgroup_bytes(stage), buffers, threads)?;
        }
        Ok(())
    }
}
