//! The safetensors container: read whole and checked, written atomically and always in the same
//! byte order.

use crate::failure::{Failure, Result};
use crate::strict_json::{self, Json};
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Numbers of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// F64.
    F64(Vec<f64>),
    /// F32.
    F32(Vec<f32>),
    /// I32.
    I32(Vec<i32>),
    /// U8.
    U8(Vec<u8>),
}

/// A tensor of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Contiguous elements.
    pub values: Values,
}

impl Values {
    /// The elements as f64, which holds every one of them exactly.
    pub fn numbers(&self) -> Vec<f64> {
        match self {
            Values::F64(x) => x.clone(),
            Values::F32(x) => x.iter().map(|&x| x.into()).collect(),
            Values::I32(x) => x.iter().map(|&x| x.into()).collect(),
            Values::U8(x) => x.iter().map(|&x| x.into()).collect(),
        }
    }

    /// `F64`, `F32`, `I32` or `U8`.
    pub fn dtype(&self) -> &'static str {
        match self {
            Values::F64(_) => "F64",
            Values::F32(_) => "F32",
            Values::I32(_) => "I32",
            Values::U8(_) => "U8",
        }
    }

    fn bytes(&self) -> Vec<u8> {
        match self {
            Values::F64(x) => x.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Values::F32(x) => x.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Values::I32(x) => x.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Values::U8(x) => x.clone(),
        }
    }
}

/// A parsed file: its metadata, and views of its tensors.
pub struct Container<'a> {
    /// `__metadata__`.
    pub metadata: BTreeMap<String, String>,
    tensors: SafeTensors<'a>,
}

impl<'a> Container<'a> {
    /// Parses a whole file. Nothing is allocated from what the header says before it is held
    /// against the number of bytes there are.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let (_, header) =
            SafeTensors::read_metadata(bytes).map_err(|e| unreadable(&e, bytes.len()))?;
        let tensors = SafeTensors::deserialize(bytes).map_err(|e| unreadable(&e, bytes.len()))?;
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap_or_default()) as usize;
        let text = std::str::from_utf8(&bytes[8..8 + length])
            .map_err(|e| Failure::input(format!("not a safetensors file: the header: {e}")))?;
        let json = strict_json::parse(text)
            .map_err(|e| Failure::input(format!("not a safetensors file: the header: {e}")))?;
        if !matches!(json, Json::Object(_)) {
            return Err(Failure::input("not a safetensors file: the header is not an object"));
        }
        let metadata = header.metadata().clone().unwrap_or_default();
        Ok(Container { metadata: metadata.into_iter().collect(), tensors })
    }

    /// Names of the tensors, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.tensors.names().into_iter().map(str::to_owned).collect();
        names.sort_unstable();
        names
    }

    /// Type and sizes of a tensor, if the file has it.
    pub fn info(&self, name: &str) -> Option<(String, Vec<usize>)> {
        let view = self.tensors.tensor(name).ok()?;
        Some((format!("{:?}", view.dtype()), view.shape().to_vec()))
    }

    /// The tensor's numbers, if the file has it and its type is one of this format's.
    pub fn tensor(&self, name: &str) -> Option<Tensor> {
        let view = self.tensors.tensor(name).ok()?;
        let data = view.data();
        let values = match view.dtype() {
            Dtype::F64 => Values::F64(numbers(data, f64::from_le_bytes)),
            Dtype::F32 => Values::F32(numbers(data, f32::from_le_bytes)),
            Dtype::I32 => Values::I32(numbers(data, i32::from_le_bytes)),
            Dtype::U8 => Values::U8(data.to_vec()),
            _ => return None,
        };
        let shape = view.shape().to_vec();
        Some(Tensor { shape, values })
    }
}

fn numbers<const N: usize, T>(data: &[u8], of: fn([u8; N]) -> T) -> Vec<T> {
    let chunks = data.chunks_exact(N);
    chunks.map(|b| of(b.try_into().unwrap_or([0; N]))).collect()
}

fn unreadable(e: &SafeTensorError, bytes: usize) -> Failure {
    let what = match e {
        SafeTensorError::HeaderTooSmall => "it is too short to hold a header".to_owned(),
        SafeTensorError::HeaderTooLarge => "its header claims more than 100 MB".to_owned(),
        SafeTensorError::InvalidHeaderLength => {
            "its header claims more bytes than there are: truncated?".to_owned()
        }
        SafeTensorError::MetadataIncompleteBuffer => {
            "its tensors do not end where the file ends: truncated?".to_owned()
        }
        SafeTensorError::InvalidOffset(name) => {
            format!("tensor {name:?}: its offsets overlap, leave a gap or run backwards")
        }
        SafeTensorError::TensorInvalidInfo => {
            "a tensor's shape does not fill its offsets".to_owned()
        }
        SafeTensorError::ValidationOverflow => "a tensor's shape overflows".to_owned(),
        other => other.to_string(),
    };
    Failure::input(format!("not a safetensors file ({bytes} bytes): {what}"))
}

