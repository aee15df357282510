//! The CUDA kernels against the reference: on the stand-in for the driver, which runs them in a
//! simulator that reports races, reads of what nobody wrote and accesses out of bounds; or, with
//! `LONGHAND_TEST_DEVICE=gpu`, on the machine's own GPU.
#![allow(unsafe_code)]

mod common;
#[path = "common/mock.rs"]
mod mock;

use common::{Case, Random, errors};
use longhand::cuda::{Context, DeviceBuffer, Stream};
use longhand::full::cuda::Args;
use longhand::full::{Bias, Layout, Output, Ragged};
use longhand::{DType, Full, Shape, Strides, Window};
use mock::Mock;

/// Twice what a plain f32 evaluation of the fixtures stays below: flash-attention's rule.
const LSE: f64 = 6e-7;

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Rounding the result, and in 16 bits rounding P before its product with V: as much again.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 5e-6,
        _ => 2.0 * common::tolerance(dtype),
    }
}

/// One device for one test at a time. What the simulator has to say fails the test that asks.
struct Device {
    context: Context,
    mock: Option<Mock>,
}

fn device() -> Device {
    let mock = mock::install();
    Device { context: Context::open(0).expect("a device"), mock }
}

impl Device {
    fn set(&self, key: &str, value: &str) {
        if let Some(mock) = &self.mock {
            mock.set(key, value);
        }
    }

    fn run(&self, case: &Case) -> Output<f32> {
        let got = case.problem.run_cuda(&self.context, &case.inputs());
        let got = got.unwrap_or_else(|e| panic!("{e}: {:?}\n{}", case.problem, self.report()));
        let report = self.report();
        assert!(report.is_empty(), "{:?}\n{report}", case.problem);
        got
    }

    fn report(&self) -> String {
        self.mock.as_ref().map(Mock::report).unwrap_or_default()
    }

    fn check(&self, name: &str, case: &Case) {
        self.hold(name, case, &self.run(case));
    }

