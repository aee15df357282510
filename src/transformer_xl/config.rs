//! Which WGSL kernels compute a problem on a device, and the sources they expand to. No device is
//! touched here.

mod expand;

pub use crate::full::config::Kernel;
pub use expand::{Slot, Stage};

use super::TransformerXl;
use crate::full::config::{FEW_WORKGROUPS, HEAD_DIMS, LANES, SPLIT_LEN, texture_width};
use crate::webgpu::Caps;
use crate::{Declined, Error, Strides};

/// The longest sequences: distances, and chunks around them, are 32-bit numbers.
const MAX_SEQLEN: usize = 1 << 29;

/// Everything that the expanded sources depend on; the key of the pipeline cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Config {
    /// Which kernel and its tile sizes.
    pub kernel: Kernel,
    /// Storage of the large tensors.
    pub dtype: crate::DType,
    /// The head dimension of the kernels.
    pub head_dim: u32,
    /// The problem's is smaller.
    pub padded: bool,
    /// Rows can be loaded four elements at a time.
    pub vec4: bool,
    /// The shader uses the f16 type (else f16 is unpacked from u32).
    pub f16: bool,
    /// See [`TransformerXl::memory`].
    pub memory: bool,
    /// See [`TransformerXl::chunks`].
    pub chunked: bool,
    /// See [`TransformerXl::segments`].
    pub segments: bool,
    /// See [`TransformerXl::perm_mask`].
    pub perm_mask: bool,
    /// See [`TransformerXl::key_padding`].
    pub key_padding: bool,
    /// See [`TransformerXl::targets`].
    pub targets: bool,
    /// A mask may forbid the query's own position, which is attended all the same.
    pub own_position: bool,
}

/// Picks the kernels for `problem` on a device, or says why there are none.
pub fn select(problem: &TransformerXl, caps: &Caps) -> Result<Config, Error> {
    problem.validate()?;
    let s = &problem.shape;
    let longest = s.seqlen_q.max(s.seqlen_k).max(problem.rows).max(problem.segment_len());
    if longest > MAX_SEQLEN {
        let reason = format!("seqlen {longest} is above 2^29, which 32-bit distances hold");
        return Err(Declined::new(reason).into());
    }
    let head_dim = HEAD_DIMS.into_iter().find(|&d| d as usize >= s.head_dim).expect("validated");
    let vec4 = loads_by_vec4(problem);
    let masked = problem.perm_mask || problem.key_padding;
    let config = Config {
        kernel: match rows(problem, head_dim, caps) {
            Some(kernel) => kernel,
            None => tile(problem, head_dim, caps),
        },
        dtype: problem.dtype,
        head_dim,
        padded: s.head_dim != head_dim as usize,
        vec4,
        f16: problem.dtype == crate::DType::F16 && caps.f16 && vec4,
        memory: problem.memory.is_some(),
        chunked: problem.chunks.is_some(),
        segments: problem.segments,
        perm_mask: problem.perm_mask,
        key_padding: problem.key_padding,
        targets: problem.targets.is_some(),
        // Window and chunks never exclude it.
        own_position: problem.own_position && masked,
    };
    config.check(caps)?;
    problem.check_bindings(&config, caps)?;
    Ok(config)
}

/// Whether rows begin and end on multiples of four elements.
fn loads_by_vec4(problem: &TransformerXl) -> bool {
    let four = |s: &Strides| [s.batch, s.seqlen, s.head].iter().all(|n| n.is_multiple_of(4));
    let tensors = problem.tensors();
    problem.shape.head_dim.is_multiple_of(4) && tensors.iter().all(|(_, s, _)| four(s))
}

/// Rows of an invocation of [`Kernel::Rows`] and keys of a step: as full attention's, but for two
/// keys where rows of the table would else be moved in registers for each. Three rows at 64 compile
/// half a second sooner and take a tenth longer.
fn rows_and_keys(head_dim: u32) -> (u32, u32) {
    match head_dim {
        64 => (4, 2),
        96 => (3, 2),
        _ => crate::full::config::rows_and_keys(head_dim),
    }
}

