//! Longformer's WebGPU kernels against the definition, on whatever adapter this machine has.
//!
//! Each property runs on the adapter as it is (`own`), as a GPU with WebGPU's guaranteed limits and
//! no features (`baseline`), and as a GPU with all that the adapter has (`wide`).

mod common;

use common::fixtures::{Forward, fixtures_of};
use common::longformer::{Case, errors, random_problem};
use common::longformer_webgpu::run_guarded;
use common::{Random, device, device_with, devices, devices_by_turns, guard, tolerance};
use longhand::longformer::{Inputs, Layout, Output};
use longhand::webgpu::{Caps, Context};
use longhand::{DType, Full, Longformer, Shape, Strides, Window};

/// Twice what a plain f32 evaluation of the fixtures stays below.
const LSE: f64 = 6e-7;

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Runs `case` from guarded buffers on `gpu` and holds it to the definition.
fn check(name: &str, gpu: &Context, case: &Case) -> Output<f32> {
    let p = &case.problem;
    let plan = p.plan_webgpu(gpu).unwrap();
    let got = run_guarded(gpu, &plan, case, guard::GUARD);
    let (out, lse) = errors(&got, &case.reference());
    let within = out <= tolerance(p.dtype) && lse <= LSE;
    assert!(within, "{name} ({}): out {out:.2e}, lse {lse:.2e}: {p:?}", plan.describe());
    got
}

#[test]
fn random_problems_that_mix_everything_agree_with_the_definition() {
    for (name, gpu) in devices() {
        for seed in 0..90 {
            let mut random = Random(seed);
            let problem = random_problem(&mut random, DTYPES[seed as usize % 3], 32);
            check(&format!("{name}, seed {seed}"), &gpu, &Case::new(problem, &mut random));
        }
    }
}

#[test]
fn fixtures_pass_the_programs_comparison_in_every_dtype() {
    for (n, file) in fixtures_of("longformer", 17).into_iter().enumerate() {
        for (d, dtype) in DTYPES.into_iter().enumerate() {
            let expected = Forward::of(&file, dtype);
            let problem = file.clone().into_longformer().unwrap();
            let p = Longformer { dtype, ..problem.problem.clone() };
            for (name, gpu) in devices_by_turns(n, d) {
                let got = p.run_webgpu(&gpu, &problem.inputs.as_inputs()).unwrap();
                let what = format!("{name}, {}, {dtype}", problem.name);
                expected.check(&problem.results(&got, None), &what);
            }
        }
    }
}

#[test]
fn every_head_dim_and_odd_rows_agree_with_the_definition() {
    for (name, gpu) in devices() {
        for (n, head_dim) in [1, 5, 13, 20, 33, 64, 96, 128, 160, 256].into_iter().enumerate() {
            let mut random = Random(n as u64);
            let mut p = Longformer::new([2, 77, 2, head_dim], 9, DTYPES[n % 3])
                .globals(11)
                .key_padding()
                .dilation(&[1, 3]);
            if head_dim % 4 != 0 {
                // Gaps between rows, heads and sequences.
                let row = 2 * (head_dim + 3) + 2;
                let odd = Strides { batch: 77 * row + 5, seqlen: row, head: head_dim + 3 };
                p.layout = Layout { k: odd, out: odd, q_global: odd, ..p.layout };
            }
            check(name, &gpu, &Case::new(p, &mut random));
        }
    }
}

#[test]
fn tensors_may_begin_at_any_element() {
    for (name, gpu) in devices() {
        for dtype in DTYPES {
            let mut random = Random(5);
            let p = Longformer::new([2, 41, 1, 32], 4, dtype).globals(3).key_padding();
            let case = Case::new(p, &mut random);
            let plan = case.problem.plan_webgpu(&gpu).unwrap();
            for guard in [256, 272, 260, 4, 12] {
                let got = run_guarded(&gpu, &plan, &case, guard);
                let (out, lse) = errors(&got, &case.reference());
                let within = out <= tolerance(dtype) && lse <= LSE;
                assert!(within, "{name}, {dtype}, {guard}: {out:e} {lse:e}");
            }
        }
    }
}

