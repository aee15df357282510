//! LSH attention's CUDA kernels against the reference: in the simulator, or with
//! `LONGHAND_TEST_DEVICE=gpu` on the GPU of this machine, as `tests/cuda.rs`.

mod common;

use common::Random;
use common::cuda::{Device, on_devices, on_simulated};
use common::guard::GUARD;
use common::lsh::{Case, errors, lse_tolerance, random_problem};
use common::lsh_cuda::{bound, buckets_of_positions, run_guarded, stable_order};
use longhand::lsh::{Layout, Output, Wrap};
use longhand::{DType, Lsh, Strides};
use longhand_cli::compare::compare;
use longhand_cli::lsh_file::LshFile;
use longhand_cli::naive;
use longhand_cli::problem_file::ProblemFile;
use std::path::Path;

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
    let truncation = match (p.dtype, device.truncates) {
        (DType::F32, true) => 0.375 * p.head_dim as f64 / f64::from(1 << 24),
        _ => 0.0,
    };
    let within = out <= most && lse <= LSE.max(lse_tolerance(p)) + truncation;
    assert!(within, "{what}: out {out:.2e} > {most:.2e}, lse {lse:.2e}: {p:?}");
    got
}

#[test]
fn fixtures_agree_with_what_other_implementations_compute() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/lsh");
    let entries = std::fs::read_dir(folder).expect("tests/data/lsh");
    let files: Vec<LshFile> = entries
        .map(|entry| ProblemFile::read(&entry.expect("an entry").path()).expect("a fixture"))
        .map(|file| file.into_lsh().expect("a problem of LSH attention"))
        .collect();
    assert_eq!(files.len(), 18, "fixtures are missing");
    on_devices(|device| {
        for (file, dtype) in files.iter().flat_map(|file| DTYPES.map(|dtype| (file, dtype))) {
            let problem = Lsh { dtype, ..file.problem.clone() };
            let output = problem.run_cuda(&device.context, &file.inputs.as_inputs()).unwrap();
            let results = file.results(&output, None);
            let tolerances = naive::tolerances(&file.clone().into(), dtype, false).unwrap();
            for (name, expected) in &file.expected {
                let Some(got) = results.get(name) else { continue };
                let c = compare(name, got, &expected.values.numbers(), tolerances[name]);
                assert!(c.passed(), "{} {} {dtype}: {c:?}", device.name, file.name);
            }
            let compared = if problem.is_sorted() { 4 } else { 2 };
            let there = |name: &&String| results.contains_key(*name);
            assert_eq!(file.expected.keys().filter(there).count(), compared, "{}", file.name);
        }
    });
}

#[test]
fn random_problems_of_every_choice_agree_with_the_reference() {
    on_devices(|device| {
        for seed in 0..120 {
            let mut random = Random(seed);
            let head_dim = [32, 64, 64, 96, 128][random.below(5)];
            let problem = random_problem(&mut random, DTYPES[seed as usize % 3], head_dim);
            check(device, &Case::new(problem, &mut random));
        }
    });
}

#[test]
fn every_head_dim_is_padded_inside_the_kernel() {
    on_devices(|device| {
        let dims = [1, 4, 8, 13, 32, 60, 72, 96, 104, 128, 129, 160, 192, 200, 256];
        for (n, head_dim) in dims.into_iter().enumerate() {
            for dtype in DTYPES {
                let mut random = Random(n as u64);
                let chunk_len = [16, 40, 64][n % 3];
                let mut p = Lsh::new([2, 75, 2, head_dim], chunk_len, 2, dtype).num_buckets(&[4]);
                p.key_padding = n % 2 == 0;
                p.causal = n % 4 < 2;
                check(device, &Case::new(p, &mut random));
            }
        }
    });
}

#[test]
fn odd_strides_and_tensors_off_16_bytes_load_by_elements() {
    on_devices(|device| {
        for dtype in DTYPES {
            for (n, guard) in [(0, 0), (1, 4), (2, 12), (3, 260)] {
                let mut random = Random(n);
                let p = Lsh::new([2, 70, 2, 40], 16, 2, dtype).num_buckets(&[2, 2]).causal();
                let gap = if guard == 0 { 3 } else { 8 };
                let (head, row) = (40 + gap, 2 * (40 + gap) + 2 * gap);
                let strides = Strides { batch: 70 * row + 5 * gap, seqlen: row, head };
                let p = p.key_padding().layout(Layout::of(strides));
                check_at(device, &Case::new(p, &mut random), guard);
            }
        }
    });
}

/// Lengths around the tiles of the sort, one bucket, more than one digit, and all buckets of the
/// largest number there may be.
#[test]
fn the_order_is_that_of_a_stable_sort() {
    let buckets: [&[usize]; 6] = [&[2], &[16], &[128], &[256], &[1 << 10, 2], &[1 << 10, 1 << 10]];
    on_devices(|device| {
        for (n, seqlen) in [255, 256, 257, 700, 4095, 4096, 4097, 9000].into_iter().enumerate() {
            for (k, factors) in buckets.iter().enumerate() {
                if seqlen > 4000 && (n + k) % 3 != 0 {
                    continue;
                }
                let p = Lsh::new([1, seqlen, 1, 4], 64, 2, DType::F16).chunks(0, 0);
                let mut p = p.num_buckets(factors).buckets_given();
                p.key_padding = k % 2 == 1;
                let mut case = Case::new(p, &mut Random(n as u64));
                if k == 0 {
                    case.buckets.as_mut().unwrap().fill(1);
                }
                let inputs = case.inputs();
                let got = case.problem.run_cuda(&device.context, &inputs).unwrap();
                let order = stable_order(seqlen, &buckets_of_positions(&case));
                assert!(got.order == order, "{seqlen} {factors:?}");
            }
        }
    });
}

