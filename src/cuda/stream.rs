//! Streams: the caller's, or one of our own.

use super::driver::Failed;
use super::{Context, Current, Handle};
use crate::Error;
use cudarc::driver::CudaStream;
use cudarc::driver::sys::{CUstream, CUstream_flags};
use std::sync::Arc;

/// A queue of work on a context's device. Clones are the same queue.
#[derive(Clone)]
pub struct Stream {
    inner: Arc<Inner>,
}

struct Inner {
    handle: Arc<Handle>,
    raw: CUstream,
    owner: Owner,
}

/// Whoever keeps a stream alive.
enum Owner {
    /// This value, which created it.
    Own,
    /// cudarc.
    Cudarc { _stream: Arc<CudaStream> },
    /// Someone who promised to in [`Stream::from_raw`]; or the driver, whose own it is.
    Other,
}

// SAFETY: the driver's functions may be called from any thread, with any stream.
unsafe impl Send for Inner {}
// SAFETY: as above; the driver does its own locking.
unsafe impl Sync for Inner {}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("raw", &self.inner.raw).finish_non_exhaustive()
    }
}

impl Stream {
    /// A new stream. It does not wait for the legacy default stream, nor that for it.
    pub fn new(context: &Context) -> Result<Self, Error> {
        let mut raw = std::ptr::null_mut();
        let driver = context.handle.make_current()?;
        let flags = CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: `raw` is a local. The stream is destroyed with the last clone.
        unsafe { driver.cuStreamCreate(&mut raw, flags) }?;
        drop(driver);
        Ok(Self::of(context, raw, Owner::Own))
    }

    /// The context's legacy default stream, on which a program that names no stream works.
    pub fn legacy_default(context: &Context) -> Self {
        Self::of(context, std::ptr::null_mut(), Owner::Other)
    }

    /// A stream of cudarc's, which this one keeps alive.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if it is of another context.
    pub fn with_cudarc(context: &Context, stream: &Arc<CudaStream>) -> Result<Self, Error> {
        if stream.context().cu_ctx() != context.raw() {
            return Err(Error::invalid("stream", "of another context", "must be of this one"));
        }
        Ok(Self::of(context, stream.cu_stream(), Owner::Cudarc { _stream: stream.clone() }))
    }

    /// A stream of any other origin.
    ///
    /// # Safety
    ///
    /// `stream` is a stream of `context`, and outlives this value and its clones.
    pub unsafe fn from_raw(context: &Context, stream: CUstream) -> Self {
        Self::of(context, stream, Owner::Other)
    }

    fn of(context: &Context, raw: CUstream, owner: Owner) -> Self {
        Stream { inner: Arc::new(Inner { handle: context.handle.clone(), raw, owner }) }
    }

    /// The driver's handle.
    pub fn raw(&self) -> CUstream {
        self.inner.raw
    }

    /// Blocks until the device has done everything queued here. An error may be of any work before,
    /// on any stream; most make the context useless from then on.
    pub fn wait(&self) -> Result<(), Error> {
        let driver = self.make_current()?;
        // SAFETY: the owner keeps the stream alive.
        Ok(unsafe { driver.cuStreamSynchronize(self.raw()) }?)
    }

    pub(super) fn make_current(&self) -> Result<Current<'_>, Failed> {
        self.inner.handle.make_current()
    }

    /// Whether the stream is of the context with this handle.
    pub(super) fn is_of(&self, handle: &Handle) -> bool {
        self.inner.handle.raw == handle.raw
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let (Owner::Own, Ok(driver)) = (&self.owner, self.handle.make_current()) {
            // SAFETY: created in `new`, destroyed once; work queued on it is still done. There is
            // nobody to tell of a failure.
            let _ = unsafe { driver.cuStreamDestroy_v2(self.raw) };
        }
    }
}
