//! The CUDA kernels against the reference: in the simulator, or with `LONGHAND_TEST_DEVICE=gpu` on
//! the GPU of this machine. In the simulator every test also fails on a race, an access outside a
//! tensor, or a read of what was never written, although the result may be right.

mod common;

use common::cuda::{Device, on_devices, on_simulated, run_guarded};
use common::guard::GUARD;
use common::{Case, Random, errors, tolerance};
use longhand::full::{Bias, Buckets, Inputs, Layout, Output, Ragged};
use longhand::{DType, Full, Shape, Strides, Window};

/// Twice what a plain f32 evaluation of the fixtures stays below, flash-attention's rule; and what
/// the instruction set allows ex2.approx (2^-22 of the sum) and lg2.approx (2^-22 of a power of 2).
const LSE: f64 = 6e-7 + (1.0 + std::f64::consts::LN_2) / (1 << 22) as f64;

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Runs `case` on `device` and holds it to the reference. Without guard bands the simulator sees
/// reads beyond a tensor, with them a GPU shows writes.
fn check(device: &Device, case: &Case) -> Output<f32> {
    let p = &case.problem;
    let plan = p.plan_cuda(&device.context).unwrap();
    let guard = if device.mock.is_some() { 0 } else { GUARD };
    let got = run_guarded(device, &plan, case, guard).unwrap();
    let expected = case.reference();
    let (out, lse) = errors(&got, &expected);
    let most = bound(case, &expected);
    let within = out <= most && lse <= LSE;
    let what = format!("{} ({})", device.name, plan.describe());
    assert!(within, "{what}: out {out:.2e} > {most:.2e}, lse {lse:.2e}: {p:?}");
    got
}

/// How far `out` may be off, by the fixtures' measure. In a 16-bit dtype the result is rounded
/// once, and so are the probabilities before the product with v: each by half a unit in its last
/// place, so that the latter moves a row by that much of the sum of p·|v|.
fn bound(case: &Case, expected: &Output<f64>) -> f64 {
    let unit = match case.problem.dtype {
        DType::F32 => return tolerance(DType::F32),
        DType::F16 => 1.0 / 2048.0,
        DType::BF16 => 1.0 / 256.0,
    };
    let absolute: Vec<f32> = case.v.iter().map(|v| v.abs()).collect();
    let inputs = Inputs { v: &absolute, ..case.inputs() };
    let sums = case.problem.reference(&inputs).expect("valid").out;
    let largest = |of: &[f64], least: f64| of.iter().fold(least, |m, x| m.max(x.abs()));
    let sums: Vec<f64> = sums.into_iter().map(f64::from).collect();
    tolerance(DType::F32) + unit * (1.0 + largest(&sums, 0.0) / largest(&expected.out, 0.1))
}

fn shape(batch: usize, heads: (usize, usize), seqlen: (usize, usize), head_dim: usize) -> Shape {
    Shape {
        batch,
        heads_q: heads.0,
        heads_kv: heads.1,
        seqlen_q: seqlen.0,
        seqlen_k: seqlen.1,
        head_dim,
    }
}

fn random_problem(random: &mut Random, dtype: DType, head_dim: usize) -> Full {
    let lengths = [1, 2, 7, 31, 32, 33, 63, 64, 65, 67, 100, 129, 150];
    let heads_kv = 1 + random.below(2);
    let heads_q = heads_kv * (1 + random.below(3));
    let seqlen = (lengths[random.below(13)], lengths[random.below(13)]);
    let mut problem =
        Full::new(shape(1 + random.below(3), (heads_q, heads_kv), seqlen, head_dim), dtype);
    problem.causal = random.below(2) == 0;
    if random.below(3) == 0 {
        problem.window = Window::new(random.below(70), random.below(70));
    }
    if random.below(3) == 0 {
        problem.layout = Layout::bhsd(&problem.shape);
    }
    problem
}

#[test]
fn random_shapes_masks_and_layouts_agree_with_the_reference() {
    on_devices(|device| {
        for seed in 0..90 {
            let mut random = Random(seed);
            let head_dim = [32, 64, 96, 128][random.below(4)];
            let problem = random_problem(&mut random, DTYPES[seed as usize % 3], head_dim);
            check(device, &Case::new(problem, &mut random));
        }
    });
}

