//! `longhand check`: computes problem files and compares with what they expect.

use crate::cli::{Outcome, complain, say};
use crate::compare::{Comparison, compare};
use crate::device::{Device, DeviceKind};
use crate::failure::{Failure, Result};
use crate::orders;
use crate::problem_file::ProblemFile;
use crate::table;
use longhand::DType;
use longhand::lsh::NearTie;
use serde_json::{Value, json};
use std::path::PathBuf;

const EXAMPLES: &str = "Examples:
  longhand check tests/data/full/*.safetensors --device webgpu
  longhand check problem.safetensors --device cpu --dtype bf16 --json

A line per result: the largest absolute difference, the error (relative to the tensor's largest
element or 0.1, whichever is more; lse: element by element), the tolerance, the verdict. The
tolerance is twice (gradients: three times) the error that a naive evaluation in the same dtype has
against the reference in f64, plus that dtype's rounding; of lse in f32 it is the largest over
several orders of summation if there are fewer than 4096 numbers (not of op lsh). Gradients that the
device does not compute are 'declined': counted, not passed. Of buckets (op lsh) the error is how
many differ; positions whose best two projections are too close for f32 to tell apart are listed,
and fail like others.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Options {
    /// Problems with expected.* tensors
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Where to compute
    #[arg(long, value_enum)]
    device: DeviceKind,
    /// Storage of q, k, v and out: f32, f16 or bf16
    #[arg(long, default_value = "f32", value_name = "TYPE")]
    dtype: DType,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What became of one expected result.
pub(crate) enum Line {
    /// It was computed and compared.
    Compared(Comparison),
    /// The device does not compute it: its name and the reason.
    Declined(String, String),
}

/// What became of a file.
pub(crate) struct Checked {
    lines: Vec<Line>,
    near_ties: Vec<NearTie>,
}

#[derive(Default)]
struct Counts {
    passed: usize,
    failed: usize,
    declined: usize,
    unread: usize,
}

pub(crate) fn run(options: &Options) -> Result<Outcome> {
    let device = Device::open(options.device)?;
    let bar = super::progress(options.files.len());
    let (mut counts, mut files) = (Counts::default(), Vec::new());
    for path in &options.files {
        let name = path.display().to_string();
        bar.set_message(name.clone());
        let checked = ProblemFile::read(path)
            .and_then(|file| check(&device, &file, options.dtype).map_err(|e| e.at(file.name())));
        match &checked {
            Ok(checked) => checked.lines.iter().for_each(|line| counts.add(line)),
            Err(failure) => {
                counts.unread += 1;
                bar.suspend(|| complain(failure));
            }
        }
        if !options.json
            && let Ok(Checked { lines, near_ties }) = &checked
        {
            bar.suspend(|| say(&text(&name, lines, near_ties)))?;
        }
        files.push(file_json(&name, &checked));
        bar.inc(1);
    }
    bar.finish_and_clear();
    say(&match options.json {
        true => format!("{:#}\n", counts.json(options, files)),
        false => counts.text(options),
    })?;
    Ok(match (counts.failed, counts.unread) {
        (1.., _) => Outcome::CheckFailed,
        (0, 1..) => Outcome::Incomplete,
        (0, 0) => Outcome::Good,
    })
}

/// Compares every expected result of a file.
pub(crate) fn check(device: &Device, file: &ProblemFile, dtype: DType) -> Result<Checked> {
    if file.expected().is_empty() {
        return Err(Failure::input("no expected.* tensors: nothing to check"));
    }
    let backward = file.expected().keys().any(|name| name.starts_with("grad."));
    let computed = device.compute(file, dtype, backward)?;
    let tolerances =
        orders::tolerances(file, dtype, backward && computed.backward_declined.is_none())?;
    let mut names: Vec<&String> = file.expected().keys().collect();
    names.sort_by_key(|name| (name.starts_with("grad."), name.as_str() != "out", name.as_str()));
    let line = |name: &String| {
        let expected = file.expected()[name].values.numbers();
        match (computed.results.get(name), tolerances.get(name), &computed.backward_declined) {
            (Some(got), Some(&tolerance), _) => {
                Ok(Line::Compared(compare(name, got, &expected, tolerance)))
            }
            (_, _, Some(reason)) => Ok(Line::Declined(name.clone(), reason.clone())),
            _ => Err(Failure::input(format!("result '{name}' was not computed"))),
        }
    };
    let lines = names.into_iter().map(line).collect::<Result<_>>()?;
    let near_ties = match file {
        ProblemFile::Lsh(file) => {
            file.problem.near_ties(&file.inputs.stored_as::<f32>(dtype).as_inputs())?
        }
        _ => vec![],
    };
    Ok(Checked { lines, near_ties })
}

impl Counts {
    fn add(&mut self, line: &Line) {
        match line {
            Line::Declined(..) => self.declined += 1,
            Line::Compared(c) if c.passed() => self.passed += 1,
            Line::Compared(_) => self.failed += 1,
        }
    }

    fn text(&self, options: &Options) -> String {
        format!(
            "{} {}: {} passed, {} failed, {} declined in {} files; {} files not computed\n",
            options.device.name(),
            options.dtype,
            self.passed,
            self.failed,
            self.declined,
            options.files.len(),
            self.unread
        )
    }

    fn json(&self, options: &Options, files: Vec<Value>) -> Value {
        json!({
            "device": options.device.name(),
            "dtype": options.dtype.name(),
            "files": files,
            "summary": {
                "passed": self.passed,
                "failed": self.failed,
                "declined": self.declined,
                "files_not_computed": self.unread,
            },
        })
    }
}

/// Near ties that are listed; the number says how many more there are.
const LISTED: usize = 8;

fn near_tie_text(near_ties: &[NearTie]) -> String {
    if near_ties.is_empty() {
        return String::new();
    }
    let one = |t: &NearTie| {
        let at = format!("[{}][{}][{}][{}]", t.batch, t.head, t.round, t.position);
        format!("{at} by {}", table::small(t.gap))
    };
    let listed: Vec<String> = near_ties.iter().take(LISTED).map(one).collect();
    let more = near_ties.len().saturating_sub(LISTED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!(
        "  {} positions between two buckets (buckets[batch][head][round][position], gap): {}{more}\n",
        near_ties.len(),
        listed.join(", ")
    )
}

fn text(name: &str, lines: &[Line], near_ties: &[NearTie]) -> String {
    let mut reason = None;
    let row = |line: &Line| match line {
        Line::Compared(c) => vec![
            format!("  {}", c.name),
            table::small(c.difference.max_abs),
            table::small(c.difference.error),
            table::small(c.tolerance),
            if c.passed() { "passed" } else { "FAILED" }.to_owned(),
        ],
        Line::Declined(name, why) => {
            reason = Some(why.clone());
            let dash = || "-".to_owned();
            vec![format!("  {name}"), dash(), dash(), dash(), "declined".to_owned()]
        }
    };
    let rows: Vec<Vec<String>> = lines.iter().map(row).collect();
    let head = ["  result", "max abs", "error", "tolerance", "verdict"];
    let reason = reason.map_or(String::new(), |why| format!("  declined: {why}\n"));
    let near_ties = near_tie_text(near_ties);
    format!("{name}\n{}{reason}{near_ties}", table::render(&head, &rows, 1))
}

fn file_json(name: &str, checked: &Result<Checked>) -> Value {
    let line = |line: &Line| match line {
        Line::Compared(c) => json!({
            "name": c.name,
            "max_abs": c.difference.max_abs,
            "error": c.difference.error,
            "tolerance": c.tolerance,
            "verdict": if c.passed() { "passed" } else { "failed" },
        }),
        Line::Declined(name, why) => json!({ "name": name, "verdict": "declined", "reason": why }),
    };
    let near_tie = |t: &NearTie| {
        json!({
            "batch": t.batch, "head": t.head, "round": t.round, "position": t.position,
            "gap": t.gap,
        })
    };
    match checked {
        Ok(Checked { lines, near_ties }) => {
            let mut file =
                json!({ "file": name, "results": lines.iter().map(line).collect::<Vec<_>>() });
            if !near_ties.is_empty() {
                file["near_ties"] = near_ties.iter().map(near_tie).collect();
            }
            file
        }
        Err(Failure::Declined(why)) => json!({ "file": name, "declined": why }),
        Err(Failure::Input(why)) => json!({ "file": name, "error": why }),
    }
}
