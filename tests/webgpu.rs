//! The WebGPU kernels against the reference, on whatever adapter this machine has.
//!
//! Each property runs on three devices made of that one adapter: as it is (`own`), as a GPU with
//! WebGPU's guaranteed limits and no features (`baseline`), and as a GPU with all that the adapter
//! has (`wide`), so that every kernel variant runs wherever the suite does.

mod common;

use common::{Case, Random, device, device_with, devices, errors, raw, tolerance};
use longhand::full::{Bias, Buckets, Layout, Ragged};
use longhand::webgpu::{Caps, Context};
use longhand::{DType, Full, Shape, Strides, Window};

/// Twice what a plain f32 evaluation of the fixtures stays below: flash-attention's rule.
const LSE: f64 = 6e-7;

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Runs `case` from guarded buffers on `gpu` and holds it to the reference.
fn check(name: &str, gpu: &Context, case: &Case) {
    let p = &case.problem;
    let plan = p.plan_webgpu(gpu).unwrap();
    let got = raw::run_guarded(gpu, &plan, case, raw::GUARD).unwrap();
    let (out, lse) = errors(&got, &case.reference());
    // Flash-attention's rule: twice what a plain f32 evaluation of the same numbers is off.
    let plain = || errors(&p.reference(&case.inputs()).expect("valid"), &case.reference()).1;
    let within = out <= tolerance(p.dtype) && (lse <= LSE || lse <= 2.0 * plain());
    assert!(within, "{name} ({}): out {out:.2e}, lse {lse:.2e}: {p:?}", plan.describe());
}

