//! LSH attention on this machine's processor: plan, run.

mod attend;
mod hash;
mod host;

use super::Lsh;
use crate::cpu::tile::{BLOCK_M, BLOCK_N, Tile};
use crate::cpu::{Element, Isa, SharedRows, share_tasks};
use crate::problem::{at_least, exactly};
use crate::{Declined, Error};
use attend::{Merged, Round};
use hash::{Hash, sort};

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
    /// The result; the rounds before the last leave theirs there. What lies between its rows stays
    /// as it is.
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

    /// f32 of workspace for `threads`: the sorted order, and a block for each thread. With less, but
    /// as much as for one, fewer take part. After a run the workspace begins with the bits of the
    /// order, i32, `[batch, heads, num_hashes, seqlen]`, if anything is sorted; the rest means
    /// nothing.
    pub fn workspace_len(&self, threads: usize) -> usize {
        let blocks = threads.max(1).saturating_mul(self.part_len());
        blocks.saturating_add(self.problem.buckets_len() + self.chunks_len())
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
        let (order, rest) = workspace.split_at_mut(p.buckets_len());
        let (chunks, parts) = rest.split_at_mut(self.chunks_len());
        let (order, chunks): (&mut [i32], &mut [i32]) =
            (bytemuck::cast_slice_mut(order), bytemuck::cast_slice_mut(chunks));
        self.sort(&mut args, order, chunks, parts);
        let merged = Merged {
            out: SharedRows::new(std::mem::take(&mut args.out)),
            lse: SharedRows::new(std::mem::take(&mut args.lse)),
            lse_rounds: args.lse_rounds.take().map(SharedRows::new),
        };
        let (order, chunks): (&[i32], &[i32]) = (order, chunks);
        let blocks = p.seqlen.div_ceil(BLOCK_M);
        let len = self.part_len();
        // A round is merged with those before it.
        for round in 0..p.rounds() {
            share_tasks(parts, len, p.batch * p.heads * blocks, |part, task| {
                let (n, block) = (task / blocks, task % blocks);
                let items = n * p.num_hashes * p.seqlen..(n + 1) * p.num_hashes * p.seqlen;
                let head = Round {
                    problem: p,
                    args: &args,
                    isa: self.isa,
                    batch: n / p.heads,
                    head: n % p.heads,
                    round,
                    order: order.get(items.clone()),
                    chunks: chunks.get(items),
                };
                head.attend(block * BLOCK_M, &mut Tile::new(p.head_dim, part), &merged);
            });
        }
        Ok(())
    }

    /// Buckets, the order that they give, and each position's chunk.
    fn sort<T: Element>(
        &self,
        args: &mut Args<'_, T>,
        order: &mut [i32],
        chunks: &mut [i32],
        parts: &mut [f32],
    ) {
        let p = &self.problem;
        let Some(buckets) = args.buckets.take() else { return };
        let (buckets, order, chunks) =
            (SharedRows::new(buckets), SharedRows::new(order), SharedRows::new(chunks));
        let (n, len, heads) = (p.seqlen, self.part_len(), p.batch * p.heads);
        if let (true, Some(rotations)) = (p.is_hashed(), args.rotations) {
            let blocks = n.div_ceil(BLOCK_M);
            share_tasks(parts, len, heads * blocks, |part, task| {
                let (batch, head) = (task / blocks / p.heads, task / blocks % p.heads);
                let hash = Hash { problem: p, qk: args.qk, rotations, isa: self.isa, batch, head };
                let tile = &mut Tile::new(p.head_dim, part);
                hash.block(task % blocks * BLOCK_M, tile, &buckets);
            });
        }
        share_tasks(parts, len, heads * p.num_hashes, |part, task| {
            let batch = task / (p.heads * p.num_hashes);
            let valid = args.key_valid.map(|x| &x[batch * n..][..n]);
            let chunks_len = if p.duplicates_once { n } else { 0 };
            // SAFETY: a task has one round of one head for itself.
            #[allow(unsafe_code)]
            let (buckets, order, chunks) = unsafe {
                let at = task * n;
                let chunks = chunks.row(if chunks_len == 0 { 0 } else { at }, chunks_len);
                (buckets.row(at, n), order.row(at, n), chunks)
            };
            let counts: &mut [i32] = bytemuck::cast_slice_mut(&mut part[..p.buckets() + 1]);
            sort(buckets, valid, counts, order);
            let first = task % p.num_hashes * p.chunks_of_round();
            for (place, &i) in order.iter().enumerate().take(chunks_len) {
                chunks[i as usize] = (first + place / p.chunk_len) as i32;
            }
        });
    }

    fn check<T: Element>(&self, args: &Args<'_, T>, workspace: &[f32]) -> Result<(), Error> {
        let p = &self.problem;
        if T::DTYPE != p.dtype {
            let rule = format!("the problem's is {}", p.dtype);
            return Err(Error::invalid("dtype", T::DTYPE, rule));
        }
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
