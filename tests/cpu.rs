//! Full attention on the processor: every set of instructions that this machine has, against the
//! reference.

mod common;

use common::fixtures::{Forward, fixtures_of};
use common::{Case, Random, errors, tolerance};
use longhand::cpu::Isa;
use longhand::full::cpu::Args;
use longhand::full::{Bias, Buckets, Layout, Ragged};
use longhand::{DType, Full, Shape, Window};
use longhand_cli::results::from_parts;

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Every choice that a problem has, at random.
fn random_problem(random: &mut Random, dtype: DType) -> Full {
    let lengths = [1, 2, 15, 16, 17, 35, 36, 37, 70, 100, 255, 257, 300];
    let heads_kv = 1 + random.below(2);
    let dims = [1, 3, 8, 32, 33, 64, 80, 128];
    let shape = Shape {
        batch: 1 + random.below(2),
        heads_q: heads_kv * (1 + random.below(3)),
        heads_kv,
        seqlen_q: lengths[random.below(lengths.len())],
        seqlen_k: lengths[random.below(lengths.len())],
        head_dim: dims[random.below(dims.len())],
    };
    let mut p = Full::new(shape, dtype);
    p.causal = random.below(2) == 0;
    if random.below(3) == 0 {
        p.window = Window::new(random.below(70), random.below(70));
    }
    p.alibi = random.below(4) == 0;
    p.softcap = if random.below(4) == 0 { 1.5 } else { 0.0 };
    if random.below(4) == 0 {
        let bidirectional = random.below(2) == 0;
        p.buckets = Some(Buckets { num_buckets: 8, max_distance: 30, bidirectional });
    }
    if random.below(4) == 0 {
        p = p.ragged(Ragged { total_q: 0, total_k: 0 });
    } else {
        p.key_padding = random.below(3) == 0;
        p.bias = (random.below(4) == 0)
            .then(|| Bias { per_batch: random.below(2) == 0, per_head: random.below(2) == 0 });
        if random.below(3) == 0 {
            p.layout = Layout::bhsd(&p.shape);
        }
    }
    p
}

#[test]
fn random_problems_of_every_choice_agree_with_the_reference() {
    for seed in 0..300 {
        let mut random = Random(seed);
        let problem = random_problem(&mut random, DTYPES[seed as usize % 3]);
        let case = Case::new(problem, &mut random);
        let expected = case.reference();
        for isa in Isa::all() {
            let plan = case.problem.plan_cpu().unwrap().with_isa(isa).unwrap();
            let got = plan.run_inputs(&case.inputs()).unwrap();
            let (out, lse) = errors(&got, &expected);
            let bound = tolerance(problem.dtype);
            assert!(out <= bound && lse <= 1e-6, "{seed} {isa:?} {problem:?}: {out} {lse}");
        }
    }
}

#[test]
fn fixtures_pass_the_programs_comparison_in_every_dtype() {
    for file in fixtures_of("full", 37).into_iter().chain(fixtures_of("t5_bias", 8)) {
        for dtype in DTYPES {
            let expected = Forward::of(&file, dtype);
            let problem = file.clone().into_full().unwrap();
            let p = Full { dtype, ..problem.problem };
            for isa in Isa::all() {
                let plan = p.plan_cpu().unwrap().with_isa(isa).unwrap();
                let got = plan.run_inputs(&problem.inputs.as_inputs()).unwrap();
                let what = format!("{isa:?}, {}, {dtype}", problem.name);
                expected.check(&from_parts(&problem, &got, None, dtype), &what);
            }
        }
    }
}

fn long(seqlen: usize) -> Case {
    let shape = Shape {
        batch: 1,
        heads_q: 2,
        heads_kv: 1,
        seqlen_q: seqlen,
        seqlen_k: seqlen,
        head_dim: 40,
    };
    Case::new(Full::new(shape, DType::F32).causal(), &mut Random(5))
}

#[test]
fn results_do_not_depend_on_the_number_of_threads_or_the_workspace() {
    let case = long(1100);
    let plan = case.problem.plan_cpu().unwrap();
    let run = |threads: usize, workspaces: usize| {
        let (mut out, mut lse) = (vec![f32::NAN; case.q.len()], vec![f32::NAN; 2200]);
        let args = Args::new([&case.q, &case.k, &case.v], &mut out, &mut lse);
        // More than one workspace, and what no thread can use.
        let mut workspace = vec![f32::NAN; workspaces * plan.workspace_of_thread() + 7];
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| plan.run(args, &mut workspace)).unwrap();
        (out, lse)
    };
    let one = run(1, 1);
    assert!(one == run(3, 12) && one == run(2, 2));
}

