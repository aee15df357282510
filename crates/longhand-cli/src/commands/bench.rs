//! `longhand bench`: times over sequence lengths.

use crate::cli::{Outcome, ProblemOptions, say};
use crate::container::write_atomically;
use crate::device::{Device, DeviceKind, Timing};
use crate::failure::{Failure, Result};
use crate::problem_file::known_op;
use crate::ptxas::{self, Assembler};
use crate::{cuda, generate, plot, sass, table};
use longhand::Full;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "Examples:
  longhand bench
  longhand bench full --device webgpu --lengths 512,1024,2048,4096 --causal
  longhand bench full --device webgpu --head-dim 128 --dtype f16 --json speed.json --svg speed.svg
  longhand bench full --static --head-dim 128 --dtype bf16

TFLOP/s counts the products that the mask leaves (two per query and key), GB/s the bytes of q, k,
v, out and lse, each once. The dense way needs the 'dense' bytes for its scores alone.";

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
    /// No device: assemble the CUDA kernels and estimate from their main loop what part of an
    /// A100's tensor-core peak they leave time for (needs the assemblers of ./check --setup)
    #[arg(long = "static", conflicts_with_all = ["device", "json", "svg", "repeats"])]
    estimate: bool,
    #[command(flatten)]
    problem: ProblemOptions,
    /// Write the table as JSON ('-': to stdout, in place of the table)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a plot of time over length
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// One length's measurements.
struct Row {
    problem: Full,
    timing: Timing,
}

pub(crate) fn run(options: &Options) -> Result<Outcome> {
    known_op(&options.kind)?;
    let problems: Vec<Full> =
        options.lengths.iter().map(|&n| options.problem.problem(n, n)).collect::<Result<_>>()?;
    if options.estimate {
        return estimate(&problems);
    }
    let device = Device::open(options.device)?;
    let bar = super::progress(problems.len());
    let mut rows = Vec::new();
    for problem in problems {
        bar.set_message(format!("length {}", problem.shape.seqlen_q));
        let inputs = generate::inputs(&problem)?;
        let timing = device.time(&problem, &inputs, options.repeats.max(1))?;
        rows.push(Row { problem, timing });
        bar.inc(1);
    }
    bar.finish_and_clear();

    let to_stdout = options.json.as_ref().is_some_and(|p| p.as_os_str() == "-");
    let report = format!("{:#}\n", json(&device, options, &rows));
    if to_stdout {
        say(&report)?;
    } else {
        say(&text(&device, &rows))?;
    }
    if let (Some(path), false) = (&options.json, to_stdout) {
        write_atomically(path, report.as_bytes())?;
    }
    if let Some(path) = &options.svg {
        write_atomically(path, svg(&device, options, &rows).as_bytes())?;
    }
    Ok(Outcome::Good)
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
        for (name, text) in cuda::sources(problem, cuda::Arch::Sm80, false)? {
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
        self.problem.flops() / self.timing.best_ms / 1e9
    }

    fn gbytes(&self) -> f64 {
        self.problem.bytes() / self.timing.best_ms / 1e6
    }
}

/// Bytes of one f32 score for each query, key and head: what a dense evaluation holds.
pub(crate) fn dense_bytes(problem: &Full) -> u64 {
    let s = &problem.shape;
    let sizes = [s.batch, s.heads_q, s.seqlen_q, s.seqlen_k];
    sizes.iter().fold(4, |n, &f| n.saturating_mul(f as u64))
}

fn text(device: &Device, rows: &[Row]) -> String {
    let head =
        ["device", "dtype", "length", "ms", "TFLOP/s", "GB/s", "first ms", "workspace", "dense"];
    let row = |row: &Row| {
        let t = &row.timing;
        vec![
            device.name().to_owned(),
            row.problem.dtype.to_string(),
            row.problem.shape.seqlen_q.to_string(),
            table::ms(t.best_ms),
            format!("{:.4}", row.tflops()),
            format!("{:.2}", row.gbytes()),
            table::or_dash(t.first_ms, table::ms),
            table::bytes(t.workspace_bytes),
            table::bytes(dense_bytes(&row.problem)),
        ]
    };
    table::render(&head, &rows.iter().map(row).collect::<Vec<_>>(), 2)
}

fn json(device: &Device, options: &Options, rows: &[Row]) -> Value {
    let row = |row: &Row| {
        let s = &row.problem.shape;
        json!({
            "seqlen": s.seqlen_q,
            "ms": row.timing.best_ms,
            "first_ms": row.timing.first_ms,
            "tflops": row.tflops(),
            "gbytes_per_s": row.gbytes(),
            "workspace_bytes": row.timing.workspace_bytes,
            "dense_bytes": dense_bytes(&row.problem),
        })
    };
    let first = rows.first().map(|row| row.problem);
    json!({
        "kind": options.kind,
        "device": device.name(),
        "adapter": device.adapter(),
        "dtype": first.map(|p| p.dtype.name()),
        "batch": first.map(|p| p.shape.batch),
        "heads_q": first.map(|p| p.shape.heads_q),
        "heads_kv": first.map(|p| p.shape.heads_kv),
        "head_dim": first.map(|p| p.shape.head_dim),
        "causal": first.map(|p| p.causal),
        "rows": rows.iter().map(row).collect::<Vec<_>>(),
    })
}

fn svg(device: &Device, options: &Options, rows: &[Row]) -> String {
    let points =
        rows.iter().map(|row| (row.problem.shape.seqlen_q as f64, row.timing.best_ms)).collect();
    let shape = rows.first().map_or(String::new(), |row| {
        let (p, s) = (&row.problem, &row.problem.shape);
        let causal = if p.causal { ", causal" } else { "" };
        format!("{} heads {} head_dim {}{causal}", p.dtype, s.heads_q, s.head_dim)
    });
    plot::log_log(&plot::Plot {
        title: format!("{} attention, {shape}", options.kind),
        x: "sequence length".to_owned(),
        y: "ms".to_owned(),
        lines: vec![(device.adapter(), points)],
    })
}
