//! `longhand bench`: times over sequence lengths.

use crate::cli::{
    LongformerOptions, LshOptions, Memory, Outcome, ProblemOptions, RelativeOptions, say,
};
use crate::container::write_atomically;
use crate::device::{Device, DeviceKind, Timing};
use crate::failure::{Failure, Result};
use crate::problem_file::{OPS, Problem, ProblemFile, known_op};
use crate::ptxas::{self, Assembler};
use crate::series::{self, Series};
use crate::stages::Stages;
use crate::{cuda, generate, plot, sass, table};
use longhand::{DType, Full};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "Examples:
  longhand bench
  longhand bench full --device webgpu --lengths 512,1024,2048,4096 --causal
  longhand bench full --device webgpu --head-dim 128 --dtype f16 --json speed.json --svg speed.svg
  longhand bench full --static --head-dim 128 --dtype bf16
  longhand bench full --lengths 4096,8192,16384 --json full.json
  longhand bench longformer --lengths 4096,16384,65536 --svg both.svg --with full.json
  longhand bench transformer_xl --causal --lengths 1024,4096 --memory same
  longhand bench rel_pos --chunk-size 64 --left-chunks 4 --heads 8 --heads-kv 2
  longhand bench lsh --lengths 16384 --num-hashes 4 --chunk-len 64 --stages

TFLOP/s counts the products that the mask leaves (two per query and key), GB/s the bytes of q, k,
v, out and lse, each once. The dense way needs the 'dense' bytes for its scores alone. The last
line is the exponent of the length that fits the times best. On device cpu, 'of peak' is the part of
what the multiply-add units reach in a loop of nothing else, measured in the same run.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Options {
    /// The kind of attention
    #[arg(default_value = "full")]
    kind: String,
    /// Where to compute
    #[arg(long, value_enum, default_value = "webgpu")]
    device: DeviceKind,
    /// Sequence lengths
    #[arg(long, value_delimiter = ',', default_values_t = [512, 1024, 2048], value_name = "N,…")]
    lengths: Vec<usize>,
    /// Launches after the first; the fastest counts
    #[arg(long, default_value_t = 5, value_name = "N")]
    repeats: usize,
    /// lsh on webgpu or cuda: time each kernel by itself too, next to the time that its bytes or operations
    /// take at the rates of a copy and of full attention on the same device
    #[arg(long)]
    stages: bool,
    /// No device: assemble the CUDA kernels and estimate from their main loop what part of an
    /// A100's tensor-core peak they leave time for (needs the assemblers of ./check --setup)
    #[arg(long = "static", conflicts_with_all = ["device", "json", "svg", "repeats", "stages"])]
    estimate: bool,
    #[command(flatten)]
    problem: ProblemOptions,
    #[command(flatten)]
    longformer: LongformerOptions,
    #[command(flatten)]
    lsh: LshOptions,
    #[command(flatten)]
    relative: RelativeOptions,
    /// transformer_xl, xlnet, rel_pos: a mask of valid keys
    #[arg(long)]
    key_padding: bool,
    /// Write the table as JSON ('-': to stdout, in place of the table)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a plot of time and memory over length
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// What the plot shows too: files that --json wrote
    #[arg(long, value_delimiter = ',', requires = "svg", value_name = "FILE,…")]
    with: Vec<PathBuf>,
}

/// One length's measurements, with what the problem is.
struct Row {
    seqlen: usize,
    flops: f64,
    bytes: f64,
    dense_bytes: u64,
    dtype: DType,
    timing: Timing,
    /// Longformer's window, left and right, and its globals.
    longformer: Option<([usize; 2], usize)>,
    stages: Option<Stages>,
}

