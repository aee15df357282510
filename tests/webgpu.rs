//! The WebGPU kernels against the reference, on whatever adapter this machine has.

mod common;

use common::{Case, Random, baseline_gpu, device_with, errors, tolerance};
use longhand::full::{Bias, Layout, Ragged};
use longhand::{DType, Full, Shape, Window};

fn random_problem(random: &mut Random, dtypes: &[DType], head_dims: &[usize]) -> Full {
    let lengths = [1, 2, 7, 31, 32, 33, 63, 64, 65, 67, 100, 129];
    let pick = |random: &mut Random, from: &[usize]| from[random.below(from.len())];
    let heads_kv = 1 + random.below(2);
    let shape = Shape {
        batch: 1 + random.below(3),
        heads_q: heads_kv * (1 + random.below(3)),
        heads_kv,
        seqlen_q: pick(random, &lengths),
        seqlen_k: pick(random, &lengths),
        head_dim: pick(random, head_dims),
    };
    let mut problem = Full::new(shape, dtypes[random.below(dtypes.len())]);
    problem.causal = random.below(2) == 0;
    if random.below(3) == 0 {
        problem.window = Window::new(random.below(70), random.below(70));
    }
    if random.below(3) == 0 {
        problem.layout = Layout::bhsd(&shape);
    }
    problem
}

#[test]
fn random_problems_agree_with_the_reference_on_the_tile_kernel() {
    let Some(gpu) = device_with(baseline_gpu) else {
        return;
    };
    for seed in 0..120 {
        let mut random = Random(seed);
        let problem =
            random_problem(&mut random, &[DType::F32, DType::F16, DType::BF16], &[64, 40]);
        let case = Case::new(problem, &mut random);
        let got = problem.run_webgpu(&gpu, &case.inputs()).unwrap();
        let (out, lse) = errors(&got, &case.reference());
        println!("{seed} {out:.1e} {lse:.1e}");
        assert!(
            out <= tolerance(problem.dtype) && lse <= 3e-6,
            "seed {seed}: out {out:e}, lse {lse:e}: {problem:?}"
        );
    }
    let _ = (Bias { per_batch: true, per_head: true }, Ragged { total_q: 0, total_k: 0 });
}
