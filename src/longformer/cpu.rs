//! Longformer's attention on this machine's processor: plan, run.

mod block;
mod host;

use super::Longformer;
use crate::Error;
use crate::cpu::tile::{BLOCK_M, BLOCK_N, Tile};
use crate::cpu::{Element, Isa, SharedRows, expect_dtype, share_tasks};
use crate::problem::at_least;
use block::{Block, Globals};

/// The tensors of one run. What the problem does not use is `None`.
#[derive(Debug)]
pub struct Args<'a, T> {
    /// Local queries, in the problem's layout and dtype.
    pub q: &'a [T],
    /// Local keys.
    pub k: &'a [T],
    /// Local values.
    pub v: &'a [T],
    /// Global queries, keys and values, where [`Longformer::has_global_tensors`].
    pub q_global: Option<&'a [T]>,
    /// See `q_global`.
    pub k_global: Option<&'a [T]>,
    /// See `q_global`.
    pub v_global: Option<&'a [T]>,
    /// `[batch, max_globals]`: distinct positions in any order, filled up with −1 at the end.
    pub global_indices: Option<&'a [i32]>,
    /// One byte a position, `[batch, seqlen]`, 1 for a valid one and else 0.
    pub key_valid: Option<&'a [u8]>,
    /// The result. What lies between its rows stays as it is.
    pub out: &'a mut [T],
    /// `[batch, heads, seqlen]`.
    pub lse: &'a mut [f32],
}

impl<'a, T> Args<'a, T> {
    /// The five tensors that every problem has.
    pub fn new([q, k, v]: [&'a [T]; 3], out: &'a mut [T], lse: &'a mut [f32]) -> Self {
        let (q_global, k_global, v_global) = (None, None, None);
        let (global_indices, key_valid) = (None, None);
        Args { q, k, v, q_global, k_global, v_global, global_indices, key_valid, out, lse }
    }
}

/// A problem and the instructions that compute it.
#[derive(Debug, Clone)]
pub struct Plan {
    problem: Longformer,
    isa: Isa,
}

impl Longformer {
    /// A plan for this processor, or for the instructions that `LONGHAND_CPU` names.
    pub fn plan_cpu(&self) -> Result<Plan, Error> {
        self.validate()?;
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

    /// f32 of workspace for `threads`: a list of the globals, and a block for each thread. With less,
    /// but as much as for one, fewer take part.
    pub fn workspace_len(&self, threads: usize) -> usize {
        let blocks = threads.max(1).saturating_mul(Tile::len(self.problem.head_dim));
        blocks.saturating_add(self.globals_len())
    }

    fn globals_len(&self) -> usize {
        self.problem.batch * self.problem.max_globals
    }

    /// The tile sizes, for people.
    pub fn describe(&self) -> String {
        format!("cpu {}, tile {BLOCK_M}x{BLOCK_N}", self.isa.name())
    }

    /// Computes into `args.out` and `args.lse`, on the threads of the rayon pool that this is called
    /// in; `workspace` is as long as [`workspace_len`](Self::workspace_len) says, and its contents
    /// mean nothing.
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
        let (lists, workspace) = workspace.split_at_mut(self.globals_len());
        let lists: &mut [i32] = bytemuck::cast_slice_mut(lists);
        self.list_globals(&args, lists)?;
        if p.lse_len() == 0 {
            return Ok(());
        }
        let out = SharedRows::new(std::mem::take(&mut args.out));
        let lse = SharedRows::new(std::mem::take(&mut args.lse));
        // Global rows take longest: they begin.
        let of_globals = p.max_globals.div_ceil(BLOCK_M);
        let global_tasks = p.batch * p.heads * of_globals;
        let local = LocalTasks::new(p);
        let tasks = global_tasks + p.batch * local.of_sequence;
        share_tasks(workspace, Tile::len(p.head_dim), tasks, |part, task| {
            let block = |b: usize, h: usize| {
                let globals = Globals::new(&lists[b * p.max_globals..][..p.max_globals]);
                Block { problem: p, args: &args, isa: self.isa, batch: b, head: h, globals }
            };
            let tile = &mut Tile::new(p.head_dim, part);
            match task.checked_sub(global_tasks) {
                None => {
                    let (n, row) = (task / of_globals, task % of_globals * BLOCK_M);
                    block(n / p.heads, n % p.heads).global(row, tile, &out, &lse);
                }
                Some(task) => {
                    let (h, class, first) = local.at(task % local.of_sequence);
                    block(task / local.of_sequence, h).local(class, first, tile, &out, &lse);
                }
            }
        });
        Ok(())
    }