    fn hold(&self, name: &str, case: &Case, got: &Output<f32>) {
        let (out, lse) = errors(got, &case.reference());
        let p = &case.problem;
        let kernel = p.plan_cuda(&self.context).unwrap().describe();
        let within = out <= tolerance(p.dtype) && lse <= LSE;
        assert!(within, "{name} ({kernel}): out {out:.2e}, lse {lse:.2e}: {p:?}");
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
    let lengths = [1, 2, 7, 31, 32, 33, 63, 64, 65, 67, 100, 129, 200];
    let heads_kv = 1 + random.below(2);
    let heads_q = heads_kv * (1 + random.below(3));
    let seqlen = (lengths[random.below(13)], lengths[random.below(13)]);
    let mut problem =
        Full::new(shape(1 + random.below(2), (heads_q, heads_kv), seqlen, head_dim), dtype);
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
    let device = device();
    for seed in 0..60 {
        let mut random = Random(seed);
        let head_dim = [32, 64, 96, 128][random.below(4)];
        let problem = random_problem(&mut random, DTYPES[seed as usize % 3], head_dim);
        device.check("random", &Case::new(problem, &mut random));
    }
}

#[test]
fn every_option_and_their_combination_agree_with_the_reference() {
    let device = device();
    type With = fn(Full) -> Full;
    let options: [(&str, With); 8] = [
        ("alibi", |p| p.alibi()),
        ("softcap", |p| p.softcap(1.5)),
        ("key padding", |p| p.key_padding()),
        ("ragged", |p| p.ragged(Ragged { total_q: 0, total_k: 0 })),
        ("ragged, alibi, softcap", |p| {
            p.ragged(Ragged { total_q: 0, total_k: 0 }).alibi().softcap(0.7)
        }),
        ("all of the padded", |p| p.alibi().softcap(2.0).key_padding()),
        ("scale 0", |p| p.softmax_scale(0.0)),
        ("negative scale", |p| p.softmax_scale(-0.3)),
    ];
    for (n, (option, with)) in options.iter().enumerate() {
        for seed in 0..6 {
            let mut random = Random(1000 * n as u64 + seed);
            let dtype = DTYPES[seed as usize % 3];
            let mut problem = with(random_problem(&mut random, dtype, [32, 64, 128][n % 3]));
            problem.layout = Layout::bshd(&problem.shape);
            if *option == "all of the padded" {
                problem.bias = Some(Bias { per_batch: seed % 2 == 0, per_head: seed % 3 == 0 });
            }
            device.check(option, &Case::new(problem, &mut random));
        }
    }
    for n in 0..4 {
        let mut random = Random(77 + n);
        let mut problem = random_problem(&mut random, DTYPES[n as usize % 3], 32);
        problem.bias = Some(Bias { per_batch: n % 2 == 0, per_head: n / 2 == 0 });
        device.check("bias", &Case::new(problem, &mut random));
    }
}

#[test]
fn every_head_dim_is_padded_inside_the_kernel() {
    let device = device();
    for (n, head_dim) in [4, 20, 32, 60, 72, 96, 128, 160, 192, 256].into_iter().enumerate() {
        for dtype in DTYPES {
            let mut random = Random(n as u64);
            let problem = Full::new(shape(1, (2, 1), (67, 131), head_dim), dtype).causal();
            device.check("padded", &Case::new(problem, &mut random));
        }
    }
}

#[test]
fn odd_head_dims_and_strides_load_by_elements_in_every_dtype() {
    let device = device();
    for (n, dtype) in DTYPES.into_iter().enumerate() {
        for head_dim in [1, 5, 13, 31, 67, 129, 193] {
            let mut random = Random(n as u64);
            let s = shape(2, (3, 1), (33, 35), head_dim);
            let mut problem = Full::new(s, dtype);
            device.check("odd", &Case::new(problem, &mut random));
            // Gaps between rows, heads and sequences.
            let odd = |seqlen: usize, heads: usize| {
                let row = heads * (head_dim + 3) + 2;
                Strides { batch: seqlen * row + 5, seqlen: row, head: head_dim + 3 }
            };
            problem.layout =
                Layout { q: odd(33, 3), k: odd(35, 1), v: odd(35, 1), out: odd(33, 3) };
            device.check("gaps", &Case::new(problem, &mut random));
        }
    }
}

#[test]
fn few_queries_over_many_keys_split_the_keys_and_combine() {
    let device = device();
    for (n, (seqlen_q, seqlen_k)) in
        [(1, 1024), (3, 1500), (20, 2049), (40, 1100)].into_iter().enumerate()
    {
        for dtype in DTYPES {
            let mut random = Random(n as u64);
            let head_dim = [64, 128, 96, 192][n];
            let mut problem =
                Full::new(shape(1, (4, 2), (seqlen_q, seqlen_k), head_dim), dtype).causal();
            if n == 2 {
                // Whole splits in which no row sees a key.
                problem.window = Window::left(300);
            }
            let plan = problem.plan_cuda(&device.context).unwrap();
            assert!(plan.workspace_bytes() > 0, "{}", plan.describe());
            device.check("split", &Case::new(problem, &mut random));
        }
    }
    let mut random = Random(9);
    let problem = Full::new(shape(3, (2, 2), (5, 1300), 40), DType::F32)
        .ragged(Ragged { total_q: 0, total_k: 0 });
    device.check("split, ragged", &Case::new(problem.alibi(), &mut random));
    let problem = Full::new(shape(2, (2, 2), (5, 1300), 33), DType::F16).key_padding();
    device.check("split, padded", &Case::new(problem, &mut random));
}

#[test]
fn empty_sequences_and_rows_give_zero_and_minus_infinity() {
    let device = device();
    for (seqlen_q, seqlen_k) in [(3, 0), (0, 3), (0, 0), (40, 5)] {
        let mut random = Random(1);
        let problem = Full::new(shape(2, (2, 1), (seqlen_q, seqlen_k), 32), DType::F32);
        device.check("empty", &Case::new(problem.causal(), &mut random));
    }
    let mut random = Random(2);
    let case = Case::new(Full::new(shape(0, (2, 1), (4, 4), 32), DType::F32), &mut random);
    assert!(device.run(&case).out.is_empty());
    let padded = Full::new(shape(2, (2, 1), (4, 40), 32), DType::F32).key_padding();
    let mut case = Case::new(padded, &mut random);
    case.key_valid = Some([vec![0; 40], vec![1; 40]].concat());
    device.check("nothing valid", &case);
    let mut case = Case::new(Full::new(shape(1, (1, 1), (3, 33), 32), DType::F32), &mut random);
    case.problem.bias = Some(Bias { per_batch: false, per_head: false });
    case.bias = Some(
        [vec![f32::NEG_INFINITY; 33], vec![0.5; 33], vec![f32::NEG_INFINITY; 32], vec![1.0]]
            .concat(),
    );
    device.check("bias of -inf", &case);
}

#[test]
fn large_scores_and_one_huge_key_lose_nothing() {
    let device = device();
    for factor in [30.0, 100.0] {
        let mut random = Random(3);
        let problem = Full::new(shape(1, (2, 2), (65, 97), 64), DType::F32).softmax_scale(1.0);
        let mut case = Case::new(problem, &mut random);
        case.q.iter_mut().for_each(|x| *x *= factor);
        // Scores of ±1e4 leave one key per row; rounding them moves exp by 1e-3.
        let (out, lse) = errors(&device.run(&case), &case.reference());
        let rounding = f64::from(factor) * 64.0 * f64::from(f32::EPSILON) * 8.0;
        assert!(out <= 5e-6 + rounding && lse <= LSE, "{out:e} {lse:e}");
    }
}

#[test]
fn nan_in_one_row_stays_with_the_rows_that_see_it() {
    let device = device();
    for (dtype, d) in [(DType::F32, 32), (DType::BF16, 128), (DType::F16, 96)] {
        let mut random = Random(4);
        let problem = Full::new(shape(1, (1, 1), (70, 70), d), dtype).causal();
        for (tensor, at) in
            [("q", 37), ("k", 41), ("v", 45), ("v", 3), ("k inf", 50), ("v inf", 69)]
        {
            let mut case = Case::new(problem, &mut random);
            let value = if tensor.ends_with("inf") { f32::INFINITY } else { f32::NAN };
            match tensor.as_bytes()[0] {
                b'q' => case.q[at * d + 7] = value,
                b'k' => case.k[at * d + 7] = value,
                _ => case.v[at * d + 7] = value,
            }
            let poisoned = case.reference();
            let got = device.run(&case);
            // The parts of an infinite f32 are inf and NaN: a row that sees it is NaN.
            let unsure = dtype == DType::F32 && tensor.ends_with("inf");
            let rows = if unsure { 0..at } else { 0..70 };
            for row in rows.map(|row| row * d..(row + 1) * d) {
                let (got, expected) = (&got.out[row.clone()], &poisoned.out[row.clone()]);
                let finite = got.iter().all(|x| x.is_finite());
                let expected_finite = expected.iter().all(|x| x.is_finite());
                assert_eq!(finite, expected_finite, "{dtype} {tensor}[{at}], row {row:?}");
                if finite {
                    let close =
                        |(&g, &e): (&f32, &f64)| (f64::from(g) - e).abs() < 4.0 * tolerance(dtype);
                    let same = got.iter().zip(expected).all(close);
                    assert!(same, "{dtype} {tensor}[{at}] changed row {row:?}");
                }
            }
        }
    }
}

/// Problems of every tile, small.
fn one_of_each() -> Vec<Case> {
    let mut random = Random(11);
    let mut cases = vec![];
    for head_dim in [32, 64, 96, 128, 192, 256] {
        for dtype in [DType::BF16, DType::F32] {
            let problem = Full::new(shape(1, (1, 1), (70, 150), head_dim), dtype);
            cases.push(Case::new(problem.causal(), &mut random));
        }
    }
    for dtype in [DType::F16, DType::F32] {
        let options = Full::new(shape(1, (2, 1), (70, 130), 64), dtype).alibi().key_padding();
        cases.push(Case::new(options.window(Window::new(40, 3)), &mut random));
        let odd = Full::new(shape(1, (1, 1), (70, 130), 61), dtype);
        cases.push(Case::new(odd, &mut random));
        let split = Full::new(shape(1, (2, 1), (3, 1100), 64), dtype);
        cases.push(Case::new(split, &mut random));
    }
    cases
}

#[test]
fn no_schedule_and_no_timing_of_copies_changes_a_bit() {
    let device = device();
    if device.mock.is_none() {
        return;
    }
    for case in one_of_each() {
        let first = device.run(&case);
        device.hold("default", &case, &first);
        for schedule in ["rr:1", "greedy", "greedy-desc", "pct:1:3", "random:7"] {
            for copies in ["late", "early", "random"] {
                device.set("sched", schedule);
                device.set("async", copies);
                let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                let got = device.run(&case);
                let same = bits(&got.out) == bits(&first.out) && bits(&got.lse) == bits(&first.lse);
                assert!(same, "{schedule}, {copies}: {:?}", case.problem);
            }
        }
        device.set("sched", "rr:16");
        device.set("async", "eager");
    }
}

#[test]
fn no_model_of_rounding_exceeds_the_tolerance() {
    let device = device();
    for case in one_of_each() {
        for approx in ["exact", "plus", "minus", "seeded"] {
            for tc in ["exact", "trunc", "reverse"] {
                device.set("approx", approx);
                device.set("tc", tc);
                let (out, lse) = errors(&device.run(&case), &case.reference());
                // What lg2 and ex2 may be off by comes on top.
                let within = out <= tolerance(case.problem.dtype) && lse <= LSE + 4e-7;
                assert!(within, "{approx}, {tc}: {out:.2e} {lse:.2e}: {:?}", case.problem);
            }
        }
    }
}

#[test]
fn tensors_may_begin_at_any_element() {
    let device = device();
    let stream = Stream::new(&device.context).unwrap();
    for dtype in DTYPES {
        let mut random = Random(5);
        let case = Case::new(Full::new(shape(1, (2, 2), (9, 11), 32), dtype), &mut random);
        let e = dtype.bytes();
        let plan = case.problem.plan_cuda(&device.context).unwrap();
        for offset in [16, e, 3 * e] {
            let upload = |x: &[f32]| {
                let bytes: Vec<u8> = match dtype {
                    DType::F32 => x.iter().flat_map(|x| x.to_le_bytes()).collect(),
                    DType::F16 => {
                        x.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect()
                    }
                    DType::BF16 => {
                        x.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect()
                    }
                };
                let all = [vec![0; offset], bytes].concat();
                DeviceBuffer::with_bytes(&device.context, &stream, &all).unwrap()
            };
            let (q, k, v) = (upload(&case.q), upload(&case.k), upload(&case.v));
            let out = upload(&vec![0.0; case.problem.spans()[3]]);
            let lse = DeviceBuffer::new(&device.context, 4 * case.problem.lse_len()).unwrap();
            let at = |buffer: &DeviceBuffer| buffer.pointer() + offset as u64;
            let args = Args::new(at(&q), at(&k), at(&v), at(&out), lse.pointer());
            // SAFETY: every tensor lies in a buffer of its own that outlives the wait.
            unsafe { plan.launch(&stream, &args) }.unwrap();
            let mut bytes = vec![0; out.bytes()];
            out.read(&stream, &mut bytes).unwrap();
            let mut stats = vec![0; lse.bytes()];
            lse.read(&stream, &mut stats).unwrap();
            let f32s =
                |x: &[u8]| x.chunks(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect();
            let halves = |x: &[u8], f: fn([u8; 2]) -> f32| {
                x.chunks(2).map(|x| f(x.try_into().unwrap())).collect()
            };
            let got = Output {
                out: match dtype {
                    DType::F32 => f32s(&bytes[offset..]),
                    DType::F16 => {
                        halves(&bytes[offset..], |x| half::f16::from_le_bytes(x).to_f32())
                    }
                    DType::BF16 => {
                        halves(&bytes[offset..], |x| half::bf16::from_le_bytes(x).to_f32())
                    }
                },
                lse: f32s(&stats),
            };
            device.hold(&format!("offset {offset}"), &case, &got);
            assert_eq!(device.report(), "");
        }
    }
}
