//! A Conformer's attention, offline and as a stream, on this machine's GPU:
//! `cargo run --example 07_conformer`.
//!
//! Offline, 501 frames attend in chunks of 16 with the 4 chunks before. A stream has only the
//! chunk's frames and a cache of 64, and must give the same: both read one table of 2T−1 rows, of
//! which the stream's distances are a part. Its last chunk is filled up with frames of padding.

use longhand::transformer_xl::{Chunks, Inputs, SinCos};
use longhand::webgpu::Context;
use longhand::{DType, Error, TransformerXl};

const FRAMES: usize = 501;
const CHUNK: usize = 16;
const LEFT: usize = 4;
const ROW: usize = 4 * 32; // heads and head_dim

/// Numbers between -1 and 1 that look random.
fn noise(len: usize, mut state: u32) -> Vec<f32> {
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

    let (u, v) = (noise(ROW, 1), noise(ROW, 2));
    let [q, k, values] = [3, 4, 5].map(|seed| noise(FRAMES * ROW, seed));
    let chunks = Chunks { size: CHUNK, left: Some(LEFT) };

    let offline = TransformerXl::conformer([1, FRAMES, 4, 32], 0, DType::F32).chunks(chunks);
    let plan = offline.plan_webgpu(&gpu)?;
    println!("kernel     {}", plan.describe());
    // Row `distance + FRAMES - 1`, ascending; the projection of the table is left out.
    let r = offline.sinusoids(ROW, SinCos::Interleaved).run_webgpu(&gpu)?;
    let expected = offline.run_webgpu(&gpu, &Inputs::new([&q, &k, &values], &r, [&u, &v]))?.out;

    let mut streamed = vec![];
    for begin in (0..FRAMES).step_by(CHUNK) {
        let cached = begin.min(LEFT * CHUNK);
        let stream = TransformerXl::conformer([1, CHUNK, 4, 32], cached, DType::F32).key_padding();
        // Frames from `first` on, a chunk's and its cache's, padded to the end of the chunk.
        let part = |x: &[f32], first: usize| {
            let mut part = x[first * ROW..(begin + CHUNK).min(FRAMES) * ROW].to_vec();
            part.resize((begin + CHUNK - first) * ROW, 0.0);
            part
        };
        let now = part(&q, begin);
        let [k, v_now] = [&k, &values].map(|x| part(x, begin - cached));
        let valid: Vec<u8> =
            (begin - cached..begin + CHUNK).map(|j| u8::from(j < FRAMES)).collect();
        // Of the table, distances from 1 - CHUNK on.
        let table = &r[(FRAMES - stream.distance_offset - 1) * ROW..][..stream.rows * ROW];
        let inputs =
            Inputs { key_valid: Some(&valid), ..Inputs::new([&now, &k, &v_now], table, [&u, &v]) };
        streamed.extend(stream.run_webgpu(&gpu, &inputs)?.out);
    }
    streamed.truncate(FRAMES * ROW);
    let error = expected.iter().zip(&streamed).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("chunks     {} of {CHUNK} frames", FRAMES.div_ceil(CHUNK));
    println!("max error  {error:.1e}");
    assert!(error < 1e-5, "the stream differs from the whole");
    Ok(())
}