#[test]
fn global_rows_over_long_sequences_are_split_and_combined() {
    for (name, gpu) in devices() {
        for (n, globals) in [1, 3, 20, 70].into_iter().enumerate() {
            for causal in [false, true] {
                let mut random = Random(n as u64);
                let mut p = Longformer::new([1, 1500, 2, 32], 8, DTYPES[n % 3]).globals(globals);
                (p.causal, p.key_padding) = (causal, n == 2);
                check(name, &gpu, &Case::new(p, &mut random));
            }
        }
    }
}

/// The same from full attention, by its kernel: for equal tensors and shapes.
fn full(gpu: &Context, case: &Case, window: Window) -> longhand::full::Output<f32> {
    let p = &case.problem;
    let shape = Shape {
        batch: p.batch,
        heads_q: p.heads,
        heads_kv: p.heads,
        seqlen_q: p.seqlen,
        seqlen_k: p.seqlen,
        head_dim: p.head_dim,
    };
    let mut full = Full::new(shape, p.dtype).window(window);
    (full.causal, full.key_padding) = (p.causal, p.key_padding);
    let mut inputs = longhand::full::Inputs::new(&case.q, &case.k, &case.v);
    inputs.key_valid = case.key_valid.as_deref();
    full.run_webgpu(gpu, &inputs).unwrap()
}

fn assert_close(name: &str, got: &Output<f32>, other: &longhand::full::Output<f32>) {
    let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect();
    let (out, lse) = errors(got, &Output { out: wide(&other.out), lse: wide(&other.lse) });
    assert!(out <= 5e-6 && lse <= 2.0 * LSE, "{name}: out {out:.2e}, lse {lse:.2e}");
}

#[test]
fn what_full_attention_computes_too_is_the_same() {
    for (name, gpu) in devices() {
        for causal in [false, true] {
            let mut random = Random(3);
            let mut p = Longformer::new([2, 150, 2, 64], 149, DType::F32);
            p.causal = causal;
            let case = Case::new(p.clone(), &mut random);
            assert_close(
                "window >= seqlen",
                &check(name, &gpu, &case),
                &full(&gpu, &case, Window::FULL),
            );
            (p.left, p.right) = (7, 7);
            let case = Case::new(p.clone(), &mut random);
            assert_close(
                "window",
                &check(name, &gpu, &case),
                &full(&gpu, &case, Window::new(7, 7)),
            );
            let p = p.globals(150).shared_projections();
            let case = Case::new(p, &mut random);
            let case = Case {
                global_indices: Some((0..2).flat_map(|_| (0..150).rev()).collect()),
                ..case
            };
            assert_close("all global", &check(name, &gpu, &case), &full(&gpu, &case, Window::FULL));
        }
    }
}

#[test]
fn the_order_of_the_global_list_changes_no_bit() {
    for (name, gpu) in devices() {
        let mut random = Random(6);
        let case =
            Case::new(Longformer::new([1, 130, 2, 32], 10, DType::F32).globals(40), &mut random);
        let mut other = case.clone();
        other.global_indices.as_mut().unwrap().sort_unstable();
        other.global_indices.as_mut().unwrap().rotate_left(13);
        assert!(check(name, &gpu, &case) == check(name, &gpu, &other), "{name}");
    }
}

#[test]
fn a_dilation_of_one_is_none_and_a_launch_repeats_bit_for_bit() {
    for (name, gpu) in devices() {
        let mut random = Random(7);
        let p = Longformer::new([1, 700, 2, 32], 10, DType::F32).globals(4);
        let case = Case::new(p.clone(), &mut random);
        let one = Case { problem: p.clone().dilation(&[1, 1]), ..case.clone() };
        let first = check(name, &gpu, &case);
        assert!(first == check(name, &gpu, &one), "{name}");
        // Through the kernel for dilated heads: the second head's rows must not notice the first's.
        let mixed = Case { problem: p.dilation(&[3, 1]), ..case.clone() };
        let got = check(name, &gpu, &mixed);
        assert_eq!(got.lse[700..], first.lse[700..], "{name}");
        for _ in 0..10 {
            assert!(case.problem.run_webgpu(&gpu, &case.inputs()).unwrap() == first, "{name}");
        }
    }
}