/// What is left of digits where one chain of rounded sums would lose them: over the elements of a long
/// row of q and k, and over many keys.
#[test]
fn long_sums_keep_their_digits() {
    for (head_dim, seqlen_k, scale, bound) in [(256, 40, 0.5, 3.5e-7), (8, 20_000, 0.1, 2e-7)] {
        let shape = Shape { batch: 1, heads_q: 1, heads_kv: 1, seqlen_q: 64, seqlen_k, head_dim };
        let problem = Full { softmax_scale: scale, ..Full::new(shape, DType::F32) };
        let case = Case::new(problem, &mut Random(8));
        let expected = case.reference();
        for isa in Isa::all() {
            let plan = problem.plan_cpu().unwrap().with_isa(isa).unwrap();
            let (_, lse) = errors(&plan.run_inputs(&case.inputs()).unwrap(), &expected);
            assert!(lse <= bound, "{isa:?}, {head_dim} x {seqlen_k}: {lse:.2e}");
        }
    }
}

#[test]
fn nan_stays_with_the_rows_that_see_it() {
    // Inside of a tile of 72, its first key and its last, the last of all.
    for (of_value, j) in [(true, 200), (true, 144), (true, 215), (true, 299), (false, 200)] {
        let mut case = long(300);
        let tensor = if of_value { &mut case.v } else { &mut case.k };
        tensor[j * 40] = f32::NAN;
        let got = case.problem.run_cpu(&case.inputs()).unwrap();
        for (i, row) in got.out.chunks_exact(80).enumerate() {
            assert_eq!(row.iter().all(|x| x.is_finite()), i < j, "key {j}, row {i}");
        }
    }
}

#[test]
fn padding_may_fill_tiles_and_hold_nan() {
    let (keys, d) = (300, 16);
    let shape =
        Shape { batch: 2, heads_q: 1, heads_kv: 1, seqlen_q: 40, seqlen_k: keys, head_dim: d };
    for (causal, alibi) in [(false, false), (true, true)] {
        let problem = Full { causal, alibi, ..Full::new(shape, DType::F32).key_padding() };
        let mut case = Case::new(problem, &mut Random(3));
        // Of tiles of 72: the first sequence has two without padding, the second three of nothing
        // else.
        let valid = |n: usize| if n < keys { 60..230 } else { 540..541 }.contains(&n);
        case.key_valid = Some((0..2 * keys).map(|n| u8::from(valid(n))).collect());
        let expected = case.reference();
        for n in (0..2 * keys).filter(|&n| !valid(n)) {
            case.k[n * d] = f32::NAN;
            case.v[n * d] = f32::INFINITY;
        }
        for isa in Isa::all() {
            let plan = case.problem.plan_cpu().unwrap().with_isa(isa).unwrap();
            let (out, lse) = errors(&plan.run_inputs(&case.inputs()).unwrap(), &expected);
            assert!(out <= tolerance(DType::F32) && lse <= 1e-6, "{isa:?} {causal}: {out} {lse}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let case = long(20);
    let plan = case.problem.plan_cpu().unwrap();
    let mut workspace = vec![0.0; plan.workspace_len(1)];
    let (mut out, mut lse) = (vec![0f32; case.q.len()], vec![0.0; 40]);
    let refused = |args: Args<'_, f32>, workspace: &mut [f32], said: &str| {
        let why = plan.run(args, workspace).unwrap_err().to_string();
        assert!(why.contains(said), "{why}");
    };
    let tensors = [&case.q[..], &case.k, &case.v];
    refused(Args::new(tensors, &mut out[1..], &mut lse), &mut workspace, "out.len");
    refused(Args::new(tensors, &mut out, &mut lse[1..]), &mut workspace, "lse.len");
    refused(
        Args::new([&case.q, &case.k[1..], &case.v], &mut out, &mut lse),
        &mut workspace,
        "k.len",
    );
    refused(Args::new(tensors, &mut out, &mut lse), &mut [], "workspace.len");
    let slopes = Some(&[1.0f32][..]);
    let args = Args { alibi_slopes: slopes, ..Args::new(tensors, &mut out, &mut lse) };
    refused(args, &mut workspace, "alibi_slopes");
    let half = vec![half::f16::ZERO; case.q.len()];
    let mut out = half.clone();
    let args = Args::new([&half[..], &half, &half], &mut out, &mut lse);
    let why = plan.run(args, &mut workspace).unwrap_err().to_string();
    assert!(why.contains("dtype = f16"), "{why}");
}
