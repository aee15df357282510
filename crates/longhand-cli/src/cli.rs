//! The command line.

use crate::commands::{all, bench, check, doctor, model, run, sources};
use crate::failure::Failure;
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use longhand::full::Buckets;
use longhand::lsh::Wrap;
use longhand::transformer_xl::Chunks;
use longhand::{DType, Full, Longformer, Lsh, Shape, TransformerXl, Window};
use std::process::ExitCode;

/// What a command found. A command that could not do its work returns a [`Failure`] instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything asked for is done and agrees: exit code 0.
    Good,
    /// A check failed: exit code 1.
    CheckFailed,
    /// Something was unreadable or declined, as already said on stderr: exit code 2.
    Incomplete,
}

#[derive(Parser)]
#[command(name = "longhand", version, about = ABOUT, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

const ABOUT: &str =
    "Hand-written GPU kernels for attention over long sequences: run, check, measure.

Without a command, every kind of attention runs on every device found, on sample problems shipped
inside the program, and is compared with the reference.";

const EXAMPLES: &str = "Examples:
  longhand                                            the samples on every device
  longhand run problem.safetensors --device webgpu --output result.safetensors
  longhand check tests/data/full/*.safetensors --device webgpu --dtype f16
  longhand bench full --device webgpu --lengths 1024,4096 --causal --svg speed.svg
  longhand sources full --head-dim 128 --causal
  longhand model run DIR --input DIR/input.safetensors --output result.safetensors

Exit codes: 0 done and all agrees, 1 a check failed, 2 bad input, usage, or declined.";

#[derive(Subcommand)]
enum Command {
    /// Compute a problem file and write its results
    Run(run::Options),
    /// Compute problem files and compare with the results they expect
    Check(check::Options),
    /// Run a model: a folder of config.json and model.safetensors
    #[command(subcommand)]
    Model(model::Command),
    /// What devices there are, and what runs on them
    Doctor(doctor::Options),
    /// Time kernels over sequence lengths
    Bench(bench::Options),
    /// Print the exact source of the kernel that a problem would run
    Sources(sources::Options),
}

/// Options that describe a problem, without its lengths.
#[derive(Args, Debug, Clone)]
pub(crate) struct ProblemOptions {
    /// Sequences
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) batch: usize,
    /// Query heads
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub(crate) heads: usize,
    /// Key/value heads [default: as many as query heads]
    #[arg(long, value_name = "N")]
    pub(crate) heads_kv: Option<usize>,
    /// Elements of a row of q, k, v
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub(crate) head_dim: usize,
    /// Storage of q, k, v and out: f32, f16 or bf16
    #[arg(long, default_value = "f32", value_name = "TYPE")]
    pub(crate) dtype: DType,
    /// No key after the query's position
    #[arg(long)]
    pub(crate) causal: bool,
    /// Only this many keys before the query's position
    #[arg(long, value_name = "N")]
    window_left: Option<usize>,
    /// Only this many keys after it
    #[arg(long, value_name = "N")]
    window_right: Option<usize>,
    /// What q·k is multiplied by [default: 1/sqrt(head_dim)]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    scale: Option<f64>,
    /// Soft limit of the scores; 0 is none
    #[arg(long, default_value_t = 0.0, value_name = "X")]
    softcap: f64,
    /// Linear position bias
    #[arg(long)]
    alibi: bool,
}

/// Options of Longformer's attention beside [`ProblemOptions`], whose windows are its sides.
#[derive(Args, Debug, Clone)]
pub(crate) struct LongformerOptions {
    /// longformer: global positions of each sequence
    #[arg(long, default_value_t = 16, value_name = "N")]
    globals: usize,
    /// longformer: gap between the keys of the window, for every head
    #[arg(long, default_value_t = 1, value_name = "N")]
    dilation: u32,
    /// longformer: global rows use q, k and v
    #[arg(long)]
    shared_projections: bool,
}

/// Options of LSH attention beside [`ProblemOptions`].
#[derive(Args, Debug, Clone)]
pub(crate) struct LshOptions {
    /// lsh: rounds of hashing
    #[arg(long, default_value_t = 4, value_name = "N")]
    num_hashes: usize,
    /// lsh: positions of a chunk
    #[arg(long, default_value_t = 64, value_name = "N")]
    chunk_len: usize,
    /// lsh: buckets as factors [default: as Hugging Face chooses for the length]
    #[arg(long, value_delimiter = ',', value_name = "N,…")]
    num_buckets: Vec<usize>,
    /// lsh: chunks seen before a position's own
    #[arg(long, default_value_t = 1, value_name = "N")]
    chunks_before: usize,
    /// lsh: chunks seen after it
    #[arg(long, default_value_t = 0, value_name = "N")]
    chunks_after: usize,
    /// lsh: the chunks of each round form a ring of their own
    #[arg(long)]
    wrap_per_round: bool,
    /// lsh: a pair counts once, however often it is met
    #[arg(long)]
    duplicates_once: bool,
}

impl LshOptions {
    /// The problem of this length, checked.
    pub(crate) fn problem(&self, common: &ProblemOptions, seqlen: usize) -> Result<Lsh, Failure> {
        common.none_of("lsh", &[])?;
        let shape = [common.batch, seqlen, common.heads, common.head_dim];
        let mut problem = Lsh::new(shape, self.chunk_len, self.num_hashes, common.dtype)
            .chunks(self.chunks_before, self.chunks_after);
        problem.causal = common.causal;
        problem.duplicates_once = self.duplicates_once;
        if self.wrap_per_round {
            problem = problem.wrap(Wrap::PerRound);
        }
        if !self.num_buckets.is_empty() {
            problem = problem.num_buckets(&self.num_buckets);
        }
        if let Some(scale) = common.scale {
            problem.softmax_scale = scale;
        }
        problem.validate()?;
        Ok(problem)
    }
}

/// Keys before a segment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Memory {
    Keys(usize),
    /// As many as in the segment.
    Same,
}

impl Memory {
    fn of(self, seqlen: usize) -> usize {
        match self {
            Memory::Keys(n) => n,
            Memory::Same => seqlen,
        }
    }
}

fn memory(text: &str) -> Result<Memory, String> {
    match text {
        "same" => Ok(Memory::Same),
        _ => {
            text.parse().map(Memory::Keys).map_err(|_| "must be a number of keys or 'same'".into())
        }
    }
}

/// Options of attention with relative positions beside [`ProblemOptions`].
#[derive(Args, Debug, Clone)]
pub(crate) struct RelativeOptions {
    /// transformer_xl, xlnet, rel_pos: keys before the segment; 'same': as many as in it
    #[arg(long, default_value = "0", value_name = "N|same", value_parser = memory)]
    pub(crate) memory: Memory,
    /// transformer_xl, xlnet, rel_pos: distances beyond share one row of the table
    #[arg(long, value_name = "N")]
    clamp_len: Option<usize>,
    /// transformer_xl, xlnet, rel_pos: queries at so many positions of the segment only
    #[arg(long, value_name = "N")]
    targets: Option<usize>,
    /// xlnet: a term for keys of the same segment as the query and of another
    #[arg(long)]
    segments: bool,
    /// xlnet: a bit for each pair that must not be attended
    #[arg(long)]
    perm_mask: bool,
    /// rel_pos: positions of a chunk; a query sees its own chunk and those before it
    #[arg(long, value_name = "N")]
    chunk_size: Option<usize>,
    /// rel_pos: chunks before its own that a query sees [default: all]
    #[arg(long, value_name = "N", requires = "chunk_size")]
    left_chunks: Option<usize>,
}

impl RelativeOptions {
    /// The problem of op `op` and this length, checked.
    pub(crate) fn problem(
        &self,
        op: &str,
        common: &ProblemOptions,
        seqlen: usize,
    ) -> Result<TransformerXl, Failure> {
        common.none_of(op, &["--heads-kv", "--window-left", "--window-right"])?;
        let shape = [common.batch, seqlen, common.heads, common.head_dim];
        let memory = self.memory.of(seqlen);
        let mut problem = match op {
            "xlnet" => TransformerXl::xlnet(shape, memory, common.dtype),
            "rel_pos" => TransformerXl::conformer(shape, memory, common.dtype),
            _ => TransformerXl::with_memory(shape, memory, common.dtype),
        };
        if let Some(heads_kv) = common.heads_kv {
            problem = problem.heads_kv(heads_kv);
        }
        problem.window.left = common.window_left;
        if common.causal {
            problem.window.right = Some(0);
        }
        problem.window.right = problem.window.right.or(common.window_right);
        if let Some(clamp_len) = self.clamp_len {
            problem = problem.clamp_len(clamp_len);
        }
        if let Some(count) = self.targets {
            problem = problem.targets(count);
        }
        for (name, given, of) in [
            ("--segments", self.segments, "xlnet"),
            ("--perm-mask", self.perm_mask, "xlnet"),
            ("--chunk-size", self.chunk_size.is_some(), "rel_pos"),
        ] {
            if given && op != of {
                return Err(Failure::input(format!("{name}: {op} has none")));
            }
        }
        if let Some(size) = self.chunk_size {
            problem = problem.chunks(Chunks { size, left: self.left_chunks });
        }
        if self.segments {
            problem = problem.segments();
        }
        if self.perm_mask {
            problem = problem.perm_mask();
        }
        if let Some(scale) = common.scale {
            problem.softmax_scale = scale;
        }
        problem.validate()?;
        Ok(problem)
    }
}

impl LongformerOptions {
    /// The problem of this length, checked. 256 keys on each side where no window is given.
    pub(crate) fn problem(
        &self,
        common: &ProblemOptions,
        seqlen: usize,
    ) -> Result<Longformer, Failure> {
        common.none_of("longformer", &["--window-left", "--window-right"])?;
        let shape = [common.batch, seqlen, common.heads, common.head_dim];
        let mut problem = Longformer::new(shape, 0, common.dtype)
            .window(common.window_left.unwrap_or(256), common.window_right.unwrap_or(256))
            .globals(self.globals.min(seqlen));
        problem.causal = common.causal;
        problem.shared_projections = self.shared_projections;
        if self.dilation != 1 {
            problem = problem.dilation(&vec![self.dilation; common.heads]);
        }
        if let Some(scale) = common.scale {
            problem.softmax_scale = scale;
        }
        problem.validate()?;
        Ok(problem)
    }
}

impl ProblemOptions {
    /// Refuses what full attention has and `kind` has not, which is all but `has`.
    fn none_of(&self, kind: &str, has: &[&str]) -> Result<(), Failure> {
        for (name, given) in [
            ("--softcap", self.softcap != 0.0),
            ("--alibi", self.alibi),
            ("--heads-kv", self.heads_kv.is_some_and(|n| n != self.heads)),
            ("--window-left", self.window_left.is_some()),
            ("--window-right", self.window_right.is_some()),
        ] {
            if given && !has.contains(&name) {
                return Err(Failure::input(format!("{name}: {kind} has none")));
            }
        }
        Ok(())
    }

    /// The problem of op `full`, or with T5's biases of op `t5_bias`: its decoder's if causal.
    pub(crate) fn problem_of(
        &self,
        op: &str,
        seqlen_q: usize,
        seqlen_k: usize,
    ) -> Result<Full, Failure> {
        let problem = self.problem(seqlen_q, seqlen_k)?;
        let bidirectional = !problem.causal;
        Ok(match op {
            "t5_bias" => {
                problem.buckets(Buckets { num_buckets: 32, max_distance: 128, bidirectional })
            }
            _ => problem,
        })
    }

    /// The problem of these lengths, checked.
    pub(crate) fn problem(&self, seqlen_q: usize, seqlen_k: usize) -> Result<Full, Failure> {
        let shape = Shape {
            batch: self.batch,
            heads_q: self.heads,
            heads_kv: self.heads_kv.unwrap_or(self.heads),
            seqlen_q,
            seqlen_k,
            head_dim: self.head_dim,
        };
        let mut problem = Full::new(shape, self.dtype)
            .window(Window { left: self.window_left, right: self.window_right })
            .softcap(self.softcap);
        problem.causal = self.causal;
        problem.alibi = self.alibi;
        if let Some(scale) = self.scale {
            problem.softmax_scale = scale;
        }
        problem.validate()?;
        Ok(problem)
    }
}

/// Runs the program on this process's arguments.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return usage(&e),
    };
    let outcome = match cli.command {
        None => all::run(),
        Some(Command::Run(options)) => run::run(&options),
        Some(Command::Check(options)) => check::run(&options),
        Some(Command::Model(command)) => model::run(&command),
        Some(Command::Doctor(options)) => doctor::run(&options),
        Some(Command::Bench(options)) => bench::run(&options),
        Some(Command::Sources(options)) => sources::run(&options),
    };
    match outcome {
        Ok(Outcome::Good) => ExitCode::SUCCESS,
        Ok(Outcome::CheckFailed) => ExitCode::from(1),
        Ok(Outcome::Incomplete) => ExitCode::from(2),
        Err(failure) => {
            complain(&failure);
            ExitCode::from(2)
        }
    }
}

/// One line on stderr.
pub(crate) fn complain(failure: &Failure) {
    eprintln!("longhand: {failure}");
}

/// Writes to stdout. A reader that has gone away (`longhand sources full | head`) is no error.
pub(crate) fn say(text: &str) -> Result<(), Failure> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::input(format!("stdout: {e}")))
        }
        _ => Ok(()),
    }
}

fn usage(e: &clap::Error) -> ExitCode {
    if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let _ = e.print();
        return ExitCode::SUCCESS;
    }
    // clap explains over several paragraphs; the first one says what is wrong.
    let text = e.to_string();
    let first = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = first.trim_start_matches("error: ").split_whitespace().collect();
    let message = format!("{} (see longhand --help)", words.join(" "));
    complain(&Failure::input(message));
    ExitCode::from(2)
}
