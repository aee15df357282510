//! Which PTX kernels compute a problem on a device, and the texts they expand to. No device is
//! touched here.

use super::sort::{Workspace, met_always};
use crate::cuda::Caps;
use crate::cuda::tile::{Rows, Tile, kernel_head_dim, loads_by_chunks};
use crate::lsh::{Lsh, Wrap};
use crate::template::expand;
use crate::{DType, Declined, Error};
use minijinja::{Value, context};

/// Rows of a block of the hash, a thread each.
const HASH_THREADS: u32 = 128;

/// Elements of a row that the hash stages at a time.
const HASH_DEPTH: u32 = 32;

/// Bytes from one column of the hash's products to the next: the rows and a gap, so that neither
/// way of reading them meets one bank twice.
const HASH_PITCH: u32 = 4 * (HASH_THREADS + 4);

/// Threads of the sort's kernels: a thread a digit.
pub(super) const SORT_THREADS: u32 = 256;

/// One kernel of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// What each key is multiplied by, and its buckets.
    Hash,
    /// How often each digit comes in each tile.
    Count,
    /// Places in the order of digits.
    Scatter,
    /// The attention of one round, merged with that of the rounds before.
    Forward,
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
    /// There is more than one chunk.
    pub sorted: bool,
    /// Buckets are computed.
    pub hashed: bool,
    /// See [`Lsh::causal`].
    pub causal: bool,
    /// See [`Lsh::key_padding`].
    pub key_padding: bool,
    /// See [`Lsh::duplicates_once`]; where nothing is sorted nothing is met twice.
    pub once: bool,
    /// Pairs meet within a round only, which is told apart where they count once.
    pub per_round: bool,
    /// Columns of the rotations that a block of the hash multiplies at a time.
    pub hash_columns: u32,
    /// Rounds that are hashed; 0 if none is.
    pub hash_rounds: u32,
    /// The factors of the number of buckets; empty if nothing is hashed.
    pub factors: Vec<u32>,
}

/// Picks the kernels for `problem` on a device, or says why there are none.
pub fn select(problem: &Lsh, caps: &Caps) -> Result<Config, Error> {
    problem.validate()?;
    let declined = |reason: String| Err(Declined::new(reason).into());
    caps.runs_kernels()?;
    let seen = problem.chunks_before + 1 + problem.chunks_after;
    for (name, n) in [
        ("seqlen", problem.seqlen),
        ("chunks_before + 1 + chunks_after", seen),
        ("the ring of chunks", problem.rounds().saturating_mul(problem.chunks_of_round())),
    ] {
        if n > 1 << 30 {
            return declined(format!("{name} is {n}, above 2^30, which 32-bit numbers hold"));
        }
    }
    let head_dim = kernel_head_dim(problem.head_dim);
    let l = &problem.layout;
    let hashed = problem.is_hashed();
    let columns = if hashed { problem.num_hashes.saturating_mul(problem.columns()) } else { 0 };
    if columns > 1 << 30 {
        return declined(format!("{columns} columns of rotations are above 2^30"));
    }
    let once = problem.is_sorted() && problem.duplicates_once;
    if once && met_always(problem) > 1 << 30 {
        return declined("chunks see each other more than 2^30 times".to_owned());
    }
    let mut config = Config {
        tile: Tile { block_m: 0, block_n: 0, rows: 16, q_in_registers: false },
        dtype: problem.dtype,
        head_dim,
        padded: problem.head_dim != head_dim as usize,
        vec: loads_by_chunks(problem.dtype, problem.head_dim, &[l.qk, l.v, l.out]),
        sorted: problem.is_sorted(),
        hashed,
        causal: problem.causal,
        key_padding: problem.key_padding,
        once,
        per_round: once && problem.wrap == Wrap::PerRound,
        hash_columns: hash_columns(columns),
        hash_rounds: if hashed { problem.num_hashes as u32 } else { 0 },
        factors: match hashed {
            true => problem.num_buckets.iter().map(|&n| n as u32).collect(),
            false => vec![],
        },
    };
    let tiles = config.tiles(config.chunk_len(problem));
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
    Ok(config)
}

/// The widest block of columns that leaves the fewest empty.
fn hash_columns(columns: usize) -> u32 {
    let widths = [64, 32, 16];
    let taken = |width: &usize| columns.next_multiple_of(*width);
    widths.into_iter().min_by_key(taken).expect("three") as u32
}

impl Config {
    /// Tiles that suit chunks of `chunk_len`, the best first; a later one needs less shared memory.
    fn tiles(&self, chunk_len: usize) -> Vec<Tile> {
        let tile = |block_m, block_n, rows, q_in_registers| Tile {
            block_m,
            block_n,
            rows,
            q_in_registers,
        };
        let few = chunk_len <= 32;
        if self.dtype == DType::F32 {
            return match (few, self.head_dim) {
                (true, ..=128) => vec![tile(32, 32, 16, false)],
                (_, 32) => vec![tile(64, 64, 16, false)],
                (_, 64..=128) => vec![tile(64, 32, 16, false)],
                (false, 192) => vec![tile(64, 16, 16, false)],
                (false, _) => vec![tile(64, 16, 16, false), tile(32, 16, 16, false)],
                (true, _) => vec![tile(32, 16, 16, false)],
            };
        }
        match (few, self.head_dim) {
            (true, ..=128) => vec![tile(32, 32, 16, true)],
            (true, _) => vec![tile(32, 32, 16, false)],
            (false, ..=128) => vec![tile(64, 64, 16, true)],
            (false, _) => vec![tile(64, 32, 16, false)],
        }
    }

