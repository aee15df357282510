//! A folder's parameters: memory-mapped safetensors, one file or many, by name.

use crate::config::read_json;
use crate::tensor::Bytes;
use crate::values::Value;
use crate::{Error, Ints, Result, Tensor, lock, reject, require};
use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Parameters by name, or those under a prefix.
#[derive(Clone)]
pub struct Weights {
    entries: Arc<Entries>,
    loaded: Arc<Mutex<Loaded>>,
    prefix: String,
}

/// Hears of loading: bytes of the parameters read so far, and of all.
pub type Progress = Box<dyn FnMut(u64, u64) + Send>;

/// What is in files, by name.
type Entries = BTreeMap<String, Entry>;

struct Loaded {
    names: BTreeSet<String>,
    /// Of those, and of all entries.
    bytes: u64,
    total: u64,
    each: Progress,
}

struct Entry {
    file: Bytes,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

/// How the names of parameters end that say nothing new: buffers that old programs stored, and second
/// names of tied parameters.
const NOTHING_NEW: &str = "
    position_ids attn.bias attn.masked_bias token_type_ids pos_emb.inv_freq
    cls.predictions.decoder.weight cls.predictions.decoder.bias predictions.decoder.weight
    predictions.decoder.bias lm_head.decoder.weight lm_head.decoder.bias lm_head.weight
    generator_lm_head.weight vocab_projector.weight lm_loss.weight
";

impl Weights {
    /// Maps `model.safetensors` of a folder, or the files that `model.safetensors.index.json` names.
    /// `each` hears of every parameter that is read.
    ///
    /// # Errors
    ///
    /// If there is neither, or a file is damaged.
    pub fn open(folder: &Path, each: Progress) -> Result<Self> {
        let mut entries = Entries::new();
        for path in files(folder)? {
            map_file(&path, &mut entries).map_err(|e| e.at(path.display()))?;
        }
        Ok(Weights::of(entries, each))
    }

    fn of(entries: Entries, each: Progress) -> Self {
        let total = entries.values().map(|entry| entry.bytes.len() as u64).sum();
        let loaded = Mutex::new(Loaded { names: BTreeSet::new(), bytes: 0, total, each });
        Weights { entries: Arc::new(entries), loaded: Arc::new(loaded), prefix: String::new() }
    }

    /// The parameters in the contents of a `model.safetensors`.
    ///
    /// # Errors
    ///
    /// If they are damaged.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let mut entries = Entries::new();
        add_tensors(Arc::new(bytes.to_vec()), &mut entries)?;
        Ok(Weights::of(entries, Box::new(|_, _| ())))
    }

    /// No parameters, for what has none.
    pub fn none() -> Self {
        Weights::of(Entries::new(), Box::new(|_, _| ()))
    }

    /// Those whose names begin with `prefix` more.
    pub fn under(&self, prefix: &str) -> Self {
        Weights { prefix: self.full(prefix), ..self.clone() }
    }

    /// Whether there is a parameter `name`.
    pub fn has(&self, name: &str) -> bool {
        self.entries.contains_key(&self.full(name))
    }

    /// Whether there is any parameter under `prefix`.
    pub fn has_any(&self, prefix: &str) -> bool {
        let prefix = self.full(prefix);
        let mut from = self.entries.range(prefix.clone()..);
        from.next().is_some_and(|(name, _)| name.starts_with(&prefix))
    }

    /// The sizes of the parameter `name`.
    ///
    /// # Errors
    ///
    /// If it is absent.
    pub fn shape(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.entry(name)?.shape)
    }

    /// The parameter `name`, which must have `shape`. f32 stays in the file, f16 and bf16 become
    /// f32.
    ///
    /// # Errors
    ///
    /// If it is absent, has another shape or holds no floats.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let entry = self.entry(name)?;
        let full = self.full(name);
        let rule = || format!("the config says {shape:?}");
        let misshapen = || Error::shape(format_args!("tensor {full:?}"), &entry.shape, rule());
        require(entry.shape == shape, misshapen)?;
        let tensor = entry.floats(&full)?;
        let Loaded { names, bytes, total, each } = &mut *lock(&self.loaded);
        // A tied parameter is read twice.
        *bytes += if names.insert(full) { entry.bytes.len() as u64 } else { 0 };
        each(*bytes, *total);
        Ok(tensor)
    }

    /// Rejects parameters that nobody asked for: a model that leaves them out is another model.
    /// Buffers that old programs stored, and second names of tied parameters, may be there.
    ///
    /// # Errors
    ///
    /// Names the first such parameter.
    pub fn finish(&self) -> Result<()> {
        let used = &lock(&self.loaded).names;
        let known = |name: &str| NOTHING_NEW.split_whitespace().any(|end| name.ends_with(end));
        let unknown = self.entries.keys().find(|name| !used.contains(*name) && !known(name));
        let other = |name| Error::input(format!("tensor {name:?} is not one of this model's"));
        reject(unknown, other)
    }

    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        let full = self.full(name);
        let absent = || Error::input(format!("tensor {full:?} is absent from the weights"));
        self.entries.get(&full).ok_or_else(absent)
    }
}

