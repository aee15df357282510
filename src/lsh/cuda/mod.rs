//! LSH attention on a CUDA device: plan, launch.

// Launching is unsafe, and so is what offers it.
#![allow(unsafe_code)]

pub mod config;
mod host;
mod params;
mod sort;
mod stages;

use super::Lsh;
use crate::Error;
use crate::cuda::launch::{address, optional_address};
use crate::cuda::{Caps, Context, Function, Launch, Stream};
use config::{Config, Stage, select};
use params::Params;
use sort::Pass;

/// The addresses of one launch's tensors. What the problem does not use is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Args {
    /// Shared queries and keys, in the problem's layout and dtype.
    pub qk: u64,
    /// Values.
    pub v: u64,
    /// f32, `[heads, head_dim, num_hashes, columns]`, where [`Lsh::is_hashed`].
    pub rotations: Option<u64>,
    /// i32, `[batch, heads, num_hashes, seqlen]`, where [`Lsh::is_sorted`]: read where
    /// [`Lsh::buckets_given`], else written. What is above the last bucket counts as that of
    /// invalid positions.
    pub buckets: Option<u64>,
    /// One byte a position, `[batch, seqlen]`, not 0 for a valid one.
    pub key_valid: Option<u64>,
    /// The result; the rounds before the last leave theirs there.
    pub out: u64,
    /// f32, `[batch, heads, seqlen]`.
    pub lse: u64,
    /// f32, `[batch, heads, num_hashes, seqlen]`, where [`Lsh::is_sorted`].
    pub lse_rounds: Option<u64>,
    /// [`Plan::workspace_bytes`] bytes, if that is not 0. After a launch it begins with the sorted
    /// order, i32, `[batch, heads, num_hashes, seqlen]`; the rest means nothing.
    pub workspace: Option<u64>,
}

impl Args {
    /// The four tensors that every problem has.
    pub fn new(qk: u64, v: u64, out: u64, lse: u64) -> Self {
        Args {
            qk,
            v,
            rotations: None,
            buckets: None,
            key_valid: None,
            out,
            lse,
            lse_rounds: None,
            workspace: None,
        }
    }
}

/// A compiled problem.
#[derive(Debug, Clone)]
pub struct Plan {
    problem: Lsh,
    config: Config,
    context: Context,
    kernels: Kernels,
}

type Kernels = Vec<(Stage, Function)>;

/// One kernel's launch.
#[derive(Debug, Clone, Copy)]
enum Step {
    Hash,
    Count(Pass),
    Scatter(Pass),
    /// Of a round.
    Forward(usize),
}

impl Step {
    fn stage(self) -> Stage {
        match self {
            Step::Hash => Stage::Hash,
            Step::Count(_) => Stage::Count,
            Step::Scatter(_) => Stage::Scatter,
            Step::Forward(_) => Stage::Forward,
        }
    }
}

impl Lsh {
    /// Selects, expands and loads the kernels for `context`'s device; the driver compiles a text
    /// that it did not meet before.
    pub fn plan_cuda(&self, context: &Context) -> Result<Plan, Error> {
        let config = select(self, context.caps())?;
        let kernels = kernels(context, &config)?;
        Ok(Plan { problem: self.clone(), config, context: context.clone(), kernels })
    }

    /// The PTX that would run on a device with `caps`, by kernel name, in the order of launch.
    pub fn sources_cuda(&self, caps: &Caps) -> Result<Vec<(String, String)>, Error> {
        let config = select(self, caps)?;
        let source = |stage| (config.entry(stage).to_owned(), config.of_stage(stage).source(stage));
        Ok(config.stages().into_iter().map(source).collect())
    }
}

fn kernels(context: &Context, config: &Config) -> Result<Kernels, Error> {
    let load = |stage| {
        let entry = config.entry(stage);
        Ok((stage, context.function(&config.of_stage(stage).source(stage), entry)?))
    };
    config.stages().into_iter().map(load).collect()
}

