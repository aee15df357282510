//! Which PTX kernels compute a problem on a device, and the texts they expand to. No device is
//! touched here.

use crate::cuda::Caps;
use crate::cuda::tile::{Rows, Tile, kernel_head_dim, loads_by_chunks};
use crate::template::expand;
use crate::transformer_xl::TransformerXl;
use crate::{DType, Declined, Error};
use minijinja::{Value, context};

/// Threads of the kernel of terms: a warp a row.
const TERMS_THREADS: u32 = 128;

/// One kernel of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// The products with the biases, one number per key, row of the table and query.
    Terms,
    /// The attention itself.
    Forward,
}

/// Everything that the expanded texts depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
    /// See [`TransformerXl::memory`].
    pub memory: bool,
    /// See [`TransformerXl::chunks`].
    pub chunks: bool,
    /// See [`TransformerXl::segments`].
    pub segments: bool,
    /// See [`TransformerXl::perm_mask`].
    pub perm_mask: bool,
    /// See [`TransformerXl::key_padding`].
    pub key_padding: bool,
    /// See [`TransformerXl::targets`].
    pub targets: bool,
    /// See [`TransformerXl::own_position`]; only where one of the two masks could hide it.
    pub own_position: bool,
}

/// Picks the kernels for `problem` on a device, or says why there are none.
pub fn select(problem: &TransformerXl, caps: &Caps) -> Result<Config, Error> {
    problem.validate()?;
    let declined = |reason: String| Err(Declined::new(reason).into());
    caps.runs_kernels()?;
    let s = &problem.shape;
    for (name, n, most) in [
        ("seqlen_q", s.seqlen_q, 1 << 29),
        ("seqlen_k", s.seqlen_k, 1 << 29),
        ("targets", problem.segment_len(), 1 << 29),
        ("memory.rows", problem.memory.map_or(0, |m| m.rows), 1 << 30),
    ] {
        if n > most {
            return declined(format!("{name} {n} is above {most}, which 32-bit positions hold"));
        }
    }
    let head_dim = kernel_head_dim(s.head_dim);
    let tensors: Vec<_> = problem.tensors().into_iter().map(|(_, strides, _)| strides).collect();
    let hidden = problem.perm_mask || problem.key_padding;
    let mut config = Config {
        tile: Tile { block_m: 0, block_n: 0, rows: 16, q_in_registers: false },
        dtype: problem.dtype,
        head_dim,
        padded: s.head_dim != head_dim as usize,
        vec: loads_by_chunks(problem.dtype, s.head_dim, &tensors),
        scaled: (problem.softmax_scale as f32) <= 0.0,
        memory: problem.memory.is_some(),
        chunks: problem.chunks.is_some(),
        segments: problem.segments,
        perm_mask: problem.perm_mask,
        key_padding: problem.key_padding,
        targets: problem.targets.is_some(),
        own_position: problem.own_position && hidden,
    };
    // No registers are left for the addresses of chunks beside targets.
    let crowded = config.dtype == DType::F32 && head_dim == 256;
    config.vec &= !(crowded && config.targets);
    let tiles = config.tiles();
    let with = |tile: &Tile| Config { tile: *tile, ..config };
    let Some(tile) = tiles.iter().find(|tile| with(tile).shared_bytes() <= caps.max_shared_opt_in)
    else {
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
    if config.term_rows(problem) > u64::from(u32::MAX) {
        return declined("there are more than 2^32 keys, rows and queries".to_owned());
    }
    Ok(config)
}

impl Config {
    /// Tiles that suit the problem, the best first; a later one needs less shared memory.
    fn tiles(&self) -> Vec<Tile> {
        let tile =
            |block_m, block_n, q_in_registers| Tile { block_m, block_n, rows: 16, q_in_registers };
        if self.dtype == DType::F32 {
            return match self.head_dim {
                32 => vec![tile(64, 64, false)],
                64 => vec![tile(64, 32, false)],
                96 | 128 => vec![tile(64, 16, false), tile(32, 16, false)],
                192 => vec![tile(32, 16, false), tile(16, 16, false)],
                _ => vec![tile(32, 16, false), tile(16, 16, false)],
            };
        }
        match self.head_dim {
            ..=96 => vec![tile(64, 64, true), tile(64, 32, true)],
            128 => vec![tile(64, 32, true)],
            192 => vec![tile(64, 32, false), tile(64, 16, false)],
            // Wider tiles would spill a few registers.
            _ if self.targets => vec![tile(32, 16, false)],
            _ => vec![tile(64, 32, false), tile(32, 16, false)],
        }
    }

    /// The same kernels for tensors whose rows begin anywhere.
    pub fn with_scalar_loads(self) -> Self {
        Config { vec: false, ..self }
    }

    /// The kernels of a launch, in order.
    pub fn stages(&self) -> Vec<Stage> {
        vec![Stage::Terms, Stage::Forward]
    }

    /// Threads of a CTA.
    pub fn threads(&self, stage: Stage) -> u32 {
        match stage {
            Stage::Terms => TERMS_THREADS,
            Stage::Forward => self.tile.block_m / self.tile.rows * 32,
        }
    }

    /// Bytes of dynamic shared memory.
    pub fn dynamic_shared(&self, stage: Stage) -> u32 {
        match stage {
            Stage::Terms => 0,
            Stage::Forward => self.shared_bytes(),
        }
    }

    /// Rows of the table that lie in shared memory: those of a tile, and those that the next needs.
    fn ring_rows(&self) -> u32 {
        match self.targets {
            true => 0,
            false => self.tile.block_m + 2 * self.tile.block_n,
        }
    }

    /// Bytes of a row of scores, where queries stand at positions of their own: eight more than the
    /// tile's keys, so that four neighbouring rows begin eight banks apart.
    fn score_bytes(&self) -> u32 {
        4 * (self.tile.block_n + 8)
    }

    /// Those of the forward kernel: Q, two tiles each of K and V, the table's ring or scores and
    /// positions of the rows; their terms and segments; what each row sees, and who the CTA is.
    pub fn shared_bytes(&self) -> u32 {
        let Tile { block_m, block_n, .. } = self.tile;
        let rows = self.rows_of(Stage::Forward);
        let segments = if self.segments { 8 * block_n + 16 * block_m } else { 0 };
        let targets = if self.targets { block_m * (self.score_bytes() + 4) } else { 0 };
        rows.shared_bytes()
            + self.ring_rows() * (rows.row_bytes() + 4)
            + 8 * block_n
            + 8 * block_m
            + segments
            + targets
            + 16
    }

    /// CTAs of `stage`.
    pub fn grid(&self, problem: &TransformerXl, stage: Stage) -> u64 {
        match stage {
            Stage::Terms => self.term_rows(problem).div_ceil(u64::from(TERMS_THREADS / 32)),
            Stage::Forward => {
                self.blocks(problem) * (problem.shape.batch * problem.shape.heads_q) as u64
            }
        }
    }

    /// Blocks of a head's rows.
    pub(super) fn blocks(&self, problem: &TransformerXl) -> u64 {
        problem.shape.seqlen_q.div_ceil(self.tile.block_m as usize) as u64
    }

    /// Rows that a term is computed of.
    fn term_rows(&self, problem: &TransformerXl) -> u64 {
        let s = &problem.shape;
        let queries = if self.segments { s.seqlen_q } else { 0 };
        (s.heads_q * (s.batch * (s.seqlen_k + queries) + problem.rows)) as u64
    }

    /// Bytes of the workspace.
    pub fn workspace_bytes(&self, problem: &TransformerXl) -> u64 {
        Workspace::new(problem).bytes
    }

    /// What the text of `stage` depends on; options that it does not see are cleared, so that
    /// configurations share it.
    pub fn of_stage(&self, stage: Stage) -> Config {
        match stage {
            Stage::Terms => Config {
                tile: Tile { block_m: 64, block_n: 64, rows: 16, q_in_registers: false },
                padded: false,
                vec: true,
                scaled: false,
                chunks: false,
                perm_mask: false,
                key_padding: false,
                targets: false,
                own_position: false,
                ..*self
            },
            Stage::Forward => *self,
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
            (self.memory, "memory apart"),
            (self.segments, "segments"),
            (self.targets, "targets"),
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
            Stage::Terms => "transformer_xl_terms",
            Stage::Forward => "transformer_xl_forward",
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
        let memory = self.memory;
        context! {
            copied => context! { memory, ..rows.copied() },
            memory,
            ring_rows => self.ring_rows(),
            score_bytes => self.score_bytes(),
            targets => self.targets,
            scaled => self.scaled,
            chunks => self.chunks,
            segments => self.segments,
            perm_mask => self.perm_mask,
            key_padding => self.key_padding,
            own_position => self.own_position,
            ..rows.values()
        }
    }
}

/// Where things lie in the workspace, after the keys' terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Workspace {
    /// The table's terms.
    pub(super) row_terms: u64,
    /// The queries' terms of the segments.
    pub(super) seg_terms: u64,
    pub(super) bytes: u64,
}

impl Workspace {
    pub(super) fn new(problem: &TransformerXl) -> Self {
        let s = &problem.shape;
        let heads = (s.batch * s.heads_q) as u64;
        let whole = |bytes: u64| bytes.next_multiple_of(16);
        let row_terms = whole(4 * heads * s.seqlen_k as u64);
        let seg_terms = row_terms + whole(4 * (s.heads_q * problem.rows) as u64);
        let queries = if problem.segments { s.seqlen_q } else { 0 };
        let bytes = seg_terms + 8 * heads * queries as u64;
        Workspace { row_terms, seg_terms, bytes }
    }
}
