//! Longformer's CUDA kernels against the reference: in the simulator, or with
//! `LONGHAND_TEST_DEVICE=gpu` on the GPU of this machine, as `tests/cuda.rs`.

mod common;

use common::Random;
use common::cuda::{Device, on_devices, on_simulated};
use common::fixtures::{Forward, fixtures_of};
use common::guard::GUARD;
use common::longformer::{Case, errors, odd, random_problem};
use common::longformer_cuda::run_guarded;
use longhand::full::Inputs as FullInputs;
use longhand::longformer::{Layout, Output};
use longhand::{DType, Full, Longformer, Shape};

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
    let expected = case.reference();
    let (out, lse) = errors(&got, &expected);
    let most = case.bound(&expected);
    let within = out <= most && lse <= LSE;
    let what = format!("{} ({})", device.name, plan.describe());
    assert!(within, "{what}: out {out:.2e} > {most:.2e}, lse {lse:.2e}: {p:?}");
    got
}

#[test]
fn fixtures_agree_with_what_other_implementations_compute() {
    let files = fixtures_of("longformer", 17);
    on_devices(|device| {
        for (file, dtype) in files.iter().flat_map(|file| DTYPES.map(|dtype| (file, dtype))) {
            let problem = file.clone().into_longformer().unwrap();
            let p = Longformer { dtype, ..problem.problem.clone() };
            let got = p.run_cuda(&device.context, &problem.inputs.as_inputs()).unwrap();
            let what = format!("{} {} {dtype}", device.name, problem.name);
            Forward::of(file, dtype).check(&problem.results(&got, None), &what);
        }
    });
}

#[test]
fn random_problems_of_every_choice_agree_with_the_reference() {
    on_devices(|device| {
        for seed in 0..180 {
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
                let mut p = Longformer::new([2, 75, 2, head_dim], 9, dtype).globals(3);
                p.key_padding = n % 2 == 0;
                if n % 3 == 0 {
                    p = p.dilation(&[1, 3]);
                }
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
                let mut p = Longformer::new([2, 70, 2, 40], 11, dtype).globals(7).key_padding();
                if n % 2 == 1 {
                    p = p.dilation(&[2, 5]);
                }
                let strides = odd(&p, if guard == 0 { 3 } else { 8 });
                p = p.layout(Layout::of(strides));
                check_at(device, &Case::new(p, &mut random), guard);
            }
        }
    });
}

#[test]
fn a_window_of_the_whole_length_without_globals_is_full_attention() {
    on_devices(|device| {
        for (n, dtype) in DTYPES.into_iter().enumerate() {
            for causal in [false, true] {
                let mut random = Random(n as u64);
                let mut p = Longformer::new([2, 150, 2, 64], 150, dtype);
                p.causal = causal;
                let case = Case::new(p, &mut random);
                let got = check(device, &case);
                let shape = Shape {
                    batch: 2,
                    heads_q: 2,
                    heads_kv: 2,
                    seqlen_q: 150,
                    seqlen_k: 150,
                    head_dim: 64,
                };
                let mut full = Full::new(shape, dtype);
                full.causal = causal;
                let inputs = FullInputs::new(&case.q, &case.k, &case.v);
                let other = full.run_cuda(&device.context, &inputs).unwrap();
                // A row of full attention meets the same tiles in the same order.
                assert_eq!(got.out, other.out, "{} {dtype} causal {causal}", device.name);
                assert_eq!(got.lse, other.lse, "{} {dtype} causal {causal}", device.name);
            }
        }
    });
}

#[test]
fn the_order_of_the_list_changes_nothing() {
    on_devices(|device| {
        for (n, dtype) in DTYPES.into_iter().enumerate() {
            let mut random = Random(40 + n as u64);
            let mut p = Longformer::new([2, 200, 2, 64], 20, dtype).globals(90).key_padding();
            p.causal = n == 1;
            let mut case = Case::new(p, &mut random);
            let first = check(device, &case);
            for row in case.global_indices.as_mut().unwrap().chunks_exact_mut(90) {
                let listed = row.iter().take_while(|&&i| i >= 0).count();
                row[..listed].reverse();
                row[..listed].rotate_left(listed / 3);
            }
            assert!(check(device, &case) == first, "{} {dtype}: other bits", device.name);
        }
    });
}

#[test]
fn many_keys_of_few_globals_are_split_and_merged() {
    on_devices(|device| {
        for (n, (seqlen, globals)) in [(1100, 1), (1600, 3), (1025, 130)].into_iter().enumerate() {
            let mut random = Random(n as u64);
            let mut p = Longformer::new([1, seqlen, 1, 64], 3, DTYPES[n]).globals(globals);
            p.causal = n == 1;
            check(device, &Case::new(p, &mut random));
        }
    });
}

