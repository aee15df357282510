//! Device memory for tests, tools and first steps; a host that links the crate brings its own.

use super::driver::code;
use super::{Context, Handle, Stream};
use crate::Error;
use cudarc::driver::sys::CUdeviceptr;
use std::sync::Arc;

/// Memory of a context's device, freed when dropped.
#[derive(Debug)]
pub struct DeviceBuffer {
    handle: Arc<Handle>,
    pointer: CUdeviceptr,
    bytes: usize,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Context({:?})", self.raw)
    }
}

impl DeviceBuffer {
    /// `bytes` of memory, at a multiple of 256. What they hold is undefined.
    pub fn new(context: &Context, bytes: usize) -> Result<Self, Error> {
        let mut pointer = 0;
        let driver = context.handle.make_current()?;
        // SAFETY: `pointer` is a local. The driver refuses to allocate nothing, so one byte at least.
        let allocated = unsafe { driver.cuMemAlloc_v2(&mut pointer, bytes.max(1)) };
        allocated.map_err(|failed| match failed.code {
            code::OUT_OF_MEMORY => Error::Device(format!("{bytes} bytes: {}", failed.text())),
            _ => failed.into(),
        })?;
        drop(driver);
        Ok(DeviceBuffer { handle: context.handle.clone(), pointer, bytes })
    }

    /// A copy of `data`, made when this returns.
    pub fn with_bytes(context: &Context, stream: &Stream, data: &[u8]) -> Result<Self, Error> {
        let buffer = Self::new(context, data.len())?;
        buffer.write(stream, data)?;
        Ok(buffer)
    }

    /// Its address.
    pub fn pointer(&self) -> u64 {
        self.pointer
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Copies `data` to the beginning, after all work of `stream`, and waits.
    pub fn write(&self, stream: &Stream, data: &[u8]) -> Result<(), Error> {
        self.fits(stream, data.len())?;
        if !data.is_empty() {
            let driver = stream.make_current()?;
            let from = data.as_ptr().cast();
            // SAFETY: both sides are that long, and stay until the copy is done, which is waited for.
            unsafe { driver.cuMemcpyHtoDAsync_v2(self.pointer, from, data.len(), stream.raw()) }?;
        }
        stream.wait()
    }

    /// Copies the beginning to `data`, after all work of `stream`, and waits.
    pub fn read(&self, stream: &Stream, data: &mut [u8]) -> Result<(), Error> {
        self.fits(stream, data.len())?;
        if !data.is_empty() {
            let driver = stream.make_current()?;
            let to = data.as_mut_ptr().cast();
            // SAFETY: as in `write`.
            let queued =
                unsafe { driver.cuMemcpyDtoHAsync_v2(to, self.pointer, data.len(), stream.raw()) };
            queued?;
        }
        stream.wait()
    }

    /// Copies all of `from` to the beginning, after all work of `stream`; does not wait.
    pub fn copy(&self, stream: &Stream, from: &DeviceBuffer) -> Result<(), Error> {
        self.fits(stream, from.bytes)?;
        from.fits(stream, 0)?;
        if from.bytes > 0 {
            let driver = stream.make_current()?;
            let (to, from, bytes) = (self.pointer, from.pointer, from.bytes);
            // SAFETY: both are that long, and are released only after the stream's work.
            unsafe { driver.cuMemcpyDtoDAsync_v2(to, from, bytes, stream.raw()) }?;
        }
        Ok(())
    }

    /// Sets every byte to `byte`, after all work of `stream`; does not wait.
    pub fn fill(&self, stream: &Stream, byte: u8) -> Result<(), Error> {
        self.fits(stream, self.bytes)?;
        if self.bytes > 0 {
            let driver = stream.make_current()?;
            // SAFETY: the memory is that long. Its release waits for the device.
            unsafe { driver.cuMemsetD8Async(self.pointer, byte, self.bytes, stream.raw()) }?;
        }
        Ok(())
    }

    fn fits(&self, stream: &Stream, bytes: usize) -> Result<(), Error> {
        if !stream.is_of(&self.handle) {
            return Err(Error::invalid("stream", "of another context", "must be the memory's"));
        }
        if bytes > self.bytes {
            let rule = format!("the memory is {} bytes", self.bytes);
            return Err(Error::invalid("data", format!("{bytes} bytes"), rule));
        }
        Ok(())
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        if let Ok(driver) = self.handle.make_current() {
            // SAFETY: allocated once, freed once; the driver waits for work that uses it. There is
            // nobody to tell of a failure.
            let _ = unsafe { driver.cuMemFree_v2(self.pointer) };
        }
    }
}