pub(crate) fn run(options: &Options) -> Result<Outcome> {
    known_op(&options.kind)?;
    if options.estimate {
        if options.kind != "full" {
            return Err(Failure::declined("--static: only of op 'full' in this build"));
        }
        let of = |&n: &usize| options.problem.problem(n, n);
        return estimate(&options.lengths.iter().map(of).collect::<Result<Vec<_>>>()?);
    }
    let files: Vec<Generator> =
        options.lengths.iter().map(|&n| generator(options, n)).collect::<Result<_>>()?;
    let others: Vec<Series> =
        options.with.iter().map(|path| Series::read(path)).collect::<Result<_>>()?;
    let device = Device::open(options.device)?;
    let bar = super::progress(files.len());
    let mut rows = Vec::new();
    // A length that the device declines, the longest say, takes nothing from the others.
    let mut outcome = Ok(Outcome::Good);
    for (&seqlen, generate) in options.lengths.iter().zip(files) {
        bar.set_message(format!("length {seqlen}"));
        let file = generate()?;
        let timing = match device.time(&file, options.problem.dtype, options.repeats.max(1)) {
            Ok(timing) => timing,
            Err(failure) => {
                outcome = Err(failure.at(&format!("length {seqlen}")));
                break;
            }
        };
        let stages = options
            .stages
            .then(|| device.stages(&file, options.problem.dtype, options.repeats.max(1)))
            .transpose()?;
        let problem = file.problem(options.problem.dtype);
        let (flops, bytes) = (problem.flops(), problem.bytes());
        let longformer = match &problem {
            Problem::Longformer(p) => Some(([p.left, p.right], p.max_globals)),
            _ => None,
        };
        let (dense_bytes, dtype) = (file.dense_bytes(), options.problem.dtype);
        rows.push(Row { seqlen, flops, bytes, dense_bytes, dtype, timing, longformer, stages });
        bar.inc(1);
    }
    bar.finish_and_clear();
    if rows.is_empty() {
        return outcome;
    }

    let peak = match options.device {
        DeviceKind::Cpu => Some(longhand::cpu::peak_flops(longhand::cpu::Isa::choose()?)?),
        _ => None,
    };
    let to_stdout = options.json.as_ref().is_some_and(|p| p.as_os_str() == "-");
    let mut report = json(&device, options, &rows);
    let measured = Series::new(report.clone());
    let exponent = measured.as_ref().and_then(Series::exponent);
    report["exponent"] = json!(exponent);
    report["peak_tflops"] = json!(peak.map(|peak| peak / 1e12));
    let report = format!("{report:#}\n");
    if to_stdout {
        say(&report)?;
    } else {
        say(&text(&device, &rows, peak))?;
        if let Some(exponent) = exponent {
            say(&format!("time ~ length^{exponent:.2}\n"))?;
        }
        for row in &rows {
            if let Some(stages) = &row.stages {
                say(&format!("\n{}", stages.text(row.seqlen)))?;
            }
        }
    }
    if let (Some(path), false) = (&options.json, to_stdout) {
        write_atomically(path, report.as_bytes())?;
    }
    if let Some(path) = &options.svg {
        let all: Vec<Series> = measured.into_iter().chain(others).collect();
        write_atomically(path, plot::log_log(&series::plots(&all)).as_bytes())?;
    }
    outcome
}

/// What the kernels' machine code says of their speed, by each assembler.
fn estimate(problems: &[Full]) -> Result<Outcome> {
    let assemblers = Assembler::all(&ptxas::tools_folder(Path::new(".")));
    if assemblers.is_empty() {
        let why = "no ptxas and nvdisasm in LONGHAND_TOOLS or target/tools; run ./check --setup";
        return Err(Failure::declined(why));
    }
    let mut rows = vec![];
    for problem in problems {
        for (name, text) in cuda::sources(&Problem::Full(*problem), cuda::Arch::Sm80, false)? {
            for assembler in &assemblers {
                let made = assembler.assemble(&text, &std::env::temp_dir());
                let made = made.map_err(|e| Failure::declined(format!("ptxas: {e}")))?;
                let found = sass::main_loop(&made.code);
                let or_dash =
                    |text: fn(&sass::MainLoop) -> String| table::or_dash(found.as_ref(), text);
                rows.push(vec![
                    name.clone(),
                    assembler.version.clone(),
                    problem.shape.seqlen_q.to_string(),
                    made.usage().registers.to_string(),
                    made.usage().spilled.to_string(),
                    or_dash(|l| l.products.to_string()),
                    or_dash(|l| format!("{:.2}", l.issued as f64 / l.products as f64)),
                    or_dash(|l| format!("{:.2}", l.alone())),
                    or_dash(|l| format!("{:.2}", l.overlapped())),
                ]);
            }
        }
    }
    let head = [
        "kernel",
        "ptxas",
        "length",
        "registers",
        "spilled",
        "products",
        "issue/product",
        "alone",
        "overlapped",
    ];
    say(&table::render(&head, &rows, 2))?;
    Ok(Outcome::Good)
}

