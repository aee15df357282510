//! LSH attention's CUDA kernels against the reference: in the simulator, or with
//! `LONGHAND_TEST_DEVICE=gpu` on the GPU of this machine, as `tests/cuda.rs`.

mod agreement;
mod arguments;
#[path = "../common/mod.rs"]
mod common;
mod counters;
mod orders;
mod properties;

use common::cuda::Device;
use common::guard::GUARD;
use common::lsh::{Case, errors, lse_tolerance};
use common::lsh_cuda::{bound, run_guarded, stable_order};
use longhand::DType;
use longhand::lsh::Output;

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
    let what = format!("{} ({})", device.name, plan.describe());
    assert_eq!(got.order, stable_order(p.seqlen, &got.buckets), "{what}: {p:?}");
    let mut expected = case.reference();
    if got.buckets != expected.buckets {
        // Next to a tie the hash may go either way; what follows is held to the way it went.
        case.check_buckets(&what, &got.buckets, &expected.buckets);
        expected = case.with_buckets(&got.buckets).reference();
    }
    let (out, lse) = errors(&got, &expected);
    let most = bound(case, &expected);
    let within = out <= most && lse <= LSE.max(lse_tolerance(p));
    assert!(within, "{what}: out {out:.2e} > {most:.2e}, lse {lse:.2e}: {p:?}");
    got
}
