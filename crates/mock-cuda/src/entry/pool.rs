//! Memory pools. There is one, the device's; an allocation from it is like any other.

use super::device::check_device;
use crate::abi::{code, entries, out};
use crate::state::with;
use std::ffi::{c_int, c_uint, c_void};

/// The handle of the one pool.
const POOL: u64 = 0xcd00_0000_0000_0001;

entries! {
    fn cuDeviceGetDefaultMemPool(pool: *mut u64, device: c_int) {
        check_device(device)?;
        out(pool, POOL)
    }

    fn cuDeviceGetMemPool(pool: *mut u64, device: c_int) {
        check_device(device)?;
        out(pool, POOL)
    }

    fn cuDeviceSetMemPool(device: c_int, pool: u64) {
        check_device(device)?;
        check_pool(pool)
    }

    fn cuMemPoolCreate(pool: *mut u64, _properties: *const c_void) {
        out(pool, POOL)
    }

    fn cuMemPoolDestroy(pool: u64) {
        check_pool(pool)
    }

    fn cuMemPoolTrimTo(pool: u64, _keep: usize) {
        check_pool(pool)
    }

    fn cuMemPoolSetAttribute(pool: u64, _attribute: c_uint, _value: *mut c_void) {
        check_pool(pool)
    }

    fn cuMemPoolGetAttribute(pool: u64, attribute: c_uint, value: *mut c_void) {
        check_pool(pool)?;
        match attribute {
            // Reuse policies.
            1..=3 => out(value.cast(), 1 as c_int),
            // The release threshold; reserved and used, now and at most.
            4 => out(value.cast(), 0u64),
            5..=8 => out(value.cast(), with(|s| s.memory.values().map(|a| a.bytes).sum::<u64>())),
            _ => Err(code::INVALID_VALUE),
        }
    }

    fn cuMemAllocFromPoolAsync(pointer: *mut u64, bytes: usize, pool: u64, stream: u64) {
        check_pool(pool)?;
        let address = with(|s| {
            s.stream(stream)?;
            s.allocate(bytes)
        })?;
        out(pointer, address)
    }
}

fn check_pool(pool: u64) -> Result<(), u32> {
    if pool == POOL { Ok(()) } else { Err(code::INVALID_VALUE) }
}
