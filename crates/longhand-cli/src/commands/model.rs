//! `longhand model`: runs model folders.

use crate::cli::{Outcome, say};
use crate::container::{Tensor, Values, encode, write_atomically};
use crate::device::DeviceKind;
use crate::failure::Result;
use longhand_models::{Device, Inputs, Model, Outputs, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Compute every result of a model from a file of inputs
    Run(RunOptions),
}

const RUN_EXAMPLES: &str = "Examples:
  longhand model run DIR --input DIR/input.safetensors --output result.safetensors

DIR holds config.json and model.safetensors (or model.safetensors.index.json and its files) under
the names that Hugging Face uses. Losses are computed where the input holds labels.";

#[derive(clap::Args)]
#[command(after_help = RUN_EXAMPLES)]
pub(crate) struct RunOptions {
    /// The model's folder
    folder: PathBuf,
    /// The inputs by name, a safetensors file
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// The file to write
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Where to compute
    #[arg(long, value_enum, default_value = "cpu")]
    device: DeviceKind,
}

pub(crate) fn run(command: &Command) -> Result<Outcome> {
    match command {
        Command::Run(options) => run_model(options),
    }
}

fn run_model(options: &RunOptions) -> Result<Outcome> {
    let device = Device::named(options.device.name())?;
    let model = Model::open(&options.folder)?;
    let inputs = Inputs::read(&options.input)?;
    let outputs = model.forward(&inputs, &device)?;
    write(&options.output, options.device, &outputs)?;
    for (name, value) in &outputs.values {
        let shape = match value {
            Value::Floats(x) => x.shape(),
            Value::Ints(x) => &x.shape,
        };
        say(&format!("{name} {shape:?}\n"))?;
    }
    Ok(Outcome::Good)
}

/// Writes results: floats as F32, integers as I32.
fn write(path: &Path, device: DeviceKind, outputs: &Outputs) -> Result<()> {
    let metadata: BTreeMap<String, String> =
        [("device", device.name()), ("source", concat!("longhand ", env!("CARGO_PKG_VERSION")))]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
    let tensor = |value: &Value| match value {
        Value::Floats(x) => {
            Tensor { shape: x.shape().to_vec(), values: Values::F32(x.data().to_vec()) }
        }
        Value::Ints(x) => Tensor { shape: x.shape.clone(), values: Values::I32(x.data.clone()) },
    };
    let tensors = outputs.values.iter().map(|(name, value)| (name.clone(), tensor(value)));
    write_atomically(path, &encode(&metadata, &tensors.collect()))
}