#[test]
fn every_option_and_their_combination_agree_with_the_reference() {
    let bias = |per_batch, per_head| Some(Bias { per_batch, per_head });
    type With = fn(Full) -> Full;
    let options: [(&str, With); 8] = [
        ("alibi", |p| p.alibi()),
        ("softcap", |p| p.softcap(1.5)),
        ("key padding", |p| p.key_padding()),
        ("ragged", |p| p.ragged(Ragged { total_q: 0, total_k: 0 })),
        ("ragged, alibi, softcap", |p| {
            p.ragged(Ragged { total_q: 0, total_k: 0 }).alibi().softcap(0.7)
        }),
        ("negative scale", |p| p.softmax_scale(-0.2)),
        ("scale 0", |p| p.softmax_scale(0.0)),
        ("all of the padded", |p| p.alibi().softcap(2.0).key_padding()),
    ];
    on_devices(|device| {
        for (n, (option, with)) in options.iter().enumerate() {
            for seed in 0..12 {
                let mut random = Random(1000 * n as u64 + seed);
                let dtype = DTYPES[seed as usize % 3];
                let head_dim = [32, 64, 128][n % 3];
                let mut problem = with(random_problem(&mut random, dtype, head_dim));
                problem.layout = Layout::bshd(&problem.shape);
                if *option == "all of the padded" {
                    problem.bias = bias(seed % 2 == 0, seed % 3 == 0);
                }
                check(device, &Case::new(problem, &mut random));
            }
        }
        for (n, (b, h)) in
            [(false, false), (true, false), (false, true), (true, true)].into_iter().enumerate()
        {
            let mut random = Random(77 + n as u64);
            let mut problem = random_problem(&mut random, DTYPES[n % 3], 32);
            problem.bias = bias(b, h);
            check(device, &Case::new(problem, &mut random));
        }
    });
}

#[test]
fn biases_by_buckets_reach_near_and_far_keys_of_every_sequence() {
    let all = [(32, 128, true), (32, 128, false), (8, 20, true), (2, 3, false), (64, 33, true)];
    on_devices(|device| {
        for (n, (num_buckets, max_distance, bidirectional)) in all.into_iter().enumerate() {
            let buckets = Buckets { num_buckets, max_distance, bidirectional };
            for (m, lengths) in [(300, 420), (1, 1500), (70, 33), (5, 5)].into_iter().enumerate() {
                let mut random = Random(100 * n as u64 + m as u64);
                let dtype = DTYPES[(n + m) % 3];
                let mut problem = Full::new(shape(1, (2, 1), lengths, 64), dtype).buckets(buckets);
                problem.causal = random.below(2) == 0;
                if m == 0 {
                    problem = problem.ragged(Ragged { total_q: 0, total_k: 0 });
                }
                check(device, &Case::new(problem, &mut random));
            }
        }
    });
}

#[test]
fn every_head_dim_is_padded_inside_the_kernel() {
    on_devices(|device| {
        for (n, head_dim) in
            [4, 8, 20, 32, 60, 72, 96, 104, 128, 160, 192, 200, 256].into_iter().enumerate()
        {
            for dtype in DTYPES {
                let mut random = Random(n as u64);
                let problem = Full::new(shape(2, (2, 1), (67, 131), head_dim), dtype).causal();
                check(device, &Case::new(problem, &mut random));
            }
        }
    });
}

#[test]
fn odd_head_dims_and_strides_load_by_elements_in_every_dtype() {
    on_devices(|device| {
        for (n, dtype) in DTYPES.into_iter().enumerate() {
            for head_dim in [1, 5, 13, 31, 67, 129, 193] {
                let mut random = Random(n as u64);
                let s = shape(2, (3, 1), (33, 35), head_dim);
                let mut problem = Full::new(s, dtype);
                check(device, &Case::new(problem, &mut random));
                // Gaps between rows, heads and sequences.
                let odd = |seqlen: usize, heads: usize| {
                    let row = heads * (head_dim + 3) + 2;
                    Strides { batch: seqlen * row + 5, seqlen: row, head: head_dim + 3 }
                };
                problem.layout =
                    Layout { q: odd(33, 3), k: odd(35, 1), v: odd(35, 1), out: odd(33, 3) };
                check(device, &Case::new(problem, &mut random));
            }
        }
    });
}