#[test]
fn empty_rows_and_sequences_give_zero_and_minus_infinity() {
    for (name, gpu) in devices() {
        let mut random = Random(8);
        for shape in [[0, 5, 2, 32], [2, 0, 2, 32]] {
            let case = Case::new(Longformer::new(shape, 3, DType::F32).key_padding(), &mut random);
            let got = case.problem.run_webgpu(&gpu, &case.inputs()).unwrap();
            assert!(got.out.is_empty() && got.lse.is_empty());
        }
        let p = Longformer::new([3, 40, 1, 32], 2, DType::F32).globals(5).key_padding();
        let mut case = Case::new(p, &mut random);
        // Nothing valid; only one global valid; nothing global valid.
        let one = case.global_indices.as_ref().unwrap()[0] as usize;
        let valid = case.key_valid.as_mut().unwrap();
        valid[..80].fill(0);
        valid[40 + one] = 1;
        case.global_indices.as_mut().unwrap().copy_within(..5, 5);
        let third = case.global_indices.as_ref().unwrap()[10..].to_vec();
        for g in third.into_iter().filter(|&g| g >= 0) {
            case.key_valid.as_mut().unwrap()[80 + g as usize] = 0;
        }
        check(name, &gpu, &case);
    }
}

#[test]
fn nan_in_a_row_stays_with_the_rows_that_see_it() {
    for (name, gpu) in devices() {
        let mut random = Random(9);
        let p = Longformer::new([1, 90, 1, 32], 3, DType::F32).globals(4).key_padding();
        let clean = Case::new(p, &mut random);
        for at in [11, 45, 89] {
            for tensor in 0..6 {
                let mut case = clean.clone();
                let all = match tensor {
                    0 => &mut case.q,
                    1 => &mut case.k,
                    2 => &mut case.v,
                    _ => &mut case.global.as_mut().unwrap()[tensor - 3],
                };
                all[at * 32 + 5] = f32::NAN;
                let expected = case.reference();
                let got = case.problem.run_webgpu(&gpu, &case.inputs()).unwrap();
                for row in 0..90 {
                    let of = |finite: &dyn Fn(usize) -> bool| (row * 32..row * 32 + 32).all(finite);
                    let mine = of(&|i| got.out[i].is_finite());
                    let theirs = of(&|i| expected.out[i].is_finite());
                    assert_eq!(mine, theirs, "{name}: tensor {tensor}, NaN at {at}, row {row}");
                }
            }
        }
    }
}

#[test]
fn bindings_beyond_the_limit_are_declined_with_the_numbers() {
    let Some(gpu) = device_with(|caps| Caps { max_binding_size: 4096, ..caps }) else { return };
    let p = Longformer::new([1, 100, 2, 32], 4, DType::F32);
    let why = p.plan_webgpu(&gpu).unwrap_err().to_string();
    assert!(why.contains("declined") && why.contains("25600") && why.contains("4096"), "{why}");
}

#[test]
fn a_grid_folded_at_seven_gives_the_same() {
    let mut random = Random(10);
    let p = Longformer::new([2, 300, 2, 32], 20, DType::F32).globals(40).dilation(&[1, 4]);
    let case = Case::new(p, &mut random);
    for cpu in [true, false] {
        let Some(gpu) = device_with(|caps| Caps {
            max_workgroups_per_dimension: 7,
            cpu: cpu && caps.cpu,
            ..caps
        }) else {
            return;
        };
        // 7 · 7 workgroups are few: a smaller sequence, or it is declined.
        match case.problem.plan_webgpu(&gpu) {
            Ok(_) => drop(check("folded", &gpu, &case)),
            Err(why) => assert!(why.to_string().contains("workgroups"), "{why}"),
        }
    }
}

