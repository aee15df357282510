//! Relative positions on the processor: every set of instructions that this machine has, against the
//! definition.

mod common;

use common::fixtures::Forward;
use common::relative::{self, Case, MIXTURES, errors, random_problem};
use common::{Random, tolerance};
use longhand::cpu::Isa;
use longhand::transformer_xl::cpu::Args;
use longhand::transformer_xl::{Chunks, Inputs, Memory, Output};
use longhand::{DType, Full, TransformerXl, Window};
use longhand_cli::results::Results;

/// As of the other devices: twice what a plain f32 evaluation of the random problems stays below.
const LSE: f64 = 1.5e-6;

/// By every set of instructions; the last result.
fn check(case: &Case, what: &str) -> Output<f32> {
    let (p, expected) = (&case.problem, case.reference());
    let mut last = None;
    for isa in Isa::all() {
        let plan = p.plan_cpu().unwrap().with_isa(isa).unwrap();
        let got = plan.run_inputs(&case.inputs()).unwrap();
        let (out, lse) = errors(&got, &expected);
        let within = out <= tolerance(p.dtype) && lse <= LSE;
        assert!(within, "{what}, {isa:?}: out {out:.2e}, lse {lse:.2e}: {p:?}");
        last = Some(got);
    }
    last.unwrap()
}

#[test]
fn random_problems_that_mix_everything_agree_with_the_definition() {
    for seed in 0..270 {
        let mut random = Random(seed);
        let head_dim = [1, 3, 8, 32, 33, 64, 80, 128][random.below(8)];
        let mut problem = random_problem(&mut random, seed as usize % MIXTURES, head_dim);
        if random.below(4) == 0 {
            let count = [1, 7, 16, 40][random.below(4)];
            problem = problem.targets(count);
        }
        check(&Case::new(problem, &mut random), &format!("seed {seed}"));
    }
}

#[test]
fn fixtures_pass_the_programs_comparison_in_every_dtype() {
    for file in relative::fixtures() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let expected = Forward::of(&file.clone().into(), dtype);
            for isa in Isa::all() {
                let mut got = Results::new();
                for &stream in file.streams() {
                    let plan = file.problem(stream, dtype).plan_cpu().unwrap();
                    let plan = plan.with_isa(isa).unwrap();
                    let output = plan.run_inputs(&file.inputs.as_inputs(stream)).unwrap();
                    file.put(&mut got, stream, &output);
                }
                expected.check(&got, &format!("{}, {isa:?}, {dtype}", file.name));
            }
        }
    }
}
