//! `longhand run`: computes a problem file.

use crate::cli::{Outcome, say};
use crate::container::{encode, write_atomically};
use crate::device::{Device, DeviceKind};
use crate::failure::{Failure, Result};
use crate::problem_file::ProblemFile;
use crate::results::to_tensors;
use longhand::DType;
use std::collections::BTreeMap;
use std::path::PathBuf;

const EXAMPLES: &str = "Examples:
  longhand run problem.safetensors --device webgpu --output result.safetensors
  longhand run problem.safetensors --device cpu --dtype bf16 --backward --output result.safetensors

Writes out and lse, with --backward also grad.q, grad.k, grad.v (and grad.bias), as F32. Any
expected.* tensors of the input are ignored. An existing output is replaced in one step, and only
when everything has been computed.

Queries at positions of their own (ops xlnet, transformer_xl, rel_pos): a tensor targets, I32,
[batch, n], each a position below params.seqlen_q. q has n rows then; of two streams, q_g has.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Options {
    /// The problem, a safetensors file of format longhand-fixture/1
    input: PathBuf,
    /// Where to compute
    #[arg(long, value_enum)]
    device: DeviceKind,
    /// Storage of q, k, v and out: f32, f16 or bf16
    #[arg(long, default_value = "f32", value_name = "TYPE")]
    dtype: DType,
    /// Gradients too, from the file's grad.out
    #[arg(long)]
    backward: bool,
    /// The file to write
    #[arg(long, short)]
    output: PathBuf,
}

pub(crate) fn run(options: &Options) -> Result<Outcome> {
    let file = ProblemFile::read_inputs(&options.input)?;
    if options.backward && !file.has_grad_out() {
        let message = "tensor 'grad.out' is absent: --backward needs it";
        return Err(Failure::input(message).at(file.name()));
    }
    let device = Device::open(options.device)?;
    let computed =
        device.compute(&file, options.dtype, options.backward).map_err(|e| e.at(file.name()))?;
    if let Some(reason) = computed.backward_declined {
        return Err(Failure::declined(reason).at(file.name()));
    }
    let metadata: BTreeMap<String, String> = [
        ("op", file.op()),
        ("device", device.name()),
        ("dtype", options.dtype.name()),
        ("source", concat!("longhand ", env!("CARGO_PKG_VERSION"))),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .into();
    let tensors = to_tensors(&file, &computed.results);
    write_atomically(&options.output, &encode(&metadata, &tensors))?;
    for (name, tensor) in &tensors {
        say(&format!("{name} {:?}\n", tensor.shape))?;
    }
    Ok(Outcome::Good)
}