impl Plan {
    /// Device memory beside inputs and outputs that a launch needs; may be 0. It grows with the
    /// length and the number of rounds, not with the head dimension.
    pub fn workspace_bytes(&self) -> u64 {
        self.config.workspace_bytes(&self.problem)
    }

    /// What was selected.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The kernel and its tile sizes, for people.
    pub fn describe(&self) -> String {
        self.config.describe()
    }

    /// Queues the launch on `stream` and returns: the hash, two kernels for each pass of the sort,
    /// one for each round; no wait, no copy to the host. Allocates nothing on the device; tensors
    /// that do not begin on a multiple of 16 bytes take other kernels, which the first such launch
    /// loads.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] names the tensor that is absent, not asked for or misaligned.
    ///
    /// # Safety
    ///
    /// Every address is of memory of the context's device, as large as the problem says and not
    /// shared between a result and anything else, and stays valid until the launch is done.
    pub unsafe fn launch(&self, stream: &Stream, args: &Args) -> Result<(), Error> {
        self.queue(stream, args, &self.steps())
    }

    /// The launches in their order; none if there is nothing to compute.
    fn steps(&self) -> Vec<Step> {
        let p = &self.problem;
        if p.lse_len() == 0 {
            return vec![];
        }
        let mut steps = vec![Step::Hash];
        for pass in self.config.passes(p) {
            steps.extend([Step::Count(pass), Step::Scatter(pass)]);
        }
        steps.extend((0..p.rounds()).map(Step::Forward));
        steps
    }

    /// Queues `steps`; as [`launch`](Self::launch), whose promises are the caller's.
    fn queue(&self, stream: &Stream, args: &Args, steps: &[Step]) -> Result<(), Error> {
        if steps.is_empty() {
            return Ok(());
        }
        self.check(args)?;
        let aligned = [args.qk, args.v, args.out].iter().all(|at| at.is_multiple_of(16));
        if self.config.vec && !aligned {
            let config = self.config.with_scalar_loads();
            let kernels = kernels(&self.context, &config)?;
            return self.queue_with(stream, args, steps, &config, &kernels);
        }
        self.queue_with(stream, args, steps, &self.config, &self.kernels)
    }

    fn queue_with(
        &self,
        stream: &Stream,
        args: &Args,
        steps: &[Step],
        config: &Config,
        loaded: &Kernels,
    ) -> Result<(), Error> {
        let p = &self.problem;
        let params = Params::new(p, config, args);
        for &step in steps {
            let found = loaded.iter().find(|(stage, _)| *stage == step.stage());
            let (stage, function) = found.expect("loaded for these stages");
            let params = match step {
                Step::Hash => params,
                Step::Count(pass) | Step::Scatter(pass) => params.of_pass(config, p, args, pass),
                Step::Forward(round) => params.of_round(p, round),
            };
            let grid = config.grid(p, *stage) as u32;
            let launch = Launch::new([grid, 1, 1], config.threads(*stage))
                .dynamic_shared(config.dynamic_shared(*stage));
            // SAFETY: the parameter is what these kernels take (a test compares the fields); the
            // addresses in it are the promise of whoever called `launch`.
            unsafe { function.launch(stream, &launch, bytemuck::bytes_of(&params)) }?;
        }
        Ok(())
    }

    fn check(&self, args: &Args) -> Result<(), Error> {
        let p = &self.problem;
        let e = p.dtype.bytes() as u64;
        let always = [("qk", args.qk, e), ("v", args.v, e), ("out", args.out, e)];
        for (name, at, alignment) in always.into_iter().chain([("lse", args.lse, 4)]) {
            address(name, at, alignment, false)?;
        }
        let optional = [
            ("rotations", args.rotations, p.is_hashed(), 4),
            ("buckets", args.buckets, p.is_sorted(), 4),
            ("key_valid", args.key_valid, p.key_padding, 1),
            ("lse_rounds", args.lse_rounds, p.is_sorted(), 4),
            ("workspace", args.workspace, self.workspace_bytes() > 0, 16),
        ];
        for (name, given, used, alignment) in optional {
            optional_address(name, given, used, alignment, false)?;
        }
        Ok(())
    }
}
