//! Whatever a device may do differently: the order of warps, when copies land, how it rounds.

use crate::check;
use crate::common::Random;
use crate::common::cuda::on_simulated;
use crate::common::relative::Case;
use longhand::transformer_xl::{Chunks, Memory};
use longhand::{DType, TransformerXl, Window};

/// A small problem for each tile and each way through the kernels.
fn ways() -> Vec<Case> {
    let mut problems = vec![];
    for head_dim in [32, 64, 96, 128, 192, 256] {
        for dtype in [DType::BF16, DType::F32] {
            let p = TransformerXl::with_memory([1, 70, 1, head_dim], 65, dtype);
            problems.push(if head_dim == 64 { p } else { p.key_padding() });
        }
    }
    for dtype in [DType::F16, DType::F32] {
        let p = TransformerXl::xlnet([1, 80, 2, 64], 60, dtype).segments().perm_mask();
        problems.push(p.memory(Memory { len: 60, rows: 60, start: 13 }));
        let p = TransformerXl::conformer([1, 140, 1, 61], 30, dtype).window(Window::new(20, 10));
        problems.push(p.chunks(Chunks { size: 16, left: Some(1) }));
    }
    for (dtype, head_dim) in [(DType::BF16, 64), (DType::F32, 64), (DType::F32, 200)] {
        let p = TransformerXl::xlnet([1, 60, 1, head_dim], 70, dtype).segments().perm_mask();
        problems.push(p.targets(30));
    }
    let mut random = Random(20);
    problems.into_iter().map(|p| Case::new(p, &mut random)).collect()
}

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