#[test]
fn tensors_may_begin_at_any_element() {
    on_devices(|device| {
        for dtype in DTYPES {
            let mut random = Random(5);
            let case = Case::new(Full::new(shape(1, (2, 2), (9, 11), 32), dtype), &mut random);
            let plan = case.problem.plan_cuda(&device.context).unwrap();
            // Guards of so many bytes; those of lse must suit f32.
            for guard in [256, 272, 260, 4, 12] {
                let got = run_guarded(device, &plan, &case, guard).unwrap();
                let expected = case.reference();
                let (out, lse) = errors(&got, &expected);
                let within = out <= bound(&case, &expected) && lse <= LSE;
                assert!(within, "{}, {dtype}, {guard}: {out:e} {lse:e}", device.name);
            }
        }
    });
}

#[test]
fn few_queries_over_many_keys_split_the_keys_and_combine() {
    on_devices(|device| {
        for (n, (seqlen_q, seqlen_k)) in
            [(1, 1024), (3, 1500), (20, 2049), (40, 1100)].into_iter().enumerate()
        {
            for dtype in DTYPES {
                let mut random = Random(n as u64);
                let s = shape(1, (4, 2), (seqlen_q, seqlen_k), [64, 128, 96, 192][n]);
                let mut problem = Full::new(s, dtype).causal();
                if n == 2 {
                    // Whole splits in which no row sees a key.
                    problem.window = Window::left(300);
                }
                let plan = problem.plan_cuda(&device.context).unwrap();
                assert!(plan.workspace_bytes() > 0, "{}: {}", device.name, plan.describe());
                check(device, &Case::new(problem, &mut random));
            }
        }
        let mut random = Random(9);
        let problem = Full::new(shape(3, (2, 2), (5, 1300), 40), DType::F32)
            .ragged(Ragged { total_q: 0, total_k: 0 });
        check(device, &Case::new(problem.alibi(), &mut random));
        let problem = Full::new(shape(2, (2, 2), (5, 1300), 33), DType::F16).key_padding();
        check(device, &Case::new(problem, &mut random));
    });
}

#[test]
fn empty_sequences_and_rows_give_zero_and_minus_infinity() {
    on_devices(|device| {
        for (seqlen_q, seqlen_k) in [(3, 0), (0, 3), (0, 0), (40, 5)] {
            let mut random = Random(1);
            let problem =
                Full::new(shape(2, (2, 1), (seqlen_q, seqlen_k), 32), DType::F32).causal();
            let case = Case::new(problem, &mut random);
            let got = problem.run_cuda(&device.context, &case.inputs()).unwrap();
            let (out, lse) = errors(&got, &case.reference());
            let within = out <= 5e-6 && lse <= LSE;
            assert!(within, "{}, {seqlen_q} x {seqlen_k}: {out:e} {lse:e}", device.name);
        }
        let mut random = Random(2);
        let case = Case::new(Full::new(shape(0, (2, 1), (4, 4), 32), DType::F32), &mut random);
        let got = case.problem.run_cuda(&device.context, &case.inputs()).unwrap();
        assert!(got.out.is_empty());
        let problem = Full::new(shape(2, (2, 1), (4, 40), 32), DType::F32).key_padding();
        let mut case = Case::new(problem, &mut random);
        case.key_valid = Some([vec![0; 40], vec![1; 40]].concat());
        check(device, &case);
        let mut case = Case::new(Full::new(shape(1, (1, 1), (3, 33), 32), DType::F32), &mut random);
        case.problem.bias = Some(Bias { per_batch: false, per_head: false });
        let masked = f32::NEG_INFINITY;
        case.bias = Some([vec![masked; 33], vec![0.5; 33], vec![masked; 32], vec![1.0]].concat());
        check(device, &case);
    });
}

