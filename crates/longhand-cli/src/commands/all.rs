//! `longhand` without a command: every kind on every device, compared with the reference; then a
//! model on a real text.

use crate::cli::{Outcome, say};
use crate::compare::{Comparison, Measure, compare, difference};
use crate::device::{Device, DeviceKind};
use crate::failure::{Failure, Result};
use crate::problem_file::ProblemFile;
use crate::results::Results;
use crate::{generate, naive, samples, table};
use longhand::{DType, Full, Shape};
use std::collections::BTreeMap;
use std::time::Instant;

/// How far the reference may be from the published float64 values of the samples, and those from
/// a second evaluation.
const REFERENCE_BOUND: f64 = 1e-11;

/// A problem, and what the reference makes of it in f64.
struct Sample {
    name: String,
    file: ProblemFile,
    reference: Results,
    reference_ms: f64,
    tolerances: BTreeMap<&'static str, BTreeMap<String, f64>>,
}

/// A line of the table.
struct Row {
    cells: Vec<String>,
    agrees: bool,
}

pub(crate) fn run() -> Result<Outcome> {
    let mut samples = Vec::new();
    for (name, bytes) in samples::ALL {
        samples.push(sample(name, ProblemFile::parse(name, bytes, true)?)?);
    }
    let (mut devices, mut absent) = (Vec::new(), Vec::new());
    for kind in [DeviceKind::Cpu, DeviceKind::Webgpu, DeviceKind::Cuda] {
        match Device::open(kind) {
            Ok(device) => devices.push(device),
            Err(e) => absent.push(format!("{:<8} not available: {e}\n", kind.name())),
        }
    }
    // The large problem shows a kernel's speed and memory.
    if devices.iter().any(Device::is_measured) {
        samples.push(large()?);
    }
    let dtypes = [DType::F32, DType::F16, DType::BF16];
    let bar = super::progress(samples.len() * (1 + devices.len() * dtypes.len()));
    let mut rows = Vec::new();
    for sample in samples.iter().filter(|s| !s.is_large()) {
        bar.set_message(sample.name.clone());
        rows.push(sample.against_the_file()?);
        bar.inc(1);
    }
    for device in &devices {
        for sample in &mut samples {
            bar.set_message(format!("{} {}", device.name(), sample.name));
            for dtype in dtypes {
                bar.inc(1);
                let skip = !device.is_measured() || dtype != DType::F32;
                if sample.is_large() && skip {
                    continue;
                }
                rows.push(sample.on(device, dtype)?);
            }
        }
    }
    bar.finish_and_clear();
    let head = [
        "kind",
        "problem",
        "device",
        "dtype",
        "verdict",
        "out error",
        "tolerance",
        "lse error",
        "tolerance",
        "ms",
        "reference ms",
        "workspace",
        "dense",
    ];
    let cells: Vec<Vec<String>> = rows.iter().map(|row| row.cells.clone()).collect();
    say(&table::render(&head, &cells, 5))?;
    say("\n")?;
    for device in &devices {
        say(&format!("{:<8} {}\n", device.name(), device.adapter()))?;
    }
    absent.iter().try_for_each(|line| say(line))?;
    let disagree = rows.iter().filter(|row| !row.agrees).count();
    say(&format!("{} results, {disagree} disagree\n", rows.len()))?;
    let foretold = super::book::run()?;
    Ok(if disagree == 0 && foretold { Outcome::Good } else { Outcome::CheckFailed })
}

fn sample(name: &str, file: ProblemFile) -> Result<Sample> {
    let start = Instant::now();
    let reference = naive::reference(&file, false)?;
    let reference_ms = start.elapsed().as_secs_f64() * 1e3;
    Ok(Sample { name: name.to_owned(), file, reference, reference_ms, tolerances: BTreeMap::new() })
}

/// A problem long enough that time and memory say something.
fn large() -> Result<Sample> {
    let shape =
        Shape { batch: 1, heads_q: 2, heads_kv: 1, seqlen_q: 2048, seqlen_k: 2048, head_dim: 64 };
    let problem = Full::new(shape, DType::F32).causal();
    sample("generated_2048_causal", generate::full(&problem)?)
}

impl Sample {
    /// Generated, so no file says what to expect.
    fn is_large(&self) -> bool {
        self.file.expected().is_empty()
    }

    /// The reference against the values that the file expects, both in f64.
    fn against_the_file(&self) -> Result<Row> {
        let error = |name: &str| {
            let expected = self.file.expected().get(name)?.values.numbers();
            Some(difference(Measure::of(name), &self.reference[name], &expected).error)
        };
        let errors = [error("out"), error("lse")];
        let agrees = errors.iter().flatten().all(|e| *e <= REFERENCE_BOUND);
        let errors = errors.map(|e| table::or_dash(e, table::small));
        let bound = table::small(REFERENCE_BOUND);
        Ok(self.row("reference", "f64", agrees, errors, [bound.clone(), bound], None))
    }

    /// A device against the reference.
    fn on(&mut self, device: &Device, dtype: DType) -> Result<Row> {
        let dash = || ["-".to_owned(), "-".to_owned()];
        let computed = match device.compute(&self.file, dtype, false) {
            Ok(computed) => computed,
            Err(Failure::Declined(why)) => {
                let mut row = self.row(device.name(), dtype.name(), true, dash(), dash(), None);
                row.cells[4] = format!("declined: {why}");
                return Ok(row);
            }
            Err(e) => return Err(e.at(&self.name)),
        };
        let tolerances = match self.tolerances.remove(dtype.name()) {
            Some(tolerances) => tolerances,
            None => naive::tolerances_by(&self.file, dtype, &self.reference)?,
        };
        let compared = ["out", "lse"].map(|name| {
            compare(name, &computed.results[name], &self.reference[name], tolerances[name])
        });
        self.tolerances.insert(dtype.name(), tolerances);
        let measured = match device.is_measured() {
            false => None,
            true => {
                let repeats = if self.is_large() { 1 } else { 3 };
                let timing = device.time(&self.file, dtype, repeats)?;
                Some((timing.best_ms, timing.workspace_bytes))
            }
        };
        let agrees = compared.iter().all(Comparison::passed);
        let [errors, tolerances] = [
            compared.each_ref().map(|c| table::small(c.difference.error)),
            compared.each_ref().map(|c| table::small(c.tolerance)),
        ];
        Ok(self.row(device.name(), dtype.name(), agrees, errors, tolerances, measured))
    }

    fn row(
        &self,
        device: &str,
        dtype: &str,
        agrees: bool,
        [out, lse]: [String; 2],
        [out_tolerance, lse_tolerance]: [String; 2],
        measured: Option<(f64, u64)>,
    ) -> Row {
        let verdict = if agrees { "agrees" } else { "DISAGREES" };
        let cells = vec![
            self.file.op().to_owned(),
            self.name.clone(),
            device.to_owned(),
            dtype.to_owned(),
            verdict.to_owned(),
            out,
            out_tolerance,
            lse,
            lse_tolerance,
            table::or_dash(measured, |(ms, _)| table::ms(ms)),
            table::ms(self.reference_ms),
            table::or_dash(measured, |(_, bytes)| table::bytes(bytes)),
            table::bytes(self.file.dense_bytes()),
        ];
        Row { cells, agrees }
    }
}