impl Entry {
    /// Its elements, which are floats of any width: f32 where it lies, if it can be read there.
    fn floats(&self, name: &str) -> Result<Tensor> {
        let Entry { file, dtype, shape, bytes } = self;
        let data = &(**file).as_ref()[bytes.clone()];
        let other = || format!("tensor {name:?} has the type {dtype:?}, which is not read");
        let elements = match dtype {
            Dtype::F32 => match Tensor::mapped(shape, file, bytes.clone()) {
                Some(tensor) => return Ok(tensor),
                None => numbers(data, f32::from_le_bytes),
            },
            Dtype::F16 => numbers(data, |b| f16::from_le_bytes(b).to_f32()),
            Dtype::BF16 => numbers(data, |b| bf16::from_le_bytes(b).to_f32()),
            Dtype::F64 => numbers(data, |b| f64::from_le_bytes(b) as f32),
            _ => return Err(Error::input(other())),
        };
        Ok(Tensor::new(shape, elements))
    }

    /// The same, or integers that fit 32 bits.
    fn value(&self, name: &str) -> Result<Value> {
        let data = &(*self.file).as_ref()[self.bytes.clone()];
        let wide = match self.dtype {
            Dtype::I32 => numbers(data, |b| i64::from(i32::from_le_bytes(b))),
            Dtype::I64 => numbers(data, i64::from_le_bytes),
            _ => return self.floats(name).map(Value::Floats),
        };
        let narrow = wide.iter().map(|&x| {
            let rule = "must fit 32 bits";
            i32::try_from(x).map_err(|_| Error::invalid(format!("an element of {name:?}"), x, rule))
        });
        Ok(Value::Ints(Ints::new(&self.shape, narrow.collect::<Result<_>>()?)))
    }
}

/// A folder's files of weights.
fn files(folder: &Path) -> Result<BTreeSet<PathBuf>> {
    const SINGLE: &str = "model.safetensors";
    const INDEX: &str = "model.safetensors.index.json";
    let (single, path) = (folder.join(SINGLE), folder.join(INDEX));
    if single.is_file() {
        return Ok([single].into());
    }
    let neither = || Error::input(format_args!("holds neither {SINGLE} nor {INDEX}"));
    require(path.is_file(), || neither().at(folder.display()))?;
    let bad = |why: String| Error::Input(why).at(path.display());
    let index = read_json(&path)?;
    let map = index.get("weight_map").and_then(|m| m.as_object());
    let map = map.ok_or_else(|| bad("has no object \"weight_map\"".to_owned()))?;
    let beside = |(tensor, file): (&String, &serde_json::Value)| {
        let file = file.as_str().filter(|f| !f.contains(['/', '\\']) && !f.is_empty());
        let none = || bad(format!("{tensor:?} names no file beside it"));
        file.map(|file| folder.join(file)).ok_or_else(none)
    };
    map.iter().map(beside).collect()
}

fn map_file(path: &Path, entries: &mut Entries) -> Result<()> {
    let file = std::fs::File::open(path).map_err(Error::input)?;
    // SAFETY: as with every mapped file, its bytes change if another program writes into it while
    // it is open. They are only ever read as plain numbers, so the results would be wrong, and a
    // file cut short would end the program; nothing else can happen.
    #[allow(unsafe_code)]
    let map = unsafe { Mmap::map(&file) }.map_err(Error::input)?;
    add_tensors(Arc::new(map), entries)
}

/// The tensors in a file's contents.
fn add_tensors(file: Bytes, entries: &mut Entries) -> Result<()> {
    let bytes = (*file).as_ref();
    let tensors = SafeTensors::deserialize(bytes)
        .map_err(|e| Error::input(format!("not a safetensors file: {e}")))?;
    for (name, view) in tensors.tensors() {
        let start = view.data().as_ptr() as usize - bytes.as_ptr() as usize;
        // The names that norms had before 2019.
        let name = match name.rsplit_once('.') {
            Some((norm, "gamma")) if norm.ends_with("LayerNorm") => format!("{norm}.weight"),
            Some((norm, "beta")) if norm.ends_with("LayerNorm") => format!("{norm}.bias"),
            _ => name,
        };
        let entry = Entry {
            file: file.clone(),
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            bytes: start..start + view.data().len(),
        };
        let twice = |_| Error::input(format!("tensor {name:?} is in two files"));
        reject(entries.insert(name.clone(), entry), twice)?;
    }
    Ok(())
}

/// The tensors of a safetensors file, in the types that models compute with.
pub(crate) fn parse_tensors(bytes: Vec<u8>) -> Result<BTreeMap<String, Value>> {
    let mut entries = Entries::new();
    add_tensors(Arc::new(bytes), &mut entries)?;
    entries.iter().map(|(name, entry)| Ok((name.clone(), entry.value(name)?))).collect()
}

fn numbers<const N: usize, T>(data: &[u8], of: impl Fn([u8; N]) -> T) -> Vec<T> {
    data.as_chunks().0.iter().map(|&b| of(b)).collect()
}
