//! `longhand model perplexity` and `longhand model generate`: texts.

use super::model::metadata;
use crate::cli::{Outcome, say};
use crate::container::{AtomicFile, header};
use crate::device::DeviceKind;
use crate::failure::{Failure, Result};
use crate::table;
use longhand_models::{Device, Error, Generation, TextModel};
use std::path::PathBuf;

const PERPLEXITY_EXAMPLES: &str = "Examples:
  longhand model perplexity DIR --text book.txt --segment 96 --memory 384
  longhand model perplexity DIR --text book.txt --memory 0 --output nll.safetensors

DIR holds a Transformer-XL and a tokenizer.json whose tokens are bytes. The output holds `nll`,
F64 [bytes - 1], in nats: element i foretells byte i + 1.";

#[derive(clap::Args)]
#[command(after_help = PERPLEXITY_EXAMPLES)]
pub(crate) struct PerplexityOptions {
    /// The model's folder
    folder: PathBuf,
    /// A text, UTF-8, of any length
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Bytes read at a time
    #[arg(long, default_value_t = 96, value_name = "N")]
    segment: usize,
    /// Positions remembered in each layer [default: as the model's config says]
    #[arg(long, value_name = "N")]
    memory: Option<usize>,
    /// The file to write, if any
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Where to compute
    #[arg(long, value_enum, default_value = "cpu")]
    device: DeviceKind,
}

const GENERATE_EXAMPLES: &str = "Examples:
  longhand model generate DIR --prompt \"Ownership is\" --tokens 200
  longhand model generate DIR --prompt \"Ownership is\" --temperature 0.8 --top-p 0.9 --seed 7

DIR holds a model that continues texts (GPT-2, Transformer-XL, T5, BART) and a tokenizer.json.
Of a model with an encoder, the prompt is what that reads. generation_config.json (or config.json,
where there is none) says what begins and ends a text and what may not come twice.";

#[derive(clap::Args)]
#[command(after_help = GENERATE_EXAMPLES)]
pub(crate) struct GenerateOptions {
    /// The model's folder
    folder: PathBuf,
    /// What to continue
    #[arg(long, value_name = "TEXT")]
    prompt: String,
    /// Positions remembered in each layer, for models with a memory [default: as their config says]
    #[arg(long, value_name = "N")]
    memory: Option<usize>,
    /// Tokens to add, at most
    #[arg(long, default_value_t = 100, value_name = "N")]
    tokens: usize,
    /// What logits are divided by; 0 takes the likeliest token each time
    #[arg(long, default_value_t = 0.0, value_name = "X", allow_negative_numbers = true)]
    temperature: f64,
    /// Draw from the likeliest tokens only, as few as have this probability together
    #[arg(long, default_value_t = 1.0, value_name = "P", allow_negative_numbers = true)]
    top_p: f64,
    /// The same seed draws the same text
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Where to compute
    #[arg(long, value_enum, default_value = "cpu")]
    device: DeviceKind,
}

pub(super) fn perplexity(options: &PerplexityOptions) -> Result<Outcome> {
    let device = Device::named(options.device.name())?;
    let place = options.text.display();
    let fail = |e: std::io::Error| Failure::input(format!("{place}: {e}"));
    let mut text = std::fs::File::open(&options.text).map_err(fail)?;
    let about = text.metadata().map_err(fail)?;
    // The length stands before the numbers in the output, and a pipe's is not known.
    if !about.is_file() {
        return Err(Failure::input(format!("{place}: not a regular file")));
    }
    let model = TextModel::with(super::model::open(&options.folder)?, &options.folder)?;
    let count = about.len().saturating_sub(1) as usize;
    let mut output = match &options.output {
        Some(path) => Some(AtomicFile::create(path)?),
        None => None,
    };
    if let Some(file) = &mut output {
        let tensor = ("nll", "F64", &[count][..], 8 * count);
        file.write(&header(&metadata(options.device), &[tensor]))?;
    }
    let bar = super::progress(count);
    let (mut written, mut lost) = (0, None);
    let mut each = |nlls: &[f64]| {
        bar.inc(nlls.len() as u64);
        written += nlls.len();
        let Some(file) = &mut output else { return Ok(()) };
        let bytes: Vec<u8> = nlls.iter().flat_map(|x| x.to_le_bytes()).collect();
        file.write(&bytes).map_err(|e| {
            lost = Some(e);
            Error::input("the output")
        })
    };
    let reading = model.read(&mut text, options.segment, options.memory, &device, &mut each);
    bar.finish_and_clear();
    if let Some(e) = lost {
        return Err(e);
    }
    let reading = reading.map_err(|e| e.at(&place))?;
    if written != count {
        return Err(Failure::input(format!("{place}: has changed while it was read")));
    }
    output.map_or(Ok(()), AtomicFile::commit)?;
    say(&format!(
        "{:.4} bits per byte over {} bytes, read {} at a time, {} kept of what was read before\n",
        reading.bits_per_byte(),
        reading.bytes,
        options.segment,
        table::bytes(reading.memory_bytes as u64),
    ))?;
    Ok(Outcome::Good)
}

pub(super) fn generate(options: &GenerateOptions) -> Result<Outcome> {
    let device = Device::named(options.device.name())?;
    let model = TextModel::with(super::model::open(&options.folder)?, &options.folder)?;
    let generation = Generation {
        tokens: options.tokens,
        memory: options.memory,
        temperature: options.temperature,
        top_p: options.top_p,
        seed: options.seed,
        ..Generation::default()
    };
    let bar = super::progress(options.tokens);
    let mut each = |step: usize| bar.set_position(step as u64);
    let added = model.generate(&[&options.prompt], &generation, &device, &mut each);
    bar.finish_and_clear();
    added?.iter().try_for_each(|text| say(&format!("{text}\n")))?;
    Ok(Outcome::Good)
}
