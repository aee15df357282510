//! `config.json`: every option is asked for by name, and one that nobody asks for is an error,
//! unless it is known to leave the results alone.

use crate::{Error, Result};
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::Path;

/// A configuration, or a part of one.
pub struct Config {
    options: Map<String, Value>,
    used: RefCell<BTreeSet<String>>,
}

/// Options that do not change what a forward pass computes: of training, of generation, of files.
/// Dropout is one of them, since a forward pass has none.
const HARMLESS: &[&str] = &[
    "activation_dropout",
    "architectures",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "attn_pdrop",
    "auto_map",
    "bos_token_id",
    "classif_dropout",
    "classifier_dropout",
    "classifier_dropout_prob",
    "decoder_layerdrop",
    "do_sample",
    "down_scale_factor",
    "dropatt",
    "dropout",
    "dropout_rate",
    "dtype",
    "early_stopping",
    "embd_pdrop",
    "encoder_layerdrop",
    "eos_token_id",
    "finetuning_task",
    "force_bos_token_to_be_generated",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "freeze_feat_extract_train",
    "gap_size",
    "gradient_checkpointing",
    "hidden_dropout",
    "hidden_dropout_prob",
    "id2label",
    "init",
    "init_range",
    "init_std",
    "initializer_factor",
    "initializer_range",
    "label2id",
    "language",
    "layerdrop",
    "layers_to_keep",
    "learning_rate",
    "length_penalty",
    "max_length",
    "min_length",
    "model_max_length",
    "n_ctx",
    "name",
    "name_or_path",
    "no_mask_channel_overlap",
    "no_mask_time_overlap",
    "no_repeat_ngram_size",
    "num_beams",
    "num_memory_blocks",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_past",
    "pad_token_id",
    "pooler_fc_size",
    "pooler_num_attention_heads",
    "pooler_num_fc_layers",
    "pooler_size_per_head",
    "pooler_type",
    "predict_special_tokens",
    "prefix",
    "proj_init_std",
    "qa_dropout",
    "repetition_penalty",
    "resid_pdrop",
    "return_dict",
    "sep_token_id",
    "seq_classif_dropout",
    "sinusoidal_pos_embds",
    "summary_activation",
    "summary_first_dropout",
    "summary_last_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "task_specific_params",
    "tgt_len",
    "tie_weights_",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "transformers_version",
    "use_cache",
];

/// Options of published models that nobody asks for, and the one value of each that is supported.
const FIXED: &[(&str, &str)] = &[
    ("add_bias_logits", "false"),
    ("add_final_layer_norm", "false"),
    ("attention_mode", "\"longformer\""),
    ("directionality", "\"bidi\""),
    ("do_blenderbot_90_layernorm", "false"),
    ("ext_len", "0"),
    ("extra_pos_embeddings", "2"),
    ("ignore_attention_mask", "false"),
    ("net_structure_type", "0"),
    ("normalize_before", "false"),
    ("normalize_embedding", "true"),
    ("static_position_embeddings", "false"),
    ("tie_weight", "true"),
];

