//! Which WGSL kernels compute a problem on a device, and the sources they expand to. No device is
//! touched here.

mod expand;

pub use crate::full::config::Kernel;
pub use expand::{Slot, Stage};

use super::Lsh;
use crate::full::config::{HEAD_DIMS, LANES, rows_and_keys, texture_width};
use crate::webgpu::Caps;
use crate::{DType, Declined, Error, Strides};

/// Items that one invocation counts and puts in order.
pub(crate) const SORT_ITEMS: usize = 256;

/// Parts of a round whose rows are gathered one after the other, at most.
const SEGMENTS: usize = 16;

/// Rows of such a part, at least, if there are as many.
const SEGMENT_ROWS: usize = 2048;

/// Rounds of one plan: each is a launch.
const MAX_ROUNDS: usize = 1024;

/// Masks beyond it would be taken for the absence of a key.
const MAX_MASK: f64 = 1e29;

/// Everything that the expanded sources depend on; the key of the pipeline cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Config {
    /// The kernel of the attention.
    pub kernel: Kernel,
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
    /// [`Kernel::Rows`] of a dtype of 16 bits: the texture holds what a part of a round sees, in its
    /// order, and not the whole sequence, which in f32 is larger than all tensors together.
    pub gathered: bool,
    /// See [`Lsh::is_sorted`].
    pub sorted: bool,
    /// See [`Lsh::is_hashed`].
    pub hashed: bool,
    /// A bucket takes more than one digit to sort by.
    pub digits: bool,
    /// See [`Lsh::key_padding`].
    pub key_padding: bool,
    /// See [`Lsh::duplicates_once`].
    pub duplicates_once: bool,
}

/// Picks the kernels for `problem` on a device, or says why there are none.
pub fn select(problem: &Lsh, caps: &Caps) -> Result<Config, Error> {
    problem.validate()?;
    problem.check_numbers()?;
    let head_dim = HEAD_DIMS.into_iter().find(|&d| d as usize >= problem.head_dim).expect("valid");
    let vec4 = loads_by_vec4(problem);
    let rows = texels_fit(problem, head_dim, caps);
    let config = Config {
        kernel: match rows {
            true => rows_kernel(problem, head_dim, caps),
            false => tile(problem, head_dim, caps),
        },
        gathered: rows && problem.gathers(),
        dtype: problem.dtype,
        head_dim,
        padded: problem.head_dim != head_dim as usize,
        vec4,
        f16: problem.dtype == DType::F16 && caps.f16 && vec4,
        sorted: problem.is_sorted(),
        hashed: problem.is_hashed(),
        digits: problem.is_sorted() && problem.digits().len() > 1,
        key_padding: problem.key_padding,
        // Of one chunk, every pair is met once.
        duplicates_once: problem.duplicates_once && problem.is_sorted(),
    };
    config.check(caps)?;
    problem.check_bindings(caps)?;
    Ok(config)
}

/// Whether rows begin and end on multiples of four elements.
fn loads_by_vec4(problem: &Lsh) -> bool {
    let four = |s: &Strides| [s.batch, s.seqlen, s.head].iter().all(|n| n.is_multiple_of(4));
    problem.head_dim.is_multiple_of(4) && problem.tensors().iter().all(|(_, s)| four(s))
}

/// Whether this is a CPU adapter whose textures take the problem.
fn texels_fit(problem: &Lsh, head_dim: u32, caps: &Caps) -> bool {
    let kernel = rows_kernel(problem, head_dim, caps);
    let fits = |slot: Slot| {
        let size = kernel.texture_size(head_dim, slot.texels(), problem.texel_rows(slot));
        size.into_iter().all(|n| n <= caps.max_texture_size)
    };
    caps.cpu && Slot::TEXTURES.into_iter().all(fits)
}

/// The kernel for CPU adapters. Its rows are those of one chunk, so that as many are taken as leave
/// the fewest idle; a key's reads cost about as much as two rows.
fn rows_kernel(problem: &Lsh, head_dim: u32, caps: &Caps) -> Kernel {
    let (most, keys) = rows_and_keys(head_dim);
    let chunk = problem.items_of_chunk().div_ceil(LANES as usize).max(1);
    let cost = |rows: &u32| chunk.div_ceil(*rows as usize) * (*rows as usize + 2);
    let rows = (1..=most).rev().min_by_key(cost).unwrap_or(1);
    Kernel::Rows { rows, keys, texture_width: texture_width(caps) }
}

fn tile(problem: &Lsh, head_dim: u32, caps: &Caps) -> Kernel {
    // Accumulators of an invocation: MR · D / TC scalars, at most 64.
    let block_m = match (problem.items_of_chunk() <= 8, head_dim) {
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
        split: false,
    }
}

impl Lsh {
    /// What 32-bit numbers do not hold is declined.
    fn check_numbers(&self) -> Result<(), Declined> {
        let (before, after) = self.seen_chunks();
        let tiles = (before + 1 + after).saturating_mul(self.items_of_chunk().div_ceil(32));
        for (name, n) in [
            ("seqlen", self.seqlen),
            ("num_hashes · chunks", self.rounds().saturating_mul(self.chunks_of_round())),
            ("chunks seen · tiles of a chunk", tiles),
        ] {
            if n > 1 << 30 {
                let reason = format!("{name}, {n}, is above 2^30, which 32-bit numbers hold");
                return Err(Declined::new(reason));
            }
        }
        if self.rounds() > MAX_ROUNDS {
            let reason = format!("{} rounds are more than {MAX_ROUNDS} launches", self.rounds());
            return Err(Declined::new(reason));
        }
        let masks = [("self_mask_value", self.self_mask_value), ("mask_value", self.mask_value)];
        if let Some((name, x)) = masks.into_iter().find(|(_, x)| x.abs() > MAX_MASK) {
            let reason = format!("{name} {x:e} is beyond {MAX_MASK:e}");
            return Err(Declined::new(reason));
        }
        Ok(())
    }

