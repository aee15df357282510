//! What the kinds share on the way from host tensors to host results.

use super::{Context, DeviceBuffer, DeviceTimer, Stream};
use crate::timing::{Timing, milliseconds};
use crate::{DType, Error};
use std::time::Instant;

/// Memory for `len` elements of a result: gaps between its rows stay 0.
pub(crate) fn zeros(
    context: &Context,
    stream: &Stream,
    len: usize,
    dtype: DType,
) -> Result<DeviceBuffer, Error> {
    let buffer = DeviceBuffer::new(context, len * dtype.bytes())?;
    buffer.fill(stream, 0)?;
    Ok(buffer)
}

/// The first `len` elements of `buffer`.
pub(crate) fn read(
    buffer: &DeviceBuffer,
    stream: &Stream,
    len: usize,
    dtype: DType,
) -> Result<Vec<f32>, Error> {
    let mut bytes = vec![0; len * dtype.bytes()];
    buffer.read(stream, &mut bytes)?;
    Ok(dtype.decode(&bytes))
}

/// Times what `plan` makes and `launch` queues: planning with the first launch, and the least of
/// `repeats` launches after it. `workspace_bytes` says what a plan needs.
pub(crate) fn time<P>(
    context: &Context,
    stream: &Stream,
    repeats: usize,
    plan: impl FnOnce() -> Result<P, Error>,
    workspace_bytes: impl FnOnce(&P) -> u64,
    launch: impl Fn(&P, &Stream, &DeviceBuffer) -> Result<(), Error>,
) -> Result<Timing, Error> {
    let timer = DeviceTimer::new(context)?;
    let started = Instant::now();
    let plan = plan()?;
    let workspace_bytes = workspace_bytes(&plan);
    let workspace = DeviceBuffer::new(context, workspace_bytes as usize)?;
    launch(&plan, stream, &workspace)?;
    stream.wait()?;
    let mut timing = Timing {
        first_ms: milliseconds(started.elapsed()),
        best_ms: f64::INFINITY,
        workspace_bytes,
        clock: timer.clock(),
    };
    for _ in 0..repeats.max(1) {
        let took = timer.time(stream, |stream| launch(&plan, stream, &workspace))?;
        timing.best_ms = timing.best_ms.min(milliseconds(took));
    }
    Ok(timing)
}
