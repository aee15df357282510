//! LSH attention on this machine's processor: plan, run.

mod attend;
mod hash;
mod host;
mod pack;

use super::Lsh;
use crate::cpu::tile::{BLOCK_M, BLOCK_N, Tile};
use crate::cpu::{Element, Isa, SharedRows, expect_dtype, share_tasks};
use crate::problem::{at_least, exactly};
use crate::{Declined, Error};
use attend::{Merged, Round};
use hash::{Hash, sort};
use pack::{Packed, Packing, pack, store};
use std::ops::Range;

/// The tensors of one run. What the problem does not use is `None`.
#[derive(Debug)]
pub struct Args<'a, T> {
    /// Shared queries and keys, in the problem's layout and dtype.
    pub qk: &'a [T],
    /// Values.
    pub v: &'a [T],
    /// `[heads, head_dim, num_hashes, columns]`, where [`Lsh::is_hashed`].
    pub rotations: Option<&'a [f32]>,
    /// `[batch, heads, num_hashes, seqlen]`, where [`Lsh::is_sorted`]: read where
    /// [`Lsh::buckets_given`], except that those of invalid positions become the last, else written.
    pub buckets: Option<&'a mut [i32]>,
    /// One byte a position, `[batch, seqlen]`, 1 for a valid one and else 0.
    pub key_valid: Option<&'a [u8]>,
    /// The result. What lies between its rows stays as it is.
    pub out: &'a mut [T],
    /// `[batch, heads, seqlen]`.
    pub lse: &'a mut [f32],
    /// `[batch, heads, num_hashes, seqlen]`, where [`Lsh::is_sorted`].
    pub lse_rounds: Option<&'a mut [f32]>,
}

impl<'a, T> Args<'a, T> {
    /// The four tensors that every problem has.
    pub fn new(qk: &'a [T], v: &'a [T], out: &'a mut [T], lse: &'a mut [f32]) -> Self {
        let (rotations, buckets, key_valid, lse_rounds) = (None, None, None, None);
        Args { qk, v, rotations, buckets, key_valid, out, lse, lse_rounds }
    }
}

/// A problem and the instructions that compute it.
#[derive(Debug, Clone)]
pub struct Plan {
    problem: Lsh,
    isa: Isa,
}

impl Lsh {
    /// A plan for this processor, or for the instructions that `LONGHAND_CPU` names.
    ///
    /// # Errors
    ///
    /// [`Error::Declined`] if a row meets 2^31 keys or more in a round, or there are as many chunks.
    pub fn plan_cpu(&self) -> Result<Plan, Error> {
        self.validate()?;
        let (before, after) = self.seen_chunks();
        // With room for a block's own chunks.
        let keys =
            (before + after + 2).saturating_mul(self.items_of_chunk()).saturating_add(BLOCK_M);
        if keys > i32::MAX as usize {
            let reason = format!("a row meets {keys} keys in a round, more than 32 bits count");
            return Err(Declined::new(reason).into());
        }
        let chunks = self.rounds().saturating_mul(self.chunks_of_round());
        if chunks > i32::MAX as usize {
            let reason = format!("{chunks} chunks of all rounds, more than 32 bits count");
            return Err(Declined::new(reason).into());
        }
        Ok(Plan { problem: self.clone(), isa: Isa::choose()? })
    }
}

impl Plan {
    /// The same for other instructions of this processor's ([`Isa::all`]).
    ///
    /// # Errors
    ///
    /// If this processor does not have them.
    pub fn with_isa(self, isa: Isa) -> Result<Plan, Error> {
        Ok(Plan { isa: isa.available()?, ..self })
    }

    /// The instructions that were chosen.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// f32 of workspace for `threads`: the sorted order, the rows of as many heads as keep them busy,
    /// and a block for each thread. With less, but as much as for one, fewer take part. After a run
    /// the workspace begins with the bits of the order, i32, `[batch, heads, num_hashes, seqlen]`, if
    /// anything is sorted; the rest means nothing.
    pub fn workspace_len(&self, threads: usize) -> usize {
        let p = &self.problem;
        let rows = self.heads_of_wave(threads).saturating_mul(p.seqlen);
        let blocks = threads.max(1).saturating_mul(self.part_len());
        let packed = rows.saturating_mul(3 * p.head_dim + 1);
        blocks.saturating_add(packed).saturating_add(p.buckets_len() + self.chunks_len())
    }

    /// Heads that are computed together: enough for a few blocks to each thread.
    fn heads_of_wave(&self, threads: usize) -> usize {
        let p = &self.problem;
        let blocks = threads.max(1).saturating_mul(4);
        blocks.div_ceil(p.seqlen.div_ceil(BLOCK_M).max(1)).min(p.batch * p.heads)
    }

