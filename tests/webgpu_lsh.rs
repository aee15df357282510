//! LSH attention's WebGPU kernels against the definition, on whatever adapter this machine has.
//!
//! Each property runs on the adapter as it is (`own`), as a GPU with WebGPU's guaranteed limits and
//! no features (`baseline`), and as a GPU with all that the adapter has (`wide`).

mod common;

use common::fixtures::{Forward, fixtures_of};
use common::lsh::{
    Case, errors, lse_tolerance, random_problem, row_by_order, shared_qk_full, tolerance,
};
use common::lsh_webgpu::run_guarded;
use common::{Random, baseline_gpu, device, device_with, devices, devices_by_turns, guard};
use longhand::lsh::webgpu::Args;
use longhand::lsh::{Inputs, Layout, Output, Wrap};
use longhand::webgpu::{Binding, Caps, Context};
use longhand::{DType, Lsh, Strides};

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Holds `got` to the definition: its buckets, the order that they give, and with them the rest.
fn compare_with_reference(name: &str, case: &Case, got: &Output<f32>) {
    let p = &case.problem;
    let mut expected = case.reference();
    if p.is_hashed() {
        case.check_buckets(name, &got.buckets, &expected.buckets);
        // Those of invalid positions do not count as given.
        expected = case.with_buckets(&got.buckets).reference();
    }
    assert!(got.order == expected.order, "{name}: the order differs: {p:?}");
    let (out, lse) = errors(got, &expected);
    let within = out <= tolerance(p) && lse <= lse_tolerance(p);
    assert!(within, "{name}: out {out:.2e}, lse {lse:.2e}: {p:?}");
}

/// Runs `case` from guarded buffers on `gpu` and holds it to the definition.
fn check(name: &str, gpu: &Context, case: &Case) -> Output<f32> {
    let plan = case.problem.plan_webgpu(gpu).unwrap();
    let got = run_guarded(gpu, &plan, case, guard::GUARD);
    compare_with_reference(&format!("{name} ({})", plan.describe()), case, &got);
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
    for (n, file) in fixtures_of("lsh", 18).into_iter().enumerate() {
        for (d, dtype) in DTYPES.into_iter().enumerate() {
            let expected = Forward::of(&file, dtype);
            let problem = file.clone().into_lsh().unwrap();
            let p = Lsh { dtype, ..problem.problem.clone() };
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
            let mut p = Lsh::new([2, 77, 2, head_dim], 16, 2, DTYPES[n % 3]).key_padding();
            p.num_buckets = vec![4, 6];
            (p.causal, p.duplicates_once) = (n % 2 == 0, n == 5);
            if head_dim % 4 != 0 {
                // Gaps between rows, heads and sequences.
                let row = 2 * (head_dim + 3) + 2;
                let odd = Strides { batch: 77 * row + 5, seqlen: row, head: head_dim + 3 };
                p.layout = Layout { qk: odd, out: odd, ..p.layout };
            }
            check(name, &gpu, &Case::new(p, &mut random));
        }
    }
}

/// Longer than what the kernels for CPU adapters gather at once, and the parts end within chunks'
/// neighbours, blocks of the hash and the sequence.
#[test]
fn a_round_of_several_parts_agrees_with_the_definition() {
    let Some(gpu) = device() else { return };
    for (n, dtype) in [DType::F16, DType::BF16, DType::F16].into_iter().enumerate() {
        let mut random = Random(20 + n as u64);
        let p = Lsh::new([1, 2995, 2, 8], 16, 2, dtype).num_buckets(&[16, 6]).key_padding();
        let wrap = if n == 1 { Wrap::PerRound } else { Wrap::AcrossRounds };
        let (before, after) = [(1, 0), (2, 1), (0, 0)][n];
        let p = Lsh { causal: n == 2, ..p.chunks(before, after).wrap(wrap) };
        let plan = p.plan_webgpu(gpu).unwrap();
        let rows = (p.batch * p.heads * p.seqlen) as u64;
        if gpu.caps().cpu {
            let whole = rows * 2 * 32 * 4;
            assert!(plan.owned_bytes() < whole * 8 / 10, "{} of {whole}", plan.owned_bytes());
        }
        check("parts", gpu, &Case::new(p, &mut random));
    }
}

