//! The WebGPU kernels of relative-position attention against the definition, on whatever adapter
//! this machine has.
//!
//! Each property runs on the adapter as it is (`own`), as a GPU with WebGPU's guaranteed limits and
//! no features (`baseline`), and as a GPU with all that the adapter has (`wide`).

#[path = "../common/mod.rs"]
mod common;
mod merge;
mod sinusoids;

use common::fixtures::Forward;
use common::relative::{
    self, Case, MIXTURES, TENSORS, check_reordered_fixtures, errors, odd, random_problem,
    random_targets,
};
use common::relative_webgpu::run_guarded;
use common::{Random, device, device_with, devices, devices_by_turns, guard, tolerance};
use longhand::transformer_xl::{Chunks, Inputs, Memory, Output};
use longhand::webgpu::{Caps, Context};
use longhand::{DType, Full, Strides, TransformerXl, Window};
use longhand_cli::results::Results;

/// Twice what a plain f32 evaluation, by the reference, of the random problems stays below.
const LSE: f64 = 1.5e-6;

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
        for seed in 0..180 {
            let mut random = Random(seed);
            let problem = random_problem(&mut random, seed as usize % MIXTURES, 32);
            check(&format!("{name}, seed {seed}"), &gpu, &Case::new(problem, &mut random));
        }
    }
}

#[test]
fn fixtures_pass_the_programs_comparison_in_every_dtype() {
    for (n, file) in relative::fixtures().into_iter().enumerate() {
        for (d, dtype) in DTYPES.into_iter().enumerate() {
            let expected = Forward::of(&file.clone().into(), dtype);
            for (name, gpu) in devices_by_turns(n, d) {
                let mut got = Results::new();
                for &stream in file.streams() {
                    let p = file.problem(stream, dtype);
                    let output = p.run_webgpu(&gpu, &file.inputs.as_inputs(stream)).unwrap();
                    file.put(&mut got, stream, &output);
                }
                expected.check(&got, &format!("{name}, {}, {dtype}", file.name));
            }
        }
    }
}

#[test]
fn queries_at_positions_of_their_own_agree_with_the_definition() {
    for (name, gpu) in devices() {
        // Mixtures with nothing, a memory, chunks and padding, and everything.
        for (mixture, head_dim) in [(0, 32), (2, 64), (4, 32), (8, 32)] {
            for n in 0..4 {
                let case = random_targets(100 * mixture as u64 + n, mixture, head_dim);
                check(name, &gpu, &case);
            }
        }
        // Few of them over many keys are split.
        let mut random = Random(1);
        let p = TransformerXl::xlnet([1, 600, 2, 32], 1500, DType::F32).segments().targets(20);
        check(name, &gpu, &Case::new(p, &mut random));
        // The other dtypes are those of the mixtures.
        check_reordered_fixtures(name, DType::F32, |p, inputs| p.run_webgpu(&gpu, inputs).unwrap());
    }
}