    /// Where pairs count once, each position's chunk in each round.
    fn chunks_len(&self) -> usize {
        if self.problem.duplicates_once { self.problem.buckets_len() } else { 0 }
    }

    /// A thread's: a block of rows, or a count of each bucket.
    fn part_len(&self) -> usize {
        let counts = if self.problem.is_sorted() { self.problem.buckets() + 1 } else { 0 };
        Tile::len(self.problem.head_dim).max(counts)
    }

    /// The tile sizes, for people.
    pub fn describe(&self) -> String {
        format!("cpu {}, tile {BLOCK_M}x{BLOCK_N}", self.isa.name())
    }

    /// Computes into `args`' results, on the threads of the rayon pool that this is called in;
    /// `workspace` is as long as [`workspace_len`](Self::workspace_len) says.
    ///
    /// # Errors
    ///
    /// If a tensor does not fit the problem, or `T` is not its dtype.
    pub fn run<T: Element>(
        &self,
        mut args: Args<'_, T>,
        workspace: &mut [f32],
    ) -> Result<(), Error> {
        let p = &self.problem;
        self.check(&args, workspace)?;
        if p.lse_len() == 0 {
            return Ok(());
        }
        let fits = |threads: &usize| self.workspace_len(*threads) <= workspace.len();
        let threads = (1..=rayon::current_num_threads()).rev().find(fits).unwrap_or(1);
        let (heads, d) = (self.heads_of_wave(threads), p.head_dim);
        let (order, rest) = workspace.split_at_mut(p.buckets_len());
        let (chunks, rest) = rest.split_at_mut(self.chunks_len());
        let (kv, rest) = rest.split_at_mut(heads * p.seqlen * 2 * d);
        let (o, rest) = rest.split_at_mut(heads * p.seqlen * d);
        let (factors, parts) = rest.split_at_mut(heads * p.seqlen);
        let mut run = Run {
            plan: self,
            out: SharedRows::new(std::mem::take(&mut args.out)),
            lse: SharedRows::new(std::mem::take(&mut args.lse)),
            lse_rounds: args.lse_rounds.take().map(SharedRows::new),
            buckets: args.buckets.take(),
            order: bytemuck::cast_slice_mut(order),
            chunks: bytemuck::cast_slice_mut(chunks),
            args: &args,
            kv,
            o,
            factors,
            parts,
        };
        let all = p.batch * p.heads;
        for first in (0..all).step_by(heads) {
            let wave = first..all.min(first + heads);
            run.pack(wave.clone());
            run.sort(wave.clone());
            // A round is merged with those before it.
            (0..p.rounds()).for_each(|round| run.attend(wave.clone(), round));
            run.store(wave);
        }
        Ok(())
    }

    fn check<T: Element>(&self, args: &Args<'_, T>, workspace: &[f32]) -> Result<(), Error> {
        let p = &self.problem;
        expect_dtype::<T>(p.dtype)?;
        for (name, got, needed) in [
            ("qk", args.qk.len(), p.span(&p.layout.qk)),
            ("v", args.v.len(), p.span(&p.layout.v)),
            ("out", args.out.len(), p.span(&p.layout.out)),
            ("lse", args.lse.len(), p.lse_len()),
            ("workspace", workspace.len(), self.workspace_len(1)),
        ] {
            at_least(name, got, needed)?;
        }
        let rotations = p.is_hashed().then(|| p.rotations_len());
        exactly("rotations", args.rotations.map(<[f32]>::len), rotations)?;
        let buckets = p.is_sorted().then(|| p.buckets_len());
        exactly("buckets", args.buckets.as_ref().map(|x| x.len()), buckets)?;
        let rounds = p.is_sorted().then(|| p.lse_rounds_len());
        exactly("lse_rounds", args.lse_rounds.as_ref().map(|x| x.len()), rounds)?;
        let given = args.buckets.as_deref().filter(|_| p.buckets_given);
        p.validate_mask_and_buckets(args.key_valid, given)
    }
}

/// What a run reads and writes.
struct Run<'a, T> {
    plan: &'a Plan,
    args: &'a Args<'a, T>,
    out: SharedRows<'a, T>,
    lse: SharedRows<'a, f32>,
    lse_rounds: Option<SharedRows<'a, f32>>,
    buckets: Option<&'a mut [i32]>,
    order: &'a mut [i32],
    chunks: &'a mut [i32],
    /// Of a wave's heads: keys and values, results, the keys' factors.
    kv: &'a mut [f32],
    o: &'a mut [f32],
    factors: &'a mut [f32],
    parts: &'a mut [f32],
}

