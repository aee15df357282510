//! A GPU under the layer: tensors that lie there, and launches that nobody waits for.
//!
//! [`Gpu`] is a device with what the layer keeps on it. Operations reach it through
//! `ops`, attention through [`attention`]; either hands buffers over and gets buffers
//! back. Work is queued in the order of the calls, so that memory whose tensor is gone may be
//! written by the next launch.
//!
//! Operations cannot fail, devices can: the first error stays with the device, what would have come
//! of it holds NaN, and the pass ends with that error (`Device::finish`).

// A build without GPUs makes none: nothing after a `match` on one is reached.
#![cfg_attr(
    not(any(feature = "webgpu", feature = "cuda")),
    allow(dead_code, unused_imports, unused_variables, unreachable_code)
)]

pub(crate) mod attention;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod kernels;
#[cfg(feature = "webgpu")]
pub(crate) mod webgpu;

pub(crate) use kernels::{BLOCK, Kernel, TILE};
use kernels::{Buffers, READS, WORDS};

use crate::tensor::Data;
use crate::{Error, Result, Tensor, lock, require};
use std::any::Any;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// An open GPU. Clones are the same device.
#[derive(Clone)]
pub struct Gpu {
    inner: Arc<Inner>,
}

struct Inner {
    backend: Backend,
    failure: Mutex<Option<Error>>,
    read_backs: AtomicUsize,
    /// Memory that no tensor has, each with its size.
    free: Mutex<Vec<(usize, Memory)>>,
    /// Small tables that went up lately: masks and ids are the same for every layer.
    constants: Mutex<Vec<(Vec<u8>, Memory)>>,
}

/// Who runs the launches. A build without GPUs has none.
pub(crate) enum Backend {
    #[cfg(feature = "webgpu")]
    Webgpu(Box<webgpu::Webgpu>),
    #[cfg(feature = "cuda")]
    Cuda(Box<cuda::Cuda>),
}

/// The same of whichever device it is.
macro_rules! on {
    ($gpu:expr, $backend:ident => $what:expr) => {
        match $gpu.inner.backend {
            #[cfg(feature = "webgpu")]
            Backend::Webgpu(ref $backend) => $what,
            #[cfg(feature = "cuda")]
            Backend::Cuda(ref $backend) => $what,
        }
    };
}

/// Memory of a device: a `DeviceBuffer` of its kind.
type Memory = Arc<dyn Any + Send + Sync>;

/// Memory on a device, free for the next tensor when this is gone.
pub(crate) struct Buffer {
    pub(crate) gpu: Gpu,
    /// Absent after the device has failed.
    memory: Option<Memory>,
    bytes: usize,
}

/// Pieces of memory that are kept for later tensors.
const KEPT: usize = 64;

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gpu({})", self.name())
    }
}

impl PartialEq for Gpu {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}

impl Buffer {
    /// Where it lies, if that is a device of this kind.
    fn on<T: 'static>(&self) -> Result<&T> {
        let elsewhere = || Error::declined("a tensor that is not on this device");
        self.memory.as_ref().and_then(|memory| memory.downcast_ref()).ok_or_else(elsewhere)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(mut memory) = self.memory.take() else { return };
        if Arc::get_mut(&mut memory).is_some() {
            let mut free = lock(&self.gpu.inner.free);
            if free.len() == KEPT {
                free.remove(0);
            }
            free.push((size_for(self.bytes), memory));
        }
    }
}

/// Bytes of the memory for `bytes`: lengths that are nearly the same share memory.
fn size_for(bytes: usize) -> usize {
    bytes.max(1).next_multiple_of(256)
}

impl Gpu {
    fn new(backend: Backend) -> Self {
        let (failure, read_backs, free, constants) = Default::default();
        Gpu { inner: Arc::new(Inner { backend, failure, read_backs, free, constants }) }
    }

    /// A WebGPU device, with its context.
    #[cfg(feature = "webgpu")]
    pub fn webgpu(context: longhand::webgpu::Context) -> Self {
        Gpu::new(Backend::Webgpu(Box::new(webgpu::Webgpu::new(context))))
    }

    /// A CUDA device, with its context.
    ///
    /// # Errors
    ///
    /// If the driver gives no stream.
    #[cfg(feature = "cuda")]
    pub fn cuda(context: longhand::cuda::Context) -> Result<Self> {
        Ok(Gpu::new(Backend::Cuda(Box::new(cuda::Cuda::new(context)?))))
    }

    pub(crate) fn backend(&self) -> &Backend {
        &self.inner.backend
    }

    /// What the device is called.
    pub fn name(&self) -> &str {
        on!(self, backend => backend.name())
    }

