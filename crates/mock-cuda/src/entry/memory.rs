//! Memory: allocation, copies, fills, what a pointer is.

use crate::abi::{code, entries, out};
use crate::queue::Work;
use crate::state::{State, ask, with};
use std::ffi::{c_int, c_uint, c_void};

/// The legacy default stream.
const DEFAULT: u64 = 0;

entries! {
    fn cuMemAlloc_v2(pointer: *mut u64, bytes: usize) {
        let address = with(|s| s.allocate(bytes))?;
        out(pointer, address)
    }

    fn cuMemAllocAsync(pointer: *mut u64, bytes: usize, stream: u64) {
        let address = with(|s| {
            s.stream(stream)?;
            s.allocate(bytes)
        })?;
        out(pointer, address)
    }

    fn cuMemAllocPitch_v2(
        pointer: *mut u64, pitch: *mut usize, width: usize, height: usize, _element: c_uint,
    ) {
        let row = width.next_multiple_of(512);
        let address = with(|s| s.allocate(row.saturating_mul(height)))?;
        out(pitch, row)?;
        out(pointer, address)
    }

    fn cuMemFree_v2(pointer: u64) {
        with(|s| {
            let context = s.current()?;
            if pointer == 0 {
                return Ok(());
            }
            s.not_capturing()?;
            // The driver waits for the device before it frees.
            s.drain(context);
            s.health(context)?;
            s.release(pointer)
        })
    }

    fn cuMemFreeAsync(pointer: u64, stream: u64) {
        with(|s| {
            let stream = s.stream(stream)?;
            if !s.memory.contains_key(&pointer) {
                return Err(code::INVALID_VALUE);
            }
            s.submit(stream, vec![], Work::Free { address: pointer })?;
            Ok(())
        })
    }

    fn cuMemHostAlloc(pointer: *mut *mut c_void, bytes: usize, _flags: c_uint) {
        host_alloc(pointer, bytes)
    }

    fn cuMemAllocHost_v2(pointer: *mut *mut c_void, bytes: usize) {
        host_alloc(pointer, bytes)
    }

    fn cuMemFreeHost(pointer: *mut c_void) {
        let bytes = with(|s| {
            let context = s.current()?;
            s.drain(context);
            s.pinned.remove(&(pointer as u64)).ok_or(code::INVALID_VALUE)
        })?;
        std::alloc::dealloc(pointer.cast(), host_layout(bytes)?);
        Ok(())
    }

    fn cuMemHostRegister_v2(pointer: *mut c_void, bytes: usize, _flags: c_uint) {
        with(|s| {
            s.current()?;
            s.pinned.insert(pointer as u64, bytes);
            Ok(())
        })
    }

    fn cuMemHostUnregister(pointer: *mut c_void) {
        with(|s| {
            let context = s.current()?;
            s.drain(context);
            s.pinned.remove(&(pointer as u64)).map(|_| ()).ok_or(code::INVALID_VALUE)
        })
    }

    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) {
        let (used, all) = ask(|s| {
            s.current()?;
            Ok((s.memory.values().map(|a| a.bytes).sum::<u64>(), s.settings.memory))
        })?;
        out(free, all.saturating_sub(used) as usize)?;
        out(total, all as usize)
    }

    fn cuMemGetAddressRange_v2(begin: *mut u64, bytes: *mut usize, pointer: u64) {
        let (at, size) = with(|s| s.allocation(pointer).map(|(at, a)| (at, a.bytes)))
            .ok_or(code::NOT_FOUND)?;
        if !begin.is_null() {
            out(begin, at)?;
        }
        if bytes.is_null() { Ok(()) } else { out(bytes, size as usize) }
    }

    fn cuMemcpyHtoD_v2(to: u64, from: *const u8, bytes: usize) {
        with(|s| {
            let stream = s.write(to, from, bytes, DEFAULT)?;
            s.wait(stream)
        })
    }

    fn cuMemcpyHtoDAsync_v2(to: u64, from: *const u8, bytes: usize, stream: u64) {
        with(|s| s.write(to, from, bytes, stream).map(|_| ()))
    }

    fn cuMemcpyDtoH_v2(to: *mut u8, from: u64, bytes: usize) {
        with(|s| {
            let stream = s.read(to, from, bytes, DEFAULT)?;
            s.wait(stream)
        })
    }

    fn cuMemcpyDtoHAsync_v2(to: *mut u8, from: u64, bytes: usize, stream: u64) {
        with(|s| s.read(to, from, bytes, stream).map(|_| ()))
    }

    fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) {
        with(|s| s.copy(to, from, bytes, DEFAULT))
    }

    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: u64) {
        with(|s| s.copy(to, from, bytes, stream))
    }

    fn cuMemcpyPeerAsync(
        to: u64, _to_context: u64, from: u64, _from_context: u64, bytes: usize, stream: u64,
    ) {
        with(|s| s.copy(to, from, bytes, stream))
    }

    fn cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: u64) {
        with(|s| s.copy_any(to, from, bytes, stream).map(|_| ()))
    }

    fn cuMemcpy(to: u64, from: u64, bytes: usize) {
        with(|s| {
            let stream = s.copy_any(to, from, bytes, DEFAULT)?;
            s.wait(stream)
        })
    }

    fn cuMemsetD8_v2(to: u64, value: u8, count: usize) {
        with(|s| s.set(to, &[value], count, DEFAULT))
    }

    fn cuMemsetD8Async(to: u64, value: u8, count: usize, stream: u64) {
        with(|s| s.set(to, &[value], count, stream))
    }

    fn cuMemsetD16_v2(to: u64, value: u16, count: usize) {
        with(|s| s.set(to, &value.to_le_bytes(), count, DEFAULT))
    }

    fn cuMemsetD16Async(to: u64, value: u16, count: usize, stream: u64) {
        with(|s| s.set(to, &value.to_le_bytes(), count, stream))
    }

    fn cuMemsetD32_v2(to: u64, value: u32, count: usize) {
        with(|s| s.set(to, &value.to_le_bytes(), count, DEFAULT))
    }

    fn cuMemsetD32Async(to: u64, value: u32, count: usize, stream: u64) {
        with(|s| s.set(to, &value.to_le_bytes(), count, stream))
    }

    fn cuPointerGetAttribute(data: *mut c_void, attribute: c_uint, pointer: u64) {
        pointer_attribute(data, attribute, pointer)
    }

    fn cuPointerGetAttributes(
        count: c_uint, attributes: *const c_uint, data: *const *mut c_void, pointer: u64,
    ) {
        for n in 0..count as usize {
            pointer_attribute(*data.add(n), *attributes.add(n), pointer)?;
        }
        Ok(())
    }
}

