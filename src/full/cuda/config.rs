//! Which PTX kernel computes a problem on a device, and the text it expands to. No device is
//! touched here.

use crate::cuda::Caps;
pub use crate::cuda::tile::{HEAD_DIMS, Tile};
use crate::cuda::tile::{Rows, kernel_head_dim, loads_by_chunks};
use crate::full::{Buckets, Full};
use crate::template::expand;
use crate::{DType, Declined, Error};
use minijinja::{Value, context};

/// Below this many blocks a GPU is not filled, and the keys are split.
const FEW_BLOCKS: usize = 128;

/// How many blocks splitting aims at.
const ENOUGH_BLOCKS: usize = 512;

/// About the fewest keys of a split. What follows from these three depends on the problem, not on the
/// device, so that results do not either.
const SPLIT_LEN: usize = 256;

/// Threads of the combining kernel: a warp a row.
pub(super) const COMBINE_THREADS: u32 = 128;

/// One kernel of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// The attention itself.
    Forward,
    /// Merges the parts of split keys.
    Combine,
}

/// Everything that the expanded text depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Config {
    /// Tile sizes.
    pub tile: Tile,
    /// Storage of the four large tensors.
    pub dtype: DType,
    /// The head dimension of the kernel.
    pub head_dim: u32,
    /// The problem's is smaller.
    pub padded: bool,
    /// Rows begin and end on multiples of 16 bytes (else they are copied element by element).
    pub vec: bool,
    /// Keys far before the query are not seen.
    pub left: bool,
    /// The scale is not positive, so that the largest product is not the largest score.
    pub scaled: bool,
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
    /// The keys are split over CTAs and a second kernel combines the parts.
    pub split: bool,
    /// The rows of a CTA are those of all query heads that share a key head, so that few queries
    /// read each key once.
    pub packed: bool,
}

/// Picks the kernel for `problem` on a device, or says why there is none.
pub fn select(problem: &Full, caps: &Caps) -> Result<Config, Error> {
    problem.validate()?;
    caps.runs_kernels()?;
    let s = &problem.shape;
    if s.seqlen_q.max(s.seqlen_k) > 1 << 29 {
        let reason = format!(
            "seqlen {} is above 2^29, which 32-bit positions and windows hold",
            s.seqlen_q.max(s.seqlen_k)
        );
        return Err(Declined::new(reason).into());
    }
    let head_dim = kernel_head_dim(s.head_dim);
    let l = &problem.layout;
    let mut config = Config {
        tile: Tile { block_m: 0, block_n: 0, rows: 16, q_in_registers: false },
        dtype: problem.dtype,
        head_dim,
        padded: s.head_dim != head_dim as usize,
        vec: loads_by_chunks(problem.dtype, s.head_dim, &[l.q, l.k, l.v, l.out]),
        left: problem.mask().left.is_some(),
        scaled: (problem.softmax_scale as f32) <= 0.0,
        softcap: problem.softcap > 0.0,
        alibi: problem.alibi,
        bias: problem.bias.is_some(),
        buckets: problem.buckets,
        key_padding: problem.key_padding,
        ragged: problem.ragged.is_some(),
        split: false,
        packed: s.seqlen_q <= 32
            && s.heads_q > s.heads_kv
            && !problem.alibi
            && problem.bias.is_none()
            && problem.buckets.is_none(),
    };
    let tiles = config.tiles(s.seqlen_q);
    let fits =
        |tile: &&Tile| Config { tile: **tile, ..config }.shared_bytes() <= caps.max_shared_opt_in;
    let Some(tile) = tiles.iter().find(fits) else {
        let least = Config { tile: tiles[tiles.len() - 1], ..config }.shared_bytes();
        let reason = format!(
            "the kernel needs {least} bytes of shared memory, the device allows {}",
            caps.max_shared_opt_in
        );
        return Err(Declined::new(reason).into());
    };
    config.tile = *tile;
    config.split = config.splits(problem) > 1;
    for stage in config.stages() {
        let blocks = config.grid(problem, stage);
        if blocks > i32::MAX as u64 {
            let reason = format!("{blocks} thread blocks are more than a grid holds");
            return Err(Declined::new(reason).into());
        }
    }
    Ok(config)
}