    /// How many tensors have come back to the host in the middle of a forward pass, because an
    /// operation has no kernel yet.
    pub fn read_backs(&self) -> usize {
        self.inner.read_backs.load(Ordering::Relaxed)
    }

    /// What `result` holds, or nothing; the first error is kept.
    fn ok<T>(&self, result: Result<T>) -> Option<T> {
        result.map_err(|error| _ = lock(&self.inner.failure).get_or_insert(error)).ok()
    }

    /// Memory for `len` elements, holding anything.
    pub(crate) fn empty(&self, len: usize) -> Buffer {
        let bytes = 4 * len;
        let mut free = lock(&self.inner.free);
        let kept = free.iter().position(|(size, _)| *size == size_for(bytes));
        let memory = kept.map(|at| free.remove(at).1).or_else(|| self.memory(&[], bytes));
        Buffer { gpu: self.clone(), memory, bytes }
    }

    /// A copy of `data`.
    pub(crate) fn upload(&self, data: &[u8]) -> Buffer {
        Buffer { gpu: self.clone(), memory: self.memory(data, data.len()), bytes: data.len() }
    }

    fn memory(&self, data: &[u8], bytes: usize) -> Option<Memory> {
        let rule = "kernels count to 2^31 elements";
        let large = || Error::declined(format_args!("a tensor of {bytes} bytes: {rule}"));
        self.ok(require(bytes / 4 <= i32::MAX as usize, large))?;
        self.ok(on!(self, backend => backend.memory(data, size_for(bytes))))
    }

    /// A copy of a small table; the same memory again if it went up lately.
    pub(crate) fn constant(&self, data: &[u8]) -> Buffer {
        const TABLES: usize = 16;
        let mut tables = lock(&self.inner.constants);
        let found = tables.iter().find(|(bytes, _)| bytes == data);
        let memory = found.map(|(_, memory)| memory.clone()).or_else(|| {
            let memory = self.memory(data, data.len())?;
            if tables.len() == TABLES {
                tables.remove(0);
            }
            tables.push((data.to_vec(), memory.clone()));
            Some(memory)
        });
        Buffer { gpu: self.clone(), memory, bytes: data.len() }
    }

    /// Queues a kernel that reads `reads` (as many as there are, the last one again for those that
    /// are missing) and writes into `out`. The words are its sizes, offsets and bits of numbers, the
    /// number of workgroups first; they fit 32 bits, since every tensor's elements do.
    pub(crate) fn launch(&self, kernel: Kernel, reads: &[&Tensor], out: &Buffer, words: &[usize]) {
        if words[0] > 0 && out.bytes > 0 && lock(&self.inner.failure).is_none() {
            let mut params = [0; WORDS];
            params.iter_mut().zip(words).for_each(|(param, &word)| *param = word as u32);
            let reads: Vec<Arc<Buffer>> = reads.iter().map(|x| x.buffer(self)).collect();
            let read = |n: usize| &*reads[n.min(reads.len() - 1)];
            let buffers: Buffers = std::array::from_fn(|n| if n < READS { read(n) } else { out });
            self.ok::<()>(on!(self, backend => backend.launch(kernel, &buffers, &params)));
        }
    }

    /// The elements of a buffer in the middle of a pass; counted.
    pub(crate) fn read_back(&self, buffer: &Buffer) -> Vec<f32> {
        self.inner.read_backs.fetch_add(1, Ordering::Relaxed);
        self.read(&[buffer]).pop().unwrap_or_default()
    }

    /// The elements of buffers, all fetched at once; NaN from a device that has failed.
    fn read(&self, buffers: &[&Buffer]) -> Vec<Vec<f32>> {
        let failed = lock(&self.inner.failure).is_some();
        let read = || on!(self, backend => backend.read(buffers));
        let fetched = if failed { None } else { self.ok(read()) };
        fetched.unwrap_or_else(|| buffers.iter().map(|b| vec![f32::NAN; b.bytes / 4]).collect())
    }

    /// Brings tensors to the host together, and gives the first error of the device.
    pub(crate) fn fetch(&self, tensors: &[&Tensor]) -> Result<()> {
        let missing: Vec<_> = tensors.iter().filter_map(|x| x.missing_on_host(self)).collect();
        let buffers: Vec<&Buffer> = missing.iter().map(|(buffer, _)| *buffer).collect();
        if !buffers.is_empty() {
            for (data, (_, host)) in self.read(&buffers).into_iter().zip(&missing) {
                // A clone of the tensor may have been fetched before it.
                let _ = host.set(Data::Owned(data));
            }
        }
        lock(&self.inner.failure).take().map_or(Ok(()), Err)
    }
}
