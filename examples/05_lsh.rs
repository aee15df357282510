//! Reformer's attention over 32,768 tokens on this machine's GPU: `cargo run --example 05_lsh`. The
//! score matrix of one head would take 4 GiB.
//!
//! Four rounds of hashing with rotations from a seed. A second pass is given the buckets of the
//! first, as a reversible network's backward pass does, and gives the same bits; both are compared
//! with the definition.

use longhand::lsh::{Inputs, Output};
use longhand::webgpu::Context;
use longhand::{DType, Error, Lsh};

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

    let (seqlen, head_dim) = (32_768, 32);
    let problem = Lsh::new([1, seqlen, 1, head_dim], 64, 4, DType::F32).causal();
    let (qk, v) = (noise(seqlen * head_dim, 1), noise(seqlen * head_dim, 2));
    // The same numbers on every machine and for every device.
    let rotations = problem.rotations(2020);
    let inputs = Inputs { rotations: Some(&rotations), ..Inputs::new(&qk, &v) };

    let plan = problem.plan_webgpu(&gpu)?;
    println!("kernel     {}", plan.describe());
    println!("workspace  {} KiB", (plan.workspace_bytes() + plan.owned_bytes()) / 1024);
    let got = problem.run_webgpu(&gpu, &inputs)?;
    println!("time       {:.1} ms", problem.time_webgpu(&gpu, &inputs, 1)?.best_ms);

    let again = problem.clone().buckets_given();
    let inputs = Inputs { buckets: Some(&got.buckets), ..Inputs::new(&qk, &v) };
    assert!(again.run_webgpu(&gpu, &inputs)? == got, "the same buckets give other bits");

    let expected: Output<f32> = again.reference(&inputs)?;
    assert!(got.order == expected.order, "the device sorts otherwise");
    let pairs = got.out.iter().zip(&expected.out).chain(got.lse.iter().zip(&expected.lse));
    // Of a position that sees only itself lse is -1e5.
    let error = pairs.map(|(a, b)| (a - b).abs() / b.abs().max(1.0)).fold(0.0, f32::max);
    println!("max error  {error:.1e}");
    assert!(error < 1e-4, "the device and the definition disagree");
    Ok(())
}
