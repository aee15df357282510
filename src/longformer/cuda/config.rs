//! Which PTX kernels compute a problem on a device, and the texts they expand to. No device is
//! touched here.

use crate::cuda::Caps;
use crate::cuda::tile::{Rows, Tile, kernel_head_dim, loads_by_chunks};
use crate::longformer::Longformer;
use crate::template::expand;
use crate::{DType, Declined, Error};
use minijinja::{Value, context};

/// How many blocks splitting the keys of global rows aims at, and the fewest keys of a split, so
/// that its block takes about as long as one of local rows. What follows from them depends on the
/// problem, not on the device, so that results do not either.
const ENOUGH_BLOCKS: (usize, usize) = (512, 512);

/// The same where warps share out the keys: one block for each multiprocessor of a large device,
/// beside which another computes local rows. Such a block waits for memory most of the time.
const ENOUGH_SHARING: (usize, usize) = (128, 1024);

/// Keys of a tile that a warp takes where warps share them out.
const SLICE: u32 = 16;

/// Threads that turn one sequence's globals and padding into flags; its 32 warps are in the text.
const INDEX_THREADS: u32 = 1024;

/// Threads of the combining kernel: a warp a row.
const COMBINE_THREADS: u32 = 128;

/// One kernel of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// The ascending list of valid globals, and a flag for each key.
    Index,
    /// Local rows, and the parts of global rows.
    Forward,
    /// Merges the parts of global rows.
    Combine,
}

/// Everything that the expanded texts depend on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Config {
    /// Tile sizes.
    pub tile: Tile,
    /// Storage of the large tensors.
    pub dtype: DType,
    /// The head dimension of the kernel.
    pub head_dim: u32,
    /// The problem's is smaller.
    pub padded: bool,
    /// Rows begin and end on multiples of 16 bytes (else they are copied element by element).
    pub vec: bool,
    /// The scale is not positive, so that the largest product is not the largest score.
    pub scaled: bool,
    /// There may be global positions.
    pub globals: bool,
    /// A global key or row sees only what is before it. (A band does by its right side.)
    pub causal: bool,
    /// See [`Longformer::key_padding`].
    pub key_padding: bool,
    /// Of each head, below the length; empty if it is 1 everywhere.
    pub dilation: Vec<u32>,
}

/// Picks the kernels for `problem` on a device, or says why there are none.
pub fn select(problem: &Longformer, caps: &Caps) -> Result<Config, Error> {
    problem.validate()?;
    let declined = |reason: String| Err(Declined::new(reason).into());
    caps.runs_kernels()?;
    if problem.seqlen > 1 << 29 {
        let seqlen = problem.seqlen;
        return declined(format!("seqlen {seqlen} is above 2^29, which 32-bit positions hold"));
    }
    let head_dim = kernel_head_dim(problem.head_dim);
    let globals = problem.max_globals > 0;
    let l = &problem.layout;
    let mut tensors = vec![l.q, l.k, l.v, l.out];
    if problem.has_global_tensors() {
        tensors.extend([l.q_global, l.k_global, l.v_global]);
    }
    // A step past the end leads nowhere, however long it is.
    let step = |n: &u32| (*n).min(problem.seqlen.max(1) as u32);
    let dilation: Vec<u32> = problem.dilation.iter().map(step).collect();
    let mut config = Config {
        tile: Tile { block_m: 0, block_n: 0, rows: 16, q_in_registers: false },
        dtype: problem.dtype,
        head_dim,
        padded: problem.head_dim != head_dim as usize,
        vec: loads_by_chunks(problem.dtype, problem.head_dim, &tensors),
        scaled: (problem.softmax_scale as f32) <= 0.0,
        globals,
        causal: globals && problem.causal,
        key_padding: problem.key_padding,
        dilation: if dilation.iter().all(|&n| n == 1) { vec![] } else { dilation },
    };
    // No registers are left for the addresses of a padded row's chunks.
    let crowded = config.dtype == DType::F32 && head_dim == 256;
    config.vec &= !(crowded && config.padded);
    let tiles = config.tiles(problem.seqlen);
    let with = |tile: &Tile| Config { tile: *tile, ..config.clone() };
    let fits = |tile: &&Tile| with(tile).shared_bytes() <= caps.max_shared_opt_in;
    let Some(tile) = tiles.iter().find(fits) else {
        let least = with(&tiles[tiles.len() - 1]).shared_bytes();
        return declined(format!(
            "the kernel needs {least} bytes of shared memory, the device allows {}",
            caps.max_shared_opt_in
        ));
    };
    config.tile = *tile;
    for stage in config.stages() {
        let blocks = config.grid(problem, stage);
        if blocks > i32::MAX as u64 {
            return declined(format!("{blocks} thread blocks are more than a grid holds"));
        }
    }
    if partial_rows(problem) > u64::from(u32::MAX) {
        return declined("there are more than 2^32 global rows".to_owned());
    }
    Ok(config)
}