/// Reads a regular file whole.
pub fn read_file(path: &Path) -> Result<Vec<u8>> {
    let fail = |e: std::io::Error| Failure::input(format!("{}: {e}", path.display()));
    // A pipe or a device never ends, so look before reading.
    if !std::fs::metadata(path).map_err(fail)?.is_file() {
        let message = format!("{}: not a regular file", path.display());
        return Err(Failure::input(message));
    }
    std::fs::read(path).map_err(fail)
}

/// The bytes of a file with these tensors. The same tensors always give the same bytes.
pub fn encode(metadata: &BTreeMap<String, String>, tensors: &BTreeMap<String, Tensor>) -> Vec<u8> {
    // Wide elements first, so that each tensor is aligned.
    let width = |t: &Tensor| match t.values {
        Values::F64(_) => 0,
        Values::F32(_) | Values::I32(_) => 1,
        Values::U8(_) => 2,
    };
    let mut order: Vec<(&String, &Tensor)> = tensors.iter().collect();
    order.sort_by_key(|(_, t)| width(t));
    let (mut entries, mut body) = (Vec::new(), Vec::new());
    for (name, tensor) in order {
        let bytes = tensor.values.bytes();
        entries.push((&name[..], tensor.values.dtype(), &tensor.shape[..], bytes.len()));
        body.extend(bytes);
    }
    [header(metadata, &entries), body].concat()
}

/// What a file begins with whose tensors have these names, types, sizes and bytes, in this order.
pub fn header(
    metadata: &BTreeMap<String, String>,
    tensors: &[(&str, &str, &[usize], usize)],
) -> Vec<u8> {
    let text = |s: &str| serde_json::Value::from(s).to_string();
    let mut entries = Vec::new();
    if !metadata.is_empty() {
        let pairs: Vec<String> =
            metadata.iter().map(|(k, v)| format!("{}:{}", text(k), text(v))).collect();
        entries.push(format!("\"__metadata__\":{{{}}}", pairs.join(",")));
    }
    let mut end = 0;
    for &(name, dtype, shape, bytes) in tensors {
        let start = end;
        end += bytes;
        entries.push(format!(
            "{}:{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\"data_offsets\":[{start},{end}]}}",
            text(name),
        ));
    }
    let mut header = format!("{{{}}}", entries.join(","));
    while header.len() % 8 != 0 {
        header.push(' ');
    }
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()
}

/// Writes `bytes` to `path` so that a reader sees the old file or the whole new one.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.write(bytes)?;
    file.commit()
}

/// A file that is not there before it is whole: a temporary one beside it, renamed at the end and
/// removed if it does not come to that.
pub struct AtomicFile<'a> {
    path: &'a Path,
    temporary: PathBuf,
    file: Option<std::io::BufWriter<std::fs::File>>,
}

impl<'a> AtomicFile<'a> {
    /// Begins a file.
    pub fn create(path: &'a Path) -> Result<Self> {
        let Some(name) = path.file_name() else {
            return Err(Failure::input(format!("{}: not a file name", path.display())));
        };
        if path.is_dir() {
            return Err(Failure::input(format!("{}: is a folder", path.display())));
        }
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{}.tmp", std::process::id()));
        let temporary = path.with_file_name(temporary);
        let file = std::fs::File::create(&temporary).map_err(|e| unwritten(path, &e))?;
        Ok(AtomicFile { path, temporary, file: Some(std::io::BufWriter::new(file)) })
    }

    /// Adds bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.file.as_mut().map_or(Ok(()), |file| file.write_all(bytes));
        written.map_err(|e| unwritten(self.path, &e))
    }

    /// Puts the file in its place.
    pub fn commit(mut self) -> Result<()> {
        let Some(file) = self.file.take() else { return Ok(()) };
        let placed = file
            .into_inner()
            .map_err(std::io::IntoInnerError::into_error)
            .and_then(|file| file.sync_all())
            .and_then(|()| std::fs::rename(&self.temporary, self.path));
        placed.map_err(|e| {
            let _ = std::fs::remove_file(&self.temporary);
            unwritten(self.path, &e)
        })
    }
}

impl Drop for AtomicFile<'_> {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

fn unwritten(path: &Path, e: &std::io::Error) -> Failure {
    Failure::input(format!("{}: {e}", path.display()))
}
