//! Longformer's CUDA kernels against the reference: in the simulator, or with
//! `LONGHAND_TEST_DEVICE=gpu` on the GPU of this machine, as `tests/cuda.rs`.

mod common;

use common::cuda::{on_devices, on_simulated};
use longhand::{DType, Longformer};
use longhand_cli::compare::compare;
use longhand_cli::container::Values;
use longhand_cli::longformer_file::LongformerFile;
use longhand_cli::naive;
use longhand_cli::problem_file::ProblemFile;
use std::path::Path;

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

#[test]
fn fixtures_agree_with_what_other_implementations_compute() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/longformer");
    let entries = std::fs::read_dir(folder).expect("tests/data/longformer");
    let files: Vec<LongformerFile> = entries
        .map(|entry| ProblemFile::read(&entry.expect("an entry").path()).expect("a fixture"))
        .map(|file| file.into_longformer().expect("a problem of Longformer's"))
        .collect();
    assert_eq!(files.len(), 17, "fixtures are missing");
    on_devices(|device| {
        for (file, dtype) in files.iter().flat_map(|file| DTYPES.map(|dtype| (file, dtype))) {
            let problem = Longformer { dtype, ..file.problem.clone() };
            let output = problem.run_cuda(&device.context, &file.inputs.as_inputs()).unwrap();
            let results = file.results(&output, None);
            let tolerances = naive::tolerances(&file.clone().into(), dtype, false).unwrap();
            for name in ["out", "lse"] {
                let Values::F64(expected) = &file.expected[name].values else {
                    panic!("{}: expected.{name} is not F64", file.name);
                };
                let c = compare(name, &results[name], expected, tolerances[name]);
                assert!(c.passed(), "{} {} {dtype}: {c:?}", device.name, file.name);
            }
        }
    });
}
