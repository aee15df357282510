//! Attention with relative positions on this machine's processor: plan, run.

mod band;
mod head;
mod host;
mod mask;
mod packed;
mod sums;
mod tile;

use super::TransformerXl;
use crate::Error;
use crate::cpu::lanes::{LANES, from_line};
use crate::cpu::results::Results;
use crate::cpu::tile::{BLOCK_M, BLOCK_N, Tile};
use crate::cpu::{Element, Isa, SharedRows, adds_beside, expect_dtype, share_tasks};
use crate::problem::{at_least, exactly};
use band::Band;
use head::Head;
use packed::{Extent, Packed, Packing};
use std::ops::Range;
use sums::Sums;
use tile::{Block, Products, ROWS};

/// Rows from which on packing takes less time than it saves: with fewer, up to half of it is packing.
const FEW: usize = 64;

/// The tensors of one run. What the problem does not use is `None`.
#[derive(Debug)]
pub struct Args<'a, T> {
    /// Queries, in the problem's layout and dtype.
    pub q: &'a [T],
    /// Keys, without those of the memory.
    pub k: &'a [T],
    /// Values.
    pub v: &'a [T],
    /// The memory's keys.
    pub k_memory: Option<&'a [T]>,
    /// The memory's values.
    pub v_memory: Option<&'a [T]>,
    /// The position table, `[rows, heads_q, head_dim]`, by distance, ascending.
    pub r: &'a [T],
    /// `[heads_q, head_dim]`.
    pub bias_u: &'a [f32],
    /// As `bias_u`.
    pub bias_v: &'a [f32],
    /// As `bias_u`.
    pub bias_s: Option<&'a [f32]>,
    /// `[2, heads_q, head_dim]`.
    pub seg_embed: Option<&'a [f32]>,
    /// `[batch, segment_len]`.
    pub seg_q: Option<&'a [i32]>,
    /// `[batch, seqlen_k]`.
    pub seg_k: Option<&'a [i32]>,
    /// See [`Inputs::perm_mask`](crate::transformer_xl::Inputs::perm_mask).
    pub perm_mask: Option<&'a [u32]>,
    /// One byte a key, `[batch, seqlen_k]`, 0 or 1: 1 for a key that may be attended.
    pub key_valid: Option<&'a [u8]>,
    /// `[batch, seqlen_q]`.
    pub targets: Option<&'a [i32]>,
    /// The result. What lies between its rows stays as it is.
    pub out: &'a mut [T],
    /// `[batch, heads_q, seqlen_q]`.
    pub lse: &'a mut [f32],
}

impl<'a, T> Args<'a, T> {
    /// The eight tensors that every problem has: `q`, `k` and `v`, the table, `bias_u` and `bias_v`,
    /// the result and `lse`.
    pub fn new(
        [q, k, v]: [&'a [T]; 3],
        r: &'a [T],
        [bias_u, bias_v]: [&'a [f32]; 2],
        out: &'a mut [T],
        lse: &'a mut [f32],
    ) -> Self {
        Args {
            q,
            k,
            v,
            k_memory: None,
            v_memory: None,
            r,
            bias_u,
            bias_v,
            bias_s: None,
            seg_embed: None,
            seg_q: None,
            seg_k: None,
            perm_mask: None,
            key_valid: None,
            targets: None,
            out,
            lse,
        }
    }
}

/// A problem and the instructions that compute it.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    problem: TransformerXl,
    isa: Isa,
    /// Where scores are computed by one product, with sums of keys and rows of the table: what is packed
    /// for it.
    packed: Option<Extent>,
}

impl TransformerXl {
    /// A plan for this processor, or for the instructions that `LONGHAND_CPU` names.
    pub fn plan_cpu(&self) -> Result<Plan, Error> {
        self.validate()?;
        Plan { problem: *self, isa: Isa::Portable, packed: None }.with_isa(Isa::choose()?)
    }
}

impl Plan {
    /// The same for other instructions of this processor's ([`Isa::all`]).
    ///
    /// # Errors
    ///
    /// If this processor does not have them.
    pub fn with_isa(self, isa: Isa) -> Result<Plan, Error> {
        // The sums need AVX-512's registers: with AVX2's both ways take as long.
        let fits = self.problem.shape.head_dim.is_multiple_of(sums::PAIR)
            && self.problem.shape.seqlen_q >= FEW
            && self.problem.targets.is_none();
        let sums = isa == Isa::Avx512 && adds_beside() && fits;
        let packed = sums.then(|| Extent::of(&self.problem));
        Ok(Plan { isa: isa.available()?, packed, ..self })
    }

