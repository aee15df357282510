//! Problems with results that other people's implementations computed (`tests/data`).

use longhand::DType;
use longhand_cli::compare::compare;
use longhand_cli::naive;
use longhand_cli::problem_file::ProblemFile;
use longhand_cli::results::Results;
use std::path::{Path, PathBuf};

/// The fixtures of an op, of which there are `count`, by name.
pub fn fixtures_of(op: &str, count: usize) -> Vec<ProblemFile> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(op);
    let entries = std::fs::read_dir(folder).expect("tests/data");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    let read = |path: &PathBuf| ProblemFile::read(path).unwrap_or_else(|e| panic!("{e}"));
    let files: Vec<ProblemFile> = paths.iter().map(read).collect();
    assert_eq!(files.len(), count, "fixtures of {op} are missing");
    files
}

/// What a forward pass in some dtype must give: results by name, and how far each may be off.
pub struct Forward(Vec<(String, Vec<f64>, f64)>);

impl Forward {
    pub fn of(file: &ProblemFile, dtype: DType) -> Self {
        let tolerances = naive::tolerances(file, dtype, false).unwrap();
        let forward = file.expected().iter().filter(|(name, _)| !name.starts_with("grad."));
        let one = |(name, tensor): (&String, &longhand_cli::container::Tensor)| {
            (name.clone(), tensor.values.numbers(), tolerances[name])
        };
        Forward(forward.map(one).collect())
    }

    /// Every one of them is in `results`, close enough.
    pub fn check(&self, results: &Results, what: &str) {
        assert!(self.0.len() >= 2, "{what}: nothing is expected");
        for (name, expected, tolerance) in &self.0 {
            let c = compare(name, &results[name], expected, *tolerance);
            assert!(c.passed(), "{what}: {c:?}");
        }
    }
}