/// As many globals as a slice, a row tile, a warp and a tile hold, and one more.
#[test]
fn globals_that_fill_slices_warps_and_tiles() {
    on_devices(|device| {
        let half = [16, 17, 32, 33, 48, 64, 65, 80, 81].map(|globals| (globals, 64, DType::BF16));
        let others = [(17, 64, DType::F32), (33, 64, DType::F32), (33, 128, DType::F16)];
        for (n, (globals, head_dim, dtype)) in half.into_iter().chain(others).enumerate() {
            let mut random = Random(90 + n as u64);
            let mut p = Longformer::new([1, 1040 + n, 1, head_dim], 6, dtype);
            p = p.globals(globals);
            p.causal = n % 2 == 1;
            check(device, &Case::new(p, &mut random));
        }
    });
}

#[test]
fn a_long_sequence_takes_memory_in_proportion_to_it() {
    on_devices(|device| {
        // More positions than the index looks at in one step.
        let p = Longformer::new([1, 17000, 1, 32], 2, DType::F16).globals(3).key_padding();
        let plan = p.plan_cuda(&device.context).unwrap();
        assert!(plan.workspace_bytes() < 100 << 10, "{}", plan.workspace_bytes());
        let mut case = Case::new(p, &mut Random(70));
        case.global_indices = Some(vec![16999, 3, 16400]);
        check(device, &case);
    });
}

#[test]
fn nothing_valid_nothing_listed_and_nothing_at_all() {
    on_devices(|device| {
        for [batch, seqlen] in [[0, 5], [2, 0]] {
            let p = Longformer::new([batch, seqlen, 2, 32], 3, DType::F32);
            let case = Case::new(p, &mut Random(1));
            let got = case.problem.run_cuda(&device.context, &case.inputs()).unwrap();
            assert!(got.out.is_empty());
        }
        let p = Longformer::new([2, 140, 2, 32], 9, DType::F16).globals(4).key_padding();
        let mut case = Case::new(p, &mut Random(2));
        case.key_valid = Some([vec![0; 140], vec![1; 140]].concat());
        check(device, &case);
        case.global_indices = Some(vec![-1; 8]);
        check(device, &case);
        // A list that only padding is on.
        case.global_indices = Some(vec![3, 1, -1, -1, 7, -1, -1, -1]);
        check(device, &case);
    });
}

/// What padding holds reaches nobody, and what a row does not see does not reach it.
#[test]
fn nan_stays_with_the_rows_that_see_it() {
    on_devices(|device| {
        for (n, dtype) in DTYPES.into_iter().enumerate() {
            let mut random = Random(60 + n as u64);
            let p = Longformer::new([1, 150, 1, 32], 12, dtype).globals(3).key_padding();
            let mut case = Case::new(p, &mut random);
            case.global_indices = Some(vec![140, 2, -1]);
            let valid = (0..150).map(|i| u8::from(i % 11 != 5));
            case.key_valid = Some(valid.collect());
            let row = |i: usize| i * 32..(i + 1) * 32;
            for i in (0..150).filter(|i| i % 11 == 5) {
                case.q[row(i)].fill(f32::NAN);
                case.k[row(i)].fill(f32::NAN);
                case.v[row(i)].fill(f32::INFINITY);
                for x in case.global.as_mut().unwrap() {
                    x[row(i)].fill(f32::NAN);
                }
            }
            check(device, &case);
            // One valid key: the rows that see it and no others.
            case.v[row(80)].fill(f32::NAN);
            let got = case.problem.run_cuda(&device.context, &case.inputs()).unwrap();
            for i in 0..150 {
                let sees = i % 11 != 5 && i != 140 && i != 2 && (68..=92).contains(&i);
                let nan = got.out[row(i)].iter().all(|x| x.is_nan());
                let finite = got.out[row(i)].iter().all(|x| x.is_finite());
                assert!(if sees { nan } else { finite }, "{} {dtype}: row {i}", device.name);
            }
        }
    });
}