impl Config {
    /// Tiles that suit the problem, the best first; a later one needs less shared memory.
    fn tiles(&self, seqlen: usize) -> Vec<Tile> {
        let tile = |block_m, block_n, rows, q_in_registers| Tile {
            block_m,
            block_n,
            rows,
            q_in_registers,
        };
        if self.dtype == DType::F32 {
            return match self.head_dim {
                32 => vec![tile(64, 64, 16, false)],
                64..=128 => vec![tile(64, 32, 16, false)],
                192 => vec![tile(64, 16, 16, false)],
                _ => vec![tile(64, 16, 16, false), tile(32, 16, 16, false)],
            };
        }
        // With 32 rows a warp reads K and V from shared memory half as often per product, but its
        // accumulators leave few registers for anything else.
        let dilated = !self.dilation.is_empty();
        let plain = !self.globals && !self.key_padding && !dilated && !self.padded;
        match (seqlen <= 64, self.head_dim) {
            (true, ..=128) => vec![tile(64, 64, 16, true)],
            (true, _) => vec![tile(64, 32, 16, false)],
            (false, ..=64) => vec![tile(128, 64, 32, true)],
            (false, 96) if plain => vec![tile(128, 64, 32, false)],
            (false, 96) => vec![tile(128, 64, 16, true)],
            (false, 128) => vec![tile(128, 32, 32, false)],
            (false, 192) => vec![tile(128, 32, 16, !dilated)],
            (false, _) => vec![tile(128, 32, 16, plain), tile(64, 32, 16, plain)],
        }
    }

    /// The same kernels for tensors whose rows begin anywhere.
    pub fn with_scalar_loads(&self) -> Self {
        Config { vec: false, ..self.clone() }
    }

    /// The kernels of a launch, in order.
    pub fn stages(&self) -> Vec<Stage> {
        let mut stages = vec![];
        if self.globals || self.key_padding {
            stages.push(Stage::Index);
        }
        stages.push(Stage::Forward);
        if self.globals {
            stages.push(Stage::Combine);
        }
        stages
    }

    /// Threads of a CTA.
    pub fn threads(&self, stage: Stage) -> u32 {
        match stage {
            Stage::Index => INDEX_THREADS,
            Stage::Forward => self.tile.block_m / self.tile.rows * 32,
            Stage::Combine => COMBINE_THREADS,
        }
    }

    /// Bytes of dynamic shared memory: Q, two tiles each of K and V, what each row sees and who the
    /// CTA is; the sums of the index's warps.
    pub fn dynamic_shared(&self, stage: Stage) -> u32 {
        match stage {
            Stage::Index => INDEX_THREADS / 32 * 4,
            Stage::Forward => self.shared_bytes(),
            Stage::Combine => 0,
        }
    }

    /// That of the forward kernel.
    pub fn shared_bytes(&self) -> u32 {
        self.rows_of(Stage::Forward).shared_bytes() + 16 * self.tile.block_m + 32
    }

    /// CTAs of `stage`.
    pub fn grid(&self, problem: &Longformer, stage: Stage) -> u64 {
        match stage {
            Stage::Index => problem.batch as u64,
            Stage::Forward => {
                let local = self.blocks(problem) * (problem.batch * problem.heads) as u64;
                local + self.global_ctas(problem)
            }
            Stage::Combine => partial_rows(problem).div_ceil(u64::from(COMBINE_THREADS / 32)),
        }
    }

    /// Blocks of a head's local rows.
    pub(super) fn blocks(&self, problem: &Longformer) -> u64 {
        problem.seqlen.div_ceil(self.tile.block_m as usize) as u64
    }

    /// Blocks of a head's global rows, if every listed position is valid.
    pub(super) fn global_blocks(&self, problem: &Longformer) -> u64 {
        problem.max_globals.div_ceil(self.tile.block_m as usize) as u64
    }

    /// CTAs of global rows.
    pub(super) fn global_ctas(&self, problem: &Longformer) -> u64 {
        let heads = (problem.batch * problem.heads) as u64;
        self.global_blocks(problem) * heads * self.splits(problem) as u64
    }

