//! The device's clock against the host's.

mod common;

use common::{Case, Random, device};
use longhand::webgpu::{Clock, DeviceTimer};
use longhand::{DType, Full, Shape};
use std::time::Instant;

/// Long enough that submitting and waiting hardly count.
#[test]
fn device_timestamps_agree_with_the_wall_clock() {
    let Some(gpu) = device() else {
        return;
    };
    let shape =
        Shape { batch: 1, heads_q: 4, heads_kv: 4, seqlen_q: 512, seqlen_k: 512, head_dim: 64 };
    let problem = Full::new(shape, DType::F32);
    let case = Case::new(problem, &mut Random(1));
    let timing = problem.time_webgpu(gpu, &case.inputs(), 3).unwrap();
    assert!(timing.best_ms > 0.0 && timing.best_ms <= timing.first_ms, "{timing:?}");

    let timer = DeviceTimer::new(gpu).unwrap();
    assert_eq!(timer.clock(), timing.clock);
    if timer.clock() == Clock::Wall {
        eprintln!("SKIPPED: the device writes no timestamps");
        return;
    }
    // The wall clock around the same pass takes at least as long as the pass.
    let started = Instant::now();
    let empty = timer.time(|_| {}).unwrap();
    assert!(empty <= started.elapsed(), "an empty pass took {empty:?}");
}
