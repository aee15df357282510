//! Texts: a model that continues sequences, with its tokenizer.

use crate::sentence::{failed, read_tokenizer, tokens};
use crate::{Device, Error, Generation, Ints, Model, Result, ensure, ops, require};
use std::io::Read;
use std::path::Path;
use tokenizers::Tokenizer;

/// A model that continues sequences, and its tokenizer.
///
/// ```
/// use longhand_models::{Device, Generation, TextModel};
///
/// // A small Transformer-XL that was trained on *The Rust Programming Language*.
/// let model = TextModel::open("book".as_ref())?;
/// let options = Generation { tokens: 16, memory: Some(384), ..Generation::default() };
/// let added = model.generate(&["Ownership is"], &options, &Device::Cpu, &mut |_| ())?;
/// assert_eq!(added, [" a second to\nthe"]);
/// # Ok::<(), longhand_models::Error>(())
/// ```
pub struct TextModel {
    model: Model,
    tokenizer: Tokenizer,
}

/// How well a model foretold a text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// Bytes foretold: all but the first.
    pub bytes: u64,
    /// −log p of them all, summed.
    pub nats: f64,
    /// Bytes of what the model kept of the text, the same for any length.
    pub memory_bytes: usize,
}

impl Reading {
    /// What the text would take if the model compressed it.
    pub fn bits_per_byte(&self) -> f64 {
        self.nats / self.bytes as f64 / std::f64::consts::LN_2
    }
}

impl TextModel {
    /// Reads a folder with `tokenizer.json` and a model.
    ///
    /// # Errors
    ///
    /// As [`Model::open`], and if there is no such tokenizer.
    pub fn open(folder: &Path) -> Result<Self> {
        TextModel::with(Model::open(folder)?, folder)
    }

    /// A model that is open, with the `tokenizer.json` of a folder.
    ///
    /// # Errors
    ///
    /// If there is no such tokenizer.
    pub fn with(model: Model, folder: &Path) -> Result<Self> {
        Ok(TextModel { model, tokenizer: read_tokenizer(folder, None)? })
    }

    /// Reads the contents of `config.json`, `model.safetensors` and `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn from_bytes(config: &str, weights: &[u8], tokenizer: &[u8]) -> Result<Self> {
        let bad = |e| Error::input(format!("tokenizer.json: {e}"));
        let tokenizer = Tokenizer::from_bytes(tokenizer).map_err(bad)?;
        Ok(TextModel { model: Model::from_bytes(config, weights)?, tokenizer })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Continues each prompt as [`Model::completed`] says; returns what was added. See
    /// [`Model::generate`].
    ///
    /// # Errors
    ///
    /// As there, and if the tokenizer fails.
    pub fn generate(
        &self,
        prompts: &[&str],
        options: &Generation,
        device: &Device,
        each: &mut dyn FnMut(usize),
    ) -> Result<Vec<String>> {
        let ids = prompts.iter().map(|text| tokens(&self.tokenizer, text, true));
        let ids = ids.collect::<Result<Vec<_>>>()?;
        let ids: Vec<&[i32]> = ids.iter().map(Vec::as_slice).collect();
        let options = self.model.completed(options)?;
        let made = self.model.generate(&ids, &options, device, each)?;
        let text = |ids: &Vec<i32>| {
            let ids: Vec<u32> = ids.iter().map(|&id| id as u32).collect();
            self.tokenizer.decode(&ids, true).map_err(failed)
        };
        made.iter().map(text).collect()
    }

    /// Reads a text a segment of bytes after the other, `memory` positions of those before kept
    /// (as many as the config says where it is not given), and foretells each byte from those
    /// before it. Neither time per byte nor memory grows with the text. `each` gets −log p of every
    /// byte but the first, a segment at a time.
    ///
    /// # Errors
    ///
    /// If the text cannot be read, is not UTF-8 or has fewer than two bytes, or the tokenizer's
    /// tokens are not bytes, or the model has no memory; and the errors of `each`.
    pub fn read(
        &self,
        text: &mut dyn Read,
        segment: usize,
        memory: Option<usize>,
        device: &Device,
        each: &mut dyn FnMut(&[f64]) -> Result<()>,
    ) -> Result<Reading> {
        ensure((1..=1 << 20).contains(&segment), "segment", segment, "must be from 1 to 1048576")?;
        let message = "a text is read by models with a memory: this one keeps every position";
        require(self.model.generator()?.memory().is_some(), || Error::declined(message))?;
        // Of one sequence; what it begins with does not matter yet.
        let (mut cache, _) = self.model.begin(&[&[0]], memory, device)?;
        let mut next = tokens_of_bytes(text, &self.tokenizer);
        let mut ids = next(segment)?;
        let mut reading = Reading { bytes: 0, nats: 0.0, memory_bytes: 0 };
        // The logits after the last byte of the segment before.
        let mut before: Option<Vec<f32>> = None;
        while !ids.is_empty() {
            let segment_ids = Ints::new(&[1, ids.len()], ids.clone());
            let states = self.model.advance(&segment_ids, &mut cache, device)?;
            let logits = self.model.predict(&states)?;
            let own = (0..ids.len() - 1).map(|i| logits.row(i));
            // The first byte of all is not foretold.
            let told = &ids[usize::from(before.is_none())..];
            let nll = |(row, &id): (&[f32], &i32)| ops::nll(row, id as usize);
            let nlls: Vec<f64> =
                before.as_deref().into_iter().chain(own).zip(told).map(nll).collect();
            reading.bytes += nlls.len() as u64;
            reading.nats += nlls.iter().sum::<f64>();
            reading.memory_bytes = reading.memory_bytes.max(cache.bytes());
            each(&nlls)?;
            before = Some(logits.row(ids.len() - 1).to_vec());
            ids = next(segment)?;
        }
        let short = || Error::input("the text must have at least two bytes");
        require(reading.bytes > 0, short).map(|()| reading)
    }
}

/// A text as the tokens of its bytes, read as they are asked for: the next so many, fewer at the end.
fn tokens_of_bytes(
    text: &mut dyn Read,
    tokenizer: &Tokenizer,
) -> impl FnMut(usize) -> Result<Vec<i32>> {
    // Bytes read, at most the beginning of a character; tokens ahead; bytes made tokens.
    let (mut waiting, mut ids, mut done) = (Vec::new(), Vec::new(), 0);
    move |count| {
        while ids.len() < count {
            // The tokenizer costs as much for a few bytes as for some thousand.
            let read = text.take(4096).read_to_end(&mut waiting).map_err(Error::input)?;
            // A character may go on in the next part.
            let first = waiting.utf8_chunks().next();
            let (whole, wrong) = first.map_or(("", &[][..]), |x| (x.valid(), x.invalid()));
            let goes_on = read > 0 && whole.len() + wrong.len() == waiting.len();
            let bad = || Error::input(format!("not UTF-8 at byte {}", done + whole.len() as u64));
            require(wrong.is_empty() || goes_on, bad)?;
            let (new, whole) = (tokens(tokenizer, whole, false)?, whole.len());
            let made = format!("the tokenizer makes {} tokens of {whole} bytes", new.len());
            let message = format!("{made}: a text is read by models of bytes");
            require(new.len() == whole, || Error::declined(message))?;
            ids.extend(new);
            waiting.drain(..whole);
            done += whole as u64;
            if read == 0 {
                break;
            }
        }
        Ok(ids.drain(..count.min(ids.len())).collect())
    }
}