    /// Keys of one split of the global rows.
    pub(super) fn split_len(&self, problem: &Longformer) -> usize {
        let heads = problem.batch * problem.heads;
        let blocks = (self.global_blocks(problem) as usize * heads).max(1);
        let sharing = self.shares() > 1 && problem.max_globals <= self.tile.rows as usize;
        let (enough, least) = if sharing { ENOUGH_SHARING } else { ENOUGH_BLOCKS };
        let wanted = enough.div_ceil(blocks);
        problem.seqlen.div_ceil(wanted).next_multiple_of(64).max(least)
    }

    /// How many warps share out the keys of a tile where one takes all global rows of a CTA.
    pub fn shares(&self) -> u32 {
        let warps = self.tile.block_m / self.tile.rows;
        if self.globals { warps.min(self.tile.block_n / SLICE) } else { 1 }
    }

    /// Into how many parts the keys of the global rows are split.
    pub(super) fn splits(&self, problem: &Longformer) -> usize {
        problem.seqlen.div_ceil(self.split_len(problem)).max(1)
    }

    /// Bytes of the workspace.
    pub fn workspace_bytes(&self, problem: &Longformer) -> u64 {
        Workspace::new(self, problem).bytes
    }

    /// What the text of `stage` depends on; options that it does not see are cleared, so that
    /// configurations share it.
    pub fn of_stage(&self, stage: Stage) -> Config {
        let plain = Config {
            tile: Tile { block_m: 64, block_n: 64, rows: 16, q_in_registers: false },
            padded: false,
            scaled: false,
            causal: false,
            dilation: vec![],
            ..self.clone()
        };
        match stage {
            Stage::Index => Config { dtype: DType::F32, head_dim: 64, vec: true, ..plain },
            Stage::Forward => self.clone(),
            Stage::Combine => Config { key_padding: false, ..plain },
        }
    }

    /// The kernel and its tile sizes, for people.
    pub fn describe(&self) -> String {
        let Tile { block_m, block_n, rows, .. } = self.tile;
        let warps = self.threads(Stage::Forward) / 32;
        let mut text = format!(
            "head_dim {}, sm_80 tile {block_m}x{block_n}, {warps} warps of {rows} rows",
            self.head_dim
        );
        let flags = [
            (self.globals, "globals"),
            (!self.dilation.is_empty(), "dilated"),
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
            Stage::Index => "longformer_index",
            Stage::Forward => "longformer_forward",
            Stage::Combine => "longformer_combine",
        }
    }

    /// The PTX of `stage`.
    pub fn source(&self, stage: Stage) -> String {
        expand(&format!("{}.sm80.ptx", self.entry(stage)), self.values(stage))
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

    fn values(&self, stage: Stage) -> Value {
        let rows = self.rows_of(stage);
        let dilated = !self.dilation.is_empty();
        let globals = self.globals;
        context! {
            copied => context! { dilated, globals, ..rows.copied() },
            of_band => context! { dilated, globals => false, ..rows.copied() },
            dilated, globals,
            dilation => self.dilation,
            scaled => self.scaled,
            causal => self.causal,
            key_padding => self.key_padding,
            shares => self.shares(),
            slice => SLICE,
            ..rows.values()
        }
    }
}

/// Rows of one split in the workspace.
pub(super) fn partial_rows(problem: &Longformer) -> u64 {
    (problem.batch * problem.heads * problem.max_globals) as u64
}

/// Where things lie in the workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Workspace {
    /// Bytes of a sequence's flags, which are at the beginning.
    pub(super) flags_row: u64,
    /// The ascending lists.
    pub(super) list: u64,
    /// Bytes of one.
    pub(super) list_row: u64,
    /// Their lengths.
    pub(super) count: u64,
    /// O, then m and l, of each split and global row.
    pub(super) partial: u64,
    pub(super) bytes: u64,
}

impl Workspace {
    pub(super) fn new(config: &Config, problem: &Longformer) -> Self {
        let batch = problem.batch as u64;
        let flagged = config.globals || config.key_padding;
        let flags_row = if flagged { problem.seqlen.next_multiple_of(16) as u64 } else { 0 };
        let list = batch * flags_row;
        let list_row = (4 * problem.max_globals as u64).next_multiple_of(16);
        let count = list + batch * list_row;
        let counts = if config.globals { 4 * batch } else { 0 };
        let partial = (count + counts).next_multiple_of(16);
        let rows = config.splits(problem) as u64 * partial_rows(problem);
        let bytes = partial + rows * u64::from(config.head_dim + 2) * 4;
        Workspace { flags_row, list, list_row, count, partial, bytes }
    }
}
