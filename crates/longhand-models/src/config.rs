//! `config.json`: every option is asked for by name, and one that nobody asks for is an error,
//! unless it is known to leave the results alone. What BERT has too is asked for by BERT's name, and so
//! are parameters.

use crate::ops::Activation;
use crate::{Error, Result, Weights, reject};
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::LazyLock;

/// A configuration, or a part of one.
pub struct Config {
    options: Map<String, Value>,
    /// What [`CLASSES`] says of its `model_type`.
    class: &'static Value,
    used: RefCell<BTreeSet<String>>,
}

/// For each `model_type`, what its configs call the `options` that BERT has too (`null` is one that they
/// have not: then a default stands under BERT's name), and its checkpoints the `parameters`; what the
/// public class (transformers 4.57.6) takes where an option is left out; and options that nobody asks
/// for. `fixed`: of published models, with the one value of each that is supported. `harmless`: they do
/// not change what a forward pass computes.
static CLASSES: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("classes.json")).expect("JSON"));

/// What a class calls what BERT has too.
#[derive(Clone, Copy)]
pub struct Names(&'static Value);

impl Names {
    /// Its name for what BERT calls `key`.
    pub fn of(self, key: &str) -> &str {
        self.0.get(key).map_or(key, |own| own.as_str().unwrap_or_default())
    }

    /// The body's parameters: under its prefix, or bare in a file that holds nothing else.
    pub fn body(self, weights: &Weights) -> Weights {
        let prefix = self.of("bert.");
        let bare = weights.has(self.of(WORDS)) && !weights.has_any(prefix);
        weights.under(if bare { "" } else { prefix })
    }
}

/// BERT's table of words.
pub(crate) const WORDS: &str = "embeddings.word_embeddings.weight";

impl Config {
    /// Reads a configuration from a file.
    ///
    /// # Errors
    ///
    /// If it cannot be read or is not an object.
    pub fn read(path: &Path) -> Result<Self> {
        Config::of_json(read_json(path)?).map_err(|e| e.at(path.display()))
    }

    /// Reads a configuration from its text.
    ///
    /// # Errors
    ///
    /// If it is not a JSON object.
    pub fn parse(text: &str) -> Result<Self> {
        Config::of_json(serde_json::from_str(text).map_err(Error::input)?)
    }

    fn of_json(json: Value) -> Result<Self> {
        let Value::Object(options) = json else { return Err(Error::input("not a JSON object")) };
        let class = options.get("model_type").and_then(Value::as_str).unwrap_or_default();
        Ok(Config { class: &CLASSES[class], options, used: RefCell::default() })
    }

    /// The part under `key`, a configuration itself.
    ///
    /// # Errors
    ///
    /// If there is no object of that name.
    pub fn part(&self, key: &str) -> Result<Config> {
        let absent = |_| Error::input(format!("config: the object {key:?} is absent"));
        Config::of_json(self.get(key).cloned().unwrap_or_default()).map_err(absent)
    }

    /// Whether an option of that name stands there (`null` is none).
    pub fn has(&self, key: &str) -> bool {
        self.options.get(key).is_some_and(|v| !v.is_null())
    }

    /// What this config calls BERT's option `key`.
    pub fn name<'a>(&'a self, key: &'a str) -> &'a str {
        Names(&self.class["options"]).of(key)
    }

    /// What checkpoints call the parameters of a `part`, where that has names of its own.
    pub fn parameters(&self, part: &str) -> Names {
        Names(self.class.get(part).unwrap_or(&self.class["parameters"]))
    }

    /// The option as it stands, `null` being none, or else the public class's; it counts as asked
    /// for.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let name = self.name(key);
        self.used.borrow_mut().insert(name.to_owned());
        let default = || self.class.get(if name.is_empty() { key } else { name });
        self.options.get(name).or_else(default).filter(|v| !v.is_null())
    }

    /// The option as `of` reads it, if it is there; `rule` says what it must be.
    ///
    /// # Errors
    ///
    /// If `of` makes nothing of it.
    pub fn optional<T>(
        &self,
        key: &str,
        rule: &str,
        of: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let read = |value| of(value).ok_or_else(|| wrong(self.name(key), value, rule));
        self.get(key).map(read).transpose()
    }

    /// Of an option that must be there.
    fn absent(&self, key: &str) -> Error {
        Error::input(format!("config: {:?} is absent", self.name(key)))
    }

    /// A size or an id.
    ///
    /// # Errors
    ///
    /// If it is absent or not a whole number from 0 to 2^31 − 1.
    pub fn size(&self, key: &str) -> Result<usize> {
        self.optional_size(key)?.ok_or_else(|| self.absent(key))
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
        self.optional(key, SIZE, size)
    }

    /// A length that is off where it is not positive.
    ///
    /// # Errors
    ///
    /// If it is not a whole number.
    pub fn length(&self, key: &str) -> Result<Option<usize>> {
        let below = |v: &Value| v.as_i64().filter(|&n| n <= i64::from(i32::MAX));
        let length = self.optional(key, "must be a whole number below 2^31", below)?;
        Ok(length.and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0))
    }

    /// A list of sizes from 1.
    ///
    /// # Errors
    ///
    /// If it is absent or not such a list.
    pub fn sizes(&self, key: &str) -> Result<Vec<usize>> {
        let rule = "must be a list of whole numbers from 1";
        let sizes = |v: &Value| list(v, |v| size(v).filter(|&n| n > 0)).filter(|v| !v.is_empty());
        self.optional(key, rule, sizes)?.ok_or_else(|| self.absent(key))
    }

    /// A size from 1.
    ///
    /// # Errors
    ///
    /// If it is absent or not such a number.
    pub fn positive(&self, key: &str) -> Result<usize> {
        let rule = "must be positive, a whole number below 2^31";
        let positive = |v: &Value| size(v).filter(|&n| n > 0);
        self.optional(key, rule, positive)?.ok_or_else(|| self.absent(key))
    }

    /// A number, or what the library takes where there is none.
    ///
    /// # Errors
    ///
    /// If it is not a finite number.
    pub fn number_or(&self, key: &str, default: f64) -> Result<f64> {
        let finite = |v: &Value| v.as_f64().filter(|x| x.is_finite());
        Ok(self.optional(key, "must be a finite number", finite)?.unwrap_or(default))
    }

    /// A number above 0, or what the library takes where there is none.
    ///
    /// # Errors
    ///
    /// If it is not such a number.
    pub fn positive_or(&self, key: &str, default: f64) -> Result<f64> {
        let positive = |v: &Value| v.as_f64().filter(|x| x.is_finite() && *x > 0.0);
        Ok(self.optional(key, "must be a positive number", positive)?.unwrap_or(default))
    }

    /// A number of a range.
    ///
    /// # Errors
    ///
    /// If it is absent, or not in the range.
    pub fn number_in(&self, key: &str, range: RangeInclusive<f64>) -> Result<f64> {
        let rule = format!("must be a number from {} to {}", range.start(), range.end());
        let within = |v: &Value| v.as_f64().filter(|x| range.contains(x));
        self.optional(key, &rule, within)?.ok_or_else(|| self.absent(key))
    }

    /// A size or an id of a range.
    ///
    /// # Errors
    ///
    /// If it is absent, or not in the range.
    pub fn size_in(&self, key: &str, range: RangeInclusive<usize>) -> Result<usize> {
        self.number_in(key, *range.start() as f64..=*range.end() as f64)?;
        self.size(key)
    }

    /// A list, each element as `of` reads it; `rule` says what they must be.
    ///
    /// # Errors
    ///
    /// If it is absent, no list, or `of` makes nothing of an element.
    pub fn list<T>(&self, key: &str, rule: &str, of: fn(&Value) -> Option<T>) -> Result<Vec<T>> {
        self.optional(key, rule, |v| list(v, of))?.ok_or_else(|| self.absent(key))
    }

    /// A list of words; none where it is absent.
    ///
    /// # Errors
    ///
    /// If it is not such a list.
    pub fn words(&self, key: &str) -> Result<Vec<String>> {
        let words = |v: &Value| list(v, |word| word.as_str().map(str::to_owned));
        Ok(self.optional(key, "must be a list of words", words)?.unwrap_or_default())
    }

    /// A switch, or what the library takes where there is none.
    ///
    /// # Errors
    ///
    /// If it is neither `true` nor `false`.
    pub fn flag_or(&self, key: &str, default: bool) -> Result<bool> {
        Ok(self.optional(key, "must be true or false", Value::as_bool)?.unwrap_or(default))
    }

    /// A word, or what the library takes where there is none.
    ///
    /// # Errors
    ///
    /// If it is not text.
    pub fn text_or(&self, key: &str, default: &str) -> Result<String> {
        let text = self.optional(key, "must be text", |v| v.as_str().map(str::to_owned))?;
        Ok(text.unwrap_or_else(|| default.to_owned()))
    }

    /// Whether a word is the second of two that it may be; the first is what the library takes where
    /// there is none.
    ///
    /// # Errors
    ///
    /// If it is neither.
    pub fn is_second(&self, key: &str, [first, second]: [&str; 2]) -> Result<bool> {
        let rule = format!("must be {first} or {second}");
        let word = |v: &Value| Some(v.as_str()? == second).filter(|&is| is || *v == first);
        Ok(self.optional(key, &rule, word)?.unwrap_or(false))
    }

    /// An activation, or what the library takes where there is none.
    ///
    /// # Errors
    ///
    /// If it is not a known one.
    pub fn activation_or(&self, key: &str, default: &str) -> Result<Activation> {
        let name = self.text_or(key, default)?;
        let unknown = || wrong(self.name(key), &(&*name).into(), "is not a supported activation");
        Activation::named(&name).ok_or_else(unknown)
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
        let other = |v| wrong(self.name(key), v, &format!("only {supported} is supported"));
        reject(self.get(key).filter(|v| !same(v)), other)
    }

    /// Options whose value does not matter to this model, with spaces between.
    pub fn ignore(&self, keys: &str) {
        self.used.borrow_mut().extend(keys.split_whitespace().map(str::to_owned));
    }

    /// Rejects options that nobody asked for, but those that leave the results alone.
    ///
    /// # Errors
    ///
    /// Names the first of them.
    pub fn finish(&self) -> Result<()> {
        let under = |part| {
            [&CLASSES["any"], self.class].map(|of| of[part].as_object()).into_iter().flatten()
        };
        let used = self.used.borrow().clone();
        for (key, value) in under("fixed").flatten().filter(|(key, _)| !used.contains(*key)) {
            self.only(key, value.clone())?;
        }
        let harmless = under("harmless").flatten().flat_map(|(_, keys)| keys.as_array()).flatten();
        harmless.filter_map(Value::as_str).for_each(|key| self.ignore(key));
        let used = self.used.borrow();
        let known = |key: &str| key.starts_with('_') || used.contains(key);
        let other = self.options.iter().find(|(key, value)| !known(key) && !value.is_null());
        let rule = "this model has no such option: it might change the results";
        reject(other, |(key, value)| wrong(key, value, rule))
    }
}

/// A file of JSON.
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).map_err(Error::input);
    let json = text.and_then(|text| serde_json::from_str(&text).map_err(Error::input));
    json.map_err(|e| e.at(path.display()))
}

/// What [`size`] makes something of.
const SIZE: &str = "must be a whole number from 0 to 2^31 - 1";

fn size(value: &Value) -> Option<usize> {
    value.as_u64().filter(|&n| n <= i32::MAX as u64).map(|n| n as usize)
}

fn list<T>(value: &Value, of: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    value.as_array()?.iter().map(of).collect()
}

fn wrong(key: &str, value: &Value, rule: &str) -> Error {
    let mut text = value.to_string();
    if text.len() > 60 {
        text = format!("{}…", text.chars().take(60).collect::<String>());
    }
    Error::invalid(format!("config: {key}"), text, rule)
}