#[test]
fn every_head_dim_and_odd_rows_agree_with_the_definition() {
    for (name, gpu) in devices() {
        for (n, head_dim) in [1, 5, 13, 20, 33, 64, 96, 128, 160, 256].into_iter().enumerate() {
            let mut random = Random(n as u64);
            let mut p = TransformerXl::xlnet([2, 45, 2, head_dim], 20, DTYPES[n % 3])
                .memory(Memory { len: 20, rows: 21, start: 7 })
                .segments()
                .key_padding();
            if head_dim % 4 != 0 {
                // Gaps between rows, heads and sequences.
                p.layout.k = odd([45, 2, head_dim], 3);
                p.layout.v_memory = odd([21, 2, head_dim], 1);
                p.layout.r = odd([p.rows, 2, head_dim], 2);
                p.layout.out = odd([45, 2, head_dim], 3);
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
            let p = TransformerXl::conformer([2, 41, 1, 32], 9, dtype).key_padding();
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
fn few_queries_over_many_keys_are_split_and_combined() {
    for (name, gpu) in devices() {
        for (n, seqlen) in [1, 3, 20, 70].into_iter().enumerate() {
            let mut random = Random(n as u64);
            let p = TransformerXl::xlnet([1, seqlen, 2, 32], 1500, DTYPES[n % 3]).memory(Memory {
                len: 1400,
                rows: 1400,
                start: 13,
            });
            check(name, &gpu, &Case::new(p, &mut random));
            let p = p.segments().perm_mask().window(Window { left: Some(1200), right: None });
            check(name, &gpu, &Case::new(p, &mut random));
        }
    }
}

/// The same from full attention, by its kernel: for equal tensors and shapes.
fn full(gpu: &Context, case: &Case) -> longhand::full::Output<f32> {
    let p = &case.problem;
    let mut full = Full::new(p.shape, p.dtype).window(p.window).softmax_scale(p.softmax_scale);
    full.key_padding = p.key_padding;
    let [q, k, v] = ["q", "k", "v"].map(|name| case.tensor(name));
    let mut inputs = longhand::full::Inputs::new(q, k, v);
    inputs.key_valid = p.key_padding.then_some(&case.key_valid);
    full.run_webgpu(gpu, &inputs).unwrap()
}

fn assert_close(name: &str, got: &Output<f32>, other: (&[f32], &[f32])) {
    let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect();
    let (out, lse) = errors(got, &Output { out: wide(other.0), lse: wide(other.1) });
    assert!(out <= 5e-6 && lse <= LSE, "{name}: out {out:.2e}, lse {lse:.2e}");
}

#[test]
fn without_positions_and_biases_it_is_full_attention() {
    for (name, gpu) in devices() {
        for memory in [0, 37] {
            let mut random = Random(3);
            for p in [
                TransformerXl::with_memory([2, 150, 2, 64], memory, DType::F32),
                TransformerXl::conformer([2, 150, 2, 64], memory, DType::F32).key_padding(),
                TransformerXl::conformer([1, 90, 2, 64], memory, DType::F32)
                    .window(Window::new(7, 9)),
            ] {
                let mut case = Case::new(p, &mut random);
                ["r", "bias_u", "bias_v"].iter().for_each(|x| case.tensor_mut(x).fill(0.0));
                let other = full(&gpu, &case);
                let got = case.problem.run_webgpu(&gpu, &case.inputs()).unwrap();
                assert_close(name, &got, (&other.out, &other.lse));
            }
        }
    }
}

#[test]
fn a_memory_of_its_own_or_in_a_ring_changes_no_bit() {
    for (name, gpu) in devices() {
        let mut random = Random(4);
        let p = TransformerXl::with_memory([2, 70, 2, 32], 45, DType::F32);
        let whole = Case::new(p, &mut random);
        let expected = check(name, &gpu, &whole);
        for (rows, start) in [(45, 0), (45, 44), (50, 21), (64, 60)] {
            let apart = whole.with_memory(Memory { len: 45, rows, start });
            assert!(check(name, &gpu, &apart) == expected, "{name}: {rows} rows from {start}");
        }
        let all = whole.with_memory(Memory { len: 115, rows: 115, start: 9 });
        assert!(check(name, &gpu, &all) == expected, "{name}: all keys");
    }
}

#[test]
fn rows_before_and_after_those_of_the_table_change_no_bit() {
    for (name, gpu) in devices() {
        let mut random = Random(5);
        let p = TransformerXl::conformer([1, 70, 2, 32], 11, DType::F32);
        for p in [p, p.clamp_len(20), p.window(Window::new(9, 4))] {
            let case = Case::new(p, &mut random);
            let expected = check(name, &gpu, &case);
            let mut moved = case.clone();
            (moved.problem.rows, moved.problem.distance_offset) =
                (p.rows + 8, p.distance_offset + 3);
            let nan = |rows: usize| vec![f32::NAN; rows * 64];
            *moved.tensor_mut("r") = [&nan(3)[..], case.tensor("r"), &nan(5)].concat();
            let got = moved.problem.run_webgpu(&gpu, &moved.inputs()).unwrap();
            assert!(got == expected, "{name}: {p:?}");
        }
    }
}

#[test]
fn a_segment_after_its_memory_is_the_end_of_the_long_sequence() {
    for (name, gpu) in devices() {
        let mut random = Random(6);
        let p = TransformerXl::with_memory([1, 150, 2, 32], 0, DType::F32);
        let long = Case::new(p, &mut random);
        let expected = check(name, &gpu, &long);
        for seqlen in [1, 8, 33, 90] {
            let p = TransformerXl::with_memory([1, seqlen, 2, 32], 150 - seqlen, DType::F32);
            let mut end = Case { problem: p, ..long.clone() };
            end.tensor_mut("q").drain(..(150 - seqlen) * 64);
            let got = end.problem.run_webgpu(&gpu, &end.inputs()).unwrap();
            let lse: Vec<f32> =
                expected.lse.chunks(150).flat_map(|x| x[150 - seqlen..].to_vec()).collect();
            assert_close(name, &got, (&expected.out[(150 - seqlen) * 64..], &lse));
        }
    }
}

#[test]
fn a_launch_repeats_bit_for_bit() {
    for (name, gpu) in devices() {
        let mut random = Random(7);
        let p = TransformerXl::xlnet([1, 300, 2, 32], 10, DType::F32).segments();
        let case = Case::new(p, &mut random);
        let first = check(name, &gpu, &case);
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
            let case = Case::new(TransformerXl::with_memory(shape, 3, DType::F32), &mut random);
            let got = case.problem.run_webgpu(&gpu, &case.inputs()).unwrap();
            assert!(got.out.is_empty() && got.lse.is_empty());
        }
        // No keys at all, and queries before the first key.
        for (keys, memory) in [(0, 0), (9, 0), (9, 9)] {
            let mut p = TransformerXl::with_memory([2, 20, 2, 32], 0, DType::F32);
            p.shape.seqlen_k = keys;
            let p = p.heads_kv(2).memory(Memory { len: memory, rows: memory, start: 0 });
            check(name, &gpu, &Case::new(p, &mut random));
        }
        let p = TransformerXl::xlnet([2, 40, 1, 32], 5, DType::F32).perm_mask().key_padding();
        for p in [p, p.query_stream()] {
            let mut case = Case::new(p, &mut random);
            // Nothing valid, and nothing permitted: the own position alone, or nothing.
            case.key_valid[..45].fill(0);
            case.perm_mask[2 * 40..].fill(u32::MAX);
            let got = check(name, &gpu, &case);
            let nothing = got.lse.iter().all(|x| *x == f32::NEG_INFINITY);
            assert!(nothing != p.own_position, "{name}");
        }
    }
}

#[test]
fn nan_stays_with_the_rows_that_see_it() {
    for (name, gpu) in devices() {
        let mut random = Random(9);
        let p = TransformerXl::xlnet([1, 80, 1, 32], 10, DType::F32)
            .memory(Memory { len: 10, rows: 10, start: 3 })
            .window(Window::new(5, 3))
            .key_padding()
            .segments();
        let clean = Case::new(p, &mut random);
        // Of the table, the rows of distances that are seen and of others.
        let places: [(&str, &[usize]); 6] = [
            ("q", &[0, 11, 79]),
            ("k", &[0, 45, 79]),
            ("v", &[0, 45, 79]),
            ("k_memory", &[0, 9]),
            ("v_memory", &[0, 9]),
            ("r", &[75, 79, 80, 84, 85, 0, 169]),
        ];
        for (tensor, rows) in places {
            for at in rows {
                let mut case = clean.clone();
                case.tensor_mut(tensor)[at * 32 + 5] = f32::NAN;
                let expected = case.reference();
                let got = case.problem.run_webgpu(&gpu, &case.inputs()).unwrap();
                for row in 0..80 {
                    let of = |finite: &dyn Fn(usize) -> bool| (row * 32..row * 32 + 32).all(finite);
                    let mine = of(&|i| got.out[i].is_finite());
                    let theirs = of(&|i| expected.out[i].is_finite());
                    assert_eq!(mine, theirs, "{name}: {tensor}, NaN in row {at}, row {row}");
                }
            }
        }
    }
}

#[test]
fn what_is_beyond_the_device_is_declined_with_the_numbers() {
    let Some(gpu) = device_with(|caps| Caps { max_binding_size: 4096, ..caps }) else { return };
    let p = TransformerXl::with_memory([1, 100, 2, 32], 0, DType::F32);
    let why = p.plan_webgpu(&gpu).unwrap_err().to_string();
    assert!(why.contains("declined") && why.contains("25600") && why.contains("4096"), "{why}");
}

#[test]
fn a_grid_folded_at_seven_gives_the_same() {
    let mut random = Random(10);
    let p = TransformerXl::xlnet([1, 90, 1, 32], 3, DType::F32).perm_mask().segments();
    let case = Case::new(p, &mut random);
    for cpu in [true, false] {
        let Some(gpu) = device_with(|caps| Caps {
            max_workgroups_per_dimension: 7,
            cpu: cpu && caps.cpu,
            ..caps
        }) else {
            return;
        };
        // 7 · 7 workgroups are few, and that many of 64 invocations copy the texels.
        check("folded", &gpu, &case);
        let large = TransformerXl::xlnet([1, 900, 1, 32], 3, DType::F32);
        let why = large.plan_webgpu(&gpu).unwrap_err().to_string();
        assert!(why.contains("workgroups"), "{why}");
    }
}

/// WebGPU counts nothing, so that time has to tell. It does where it grows with the work: on a CPU
/// adapter; a large GPU takes as long for all of so few tiles.
#[test]
fn the_window_leaves_out_tiles() {
    if !device().is_some_and(|gpu| gpu.caps().cpu) {
        return;
    }
    for cpu in [true, false] {
        let Some(gpu) = device_with(|caps| Caps { cpu: cpu && caps.cpu, ..caps }) else { return };
        let mut random = Random(13);
        let p = TransformerXl::conformer([1, 2000, 1, 32], 0, DType::F32);
        let mut time = |p: TransformerXl| {
            let case = Case::new(p, &mut random);
            p.time_webgpu(&gpu, &case.inputs(), 5).unwrap().best_ms
        };
        let all = time(p);
        let some = time(p.window(Window::new(32, 32)));
        let chunks = time(p.chunks(Chunks { size: 64, left: Some(0) }));
        assert!(some < all / 3.0 && chunks < all / 3.0, "{all} ms, {some} ms, {chunks} ms");
    }
}

#[test]
fn a_sequence_of_65536_runs_in_linear_memory() {
    let Some(gpu) = device() else { return };
    let (seqlen, head_dim) = (65_536, 32);
    let mut random = Random(11);
    let p = TransformerXl::with_memory([1, seqlen, 1, head_dim], 0, DType::F32)
        .window(Window { left: Some(600), right: Some(0) });
    let case = Case::new(p, &mut random);
    let plan = p.plan_webgpu(gpu).unwrap();
    let bytes = plan.workspace_bytes() + plan.owned_bytes();
    // Five tensors of 8 MiB; scores of one head would take 16 GiB.
    assert!(bytes < 5 * (8 << 20), "{bytes} bytes: {}", plan.describe());
    let got = p.run_webgpu(gpu, &case.inputs()).unwrap();
    for i in [0usize, 5, 601, 32_768, 65_535] {
        // The row by itself: one query, its keys as memory and itself.
        let first = i.saturating_sub(600);
        let one = TransformerXl::with_memory([1, 1, 1, head_dim], i - first, DType::F32);
        let rows = |name: &str, at: usize, n: usize| {
            case.tensor(name)[at * head_dim..(at + n) * head_dim].to_vec()
        };
        let mut row = Case::new(one, &mut random);
        *row.tensor_mut("q") = rows("q", i, 1);
        *row.tensor_mut("k") = rows("k", first, i - first + 1);
        *row.tensor_mut("v") = rows("v", first, i - first + 1);
        *row.tensor_mut("r") = rows("r", 0, i - first + 1);
        for name in ["bias_u", "bias_v"] {
            *row.tensor_mut(name) = case.tensor(name).to_vec();
        }
        let mine =
            Output { out: got.out[i * head_dim..][..head_dim].to_vec(), lse: vec![got.lse[i]] };
        let (out, lse) = errors(&mine, &row.reference());
        assert!(out <= 5e-6 && lse <= LSE, "row {i}: out {out:.2e}, lse {lse:.2e}");
    }
}

#[test]
fn a_launch_refuses_tensors_that_do_not_fit() {
    let Some(gpu) = device() else { return };
    let mut random = Random(12);
    let p = TransformerXl::xlnet([1, 20, 1, 32], 2, DType::F32).segments();
    let case = Case::new(p, &mut random);
    let inputs = Inputs { seg_k: None, ..case.inputs() };
    let why = p.run_webgpu(gpu, &inputs).unwrap_err().to_string();
    assert!(why.contains("seg_k"), "{why}");
    let inputs = Inputs { r: &case.tensor("r")[1..], ..case.inputs() };
    let why = p.run_webgpu(gpu, &inputs).unwrap_err().to_string();
    assert!(why.contains("r.len"), "{why}");
    let strides = Strides { seqlen: 0, ..p.layout.out };
    let shared = p.layout(longhand::transformer_xl::Layout { out: strides, ..p.layout });
    assert!(shared.plan_webgpu(gpu).unwrap_err().to_string().contains("layout.out"));
    assert_eq!(TENSORS.len(), case.tensors.len());
}
