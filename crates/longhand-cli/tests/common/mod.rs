//! Files to feed the program with.
#![allow(dead_code, reason = "each test binary uses a part")]

use longhand_cli::container::{Container, Tensor, Values, encode};
use longhand_cli::problem_file::ProblemFile;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A file's metadata and tensors, to be changed before encoding.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) tensors: BTreeMap<String, Tensor>,
}

/// A shipped sample.
pub(crate) fn sample(name: &str) -> Vec<u8> {
    std::fs::read(sample_path(name)).expect("a sample")
}

pub(crate) fn sample_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("samples/{name}.safetensors"))
}

impl Parts {
    pub(crate) fn of(name: &str) -> Self {
        let bytes = sample(name);
        let file = Container::parse(&bytes).expect("a container");
        let tensors = file.names().into_iter().map(|name| {
            let tensor = file.tensor(&name).expect("a tensor");
            (name, tensor)
        });
        Parts { metadata: file.metadata.clone(), tensors: tensors.collect() }
    }

    /// Replaces one member of `params` by this JSON text; an empty text removes it.
    pub(crate) fn param(mut self, key: &str, json: &str) -> Self {
        let params: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(&self.metadata["params"]).expect("params");
        let mut members: Vec<String> =
            params.iter().filter(|(k, _)| *k != key).map(|(k, v)| format!("{k:?}: {v}")).collect();
        if !json.is_empty() {
            members.push(format!("{key:?}: {json}"));
        }
        self.metadata("params", &format!("{{{}}}", members.join(", ")))
    }

    pub(crate) fn metadata(&mut self, key: &str, value: &str) -> Self {
        self.metadata.insert(key.to_owned(), value.to_owned());
        self.clone()
    }

    pub(crate) fn without_metadata(mut self, key: &str) -> Self {
        self.metadata.remove(key);
        self
    }

    pub(crate) fn tensor(mut self, name: &str, shape: &[usize], values: Values) -> Self {
        let tensor = Tensor { shape: shape.to_vec(), values };
        self.tensors.insert(name.to_owned(), tensor);
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.tensors.remove(name);
        self
    }

    /// The same queries, asked for at `targets`: the rows that `suffix` (`_g` or nothing) says. Of
    /// one sequence and one head.
    pub(crate) fn at_targets(mut self, suffix: &str, targets: &[i32]) -> Self {
        for (stem, axis) in [
            ("q", 1),
            ("grad.out", 1),
            ("expected.out", 1),
            ("expected.lse", 2),
            ("expected.grad.q", 1),
        ] {
            let tensor = self.tensors.get_mut(&format!("{stem}{suffix}")).expect("a tensor");
            let row: usize = tensor.shape[axis + 1..].iter().product();
            tensor.shape[axis] = targets.len();
            let places = || targets.iter().flat_map(|&t| t as usize * row..(t as usize + 1) * row);
            match &mut tensor.values {
                Values::F32(x) => *x = places().map(|n| x[n]).collect(),
                Values::F64(x) => *x = places().map(|n| x[n]).collect(),
                _ => panic!("{stem}: floats"),
            }
        }
        self.tensor("targets", &[1, targets.len()], Values::I32(targets.to_vec()))
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        encode(&self.metadata, &self.tensors)
    }

    /// The message of reading this as `f.safetensors`, which must fail.
    pub(crate) fn error(&self) -> String {
        error(&self.bytes())
    }
}

pub(crate) fn error(bytes: &[u8]) -> String {
    match ProblemFile::parse("f.safetensors", bytes, true) {
        Ok(_) => panic!("the file was accepted"),
        Err(e) => {
            let message = e.to_string();
            assert!(message.contains("f.safetensors: "), "names no file: {message}");
            assert!(!message.contains('\n'), "several lines: {message}");
            message
        }
    }
}

/// A file of this header and `body` zero bytes.
pub(crate) fn raw(header: &str, body: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + body, 0);
    bytes
}