/// The kernel for CPU adapters, if this is one and the textures are large enough.
fn rows(problem: &TransformerXl, head_dim: u32, caps: &Caps) -> Option<Kernel> {
    let (most, keys) = rows_and_keys(head_dim);
    // Where one row to an invocation is enough, more would only be computed for nothing.
    // Nor do rows at positions of their own share rows of the table.
    let few = problem.shape.seqlen_q <= LANES as usize || problem.targets.is_some();
    let rows = if few { 1 } else { most };
    let kernel = Kernel::Rows { rows, keys, texture_width: texture_width(caps) };
    let fits = |slot: Slot| {
        let size = kernel.texture_size(head_dim, slot.texels(), problem.texel_rows(slot));
        size.into_iter().all(|n| n <= caps.max_texture_size)
    };
    (caps.cpu && Slot::TEXTURES.into_iter().all(fits)).then_some(kernel)
}

/// The kernel for GPUs: of those whose tiles fit the workgroup memory, the one with the largest.
fn tile(problem: &TransformerXl, head_dim: u32, caps: &Caps) -> Kernel {
    let s = &problem.shape;
    let blocks = s.seqlen_q.div_ceil(32) * s.batch * s.heads_q;
    let partial = problem.partial_bytes(head_dim, s.seqlen_k.div_ceil(SPLIT_LEN));
    let split =
        blocks < FEW_WORKGROUPS && s.seqlen_k >= 2 * SPLIT_LEN && partial <= caps.max_binding_size;
    // Accumulators of an invocation: MR · D / TC scalars, at most 64.
    let block_m = match (s.seqlen_q <= 8, head_dim) {
        (true, _) => 8,
        (false, 192..) => 16,
        _ => 32,
    };
    let (tr, tc) = (8, 8);
    let subgroups = caps.subgroup_size.is_some_and(|n| n >= tc);
    // Staged as f32 whatever the dtype: q with a bias added is not a number of 16 bits.
    let of = |dc| Kernel::Tile { block_m, tr, tc, dc, stage_f16: false, subgroups, split };
    let fits = |k: &Kernel| {
        workgroup_bytes(k, head_dim, problem.targets.is_some()) <= caps.max_workgroup_storage
    };
    [32, 16].map(of).into_iter().find(fits).unwrap_or(of(16))
}

/// The rows of the table that a tile stages: its distances, and one more place; none where queries
/// stand at positions of their own.
pub(super) fn band(kernel: &Kernel, targets: bool) -> u32 {
    if targets { 0 } else { kernel.block_m() + kernel.block_n() }
}

fn workgroup_bytes(kernel: &Kernel, head_dim: u32, targets: bool) -> u32 {
    // The outermost positions of a tile, eight bytes, as every variable rounded up to 16.
    let ends = if targets && matches!(kernel, Kernel::Tile { .. }) { 16 } else { 0 };
    kernel.workgroup_bytes_with(head_dim, band(kernel, targets)) + ends
}

/// Where the parts of the workspace, or of the texture of words, begin: in words, multiples of four.
/// See `shaders/shared/transformer_xl_bindings.wgsl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Words {
    pub(super) differences: u64,
    pub(super) records: u64,
    pub(super) segments: u64,
    pub(super) blocked: u64,
    pub(super) end: u64,
}

impl TransformerXl {
    /// Rows of a texture; of words, texels.
    pub(super) fn texel_rows(&self, slot: Slot) -> u64 {
        let s = &self.shape;
        match slot {
            Slot::QTexels => (s.batch * s.heads_q * s.seqlen_q) as u64,
            Slot::KvTexels => (s.batch * s.heads_kv * s.seqlen_k) as u64,
            Slot::RTexels => (s.heads_q * self.rows) as u64,
            _ => self.words(None).end,
        }
    }

