//! The CUDA kernels against values computed by other people's implementations (`tests/data`): in the
//! simulator, or with `LONGHAND_TEST_DEVICE=gpu` on the GPU of this machine.

mod common;

use common::cuda::{Device, on_devices, on_simulated};
use longhand::{DType, Full};
use longhand_cli::compare::compare;
use longhand_cli::container::Values;
use longhand_cli::full_file::FullFile;
use longhand_cli::naive;
use longhand_cli::problem_file::ProblemFile;
use longhand_cli::results::from_parts;
use std::path::Path;

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

#[test]
fn fixtures_agree_with_what_other_implementations_compute() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/full");
    let entries = std::fs::read_dir(folder).expect("tests/data/full");
    let files: Vec<FullFile> = entries
        .map(|entry| ProblemFile::read(&entry.expect("an entry").path()).expect("a fixture"))
        .map(|file| file.into_full().expect("a problem of full attention"))
        .collect();
    assert_eq!(files.len(), 37, "fixtures are missing");
    let agree = |device: &Device| {
        for (file, dtype) in files.iter().flat_map(|file| DTYPES.map(|dtype| (file, dtype))) {
            let problem = Full { dtype, ..file.problem };
            let output = problem.run_cuda(&device.context, &file.inputs.as_inputs()).unwrap();
            let results = from_parts(file, &output, None, dtype);
            let tolerances = naive::tolerances(&file.clone().into(), dtype, false).unwrap();
            for name in ["out", "lse"] {
                let Values::F64(expected) = &file.expected[name].values else {
                    panic!("{}: expected.{name} is not F64", file.name);
                };
                let c = compare(name, &results[name], expected, tolerances[name]);
                assert!(c.passed(), "{} {} {dtype}: {c:?}", device.name, file.name);
            }
        }
    };
    on_devices(agree);
    on_simulated("a100", &[("async", "late")], agree);
}
