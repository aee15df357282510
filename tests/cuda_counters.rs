//! What the CUDA kernels do, counted exactly in the simulator: tensor-core operations, passes over
//! the banks of shared memory, sectors of global memory. A change that costs any of them fails here,
//! on a machine without a GPU.

mod common;

use common::cuda::on_simulated;
use common::{Case, Random};
use longhand::{DType, Full, Shape};
use serde_json::Value;

/// Counters of the launch of `problem`'s forward kernel.
fn counted(problem: Full) -> Value {
    let text = std::cell::RefCell::new(None);
    on_simulated("a100", &[], |device| {
        let case = Case::new(problem, &mut Random(1));
        problem.run_cuda(&device.context, &case.inputs()).expect("it runs");
        let mock = device.mock.as_ref().expect("the stand-in");
        *text.borrow_mut() = mock.counters("full_forward", 0);
    });
    let text = text.into_inner().expect("counters");
    serde_json::from_str(&text).expect("JSON")
}

fn number(counts: &Value, name: &str) -> u64 {
    counts[name].as_u64().unwrap_or_else(|| panic!("no {name} in {counts}"))
}

fn shape(heads: usize, seqlen_q: usize, seqlen_k: usize, head_dim: usize) -> Shape {
    Shape { batch: 1, heads_q: heads, heads_kv: heads, seqlen_q, seqlen_k, head_dim }
}

#[test]
fn the_main_loop_meets_no_bank_conflict() {
    for head_dim in [32, 64, 96, 128, 192, 256] {
        for dtype in [DType::F16, DType::F32] {
            let counters = counted(Full::new(shape(1, 128, 256, head_dim), dtype));
            for region in ["LOOP", "COPIED", "UNMASKED", "SCALED", "PRODUCT"] {
                let counts = &counters["regions"][region];
                if counts.is_null() {
                    continue;
                }
                let (passes, ideal) =
                    (number(counts, "shared_wavefronts"), number(counts, "shared_ideal"));
                assert_eq!(passes, ideal, "{dtype} head_dim {head_dim}, after {region}");
            }
        }
    }
}

#[test]
fn global_memory_is_moved_by_whole_sectors() {
    for head_dim in [64, 128] {
        for dtype in [DType::F16, DType::F32] {
            let counters = counted(Full::new(shape(2, 192, 320, head_dim), dtype).causal());
            let total = &counters["total"];
            let moved =
                number(total, "global_sectors_load") + number(total, "global_sectors_store");
            let ideal = number(total, "global_sectors_ideal");
            let ratio = moved as f64 / ideal as f64;
            assert!(ratio <= 1.02, "{dtype} head_dim {head_dim}: {moved} of {ideal} sectors");
        }
    }
}

#[test]
fn tensor_operations_are_those_of_the_tiles_that_the_mask_leaves() {
    for (dtype, products) in [(DType::BF16, 1), (DType::F32, 3)] {
        for head_dim in [64u64, 128] {
            let dim = head_dim as usize;
            let dense = counted(Full::new(shape(2, 256, 512, dim), dtype));
            let flops = number(&dense["total"], "tc_flops");
            assert_eq!(flops, products * 4 * 2 * 256 * 512 * head_dim, "{dtype} {head_dim}");
            let square = counted(Full::new(shape(2, 512, 512, dim), dtype));
            let causal = counted(Full::new(shape(2, 512, 512, dim), dtype).causal());
            let ratio = number(&causal["total"], "tc_flops") as f64
                / number(&square["total"], "tc_flops") as f64;
            // Half, and the half of each diagonal tile that the mask throws away.
            assert!((0.5..=0.57).contains(&ratio), "{dtype} {head_dim}: {ratio}");
        }
    }
}

#[test]
fn a_window_costs_its_own_tiles_only() {
    let full = counted(Full::new(shape(1, 1024, 1024, 64), DType::BF16).causal());
    let window = longhand::Window::left(127);
    let banded = counted(Full::new(shape(1, 1024, 1024, 64), DType::BF16).causal().window(window));
    let flops = |c: &Value| number(&c["total"], "tc_flops") as f64;
    // 128 keys of 512 on average, and the tiles at both edges.
    assert!(flops(&banded) / flops(&full) < 0.42, "{}", flops(&banded) / flops(&full));
}
