//! LSH attention on the processor: every set of instructions that this machine has, against the
//! reference and other people's results.

mod common;

use common::fixtures::{Forward, fixtures_of};
use common::guard::{bytes_of, floats_of, sentinel};
use common::lsh::{Case, checked, errors, lse_tolerance, random_problem, tolerance};
use common::{Random, stored};
use half::{bf16, f16};
use longhand::cpu::{Element, Isa};
use longhand::lsh::cpu::{Args, Plan};
use longhand::lsh::{Layout, Output, Wrap};
use longhand::{DType, Lsh, Strides};

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Runs `case` into sentinels, with a workspace for `threads` on a pool of as many: every element of
/// a result is written, and nothing else.
fn run(plan: &Plan, case: &Case, threads: usize) -> Output<f32> {
    match case.problem.dtype {
        DType::F32 => run_as::<f32>(plan, case, threads),
        DType::F16 => run_as::<f16>(plan, case, threads),
        DType::BF16 => run_as::<bf16>(plan, case, threads),
    }
}

fn run_as<T: Element>(plan: &Plan, case: &Case, threads: usize) -> Output<f32> {
    let p = &case.problem;
    let (qk, v) = (stored::<T>(&case.qk), stored::<T>(&case.v));
    let sentinels = |n: usize, dtype: DType| floats_of(&sentinel(n * dtype.bytes()), dtype);
    let mut out = stored::<T>(&sentinels(p.span(&p.layout.out), p.dtype));
    let mut lse = sentinels(p.lse_len(), DType::F32);
    let mut lse_rounds = p.is_sorted().then(|| sentinels(p.lse_rounds_len(), DType::F32));
    let unset = || vec![i32::MIN; p.buckets_len()];
    let mut buckets = p.is_sorted().then(|| case.buckets.clone().unwrap_or_else(unset));
    let args = Args {
        rotations: case.rotations.as_deref(),
        buckets: buckets.as_deref_mut(),
        key_valid: case.key_valid.as_deref(),
        lse_rounds: lse_rounds.as_deref_mut(),
        ..Args::new(&qk, &v, &mut out, &mut lse)
    };
    let mut workspace = vec![f32::NAN; plan.workspace_len(threads)];
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| plan.run(args, &mut workspace)).unwrap();
    let mut wide = vec![0.0; out.len()];
    T::load(&out, &mut wide);
    let bytes = |x: &[f32]| bytes_of(x, DType::F32);
    let rounds = lse_rounds.map(|x| bytes(&x));
    let order = workspace[..p.buckets_len()].iter().map(|x| x.to_bits() as i32).collect();
    let results = checked(p, &bytes_of(&wide, p.dtype), &bytes(&lse), rounds.as_deref());
    Output { buckets: buckets.unwrap_or_default(), order, ..results }
}

/// Holds `case` to the definition, by every set of instructions: its buckets, the order that they
/// give, and with them the rest.
fn check(name: &str, case: &Case) {
    let p = &case.problem;
    let reference = case.reference();
    for isa in Isa::all() {
        let plan = p.plan_cpu().unwrap().with_isa(isa).unwrap();
        let name = format!("{name} ({})", plan.describe());
        let got = run(&plan, case, 1);
        let mut expected = reference.clone();
        if p.is_hashed() && got.buckets != expected.buckets {
            case.check_buckets(&name, &got.buckets, &expected.buckets);
            expected = case.with_buckets(&got.buckets).reference();
        }
        assert!(got.buckets == expected.buckets, "{name}: buckets: {p:?}");
        assert!(got.order == expected.order, "{name}: the order differs: {p:?}");
        let (out, lse) = errors(&got, &expected);
        let within = out <= tolerance(p) && lse <= lse_tolerance(p);
        assert!(within, "{name}: out {out:.2e}, lse {lse:.2e}: {p:?}");
    }
}

