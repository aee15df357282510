//! Events. Their times are those that a model gives for the kernels between them.

use crate::abi::{code, entries, out};
use crate::queue::Work;
use crate::state::{Event, ask, with};
use std::ffi::c_uint;

const DISABLE_TIMING: c_uint = 2;

entries! {
    fn cuEventCreate(event: *mut u64, flags: c_uint) {
        let handle = ask(|s| {
            let context = s.current()?;
            let handle = s.handle();
            let timed = flags & DISABLE_TIMING == 0;
            s.events.insert(handle, Event { context, timed, recorded: None, time: None });
            Ok(handle)
        })?;
        out(event, handle)
    }

    fn cuEventDestroy_v2(event: u64) {
        with(|s| s.events.remove(&event).map(|_| ()).ok_or(code::INVALID_HANDLE))
    }

    fn cuEventRecord(event: u64, stream: u64) {
        record(event, stream)
    }

    fn cuEventRecordWithFlags(event: u64, stream: u64, _flags: c_uint) {
        record(event, stream)
    }

    fn cuEventSynchronize(event: u64) {
        with(|s| {
            let found = s.events.get(&event).ok_or(code::INVALID_HANDLE)?;
            let (context, recorded) = (found.context, found.recorded);
            if let Some((stream, place)) = recorded {
                s.run_until(stream, place);
            }
            s.health(context)
        })
    }

    fn cuEventQuery(event: u64) {
        with(|s| {
            let found = s.events.get(&event).ok_or(code::INVALID_HANDLE)?;
            s.health(found.context)?;
            match found.recorded {
                Some(place) if !s.has_run(place) => Err(code::NOT_READY),
                _ => Ok(()),
            }
        })
    }

    fn cuEventElapsedTime(milliseconds: *mut f32, start: u64, end: u64) {
        let elapsed = elapsed(start, end)?;
        out(milliseconds, elapsed)
    }

    #[cfg(not(feature = "drv1200"))]
    fn cuEventElapsedTime_v2(milliseconds: *mut f32, start: u64, end: u64) {
        let elapsed = elapsed(start, end)?;
        out(milliseconds, elapsed)
    }
}

fn record(event: u64, stream: u64) -> Result<(), u32> {
    with(|s| {
        let stream = s.stream(stream)?;
        let context = s.streams[&stream].context;
        if s.events.get(&event).ok_or(code::INVALID_HANDLE)?.context != context {
            return Err(code::INVALID_HANDLE);
        }
        let place = s.submit(stream, vec![], Work::Record { event })?;
        if let Some(event) = s.events.get_mut(&event) {
            event.recorded = Some((stream, place));
        }
        Ok(())
    })
}

fn elapsed(start: u64, end: u64) -> Result<f32, u32> {
    with(|s| {
        let find = |event: u64| s.events.get(&event).ok_or(code::INVALID_HANDLE);
        let (start, end) = (find(start)?, find(end)?);
        s.health(start.context)?;
        let (Some(from), Some(to)) = (start.recorded, end.recorded) else {
            return Err(code::INVALID_HANDLE);
        };
        if !start.timed || !end.timed {
            return Err(code::INVALID_HANDLE);
        }
        if !s.has_run(from) || !s.has_run(to) {
            return Err(code::NOT_READY);
        }
        let (from, to) = (start.time.unwrap_or(0.0), end.time.unwrap_or(0.0));
        Ok(((to - from) * 1e-6) as f32)
    })
}