    /// What does not fit a binding is declined: a chunk's rows lie anywhere in a sequence.
    fn check_bindings(&self, caps: &Caps) -> Result<(), Declined> {
        let tensor = |(name, strides): (&'static str, Strides)| {
            (name, self.span(&strides) as u64 * self.dtype.bytes() as u64)
        };
        let mut all: Vec<(&str, u64)> = self.tensors().into_iter().map(tensor).collect();
        let indices = self.buckets_len() as u64 * 4;
        all.push(("lse", self.lse_len() as u64 * 4));
        all.push(("lse_rounds", self.lse_rounds_len() as u64 * 4));
        all.push(("buckets", indices));
        all.push(("histogram", self.histogram_words() * 4));
        all.push(("key_valid", (self.batch * self.seqlen) as u64));
        if self.is_hashed() {
            all.push(("rotations", self.rotations_len() as u64 * 4));
        }
        caps.binds(&all)
    }

    /// Digits that a bucket is sorted by, lowest first: the bits below each, and how many it has.
    pub(super) fn digits(&self) -> Vec<(u32, u32)> {
        // Invalid positions come last, in a bucket of their own; so does what a caller gives wrongly.
        let last = self.buckets() - usize::from(!self.key_padding && !self.buckets_given);
        let bits = last.ilog2() + 1;
        let passes = bits.div_ceil(8);
        let width = bits.div_ceil(passes);
        (0..passes).map(|n| (n * width, width.min(bits - n * width))).collect()
    }

    /// Blocks of items that one invocation each puts in order.
    pub(super) fn sort_blocks(&self) -> usize {
        self.seqlen.div_ceil(SORT_ITEMS)
    }

    /// Words that count items.
    pub(super) fn histogram_words(&self) -> u64 {
        if !self.is_sorted() {
            return 0;
        }
        let widest = self.digits().into_iter().map(|(_, bits)| bits).max().unwrap_or(0);
        let segments = (self.batch * self.heads * self.num_hashes) as u64;
        (segments << widest) * self.sort_blocks() as u64
    }

    /// Whether the kernels for CPU adapters gather. Beside tensors of f32 a texture of all rows is
    /// not that large, and it is filled once and not in every round.
    fn gathers(&self) -> bool {
        self.dtype != DType::F32
    }

    /// Chunks of a round that one launch takes where rows are gathered: a sixteenth, but not so few
    /// that many launches would take more time than the work in them.
    pub(super) fn segment_chunks(&self) -> usize {
        let chunks = self.chunks_of_round();
        let least = SEGMENT_ROWS.div_ceil(self.items_of_chunk().max(1));
        chunks.div_ceil(SEGMENTS).max(least).min(chunks.max(1))
    }

    /// Chunks that so many, one after the other, see.
    pub(super) fn chunks_gathered(&self, chunks: usize) -> usize {
        let (before, after) = self.seen_chunks();
        chunks + (before + after).min(self.ring().saturating_sub(1))
    }

    /// Rows of the texture that chunks are gathered in, of one head.
    pub(super) fn gathered_rows(&self) -> usize {
        self.chunks_gathered(self.segment_chunks()).saturating_mul(self.items_of_chunk())
    }

    /// Rows of a texture.
    pub(super) fn texel_rows(&self, slot: Slot) -> u64 {
        match slot {
            Slot::RowTexels | Slot::ItemTexels if self.gathers() => {
                (self.batch * self.heads) as u64 * self.gathered_rows() as u64
            }
            Slot::RowTexels => self.lse_len() as u64,
            Slot::RotationTexels if self.is_hashed() => {
                (self.heads * self.num_hashes * self.columns()) as u64
            }
            Slot::ItemTexels => self.lse_rounds_len() as u64,
            Slot::PlaceTexels if self.duplicates_once => self.lse_rounds_len() as u64,
            _ => 0,
        }
    }
}

impl Config {
    /// The same kernels for tensors whose rows begin anywhere. Tile and staging stay, so they fit
    /// wherever the others fit.
    pub fn with_scalar_loads(self) -> Self {
        Config { vec4: false, ..self }
    }

    /// Whether this is the kernel of CPU adapters.
    pub fn is_rows(&self) -> bool {
        matches!(self.kernel, Kernel::Rows { .. })
    }

    /// Workgroup memory of a kernel of this launch.
    pub fn workgroup_bytes(&self, stage: Stage) -> u32 {
        match (stage, self.kernel) {
            (Stage::Attend, Kernel::Rows { .. }) => self.kernel.workgroup_bytes(self.head_dim),
            (Stage::Attend, Kernel::Tile { block_m, .. }) => {
                let keys = 3 * self.kernel.block_n() * 4;
                self.kernel.workgroup_bytes(self.head_dim) + block_m * 4 + keys
            }
            // 64 rows of 9 vec4s, 32 of 4.
            (Stage::Hash, Kernel::Tile { .. }) if self.hashed => (64 * 9 + 32 * 4) * 16,
            (Stage::Scan, _) => stage.threads(self) * 4,
            _ => 0,
        }
    }

    fn check(&self, caps: &Caps) -> Result<(), Declined> {
        for stage in self.stages() {
            let buffers = self.slots(stage).iter().filter(|s| s.is_storage_buffer()).count() as u32;
            caps.allows(self.workgroup_bytes(stage), buffers, stage.threads(self))?;
        }
        Ok(())
    }
}