#[test]
fn random_problems_that_mix_everything_agree_with_the_definition() {
    for seed in 0..100 {
        let mut random = Random(seed);
        let problem = random_problem(&mut random, DTYPES[seed as usize % 3], 32);
        check(&format!("seed {seed}"), &Case::new(problem, &mut random));
    }
}

#[test]
fn fixtures_pass_the_programs_comparison_in_every_dtype() {
    for file in fixtures_of("lsh", 18) {
        for dtype in DTYPES {
            let expected = Forward::of(&file, dtype);
            let problem = file.clone().into_lsh().unwrap();
            let p = Lsh { dtype, ..problem.problem.clone() };
            for isa in Isa::all() {
                let plan = p.plan_cpu().unwrap().with_isa(isa).unwrap();
                let got = plan.run_inputs(&problem.inputs.as_inputs()).unwrap();
                let what = format!("{isa:?}, {}, {dtype}", problem.name);
                expected.check(&problem.results(&got, None), &what);
            }
        }
    }
}

#[test]
fn every_head_dim_and_odd_rows_agree_with_the_definition() {
    for (n, head_dim) in [1, 5, 13, 20, 33, 64, 96, 128, 160, 256].into_iter().enumerate() {
        let mut p = Lsh::new([2, 77, 2, head_dim], 16, 2, DTYPES[n % 3]).key_padding();
        p.num_buckets = vec![4, 6];
        (p.causal, p.duplicates_once) = (n % 2 == 0, n == 5);
        // Gaps between rows, heads and sequences.
        let row = 2 * (head_dim + 3) + 2;
        let odd = Strides { batch: 77 * row + 5, seqlen: row, head: head_dim + 3 };
        p.layout = Layout { qk: odd, out: odd, ..p.layout };
        check("head_dim", &Case::new(p, &mut Random(n as u64)));
    }
}

#[test]
fn several_blocks_agree_with_the_definition() {
    // A round is more than a block, chunks begin inside of blocks and blocks inside of chunks, and a
    // factor has more columns than a tile.
    for (n, (chunk_len, factors)) in
        [(40, &[100, 2][..]), (300, &[2]), (256, &[74]), (3, &[148, 6])].into_iter().enumerate()
    {
        let mut p = Lsh::new([1, 700, 2, 16], chunk_len, 2, DTYPES[n % 3])
            .num_buckets(factors)
            .chunks(n % 3, (n + 1) % 2);
        p.wrap = [Wrap::AcrossRounds, Wrap::PerRound][n % 2];
        (p.causal, p.duplicates_once) = (n % 2 == 1, n > 1);
        check("several blocks", &Case::new(p, &mut Random(3)));
    }
}

