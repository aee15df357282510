//! `longhand sources`: the exact text of a kernel.

use crate::cli::{LongformerOptions, LshOptions, Outcome, ProblemOptions, RelativeOptions, say};
use crate::failure::{Failure, Result};
use crate::problem_file::{Problem, known_op};
use crate::{cuda, webgpu};
use longhand::full::{Bias, Ragged};
use longhand::transformer_xl::{SinCos, Sinusoids};
use longhand::{Full, Merge};

const EXAMPLES: &str = "Examples:
  longhand sources full
  longhand sources full --target wgsl --head-dim 128 --dtype f16 --causal --seqlen 8192
  longhand sources full --target sm80 --head-dim 128 --dtype bf16 --causal
  longhand sources longformer --target sm80 --window-left 128 --window-right 128 --dtype f16
  longhand sources longformer --globals 4 --dilation 2 --key-padding --window-left 64
  longhand sources sinusoids --target sm80 --head-dim 512 --dtype f16
  longhand sources merge --target sm80 --head-dim 128 --dtype bf16
  longhand sources full --this-gpu --heads 32 --heads-kv 8 --window-left 1024";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Options {
    /// The kind of attention; or sinusoids, the kernel that makes position tables, or merge, that of
    /// two results over different keys
    kind: String,
    /// The language
    #[arg(long, value_enum, default_value = "wgsl")]
    target: Target,
    /// For the GPU of this machine instead of WebGPU's guaranteed limits, or an A100 or H100
    #[arg(long)]
    this_gpu: bool,
    /// Queries and keys per sequence
    #[arg(long, default_value_t = 4096, value_name = "N")]
    seqlen: usize,
    /// Queries per sequence, if other than --seqlen
    #[arg(long, value_name = "N")]
    seqlen_q: Option<usize>,
    /// Keys per sequence, if other than --seqlen
    #[arg(long, value_name = "N")]
    seqlen_k: Option<usize>,
    /// An additive bias for every sequence and head
    #[arg(long)]
    bias: bool,
    /// A mask of valid keys
    #[arg(long)]
    key_padding: bool,
    /// Packed sequences
    #[arg(long)]
    ragged: bool,
    /// sinusoids: sines at even places and cosines at odd ones, not half a row each
    #[arg(long)]
    interleaved: bool,
    #[command(flatten)]
    problem: ProblemOptions,
    #[command(flatten)]
    longformer: LongformerOptions,
    #[command(flatten)]
    lsh: LshOptions,
    #[command(flatten)]
    relative: RelativeOptions,
}

/// A language that kernels are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Target {
    /// WebGPU's.
    Wgsl,
    /// PTX for NVIDIA devices of compute capability 8.0 and later.
    Sm80,
    /// PTX for those of 9.0.
    Sm90a,
}

pub(crate) fn run(options: &Options) -> Result<Outcome> {
    let here = options.this_gpu;
    if options.kind == "sinusoids" {
        let table = sinusoids(options);
        return print(match options.target {
            Target::Wgsl => webgpu::sources_of_table(&table, here),
            Target::Sm80 => cuda::sources_of_table(&table, cuda::Arch::Sm80, here),
            Target::Sm90a => cuda::sources_of_table(&table, cuda::Arch::Sm90a, here),
        }?);
    }
    if options.kind != "merge" {
        known_op(&options.kind)?;
    }
    if options.interleaved {
        return Err(Failure::input(format!("--interleaved: {} has none", options.kind)));
    }
    if options.kind == "merge" {
        no_options_of_full(options)?;
        let merge = merge(options)?;
        return print(match options.target {
            Target::Wgsl => webgpu::sources_of_merge(&merge, here),
            Target::Sm80 => cuda::sources_of_merge(&merge, cuda::Arch::Sm80, here),
            Target::Sm90a => cuda::sources_of_merge(&merge, cuda::Arch::Sm90a, here),
        }?);
    }
    let problem = match options.kind.as_str() {
        "full" | "t5_bias" => Problem::Full(full(options)?),
        "longformer" => {
            let mut problem = options.longformer.problem(&options.problem, options.seqlen)?;
            problem.key_padding = options.key_padding;
            Problem::Longformer(problem)
        }
        "lsh" => {
            let mut problem = options.lsh.problem(&options.problem, options.seqlen)?;
            problem.key_padding = options.key_padding;
            Problem::Lsh(problem)
        }
        op => {
            let mut problem = options.relative.problem(op, &options.problem, options.seqlen)?;
            problem.key_padding = options.key_padding;
            Problem::TransformerXl(problem)
        }
    };
    if !["full", "t5_bias"].contains(&options.kind.as_str()) {
        no_options_of_full(options)?;
    }
    print(match options.target {
        Target::Wgsl => webgpu::sources(&problem, here),
        Target::Sm80 => cuda::sources(&problem, cuda::Arch::Sm80, here),
        Target::Sm90a => cuda::sources(&problem, cuda::Arch::Sm90a, here),
    }?)
}

/// A table of `--seqlen` distances, `--head-dim` wide.
fn sinusoids(options: &Options) -> Sinusoids {
    Sinusoids {
        first: 0,
        rows: options.seqlen,
        width: options.problem.head_dim,
        order: if options.interleaved { SinCos::Interleaved } else { SinCos::Halves },
        dtype: options.problem.dtype,
    }
}

/// Of two results of full attention's sizes.
fn merge(options: &Options) -> Result<Merge> {
    let of = options.problem.problem_of("full", options.seqlen, options.seqlen)?;
    Ok(Merge::new(of.shape, of.dtype))
}

fn print(sources: Vec<(String, String)>) -> Result<Outcome> {
    let several = sources.len() > 1;
    for (name, text) in sources {
        if several {
            say(&format!("// ---- {name}\n"))?;
        }
        say(&text)?;
    }
    Ok(Outcome::Good)
}

fn full(options: &Options) -> Result<Full> {
    let seqlen_q = options.seqlen_q.unwrap_or(options.seqlen);
    let seqlen_k = options.seqlen_k.unwrap_or(options.seqlen);
    let mut problem = options.problem.problem_of(&options.kind, seqlen_q, seqlen_k)?;
    problem.key_padding = options.key_padding;
    if options.bias {
        problem = problem.bias(Bias { per_batch: true, per_head: true });
    }
    if options.ragged {
        problem = problem.ragged(Ragged {
            total_q: seqlen_q.saturating_mul(problem.shape.batch),
            total_k: seqlen_k.saturating_mul(problem.shape.batch),
        });
    }
    problem.validate()?;
    Ok(problem)
}

fn no_options_of_full(options: &Options) -> Result<()> {
    for (name, given) in [
        ("--seqlen-q", options.seqlen_q.is_some()),
        ("--seqlen-k", options.seqlen_k.is_some()),
        ("--bias", options.bias),
        ("--ragged", options.ragged),
    ] {
        if given {
            return Err(Failure::input(format!("{name}: {} has none", options.kind)));
        }
    }
    Ok(())
}
