//! Tasks for the threads of a pool.

use rayon::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Calls `run(part, task)` once for each of `tasks`, begun in order; each call has one of the parts
/// of `workspace`, `len` long, for itself.
pub(crate) fn share_tasks(
    workspace: &mut [f32],
    len: usize,
    tasks: usize,
    run: impl Fn(&mut [f32], usize) + Sync,
) {
    let next = AtomicUsize::new(0);
    let parts = (workspace.len() / len).min(rayon::current_num_threads()).min(tasks);
    workspace.par_chunks_exact_mut(len).take(parts).for_each(|part| {
        loop {
            let task = next.fetch_add(1, Ordering::Relaxed);
            if task >= tasks {
                break;
            }
            run(part, task);
        }
    });
}
