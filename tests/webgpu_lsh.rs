//! LSH attention's WebGPU kernels against the definition, on whatever adapter this machine has.
//!
//! Each property runs on the adapter as it is (`own`), as a GPU with WebGPU's guaranteed limits and
//! no features (`baseline`), and as a GPU with all that the adapter has (`wide`).

mod common;

use common::lsh::{Case, errors, lse_tolerance, random_problem, tolerance};
use common::lsh_webgpu::run_guarded;
use common::{Random, baseline_gpu, device, device_with, guard};
use longhand::lsh::Output;
use longhand::webgpu::{Caps, Context};
use longhand::{DType, Lsh};
use longhand_cli::compare::compare;
use longhand_cli::naive;
use longhand_cli::problem_file::ProblemFile;
use std::path::Path;

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

fn devices() -> Vec<(&'static str, Context)> {
    let own = device().cloned().map(|c| ("own", c));
    let baseline = device_with(baseline_gpu).map(|c| ("baseline", c));
    let wide = device_with(|caps| Caps { cpu: false, ..caps }).map(|c| ("wide", c));
    [own, baseline, wide].into_iter().flatten().collect()
}

/// Holds `got` to the definition: its buckets, the order that they give, and with them the rest.
fn compare_with_reference(name: &str, case: &Case, got: &Output<f32>) {
    let p = &case.problem;
    let mut expected = case.reference();
    if p.is_hashed() {
        case.check_buckets(name, &got.buckets, &expected.buckets);
        // Those of invalid positions do not count as given.
        expected = case.with_buckets(&got.buckets).reference();
    }
    assert!(got.order == expected.order, "{name}: the order differs: {p:?}");
    let (out, lse) = errors(got, &expected);
    let within = out <= tolerance(p) && lse <= lse_tolerance(p);
    assert!(within, "{name}: out {out:.2e}, lse {lse:.2e}: {p:?}");
}

/// Runs `case` from guarded buffers on `gpu` and holds it to the definition.
fn check(name: &str, gpu: &Context, case: &Case) -> Output<f32> {
    let plan = case.problem.plan_webgpu(gpu).unwrap();
    let got = run_guarded(gpu, &plan, case, guard::GUARD);
    compare_with_reference(&format!("{name} ({})", plan.describe()), case, &got);
    got
}

#[test]
fn random_problems_that_mix_everything_agree_with_the_definition() {
    for (name, gpu) in devices() {
        for seed in 0..90 {
            let mut random = Random(seed);
            let problem = random_problem(&mut random, DTYPES[seed as usize % 3], 32);
            check(&format!("{name}, seed {seed}"), &gpu, &Case::new(problem, &mut random));
        }
    }
}

#[test]
fn fixtures_pass_the_programs_comparison_in_every_dtype() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/lsh");
    let files = || std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    assert_eq!(files().count(), 18);
    for path in files() {
        let file = ProblemFile::read(&path).unwrap();
        let problem = file.clone().into_lsh().unwrap();
        for dtype in DTYPES {
            let tolerances = naive::tolerances(&file, dtype, false).unwrap();
            for (name, gpu) in devices() {
                let p = Lsh { dtype, ..problem.problem.clone() };
                let got = p.run_webgpu(&gpu, &problem.inputs.as_inputs()).unwrap();
                let got = problem.results(&got, None);
                for (result, tensor) in file.expected().iter().filter(|(r, _)| is_forward(r)) {
                    let expected = tensor.values.numbers();
                    let tolerance = tolerances[result.as_str()];
                    let c = compare(result, &got[result.as_str()], &expected, tolerance);
                    assert!(c.passed(), "{name}, {path:?}, {dtype}: {c:?}");
                }
            }
        }
    }
}

fn is_forward(result: &str) -> bool {
    !result.starts_with("grad.")
}
