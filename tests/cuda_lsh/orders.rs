//! Whatever order a device works in, and however it rounds.

use crate::common::Random;
use crate::common::cuda::{on_devices, on_simulated};
use crate::common::lsh::Case;
use crate::{DTYPES, check};
use longhand::lsh::Layout;
use longhand::{DType, Lsh, Strides};

/// A small problem for each tile and each way through the kernels.
fn ways() -> Vec<Case> {
    let mut random = Random(20);
    let mut problems = vec![];
    for head_dim in [32, 64, 96, 128, 192, 256] {
        for dtype in [DType::BF16, DType::F32] {
            let chunk_len = if head_dim == 64 { 20 } else { 40 };
            let p = Lsh::new([1, 90, 1, head_dim], chunk_len, 2, dtype).num_buckets(&[4]);
            problems.push(p.buckets_given().key_padding());
        }
    }
    for dtype in [DType::F16, DType::F32] {
        let p = Lsh::new([1, 110, 2, 64], 48, 2, dtype).num_buckets(&[2, 4]).chunks(1, 1);
        problems.push(p.clone().causal().key_padding());
        problems.push(Lsh { head_dim: 61, num_buckets: vec![300], ..p });
    }
    problems
        .into_iter()
        .map(|p| {
            let layout = Layout::of(Strides::bshd(p.seqlen, p.heads, p.head_dim));
            Case::new(p.layout(layout), &mut random)
        })
        .collect()
}

/// Whatever order warps run in and whenever asynchronous copies land, the bits are the same.
#[test]
fn every_legal_order_gives_the_same_bits() {
    if crate::common::mock::on_gpu() {
        return;
    }
    let cases = ways();
    let first = std::cell::RefCell::new(Vec::new());
    for schedule in ["rr:16", "rr:1", "greedy-desc", "pct:1:3", "random:7"] {
        for completion in ["eager", "late", "early", "random"] {
            on_simulated("a100", &[("sched", schedule), ("async", completion)], |device| {
                let got: Vec<_> = cases.iter().map(|case| check(device, case)).collect();
                let mut first = first.borrow_mut();
                if first.is_empty() {
                    *first = got;
                } else {
                    assert!(*first == got, "{schedule}, {completion}: other bits");
                }
            });
        }
    }
}

#[test]
fn every_numeric_that_a_device_may_have_stays_within_the_tolerance() {
    if crate::common::mock::on_gpu() {
        return;
    }
    let cases = ways();
    for approx in ["exact", "plus", "minus", "seeded"] {
        for tc in ["exact", "trunc", "reverse"] {
            on_simulated("a100", &[("approx", approx), ("tc", tc)], |device| {
                for case in &cases {
                    check(device, case);
                }
            });
        }
    }
}

/// Neither the workspace nor the results need be anything before a launch.
#[test]
fn a_launch_repeats_bit_for_bit() {
    on_devices(|device| {
        for (n, dtype) in DTYPES.into_iter().enumerate() {
            let p = Lsh::new([2, 130, 2, 64], 32, 3, dtype).num_buckets(&[4, 4]).causal();
            let case = Case::new(p, &mut Random(n as u64));
            let first = check(device, &case);
            assert!(check(device, &case) == first, "{} {dtype}: other bits", device.name);
            let run = || case.problem.run_cuda(&device.context, &case.inputs()).unwrap();
            assert!(run() == first && run() == first, "{} {dtype}: other bits", device.name);
        }
    });
}