impl Config {
    /// Reads a folder's `config.json`.
    ///
    /// # Errors
    ///
    /// If it cannot be read or is not an object.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let text = std::fs::read_to_string(&path)
            .map_err(|e| Error::input(format!("{}: {e}", path.display())))?;
        Config::parse(&text).map_err(|e| e.at(path.display()))
    }

    /// Reads a configuration from its text.
    ///
    /// # Errors
    ///
    /// If it is not a JSON object.
    pub fn parse(text: &str) -> Result<Self> {
        match serde_json::from_str(text).map_err(|e| Error::input(e.to_string()))? {
            Value::Object(options) => Ok(Config { options, used: RefCell::default() }),
            _ => Err(Error::input("not a JSON object")),
        }
    }

    /// The part under `key`, a configuration itself.
    ///
    /// # Errors
    ///
    /// If there is no object of that name.
    pub fn part(&self, key: &str) -> Result<Config> {
        match self.get(key) {
            Some(Value::Object(options)) => {
                Ok(Config { options: options.clone(), used: RefCell::default() })
            }
            _ => Err(Error::input(format!("config: the object {key:?} is absent"))),
        }
    }

    /// Whether there is an option of that name (`null` is none).
    pub fn has(&self, key: &str) -> bool {
        self.options.get(key).is_some_and(|v| !v.is_null())
    }

    /// The option as it stands, `null` being none; it counts as asked for.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.used.borrow_mut().insert(key.to_owned());
        self.options.get(key).filter(|v| !v.is_null())
    }

    /// A size or an id.
    ///
    /// # Errors
    ///
    /// If it is absent or not a whole number from 0 to 2^31 − 1.
    pub fn size(&self, key: &str) -> Result<usize> {
        self.optional_size(key)?.ok_or_else(|| Error::input(format!("config: {key:?} is absent")))
    }

    /// A size, or what the library takes where there is none.
    ///
    /// # Errors
    ///
    /// If it is not a whole number from 0 to 2^31 − 1.
    pub fn size_or(&self, key: &str, default: usize) -> Result<usize> {
        Ok(self.optional_size(key)?.unwrap_or(default))
    }

    /// A size that may be absent.
    ///
    /// # Errors
    ///
    /// If it is not a whole number from 0 to 2^31 − 1.
    pub fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let size = value.as_u64().filter(|&n| n <= i32::MAX as u64);
        match size {
            Some(n) => Ok(Some(n as usize)),
            None => Err(wrong(key, value, "must be a whole number from 0 to 2^31 - 1")),
        }
    }

    /// Whether the option stands there as `null`.
    pub fn is_null(&self, key: &str) -> bool {
        self.used.borrow_mut().insert(key.to_owned());
        self.options.get(key).is_some_and(Value::is_null)
    }

    /// A length that is off where it is not positive.
    ///
    /// # Errors
    ///
    /// If it is not a whole number.
    pub fn length(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_i64().filter(|&n| n <= i64::from(i32::MAX)) {
            Some(n) => Ok(usize::try_from(n).ok().filter(|&n| n > 0)),
            None => Err(wrong(key, value, "must be a whole number below 2^31")),
        }
    }

    /// A list of sizes from 1.
    ///
    /// # Errors
    ///
    /// If it is absent or not such a list.
    pub fn sizes(&self, key: &str) -> Result<Vec<usize>> {
        let Some(value) = self.get(key) else {
            return Err(Error::input(format!("config: {key:?} is absent")));
        };
        let size = |v: &Value| v.as_u64().filter(|&n| n > 0 && n <= i32::MAX as u64);
        let list = value.as_array().filter(|list| !list.is_empty());
        let sizes = list.and_then(|list| list.iter().map(|v| Some(size(v)? as usize)).collect());
        sizes.ok_or_else(|| wrong(key, value, "must be a list of whole numbers from 1"))
    }

    /// A size from 1.
    ///
    /// # Errors
    ///
    /// If it is absent or not such a number.
    pub fn positive(&self, key: &str) -> Result<usize> {
        match self.size(key)? {
            0 => Err(Error::invalid(format!("config: {key}"), 0, "must be positive")),
            n => Ok(n),
        }
    }

    /// A number, or what the library takes where there is none.
    ///
    /// # Errors
    ///
    /// If it is not a finite number.
    pub fn number_or(&self, key: &str, default: f64) -> Result<f64> {
        match self.get(key) {
            None => Ok(default),
            Some(v) => v
                .as_f64()
                .filter(|x| x.is_finite())
                .ok_or_else(|| wrong(key, v, "must be a finite number")),
        }
    }

    /// A number of a range.
    ///
    /// # Errors
    ///
    /// If it is absent, or not in the range.
    pub fn number_in(&self, key: &str, range: RangeInclusive<f64>) -> Result<f64> {
        let absent = || Error::input(format!("config: {key:?} is absent"));
        let value = self.get(key).ok_or_else(absent)?;
        let rule = format!("must be a number from {} to {}", range.start(), range.end());
        value.as_f64().filter(|x| range.contains(x)).ok_or_else(|| wrong(key, value, &rule))
    }

    /// A size or an id of a range.
    ///
    /// # Errors
    ///
    /// If it is absent, or not in the range.
    pub fn size_in(&self, key: &str, range: RangeInclusive<usize>) -> Result<usize> {
        let (start, end) = (*range.start() as f64, *range.end() as f64);
        self.number_in(key, start..=end)?;
        self.size(key)
    }

    /// A list, each element as `of` reads it; `rule` says what they must be.
    ///
    /// # Errors
    ///
    /// If it is absent, no list, or `of` makes nothing of an element.
    pub fn list<T>(&self, key: &str, rule: &str, of: fn(&Value) -> Option<T>) -> Result<Vec<T>> {
        let value = self.get(key);
        let value = value.ok_or_else(|| Error::input(format!("config: {key:?} is absent")))?;
        let list = value.as_array().and_then(|list| list.iter().map(of).collect());
        list.ok_or_else(|| wrong(key, value, rule))
    }

    /// A switch, or what the library takes where there is none.
    ///
    /// # Errors
    ///
    /// If it is neither `true` nor `false`.
    pub fn flag_or(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(v) => v.as_bool().ok_or_else(|| wrong(key, v, "must be true or false")),
        }
    }

    /// A word, or what the library takes where there is none.
    ///
    /// # Errors
    ///
    /// If it is not text.
    pub fn text_or(&self, key: &str, default: &str) -> Result<String> {
        match self.get(key) {
            None => Ok(default.to_owned()),
            Some(v) => match v.as_str() {
                Some(s) => Ok(s.to_owned()),
                None => Err(wrong(key, v, "must be text")),
            },
        }
    }

    /// An option that changes the results and of which one value is supported: that, or absent.
    ///
    /// # Errors
    ///
    /// If it has another value.
    pub fn only(&self, key: &str, supported: impl Into<Value>) -> Result<()> {
        let supported = supported.into();
        let same =
            |v: &Value| *v == supported || v.as_f64().is_some() && v.as_f64() == supported.as_f64();
        match self.get(key) {
            Some(v) if !same(v) => Err(wrong(key, v, &format!("only {supported} is supported"))),
            _ => Ok(()),
        }
    }

    /// Options whose value does not matter to this model.
    pub fn ignore(&self, keys: &[&str]) {
        self.used.borrow_mut().extend(keys.iter().map(|&k| k.to_owned()));
    }

    /// Options whose value does not matter to this model, by how their names begin.
    pub fn ignore_under(&self, prefixes: &[&str]) {
        let under = |key: &&String| prefixes.iter().any(|prefix| key.starts_with(prefix));
        self.used.borrow_mut().extend(self.options.keys().filter(under).cloned());
    }

    /// Rejects options that nobody asked for, but those that leave the results alone.
    ///
    /// # Errors
    ///
    /// Names the first of them.
    pub fn finish(&self) -> Result<()> {
        for (key, value) in FIXED.iter().filter(|(key, _)| self.has(key)) {
            if !self.used.borrow().contains(*key) {
                self.only(key, serde_json::from_str::<Value>(value).unwrap_or_default())?;
            }
        }
        let used = self.used.borrow();
        let known =
            |key: &str| key.starts_with('_') || used.contains(key) || HARMLESS.contains(&key);
        match self.options.iter().find(|(key, value)| !known(key) && !value.is_null()) {
            Some((key, value)) => {
                Err(wrong(key, value, "this model has no such option: it might change the results"))
            }
            None => Ok(()),
        }
    }
}

fn wrong(key: &str, value: &Value, rule: &str) -> Error {
    let mut text = value.to_string();
    if text.len() > 60 {
        text = format!("{}…", text.chars().take(60).collect::<String>());
    }
    Error::invalid(format!("config: {key}"), text, rule)
}
