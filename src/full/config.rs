//! Which WGSL kernel computes a problem on a device, and the source it expands to. No device is
//! touched here.

use super::Full;
use crate::template::expand;
use crate::webgpu::Caps;
use crate::{DType, Declined, Error, Strides};
use minijinja::{Value, context};

/// Head dimensions that a kernel is expanded for; others are padded inside it.
pub const HEAD_DIMS: [u32; 6] = [32, 64, 96, 128, 192, 256];

/// Below this many workgroups a GPU is not filled, and the keys are split.
const FEW_WORKGROUPS: usize = 64;

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
pub(super) const LANES: u32 = 8;

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
    /// See [`Full::key_padding`].
    pub key_padding: bool,
    /// See [`Full::ragged`].
    pub ragged: bool,
}

/// One kernel of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Copies q, k and v to textures ([`Kernel::Rows`]).
    Pack,
    /// The attention itself.
    Forward,
    /// Merges the parts of split keys.
    Combine,
}

/// What a kernel binds, in the order of its binding numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Slot {
    /// Queries.
    Q,
    /// Keys.
    K,
    /// Values.
    V,
    /// The result.
    Out,
    /// Logsumexp.
    Lse,
    /// Parts of a split key sequence.
    Partial,
    /// Slopes per head.
    Alibi,
    /// Additive bias.
    Bias,
    /// Valid keys.
    KeyValid,
    /// Where queries of packed sequences begin.
    CuQ,
    /// Where keys of packed sequences begin.
    CuK,
    /// q as a texture.
    QTexels,
    /// K and V as a texture.
    KvTexels,
    /// Valid keys as a texture.
    ValidTexels,
    /// The uniform block.
    Params,
}

impl Slot {
    /// One of the textures of [`Kernel::Rows`].
    pub fn is_texture(&self) -> bool {
        matches!(self, Slot::QTexels | Slot::KvTexels | Slot::ValidTexels)
    }

    /// Neither a texture nor the uniform block.
    pub fn is_storage_buffer(&self) -> bool {
        !self.is_texture() && *self != Slot::Params
    }

    /// The tensor's name.
    pub fn name(self) -> &'static str {
        match self {
            Slot::Q => "q",
            Slot::K => "k",
            Slot::V => "v",
            Slot::Out => "out",
            Slot::Lse => "lse",
            Slot::Partial => "partial",
            Slot::Alibi => "alibi",
            Slot::Bias => "bias",
            Slot::KeyValid => "key_valid",
            Slot::CuQ => "cu_q",
            Slot::CuK => "cu_k",
            Slot::QTexels => "q_texels",
            Slot::KvTexels => "kv_texels",
            Slot::ValidTexels => "valid_texels",
            Slot::Params => "params",
        }
    }
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

