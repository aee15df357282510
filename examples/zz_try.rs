//! scratch
use longhand::full::Inputs;
use longhand::{DType, Error, Full, Shape};
fn noise(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || { state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223); (state >> 8) as f32 / (1 << 23) as f32 - 1.0 };
    (0..len).map(|_| next()).collect()
}
fn main() -> Result<(), Error> {
    let gpu = longhand::cuda::Context::open(0)?;
    println!("device {} simulated {}", gpu.name(), gpu.is_simulated());
    for dtype in [DType::BF16, DType::F16, DType::F32] {
        for (d, lq, lk, causal) in [(64, 130, 130, true), (64, 128, 128, false), (128, 200, 333, true), (128, 128, 256, false), (32, 77, 100, false), (96, 100, 100, true), (192, 70, 90, true), (256, 65, 130, false), (80, 33, 65, true)] {
            let shape = Shape { batch: 2, heads_q: 4, heads_kv: 2, seqlen_q: lq, seqlen_k: lk, head_dim: d };
            let mut problem = Full::new(shape, dtype);
            if causal { problem = problem.causal(); }
            let [a, b, c, _] = problem.spans();
            let (mut q, mut k, mut v) = (noise(a, 1), noise(b, 2), noise(c, 3));
            for x in q.iter_mut().chain(k.iter_mut()).chain(v.iter_mut()) { *x = dtype_round(dtype, *x); }
            let inputs = Inputs::new(&q, &k, &v);
            let t = std::time::Instant::now();
            let got = match problem.run_cuda(&gpu, &inputs) { Ok(x) => x, Err(e) => { println!("{dtype:?} {d} {lq} {lk} {causal}: {e}"); continue; } };
            let t = t.elapsed();
            let expected = problem.reference(&inputs)?;
            let error = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |m: f32, e| if e > m || e.is_nan() { e } else { m });
            println!("{dtype:?} d{d} {lq}x{lk} causal {causal}: out {:.1e} lse {:.1e} {:?}", error(&got.out, &expected.out), error(&got.lse, &expected.lse), t);
        }
    }
    Ok(())
}
fn dtype_round(d: DType, x: f32) -> f32 { match d { DType::F32 => x, DType::F16 => half::f16::from_f32(x).to_f32(), _ => half::bf16::from_f32(x).to_f32() } }
