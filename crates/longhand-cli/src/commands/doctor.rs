//! `longhand doctor`: devices, and what runs on them.

use crate::cli::{Outcome, say};
use crate::device::DeviceKind;
use crate::failure::{Failure, Result};
use crate::problem_file::{OPS, Problem};
use crate::{cuda, webgpu};
use longhand::transformer_xl::Chunks;
use longhand::{DType, Full, Longformer, Lsh, Shape, TransformerXl};
use serde_json::{Value, json};

const EXAMPLES: &str = "Examples:
  longhand doctor
  longhand doctor --json
  LONGHAND_ADAPTER=llvmpipe longhand doctor      choose a GPU by a part of its name";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Options {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A device: what was found, or why not.
struct Finding {
    kind: DeviceKind,
    state: std::result::Result<String, String>,
    details: Vec<String>,
    /// For each sample problem: what would run, or why nothing.
    selects: Vec<(String, std::result::Result<String, String>)>,
}

pub(crate) fn run(options: &Options) -> Result<Outcome> {
    let findings: Vec<Finding> = DeviceKind::ALL.into_iter().map(look).collect();
    if options.json {
        let devices: Vec<Value> = findings.iter().map(Finding::json).collect();
        let report = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "kinds": OPS,
            "devices": devices,
        });
        say(&format!("{report:#}\n"))?;
    } else {
        say(&format!("longhand {}\nkinds: {}\n\n", env!("CARGO_PKG_VERSION"), OPS.join(", ")))?;
        for finding in &findings {
            say(&finding.text())?;
        }
    }
    Ok(Outcome::Good)
}

fn look(kind: DeviceKind) -> Finding {
    let mut finding =
        Finding { kind, state: Ok(String::new()), details: Vec::new(), selects: Vec::new() };
    let host = |what: &str| {
        let everything = (OPS.join(", "), Ok("every problem, with gradients".to_owned()));
        (Ok(what.to_owned()), vec![everything])
    };
    match kind {
        DeviceKind::Reference => {
            (finding.state, finding.selects) = host("the definition, evaluated in f64");
        }
        DeviceKind::Cpu => {
            let threads = std::thread::available_parallelism().map_or(1, usize::from);
            let isa = longhand::cpu::Isa::choose();
            let isa = isa.map_or_else(|why| why.to_string(), |isa| isa.name().to_owned());
            let what = format!(
                "{threads} threads, {} ({isa}); forward by kernels, gradients as the reference",
                std::env::consts::ARCH
            );
            (finding.state, finding.selects) = host(&what);
        }
        DeviceKind::Webgpu => look_at_gpus(&mut finding),
        DeviceKind::Cuda => look_at_cuda(&mut finding),
    }
    finding
}

fn look_at_gpus(finding: &mut Finding) {
    let report = webgpu::report();
    finding.details = report.adapters;
    opened(finding, report.opened, webgpu::Gpu::describe);
}

fn look_at_cuda(finding: &mut Finding) {
    let report = cuda::report();
    finding.details = report.devices;
    opened(finding, report.opened, cuda::Gpu::describe);
}

/// What an open device says of itself, its name first, and what it selects.
fn opened<G>(
    finding: &mut Finding,
    opened: Result<(G, Vec<String>)>,
    describe: impl Fn(&G, &Problem) -> Result<String>,
) {
    match opened {
        Err(e) => finding.state = Err(e.reason().to_owned()),
        Ok((gpu, facts)) => {
            finding.state = Ok(facts.first().cloned().unwrap_or_default());
            finding.details.extend(facts.into_iter().skip(1));
            for (name, problem) in samples() {
                let what = describe(&gpu, &problem).map_err(|e| match e {
                    Failure::Declined(reason) => format!("declined: {reason}"),
                    Failure::Input(message) => message,
                });
                finding.selects.push((name, what));
            }
        }
    }
}

/// Problems of usual sizes: what a device selects for them says what it would do.
fn samples() -> Vec<(String, Problem)> {
    let problem = |seqlen_q: usize, head_dim: usize, dtype: DType| {
        let shape = Shape { batch: 1, heads_q: 8, heads_kv: 8, seqlen_q, seqlen_k: 4096, head_dim };
        let name = format!("full {dtype} head_dim {head_dim} seqlen {seqlen_q} x 4096 causal");
        (name, Problem::Full(Full::new(shape, dtype).causal()))
    };
    let dtypes = [DType::F32, DType::F16, DType::BF16];
    let mut all = Vec::new();
    for head_dim in [64, 128, 256] {
        all.extend(dtypes.map(|dtype| problem(4096, head_dim, dtype)));
    }
    all.push(problem(1, 128, DType::F16));
    all.extend([DType::F32, DType::F16].map(|dtype| {
        let problem = Longformer::new([1, 4096, 12, 64], 256, dtype).globals(16).key_padding();
        let name =
            format!("longformer {dtype} head_dim 64 seqlen 4096 window 256+1+256, 16 globals");
        (name, Problem::Longformer(problem))
    }));
    all.extend([DType::F32, DType::F16].map(|dtype| {
        let problem = Lsh::new([1, 16384, 8, 64], 64, 4, dtype).causal();
        let name = format!("lsh {dtype} head_dim 64 seqlen 16384 chunk 64, 4 rounds, causal");
        (name, Problem::Lsh(problem))
    }));
    all.extend([DType::F32, DType::F16].into_iter().flat_map(relative));
    all
}

/// The three dialects of relative positions; XLNet's second stream has kernels of its own.
fn relative(dtype: DType) -> [(String, Problem); 3] {
    let shape = [1, 2048, 8, 64];
    let segment = TransformerXl::with_memory(shape, 2048, dtype);
    let predicted = TransformerXl::xlnet(shape, 2048, dtype).segments().perm_mask();
    let stream = TransformerXl::conformer(shape, 256, dtype)
        .chunks(Chunks { size: 64, left: Some(4) })
        .key_padding();
    [
        ("transformer_xl", segment, "2048 after 2048, causal"),
        ("xlnet", predicted.query_stream().targets(256), "2048 after 2048, 256 targets"),
        ("rel_pos", stream, "2048 after 256, chunks of 64"),
    ]
    .map(|(op, problem, what)| {
        (format!("{op} {dtype} head_dim 64 seqlen {what}"), Problem::TransformerXl(problem))
    })
}

impl Finding {
    fn text(&self) -> String {
        let mut text = match &self.state {
            Ok(what) => format!("{:<10} {what}\n", self.kind.name()),
            Err(why) => format!("{:<10} NOT AVAILABLE: {why}\n", self.kind.name()),
        };
        for detail in &self.details {
            text += &format!("           {detail}\n");
        }
        for (name, what) in &self.selects {
            text += &format!("           {name}: {}\n", what.as_ref().unwrap_or_else(|e| e));
        }
        text + "\n"
    }

    fn json(&self) -> Value {
        let selects: Vec<Value> = self
            .selects
            .iter()
            .map(|(problem, what)| match what {
                Ok(what) => json!({ "problem": problem, "selects": what }),
                Err(why) => json!({ "problem": problem, "declined": why }),
            })
            .collect();
        json!({
            "name": self.kind.name(),
            "available": self.state.is_ok(),
            "what": self.state.as_ref().unwrap_or_else(|e| e),
            "details": self.details,
            "problems": selects,
        })
    }
}
