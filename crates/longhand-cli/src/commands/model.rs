//! `longhand model`: runs model folders.

use super::text;
use crate::cli::{Outcome, say};
use crate::container::{Tensor, Values, encode, write_atomically};
use crate::device::DeviceKind;
use crate::failure::{Failure, Result};
use longhand_models::{Device, Inputs, Model, Outputs, SentenceEncoder, Value, ops};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Compute every result of a model from a file of inputs
    Run(RunOptions),
    /// Turn the lines of a text into vectors
    Embed(EmbedOptions),
    /// Show the lines of a text whose meaning is nearest to a query
    Nearest(NearestOptions),
    /// Read a text of any length in constant memory: how well does the model foretell it?
    Perplexity(text::PerplexityOptions),
    /// Continue a prompt
    Generate(text::GenerateOptions),
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

const EMBED_EXAMPLES: &str = "Examples:
  longhand model embed DIR --text lines.txt --output vectors.safetensors

DIR is a folder of sentence-transformers: modules.json, tokenizer.json, a model. The output holds
`embeddings`, F32 [lines, width].";

#[derive(clap::Args)]
#[command(after_help = EMBED_EXAMPLES)]
pub(crate) struct EmbedOptions {
    /// The model's folder
    folder: PathBuf,
    /// A text, UTF-8: one vector per line
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// The file to write
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Where to compute
    #[arg(long, value_enum, default_value = "cpu")]
    device: DeviceKind,
}

#[derive(clap::Args)]
pub(crate) struct NearestOptions {
    /// The model's folder
    folder: PathBuf,
    /// A text, UTF-8
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// What to look for
    #[arg(long, value_name = "TEXT")]
    query: String,
    /// Lines to show
    #[arg(long, default_value_t = 5, value_name = "N")]
    count: usize,
    /// Where to compute
    #[arg(long, value_enum, default_value = "cpu")]
    device: DeviceKind,
}

pub(crate) fn run(command: &Command) -> Result<Outcome> {
    match command {
        Command::Run(options) => run_model(options),
        Command::Embed(options) => embed(options),
        Command::Nearest(options) => nearest(options),
        Command::Perplexity(options) => text::perplexity(options),
        Command::Generate(options) => text::generate(options),
    }
}

/// Opens a model, with a bar for one that takes long.
pub(super) fn open(folder: &Path) -> Result<Model> {
    let bar = super::progress(0);
    let shown = bar.clone();
    let each = move |done, all| {
        shown.set_length(all);
        shown.set_position(done);
    };
    let model = Model::open_with(folder, Box::new(each));
    bar.finish_and_clear();
    Ok(model?)
}

fn run_model(options: &RunOptions) -> Result<Outcome> {
    let device = Device::named(options.device.name())?;
    let model = open(&options.folder)?;
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

fn embed(options: &EmbedOptions) -> Result<Outcome> {
    let device = Device::named(options.device.name())?;
    let lines = read_lines(&options.text)?;
    let encoder = SentenceEncoder::open(&options.folder)?;
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let vectors = encoder.embed(&lines, &device)?;
    say(&format!("embeddings {:?}\n", vectors.shape()))?;
    let mut outputs = Outputs::default();
    outputs.put("embeddings", vectors);
    write(&options.output, options.device, &outputs)?;
    Ok(Outcome::Good)
}

fn nearest(options: &NearestOptions) -> Result<Outcome> {
    let device = Device::named(options.device.name())?;
    let lines = read_lines(&options.text)?;
    let encoder = SentenceEncoder::open(&options.folder)?;
    let mut all: Vec<&str> = lines.iter().map(String::as_str).collect();
    all.push(&options.query);
    let vectors = encoder.embed(&all, &device)?;
    let query = vectors.row(lines.len());
    let mut scored: Vec<(f64, usize)> =
        (0..lines.len()).map(|i| (ops::cosine(vectors.row(i), query), i)).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (score, i) in scored.into_iter().take(options.count) {
        say(&format!("{score:.3}  {}: {}\n", i + 1, lines[i]))?;
    }
    Ok(Outcome::Good)
}

/// The lines of a text file.
fn read_lines(path: &Path) -> Result<Vec<String>> {
    let place = path.display();
    let bytes = std::fs::read(path).map_err(|e| Failure::input(format!("{place}: {e}")))?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let valid = e.utf8_error().valid_up_to();
        let line = e.as_bytes()[..valid].iter().filter(|&&b| b == b'\n').count() + 1;
        Failure::input(format!("{place}: not UTF-8 at byte {valid} (line {line})"))
    })?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// Writes results: floats as F32, integers as I32.
fn write(path: &Path, device: DeviceKind, outputs: &Outputs) -> Result<()> {
    let tensor = |value: &Value| match value {
        Value::Floats(x) => {
            Tensor { shape: x.shape().to_vec(), values: Values::F32(x.data().to_vec()) }
        }
        Value::Ints(x) => Tensor { shape: x.shape.clone(), values: Values::I32(x.data.clone()) },
    };
    let tensors = outputs.values.iter().map(|(name, value)| (name.clone(), tensor(value)));
    write_atomically(path, &encode(&metadata(device), &tensors.collect()))
}

/// What a file of results says of itself.
pub(super) fn metadata(device: DeviceKind) -> BTreeMap<String, String> {
    [("device", device.name()), ("source", concat!("longhand ", env!("CARGO_PKG_VERSION")))]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into()
}
