//! A folder's parameters: memory-mapped safetensors, one file or many, by name.

use crate::config::read_text;
use crate::values::Value;
use crate::{Error, Ints, Result, Tensor};
use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Parameters by name, or those under a prefix.
#[derive(Clone)]
pub struct Weights {
    shared: Arc<Shared>,
    prefix: String,
}

/// Hears of loading: bytes of the parameters read so far, and of all.
pub type Progress = Box<dyn FnMut(u64, u64) + Send>;

struct Shared {
    entries: BTreeMap<String, Entry>,
    loaded: Mutex<Loaded>,
}

#[derive(Default)]
struct Loaded {
    names: BTreeSet<String>,
    bytes: u64,
    each: Option<Progress>,
}

struct Entry {
    file: Arc<Mmap>,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

impl Weights {
    /// Maps `model.safetensors` of a folder, or the files that `model.safetensors.index.json` names.
    ///
    /// # Errors
    ///
    /// If there is neither, or a file is damaged.
    pub fn open(folder: &Path) -> Result<Self> {
        let mut entries = BTreeMap::new();
        for file in files(folder)? {
            map_file(&folder.join(&file), &mut entries)
                .map_err(|e| e.at(folder.join(&file).display()))?;
        }
        Ok(Weights::of(entries))
    }

    fn of(entries: BTreeMap<String, Entry>) -> Self {
        let shared = Arc::new(Shared { entries, loaded: Mutex::default() });
        Weights { shared, prefix: String::new() }
    }

    /// Tells `each` of every parameter that is read from now on.
    pub fn on_progress(&self, each: Progress) {
        self.loaded().each = Some(each);
    }

    fn loaded(&self) -> MutexGuard<'_, Loaded> {
        self.shared.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The parameters in the contents of a `model.safetensors`.
    ///
    /// # Errors
    ///
    /// If they are damaged.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let mut room = memmap2::MmapMut::map_anon(bytes.len().max(1))
            .map_err(|e| Error::input(e.to_string()))?;
        room[..bytes.len()].copy_from_slice(bytes);
        let file = room.make_read_only().map_err(|e| Error::input(e.to_string()))?;
        let mut entries = BTreeMap::new();
        map_tensors(Arc::new(file), bytes.len(), &mut entries)?;
        Ok(Weights::of(entries))
    }

    /// No parameters, for what has none.
    pub fn none() -> Self {
        Weights::of(BTreeMap::new())
    }

    /// Those whose names begin with `prefix` more.
    pub fn under(&self, prefix: &str) -> Self {
        Weights { shared: self.shared.clone(), prefix: format!("{}{prefix}", self.prefix) }
    }

    /// Whether there is a parameter `name`.
    pub fn has(&self, name: &str) -> bool {
        self.shared.entries.contains_key(&self.full(name))
    }

    /// Whether there is any parameter under `prefix`.
    pub fn has_any(&self, prefix: &str) -> bool {
        let prefix = self.full(prefix);
        let mut from = self.shared.entries.range(prefix.clone()..);
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
        if entry.shape != shape {
            let rule = format!("the config says {shape:?}");
            return Err(Error::shape(format_args!("tensor {full:?}"), &entry.shape, rule));
        }
        let mapped = (entry.dtype == Dtype::F32)
            .then(|| Tensor::mapped(shape, &entry.file, entry.bytes.clone()))
            .flatten();
        let tensor = match mapped {
            Some(tensor) => tensor,
            None => {
                let elements = floats(entry.dtype, &entry.file[entry.bytes.clone()])
                    .ok_or_else(|| not_floats(&full, entry.dtype))?;
                Tensor::new(shape, elements)
            }
        };
        self.count(full, entry.bytes.len() as u64);
        Ok(tensor)
    }

    fn count(&self, name: String, bytes: u64) {
        let mut loaded = self.loaded();
        let Loaded { names, bytes: so_far, each } = &mut *loaded;
        // A tied parameter is read twice.
        *so_far += if names.insert(name) { bytes } else { 0 };
        if let Some(each) = each {
            let of_all = |entry: &Entry| entry.bytes.len() as u64;
            each(*so_far, self.shared.entries.values().map(of_all).sum());
        }
    }

    /// Rejects parameters that nobody asked for: a model that leaves them out is another model.
    /// Buffers that old programs stored, and the second name of a tied matrix, may be there.
    ///
    /// # Errors
    ///
    /// Names the first such parameter.
    pub fn finish(&self, tied: &[&str]) -> Result<()> {
        const BUFFERS: [&str; 5] =
            ["position_ids", "attn.bias", "attn.masked_bias", "token_type_ids", "pos_emb.inv_freq"];
        let used = &self.loaded().names;
        for name in self.shared.entries.keys() {
            let known = used.contains(name)
                || BUFFERS.iter().any(|b| name.ends_with(b))
                || tied.iter().any(|t| name.ends_with(t));
            if !known {
                let message = format!("tensor {name:?} is not one of this model's");
                return Err(Error::input(message));
            }
        }
        Ok(())
    }

    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        let full = self.full(name);
        let absent = || Error::input(format!("tensor {full:?} is absent from the weights"));
        self.shared.entries.get(&full).ok_or_else(absent)
    }
}

