//! Contexts: the primary one and those of `cuCtxCreate`; which is current.

use super::device::check_device;
use crate::abi::{code, entries, out};
use crate::state::{CURRENT, Primary, State, with};
use std::ffi::{c_int, c_uint, c_void};

entries! {
    fn cuDevicePrimaryCtxRetain(context: *mut u64, device: c_int) {
        check_device(device)?;
        let handle = with(State::retain_primary)?;
        out(context, handle)
    }

    fn cuDevicePrimaryCtxRelease_v2(device: c_int) {
        check_device(device)?;
        with(|s| s.release_primary(1))
    }

    fn cuDevicePrimaryCtxReset_v2(device: c_int) {
        check_device(device)?;
        with(|s| s.release_primary(u32::MAX))
    }

    fn cuDevicePrimaryCtxGetState(device: c_int, flags: *mut c_uint, active: *mut c_int) {
        check_device(device)?;
        out(flags, 0)?;
        out(active, with(|s| c_int::from(s.primary.is_some())))
    }

    fn cuDevicePrimaryCtxSetFlags_v2(device: c_int, _flags: c_uint) {
        check_device(device)
    }

    fn cuCtxCreate_v2(context: *mut u64, _flags: c_uint, device: c_int) {
        create(context, device)
    }

    fn cuCtxCreate_v3(
        context: *mut u64, _affinity: *mut c_void, _count: c_int, _flags: c_uint, device: c_int,
    ) {
        create(context, device)
    }

    #[cfg(not(feature = "drv1200"))]
    fn cuCtxCreate_v4(
        context: *mut u64, _params: *mut c_void, _flags: c_uint, device: c_int,
    ) {
        create(context, device)
    }

    fn cuCtxDestroy_v2(context: u64) {
        with(|s| {
            if s.primary.as_ref().is_some_and(|p| p.context == context) {
                return Err(code::INVALID_CONTEXT);
            }
            if !s.contexts.contains_key(&context) {
                return Err(code::INVALID_CONTEXT);
            }
            s.destroy_context(context);
            Ok(())
        })?;
        CURRENT.with_borrow_mut(|stack| {
            if stack.last() == Some(&context) {
                stack.pop();
            }
        });
        Ok(())
    }

    fn cuCtxGetCurrent(context: *mut u64) {
        with(|s| if s.initialised { Ok(()) } else { Err(code::NOT_INITIALIZED) })?;
        out(context, CURRENT.with_borrow(|stack| stack.last().copied()).unwrap_or(0))
    }

    fn cuCtxSetCurrent(context: u64) {
        known(context, true)?;
        CURRENT.with_borrow_mut(|stack| {
            stack.pop();
            if context != 0 {
                stack.push(context);
            }
        });
        Ok(())
    }

    fn cuCtxPushCurrent_v2(context: u64) {
        known(context, false)?;
        CURRENT.with_borrow_mut(|stack| stack.push(context));
        Ok(())
    }

    fn cuCtxPopCurrent_v2(context: *mut u64) {
        let popped = CURRENT.with_borrow_mut(Vec::pop).ok_or(code::INVALID_CONTEXT)?;
        if context.is_null() { Ok(()) } else { out(context, popped) }
    }

    fn cuCtxGetDevice(device: *mut c_int) {
        with(|s| s.current_even_failed())?;
        out(device, 0)
    }

    fn cuCtxSynchronize() {
        with(|s| {
            let context = s.current()?;
            s.not_capturing()?;
            s.drain(context);
            s.health(context)
        })
    }

    fn cuCtxGetApiVersion(context: u64, version: *mut c_uint) {
        known(context, true)?;
        out(version, with(|s| s.settings.driver))
    }

    fn cuCtxGetFlags(flags: *mut c_uint) {
        with(|s| s.current())?;
        out(flags, 0)
    }

    #[cfg(not(feature = "drv1200"))]
    fn cuCtxSetFlags(_flags: c_uint) {
        with(|s| s.current())?;
        Ok(())
    }

    fn cuCtxGetLimit(value: *mut usize, _limit: c_uint) {
        with(|s| s.current())?;
        out(value, 1024)
    }

    fn cuCtxSetLimit(_limit: c_uint, _value: usize) {
        with(|s| s.current())?;
        Ok(())
    }

    fn cuCtxGetCacheConfig(config: *mut c_uint) {
        with(|s| s.current())?;
        out(config, 0)
    }

    fn cuCtxSetCacheConfig(_config: c_uint) {
        with(|s| s.current())?;
        Ok(())
    }

    fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) {
        with(|s| s.current())?;
        if !least.is_null() {
            out(least, 0)?;
        }
        if !greatest.is_null() {
            out(greatest, -5)?;
        }
        Ok(())
    }
}

/// That a context exists, or is null where that is allowed.
fn known(context: u64, null: bool) -> Result<(), u32> {
    with(|s| match (s.initialised, context) {
        (false, _) => Err(code::NOT_INITIALIZED),
        (true, 0) if null => Ok(()),
        _ if s.contexts.contains_key(&context) => Ok(()),
        _ => Err(code::INVALID_CONTEXT),
    })
}

unsafe fn create(context: *mut u64, device: c_int) -> Result<(), u32> {
    check_device(device)?;
    let handle = with(|s| {
        if !s.initialised {
            return Err(code::NOT_INITIALIZED);
        }
        Ok(s.create_context())
    })?;
    CURRENT.with_borrow_mut(|stack| stack.push(handle));
    out(context, handle)
}

impl State {
    fn retain_primary(&mut self) -> Result<u64, u32> {
        if !self.initialised {
            return Err(code::NOT_INITIALIZED);
        }
        if let Some(primary) = &mut self.primary {
            primary.retained += 1;
            return Ok(primary.context);
        }
        let context = self.create_context();
        self.primary = Some(Primary { context, retained: 1 });
        Ok(context)
    }

    fn release_primary(&mut self, times: u32) -> Result<(), u32> {
        let primary = self.primary.as_mut().ok_or(code::INVALID_CONTEXT)?;
        primary.retained = primary.retained.saturating_sub(times);
        if primary.retained == 0 {
            let context = primary.context;
            self.primary = None;
            self.destroy_context(context);
        }
        Ok(())
    }
}
