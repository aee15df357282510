//! The end of `longhand` without a command: what a memory is for, seen on a real text.

use crate::cli::say;
use crate::failure::Result;
use crate::table;
use longhand_models::{Device, TextModel};
use std::time::Instant;

const CONFIG: &str = include_str!("../../../longhand-models/book/config.json");
const WEIGHTS: &[u8] = include_bytes!("../../../longhand-models/book/model.safetensors");
const TOKENIZER: &[u8] = include_bytes!("../../../longhand-models/book/tokenizer.json");
const TEXT: &[u8] = include_bytes!("../../../longhand-models/book/text.txt");

/// Bytes read at a time.
const SEGMENT: usize = 96;

/// Positions of memory, and the bits per byte that the model's public implementation finds in f64.
const PUBLISHED: [(usize, f64); 2] = [(0, 2.474_959_931_7), (384, 2.140_039_839_1)];

/// How far the mean over the text may be from that: what single bytes may be off in f32.
const BOUND: f64 = 1e-5;

/// Reads the text without and with memory; whether all is as published.
pub(super) fn run() -> Result<bool> {
    let model = TextModel::from_bytes(CONFIG, WEIGHTS, TOKENIZER)?;
    say(&format!(
        "\nA small Transformer-XL reads {} bytes of The Rust Programming Language that it has not \
         seen, {SEGMENT} at a time, on the cpu:\n\n",
        TEXT.len()
    ))?;
    let mut rows = Vec::new();
    let mut all_agree = true;
    for (memory, published) in PUBLISHED {
        let start = Instant::now();
        let reading =
            model.read(&mut &TEXT[..], SEGMENT, Some(memory), &Device::Cpu, &mut |_| Ok(()))?;
        let bits = reading.bits_per_byte();
        let agrees = (bits - published).abs() <= BOUND;
        all_agree &= agrees;
        rows.push(vec![
            memory.to_string(),
            if agrees { "agrees" } else { "DISAGREES" }.to_owned(),
            format!("{bits:.4}"),
            table::bytes(reading.memory_bytes as u64),
            table::ms(start.elapsed().as_secs_f64() * 1e3),
        ]);
    }
    let head = ["positions remembered", "verdict", "bits per byte", "memory in use", "ms"];
    say(&table::render(&head, &rows, 2))?;
    Ok(all_agree)
}