fn check_on_all(case: &Case) {
    for (name, gpu) in devices() {
        check(name, &gpu, case);
    }
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
    let lengths = [1, 2, 7, 31, 32, 33, 63, 64, 65, 67, 100, 129];
    let heads_kv = 1 + random.below(2);
    let heads_q = heads_kv * (1 + random.below(3));
    let seqlen = (lengths[random.below(12)], lengths[random.below(12)]);
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

/// One chain of rounded products over a long row of q and k would be off by more than this.
#[test]
fn long_sums_keep_their_digits() {
    let p = Full { softmax_scale: 0.5, ..Full::new(shape(1, (1, 1), (64, 40), 256), DType::F32) };
    let case = Case::new(p, &mut Random(8));
    for (name, gpu) in devices() {
        let plan = p.plan_webgpu(&gpu).unwrap();
        let got = raw::run_guarded(&gpu, &plan, &case, raw::GUARD).unwrap();
        let (_, lse) = errors(&got, &case.reference());
        assert!(lse <= 4e-7, "{name} ({}): {lse:.2e}", plan.describe());
    }
}

#[test]
fn random_shapes_masks_and_layouts_agree_with_the_reference() {
    for (name, gpu) in devices() {
        for seed in 0..90 {
            let mut random = Random(seed);
            let problem = random_problem(&mut random, DTYPES[seed as usize % 3], 64);
            check(name, &gpu, &Case::new(problem, &mut random));
        }
    }
}

#[test]
fn every_option_and_their_combination_agree_with_the_reference() {
    let bias = |per_batch, per_head| Some(Bias { per_batch, per_head });
    type With = fn(Full) -> Full;
    let options: [(&str, With); 6] = [
        ("alibi", |p| p.alibi()),
        ("softcap", |p| p.softcap(1.5)),
        ("key padding", |p| p.key_padding()),
        ("ragged", |p| p.ragged(Ragged { total_q: 0, total_k: 0 })),
        ("ragged, alibi, softcap", |p| {
            p.ragged(Ragged { total_q: 0, total_k: 0 }).alibi().softcap(0.7)
        }),
        ("all of the padded", |p| p.alibi().softcap(2.0).key_padding()),
    ];
    for (name, gpu) in devices() {
        for (n, (option, with)) in options.iter().enumerate() {
            for seed in 0..12 {
                let mut random = Random(1000 * n as u64 + seed);
                let mut problem = with(random_problem(&mut random, DType::F32, 32));
                problem.layout = Layout::bshd(&problem.shape);
                if *option == "all of the padded" {
                    problem.bias = bias(seed % 2 == 0, seed % 3 == 0);
                }
                check(&format!("{name}, {option}"), &gpu, &Case::new(problem, &mut random));
            }
        }
        for (n, (b, h)) in
            [(false, false), (true, false), (false, true), (true, true)].into_iter().enumerate()
        {
            let mut random = Random(77 + n as u64);
            let mut problem = random_problem(&mut random, DType::F32, 32);
            problem.bias = bias(b, h);
            check(&format!("{name}, bias"), &gpu, &Case::new(problem, &mut random));
        }
    }
}

#[test]
fn biases_by_buckets_reach_near_and_far_keys_of_every_sequence() {
    let all = [(32, 128, true), (32, 128, false), (8, 20, true), (2, 3, false), (64, 33, true)];
    for (name, gpu) in devices() {
        for (n, (num_buckets, max_distance, bidirectional)) in all.into_iter().enumerate() {
            let buckets = Buckets { num_buckets, max_distance, bidirectional };
            for (m, lengths) in [(300, 420), (1, 1500), (70, 33), (5, 5)].into_iter().enumerate() {
                let mut random = Random(100 * n as u64 + m as u64);
                let dtype = DTYPES[(n + m) % 3];
                // The smallest kernels, and of the first kind those of a usual head dimension.
                let s = shape(1, (2, 1), lengths, if n == 0 { 64 } else { 32 });
                let mut problem = Full::new(s, dtype).buckets(buckets);
                problem.causal = random.below(2) == 0;
                if m == 0 {
                    problem = problem.ragged(Ragged { total_q: 0, total_k: 0 });
                }
                check(name, &gpu, &Case::new(problem, &mut random));
            }
        }
    }
}

#[test]
fn every_head_dim_is_padded_inside_the_kernel() {
    for (n, head_dim) in [4, 20, 32, 60, 72, 96, 128, 160, 192, 256].into_iter().enumerate() {
        let mut random = Random(n as u64);
        let dtype = DTYPES[n % 3];
        let problem = Full::new(shape(2, (2, 1), (67, 131), head_dim), dtype).causal();
        check_on_all(&Case::new(problem, &mut random));
    }
}

#[test]
fn odd_head_dims_and_strides_load_by_elements_in_every_dtype() {
    for (n, dtype) in DTYPES.into_iter().enumerate() {
        for head_dim in [1, 5, 13, 31] {
            let mut random = Random(n as u64);
            let s = shape(2, (3, 1), (33, 35), head_dim);
            let mut problem = Full::new(s, dtype);
            check_on_all(&Case::new(problem, &mut random));
            // Gaps between rows, heads and sequences.
            let odd = |seqlen: usize, heads: usize| {
                let row = heads * (head_dim + 3) + 2;
                Strides { batch: seqlen * row + 5, seqlen: row, head: head_dim + 3 }
            };
            problem.layout =
                Layout { q: odd(33, 3), k: odd(35, 1), v: odd(35, 1), out: odd(33, 3) };
            check_on_all(&Case::new(problem, &mut random));
        }
    }
}

#[test]
fn tensors_may_begin_at_any_element() {
    for (name, gpu) in devices() {
        for dtype in DTYPES {
            let mut random = Random(5);
            let case = Case::new(Full::new(shape(1, (2, 2), (9, 11), 32), dtype), &mut random);
            let plan = case.problem.plan_webgpu(&gpu).unwrap();
            // Guards of so many bytes; those of key_valid and lse must suit f32 too.
            for guard in [256, 272, 260, 4, 12] {
                let got = raw::run_guarded(&gpu, &plan, &case, guard).unwrap();
                let (out, lse) = errors(&got, &case.reference());
                assert!(
                    out <= tolerance(dtype) && lse <= LSE,
                    "{name}, {dtype}, {guard}: {out:e} {lse:e}"
                );
            }
        }
    }
}

#[test]
fn few_queries_over_many_keys_split_the_keys_and_combine() {
    for (name, gpu) in devices() {
        for (n, (seqlen_q, seqlen_k)) in
            [(1, 1024), (3, 1500), (20, 2049), (40, 1100)].into_iter().enumerate()
        {
            for dtype in DTYPES {
                let mut random = Random(n as u64);
                let mut problem =
                    Full::new(shape(1, (4, 2), (seqlen_q, seqlen_k), 64), dtype).causal();
                if n == 2 {
                    // Whole splits in which no row sees a key.
                    problem.window = Window::left(300);
                }
                if name != "own" {
                    let plan = problem.plan_webgpu(&gpu).unwrap();
                    assert!(plan.workspace_bytes() > 0, "{name}: {}", plan.describe());
                }
                check(name, &gpu, &Case::new(problem, &mut random));
            }
        }
        let mut random = Random(9);
        let problem = Full::new(shape(3, (2, 2), (5, 1300), 40), DType::F32)
            .ragged(Ragged { total_q: 0, total_k: 0 });
        check(name, &gpu, &Case::new(problem.alibi(), &mut random));
        let problem = Full::new(shape(2, (2, 2), (5, 1300), 33), DType::F16).key_padding();
        check(name, &gpu, &Case::new(problem, &mut random));
    }
}

#[test]
fn empty_sequences_and_rows_give_zero_and_minus_infinity() {
    for (name, gpu) in devices() {
        for (seqlen_q, seqlen_k) in [(3, 0), (0, 3), (0, 0), (40, 5)] {
            let mut random = Random(1);
            let case = Case::new(
                Full::new(shape(2, (2, 1), (seqlen_q, seqlen_k), 32), DType::F32).causal(),
                &mut random,
            );
            let got = case.problem.run_webgpu(&gpu, &case.inputs()).unwrap();
            assert_eq!(
                errors(&got, &case.reference()).1,
                errors(&got, &case.reference()).1,
                "{name}"
            );
            let (out, lse) = errors(&got, &case.reference());
            assert!(out <= 5e-6 && lse <= LSE, "{name}, {seqlen_q} x {seqlen_k}: {out:e} {lse:e}");
        }
        let mut random = Random(2);
        let case = Case::new(Full::new(shape(0, (2, 1), (4, 4), 32), DType::F32), &mut random);
        assert!(case.problem.run_webgpu(&gpu, &case.inputs()).unwrap().out.is_empty());
        let mut case = Case::new(
            Full::new(shape(2, (2, 1), (4, 40), 32), DType::F32).key_padding(),
            &mut random,
        );
        case.key_valid = Some([vec![0; 40], vec![1; 40]].concat());
        check(name, &gpu, &case);
        let mut case = Case::new(Full::new(shape(1, (1, 1), (3, 33), 32), DType::F32), &mut random);
        case.problem.bias = Some(Bias { per_batch: false, per_head: false });
        case.bias = Some(
            [vec![f32::NEG_INFINITY; 33], vec![0.5; 33], vec![f32::NEG_INFINITY; 32], vec![1.0]]
                .concat(),
        );
        check(name, &gpu, &case);
    }
}

#[test]
fn large_scores_and_one_huge_key_lose_nothing() {
    for factor in [30.0, 100.0] {
        let mut random = Random(3);
        let mut case = Case::new(
            Full::new(shape(1, (2, 2), (65, 97), 64), DType::F32).softmax_scale(1.0),
            &mut random,
        );
        case.q.iter_mut().for_each(|x| *x *= factor);
        // Scores of ±1e4 leave one key per row; rounding them moves exp by 1e-3.
        for (name, gpu) in devices() {
            let got = case.problem.run_webgpu(&gpu, &case.inputs()).unwrap();
            let (out, lse) = errors(&got, &case.reference());
            let rounding = f64::from(factor) * 64.0 * f64::from(f32::EPSILON) * 8.0;
            assert!(out <= 5e-6 + rounding && lse <= LSE, "{name}: {out:e} {lse:e}");
        }
    }
}

#[test]
fn nan_in_one_row_stays_with_the_rows_that_see_it() {
    for (name, gpu) in devices() {
        let mut random = Random(4);
        // The second list of keys is split.
        for (seqlen_k, tensor, at) in [
            (70, "q", 37),
            (70, "k", 41),
            (70, "v", 45),
            (70, "v", 3),
            (70, "k inf", 50),
            (70, "v inf", 69),
            (1100, "q", 37),
            (1100, "k", 1040),
            (1100, "v", 1040),
        ] {
            let problem = Full::new(shape(1, (1, 1), (70, seqlen_k), 32), DType::F32).causal();
            let mut case = Case::new(problem, &mut random);
            let value = if tensor.ends_with("inf") { f32::INFINITY } else { f32::NAN };
            match tensor.as_bytes()[0] {
                b'q' => case.q[at * 32 + 7] = value,
                b'k' => case.k[at * 32 + 7] = value,
                _ => case.v[at * 32 + 7] = value,
            }
            let poisoned = case.reference();
            let got = case.problem.run_webgpu(&gpu, &case.inputs()).unwrap();
            for row in 0..70 {
                let is = |x: &[f64]| x[row * 32..][..32].iter().all(|x| x.is_finite());
                let finite = got.out[row * 32..][..32].iter().all(|x| x.is_finite());
                assert_eq!(finite, is(&poisoned.out), "{name}: {tensor}[{at}], row {row}");
                if finite {
                    let row = row * 32..row * 32 + 32;
                    let same = got.out[row.clone()]
                        .iter()
                        .zip(&poisoned.out[row])
                        .all(|(&g, &e)| (f64::from(g) - e).abs() < 1e-5);
                    assert!(same, "{name}: {tensor}[{at}] changed another row");
                }
            }
        }
    }
}

#[test]
fn bindings_beyond_the_limit_are_computed_in_parts_or_declined_with_the_numbers() {
    for (n, bhsd) in [false, true].into_iter().enumerate() {
        let mut random = Random(n as u64);
        let s = shape(5, (4, 2), (33, 65), 64);
        let mut problem = Full::new(s, DType::F32).alibi().key_padding();
        problem.bias = Some(Bias { per_batch: true, per_head: true });
        if bhsd {
            problem.layout = Layout::bhsd(&s);
        }
        let case = Case::new(problem, &mut random);
        // One sequence's q has 33·4·64 f32 = 33,792 bytes, one head group of it half.
        let limits = [100_000, 36_000];
        for limit in limits.into_iter().chain(bhsd.then_some(20_000)) {
            for (cpu, name) in [(true, "own"), (false, "gpu")] {
                let Some(gpu) = device_with(|caps| Caps {
                    max_binding_size: limit,
                    cpu: cpu && caps.cpu,
                    ..caps
                }) else {
                    return;
                };
                let plan = problem.plan_webgpu(&gpu).unwrap();
                assert!(plan.describe().contains("dispatches"), "{}", plan.describe());
                check(name, &gpu, &case);
            }
        }
        let Some(gpu) = device_with(|caps| Caps { max_binding_size: 4096, ..caps }) else { return };
        let why = problem.plan_webgpu(&gpu).unwrap_err().to_string();
        assert!(why.contains("declined") && why.contains("4096"), "{why}");
    }
}

#[test]
fn a_grid_folded_at_seven_gives_the_same() {
    let mut random = Random(8);
    let case =
        Case::new(Full::new(shape(2, (4, 2), (200, 70), 64), DType::F32).causal(), &mut random);
    for cpu in [true, false] {
        let Some(gpu) = device_with(|caps| Caps {
            max_workgroups_per_dimension: 7,
            cpu: cpu && caps.cpu,
            ..caps
        }) else {
            return;
        };
        check("folded", &gpu, &case);
    }
}

#[test]
fn a_launch_repeats_bit_for_bit() {
    for (name, gpu) in devices() {
        let mut random = Random(10);
        let case = Case::new(
            Full::new(shape(1, (2, 1), (100, 1100), 64), DType::F32).causal(),
            &mut random,
        );
        let first = case.problem.run_webgpu(&gpu, &case.inputs()).unwrap();
        for _ in 0..20 {
            assert!(case.problem.run_webgpu(&gpu, &case.inputs()).unwrap() == first, "{name}");
        }
    }
}

#[test]
fn the_second_plan_of_a_configuration_comes_from_the_cache() {
    for (name, gpu) in devices() {
        let problem = Full::new(shape(1, (2, 1), (100, 100), 64), DType::F32);
        let first = problem.plan_webgpu(&gpu).unwrap();
        let again =
            Full { causal: true, shape: Shape { seqlen_q: 77, ..problem.shape }, ..problem };
        let again = Full { layout: Layout::bshd(&again.shape), ..again };
        assert_eq!(first.config(), again.plan_webgpu(&gpu).unwrap().config(), "{name}");
    }
}

#[test]
fn a_sequence_of_65536_runs_in_linear_memory() {
    let Some(gpu) = device() else { return };
    let (seqlen, head_dim) = (65536, 32);
    let mut random = Random(11);
    let problem = Full::new(shape(1, (1, 1), (seqlen, seqlen), head_dim), DType::F32).causal();
    let case = Case::new(problem, &mut random);
    let plan = problem.plan_webgpu(gpu).unwrap();
    // The scores would take 16 GiB.
    assert!(plan.workspace_bytes() + plan.owned_bytes() < 64 << 20, "{}", plan.describe());
    let got = problem.run_webgpu(gpu, &case.inputs()).unwrap();
    // Rows from the beginning, the middle and the end, each as a problem of its own.
    for end in [64, 33000, seqlen] {
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
        let mine = longhand::full::Output {
            out: got.out[rows.start * head_dim..rows.end * head_dim].to_vec(),
            lse: got.lse[rows].to_vec(),
        };
        // So many terms cost a plain f32 sum digits too: flash-attention's rule, twice its error.
        let expected = part.reference();
        let naive = errors(&part.problem.reference(&part.inputs()).unwrap(), &expected);
        let (out, lse) = errors(&mine, &expected);
        let within = out <= 5e-6f64.max(2.0 * naive.0) && lse <= LSE.max(2.0 * naive.1);
        assert!(within, "rows up to {end}: {out:e} {lse:e}, plain f32: {naive:?}");
        println!("rows up to {end}: {out:e} {lse:e}, plain f32: {naive:?}");
    }
}

#[test]
fn each_sequence_and_head_is_computed_as_if_it_were_alone() {
    for (name, gpu) in devices() {
        let mut random = Random(12);
        let s = shape(2, (4, 2), (70, 90), 64);
        let problem = Full::new(s, DType::F32).causal();
        let case = Case::new(problem, &mut random);
        let all = problem.run_webgpu(&gpu, &case.inputs()).unwrap();
        let alone = Full::new(shape(1, (1, 1), (70, 90), 64), DType::F32).causal();
        let rows = |x: &[f32], seqlen: usize, heads: usize, b: usize, h: usize| -> Vec<f32> {
            let row = |i: usize| ((b * seqlen + i) * heads + h) * 64;
            (0..seqlen).flat_map(|i| x[row(i)..row(i) + 64].to_vec()).collect()
        };
        for (b, h) in [(0, 0), (0, 3), (1, 1), (1, 2)] {
            let q = rows(&case.q, 70, 4, b, h);
            let (k, v) = (rows(&case.k, 90, 2, b, h / 2), rows(&case.v, 90, 2, b, h / 2));
            let one = alone.run_webgpu(&gpu, &longhand::full::Inputs::new(&q, &k, &v)).unwrap();
            assert_eq!(one.out, rows(&all.out, 70, 4, b, h), "{name}: sequence {b}, head {h}");
            assert_eq!(
                one.lse,
                all.lse[(b * 4 + h) * 70..][..70],
                "{name}: sequence {b}, head {h}"
            );
        }
    }
}
