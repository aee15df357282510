//! From f32 tensors to f32 results: what the kinds' first steps share.

use crate::Error;
use crate::timing::{Clock, Timing, milliseconds};
use std::time::Instant;

/// A workspace for the threads of the pool, whose length `len` tells of their number.
pub(crate) fn workspace(len: impl Fn(usize) -> usize) -> Vec<f32> {
    vec![0.0; len(rayon::current_num_threads())]
}

/// Measures `run` with `workspace`: the first time, and the least of `repeats` more.
pub(crate) fn time(
    mut workspace: Vec<f32>,
    repeats: usize,
    mut run: impl FnMut(&mut [f32]) -> Result<(), Error>,
) -> Result<Timing, Error> {
    let workspace_bytes = size_of_val(&workspace[..]) as u64;
    let mut once = || {
        let started = Instant::now();
        run(&mut workspace)?;
        Ok::<f64, Error>(milliseconds(started.elapsed()))
    };
    let first_ms = once()?;
    let mut best_ms = f64::INFINITY;
    for _ in 0..repeats.max(1) {
        best_ms = best_ms.min(once()?);
    }
    Ok(Timing { first_ms, best_ms, workspace_bytes, clock: Clock::Wall })
}
