//! The CUDA kernels of relative-position attention against the reference: in the simulator, or with
//! `LONGHAND_TEST_DEVICE=gpu` on the GPU of this machine, as `tests/cuda.rs`.

mod common;

use common::Random;
use common::cuda::{Device, on_devices, on_simulated};
use common::guard::GUARD;
use common::relative::{Case, errors, odd, random_problem};
use common::relative_cuda::run_guarded;
use longhand::full::Inputs as FullInputs;
use longhand::transformer_xl::{Chunks, Memory, Output};
use longhand::{DType, Full, Strides, TransformerXl, Window};
use longhand_cli::compare::compare;
use longhand_cli::container::Values;
use longhand_cli::naive;
use longhand_cli::problem_file::ProblemFile;
use longhand_cli::results::Results;
use longhand_cli::transformer_xl_file::RelativeFile;
use std::path::Path;

/// As in `tests/cuda.rs`.
const LSE: f64 = 6e-7 + (1.0 + std::f64::consts::LN_2) / (1 << 22) as f64;

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Runs `case` on `device` and holds it to the reference.
fn check(device: &Device, case: &Case) -> Output<f32> {
    check_at(device, case, if device.mock.is_some() { 0 } else { GUARD })
}

fn check_at(device: &Device, case: &Case, guard: usize) -> Output<f32> {
    let p = &case.problem;
    let plan = p.plan_cuda(&device.context).unwrap();
    let got = run_guarded(device, &plan, case, guard).unwrap();
    let expected = case.reference();
    let (out, lse) = errors(&got, &expected);
    let most = case.bound(&expected);
    // Two products make a score, where full attention has one.
    let truncation = match (p.dtype, device.truncates) {
        (DType::F32, true) => 0.75 * p.shape.head_dim as f64 / f64::from(1 << 24),
        _ => 0.0,
    };
    let within = out <= most && lse <= LSE + truncation;
    let what = format!("{} ({})", device.name, plan.describe());
    assert!(within, "{what}: out {out:.2e} > {most:.2e}, lse {lse:.2e}: {p:?}");
    got
}

fn fixtures() -> Vec<RelativeFile> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let mut files = vec![];
    for (op, count) in [("transformer_xl", 11), ("xlnet", 10), ("rel_pos", 11)] {
        let entries = std::fs::read_dir(data.join(op)).expect("a folder of fixtures");
        let before = files.len();
        for entry in entries {
            let file = ProblemFile::read(&entry.expect("an entry").path()).expect("a fixture");
            let ProblemFile::Relative(file) = file else { panic!("a problem of another kind") };
            files.push(*file);
        }
        assert_eq!(files.len() - before, count, "{op}: fixtures are missing");
    }
    files
}

#[test]
fn fixtures_agree_with_what_other_implementations_compute() {
    let files = fixtures();
    on_devices(|device| {
        for (file, dtype) in files.iter().flat_map(|file| DTYPES.map(|dtype| (file, dtype))) {
            let mut results = Results::new();
            for &stream in file.streams() {
                let problem = file.problem(stream, dtype);
                let output = problem.run_cuda(&device.context, &file.inputs.as_inputs(stream));
                file.put(&mut results, stream, &output.unwrap());
            }
            let tolerances = naive::tolerances(&file.clone().into(), dtype, false).unwrap();
            for (name, got) in &results {
                let Values::F64(expected) = &file.expected[name].values else {
                    panic!("{}: expected.{name} is not F64", file.name);
                };
                let c = compare(name, got, expected, tolerances[name.as_str()]);
                assert!(c.passed(), "{} {} {dtype}: {c:?}", device.name, file.name);
            }
        }
    });
}

#[test]
fn random_problems_of_every_choice_agree_with_the_reference() {
    on_devices(|device| {
        for seed in 0..180 {
            let mut random = Random(seed);
            let head_dim = [32, 64, 64, 96, 128][random.below(5)];
            let problem = random_problem(&mut random, DTYPES[seed as usize % 3], head_dim);
            check(device, &Case::new(problem, &mut random));
        }
    });
}