    /// The instructions that were chosen.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// f32 of workspace for `threads`: a block for each thread and, where rows are packed, those of as
    /// many heads as keep them busy. With less, but as much as for one, fewer take part.
    pub fn workspace_len(&self, threads: usize) -> usize {
        let blocks = threads.max(1).saturating_mul(self.part_len());
        blocks.saturating_add(self.packed_len(threads))
    }

    /// A thread's.
    fn part_len(&self) -> usize {
        let d = self.problem.shape.head_dim;
        match self.packed {
            Some(_) => Results::len_of(ROWS, d) + Sums::len(d),
            None => Tile::len_of(ROWS, d) + Band::len(d),
        }
    }

    /// That of packed rows, from a line of the cache on.
    fn packed_len(&self, threads: usize) -> usize {
        let of_head = |extent: Extent| extent.len().saturating_mul(self.heads_of_wave(threads));
        self.packed.map_or(0, |extent| LANES.saturating_add(of_head(extent)))
    }

    /// Heads that are computed together: all, or where they are packed enough for a few blocks to each
    /// thread.
    fn heads_of_wave(&self, threads: usize) -> usize {
        let shape = &self.problem.shape;
        let heads = shape.batch * shape.heads_q;
        if self.packed.is_none() {
            return heads;
        }
        let blocks = shape.seqlen_q.div_ceil(ROWS).max(1);
        let busy = threads.max(1).saturating_mul(8).div_ceil(blocks).min(heads.max(1));
        // Waves of one size.
        heads.div_ceil(heads.div_ceil(busy).max(1))
    }

    /// The tile sizes, for people.
    pub fn describe(&self) -> String {
        let block_n = if self.packed.is_some() { sums::KEYS } else { BLOCK_N };
        format!("cpu {}, tile {BLOCK_M} or {ROWS}x{block_n}", self.isa.name())
    }

    /// Computes into `args.out` and `args.lse`, on the threads of the rayon pool that this is called
    /// in; `workspace` is as long as [`workspace_len`](Self::workspace_len) says, its contents mean
    /// nothing.
    ///
    /// # Errors
    ///
    /// If a tensor does not fit the problem, or `T` is not its dtype.
    pub fn run<T: Element>(
        &self,
        mut args: Args<'_, T>,
        workspace: &mut [f32],
    ) -> Result<(), Error> {
        self.check(&args, workspace)?;
        let p = &self.problem;
        if p.lse_len() == 0 {
            return Ok(());
        }
        let out = SharedRows::new(std::mem::take(&mut args.out));
        let lse = SharedRows::new(std::mem::take(&mut args.lse));
        let fits = |threads: &usize| self.workspace_len(*threads) <= workspace.len();
        let threads = (1..=rayon::current_num_threads()).rev().find(fits).unwrap_or(1);
        let (heads, all) = (self.heads_of_wave(threads), p.shape.batch * p.shape.heads_q);
        let (packed, parts) = workspace.split_at_mut(self.packed_len(threads));
        let packed = if packed.is_empty() { packed } else { from_line(packed) };
        for first in (0..all).step_by(heads) {
            let wave = first..all.min(first + heads);
            if let Some(extent) = &self.packed {
                let (args, to) = (&args, SharedRows::new(packed));
                let packing =
                    Packing { extent, isa: self.isa, problem: p, args, wave: wave.clone(), to };
                share_tasks(parts, self.part_len(), extent.pieces(), |part, piece| {
                    packing.pack(piece, &mut part[..sums::SET * p.shape.head_dim]);
                });
            }
            self.attend(&args, wave, packed, parts, (&out, &lse));
        }
        Ok(())
    }