#[test]
fn tensors_may_begin_at_any_element() {
    for (name, gpu) in devices() {
        for dtype in DTYPES {
            let mut random = Random(5);
            let p = Lsh::new([2, 41, 1, 32], 8, 2, dtype).key_padding();
            let case = Case::new(p, &mut random);
            let plan = case.problem.plan_webgpu(&gpu).unwrap();
            for guard in [256, 272, 260, 4, 12] {
                let got = run_guarded(&gpu, &plan, &case, guard);
                compare_with_reference(&format!("{name}, {dtype}, {guard}"), &case, &got);
            }
        }
    }
}

#[test]
fn the_order_is_the_stable_one_whatever_the_buckets() {
    for (name, gpu) in devices() {
        for seqlen in [255, 256, 257, 511, 513, 1100] {
            // One digit, two and three; the second has an odd number of bits.
            for buckets in [2, 254, 256, 300, 1 << 17] {
                let mut random = Random(seqlen as u64 + buckets as u64);
                let p = Lsh::new([1, seqlen, 2, 4], 32, 2, DType::F32).buckets_given();
                let p = Lsh { key_padding: buckets == 300, ..p.num_buckets(&[buckets]) };
                let mut case = Case::new(p, &mut random);
                for spread in [1, 3, buckets] {
                    let all = case.buckets.as_mut().unwrap();
                    let first = random.below(buckets - spread.min(buckets) + 1);
                    let draw = || (first + random.below(spread.min(buckets))) as i32;
                    all.fill_with(draw);
                    check(name, &gpu, &case);
                }
            }
        }
    }
}

#[test]
fn buckets_out_of_range_are_sorted_last() {
    for (name, gpu) in devices() {
        let mut random = Random(3);
        let p = Lsh::new([1, 100, 1, 4], 32, 1, DType::F32).num_buckets(&[6]).buckets_given();
        let mut case = Case::new(p, &mut random);
        let plan = case.problem.plan_webgpu(&gpu).unwrap();
        let buckets = case.buckets.as_mut().unwrap();
        (buckets[3], buckets[60], buckets[90]) = (-1, i32::MAX, 6);
        let order = run_guarded(&gpu, &plan, &case, guard::GUARD).order;
        assert_eq!(order[97..], [3, 60, 90], "{name}");
    }
}

#[test]
fn one_bucket_whose_chunks_see_everything_is_full_attention_with_shared_queries_and_keys() {
    for (name, gpu) in devices() {
        for causal in [false, true] {
            // Nothing sorted; two chunks that see each other; five, in three rounds alike.
            for (seqlen, chunk, rounds) in [(96, 96, 2), (96, 48, 1), (150, 30, 3)] {
                let mut random = Random(3);
                let mut p = Lsh::new([2, seqlen, 2, 64], chunk, rounds, DType::F32)
                    .chunks(seqlen.div_ceil(chunk) - 1, 0)
                    .wrap(Wrap::PerRound)
                    .buckets_given();
                p.causal = causal;
                let mut case = Case::new(p, &mut random);
                case.buckets.iter_mut().flatten().for_each(|x| *x = 1);
                let got = check(name, &gpu, &case);
                let (full, k, bias) = shared_qk_full(&case);
                let mut inputs = longhand::full::Inputs::new(&case.qk, &k, &case.v);
                inputs.bias = Some(&bias);
                let other = full.run_webgpu(&gpu, &inputs).unwrap();
                let more = (case.problem.rounds() as f64).ln();
                // Where a causal row has nothing but itself, −1e5 leaves no digits for its score.
                let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
                let lse = wide(&other.lse).iter().map(|x| x + more).collect();
                let expected = Output {
                    out: wide(&other.out),
                    lse_rounds: wide(&got.lse_rounds),
                    lse,
                    buckets: vec![],
                    order: vec![],
                };
                let mut mine = got.clone();
                for (row, lse) in mine.lse.iter_mut().enumerate() {
                    if causal && row % seqlen == 0 {
                        *lse = expected.lse[row] as f32;
                    }
                }
                let (out, lse) = errors(&mine, &expected);
                assert!(out <= 5e-6 && lse <= 2e-6, "{name}: out {out:.2e}, lse {lse:.2e}");
            }
        }
    }
}

