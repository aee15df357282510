//! How positions are sorted by their buckets, and where things lie in the workspace.

use super::config::{Config, SORT_THREADS};
use crate::lsh::{Lsh, Wrap};

/// The most bits of a digit.
const DIGIT_BITS: u32 = SORT_THREADS.ilog2();

/// Places of a sort's tile, and the most tiles: each block adds up the counts of all.
const SORT_TILE: usize = 4096;
const SORT_TILES: usize = 256;

/// One pass of the sort: of how many, and which bits of the buckets it sorts by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pass {
    /// From 0.
    pub(super) number: usize,
    /// Passes in all.
    pub(super) of: usize,
    /// The lowest bit.
    pub(super) shift: u32,
    /// How many bits.
    pub(super) bits: u32,
}

impl Config {
    /// The passes of the sort, of as many bits each as can be.
    pub(super) fn passes(&self, problem: &Lsh) -> Vec<Pass> {
        if !self.sorted {
            return vec![];
        }
        let bits = problem.buckets().ilog2() + 1;
        let of = bits.div_ceil(DIGIT_BITS);
        let each = bits.div_ceil(of);
        let pass = |n: u32| Pass {
            number: n as usize,
            of: of as usize,
            shift: n * each,
            bits: each.min(bits - n * each),
        };
        (0..of).map(pass).collect()
    }

    /// Places of a tile of the sort, a multiple of what its warps take at a time.
    pub(super) fn sort_tile_len(&self, problem: &Lsh) -> usize {
        let least = problem.seqlen.div_ceil(SORT_TILES).max(SORT_TILE).min(problem.seqlen.max(1));
        least.next_multiple_of(SORT_THREADS as usize)
    }

    pub(super) fn sort_tiles(&self, problem: &Lsh) -> usize {
        problem.seqlen.div_ceil(self.sort_tile_len(problem))
    }
}

/// How often any two positions meet because chunks see the whole ring of chunks, over all rounds.
pub(super) fn met_always(problem: &Lsh) -> u64 {
    let (before, after) = problem.seen_chunks();
    let whole = ((before + 1 + after) / problem.ring().max(1)) as u64;
    let rounds = problem.rounds() as u64;
    whole.saturating_mul(match problem.wrap {
        Wrap::AcrossRounds => rounds * rounds,
        Wrap::PerRound => rounds,
    })
}

/// Where things lie in the workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Workspace {
    /// The sorted positions, `[batch, heads, rounds, seqlen]`, which are at the beginning.
    pub(super) order: u64,
    /// As many, for sorting in several passes.
    pub(super) spare: u64,
    /// What keys are multiplied by, `[batch, heads, seqlen]`.
    pub(super) factors: u64,
    /// How often each digit comes in each tile.
    pub(super) counts: u64,
    /// The chunk of each position in each round, where pairs count once.
    pub(super) chunk_of: u64,
    pub(super) bytes: u64,
}

impl Workspace {
    pub(super) fn new(config: &Config, problem: &Lsh) -> Self {
        let heads = (problem.batch * problem.heads) as u64;
        let rows = heads * problem.seqlen as u64;
        let places = if config.sorted { rows * problem.rounds() as u64 } else { 0 };
        let passes = config.passes(problem);
        let digits = passes.iter().map(|pass| 1u64 << pass.bits).max().unwrap_or(0);
        let tiles = (problem.rounds() * config.sort_tiles(problem)) as u64;
        let mut bytes = 0;
        let mut take = |words: u64| {
            let at = bytes;
            bytes += (4 * words).next_multiple_of(16);
            at
        };
        let order = take(places);
        let spare = take(if passes.len() > 1 { places } else { 0 });
        let factors = take(rows);
        let counts = take(heads * tiles * digits);
        let chunk_of = take(if config.once { places } else { 0 });
        Workspace { order, spare, factors, counts, chunk_of, bytes }
    }
}