/// The names of a folder's files of weights.
fn files(folder: &Path) -> Result<Vec<String>> {
    const SINGLE: &str = "model.safetensors";
    const INDEX: &str = "model.safetensors.index.json";
    if folder.join(SINGLE).is_file() {
        return Ok(vec![SINGLE.to_owned()]);
    }
    let path = folder.join(INDEX);
    if !path.is_file() {
        let message = format!("{}: holds neither {SINGLE} nor {INDEX}", folder.display());
        return Err(Error::input(message));
    }
    let bad = |why: &dyn std::fmt::Display| Error::input(format!("{}: {why}", path.display()));
    let index: serde_json::Value = serde_json::from_str(&read_text(&path)?).map_err(|e| bad(&e))?;
    let map = index.get("weight_map").and_then(|m| m.as_object());
    let map = map.ok_or_else(|| bad(&"has no object \"weight_map\""))?;
    let mut names = BTreeSet::new();
    for (tensor, file) in map {
        let file = file.as_str().filter(|f| !f.contains(['/', '\\']) && !f.is_empty());
        names.insert(file.ok_or_else(|| bad(&format!("{tensor:?} names no file beside it")))?);
    }
    Ok(names.into_iter().map(str::to_owned).collect())
}

fn map_file(path: &Path, entries: &mut BTreeMap<String, Entry>) -> Result<()> {
    let io = |e: std::io::Error| Error::input(e.to_string());
    let file = std::fs::File::open(path).map_err(io)?;
    // SAFETY: as with every mapped file, its bytes change if another program writes into it while
    // it is open. They are only ever read as plain numbers, so the results would be wrong, and a
    // file cut short would end the program; nothing else can happen.
    #[allow(unsafe_code)]
    let map = Arc::new(unsafe { Mmap::map(&file) }.map_err(io)?);
    let length = map.len();
    map_tensors(map, length, entries)
}

/// The tensors of a mapped file of `length` bytes.
fn map_tensors(map: Arc<Mmap>, length: usize, entries: &mut BTreeMap<String, Entry>) -> Result<()> {
    let tensors = SafeTensors::deserialize(&map[..length])
        .map_err(|e| Error::input(format!("not a safetensors file: {e}")))?;
    for (name, view) in tensors.tensors() {
        let start = view.data().as_ptr() as usize - map.as_ptr() as usize;
        // The names that norms had before 2019.
        let name = match name.rsplit_once('.') {
            Some((norm, "gamma")) if norm.ends_with("LayerNorm") => format!("{norm}.weight"),
            Some((norm, "beta")) if norm.ends_with("LayerNorm") => format!("{norm}.bias"),
            _ => name,
        };
        let entry = Entry {
            file: map.clone(),
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            bytes: start..start + view.data().len(),
        };
        if entries.insert(name.clone(), entry).is_some() {
            return Err(Error::input(format!("tensor {name:?} is in two files")));
        }
    }
    Ok(())
}

/// The tensors of a safetensors file, in the types that models compute with.
pub(crate) fn parse_tensors(bytes: &[u8]) -> Result<BTreeMap<String, Value>> {
    let tensors = SafeTensors::deserialize(bytes)
        .map_err(|e| Error::input(format!("not a safetensors file: {e}")))?;
    let value = |name: &str, dtype: Dtype, shape: &[usize], data: &[u8]| -> Result<Value> {
        let wide = match dtype {
            Dtype::I32 => numbers(data, |b| i64::from(i32::from_le_bytes(b))),
            Dtype::I64 => numbers(data, i64::from_le_bytes),
            _ => {
                let x = floats(dtype, data).ok_or_else(|| not_floats(name, dtype))?;
                return Ok(Value::Floats(Tensor::new(shape, x)));
            }
        };
        let narrow = wide.iter().map(|&x| {
            let rule = "must fit 32 bits";
            i32::try_from(x).map_err(|_| Error::invalid(format!("an element of {name:?}"), x, rule))
        });
        Ok(Value::Ints(Ints::new(shape, narrow.collect::<Result<_>>()?)))
    };
    let all = tensors.tensors().into_iter().map(|(name, view)| {
        let value = value(&name, view.dtype(), view.shape(), view.data())?;
        Ok((name, value))
    });
    all.collect()
}

fn not_floats(name: &str, dtype: Dtype) -> Error {
    Error::input(format!("tensor {name:?} has the type {dtype:?}, which is not read"))
}

fn floats(dtype: Dtype, data: &[u8]) -> Option<Vec<f32>> {
    Some(match dtype {
        Dtype::F32 => numbers(data, f32::from_le_bytes),
        Dtype::F16 => numbers(data, |b| f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => numbers(data, |b| bf16::from_le_bytes(b).to_f32()),
        Dtype::F64 => numbers(data, |b| f64::from_le_bytes(b) as f32),
        _ => return None,
    })
}

fn numbers<const N: usize, T>(data: &[u8], of: impl Fn([u8; N]) -> T) -> Vec<T> {
    data.chunks_exact(N).map(|b| of(b.try_into().unwrap_or([0; N]))).collect()
}
