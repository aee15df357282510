//! Two layers with Transformer-XL's memory over 2,048 tokens, on this machine's GPU:
//! `cargo run --example 06_transformer_xl`.
//!
//! Every position sees the 512 before it and itself (`same_length`), so a model that goes through the
//! text in segments and keeps 512 positions of each layer must give what one pass over the whole text
//! gives. The memory is a ring that nobody copies: a segment overwrites its oldest rows.

use longhand::transformer_xl::{Inputs, Memory, SinCos, sinusoids};
use longhand::webgpu::Context;
use longhand::{DType, Error, TransformerXl, Window};

const SEQLEN: usize = 2048;
const SEGMENT: usize = 384;
const MEMORY: usize = 512;
const ROW: usize = 2 * 32; // heads and head_dim

/// Numbers between -1 and 1 that look random.
fn noise(len: usize, mut state: u32) -> Vec<f32> {
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// What a layer keeps: the last positions, in a ring.
type Ring = Vec<f32>;

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

    // One row for each distance that is seen; the projection of the table is left out.
    let r = sinusoids(0, MEMORY + 1, ROW, SinCos::Halves)?;
    let (u, v) = (noise(ROW, 1), noise(ROW, 2));
    // A layer without its linear parts: x + attention(x) / 2, where x is query, key and value.
    let layer = |x: &mut Vec<f32>, done: usize, ring: &mut Ring| -> Result<(), Error> {
        let len = done.min(MEMORY);
        let start = if len < MEMORY { 0 } else { done % MEMORY };
        let problem = TransformerXl::with_memory([1, x.len() / ROW, 2, 32], len, DType::F32)
            .memory(Memory { len, rows: MEMORY, start })
            .window(Window::new(MEMORY, 0));
        let problem = TransformerXl { rows: MEMORY + 1, ..problem };
        let mut inputs = Inputs::new([x, x, x], &r, [&u, &v]);
        (inputs.k_memory, inputs.v_memory) = (Some(&ring[..]), Some(&ring[..]));
        let out = problem.run_webgpu(&gpu, &inputs)?.out;
        for (i, row) in x.chunks(ROW).enumerate() {
            ring[(done + i) % MEMORY * ROW..][..ROW].copy_from_slice(row);
        }
        x.iter_mut().zip(out).for_each(|(x, out)| *x += out / 2.0);
        Ok(())
    };
    let model = |text: &[f32], segment: usize| -> Result<Vec<f32>, Error> {
        let (mut rings, mut all) = ([vec![0.0; MEMORY * ROW], vec![0.0; MEMORY * ROW]], vec![]);
        for segment in text.chunks(segment * ROW) {
            let (mut x, done) = (segment.to_vec(), all.len() / ROW);
            rings.iter_mut().try_for_each(|ring| layer(&mut x, done, ring))?;
            all.append(&mut x);
        }
        Ok(all)
    };

    let text = noise(SEQLEN * ROW, 3);
    let (long, short) = (model(&text, SEQLEN)?, model(&text, SEGMENT)?);
    let error = long.iter().zip(&short).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("segments   {} of {SEGMENT}, memory {MEMORY}", SEQLEN.div_ceil(SEGMENT));
    println!("max error  {error:.1e}");
    assert!(error < 1e-5, "segments with a memory differ from one pass");
    Ok(())
}