impl Config {
    /// Tiles that suit the problem, the best first; a later one needs less shared memory.
    fn tiles(&self, seqlen_q: usize) -> Vec<Tile> {
        let tile = |block_m, block_n, rows, q_in_registers| Tile {
            block_m,
            block_n,
            rows,
            q_in_registers,
        };
        let few = seqlen_q <= 64 || self.packed;
        if self.dtype == DType::F32 {
            return match (few, self.head_dim) {
                (true, 32) => vec![tile(64, 64, 16, false)],
                (true, 64..=128) => vec![tile(64, 32, 16, false)],
                // With 32 rows a warp takes K and V apart into TF32 for twice the products.
                (false, 32) => vec![tile(128, 64, 32, false)],
                (false, 64) => vec![tile(128, 32, 32, false)],
                (false, 96 | 128) => vec![tile(128, 16, 32, false)],
                (_, 192) => vec![tile(64, 16, 16, false)],
                _ => vec![tile(64, 16, 16, false), tile(32, 16, 16, false)],
            };
        }
        // With 32 rows a warp reads K and V from shared memory half as often per product, but its
        // accumulators leave few registers for anything else.
        let plain = !self.has_options() && !self.left && !self.padded;
        match (few, self.head_dim) {
            (true, ..=128) => vec![tile(64, 64, 16, true)],
            (true, _) => vec![tile(64, 32, 16, false)],
            (false, ..=64) => vec![tile(128, 64, 32, true)],
            (false, 96) if plain => vec![tile(128, 64, 32, false)],
            (false, 128) if !self.has_options() => vec![tile(128, 32, 32, false)],
            (false, ..=128) => vec![tile(128, 64, 16, true)],
            (false, 192) => vec![tile(128, 32, 16, true)],
            (false, _) => vec![tile(128, 32, 16, plain), tile(64, 32, 16, plain)],
        }
    }

    /// Whether scores are modified, or masked by more than their position.
    fn has_options(&self) -> bool {
        self.modified() || self.key_padding
    }

    /// Whether something is done to scores between the product and the mask.
    fn modified(&self) -> bool {
        self.scaled || self.softcap || self.alibi || self.bias || self.buckets.is_some()
    }

    /// The same kernel for tensors whose rows begin anywhere.
    pub fn with_scalar_loads(self) -> Self {
        Config { vec: false, ..self }
    }

    /// The kernels of a launch, in order.
    pub fn stages(&self) -> Vec<Stage> {
        match self.split {
            true => vec![Stage::Forward, Stage::Combine],
            false => vec![Stage::Forward],
        }
    }

    /// Threads of a CTA.
    pub fn threads(&self, stage: Stage) -> u32 {
        match stage {
            Stage::Forward => self.tile.block_m / self.tile.rows * 32,
            Stage::Combine => COMBINE_THREADS,
        }
    }

    /// Bytes of dynamic shared memory of the forward kernel: Q, two tiles each of K and V, and a
    /// head's biases by distance.
    pub fn shared_bytes(&self) -> u32 {
        let biases = self.buckets.map_or(0, |b| 4 * b.distances() as u32);
        self.rows_of(Stage::Forward).shared_bytes() + biases.next_multiple_of(16)
    }

    fn rows_of(&self, stage: Stage) -> Rows {
        Rows {
            tile: self.tile,
            threads: self.threads(stage),
            dtype: self.dtype,
            head_dim: self.head_dim,
            padded: self.padded,
            vec: self.vec,
        }
    }

    /// Keys of one split.
    pub(super) fn split_len(&self, problem: &Full) -> usize {
        let blocks = self.blocks(problem).max(1);
        let seqlen_k = problem.shape.seqlen_k;
        let splits = (seqlen_k / SPLIT_LEN).clamp(1, ENOUGH_BLOCKS.div_ceil(blocks));
        // Whole tiles, whatever their size.
        seqlen_k.div_ceil(splits).next_multiple_of(64).max(64)
    }

