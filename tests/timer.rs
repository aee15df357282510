//! The device's clock against the host's.

mod common;

use common::{Case, Random, device, raw};
use longhand::full::webgpu::Args;
use longhand::webgpu::{Clock, DeviceTimer};
use longhand::{DType, Full, Shape};
use std::time::Instant;

/// A launch long enough that submitting and waiting hardly count on a CPU; on a GPU they do, so
/// there only the order is known.
#[test]
fn device_timestamps_agree_with_the_wall_clock() {
    let Some(gpu) = device() else {
        return;
    };
    let shape =
        Shape { batch: 1, heads_q: 8, heads_kv: 8, seqlen_q: 384, seqlen_k: 384, head_dim: 64 };
    let problem = Full::new(shape, DType::F32);
    let case = Case::new(problem, &mut Random(1));
    let plan = problem.plan_webgpu(gpu).unwrap();
    let tensor = |x: &[f32]| raw::guarded(gpu, &raw::bytes_of(x, DType::F32), 0);
    let [q, k, v, out] = [&case.q, &case.k, &case.v, &case.q].map(|x| tensor(x));
    let lse = tensor(&vec![0.0; problem.lse_len()]);
    assert_eq!(plan.workspace_bytes(), 0, "few enough keys for one launch");
    let bound = plan.bind(&Args::new(&q, &k, &v, &out, &lse)).unwrap();

    let timer = DeviceTimer::new(gpu).unwrap();
    if timer.clock() == Clock::Wall {
        eprintln!("SKIPPED: the device writes no timestamps");
        return;
    }
    let mut closest = 0.0f64;
    for _ in 0..4 {
        let started = Instant::now();
        let device = timer.time(|pass| bound.record_in(pass)).unwrap();
        let around = started.elapsed();
        let wall = DeviceTimer::wall(gpu).time(|pass| bound.record_in(pass)).unwrap();
        println!("device {device:.3?}, call {around:.3?}, wall of another {wall:.3?}");
        assert!(!device.is_zero() && device <= around, "device {device:?}, call {around:?}");
        closest = closest.max(device.as_secs_f64() / around.as_secs_f64());
    }
    assert!(!gpu.caps().cpu || closest > 0.5, "the device's share of the call is {closest}");
}
