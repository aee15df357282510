//! The CUDA kernels of relative-position attention against the reference: in the simulator, or with
//! `LONGHAND_TEST_DEVICE=gpu` on the GPU of this machine, as `tests/cuda.rs`.

mod agreement;
mod arguments;
#[path = "../common/mod.rs"]
mod common;
mod counters;
mod merge;
mod orders;
mod properties;
mod sinusoids;

use common::cuda::Device;
use common::guard::GUARD;
use common::relative::{Case, errors};
use common::relative_cuda::run_guarded;
use longhand::DType;
use longhand::transformer_xl::Output;

/// As in `tests/cuda.rs`, but a score is the sum of two products, twice as far from the exact one.
const LSE: f64 = 1.2e-6 + (1.0 + std::f64::consts::LN_2) / (1 << 22) as f64;

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
    let within = out <= most && lse <= LSE;
    let what = format!("{} ({})", device.name, plan.describe());
    assert!(within, "{what}: out {out:.2e} > {most:.2e}, lse {lse:.2e}: {p:?}");
    got
}