/// A small problem for each tile and each way through the kernels.
fn ways() -> Vec<Case> {
    let mut random = Random(20);
    let mut problems = vec![];
    for head_dim in [32, 64, 96, 128, 192, 256] {
        for dtype in [DType::BF16, DType::F32] {
            let p = Longformer::new([1, 140, 1, head_dim], 30, dtype);
            problems.push(p.globals(5).key_padding());
        }
    }
    for dtype in [DType::F16, DType::F32] {
        let p = Longformer::new([1, 140, 2, 64], 10, dtype).globals(70).dilation(&[1, 3]);
        problems.push(p.clone().causal().key_padding());
        problems.push(Longformer { head_dim: 61, ..p });
    }
    problems
        .into_iter()
        .map(|p| {
            let layout = Layout::of(longhand::Strides::bshd(p.seqlen, p.heads, p.head_dim));
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

/// What each row sees as a range of places, from the definition: of head `h`'s order of keys, or
/// of the list's rows.
fn ranges(p: &Longformer, h: usize) -> Vec<(usize, usize)> {
    let step = p.dilation_of(h).min(p.seqlen);
    let order: Vec<usize> = (0..step).flat_map(|c| (c..p.seqlen).step_by(step)).collect();
    let mut place = vec![0; p.seqlen];
    order.iter().enumerate().for_each(|(n, &i)| place[i] = n);
    let range = |&i: &usize| {
        let (first, step, count) = p.band(i, h);
        (place[first], place[first + (count - 1) * step] + 1)
    };
    order.iter().map(range).collect()
}

/// Keys of the slices that warps share out.
const SLICE: usize = 16;

/// Pairs that warps multiply in tiles of `n` keys, one after the other, for local rows that see
/// `ranges` and `gathered` keys: of these the last tile is a slice if that holds them.
fn pairs(ranges: &[(usize, usize)], gathered: usize, [m, n, rows]: [usize; 3]) -> usize {
    let last = match gathered % n {
        0 => 0,
        1..=SLICE => SLICE,
        _ => n,
    };
    let of_block = |block: &[(usize, usize)]| {
        let (begin, end) = (block[0].0, block[block.len() - 1].1);
        let of_warp = |warp: &[(usize, usize)]| {
            let (from, to) = (warp[0].0, warp[warp.len() - 1].1);
            let seen = |&kt: &usize| kt < to && kt + n > from;
            (begin..end).step_by(n).filter(seen).count() * n + gathered / n * n + last
        };
        block.chunks(rows).map(of_warp).sum::<usize>() * rows
    };
    ranges.chunks(m).map(of_block).sum()
}

/// The same of global rows, which see `ranges`: where one warp takes all rows of a block, the
/// block's warps meet each slice once between them, and of 16 rows no more than those.
fn pairs_of_globals(ranges: &[(usize, usize)], [m, n, rows]: [usize; 3]) -> usize {
    let of_block = |block: &[(usize, usize)]| match block.len() <= rows {
        true => block[block.len() - 1].1.next_multiple_of(SLICE) * block.len().next_multiple_of(16),
        false => pairs(block, 0, [m, n, rows]),
    };
    ranges.chunks(m).map(of_block).sum()
}

fn counter(json: &str, after: &str, name: &str) -> u64 {
    let from = json.find(&format!("\"{after}\":")).unwrap_or_else(|| panic!("no {after}"));
    let at = json[from..].find(&format!("\"{name}\":")).expect("a counter") + from;
    let digits = json[at + name.len() + 3..].chars().take_while(char::is_ascii_digit);
    digits.collect::<String>().parse().expect("a number")
}

#[test]
fn no_tile_but_those_of_the_band_the_globals_and_the_global_rows_is_computed() {
    if common::mock::on_gpu() {
        return;
    }
    let problem = |seqlen: usize, dtype| Longformer::new([2, seqlen, 2, 64], 40, dtype);
    let problems = [
        problem(500, DType::BF16),
        problem(500, DType::BF16).window(100, 3).globals(70),
        problem(500, DType::F32).globals(3).key_padding(),
        problem(500, DType::BF16).causal().globals(65),
        problem(1100, DType::BF16).causal().globals(20),
        problem(300, DType::F16).dilation(&[1, 7]),
        problem(300, DType::F32).dilation(&[3, 1000]).globals(1),
        problem(64, DType::BF16).window(0, 0),
    ];
    for (n, p) in problems.into_iter().enumerate() {
        on_simulated("a100", &[], |device| {
            let case = Case::new(p.clone(), &mut Random(n as u64));
            let plan = p.plan_cuda(&device.context).unwrap();
            check(device, &case);
            let counters = device.mock.as_ref().unwrap().counters("longformer_forward", 0).unwrap();
            let (tile, head_dim) = (plan.config().tile, plan.config().head_dim as u64);
            let sizes = [tile.block_m, tile.block_n, tile.rows].map(|x| x as usize);
            let mut multiplied = 0;
            for b in 0..p.batch {
                let mut globals = case.globals(b);
                globals.sort_unstable();
                let end = |&i: &usize| (0, if p.causal { i + 1 } else { p.seqlen });
                let rows: Vec<_> = globals.iter().map(end).collect();
                for h in 0..p.heads {
                    multiplied += pairs(&ranges(&p, h), globals.len(), sizes);
                    multiplied += pairs_of_globals(&rows, sizes);
                }
            }
            let products = if p.dtype == DType::F32 { 3 } else { 1 };
            let each = products * 2 * 2 * head_dim;
            assert_eq!(counter(&counters, "total", "tc_flops"), multiplied as u64 * each, "{p:?}");
            let mut regions = vec!["LOOP", "COPIED", "UNMASKED", "SCALED", "PRODUCT"];
            if p.max_globals > 0 {
                regions.push("NARROW");
            }
            if (1..=tile.rows as usize).contains(&p.max_globals) {
                // The keys were shared out.
                regions.extend(["PART", "WRITTEN", "SLICES"]);
            }
            for region in regions {
                let [got, ideal] = ["shared_wavefronts", "shared_ideal"]
                    .map(|name| counter(&counters, region, name));
                assert_eq!(got, ideal, "bank conflicts in {region}: {p:?}");
            }
        });
    }
}
