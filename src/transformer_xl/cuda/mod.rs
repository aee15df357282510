//! Relative-position attention on a CUDA device: plan, launch.

// Launching is unsafe, and so is what offers it.
#![allow(unsafe_code)]

pub mod config;
mod host;
mod params;

use super::TransformerXl;
use crate::Error;
use crate::cuda::launch::{address, optional_address};
use crate::cuda::{Caps, Context, Function, Launch, Stream};
use config::{Config, Stage, select};
use params::Params;

/// The addresses of one launch's tensors. What the problem does not use is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Args {
    /// Queries, in the problem's layout and dtype.
    pub q: u64,
    /// Keys, those of the memory excepted.
    pub k: u64,
    /// Values, those of the memory excepted.
    pub v: u64,
    /// The position table, by distance, ascending.
    pub r: u64,
    /// f32, `[heads_q, head_dim]`: added to q for the keys.
    pub bias_u: u64,
    /// f32, `[heads_q, head_dim]`: added to q for the positions.
    pub bias_v: u64,
    /// The result.
    pub out: u64,
    /// f32, `[batch, heads_q, seqlen_q]`.
    pub lse: u64,
    /// The memory's keys.
    pub k_memory: Option<u64>,
    /// The memory's values.
    pub v_memory: Option<u64>,
    /// f32, `[heads_q, head_dim]`: added to q for the segments.
    pub bias_s: Option<u64>,
    /// f32, `[2, heads_q, head_dim]`: the same segment, another one.
    pub seg_embed: Option<u64>,
    /// i32, `[batch, segment_len]`.
    pub seg_q: Option<u64>,
    /// i32, `[batch, seqlen_k]`.
    pub seg_k: Option<u64>,
    /// u32 words of bits, `[batch, segment_len, perm_words]`; a set bit forbids.
    pub perm_mask: Option<u64>,
    /// One byte a key, `[batch, seqlen_k]`, not 0 for a valid one.
    pub key_valid: Option<u64>,
    /// i32, `[batch, seqlen_q]`, each below the segment's length; others count as its last position.
    pub targets: Option<u64>,
    /// [`Plan::workspace_bytes`] bytes, if that is not 0. Its contents mean nothing between launches.
    pub workspace: Option<u64>,
}

impl Args {
    /// The tensors that every problem has: queries, keys and values, the table, its two biases, the
    /// results.
    pub fn new(
        [q, k, v]: [u64; 3],
        r: u64,
        [bias_u, bias_v]: [u64; 2],
        out: u64,
        lse: u64,
    ) -> Self {
        Args {
            q,
            k,
            v,
            r,
            bias_u,
            bias_v,
            out,
            lse,
            k_memory: None,
            v_memory: None,
            bias_s: None,
            seg_embed: None,
            seg_q: None,
            seg_k: None,
            perm_mask: None,
            key_valid: None,
            targets: None,
            workspace: None,
        }
    }
}

/// A compiled problem.
#[derive(Debug, Clone)]
pub struct Plan {
    problem: TransformerXl,
    config: Config,
    context: Context,
    kernels: Kernels,
}

type Kernels = Vec<(Stage, Function)>;

impl TransformerXl {
    /// Selects, expands and loads the kernels for `context`'s device; the driver compiles a text
    /// that it did not meet before.
    pub fn plan_cuda(&self, context: &Context) -> Result<Plan, Error> {
        let config = select(self, context.caps())?;
        let kernels = kernels(context, &config)?;
        Ok(Plan { problem: *self, config, context: context.clone(), kernels })
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
    /// lengths, not with their product.
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

    /// Queues the launch on `stream` and returns: two kernels, no wait, no copy to the host.
    /// Allocates nothing on the device; tensors that do not begin on a multiple of 16 bytes take
    /// other kernels, which the first such launch loads.
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
        if self.problem.lse_len() == 0 {
            return Ok(());
        }
        self.check(args)?;
        let large = [Some(args.q), Some(args.k), Some(args.v), Some(args.r), Some(args.out)];
        let all = large.into_iter().chain([args.k_memory, args.v_memory]);
        let aligned = all.flatten().all(|at| at.is_multiple_of(16));
        if self.config.vec && !aligned {
            let config = self.config.with_scalar_loads();
            return self.queue(stream, args, &config, &kernels(&self.context, &config)?);
        }
        self.queue(stream, args, &self.config, &self.kernels)
    }

    fn queue(
        &self,
        stream: &Stream,
        args: &Args,
        config: &Config,
        loaded: &Kernels,
    ) -> Result<(), Error> {
        let p = &self.problem;
        let params = Params::new(p, config, args);
        for (stage, function) in loaded {
            let grid = config.grid(p, *stage) as u32;
            if grid == 0 {
                continue;
            }
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
        let s = &p.shape;
        let e = p.dtype.bytes() as u64;
        // A tensor without elements may be anywhere.
        let (keys, rows) = (s.batch * p.rows_k() == 0, p.rows == 0);
        for (name, at, alignment, empty) in [
            ("q", args.q, e, false),
            ("k", args.k, e, keys),
            ("v", args.v, e, keys),
            ("r", args.r, e, rows),
            ("bias_u", args.bias_u, 4, false),
            ("bias_v", args.bias_v, 4, false),
            ("out", args.out, e, false),
            ("lse", args.lse, 4, false),
        ] {
            address(name, at, alignment, empty)?;
        }
        let memory = p.memory.is_some();
        let no_memory = p.memory.is_none_or(|m| m.rows == 0);
        let none = s.seqlen_k == 0;
        for (name, given, used, alignment, empty) in [
            ("k_memory", args.k_memory, memory, e, no_memory),
            ("v_memory", args.v_memory, memory, e, no_memory),
            ("bias_s", args.bias_s, p.segments, 4, false),
            ("seg_embed", args.seg_embed, p.segments, 4, false),
            ("seg_q", args.seg_q, p.segments, 4, false),
            ("seg_k", args.seg_k, p.segments, 4, none),
            ("perm_mask", args.perm_mask, p.perm_mask, 4, none),
            ("key_valid", args.key_valid, p.key_padding, 1, none),
            ("targets", args.targets, p.targets.is_some(), 4, false),
            ("workspace", args.workspace, self.workspace_bytes() > 0, 16, false),
        ] {
            optional_address(name, given, used, alignment, empty)?;
        }
        Ok(())
    }
}
