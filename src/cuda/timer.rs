//! How long work on a stream takes, by the device's clock.

use super::{Context, DeviceBuffer, Handle, Stream};
use crate::Error;
use crate::timing::Clock;
use cudarc::driver::sys::{CUevent, CUevent_flags};
use std::sync::Arc;
use std::time::Duration;

/// Times work on a stream, one piece after the other, with two events.
///
/// Before each piece the device clears 256 MiB. While it does, the host queues the work, so that a
/// short kernel is not measured together with the host's time to launch it; and no piece finds its
/// tensors in the cache because the one before left them there.
#[derive(Debug)]
pub struct DeviceTimer {
    start: Event,
    end: Event,
    cleared: Option<DeviceBuffer>,
}

const CLEARED_BYTES: usize = 256 << 20;

impl Context {
    /// Bytes a second that the device moves when it copies 256 MiB from one place to another, reads
    /// and writes both counted: the best of five.
    pub fn bandwidth(&self) -> Result<f64, Error> {
        let stream = Stream::new(self)?;
        let timer = DeviceTimer::new(self)?;
        let (from, to) =
            (DeviceBuffer::new(self, CLEARED_BYTES)?, DeviceBuffer::new(self, CLEARED_BYTES)?);
        from.fill(&stream, 0)?;
        let mut least = Duration::MAX;
        // The first finds the clocks low.
        for _ in 0..6 {
            least = least.min(timer.time(&stream, |stream| to.copy(stream, &from))?);
        }
        Ok(2.0 * CLEARED_BYTES as f64 / least.as_secs_f64())
    }
}

#[derive(Debug)]
struct Event {
    handle: Arc<Handle>,
    raw: CUevent,
}

// SAFETY: the driver's functions may be called from any thread, with any event.
unsafe impl Send for Event {}
// SAFETY: as above; the driver does its own locking.
unsafe impl Sync for Event {}

impl DeviceTimer {
    /// A timer for streams of `context`.
    pub fn new(context: &Context) -> Result<Self, Error> {
        // A simulator's times do not depend on it. Where memory is short, times are less exact.
        let cleared = match context.is_simulated() {
            true => None,
            false => DeviceBuffer::new(context, CLEARED_BYTES).ok(),
        };
        Ok(DeviceTimer { start: Event::new(context)?, end: Event::new(context)?, cleared })
    }

    /// What [`time`](Self::time) reads.
    pub fn clock(&self) -> Clock {
        Clock::Device
    }

    /// Waits for `stream`, queues on it what `queue` queues, waits for that, and returns what it
    /// took on the device, with the gaps between launches.
    pub fn time(
        &self,
        stream: &Stream,
        queue: impl FnOnce(&Stream) -> Result<(), Error>,
    ) -> Result<Duration, Error> {
        // Work queued before must not count.
        stream.wait()?;
        if let Some(cleared) = &self.cleared {
            cleared.fill(stream, 0)?;
        }
        self.start.record(stream)?;
        queue(stream)?;
        self.end.record(stream)?;
        stream.wait()?;
        let driver = self.end.handle.make_current()?;
        let mut milliseconds = 0.0;
        // SAFETY: both events live, were recorded and have happened; the result is a local.
        unsafe { driver.cuEventElapsedTime(&mut milliseconds, self.start.raw, self.end.raw) }?;
        Ok(Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) * 1e-3))
    }
}

impl Event {
    fn new(context: &Context) -> Result<Self, Error> {
        let driver = context.handle.make_current()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: `raw` is a local. The event is destroyed when dropped.
        unsafe { driver.cuEventCreate(&mut raw, CUevent_flags::CU_EVENT_DEFAULT as u32) }?;
        drop(driver);
        Ok(Event { handle: context.handle.clone(), raw })
    }

    fn record(&self, stream: &Stream) -> Result<(), Error> {
        if !stream.is_of(&self.handle) {
            return Err(Error::invalid("stream", "of another context", "must be the timer's"));
        }
        let driver = stream.make_current()?;
        // SAFETY: event and stream live, in one context.
        Ok(unsafe { driver.cuEventRecord(self.raw, stream.raw()) }?)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if let Ok(driver) = self.handle.make_current() {
            // SAFETY: created once, destroyed once. There is nobody to tell of a failure.
            let _ = unsafe { driver.cuEventDestroy_v2(self.raw) };
        }
    }
}