#[test]
fn of_equal_projections_the_first_wins() {
    // Of rows of zeros and of equal columns, in either sign.
    let p = Lsh::new([1, 40, 1, 8], 4, 2, DType::F32).num_buckets(&[100, 4]);
    let mut case = Case::new(p, &mut Random(2));
    case.qk[..10 * 8].fill(0.0);
    let rotations = case.rotations.as_mut().unwrap();
    for row in rotations.chunks_exact_mut(52) {
        let first = row[0];
        row.fill(first);
        row[50] = -first;
    }
    let expected = case.reference().buckets;
    for isa in Isa::all() {
        let plan = case.problem.plan_cpu().unwrap().with_isa(isa).unwrap();
        assert_eq!(run(&plan, &case, 1).buckets, expected, "{isa:?}");
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let mut p = Lsh::new([2, 700, 3, 20], 50, 3, DType::BF16).key_padding();
    for duplicates_once in [false, true] {
        p.duplicates_once = duplicates_once;
        let case = Case::new(p.clone(), &mut Random(5));
        let plan = p.plan_cpu().unwrap();
        let one = run(&plan, &case, 1);
        assert!(one == run(&plan, &case, 2) && one == run(&plan, &case, 5));
    }
}

#[test]
fn what_is_not_finite_stays_with_the_rows_that_see_it() {
    // One round over given buckets, so that who sees whom is known: chunks of 10 see themselves.
    let p = Lsh::new([1, 300, 1, 16], 10, 1, DType::F32).chunks(0, 0).buckets_given();
    for bad in [f32::NAN, f32::INFINITY] {
        for of_value in [true, false] {
            let mut case = Case::new(p.clone(), &mut Random(7));
            case.buckets = Some(vec![0; 300]);
            let at = if of_value { &mut case.v } else { &mut case.qk };
            at[155 * 16..][..16].fill(bad);
            for isa in Isa::all() {
                let plan = p.plan_cpu().unwrap().with_isa(isa).unwrap();
                for (i, row) in run(&plan, &case, 1).out.chunks_exact(16).enumerate() {
                    let finite = row.iter().all(|x| x.is_finite());
                    // The row itself sees its value with no weight.
                    let sees = (150..160).contains(&i) && (i != 155 || !of_value);
                    assert!(finite != sees || i == 155, "{of_value} {bad} row {i}");
                }
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let p = Lsh::new([1, 40, 2, 8], 8, 2, DType::F32).num_buckets(&[4]).key_padding();
    let case = Case::new(p.clone(), &mut Random(1));
    let refused = |p: &Lsh, said: &str, wrong: &dyn Fn(&mut Args<'_, f32>, &mut usize)| {
        let plan = p.plan_cpu().unwrap();
        let (mut out, mut lse) = (vec![0f32; case.qk.len()], vec![0.0; p.lse_len()]);
        let mut lse_rounds = vec![0.0; p.lse_rounds_len()];
        let mut buckets = vec![4; p.buckets_len()];
        let mut args = Args {
            rotations: case.rotations.as_deref().filter(|_| p.is_hashed()),
            buckets: Some(&mut buckets),
            key_valid: case.key_valid.as_deref(),
            lse_rounds: Some(&mut lse_rounds),
            ..Args::new(&case.qk, &case.v, &mut out, &mut lse)
        };
        let mut workspace = plan.workspace_len(1);
        wrong(&mut args, &mut workspace);
        let result = plan.run(args, &mut vec![0.0; workspace]);
        match said {
            "" => result.unwrap(),
            _ => {
                let why = result.unwrap_err().to_string();
                assert!(why.contains(said), "{why}");
            }
        }
    };
    refused(&p, "", &|_, _| ());
    refused(&p, "qk.len", &|args, _| args.qk = &args.qk[1..]);
    refused(&p, "v.len", &|args, _| args.v = &[]);
    refused(&p, "rotations.len", &|args, _| args.rotations = Some(&[1.0]));
    refused(&p, "rotations = absent", &|args, _| args.rotations = None);
    refused(&p, "buckets = absent", &|args, _| args.buckets = None);
    refused(&p, "buckets.len", &|args, _| args.buckets = Some(&mut []));
    refused(&p, "lse_rounds = absent", &|args, _| args.lse_rounds = None);
    refused(&p, "key_valid.len", &|args, _| args.key_valid = Some(&[1]));
    refused(&p, "key_valid = 2", &|args, _| args.key_valid = Some(&[2; 40]));
    refused(&p, "workspace.len", &|_, workspace| *workspace -= 1);
    let given = p.clone().buckets_given();
    refused(&given, "must be below 4", &|_, _| ());
    refused(&given, "rotations = given", &|args, _| args.rotations = Some(&[]));

    let many = Lsh::new([1, 1 << 20, 1, 8], 1 << 18, 2, DType::F32).chunks(1 << 14, 0);
    let why = many.plan_cpu().unwrap_err().to_string();
    assert!(why.contains("meets"), "{why}");
    let half = vec![f16::ZERO; case.qk.len()];
    let (mut out, mut lse) = (half.clone(), vec![0.0; p.lse_len()]);
    let plan = p.plan_cpu().unwrap();
    let args = Args::new(&half[..], &half, &mut out, &mut lse);
    let why = plan.run(args, &mut vec![0.0; plan.workspace_len(1)]).unwrap_err().to_string();
    assert!(why.contains("dtype = f16"), "{why}");
}
