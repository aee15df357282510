//! Full attention on this machine's processor: plan, run.

mod host;
mod tile;

use super::Full;
use crate::Error;
use crate::cpu::tile::{BLOCK_M, BLOCK_N, Tile};
use crate::cpu::{Element, Isa, SharedRows, expect_dtype, share_tasks};
use crate::problem::{at_least, exactly};
use tile::Block;

/// The tensors of one run. What the problem does not use is `None`.
#[derive(Debug)]
pub struct Args<'a, T> {
    /// Queries, in the problem's layout and dtype.
    pub q: &'a [T],
    /// Keys.
    pub k: &'a [T],
    /// Values.
    pub v: &'a [T],
    /// The result. What lies between its rows stays as it is.
    pub out: &'a mut [T],
    /// `[batch, heads_q, seqlen_q]` (ragged: `[heads_q, total_q]`).
    pub lse: &'a mut [f32],
    /// `[heads_q]`.
    pub alibi_slopes: Option<&'a [f32]>,
    /// See [`Bias`](crate::full::Bias).
    pub bias: Option<&'a [f32]>,
    /// `[num_buckets, heads_q]`.
    pub bias_table: Option<&'a [f32]>,
    /// One byte a key, `[batch, seqlen_k]`, not 0 for a key that may be attended.
    pub key_valid: Option<&'a [u8]>,
    /// `[batch + 1]`.
    pub cu_seqlens_q: Option<&'a [i32]>,
    /// `[batch + 1]`.
    pub cu_seqlens_k: Option<&'a [i32]>,
}

impl<'a, T> Args<'a, T> {
    /// The five tensors that every problem has.
    pub fn new([q, k, v]: [&'a [T]; 3], out: &'a mut [T], lse: &'a mut [f32]) -> Self {
        Args {
            q,
            k,
            v,
            out,
            lse,
            alibi_slopes: None,
            bias: None,
            bias_table: None,
            key_valid: None,
            cu_seqlens_q: None,
            cu_seqlens_k: None,
        }
    }
}

/// A problem and the instructions that compute it.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    problem: Full,
    isa: Isa,
}

impl Full {
    /// A plan for this processor, or for the instructions that `LONGHAND_CPU` names.
    pub fn plan_cpu(&self) -> Result<Plan, Error> {
        self.validate()?;
        Ok(Plan { problem: *self, isa: Isa::choose()? })
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

    /// f32 of workspace for one thread.
    pub fn workspace_of_thread(&self) -> usize {
        Tile::len(self.problem.shape.head_dim)
    }

    /// Elements of a workspace for `threads`.
    pub fn workspace_len(&self, threads: usize) -> usize {
        threads.max(1).saturating_mul(self.workspace_of_thread())
    }

    /// The tile sizes, for people.
    pub fn describe(&self) -> String {
        format!("cpu {}, tile {BLOCK_M}x{BLOCK_N}", self.isa.name())
    }

    /// Computes into `args.out` and `args.lse`, on the threads of the rayon pool that this is called
    /// in; `workspace` holds [`workspace_of_thread`](Self::workspace_of_thread) elements for each
    /// thread that shall take part, whose contents mean nothing.
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
        let blocks = p.shape.seqlen_q.div_ceil(BLOCK_M);
        let tasks = p.shape.batch * p.shape.heads_q * blocks;
        share_tasks(workspace, self.workspace_of_thread(), tasks, |part, task| {
            let block = Block {
                problem: p,
                args: &args,
                isa: self.isa,
                head: task / blocks % p.shape.heads_q,
                batch: task / blocks / p.shape.heads_q,
                // Under a causal mask the last rows see the most keys: they begin.
                first: (blocks - 1 - task % blocks) * BLOCK_M,
            };
            block.run(&mut Tile::new(p.shape.head_dim, part), &out, &lse);
        });
        Ok(())
    }

    fn check<T: Element>(&self, args: &Args<'_, T>, workspace: &[f32]) -> Result<(), Error> {
        let p = &self.problem;
        expect_dtype::<T>(p.dtype)?;
        let s = &p.shape;
        let [q, k, v, out] = p.spans();
        for (name, got, needed) in [
            ("q", args.q.len(), q),
            ("k", args.k.len(), k),
            ("v", args.v.len(), v),
            ("out", args.out.len(), out),
            ("lse", args.lse.len(), p.lse_len()),
            ("workspace", workspace.len(), self.workspace_of_thread()),
        ] {
            at_least(name, got, needed)?;
        }
        let len = |x: &Option<&[f32]>| x.map(<[f32]>::len);
        exactly("alibi_slopes", len(&args.alibi_slopes), p.alibi.then_some(s.heads_q))?;
        let bias = p.bias.as_ref().map(|b| p.bias_dims(b).iter().product());
        exactly("bias", len(&args.bias), bias)?;
        let table = p.buckets.map(|b| b.num_buckets * s.heads_q);
        exactly("bias_table", len(&args.bias_table), table)?;
        p.validate_masks(args.key_valid, args.cu_seqlens_q, args.cu_seqlens_k)
    }
}
