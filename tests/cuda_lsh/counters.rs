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

/// What `bench lsh --stages` takes for the least that a kernel moves and computes: no more than what
/// the simulator counts, and not far from it.
#[test]
fn the_floors_of_stages_are_below_what_kernels_do() {
    if crate::common::mock::on_gpu() {
        return;
    }
    let p = Lsh::new([1, 512, 2, 64], 64, 3, DType::F16).num_buckets(&[32, 16]);
    on_simulated("a100", &[], |device| {
        let case = Case::new(p.clone(), &mut Random(1));
        let stages = p.time_stages_cuda(&device.context, &case.inputs(), 1).unwrap();
        let names: Vec<_> = stages.iter().map(|s| (s.name, s.merges, s.launches)).collect();
        let sort = [("lsh_count", false, 2), ("lsh_scatter", false, 2)];
        let forward = [("lsh_forward", false, 1), ("lsh_forward", true, 2)];
        assert_eq!(names, [&[("lsh_hash", false, 1)], &sort[..], &forward].concat());
        let mock = device.mock.as_ref().expect("the stand-in");
        for stage in &stages {
            let (mut moved, mut flops) = (0.0, 0.0);
            let first = u32::from(stage.merges);
            for launch in first..first + stage.launches as u32 {
                let counters = mock.counters(stage.name, launch).expect("counters");
                let counters: serde_json::Value = serde_json::from_str(&counters).expect("JSON");
                let total = |name| number(&counters["total"], name) as f64;
                moved += 32.0 * (total("global_sectors_load") + total("global_sectors_store"));
                flops += total("tc_flops");
            }
            let times = moved / stage.bytes;
            // Blocks read rotations again, from the cache; a place elsewhere takes a whole sector.
            let most = match stage.name {
                "lsh_hash" => 16.0,
                "lsh_scatter" => 8.0,
                _ => 4.0,
            };
            assert!((1.0..most).contains(&times), "{}: {times} of {}", stage.name, stage.bytes);
            if stage.name == "lsh_forward" {
                assert_eq!(flops, stage.flops, "merges: {}", stage.merges);
            }
            assert!(stage.ms.is_finite());
        }
    });
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
