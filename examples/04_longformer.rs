//! Longformer's attention over 65,536 tokens on this machine's GPU: `cargo run --example
//! 04_longformer`. The score matrix of one head would take 16 GiB.
//!
//! Each token sees 64 tokens on either side and the 4 global ones, which see all tokens through
//! projections of their own. A few rows are compared with the definition.

use longhand::longformer::{Inputs, masks_from_hugging_face};
use longhand::webgpu::Context;
use longhand::{DType, Error, Full, Longformer, Shape};

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

    // As a Hugging Face model is called: the last 536 tokens are padding, the first four global.
    let (seqlen, window, head_dim) = (65_536, 64, 32);
    let tokens = 65_000;
    let attention_mask: Vec<i64> = (0..seqlen).map(|i| i64::from(i < tokens)).collect();
    let global_mask: Vec<i64> = (0..seqlen).map(|i| i64::from(i < 4)).collect();
    let (valid, globals, max_globals) =
        masks_from_hugging_face(&attention_mask, &global_mask, seqlen)?;

    let problem = Longformer::new([1, seqlen, 1, head_dim], window, DType::F32)
        .globals(max_globals)
        .key_padding();
    let [q, k, v, q_global, k_global, v_global] =
        [1, 2, 3, 4, 5, 6].map(|seed| noise(seqlen * head_dim, seed));
    let inputs = Inputs {
        q_global: Some(&q_global),
        k_global: Some(&k_global),
        v_global: Some(&v_global),
        global_indices: Some(&globals),
        key_valid: Some(&valid),
        ..Inputs::new(&q, &k, &v)
    };

    let plan = problem.plan_webgpu(&gpu)?;
    println!("kernel     {}", plan.describe());
    println!("workspace  {} KiB", (plan.workspace_bytes() + plan.owned_bytes()) / 1024);
    let got = problem.run_webgpu(&gpu, &inputs)?;
    println!("time       {:.1} ms", problem.time_webgpu(&gpu, &inputs, 3)?.best_ms);

    // Rows by the definition: a global one over every token, local ones over their few keys.
    let mut error = 0f32;
    for i in [2, 50, 30_000, tokens - 1] {
        let band = i.saturating_sub(window).max(4)..(i + window + 1).min(tokens);
        let (tensors, keys): (_, Vec<usize>) = match i < 4 {
            true => ([&q_global, &k_global, &v_global], (0..tokens).collect()),
            false => ([&q, &k, &v], (0..4).chain(band).collect()),
        };
        let rows = |x: &[f32], keys: &[usize]| -> Vec<f32> {
            keys.iter().flat_map(|j| x[j * head_dim..][..head_dim].to_vec()).collect()
        };
        let (q, k, v) = (rows(tensors[0], &[i]), rows(tensors[1], &keys), rows(tensors[2], &keys));
        let shape = Shape {
            batch: 1,
            heads_q: 1,
            heads_kv: 1,
            seqlen_q: 1,
            seqlen_k: keys.len(),
            head_dim,
        };
        let row =
            Full::new(shape, DType::F32).reference(&longhand::full::Inputs::new(&q, &k, &v))?;
        let out = &got.out[i * head_dim..][..head_dim];
        let worst = out.iter().zip(&row.out).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        error = error.max(worst).max((got.lse[i] - row.lse[0]).abs());
    }
    println!("max error  {error:.1e}");
    assert!(error < 1e-4, "the device and the definition disagree");
    assert!(got.lse[tokens..].iter().all(|&x| x == f32::NEG_INFINITY), "padding attends nothing");
    Ok(())
}