fn host_layout(bytes: usize) -> Result<std::alloc::Layout, u32> {
    std::alloc::Layout::from_size_align(bytes, 4096).map_err(|_| code::INVALID_VALUE)
}

unsafe fn host_alloc(pointer: *mut *mut c_void, bytes: usize) -> Result<(), u32> {
    if bytes == 0 {
        return Err(code::INVALID_VALUE);
    }
    with(|s| s.current())?;
    let memory = std::alloc::alloc(host_layout(bytes)?);
    if memory.is_null() {
        return Err(code::OUT_OF_MEMORY);
    }
    with(|s| s.pinned.insert(memory as u64, bytes));
    out(pointer, memory.cast())
}

unsafe fn pointer_attribute(data: *mut c_void, attribute: c_uint, pointer: u64) -> Result<(), u32> {
    let found = with(|s| s.allocation(pointer).map(|(at, a)| (at, a.bytes, a.context)));
    let (begin, bytes, context) = found.ok_or(code::INVALID_VALUE)?;
    match attribute {
        // Context, memory type (device), device pointer, managed, ordinal, begin, size, mapped.
        1 => out(data.cast(), context),
        2 => out(data.cast(), 2u32),
        3 => out(data.cast(), pointer),
        8 => out(data.cast(), 0u8),
        9 => out(data.cast(), 0 as c_int),
        11 => out(data.cast(), begin),
        12 => out(data.cast(), bytes as usize),
        13 => out(data.cast(), 1u8),
        _ => Err(code::NOT_SUPPORTED),
    }
}

impl State {
    fn write(&mut self, to: u64, from: *const u8, bytes: usize, stream: u64) -> Result<u64, u32> {
        let stream = self.stream(stream)?;
        if bytes == 0 {
            return Ok(stream);
        }
        self.check_range(to, bytes as u64)?;
        let work = match self.is_pinned(from as u64, bytes) {
            true => Work::WritePinned { to, from: from as usize, bytes },
            false => {
                // SAFETY: the caller's memory is that long.
                let data = unsafe { std::slice::from_raw_parts(from, bytes) }.to_vec();
                Work::Write { to, data }
            }
        };
        self.submit(stream, vec![], work)?;
        Ok(stream)
    }

    fn read(&mut self, to: *mut u8, from: u64, bytes: usize, stream: u64) -> Result<u64, u32> {
        let stream = self.stream(stream)?;
        if bytes == 0 {
            return Ok(stream);
        }
        self.check_range(from, bytes as u64)?;
        let pinned = self.is_pinned(to as u64, bytes);
        if pinned && self.streams[&stream].capture.is_none() {
            // What a host that does not wait would see.
            // SAFETY: the caller's memory is that long.
            unsafe { std::ptr::write_bytes(to, 0xff, bytes) };
        }
        self.submit(stream, vec![], Work::Read { to: to as usize, from, bytes })?;
        if !pinned {
            // To pageable memory the call returns when the copy is done.
            self.wait(stream)?;
        }
        Ok(stream)
    }

    fn copy(&mut self, to: u64, from: u64, bytes: usize, stream: u64) -> Result<(), u32> {
        let stream = self.stream(stream)?;
        if bytes == 0 {
            return Ok(());
        }
        self.check_range(to, bytes as u64)?;
        self.check_range(from, bytes as u64)?;
        self.submit(stream, vec![], Work::Copy { to, from, bytes })?;
        Ok(())
    }

    /// Whichever sides are the device's.
    fn copy_any(&mut self, to: u64, from: u64, bytes: usize, stream: u64) -> Result<u64, u32> {
        match (self.allocation(to).is_some(), self.allocation(from).is_some()) {
            (true, true) => {
                self.copy(to, from, bytes, stream)?;
                self.stream(stream)
            }
            (true, false) => self.write(to, from as *const u8, bytes, stream),
            (false, true) => self.read(to as *mut u8, from, bytes, stream),
            (false, false) => Err(code::INVALID_VALUE),
        }
    }

    fn set(&mut self, to: u64, pattern: &[u8], count: usize, stream: u64) -> Result<(), u32> {
        let stream = self.stream(stream)?;
        if count == 0 {
            return Ok(());
        }
        if !to.is_multiple_of(pattern.len() as u64) {
            return Err(code::INVALID_VALUE);
        }
        self.check_range(to, (count as u64).saturating_mul(pattern.len() as u64))?;
        self.submit(stream, vec![], Work::Fill { to, pattern: pattern.to_vec(), count })?;
        Ok(())
    }
}