impl Row {
    fn tflops(&self) -> f64 {
        self.flops / self.timing.best_ms / 1e9
    }

    fn gbytes(&self) -> f64 {
        self.bytes / self.timing.best_ms / 1e6
    }
}

/// Makes a problem with its inputs when it is its turn.
type Generator = Box<dyn Fn() -> Result<ProblemFile>>;

/// The problem of one length, checked before anything runs.
fn generator(options: &Options, seqlen: usize) -> Result<Generator> {
    Ok(match options.kind.as_str() {
        "longformer" => {
            let problem = options.longformer.problem(&options.problem, seqlen)?;
            Box::new(move || generate::longformer(&problem))
        }
        "lsh" => {
            let problem = options.lsh.problem(&options.problem, seqlen)?;
            Box::new(move || generate::lsh(&problem))
        }
        "transformer_xl" | "xlnet" | "rel_pos" => {
            let mut problem = options.relative.problem(&options.kind, &options.problem, seqlen)?;
            problem.key_padding = options.key_padding;
            let op = OPS.into_iter().find(|op| *op == options.kind).unwrap_or_default();
            Box::new(move || generate::relative(op, &problem))
        }
        _ => {
            let problem = options.problem.problem_of(&options.kind, seqlen, seqlen)?;
            Box::new(move || generate::full(&problem))
        }
    })
}

/// The table. With `peak`, what the multiply-add units do in a second, also each row's part of it.
fn text(device: &Device, rows: &[Row], peak: Option<f64>) -> String {
    let mut head = vec![
        "device",
        "dtype",
        "length",
        "ms",
        "TFLOP/s",
        "GB/s",
        "first ms",
        "workspace",
        "dense",
    ];
    head.extend(peak.map(|_| "of peak"));
    let row = |row: &Row| {
        let t = &row.timing;
        let mut cells = vec![
            device.name().to_owned(),
            row.dtype.to_string(),
            row.seqlen.to_string(),
            table::ms(t.best_ms),
            format!("{:.4}", row.tflops()),
            format!("{:.2}", row.gbytes()),
            table::or_dash(t.first_ms, table::ms),
            table::bytes(t.workspace_bytes),
            table::bytes(row.dense_bytes),
        ];
        cells.extend(peak.map(|peak| format!("{:.0} %", row.tflops() * 1e14 / peak)));
        cells
    };
    table::render(&head, &rows.iter().map(row).collect::<Vec<_>>(), 2)
}

fn json(device: &Device, options: &Options, rows: &[Row]) -> Value {
    let row = |row: &Row| {
        json!({
            "seqlen": row.seqlen,
            "ms": row.timing.best_ms,
            "first_ms": row.timing.first_ms,
            "tflops": row.tflops(),
            "gbytes_per_s": row.gbytes(),
            "workspace_bytes": row.timing.workspace_bytes,
            "dense_bytes": row.dense_bytes,
            "stages": row.stages.as_ref().map(Stages::json),
        })
    };
    let p = &options.problem;
    let memory = match options.relative.memory {
        Memory::Keys(0) => Value::Null,
        Memory::Keys(n) => json!(n),
        Memory::Same => json!("same"),
    };
    let of_longformer = rows.last().and_then(|row| row.longformer);
    json!({
        "kind": options.kind,
        "device": device.name(),
        "adapter": device.adapter(),
        "dtype": p.dtype.name(),
        "batch": p.batch,
        "heads_q": p.heads,
        "heads_kv": p.heads_kv.unwrap_or(p.heads),
        "head_dim": p.head_dim,
        "causal": p.causal,
        "window": of_longformer.map(|(window, _)| window),
        "globals": of_longformer.map(|(_, globals)| globals),
        "memory": memory,
        "rows": rows.iter().map(row).collect::<Vec<_>>(),
    })
}
