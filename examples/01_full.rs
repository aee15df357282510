//! Full attention on this machine's GPU, compared with the reference: `cargo run --example 01_full`.
//!
//! Four query heads share one key head, each query sees the 256 keys up to its own position.

use longhand::full::Inputs;
use longhand::webgpu::Context;
use longhand::{DType, Error, Full, Shape, Window};

/// Numbers between -1 and 1 that look random.
fn noise(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

fn main() -> Result<(), Error> {
    let adapter = std::env::var("LONGHAND_ADAPTER").ok();
    let gpu = match Context::open(adapter.as_deref()) {
        Ok(gpu) => gpu,
        Err(why) if std::env::var_os("LONGHAND_REQUIRE").is_none() => {
            println!("SKIPPED: {why}");
            return Ok(());
        }
        Err(why) => return Err(why),
    };
    println!("device     {}", gpu.info().name);

    let shape =
        Shape { batch: 1, heads_q: 8, heads_kv: 2, seqlen_q: 700, seqlen_k: 700, head_dim: 64 };
    let problem = Full::new(shape, DType::F32).causal().window(Window::left(255));
    let [len_q, len_k, len_v, _] = problem.spans();
    let (q, k, v) = (noise(len_q, 1), noise(len_k, 2), noise(len_v, 3));
    let inputs = Inputs::new(&q, &k, &v);

    println!("kernel     {}", problem.plan_webgpu(&gpu)?.describe());
    let got = problem.run_webgpu(&gpu, &inputs)?;
    let expected = problem.reference(&inputs)?;

    let error = |a: &[f32], b: &[f32]| {
        a.iter()
            .zip(b)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, |m: f32, e| if e > m || e.is_nan() { e } else { m })
    };
    let (out, lse) = (error(&got.out, &expected.out), error(&got.lse, &expected.lse));
    println!("max error  out {out:.1e}, lse {lse:.1e}");
    assert!(out < 1e-5 && lse < 1e-5, "the device and the reference disagree");
    Ok(())
}
