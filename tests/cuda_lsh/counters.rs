//! What the kernels do, counted exactly in the simulator, and the memory they take.

use crate::check;
use crate::common::Random;
use crate::common::cuda::{on_devices, on_simulated};
use crate::common::lsh::Case;
use longhand::{DType, Lsh};

/// Counters of one launch of `kernel` for `p`.
fn counted(p: &Lsh, kernel: &str, launch: u32) -> serde_json::Value {
    let text = std::cell::RefCell::new(None);
    on_simulated("a100", &[], |device| {
        check(device, &Case::new(p.clone(), &mut Random(1)));
        let mock = device.mock.as_ref().expect("the stand-in");
        *text.borrow_mut() = mock.counters(kernel, launch);
    });
    let text = text.into_inner().expect("counters");
    serde_json::from_str(&text).expect("JSON")
}

fn number(counts: &serde_json::Value, name: &str) -> u64 {
    counts[name].as_u64().unwrap_or_else(|| panic!("no {name} in {counts}"))
}

#[test]
fn shared_memory_meets_no_bank_conflict() {
    if crate::common::mock::on_gpu() {
        return;
    }
    for head_dim in [32, 64, 96, 128, 192, 256] {
        for dtype in [DType::F16, DType::F32] {
            let chunk_len = if head_dim == 32 { 32 } else { 64 };
            let p = Lsh::new([1, 192, 1, head_dim], chunk_len, 2, dtype).num_buckets(&[16]);
            let p = p.causal().key_padding();
            for kernel in ["lsh_forward", "lsh_hash"] {
                let counters = counted(&p, kernel, u32::from(kernel == "lsh_forward"));
                for (region, counts) in counters["regions"].as_object().expect("regions") {
                    let [passes, ideal] =
                        ["shared_wavefronts", "shared_ideal"].map(|name| number(counts, name));
                    let what = format!("{kernel} {dtype} head_dim {head_dim}, after {region}");
                    match (kernel, region.as_str()) {
                        // Before the loop a few positions, after it pairs of f32.
                        ("lsh_forward", "" | "EPILOGUE") => {}
                        ("lsh_forward", _) => assert_eq!(passes, ideal, "{what}"),
                        // Rotations are read by quarters of a warp.
                        _ => assert!(passes as f64 <= 1.05 * ideal as f64, "{what}: {passes}"),
                    }
                }
            }
        }
    }
}

/// Rows of out, qk and v are whole sectors wherever they lie; of a gathered position, lse and
/// factor, four bytes of one are used.
#[test]
fn global_memory_is_moved_by_whole_sectors() {
    if crate::common::mock::on_gpu() {
        return;
    }
    for head_dim in [64, 128] {
        for dtype in [DType::F16, DType::F32] {
            let p = Lsh::new([1, 512, 1, head_dim], 64, 2, dtype).num_buckets(&[16]);
            for launch in 0..2 {
                let total = counted(&p, "lsh_forward", launch)["total"].clone();
                let moved =
                    number(&total, "global_sectors_load") + number(&total, "global_sectors_store");
                let ratio = moved as f64 / number(&total, "global_sectors_ideal") as f64;
                assert!(ratio <= 1.13, "{dtype} head_dim {head_dim}, round {launch}: {ratio}");
                // Each chunk with itself and the one before it.
                let products = if dtype == DType::F32 { 3 } else { 1 };
                let flops = products * 4 * 512 * 128 * head_dim as u64;
                assert_eq!(number(&total, "tc_flops"), flops, "{dtype} head_dim {head_dim}");
            }
        }
    }
}

/// Beside inputs and results: indices that grow with rounds and length, and a factor of each key.
#[test]
fn a_long_sequence_takes_memory_in_proportion_to_it() {
    on_devices(|device| {
        let p = Lsh::new([1, 262_144, 1, 64], 64, 4, DType::F16);
        let plan = p.plan_cuda(&device.context).unwrap();
        let places = p.lse_rounds_len() as f64;
        let all = p.bytes() + plan.workspace_bytes() as f64;
        // An order and as much to sort it, a bucket and an lse for each place.
        let least = p.bytes() + 2.0 * 4.0 * places;
        println!("workspace {} bytes, all {}", plan.workspace_bytes(), all / p.bytes());
        assert!(all <= 1.2 * least && all <= 1.2 * p.bytes(), "{all} of {least}");
        let short = Lsh { seqlen: 131_072, ..p.clone() };
        let short = Lsh::new([1, 131_072, 1, 64], 64, 4, short.dtype);
        let half = short.plan_cuda(&device.context).unwrap().workspace_bytes();
        assert!(plan.workspace_bytes() <= 2 * half + 4096);
    });
}
