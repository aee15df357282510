//! Longformer's attention on the processor: every set of instructions that this machine has, against
//! the reference and other people's results.

mod common;

use common::fixtures::{Forward, fixtures_of};
use common::guard::{bytes_of, floats_of, sentinel};
use common::longformer::{Case, checked, errors, odd, random_problem};
use common::{Random, stored, tolerance};
use half::{bf16, f16};
use longhand::cpu::{Element, Isa};
use longhand::longformer::cpu::{Args, Plan};
use longhand::longformer::{Layout, Output};
use longhand::{DType, Longformer};

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Twice what a plain f32 evaluation of the fixtures stays below.
const LSE: f64 = 6e-7;

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
    let [q, k, v] = [&case.q, &case.k, &case.v].map(|x| stored::<T>(x));
    let global = case.global.as_ref().map(|g| g.each_ref().map(|x| stored::<T>(x)));
    let sentinels = |n: usize, dtype: DType| floats_of(&sentinel(n * dtype.bytes()), dtype);
    let mut out = stored::<T>(&sentinels(p.span(&p.layout.out), p.dtype));
    let mut lse = sentinels(p.lse_len(), DType::F32);
    let of_global = |n: usize| global.as_ref().map(|g| &g[n][..]);
    let args = Args {
        q_global: of_global(0),
        k_global: of_global(1),
        v_global: of_global(2),
        global_indices: case.global_indices.as_deref(),
        key_valid: case.key_valid.as_deref(),
        ..Args::new([&q, &k, &v], &mut out, &mut lse)
    };
    let mut workspace = vec![f32::NAN; plan.workspace_len(threads)];
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| plan.run(args, &mut workspace)).unwrap();
    let mut wide = vec![0.0; out.len()];
    T::load(&out, &mut wide);
    checked(p, &bytes_of(&wide, p.dtype), &bytes_of(&lse, DType::F32))
}

/// Holds `case` to the definition, by every set of instructions.
fn check(name: &str, case: &Case) {
    let p = &case.problem;
    let expected = case.reference();
    for isa in Isa::all() {
        let plan = p.plan_cpu().unwrap().with_isa(isa).unwrap();
        let (out, lse) = errors(&run(&plan, case, 1), &expected);
        let within = out <= tolerance(p.dtype) && lse <= LSE;
        assert!(within, "{name} ({}): out {out:.2e}, lse {lse:.2e}: {p:?}", plan.describe());
    }
}

#[test]
fn random_problems_that_mix_everything_agree_with_the_definition() {
    for seed in 0..150 {
        let mut random = Random(seed);
        let problem = random_problem(&mut random, DTYPES[seed as usize % 3], 32);
        check(&format!("seed {seed}"), &Case::new(problem, &mut random));
    }
}

