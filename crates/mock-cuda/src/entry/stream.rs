//! Streams.

use crate::abi::{code, entries, out};
use crate::queue::{Stream, Work};
use crate::state::{ask, with};
use std::ffi::{c_int, c_uint, c_void};

const NON_BLOCKING: c_uint = 1;

entries! {
    fn cuStreamCreate(stream: *mut u64, flags: c_uint) {
        create(stream, flags)
    }

    fn cuStreamCreateWithPriority(stream: *mut u64, flags: c_uint, _priority: c_int) {
        create(stream, flags)
    }

    fn cuStreamDestroy_v2(stream: u64) {
        with(|s| {
            if stream <= 2 {
                return Err(code::INVALID_HANDLE);
            }
            let (context, last) = {
                let found = s.streams.get(&stream).ok_or(code::INVALID_HANDLE)?;
                (found.context, found.submitted)
            };
            // Its work is still done; nothing here can tell when.
            s.run_until(stream, last);
            s.streams.remove(&stream);
            s.health(context)
        })
    }

    fn cuStreamSynchronize(stream: u64) {
        with(|s| {
            let stream = s.stream(stream)?;
            s.wait(stream)
        })
    }

    fn cuStreamQuery(stream: u64) {
        with(|s| {
            let stream = s.stream(stream)?;
            let found = &s.streams[&stream];
            if found.completed == found.submitted { Ok(()) } else { Err(code::NOT_READY) }
        })
    }

    fn cuStreamWaitEvent(stream: u64, event: u64, _flags: c_uint) {
        with(|s| {
            let stream = s.stream(stream)?;
            let recorded = s.events.get(&event).ok_or(code::INVALID_HANDLE)?.recorded;
            // An event that was never recorded is no wait.
            if let Some(place) = recorded {
                s.submit(stream, vec![place], Work::Nothing)?;
            }
            Ok(())
        })
    }

    fn cuStreamGetCtx(stream: u64, context: *mut u64) {
        let found = ask(|s| {
            let stream = s.stream(stream)?;
            Ok(s.streams[&stream].context)
        })?;
        out(context, found)
    }

    fn cuStreamGetFlags(stream: u64, flags: *mut c_uint) {
        let blocking = ask(|s| {
            let stream = s.stream(stream)?;
            Ok(s.streams[&stream].blocking)
        })?;
        out(flags, if blocking { 0 } else { NON_BLOCKING })
    }

    fn cuStreamGetPriority(stream: u64, priority: *mut c_int) {
        with(|s| s.stream(stream))?;
        out(priority, 0)
    }

    fn cuStreamGetId(stream: u64, id: *mut u64) {
        let handle = with(|s| s.stream(stream))?;
        out(id, handle)
    }

    fn cuStreamIsCapturing(stream: u64, status: *mut c_uint) {
        let capturing = ask(|s| {
            let stream = s.stream(stream)?;
            Ok(s.streams[&stream].capture.is_some())
        })?;
        out(status, c_uint::from(capturing))
    }

    fn cuStreamGetCaptureInfo_v2(
        stream: u64, status: *mut c_uint, _id: *mut u64, _graph: *mut u64,
        _dependencies: *mut *const u64, _count: *mut usize,
    ) {
        let capturing = ask(|s| {
            let stream = s.stream(stream)?;
            Ok(s.streams[&stream].capture.is_some())
        })?;
        out(status, c_uint::from(capturing))
    }

    fn cuLaunchHostFunc(
        stream: u64, function: Option<unsafe extern "C" fn(*mut c_void)>, data: *mut c_void,
    ) {
        let function = function.ok_or(code::INVALID_VALUE)?;
        with(|s| {
            let stream = s.stream(stream)?;
            s.submit(stream, vec![], Work::Call { function, data: data as usize })?;
            Ok(())
        })
    }
}

unsafe fn create(stream: *mut u64, flags: c_uint) -> Result<(), u32> {
    if flags > NON_BLOCKING {
        return Err(code::INVALID_VALUE);
    }
    let handle = ask(|s| {
        let context = s.current()?;
        let handle = s.handle();
        s.streams.insert(handle, Stream::new(context, flags & NON_BLOCKING == 0));
        Ok(handle)
    })?;
    out(stream, handle)
}