#[test]
fn a_sequence_of_262144_runs_in_linear_memory() {
    let Some(gpu) = device() else { return };
    let (seqlen, head_dim, window) = (262_144, 32, 16);
    let mut random = Random(11);
    let p = Longformer::new([1, seqlen, 1, head_dim], window, DType::F32).globals(2);
    let mut case = Case::new(p, &mut random);
    case.global_indices = Some(vec![200_000, 5]);
    let plan = case.problem.plan_webgpu(gpu).unwrap();
    let bytes = plan.workspace_bytes() + plan.owned_bytes();
    // Four tensors of 32 MiB; the scores of the band alone would take 33 MiB a head.
    assert!(bytes < 4 * (32 << 20), "{bytes} bytes: {}", plan.describe());
    let got = case.problem.run_webgpu(gpu, &case.inputs()).unwrap();
    // Local rows, each from the keys that it sees.
    let row = |x: &[f32], i: usize| x[i * head_dim..][..head_dim].to_vec();
    for i in [0usize, 4, 6, 20, 131_072, 199_990, 262_143] {
        let near = i.saturating_sub(window)..(i + window + 1).min(seqlen);
        let keys: Vec<usize> =
            near.filter(|j| ![200_000, 5].contains(j)).chain([5, 200_000]).collect();
        let (k, v): (Vec<f32>, Vec<f32>) = (
            keys.iter().flat_map(|&j| row(&case.k, j)).collect(),
            keys.iter().flat_map(|&j| row(&case.v, j)).collect(),
        );
        assert_row(&got, i, &row(&case.q, i), &k, &v);
    }
    let [q, k, v] = case.global.as_ref().unwrap();
    for i in [5, 200_000] {
        assert_row(&got, i, &row(q, i), k, v);
    }
}

#[test]
fn heads_that_take_turns_in_a_texture_are_as_if_alone() {
    let Some(gpu) = device() else { return };
    // Two of six heads at a time on a CPU adapter, the second turn in both sequences.
    let (seqlen, heads, head_dim) = (7000, 3, 32);
    let mut random = Random(12);
    let p = Longformer::new([2, seqlen, heads, head_dim], 4, DType::F32).globals(3).key_padding();
    let case = Case::new(p.clone(), &mut random);
    let got = p.run_webgpu(gpu, &case.inputs()).unwrap();
    let one = Longformer::new([1, seqlen, 1, head_dim], 4, DType::F32).globals(3).key_padding();
    let bytes = |p: &Longformer| p.plan_webgpu(gpu).unwrap().owned_bytes();
    assert!(bytes(&p) < 3 * bytes(&one), "{} of {} for one head", bytes(&p), bytes(&one));
    for (b, h) in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)] {
        let of_head = |x: &[f32]| -> Vec<f32> {
            let row = |i| &x[((b * seqlen + i) * heads + h) * head_dim..][..head_dim];
            (0..seqlen).flat_map(row).copied().collect()
        };
        let alone = Case {
            q: of_head(&case.q),
            k: of_head(&case.k),
            v: of_head(&case.v),
            global: case.global.as_ref().map(|all| all.each_ref().map(|x| of_head(x))),
            global_indices: case.global_indices.as_ref().map(|all| all[3 * b..][..3].to_vec()),
            key_valid: case.key_valid.as_ref().map(|all| all[b * seqlen..][..seqlen].to_vec()),
            problem: one.clone(),
        };
        let expected = one.run_webgpu(gpu, &alone.inputs()).unwrap();
        assert!(of_head(&got.out) == expected.out, "sequence {b}, head {h}");
        let lse = &got.lse[(b * heads + h) * seqlen..][..seqlen];
        assert!(lse == expected.lse, "lse of sequence {b}, head {h}");
    }
}

/// Row `i` of `got` is the attention of `q` over these keys.
fn assert_row(got: &Output<f32>, i: usize, q: &[f32], k: &[f32], v: &[f32]) {
    let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
    let d = q.len();
    let shape = Shape {
        batch: 1,
        heads_q: 1,
        heads_kv: 1,
        seqlen_q: 1,
        seqlen_k: k.len() / d,
        head_dim: d,
    };
    let (q, k, v) = (wide(q), wide(k), wide(v));
    let expected =
        Full::new(shape, DType::F32).reference(&longhand::full::Inputs::new(&q, &k, &v)).unwrap();
    let mine = Output { out: got.out[i * d..][..d].to_vec(), lse: vec![got.lse[i]] };
    let (out, lse) = errors(&mine, &Output { out: expected.out, lse: expected.lse });
    assert!(out <= 5e-6 && lse <= LSE, "row {i}: out {out:.2e}, lse {lse:.2e}");
}

#[test]
fn a_launch_refuses_tensors_that_do_not_fit() {
    let Some(gpu) = device() else { return };
    let mut random = Random(12);
    let case = Case::new(Longformer::new([1, 20, 1, 32], 2, DType::F32).globals(2), &mut random);
    let inputs = Inputs { q_global: None, ..case.inputs() };
    let why = case.problem.run_webgpu(gpu, &inputs).unwrap_err().to_string();
    assert!(why.contains("q_global"), "{why}");
}