#[test]
fn fixtures_pass_the_programs_comparison_in_every_dtype() {
    for file in fixtures_of("longformer", 17) {
        for dtype in DTYPES {
            let expected = Forward::of(&file, dtype);
            let problem = file.clone().into_longformer().unwrap();
            let p = Longformer { dtype, ..problem.problem.clone() };
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
        let mut p = Longformer::new([2, 77, 2, head_dim], 9, DTYPES[n % 3])
            .globals(11)
            .key_padding()
            .dilation(&[1, 3]);
        // Gaps between rows, heads and sequences.
        p.layout = Layout { k: odd(&p, 3), out: odd(&p, 1), q_global: odd(&p, 2), ..p.layout };
        check("head_dim", &Case::new(p, &mut Random(n as u64)));
    }
}

#[test]
fn several_blocks_agree_with_the_definition() {
    // More rows than a block has, of the band, of a class of the dilation and of the globals.
    for causal in [false, true] {
        let mut p = Longformer::new([1, 700, 2, 24], 100, DType::F32)
            .window(150, 40)
            .globals(300)
            .dilation(&[1, 2]);
        p.causal = causal;
        check("several blocks", &Case::new(p, &mut Random(3)));
    }
}

fn long() -> Case {
    let p = Longformer::new([2, 700, 3, 20], 30, DType::F32)
        .globals(20)
        .dilation(&[1, 2, 300])
        .key_padding();
    Case::new(p, &mut Random(5))
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let case = long();
    let plan = case.problem.plan_cpu().unwrap();
    let one = run(&plan, &case, 1);
    assert!(one == run(&plan, &case, 2) && one == run(&plan, &case, 5));
}

#[test]
fn what_is_not_finite_stays_with_the_rows_that_see_it() {
    let p = Longformer::new([1, 300, 1, 16], 20, DType::F32).globals(2);
    // The second is the last that the first block of rows gathers.
    for (bad, j) in [(f32::NAN, 150), (f32::NAN, 275), (f32::INFINITY, 150), (f32::INFINITY, 275)] {
        for tensor in ["k", "v", "k_global", "v_global"] {
            let mut case = Case::new(p.clone(), &mut Random(7));
            case.global_indices = Some(vec![10, 250]);
            let [_, k_global, v_global] = case.global.as_mut().unwrap();
            let at = match tensor {
                "k" => &mut case.k,
                "v" => &mut case.v,
                "k_global" => k_global,
                _ => v_global,
            };
            at[j * 16..][..16].fill(bad);
            for isa in Isa::all() {
                let plan = case.problem.plan_cpu().unwrap().with_isa(isa).unwrap();
                let got = run(&plan, &case, 1);
                for (i, row) in got.out.chunks_exact(16).enumerate() {
                    let global = [10, 250].contains(&i);
                    let sees = match tensor {
                        "k" | "v" => !global && (j - 20..=j + 20).contains(&i),
                        _ => global,
                    };
                    // An infinite key may have no weight.
                    let finite = row.iter().all(|x| x.is_finite());
                    let all = bad.is_nan() || tensor.starts_with('v');
                    assert!(
                        if sees { !all || !finite } else { finite },
                        "{tensor} {bad} at {j}: row {i}"
                    );
                }
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let p = Longformer::new([1, 40, 2, 8], 5, DType::F32).globals(3).key_padding();
    let case = Case::new(p.clone(), &mut Random(1));
    let plan = p.plan_cpu().unwrap();
    let refused = |said: &str, wrong: &dyn Fn(&mut Args<'_, f32>, &mut usize)| {
        let (mut out, mut lse) = (vec![0f32; case.q.len()], vec![0.0; p.lse_len()]);
        let global = case.global.as_ref().unwrap();
        let mut args = Args {
            q_global: Some(&global[0]),
            k_global: Some(&global[1]),
            v_global: Some(&global[2]),
            global_indices: case.global_indices.as_deref(),
            key_valid: case.key_valid.as_deref(),
            ..Args::new([&case.q, &case.k, &case.v], &mut out, &mut lse)
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
    refused("", &|_, _| ());
    refused("q.len", &|args, _| args.q = &args.q[1..]);
    refused("v.len", &|args, _| args.v = &[]);
    refused("k_global.len", &|args, _| args.k_global = Some(&[]));
    refused("q_global = absent", &|args, _| args.q_global = None);
    refused("global_indices.len", &|args, _| args.global_indices = Some(&[1]));
    refused("global_indices = absent", &|args, _| args.global_indices = None);
    refused("global_indices[0][2] = 7: is listed twice", &|args, _| {
        args.global_indices = Some(&[7, 3, 7])
    });
    refused("global_indices[0][1] = 40", &|args, _| args.global_indices = Some(&[7, 40, -1]));
    refused("global_indices[0][0] = -2", &|args, _| args.global_indices = Some(&[-2, -1, -1]));
    refused("follows a -1", &|args, _| args.global_indices = Some(&[7, -1, 8]));
    refused("key_valid.len", &|args, _| args.key_valid = Some(&[1]));
    refused("key_valid = 2", &|args, _| args.key_valid = Some(&[2; 40]));
    refused("workspace.len", &|_, workspace| *workspace -= 1);

    let half = vec![f16::ZERO; case.q.len()];
    let (mut out, mut lse) = (half.clone(), vec![0.0; p.lse_len()]);
    let args = Args::new([&half[..], &half, &half], &mut out, &mut lse);
    let why = plan.run(args, &mut vec![0.0; plan.workspace_len(1)]).unwrap_err().to_string();
    assert!(why.contains("dtype = f16"), "{why}");
}