impl<T: Element> Run<'_, T> {
    /// Rows side by side, and their buckets.
    fn pack(&mut self, wave: Range<usize>) {
        let (p, isa) = (&self.plan.problem, self.plan.isa);
        let (kv, factors) = (SharedRows::new(self.kv), SharedRows::new(self.factors));
        let buckets = self.buckets.as_deref_mut().map(SharedRows::new);
        let blocks = p.seqlen.div_ceil(BLOCK_M);
        share_tasks(self.parts, self.plan.part_len(), wave.len() * blocks, |part, task| {
            let (n, first) = (wave.start + task / blocks, task % blocks * BLOCK_M);
            let to = Packing { kv: &kv, factors: &factors, at: task / blocks * p.seqlen };
            let tile = &mut Tile::new(p.head_dim, part);
            let hash = self.args.rotations.zip(buckets.as_ref()).map(|(rotations, buckets)| {
                (Hash { problem: p, rotations, isa, n }, tile, buckets)
            });
            pack((p, self.args), n, first, &to, hash);
        });
    }

    /// The order that the buckets give, and each position's chunk.
    fn sort(&mut self, wave: Range<usize>) {
        let p = &self.plan.problem;
        let Some(buckets) = self.buckets.as_deref_mut() else { return };
        let (buckets, order, chunks) =
            (SharedRows::new(buckets), SharedRows::new(self.order), SharedRows::new(self.chunks));
        let (n, rounds) = (p.seqlen, p.num_hashes);
        share_tasks(self.parts, self.plan.part_len(), wave.len() * rounds, |part, task| {
            let valid = self.args.key_valid.map(|x| {
                let batch = (wave.start + task / rounds) / p.heads;
                &x[batch * n..][..n]
            });
            let at = (wave.start * rounds + task) * n;
            let chunks_at = if p.duplicates_once { at..at + n } else { 0..0 };
            // SAFETY: a task has one round of one head for itself.
            #[allow(unsafe_code)]
            let (buckets, order, chunks) = unsafe {
                (buckets.row(at, n), order.row(at, n), chunks.row(chunks_at.start, chunks_at.len()))
            };
            let counts: &mut [i32] = bytemuck::cast_slice_mut(&mut part[..p.buckets() + 1]);
            sort(buckets, valid, counts, order);
            let first = task % rounds * p.chunks_of_round();
            for (place, &i) in order.iter().enumerate().take(chunks.len()) {
                chunks[i as usize] = (first + place / p.chunk_len) as i32;
            }
        });
    }

    fn attend(&mut self, wave: Range<usize>, round: usize) {
        let p = &self.plan.problem;
        let o = SharedRows::new(self.o);
        let blocks = p.seqlen.div_ceil(BLOCK_M);
        share_tasks(self.parts, self.plan.part_len(), wave.len() * blocks, |part, task| {
            let n = wave.start + task / blocks;
            let at = task / blocks * p.seqlen;
            let items = n * p.num_hashes * p.seqlen..(n + 1) * p.num_hashes * p.seqlen;
            let rows = Packed::new(
                &self.kv[at * 2 * p.head_dim..],
                &self.factors[at..][..p.seqlen],
                p.head_dim,
            );
            let head = Round {
                problem: p,
                isa: self.plan.isa,
                round,
                rows,
                valid: self.args.key_valid.map(|x| &x[n / p.heads * p.seqlen..][..p.seqlen]),
                order: self.order.get(items.clone()),
                chunks: self.chunks.get(items),
            };
            let of_round = (n * p.num_hashes + round) * p.seqlen;
            let to = Merged {
                o: &o,
                o_at: at * p.head_dim,
                lse: &self.lse,
                lse_at: n * p.seqlen,
                lse_round: self.lse_rounds.as_ref().map(|x| (x, of_round)),
            };
            head.attend(task % blocks * BLOCK_M, &mut Tile::new(p.head_dim, part), &to);
        });
    }

    fn store(&mut self, wave: Range<usize>) {
        let p = &self.plan.problem;
        let (blocks, of_head) = (p.seqlen.div_ceil(BLOCK_M), p.seqlen * p.head_dim);
        share_tasks(self.parts, self.plan.part_len(), wave.len() * blocks, |_, task| {
            let o = &self.o[task / blocks * of_head..][..of_head];
            store(p, wave.start + task / blocks, task % blocks * BLOCK_M, o, &self.out);
        });
    }
}