/// The kernel for CPU adapters, if this is one and the textures are large enough.
fn rows(problem: &Full, head_dim: u32, caps: &Caps) -> Option<Kernel> {
    let width = (caps.max_texture_size / 2).min(4096);
    // More rows share a key's reads, but are spilled and take longer to compile: the fastest that
    // lavapipe compiles in about a second.
    let (rows, keys) = match head_dim {
        32 => (6, 2),
        64 => (4, 2),
        96 => (4, 1),
        128 => (3, 1),
        _ => (2, 1),
    };
    let kernel = Kernel::Rows { rows, keys, texture_width: width };
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
        match *self {
            Kernel::Tile { block_m, tc, stage_f16, subgroups, .. } => {
                let stage = self.stage(head_dim).0 * if stage_f16 { 8 } else { 16 };
                let ps = block_m * (self.block_n() / 4 + 1) * 16;
                let red = if subgroups { 0 } else { block_m * tc * 4 };
                stage.next_multiple_of(16) + ps + red + 16
            }
            Kernel::Rows { rows, .. } => LANES * rows * head_dim * 4,
        }
    }

    /// Of the staging array: its length, where V begins in it, and the V rows it takes; in vec4s.
    fn stage(&self, head_dim: u32) -> (u32, u32, u32) {
        match *self {
            Kernel::Tile { block_m, dc, .. } => {
                let ld = dc / 4 + 1;
                let qk = (block_m + self.block_n()) * ld;
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
    fn texel_shift(&self, head_dim: u32, slot: Slot) -> u32 {
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
pub(super) fn texels_of_row(head_dim: u32, slot: Slot) -> u32 {
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

    fn check(&self, caps: &Caps) -> Result<(), Declined> {
        let bytes = self.kernel.workgroup_bytes(self.head_dim);
        if bytes > caps.max_workgroup_storage {
            let reason = format!(
                "the kernel needs {bytes} bytes of workgroup memory, the device allows {}",
                caps.max_workgroup_storage
            );
            return Err(Declined::new(reason));
        }
        if self.kernel.threads() > caps.max_invocations {
            let reason = format!(
                "the kernel needs {} invocations per workgroup, the device allows {}",
                self.kernel.threads(),
                caps.max_invocations
            );
            return Err(Declined::new(reason));
        }
        let buffers = |stage: Stage| {
            self.slots(stage).into_iter().filter(Slot::is_storage_buffer).count() as u32
        };
        let buffers = self.stages().into_iter().map(buffers).max().unwrap_or(0);
        if buffers > caps.max_storage_buffers {
            let reason = format!(
                "the problem needs {buffers} storage buffers, the device allows {}",
                caps.max_storage_buffers
            );
            return Err(Declined::new(reason));
        }
        Ok(())
    }

    /// Bindings of `stage`.
    pub fn slots(&self, stage: Stage) -> Vec<Slot> {
        let rows = matches!(self.kernel, Kernel::Rows { .. });
        let texels = [Slot::QTexels, Slot::KvTexels]
            .into_iter()
            .chain(self.key_padding.then_some(Slot::ValidTexels));
        let mut slots = match stage {
            Stage::Pack => vec![Slot::Q, Slot::K, Slot::V],
            Stage::Forward if rows => texels.clone().chain([Slot::Out, Slot::Lse]).collect(),
            Stage::Forward if self.kernel.splits() => {
                vec![Slot::Q, Slot::K, Slot::V, Slot::Partial]
            }
            Stage::Forward => vec![Slot::Q, Slot::K, Slot::V, Slot::Out, Slot::Lse],
            Stage::Combine => vec![Slot::Partial, Slot::Out, Slot::Lse],
        };
        if stage == Stage::Pack {
            slots.extend(texels);
        }
        let main = stage == Stage::Forward;
        // Whatever holds the keys' validity is read once: by the copy, or by the main kernel.
        let reads_validity = self.key_padding && if rows { stage == Stage::Pack } else { main };
        let optional = [
            (self.alibi && main, Slot::Alibi),
            (self.bias && main, Slot::Bias),
            (reads_validity, Slot::KeyValid),
            (self.ragged && stage != Stage::Pack, Slot::CuQ),
            (self.ragged && stage != Stage::Pack, Slot::CuK),
        ];
        slots.extend(optional.into_iter().filter_map(|(given, slot)| given.then_some(slot)));
        slots.push(Slot::Params);
        slots
    }

    /// The kernels of a launch, in order.
    pub fn stages(&self) -> Vec<Stage> {
        match self.kernel {
            Kernel::Rows { .. } => vec![Stage::Pack, Stage::Forward],
            Kernel::Tile { split: true, .. } => vec![Stage::Forward, Stage::Combine],
            Kernel::Tile { .. } => vec![Stage::Forward],
        }
    }

    /// What a pipeline of `stage` depends on; options that it does not see are cleared, so that
    /// configurations share it.
    pub fn of_stage(&self, stage: Stage) -> Config {
        match stage {
            Stage::Forward => *self,
            Stage::Pack => {
                Config { softcap: false, alibi: false, bias: false, ragged: false, ..*self }
            }
            Stage::Combine => {
                Config { softcap: false, alibi: false, bias: false, key_padding: false, ..*self }
            }
        }
    }

    /// The WGSL of `stage`.
    pub fn source(&self, stage: Stage) -> String {
        let values = self.values(&self.slots(stage));
        match (stage, self.kernel) {
            (Stage::Pack, _) => expand("full_pack.wgsl", values),
            (Stage::Combine, _) => expand("full_combine.wgsl", values),
            (Stage::Forward, Kernel::Rows { rows, keys, .. }) => expand(
                "full_forward_rows.wgsl",
                context! {
                    rows, keys,
                    lanes => LANES,
                    d4 => self.head_dim / 4,
                    modified => self.softcap || self.alibi || self.bias,
                    ..values
                },
            ),
            (Stage::Forward, Kernel::Tile { block_m, tr, tc, dc, stage_f16, subgroups, split }) => {
                let (stage, vbase, vr) = self.kernel.stage(self.head_dim);
                expand(
                    "full_forward_tile.wgsl",
                    context! {
                        block_m, tr, tc, dc, stage, vbase, vr, stage_f16, subgroups, split,
                        block_n => self.kernel.block_n(),
                        chunks => self.head_dim / dc,
                        always_edge => self.key_padding || self.bias,
                        subgroup_steps => (0..tc.ilog2()).map(|n| 1 << n).collect::<Vec<u32>>(),
                        ..values
                    },
                )
            }
        }
    }

    fn values(&self, slots: &[Slot]) -> Value {
        let slot: Value = slots.iter().enumerate().map(|(n, slot)| (slot.name(), n)).collect();
        context! {
            slot,
            q_rows_shift => self.kernel.texel_shift(self.head_dim, Slot::QTexels),
            kv_rows_shift => self.kernel.texel_shift(self.head_dim, Slot::KvTexels),
            valid_shift => self.kernel.texel_shift(self.head_dim, Slot::ValidTexels),
            texel_access => if slots.contains(&Slot::Q) { "write" } else { "read" },
            partial_access => if slots.contains(&Slot::Out) { "read" } else { "read_write" },
            dtype => self.dtype.name(),
            head_dim => self.head_dim,
            padded => self.padded,
            vec4 => self.vec4,
            f16 => self.f16,
            softcap => self.softcap,
            alibi => self.alibi,
            bias => self.bias,
            key_padding => slots.contains(&Slot::KeyValid) || slots.contains(&Slot::ValidTexels),
            ragged => self.ragged,
        }
    }
}
