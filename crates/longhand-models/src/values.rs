//! What goes into a model and comes out of it: tensors by name.

use crate::weights::parse_tensors;
use crate::{Error, Ints, Result, Tensor, ops, require, when};
use std::collections::BTreeMap;
use std::path::Path;

/// A tensor of either kind.
#[derive(Debug, Clone)]
pub enum Value {
    /// Numbers.
    Floats(Tensor),
    /// Ids, labels, masks.
    Ints(Ints),
}

impl Value {
    fn floats(&self) -> Option<&Tensor> {
        let Value::Floats(x) = self else { return None };
        Some(x)
    }
}

/// A model's inputs by name, asked for by what a model needs.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    values: BTreeMap<String, Value>,
}

impl Inputs {
    /// No input yet.
    pub fn new() -> Self {
        Inputs::default()
    }

    /// With one more integer tensor.
    pub fn ints_of(mut self, name: &str, shape: &[usize], data: Vec<i32>) -> Self {
        self.values.insert(name.to_owned(), Value::Ints(Ints::new(shape, data)));
        self
    }

    /// With one more float tensor.
    pub fn floats_of(mut self, name: &str, tensor: Tensor) -> Self {
        self.values.insert(name.to_owned(), Value::Floats(tensor));
        self
    }

    /// Reads a safetensors file: I32 (or I64 that fits it) as integers, F32, F16, BF16 and F64 as
    /// floats.
    ///
    /// # Errors
    ///
    /// If it cannot be read or holds another type.
    pub fn read(path: &Path) -> Result<Self> {
        let values = || match std::fs::metadata(path).map_err(Error::input)?.is_file() {
            true => parse_tensors(std::fs::read(path).map_err(Error::input)?),
            false => Err(Error::input("not a regular file")),
        };
        Ok(Inputs { values: values().map_err(|e| e.at(path.display()))? })
    }

    /// The inputs whose names begin with `prefix`, without it.
    pub fn under(&self, prefix: &str) -> Self {
        let strip =
            |(k, v): (&String, &Value)| Some((k.strip_prefix(prefix)?.to_owned(), v.clone()));
        Inputs { values: self.values.iter().filter_map(strip).collect() }
    }

    /// Whether there is such an input.
    pub fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// The integer tensor `name`.
    ///
    /// # Errors
    ///
    /// If it is absent or holds floats.
    pub fn ints(&self, name: &str) -> Result<&Ints> {
        match self.values.get(name) {
            Some(Value::Ints(x)) => Ok(x),
            Some(_) => Err(Error::input(format!("input {name:?} holds floats, not integers"))),
            None => Err(Error::input(format!("input {name:?} is absent"))),
        }
    }

    /// Segments of a text, one after another: `input_ids.0`, `input_ids.1`, …, each with its name.
    ///
    /// # Errors
    ///
    /// If there is none, or one is not a matrix with as many rows as the first.
    pub fn segments(&self) -> Result<Vec<(String, &Ints)>> {
        let [batch, _] = self.ints("input_ids.0")?.sizes("input_ids.0")?;
        let segment = |name: String| {
            let ids = self.ints(&name)?;
            let [rows, _] = ids.sizes(&name)?;
            let rule = format!("must have {batch} rows, as the first segment");
            require(rows == batch, || Error::shape(&name, &ids.shape, rule))?;
            Ok((name, ids))
        };
        let names = (0..).map(|s| format!("input_ids.{s}"));
        names.take_while(|name| self.has(name)).map(segment).collect()
    }

    /// The float tensor `name`.
    ///
    /// # Errors
    ///
    /// If it is absent or holds integers.
    pub fn floats(&self, name: &str) -> Result<&Tensor> {
        match self.values.get(name) {
            Some(Value::Floats(x)) => Ok(x),
            Some(_) => Err(Error::input(format!("input {name:?} holds integers, not floats"))),
            None => Err(Error::input(format!("input {name:?} is absent"))),
        }
    }

    /// The integer tensor `name` if it is there; it must have `shape`.
    ///
    /// # Errors
    ///
    /// If it has another shape or holds floats.
    pub fn optional_ints(&self, name: &str, shape: &[usize]) -> Result<Option<&Ints>> {
        when(self.has(name), || self.ints_shaped(name, shape))
    }

    /// The mask `name` if it is there, as bytes; it must have `shape`.
    ///
    /// # Errors
    ///
    /// As [`optional_ints`](Self::optional_ints), and if it holds something other than 0 and 1.
    pub fn optional_mask(&self, name: &str, shape: &[usize]) -> Result<Option<Vec<u8>>> {
        self.optional_ints(name, shape)?.map(|mask| mask.mask(name)).transpose()
    }