#[test]
fn large_scores_and_one_huge_key_lose_nothing() {
    on_devices(|device| {
        for factor in [30.0, 100.0] {
            let mut random = Random(3);
            let problem = Full::new(shape(1, (2, 2), (65, 97), 64), DType::F32).softmax_scale(1.0);
            let mut case = Case::new(problem, &mut random);
            case.q.iter_mut().for_each(|x| *x *= factor);
            // Scores of ±1e4 leave one key per row; rounding them moves exp by 1e-3.
            let got = problem.run_cuda(&device.context, &case.inputs()).unwrap();
            let (out, lse) = errors(&got, &case.reference());
            let rounding = f64::from(factor) * 64.0 * f64::from(f32::EPSILON) * 8.0;
            let within = out <= 5e-6 + rounding && lse <= LSE;
            assert!(within, "{}: {out:e} {lse:e}", device.name);
        }
    });
}

#[test]
fn nan_in_one_row_stays_with_the_rows_that_see_it() {
    on_devices(|device| {
        for (dtype, d) in [(DType::F32, 32), (DType::BF16, 128), (DType::F16, 96)] {
            let mut random = Random(4);
            let problem = Full::new(shape(1, (1, 1), (70, 70), d), dtype).causal();
            for (tensor, at) in
                [("q", 37), ("k", 41), ("v", 45), ("v", 3), ("k inf", 50), ("v inf", 69)]
            {
                let sound = Case::new(problem, &mut random);
                let most = bound(&sound, &sound.reference());
                let mut case = sound;
                let value = if tensor.ends_with("inf") { f32::INFINITY } else { f32::NAN };
                match tensor.as_bytes()[0] {
                    b'q' => case.q[at * d + 7] = value,
                    b'k' => case.k[at * d + 7] = value,
                    _ => case.v[at * d + 7] = value,
                }
                let poisoned = case.reference();
                let got = problem.run_cuda(&device.context, &case.inputs()).unwrap();
                let largest = got.out.iter().filter(|x| x.is_finite());
                let largest = largest.fold(0.1, |m: f64, x| m.max(f64::from(x.abs())));
                // The TF32 parts of an infinite f32 are inf and NaN: a row that sees it is NaN.
                let unsure = dtype == DType::F32 && tensor.ends_with("inf");
                let rows = if unsure { 0..at } else { 0..70 };
                for row in rows.map(|row| row * d..(row + 1) * d) {
                    let what = format!("{}, {dtype}, {tensor}[{at}], {row:?}", device.name);
                    let (got, expected) = (&got.out[row.clone()], &poisoned.out[row]);
                    let finite = got.iter().all(|x| x.is_finite());
                    assert_eq!(finite, expected.iter().all(|x| x.is_finite()), "{what}");
                    if finite {
                        let mut pairs = got.iter().zip(expected);
                        let close =
                            |(&g, &e): (&f32, &f64)| (f64::from(g) - e).abs() < most * largest;
                        assert!(pairs.all(close), "{what}: changed");
                    }
                }
            }
        }
    });
}

#[test]
fn a_launch_repeats_bit_for_bit() {
    on_devices(|device| {
        let mut random = Random(10);
        let problem = Full::new(shape(1, (2, 1), (100, 1100), 64), DType::F32).causal();
        let case = Case::new(problem, &mut random);
        let run = || problem.run_cuda(&device.context, &case.inputs()).unwrap();
        let first = run();
        let repeats = if device.mock.is_some() { 2 } else { 20 };
        for _ in 0..repeats {
            assert!(run() == first, "{}", device.name);
        }
    });
}

#[test]
fn each_sequence_and_head_is_computed_as_if_it_were_alone() {
    on_devices(|device| {
        let mut random = Random(12);
        let s = shape(2, (4, 2), (70, 90), 64);
        let problem = Full::new(s, DType::F32).causal();
        let case = Case::new(problem, &mut random);
        let all = problem.run_cuda(&device.context, &case.inputs()).unwrap();
        let alone = Full::new(shape(1, (1, 1), (70, 90), 64), DType::F32).causal();
        let rows = |x: &[f32], seqlen: usize, heads: usize, b: usize, h: usize| -> Vec<f32> {
            let row = |i: usize| ((b * seqlen + i) * heads + h) * 64;
            (0..seqlen).flat_map(|i| x[row(i)..row(i) + 64].to_vec()).collect()
        };
        for (b, h) in [(0, 0), (0, 3), (1, 1), (1, 2)] {
            let q = rows(&case.q, 70, 4, b, h);
            let (k, v) = (rows(&case.k, 90, 2, b, h / 2), rows(&case.v, 90, 2, b, h / 2));
            let inputs = Inputs::new(&q, &k, &v);
            let one = alone.run_cuda(&device.context, &inputs).unwrap();
            let name = format!("{}: sequence {b}, head {h}", device.name);
            assert_eq!(one.out, rows(&all.out, 70, 4, b, h), "{name}");
            assert_eq!(one.lse, all.lse[(b * 4 + h) * 70..][..70], "{name}");
        }
    });
}