    /// The results of some heads.
    fn attend<T: Element>(
        &self,
        args: &Args<'_, T>,
        wave: Range<usize>,
        packed: &[f32],
        parts: &mut [f32],
        (out, lse): (&SharedRows<'_, T>, &SharedRows<'_, f32>),
    ) {
        let (s, d) = (&self.problem.shape, self.problem.shape.head_dim);
        let of_head = |rows: usize| s.seqlen_q.div_ceil(rows);
        let threads = rayon::current_num_threads().min(parts.len() / self.part_len());
        // Keys and the table are read once for each block; each thread shall have a few.
        let enough = wave.len() * of_head(ROWS) >= 4 * threads;
        let rows = if enough { ROWS } else { BLOCK_M };
        let blocks = of_head(rows);
        share_tasks(parts, self.part_len(), wave.len() * blocks, |part, task| {
            // Where the future is masked the last rows see the most keys: they begin.
            let first = (blocks - 1 - task % blocks) * rows;
            let n = task / blocks;
            let block = Block {
                head: Head::new(&self.problem, args, wave.start + n),
                isa: self.isa,
                rows: first..s.seqlen_q.min(first + rows),
            };
            let mut products = match &self.packed {
                Some(extent) => {
                    let (results, sums) = part.split_at_mut(Results::len_of(ROWS, d));
                    let packed = Packed::new(extent, &packed[n * extent.len()..]);
                    Products::One(Results::of(ROWS, d, results), Sums::new(d, sums), packed)
                }
                None => {
                    let (tile, band) = part.split_at_mut(Tile::len_of(ROWS, d));
                    Products::Two(Tile::of(ROWS, d, tile), Band::new(d, band))
                }
            };
            block.run(&mut products, out, lse);
        });
    }

    fn check<T: Element>(&self, args: &Args<'_, T>, workspace: &[f32]) -> Result<(), Error> {
        let p = &self.problem;
        expect_dtype::<T>(p.dtype)?;
        for (name, got, needed) in [
            ("q", args.q.len(), p.span("q")),
            ("k", args.k.len(), p.span("k")),
            ("v", args.v.len(), p.span("v")),
            ("r", args.r.len(), p.span("r")),
            ("out", args.out.len(), p.span("out")),
            ("lse", args.lse.len(), p.lse_len()),
            ("workspace", workspace.len(), self.workspace_len(1)),
        ] {
            at_least(name, got, needed)?;
        }
        p.validate_memory([args.k_memory, args.v_memory])?;
        let of_heads = p.shape.heads_q * p.shape.head_dim;
        exactly("bias_u", Some(args.bias_u.len()), Some(of_heads))?;
        exactly("bias_v", Some(args.bias_v.len()), Some(of_heads))?;
        let segments = |n: usize| p.segments.then_some(n);
        exactly("bias_s", args.bias_s.map(<[f32]>::len), segments(of_heads))?;
        exactly("seg_embed", args.seg_embed.map(<[f32]>::len), segments(2 * of_heads))?;
        p.validate_segments(args.seg_q, args.seg_k)?;
        p.validate_masks(args.perm_mask, args.key_valid)?;
        p.validate_targets(args.targets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::random::uniform;
    use crate::transformer_xl::Inputs;

    /// The one that this processor would not choose, too.
    #[test]
    fn both_ways_to_compute_scores_agree_with_the_definition_whatever_the_instructions() {
        let seen = |head_dim: usize, rows: usize, memory: usize| {
            TransformerXl::with_memory([2, rows, 2, head_dim], memory, DType::F32)
        };
        for (n, problem) in [
            seen(64, 70, 200),
            seen(20, 33, 0),
            seen(40, 600, 31),
            seen(1, 1, 130),
            seen(80, 96, 64).clamp_len(50),
            TransformerXl::conformer([1, 150, 2, 17], 20, DType::F32),
        ]
        .into_iter()
        .enumerate()
        {
            let random = |seed: u64, len: usize| -> Vec<f32> {
                (0..len as u64)
                    .map(|at| 2.0 * uniform(10 * n as u64 + seed, at) as f32 - 1.0)
                    .collect()
            };
            let of_heads = problem.shape.heads_q * problem.shape.head_dim;
            let [q, k, v, r] = ["q", "k", "v", "r"]
                .map(|name| random(name.as_bytes()[0].into(), problem.span(name)));
            let (bias_u, bias_v) = (random(1, of_heads), random(2, of_heads));
            let inputs = Inputs::new([&q, &k, &v], &r, [&bias_u, &bias_v]);
            let expected = problem.reference(&inputs).unwrap();
            for isa in Isa::all() {
                let fits = problem.shape.head_dim.is_multiple_of(sums::PAIR);
                for sums in [false, true].into_iter().filter(|sums| fits || !sums) {
                    let packed =
                        (sums && std::env::var("BAND").is_err()).then(|| Extent::of(&problem));
                    let got = Plan { problem, isa, packed }.run_inputs(&inputs).unwrap();
                    for (got, expected) in [(&got.out, &expected.out), (&got.lse, &expected.lse)] {
                        for (at, (got, expected)) in got.iter().zip(expected).enumerate() {
                            let off = (got - expected).abs();
                            assert!(off < 2e-5, "problem {n}, {isa:?}, sums {sums}, {at}: {off:e}");
                        }
                    }
                }
            }
        }
    }
}