#[test]
fn the_order_of_the_rounds_changes_nothing_but_rounding() {
    for (name, gpu) in devices() {
        let mut random = Random(4);
        let p = Lsh::new([1, 200, 2, 32], 32, 4, DType::F32).wrap(Wrap::PerRound).buckets_given();
        let case = Case::new(p.num_buckets(&[16]), &mut random);
        let mut other = case.clone();
        let permutation = [2, 0, 3, 1];
        for (n, x) in other.buckets.as_mut().unwrap().iter_mut().enumerate() {
            let (row, i) = (n / 200, n % 200);
            let from = row / 4 * 4 + permutation[row % 4];
            *x = case.buckets.as_ref().unwrap()[from * 200 + i];
        }
        let (a, b) = (check(name, &gpu, &case), check(name, &gpu, &other));
        let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
        let rows: Vec<f32> = (0..8)
            .flat_map(|row: usize| {
                a.lse_rounds[(row / 4 * 4 + permutation[row % 4]) * 200..][..200].to_vec()
            })
            .collect();
        assert!(b.lse_rounds == rows, "{name}: a round depends on which it is");
        let expected = Output {
            out: wide(&a.out),
            lse: wide(&a.lse),
            lse_rounds: wide(&b.lse_rounds),
            buckets: vec![],
            order: vec![],
        };
        let (out, lse) = errors(&b, &expected);
        assert!(out <= 2e-6 && lse <= 1e-6, "{name}: out {out:.2e}, lse {lse:.2e}");
    }
}

#[test]
fn a_causal_row_never_sees_the_future() {
    for (name, gpu) in devices() {
        for dtype in DTYPES {
            let mut random = Random(6);
            let p = Lsh::new([1, 150, 2, 32], 32, 3, dtype).causal().buckets_given();
            let case = Case::new(p.chunks(1, 1), &mut random);
            let before = check(name, &gpu, &case);
            for (first, value) in [(149, 5.0), (80, -3.0), (80, f32::NAN), (33, f32::INFINITY)] {
                let mut other = case.clone();
                other.qk[first * 64..].fill(value);
                other.v[first * 64..].fill(value);
                let after = other.problem.run_webgpu(&gpu, &other.inputs()).unwrap();
                let what = format!("{name}, {dtype}: {value} from {first} on");
                // The tile kernel takes another way to the sum where some value is not finite.
                let close =
                    tolerance(&case.problem) as f32 * if value.is_finite() { 0.0 } else { 3.0 };
                let rows = before.out.iter().zip(&after.out).take(first * 64);
                let same = |(x, y): (&f32, &f32)| (x - y).abs() <= close;
                assert!(rows.into_iter().all(same), "{what}");
                for head in 0..2 {
                    let rows = head * 150..head * 150 + first;
                    assert!(before.lse[rows.clone()] == after.lse[rows], "{what}");
                }
            }
        }
    }
}

#[test]
fn a_launch_repeats_bit_for_bit() {
    for (name, gpu) in devices() {
        let mut random = Random(7);
        let p = Lsh::new([1, 700, 2, 32], 64, 2, DType::F32);
        let case = Case::new(p, &mut random);
        let first = check(name, &gpu, &case);
        for _ in 0..10 {
            assert!(case.problem.run_webgpu(&gpu, &case.inputs()).unwrap() == first, "{name}");
        }
    }
}

#[test]
fn a_row_that_sees_only_itself_is_its_own_value() {
    for (name, gpu) in devices() {
        for rounds in [1, 3] {
            let mut random = Random(8);
            let p = Lsh::new([2, 90, 2, 32], 16, rounds, DType::F32).key_padding();
            let mut case = Case::new(p, &mut random);
            case.key_valid.as_mut().unwrap().fill(0);
            let got = check(name, &gpu, &case);
            let apart = |(x, y): (&f32, &f32)| (x - y).abs() > 1e-6 * x.abs();
            let exact = rounds == 1 && got.out == case.v;
            assert!(exact || rounds > 1 && !got.out.iter().zip(&case.v).any(apart), "{name}");
            let expected = -1e5 + (rounds as f32).ln();
            let off = got.lse.iter().map(|x| (x - expected).abs() / 1e5).fold(0.0, f32::max);
            assert!(off <= 3e-7, "{name}: {off:e}");
        }
    }
}