    /// Into how many parts the keys are split; 1 if they are not.
    pub(super) fn splits(&self, problem: &Full) -> usize {
        match self.blocks(problem) < FEW_BLOCKS {
            true => problem.shape.seqlen_k.div_ceil(self.split_len(problem)).max(1),
            false => 1,
        }
    }

    /// CTAs of one head, or of one key head if rows are packed.
    pub(super) fn row_blocks(&self, problem: &Full) -> usize {
        let s = &problem.shape;
        let rows = if self.packed { s.heads_q / s.heads_kv * s.seqlen_q } else { s.seqlen_q };
        rows.div_ceil(self.tile.block_m as usize)
    }

    /// CTAs of unsplit keys.
    fn blocks(&self, problem: &Full) -> usize {
        let s = &problem.shape;
        let heads = if self.packed { s.heads_kv } else { s.heads_q };
        self.row_blocks(problem).saturating_mul(s.batch * heads)
    }

    /// CTAs of `stage`.
    pub fn grid(&self, problem: &Full, stage: Stage) -> u64 {
        match stage {
            Stage::Forward => self.blocks(problem) as u64 * self.splits(problem) as u64,
            Stage::Combine => {
                let rows_of_block = u64::from(COMBINE_THREADS / 32);
                (partial_rows(problem) as u64).div_ceil(rows_of_block)
            }
        }
    }

    /// Bytes of the workspace: of each split and row, O, m and l.
    pub fn workspace_bytes(&self, problem: &Full) -> u64 {
        match self.split {
            true => {
                self.splits(problem) as u64
                    * partial_rows(problem) as u64
                    * u64::from(self.head_dim + 2)
                    * 4
            }
            false => 0,
        }
    }

    /// What the text of `stage` depends on; options that it does not see are cleared, so that
    /// configurations share it.
    pub fn of_stage(&self, stage: Stage) -> Config {
        match stage {
            Stage::Forward => *self,
            Stage::Combine => Config {
                tile: Tile { block_m: 64, block_n: 64, rows: 16, q_in_registers: false },
                padded: false,
                left: false,
                scaled: false,
                softcap: false,
                alibi: false,
                bias: false,
                buckets: None,
                key_padding: false,
                packed: false,
                ..*self
            },
        }
    }

    /// The kernel and its tile sizes, for people.
    pub fn describe(&self) -> String {
        let Tile { block_m, block_n, .. } = self.tile;
        let mut text = format!("head_dim {}, sm_80 tile {block_m}x{block_n}", self.head_dim);
        let warps = self.threads(Stage::Forward) / 32;
        text += &format!(", {warps} warps of {} rows", self.tile.rows);
        let flags = [
            (self.packed, "heads packed"),
            (self.split, "split keys"),
            (self.padded, "padded"),
            (!self.vec, "scalar loads"),
        ];
        for (_, name) in flags.iter().filter(|(on, _)| *on) {
            text += ", ";
            text += name;
        }
        text
    }

    /// The name of a stage's kernel, which is also its template's.
    pub fn entry(&self, stage: Stage) -> &'static str {
        match stage {
            Stage::Forward => "full_forward",
            Stage::Combine => "full_combine",
        }
    }

    /// The PTX of `stage`.
    pub fn source(&self, stage: Stage) -> String {
        expand(&format!("{}.sm80.ptx", self.entry(stage)), self.values(stage))
    }

    fn values(&self, stage: Stage) -> Value {
        let rows = self.rows_of(stage);
        let floats: Vec<String> =
            (0..self.tile.block_n).map(|n| format!("0f{:08X}", (n as f32).to_bits())).collect();
        context! {
            floats,
            copied => rows.copied(),
            left => self.left,
            scaled => self.scaled,
            softcap => self.softcap,
            alibi => self.alibi,
            bias => self.bias,
            buckets => self.buckets.map(|b| b.values()),
            biases_at => rows.shared_bytes(),
            key_padding => self.key_padding,
            ragged => self.ragged,
            split => self.split,
            packed => self.packed,
            always_edge => self.key_padding || self.bias,
            ..rows.values()
        }
    }
}

/// Rows of one split in the workspace.
pub(super) fn partial_rows(problem: &Full) -> usize {
    let s = &problem.shape;
    s.batch * s.heads_q * s.seqlen_q
}