#[test]
fn a_long_sequence_runs_in_linear_memory() {
    on_devices(|device| {
        // A simulator takes its time.
        let seqlen = if device.mock.is_some() { 2048 } else { 65536 };
        let head_dim = 32;
        let mut random = Random(11);
        let problem = Full::new(shape(1, (1, 1), (seqlen, seqlen), head_dim), DType::F32).causal();
        let case = Case::new(problem, &mut random);
        let plan = problem.plan_cuda(&device.context).unwrap();
        assert!(plan.workspace_bytes() < 64 << 20, "{}", plan.describe());
        let got = problem.run_cuda(&device.context, &case.inputs()).unwrap();
        // Rows from the beginning, the middle and the end, each as a problem of its own.
        for end in [64, seqlen / 2 + 37, seqlen] {
            let rows = end - 64..end;
            let part = Case {
                problem: Full::new(shape(1, (1, 1), (64, end), head_dim), DType::F32).causal(),
                q: case.q[rows.start * head_dim..rows.end * head_dim].to_vec(),
                k: case.k[..end * head_dim].to_vec(),
                v: case.v[..end * head_dim].to_vec(),
                alibi_slopes: None,
                bias: None,
                bias_table: None,
                key_valid: None,
                cu_seqlens_q: None,
                cu_seqlens_k: None,
            };
            let mine = Output {
                out: got.out[rows.start * head_dim..rows.end * head_dim].to_vec(),
                lse: got.lse[rows].to_vec(),
            };
            // So many terms cost a plain f32 sum digits too: flash-attention's rule, twice its
            // error.
            let expected = part.reference();
            let naive = errors(&part.problem.reference(&part.inputs()).unwrap(), &expected);
            let (out, lse) = errors(&mine, &expected);
            let within = out <= 5e-6f64.max(2.0 * naive.0) && lse <= LSE.max(2.0 * naive.1);
            assert!(within, "rows up to {end}: {out:e} {lse:e}, plain f32: {naive:?}");
        }
    });
}

/// A small problem for each tile and each way through the kernels.
fn ways() -> Vec<Case> {
    let mut random = Random(20);
    let mut problems = vec![];
    for head_dim in [32, 64, 96, 128, 192, 256] {
        for dtype in [DType::BF16, DType::F32] {
            problems.push(Full::new(shape(1, (1, 1), (70, 150), head_dim), dtype).causal());
        }
    }
    for dtype in [DType::F16, DType::F32] {
        let options = Full::new(shape(1, (2, 1), (70, 130), 64), dtype).alibi().key_padding();
        problems.push(options.window(Window::new(40, 3)));
        problems.push(Full::new(shape(1, (1, 1), (70, 130), 61), dtype));
        problems.push(Full::new(shape(1, (2, 1), (3, 1100), 64), dtype));
    }
    problems.into_iter().map(|problem| Case::new(problem, &mut random)).collect()
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

/// The instruction set leaves open how exact some instructions are and in which order a product is
/// summed; no tolerance may depend on it.
/// The tensor cores cut what they add up, always toward zero: in one accumulator over all keys that
/// would be seen.
#[test]
fn f32_keeps_its_digits_over_many_keys() {
    on_simulated("a100", &[("tc", "trunc")], |device| {
        // Heads enough to fill a GPU, so that the keys are not split.
        let problem = Full::new(shape(1, (160, 160), (1, 1500), 32), DType::F32);
        let plan = problem.plan_cuda(&device.context).unwrap();
        assert_eq!(plan.workspace_bytes(), 0, "{}", plan.describe());
        let case = Case::new(problem, &mut Random(30));
        let got = problem.run_cuda(&device.context, &case.inputs()).unwrap();
        let (out, _) = errors(&got, &case.reference());
        assert!(out <= 2e-6, "{out:e}");
    });
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
