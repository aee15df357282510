//! LSH attention's CUDA kernels against the reference: in the simulator, or with
//! `LONGHAND_TEST_DEVICE=gpu` on the GPU of this machine, as `tests/cuda.rs`.

mod common;

use common::cuda::{on_devices};
use longhand::{DType, Lsh};
use longhand_cli::compare::compare;
use longhand_cli::container::Values;
use longhand_cli::lsh_file::LshFile;
use longhand_cli::naive;
use longhand_cli::problem_file::ProblemFile;
use std::path::Path;

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

#[test]
fn fixtures_agree_with_what_other_implementations_compute() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/lsh");
    let entries = std::fs::read_dir(folder).expect("tests/data/lsh");
    let files: Vec<LshFile> = entries
        .map(|entry| ProblemFile::read(&entry.expect("an entry").path()).expect("a fixture"))
        .map(|file| file.into_lsh().expect("a problem of LSH attention"))
        .collect();
    assert_eq!(files.len(), 18, "fixtures are missing");
    on_devices(|device| {
        for (file, dtype) in files.iter().flat_map(|file| DTYPES.map(|dtype| (file, dtype))) {
            let problem = Lsh { dtype, ..file.problem.clone() };
            let output = problem.run_cuda(&device.context, &file.inputs.as_inputs()).unwrap();
            let results = file.results(&output, None);
            let tolerances = naive::tolerances(&file.clone().into(), dtype, false).unwrap();
            for (name, tolerance) in tolerances {
                let Some(expected) = file.expected.get(&name) else { continue };
                let Values::F64(expected) = &expected.values else {
                    eprintln!("skip {name}");
                    continue;
                };
                let c = compare(&name, &results[&name], expected, tolerance);
                eprintln!("{} {} {dtype} {name}: {} {c:?}", device.name, file.name.rsplit('/').next().unwrap(), c.passed());
            }
        }
    });
}