#[test]
fn empty_problems_have_empty_results() {
    for (_, gpu) in devices() {
        let mut random = Random(8);
        for shape in [[0, 50, 2, 32], [2, 0, 2, 32]] {
            let case = Case::new(Lsh::new(shape, 16, 2, DType::F32).key_padding(), &mut random);
            let got = case.problem.run_webgpu(&gpu, &case.inputs()).unwrap();
            assert!(got.out.is_empty() && got.lse.is_empty() && got.order.is_empty());
            case.problem.time_webgpu(&gpu, &case.inputs(), 1).unwrap();
        }
    }
}

#[test]
fn nan_in_a_row_stays_with_the_rows_that_see_it() {
    for (name, gpu) in devices() {
        let mut random = Random(9);
        let p = Lsh::new([1, 90, 1, 32], 16, 2, DType::F32).key_padding().causal().buckets_given();
        let clean = Case::new(p, &mut random);
        for at in [11, 45, 89] {
            // What weight each row gives to the position's value.
            let mut weights = clean.clone();
            weights.v.fill(0.0);
            weights.v[at * 32..][..32].fill(1.0);
            let weights = weights.reference().out;
            for of_v in [false, true] {
                let mut case = clean.clone();
                let all = if of_v { &mut case.v } else { &mut case.qk };
                all[at * 32 + 5] = f32::NAN;
                let got = case.problem.run_webgpu(&gpu, &case.inputs()).unwrap();
                for row in 0..90 {
                    let finite = (row * 32..row * 32 + 32).all(|i| got.out[i].is_finite());
                    // The row itself: its query; and a row that sees nothing else.
                    let sees = weights[row * 32] > 0.0 || (!of_v && row == at && row > 0);
                    let what = if of_v { "v" } else { "qk" };
                    assert_eq!(finite, !sees, "{name}: NaN in {what} at {at}, row {row}");
                }
            }
        }
    }
}

#[test]
fn what_a_device_does_not_take_is_declined_with_the_numbers() {
    let Some(gpu) = device_with(|caps| Caps { max_binding_size: 4096, ..caps }) else { return };
    let declined = |p: &Lsh| {
        let why = p.plan_webgpu(&gpu).unwrap_err().to_string();
        assert!(why.contains("declined"), "{why}");
        why
    };
    let why = declined(&Lsh::new([1, 100, 2, 32], 4, 1, DType::F32));
    assert!(why.contains("25600") && why.contains("4096"), "{why}");
    let small = Lsh::new([1, 20, 1, 1], 4, 1, DType::F32);
    small.plan_webgpu(&gpu).unwrap();
    let why = declined(&Lsh { num_hashes: 100, ..small.clone() });
    assert!(why.contains("8000"), "{why}");
    let why = declined(&Lsh { num_hashes: 1025, seqlen: 5, ..small.clone() });
    assert!(why.contains("1025"), "{why}");
    let why = declined(&Lsh { mask_value: -1e30, ..small.clone() });
    assert!(why.contains("mask_value"), "{why}");
    let why = declined(&Lsh { chunks_before: 1 << 30, ..small });
    assert!(why.contains("2^30"), "{why}");
}

#[test]
fn a_grid_folded_at_seven_gives_the_same() {
    let mut random = Random(10);
    let p = Lsh::new([1, 200, 1, 32], 64, 2, DType::F32);
    let case = Case::new(p, &mut random);
    for cpu in [true, false] {
        let Some(gpu) = device_with(|caps| Caps {
            max_workgroups_per_dimension: 7,
            cpu: cpu && caps.cpu,
            ..caps
        }) else {
            return;
        };
        check("folded", &gpu, &case);
        let many = Lsh { seqlen: 4000, ..case.problem.clone() };
        let why = many.plan_webgpu(&gpu).unwrap_err().to_string();
        assert!(why.contains("workgroups"), "{why}");
    }
}