    /// The parts: of a workspace, where the kernels' head dimension is given, or of texels.
    pub(super) fn words(&self, workspace: Option<u32>) -> Words {
        let s = &self.shape;
        let four = |n: usize| (n as u64).next_multiple_of(4);
        let rows = (s.batch * s.heads_q * s.seqlen_q) as u64;
        let differences = workspace.map_or(0, |head_dim| rows * u64::from(head_dim));
        let records = differences
            + match workspace {
                Some(head_dim) => four(s.heads_q * head_dim as usize),
                None => four(s.heads_q * self.rows),
            };
        let given = |given: bool, n: u64| if given { n } else { 0 };
        let segments = records + given(self.segments || self.targets.is_some(), 4 * rows);
        let blocked = segments + given(self.segments, four(s.batch * s.seqlen_k));
        let end = blocked + four(self.blocked_rows() * self.perm_words());
        Words { differences, records, segments, blocked, end }
    }

    /// Rows of bits: of each query, of each sequence, or none.
    fn blocked_rows(&self) -> usize {
        match (self.perm_mask, self.key_padding) {
            (true, _) => self.shape.batch * self.shape.seqlen_q,
            (false, true) => self.shape.batch,
            (false, false) => 0,
        }
    }

    /// Bytes of the parts of rows whose keys are split so many times.
    pub(super) fn partial_bytes(&self, head_dim: u32, splits: usize) -> u64 {
        let s = &self.shape;
        let rows = (s.batch * s.heads_q * s.seqlen_q) as u64;
        rows.saturating_mul(splits as u64).saturating_mul(u64::from(head_dim + 2) * 4)
    }

    /// What does not fit a binding is declined.
    fn check_bindings(&self, config: &Config, caps: &Caps) -> Result<(), Declined> {
        let s = &self.shape;
        let mut all: Vec<(&str, u64)> = vec![];
        for (name, ..) in self.tensors() {
            all.push((name, self.span(name) as u64 * self.dtype.bytes() as u64));
        }
        all.push(("lse", self.lse_len() as u64 * 4));
        if self.perm_mask {
            all.push(("perm_mask", (s.batch * self.segment_len() * self.perm_words()) as u64 * 4));
        }
        all.push(("key_valid", (s.batch * s.seqlen_k) as u64));
        if config.is_tile() {
            all.push(("the workspace", self.words(Some(config.head_dim)).end * 4));
        }
        if config.kernel.splits() {
            let splits = s.seqlen_k.div_ceil(SPLIT_LEN);
            all.push(("partial", self.partial_bytes(config.head_dim, splits)));
        }
        caps.binds(&all)
    }
}

impl Config {
    /// The same kernels for tensors whose rows begin anywhere. Tile and staging stay, so they fit
    /// wherever the others fit.
    pub fn with_scalar_loads(self) -> Self {
        Config { vec4: false, f16: false, ..self }
    }

    /// Whether masks that are data forbid pairs.
    pub fn blocked(&self) -> bool {
        self.perm_mask || self.key_padding
    }

    /// Whether rows have records: see `shaders/shared/transformer_xl_bindings.wgsl`.
    pub fn records(&self) -> bool {
        self.segments || self.targets
    }

    /// Whether the main kernel is [`Kernel::Tile`].
    pub fn is_tile(&self) -> bool {
        matches!(self.kernel, Kernel::Tile { .. })
    }

    /// Workgroup memory of a kernel of this launch.
    pub fn workgroup_bytes(&self, stage: Stage) -> u32 {
        match stage {
            Stage::Forward => workgroup_bytes(&self.kernel, self.head_dim, self.targets),
            Stage::Prepare | Stage::Mark | Stage::Pack | Stage::Combine => 0,
        }
    }

    fn check(&self, caps: &Caps) -> Result<(), Declined> {
        // The others take 64.
        let threads = self.kernel.threads().max(64);
        for stage in self.stages() {
            let buffers = self.slots(stage).iter().filter(|s| s.is_storage_buffer()).count() as u32;
            caps.allows(self.workgroup_bytes(stage), buffers, threads)?;
        }
        Ok(())
    }
}