    /// The same kernels for tensors whose rows begin anywhere.
    pub fn with_scalar_loads(&self) -> Self {
        Config { vec: false, ..self.clone() }
    }

    /// The kernels of a launch, each once, in the order in which they first run.
    pub fn stages(&self) -> Vec<Stage> {
        match self.sorted {
            true => vec![Stage::Hash, Stage::Count, Stage::Scatter, Stage::Forward],
            false => vec![Stage::Hash, Stage::Forward],
        }
    }

    /// Threads of a CTA.
    pub fn threads(&self, stage: Stage) -> u32 {
        match stage {
            Stage::Hash => HASH_THREADS,
            Stage::Count | Stage::Scatter => SORT_THREADS,
            Stage::Forward => self.tile.block_m / self.tile.rows * 32,
        }
    }

    /// Bytes of dynamic shared memory.
    pub fn dynamic_shared(&self, stage: Stage) -> u32 {
        let warps = SORT_THREADS / 32;
        match stage {
            // Rows and rotations, or their products.
            Stage::Hash if self.hashed => {
                let staged = 4 * HASH_DEPTH * (HASH_THREADS + self.hash_columns);
                staged.max(HASH_PITCH * self.hash_columns)
            }
            Stage::Hash => 0,
            Stage::Count => 4 * SORT_THREADS,
            // The counts of each warp, and the sums of warps.
            Stage::Scatter => 4 * (warps * SORT_THREADS + warps),
            Stage::Forward => self.shared_bytes(),
        }
    }

    /// Those of the forward kernel: Q, two tiles each of K and V; of each row its position; of each
    /// key of three tiles its position, of two its factor.
    pub fn shared_bytes(&self) -> u32 {
        let keys = (3 + 2) * 4 * self.tile.block_n;
        self.rows_of(Stage::Forward).shared_bytes() + 16 * self.tile.block_m + 32 + keys
    }

    /// CTAs of `stage`.
    pub fn grid(&self, problem: &Lsh, stage: Stage) -> u64 {
        let heads = (problem.batch * problem.heads) as u64;
        heads
            * match stage {
                Stage::Hash => self.hash_blocks(problem),
                Stage::Count | Stage::Scatter => {
                    (problem.rounds() * self.sort_tiles(problem)) as u64
                }
                Stage::Forward => (self.chunks(problem) * self.blocks_of_chunk(problem)) as u64,
            }
    }

    pub(super) fn hash_blocks(&self, problem: &Lsh) -> u64 {
        problem.seqlen.div_ceil(HASH_THREADS as usize) as u64
    }

    /// Items of a chunk, which is all of a sequence that is not sorted.
    pub(super) fn chunk_len(&self, problem: &Lsh) -> usize {
        if self.sorted { problem.chunk_len } else { problem.seqlen }
    }

    /// Chunks of a round.
    pub(super) fn chunks(&self, problem: &Lsh) -> usize {
        if self.sorted { problem.chunks_of_round() } else { 1 }
    }

    pub(super) fn blocks_of_chunk(&self, problem: &Lsh) -> usize {
        self.chunk_len(problem).div_ceil(self.tile.block_m as usize)
    }

    /// Bytes of the workspace.
    pub fn workspace_bytes(&self, problem: &Lsh) -> u64 {
        Workspace::new(self, problem).bytes
    }

    /// What the text of `stage` depends on; options that it does not see are cleared, so that
    /// configurations share it.
    pub fn of_stage(&self, stage: Stage) -> Config {
        let tile = Tile { block_m: 64, block_n: 64, rows: 16, q_in_registers: false };
        let no_hash = Config {
            hashed: false,
            hash_columns: 16,
            hash_rounds: 0,
            factors: vec![],
            ..self.clone()
        };
        match stage {
            Stage::Hash => Config {
                tile,
                head_dim: 64,
                sorted: false,
                causal: false,
                once: false,
                per_round: false,
                ..self.clone()
            },
            Stage::Count | Stage::Scatter => Config {
                tile,
                dtype: DType::F32,
                head_dim: 64,
                padded: false,
                vec: true,
                sorted: true,
                causal: false,
                key_padding: false,
                once: false,
                per_round: false,
                ..no_hash
            },
            Stage::Forward => no_hash,
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
            (!self.sorted, "one chunk"),
            (self.sorted && !self.hashed, "buckets given"),
            (self.once, "pairs once"),
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
            Stage::Hash => "lsh_hash",
            Stage::Count => "lsh_count",
            Stage::Scatter => "lsh_scatter",
            Stage::Forward => "lsh_forward",
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
        let halves: Vec<u32> = self.factors.iter().map(|n| n / 2).collect();
        context! {
            copied => rows.copied(),
            sorted => self.sorted,
            hashed => self.hashed,
            causal => self.causal,
            key_padding => self.key_padding,
            once => self.once,
            per_round => self.per_round,
            depth => HASH_DEPTH,
            pitch => HASH_PITCH,
            hash_columns => self.hash_columns,
            columns_all => self.hash_rounds * halves.iter().sum::<u32>(),
            halves,
            ..rows.values()
        }
    }
}