#[test]
fn a_sequence_of_262144_runs_in_linear_memory() {
    let (Some(gpu), Some(tile)) = (device(), device_with(baseline_gpu)) else { return };
    let (seqlen, rounds) = (262_144, 4);
    let p = Lsh::new([1, seqlen, 1, 64], 64, rounds, DType::F16);
    // What there is anyway, and one index for each position and round.
    let tensors = seqlen * (3 * 64 * 2 + 4 + 2 * 4 * rounds);
    for gpu in [&tile, gpu] {
        let plan = p.plan_webgpu(gpu).unwrap();
        let bytes = (plan.workspace_bytes() + plan.owned_bytes()) as usize;
        let most = (tensors + 4 * rounds * seqlen) * 12 / 10;
        println!(
            "{bytes} bytes beside {tensors}, all {:.3}",
            (bytes + tensors) as f64 / tensors as f64
        );
        assert!(bytes + tensors <= most, "{bytes} bytes: {}", plan.describe());
    }
    // In f32 the kernels for CPU adapters copy qk and v.
    let plan = Lsh { dtype: DType::F32, ..p.clone() }.plan_webgpu(gpu).unwrap();
    let bytes = (plan.workspace_bytes() + plan.owned_bytes()) as usize;
    let most = seqlen * (2 * 64 * 4 + 8 * rounds) + tensors / 4;
    assert!(bytes <= most, "{bytes} bytes: {}", plan.describe());
    let case = Case::new(p, &mut Random(11));
    let got = case.problem.run_webgpu(gpu, &case.inputs()).unwrap();
    for i in [0, 1, 63, 64, 131_072, 262_143] {
        let (out, lse) = row_by_order(&case, &got.order, i);
        let off = got.out[i * 64..][..64].iter().zip(&out).map(|(x, y)| (f64::from(*x) - y).abs());
        let off = off.fold(0.0, f64::max);
        let largest = out.iter().fold(0.1, |m: f64, x| m.max(x.abs()));
        assert!(off <= tolerance(&case.problem) * largest, "row {i}: {off:.2e}");
        let off = (f64::from(got.lse[i]) - lse).abs() / lse.abs().max(1.0);
        assert!(off <= lse_tolerance(&case.problem), "row {i}: lse {off:.2e}");
    }
    for r in 0..rounds {
        let (order, buckets) = (&got.order[r * seqlen..][..seqlen], &got.buckets[r * seqlen..]);
        let key = |i: i32| (buckets[i as usize], i);
        assert!(order.windows(2).all(|w| key(w[0]) < key(w[1])), "round {r} is not in order");
    }
}

#[test]
fn a_launch_refuses_tensors_that_do_not_fit() {
    let Some(gpu) = device() else { return };
    let mut random = Random(12);
    let case = Case::new(Lsh::new([1, 40, 1, 32], 8, 2, DType::F32), &mut random);
    let inputs = Inputs { rotations: None, ..case.inputs() };
    let why = case.problem.run_webgpu(gpu, &inputs).unwrap_err().to_string();
    assert!(why.contains("rotations"), "{why}");
    let plan = case.problem.plan_webgpu(gpu).unwrap();
    let usage = wgpu::BufferUsages::STORAGE;
    let size = 1 << 20;
    let buffer = || {
        gpu.device().create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size,
            usage,
            mapped_at_creation: false,
        })
    };
    let all: Vec<wgpu::Buffer> = (0..9).map(|_| buffer()).collect();
    let good = Args {
        rotations: Some((&all[4]).into()),
        buckets: Some((&all[5]).into()),
        lse_rounds: Some((&all[6]).into()),
        workspace: Some((&all[7]).into()),
        ..Args::new(&all[0], &all[1], &all[2], &all[3])
    };
    plan.bind(&good).unwrap();
    let off = |n: usize, offset: u64| Some(Binding::new(&all[n], offset));
    // What one kernel writes and another reads lies in a buffer that nothing else is in.
    let bad: [(Args<'_>, &str); 11] = [
        (Args { rotations: None, ..good }, "rotations"),
        (Args { buckets: None, ..good }, "buckets"),
        (Args { lse_rounds: None, ..good }, "lse_rounds"),
        (Args { workspace: None, ..good }, "workspace"),
        (Args { key_valid: off(8, 0), ..good }, "key_valid"),
        (Args { workspace: off(7, 4), ..good }, "workspace.offset"),
        (Args { buckets: off(5, size - 4), ..good }, "buckets.buffer.size"),
        (Args { lse_rounds: off(3, 0), ..good }, "lse_rounds"),
        (Args { buckets: off(0, 0), ..good }, "buckets.buffer"),
        (Args { buckets: off(7, size / 2), ..good }, "the buffer of buckets"),
        (Args { workspace: off(3, size / 2), ..good }, "the buffer of lse"),
    ];
    for (args, field) in bad {
        let why = plan.bind(&args).unwrap_err().to_string();
        assert!(why.contains(field), "{field}: {why}");
    }
}