/// What does not depend on chunks: all positions in one bucket and one chunk are full attention.
#[test]
fn one_bucket_and_one_chunk_is_full_attention_with_shared_queries_and_keys() {
    on_devices(|device| {
        for (n, dtype) in DTYPES.into_iter().enumerate() {
            let mut random = Random(n as u64);
            let mut one = Lsh::new([2, 150, 2, 64], 150, 1, dtype);
            one.causal = n != 1;
            one.key_padding = n != 2;
            let case = Case::new(one.clone(), &mut random);
            let whole = check(device, &case);
            // The same by chunks that all see each other.
            let mut p = one.num_buckets(&[2]).buckets_given().chunks(2, 0);
            p.chunk_len = 50;
            let buckets = Some(vec![0; p.buckets_len()]);
            let chunked = check(device, &Case { problem: p, buckets, ..case.clone() });
            let worst = whole.out.iter().zip(&chunked.out).map(|(a, b)| (a - b).abs());
            let most = 3.0 * common::tolerance(dtype);
            assert!(worst.fold(0.0, f32::max) as f64 <= most, "{} {dtype}", device.name);
        }
    });
}

#[test]
fn a_causal_row_never_sees_the_future() {
    on_devices(|device| {
        for (n, dtype) in DTYPES.into_iter().enumerate() {
            let mut random = Random(70 + n as u64);
            let p = Lsh::new([1, 200, 1, 64], 32, 3, dtype).num_buckets(&[8]);
            let case = Case::new(p.causal().buckets_given(), &mut random);
            let first = check(device, &case);
            let mut other = case.clone();
            for x in [&mut other.qk, &mut other.v] {
                x[120 * 64..].iter_mut().for_each(|x| *x *= -0.5);
            }
            let second = check(device, &other);
            assert!(first.out[..120 * 64] == second.out[..120 * 64], "{} {dtype}", device.name);
            assert!(first.lse[..120] == second.lse[..120], "{} {dtype}", device.name);
        }
    });
}

/// A row that meets nothing but itself gives its own v, bit for bit, and the mask as its lse.
#[test]
fn rows_alone_with_themselves_give_their_own_values() {
    on_devices(|device| {
        for (n, dtype) in DTYPES.into_iter().enumerate() {
            let p = Lsh::new([1, 30, 2, 64], 1, 5, dtype).num_buckets(&[2]).chunks(0, 0);
            let case = Case::new(p.buckets_given(), &mut Random(n as u64));
            let got = check(device, &case);
            assert_eq!(got.out, case.v, "{} {dtype}", device.name);
            for (round, &lse) in got.lse_rounds.iter().enumerate() {
                assert!((lse + 1e5).abs() <= 0.03, "{} {dtype} {round}: {lse}", device.name);
            }
            // The first position of a causal sequence, and padding.
            let p = Lsh::new([1, 90, 1, 64], 16, 4, dtype).num_buckets(&[4]).causal();
            let mut case = Case::new(p.key_padding().buckets_given(), &mut Random(n as u64));
            case.key_valid = Some(vec![0; 90]);
            let got = check(device, &case);
            assert_eq!(got.out, case.v, "{} {dtype}", device.name);
        }
    });
}

/// A bucket given beyond the last counts as the last, and so is what an invalid position has.
#[test]
fn given_buckets_are_clamped() {
    on_devices(|device| {
        let p = Lsh::new([1, 70, 1, 32], 8, 2, DType::F32).num_buckets(&[4]).key_padding();
        let mut case = Case::new(p.buckets_given(), &mut Random(4));
        let valid = case.key_valid.clone().unwrap();
        let buckets = case.buckets.as_mut().unwrap();
        for (n, bucket) in buckets.iter_mut().enumerate().filter(|(n, _)| valid[n % 70] == 0) {
            *bucket = [-7, 1 << 20, i32::MIN, 5][n % 4];
        }
        check(device, &case);
    });
}

#[test]
fn permuting_the_rounds_leaves_their_combination() {
    on_devices(|device| {
        for (n, dtype) in DTYPES.into_iter().enumerate() {
            let p = Lsh::new([1, 120, 1, 64], 16, 3, dtype).num_buckets(&[8]);
            let case = Case::new(p.wrap(Wrap::PerRound).buckets_given(), &mut Random(n as u64));
            let first = check(device, &case);
            let mut other = case.clone();
            let buckets = other.buckets.as_mut().unwrap();
            buckets.rotate_left(120);
            let second = check(device, &other);
            let apart = first.out.iter().zip(&second.out).map(|(a, b)| (a - b).abs());
            let most = 4.0 * common::tolerance(dtype);
            assert!(f64::from(apart.fold(0.0, f32::max)) <= most, "{} {dtype}", device.name);
            let mut rounds = first.lse_rounds.clone();
            rounds.rotate_left(120);
            assert!(rounds == second.lse_rounds, "{} {dtype}", device.name);
        }
    });
}

#[test]
fn nothing_at_all() {
    on_devices(|device| {
        for [batch, seqlen] in [[0, 50], [2, 0]] {
            let p = Lsh::new([batch, seqlen, 2, 32], 8, 2, DType::F32).num_buckets(&[2]);
            let case = Case::new(p, &mut Random(1));
            let got = case.problem.run_cuda(&device.context, &case.inputs()).unwrap();
            assert!(got.out.is_empty() && got.order.is_empty());
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
    if common::mock::on_gpu() {
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
    if common::mock::on_gpu() {
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
    if common::mock::on_gpu() {
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
    if common::mock::on_gpu() {
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