    /// `attention_mask` as bytes, if it is given.
    ///
    /// # Errors
    ///
    /// If its shape is not that of `input_ids`, or it holds something other than 0 and 1.
    pub fn key_valid(&self) -> Result<Option<Vec<u8>>> {
        self.optional_mask("attention_mask", &self.ints("input_ids")?.shape)
    }

    /// The mean loss of logits over the scored positions of the labels `name`, if those are there; of a
    /// causal model, each position's label is the next token.
    ///
    /// # Errors
    ///
    /// If the labels are misshapen or out of range.
    pub fn loss(&self, name: &str, logits: &Tensor, causal: bool) -> Result<Option<f64>> {
        let Some(labels) = self.optional_ints(name, &logits.shape()[..2])? else { return Ok(None) };
        let labels = if causal { &ops::next_labels(labels) } else { labels };
        ops::labels_loss(logits, labels, name).map(Some)
    }

    /// The float tensor `name`, which must have `shape`.
    ///
    /// # Errors
    ///
    /// As [`floats`](Self::floats), and if it has another shape.
    pub fn floats_shaped(&self, name: &str, shape: &[usize]) -> Result<&Tensor> {
        let x = self.floats(name)?;
        require(x.shape() == shape, || misshapen(name, x.shape(), shape)).map(|()| x)
    }

    /// The integer tensor `name`, which must have `shape`.
    ///
    /// # Errors
    ///
    /// As [`ints`](Self::ints), and if it has another shape.
    pub fn ints_shaped(&self, name: &str, shape: &[usize]) -> Result<&Ints> {
        let x = self.ints(name)?;
        require(x.shape == shape, || misshapen(name, &x.shape, shape)).map(|()| x)
    }
}

fn misshapen(name: &str, got: &[usize], want: &[usize]) -> Error {
    Error::shape(format_args!("input {name:?}"), got, format_args!("must be {want:?}"))
}

/// A model's results by name.
#[derive(Debug, Clone, Default)]
pub struct Outputs {
    /// Sorted by name.
    pub values: BTreeMap<String, Value>,
}

impl Outputs {
    /// Adds a result.
    pub fn put(&mut self, name: impl Into<String>, tensor: Tensor) {
        self.values.insert(name.into(), Value::Floats(tensor));
    }

    /// Adds a result of integers.
    pub fn put_ints(&mut self, name: impl Into<String>, ints: Ints) {
        self.values.insert(name.into(), Value::Ints(ints));
    }

    /// Adds a row, of this shape, to those that the result `name` has.
    ///
    /// # Panics
    ///
    /// If rows differ in shape.
    pub fn add_row(&mut self, name: &str, shape: &[usize], row: impl IntoIterator<Item = i32>) {
        let none = || Value::Ints(Ints::new(&[&[0], shape].concat(), Vec::new()));
        if let Value::Ints(rows) = self.values.entry(name.to_owned()).or_insert_with(none) {
            rows.data.extend(row);
            rows.shape[0] += 1;
            assert_eq!(rows.shape.iter().product::<usize>(), rows.data.len(), "rows of {name}");
        }
    }

    /// Adds a number, of shape `[1]`.
    pub fn put_scalar(&mut self, name: impl Into<String>, x: f64) {
        self.put(name, Tensor::new(&[1], vec![x as f32]));
    }

    /// Adds `<name>.0`, `.1`, …
    pub fn put_each(&mut self, name: impl std::fmt::Display, tensors: &[Tensor]) {
        for (k, tensor) in tensors.iter().enumerate() {
            self.put(format!("{name}.{k}"), tensor.clone());
        }
    }

    /// Takes in another's results, `prefix` before their names.
    pub fn absorb(&mut self, prefix: &str, other: Outputs) {
        self.values.extend(other.values.into_iter().map(|(k, v)| (format!("{prefix}{k}"), v)));
    }

    /// Every result that holds floats.
    pub(crate) fn tensors(&self) -> Vec<&Tensor> {
        self.values.values().filter_map(Value::floats).collect()
    }

    /// The number that is the result `name`.
    ///
    /// # Errors
    ///
    /// If the model computes none of that name.
    pub fn number(&self, name: &str) -> Result<f64> {
        Ok(self.floats(name)?.data()[0].into())
    }

    /// The float result `name`.
    ///
    /// # Errors
    ///
    /// If the model computes none of that name.
    pub fn floats(&self, name: &str) -> Result<&Tensor> {
        let absent = || Error::input(format!("the model has no result {name:?}"));
        self.values.get(name).and_then(Value::floats).ok_or_else(absent)
    }
}