    fn check<T: Element>(&self, args: &Args<'_, T>, workspace: &[f32]) -> Result<(), Error> {
        let p = &self.problem;
        expect_dtype::<T>(p.dtype)?;
        let l = &p.layout;
        for (name, got, needed) in [
            ("q", args.q.len(), p.span(&l.q)),
            ("k", args.k.len(), p.span(&l.k)),
            ("v", args.v.len(), p.span(&l.v)),
            ("out", args.out.len(), p.span(&l.out)),
            ("lse", args.lse.len(), p.lse_len()),
            ("workspace", workspace.len(), self.workspace_len(1)),
        ] {
            at_least(name, got, needed)?;
        }
        p.validate_globals_and_mask(
            [args.q_global, args.k_global, args.v_global].map(|x| x.map(<[T]>::len)),
            args.global_indices.map(<[i32]>::len),
            args.key_valid,
        )
    }

    /// The valid globals of each sequence, ascending, then −1.
    fn list_globals<T>(&self, args: &Args<'_, T>, lists: &mut [i32]) -> Result<(), Error> {
        let (p, n) = (&self.problem, self.problem.max_globals);
        let Some(all) = args.global_indices else { return Ok(()) };
        lists.copy_from_slice(all);
        for (b, list) in lists.chunks_exact_mut(n.max(1)).enumerate() {
            let listed = list.iter().position(|&i| i == -1).unwrap_or(n);
            let ended = list[listed..].iter().all(|&i| i == -1);
            let list = &mut list[..listed];
            list.sort_unstable();
            let inside = |i: &i32| (0..p.seqlen as i32).contains(i);
            if !ended || !list.iter().all(inside) || list.windows(2).any(|w| w[0] == w[1]) {
                // Says what is wrong.
                return p.validate_globals(all);
            }
            let valid = args.key_valid.map(|x| &x[b * p.seqlen..]);
            let mut count = 0;
            for at in 0..listed {
                let i = list[at];
                if valid.is_none_or(|valid| valid[i as usize] != 0) {
                    list[count] = i;
                    count += 1;
                }
            }
            list[count..].fill(-1);
        }
        Ok(())
    }
}

/// Blocks of local rows: of each head, of each class of positions that its dilation keeps apart.
struct LocalTasks<'a> {
    problem: &'a Longformer,
    of_sequence: usize,
}

impl<'a> LocalTasks<'a> {
    fn new(problem: &'a Longformer) -> Self {
        let of_heads = (0..problem.heads).map(|h| Self::of_head(problem, h));
        let of_sequence = of_heads.map(|(classes, blocks)| classes * blocks).sum();
        LocalTasks { problem, of_sequence }
    }

    /// Classes, and blocks of each.
    fn of_head(p: &Longformer, h: usize) -> (usize, usize) {
        let step = p.dilation_of(h);
        (step.min(p.seqlen), p.seqlen.div_ceil(step).div_ceil(BLOCK_M))
    }

    /// Head, class and first row, counted in the class, of one of a sequence's tasks.
    fn at(&self, mut task: usize) -> (usize, usize, usize) {
        for h in 0..self.problem.heads {
            let (classes, blocks) = Self::of_head(self.problem, h);
            if task < classes * blocks {
                return (h, task / blocks, task % blocks * BLOCK_M);
            }
            task -= classes * blocks;
        }
        unreachable!("a task of no head")
    }
}
