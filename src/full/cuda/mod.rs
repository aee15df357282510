//! Full attention on a CUDA device: plan, launch.

// Launching is unsafe, and so is what offers it.
#![allow(unsafe_code)]

pub mod config;
mod host;
mod params;

use super::Full;
use crate::cuda::launch::{address, optional_address};
use crate::cuda::{Caps, Context, Function, Launch, Stream};
use crate::{Error, Strides};
use config::{Config, Stage, select};
use params::Params;

/// The addresses of one launch's tensors. What the problem does not use is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Args {
    /// Queries, in the problem's layout and dtype.
    pub q: u64,
    /// Keys.
    pub k: u64,
    /// Values.
    pub v: u64,
    /// The result.
    pub out: u64,
    /// f32, `[batch, heads_q, seqlen_q]` (ragged: `[heads_q, total_q]`).
    pub lse: u64,
    /// f32, `[heads_q]`.
    pub alibi_slopes: Option<u64>,
    /// f32; see [`Bias`](crate::full::Bias).
    pub bias: Option<u64>,
    /// f32, `[num_buckets, heads_q]`.
    pub bias_table: Option<u64>,
    /// One byte a key, `[batch, seqlen_k]`, not 0 for a key that may be attended.
    pub key_valid: Option<u64>,
    /// i32, `[batch + 1]`. The device trusts it: see [`Ragged`](crate::full::Ragged).
    pub cu_seqlens_q: Option<u64>,
    /// i32, `[batch + 1]`.
    pub cu_seqlens_k: Option<u64>,
    /// [`Plan::workspace_bytes`] bytes, if that is not 0. Its contents mean nothing between launches.
    pub workspace: Option<u64>,
}

impl Args {
    /// The five tensors that every problem has.
    pub fn new(q: u64, k: u64, v: u64, out: u64, lse: u64) -> Self {
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
            workspace: None,
        }
    }
}

/// A compiled problem.
#[derive(Debug, Clone)]
pub struct Plan {
    problem: Full,
    config: Config,
    context: Context,
    kernels: Kernels,
}

type Kernels = Vec<(Stage, Function)>;

impl Full {
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
        let source = |stage| (config.entry(stage).to_owned(), config.source(stage));
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
    /// Device memory beside inputs and outputs that a launch needs; may be 0.
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

    /// Queues the launch on `stream` and returns. Allocates nothing on the device; tensors that do
    /// not begin on a multiple of 16 bytes take other kernels, which the first such launch loads.
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
        let p = &self.problem;
        if p.lse_len() == 0 {
            return Ok(());
        }
        self.check(args)?;
        let large = [args.q, args.k, args.v, args.out];
        let aligned = large.iter().all(|at| at.is_multiple_of(16));
        let (mut config, mut loaded) = (self.config, self.kernels.clone());
        if config.vec && !aligned {
            config = config.with_scalar_loads();
            loaded = kernels(&self.context, &config)?;
        }
        let params = Params::new(p, &config, args);
        for (stage, function) in &loaded {
            let grid = config.grid(p, *stage) as u32;
            let mut launch = Launch::new([grid, 1, 1], config.threads(*stage));
            if *stage == Stage::Forward {
                launch = launch.dynamic_shared(config.shared_bytes());
            }
            // SAFETY: the parameter is what these kernels take (a test compares the fields); the
            // addresses in it are the caller's promise.
            unsafe { function.launch(stream, &launch, bytemuck::bytes_of(&params)) }?;
        }
        Ok(())
    }

    fn check(&self, args: &Args) -> Result<(), Error> {
        let p = &self.problem;
        let e = p.dtype.bytes() as u64;
        let none = |s: &Strides, rows, heads| s.span(p.batches(), rows, heads, 1) == Some(0);
        let no_keys = none(&p.layout.k, p.rows_k(), p.shape.heads_kv);
        let always = [
            ("q", args.q, e, false),
            ("k", args.k, e, no_keys),
            ("v", args.v, e, no_keys),
            ("out", args.out, e, false),
            ("lse", args.lse, 4, false),
        ];
        for (name, at, alignment, may_be_null) in always {
            address(name, at, alignment, may_be_null)?;
        }
        let optional = [
            ("alibi_slopes", args.alibi_slopes, p.alibi, 4, false),
            ("bias", args.bias, p.bias.is_some(), 4, no_keys),
            ("bias_table", args.bias_table, p.buckets.is_some(), 4, false),
            ("key_valid", args.key_valid, p.key_padding, 1, no_keys),
            ("cu_seqlens_q", args.cu_seqlens_q, p.ragged.is_some(), 4, false),
            ("cu_seqlens_k", args.cu_seqlens_k, p.ragged.is_some(), 4, false),
            ("workspace", args.workspace, self.workspace_bytes() > 0, 16, false),
        ];
        for (name, given, used, alignment, may_be_null) in optional {
            optional_address(name, given, used, alignment, may_be_null)?;
        }
        Ok(())
    }
}
