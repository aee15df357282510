//! Host data to a device and back: for tests, tools and first steps, and for whoever has no memory
//! of their own.

use super::{Bound, Context, DeviceTimer};
use crate::timing::{Timing, milliseconds};
use crate::{DType, Error};
use std::time::{Duration, Instant};

/// How long a GPU computes before a launch counts.
const WARM_UP: Duration = Duration::from_millis(200);

/// A buffer of the crate's own, for tools, tests and whoever has no memory of their own.
#[derive(Debug)]
pub struct DeviceBuffer {
    pub(crate) buffer: wgpu::Buffer,
    bytes: u64,
}

impl DeviceBuffer {
    /// `bytes` of zeros (at least 4, rounded up to 4).
    ///
    /// # Errors
    ///
    /// [`Error::Declined`] if the device allows no buffer of that size.
    pub fn new(context: &Context, bytes: usize) -> Result<Self, Error> {
        Self::with_bytes(context, &[], bytes)
    }

    /// A buffer of `bytes` (at least 4, rounded up to 4) holding `data` and then zeros.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_bytes(context: &Context, data: &[u8], bytes: usize) -> Result<Self, Error> {
        let size = (bytes.max(data.len()).max(4) as u64).next_multiple_of(4);
        let limit = context.device().limits().max_buffer_size;
        if size > limit {
            let reason =
                format!("a tensor needs {size} bytes, the device allows buffers of {limit}");
            return Err(crate::Declined::new(reason).into());
        }
        let buffer = context.checked(|| {
            let buffer = context.device().create_buffer(&wgpu::BufferDescriptor {
                label: Some("longhand tensor"),
                size,
                usage: wgpu::BufferUsages::STORAGE
                    | wgpu::BufferUsages::COPY_SRC
                    | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: !data.is_empty(),
            });
            if !data.is_empty() {
                if let Ok(mut mapped) = buffer.get_mapped_range_mut(..) {
                    mapped.slice(..data.len()).copy_from_slice(data);
                }
                buffer.unmap();
            }
            buffer
        })?;
        Ok(DeviceBuffer { buffer, bytes: size })
    }

    /// wgpu's buffer, with usages `STORAGE`, `COPY_SRC` and `COPY_DST`.
    pub fn buffer(&self) -> &wgpu::Buffer {
        &self.buffer
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes as usize
    }

    /// `values` stored as `dtype`.
    pub(crate) fn floats(context: &Context, values: &[f32], dtype: DType) -> Result<Self, Error> {
        let bytes = dtype.encode(values);
        Self::with_bytes(context, &bytes, bytes.len())
    }

    /// The first `len` values. Blocks until the device has done everything submitted before.
    pub(crate) fn read(
        &self,
        context: &Context,
        len: usize,
        dtype: DType,
    ) -> Result<Vec<f32>, Error> {
        let bytes = self.read_bytes(context)?;
        Ok(dtype.decode(&bytes[..len * dtype.bytes()]))
    }

    /// All bytes, as [`read`](Self::read) waits for them.
    pub(crate) fn read_bytes(&self, context: &Context) -> Result<Vec<u8>, Error> {
        Self::read_all(context, &[(self, self.bytes())])
    }

    /// The first bytes of each buffer, one after another, each filled up to a multiple of 4. Blocks
    /// until the device has done everything submitted before.
    ///
    /// # Errors
    ///
    /// [`Error::Declined`] if they are more than a buffer takes; what the device reports.
    pub fn read_all(context: &Context, parts: &[(&Self, usize)]) -> Result<Vec<u8>, Error> {
        let device = context.device();
        let bytes = |(buffer, bytes): &(&Self, usize)| {
            (*bytes as u64).next_multiple_of(4).min(buffer.bytes)
        };
        let size: u64 = parts.iter().map(bytes).sum();
        let limit = device.limits().max_buffer_size;
        if size > limit {
            let reason = format!("{size} bytes to read, the device allows buffers of {limit}");
            return Err(crate::Declined::new(reason).into());
        }
        let staging = context.checked(|| {
            let staging = device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("longhand readback"),
                size: size.max(4),
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            let mut encoder = device.create_command_encoder(&Default::default());
            let mut at = 0;
            for part in parts {
                let bytes = bytes(part);
                encoder.copy_buffer_to_buffer(&part.0.buffer, 0, &staging, at, bytes);
                at += bytes;
            }
            context.queue().submit([encoder.finish()]);
            staging
        })?;
        let mut read = context.read_mapped(&staging)?;
        read.truncate(size as usize);
        Ok(read)
    }
}

impl Context {
    /// Waits for the device, then for `staging`, whose bytes it copies out.
    pub(crate) fn read_mapped(&self, staging: &wgpu::Buffer) -> Result<Vec<u8>, Error> {
        let (send, receive) = std::sync::mpsc::channel();
        staging.map_async(wgpu::MapMode::Read, .., move |result| {
            // The receiver waits below; if it is gone there is nobody to tell.
            let _ = send.send(result);
        });
        self.wait()?;
        let mapped = receive.recv().map_err(|_| Error::DeviceLost)?;
        mapped.map_err(|e| Error::Device(e.to_string()))?;
        let range = staging.get_mapped_range(..);
        let bytes = range.map_err(|e| Error::Device(e.to_string()))?.to_vec();
        staging.unmap();
        Ok(bytes)
    }

    /// Blocks until the device has done everything submitted.
    pub fn wait(&self) -> Result<(), Error> {
        self.check_lost()?;
        let polled = self.device().poll(wgpu::PollType::wait_indefinitely());
        polled.map_err(|e| Error::Device(e.to_string()))?;
        self.check_lost()
    }

    /// Submits `launches`, one after another in one compute pass, and waits for nothing.
    ///
    /// # Errors
    ///
    /// What the device reports.
    pub fn submit(&self, launches: &[Bound]) -> Result<(), Error> {
        let mut encoder = self.device().create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            launches.iter().for_each(|bound| bound.record_in(&mut pass));
        }
        self.submit_encoder(encoder)
    }

    /// Submits `encoder` and reports what wgpu finds wrong with it.
    pub(crate) fn submit_encoder(&self, encoder: wgpu::CommandEncoder) -> Result<(), Error> {
        self.checked(|| {
            self.queue().submit([encoder.finish()]);
        })
    }

    /// Runs `bound` by itself and waits for it.
    pub(crate) fn launch(&self, bound: &Bound) -> Result<(), Error> {
        let mut encoder = self.device().create_command_encoder(&Default::default());
        bound.record(&mut encoder);
        self.submit_encoder(encoder)?;
        self.wait()
    }

    /// Times `plan`, which plans and binds and says what memory that takes, with the first launch,
    /// and then `repeats` launches, on a GPU once it is warm. No launch if it binds nothing, having no
    /// result to compute.
    pub(crate) fn time_launches(
        &self,
        plan: impl FnOnce() -> Result<(Option<Bound>, u64), Error>,
        repeats: usize,
    ) -> Result<Timing, Error> {
        let timer = DeviceTimer::new(self)?;
        let started = Instant::now();
        let (bound, workspace_bytes) = plan()?;
        let mut timing =
            Timing { first_ms: 0.0, best_ms: 0.0, workspace_bytes, clock: timer.clock() };
        let Some(bound) = bound else { return Ok(timing) };
        self.launch(&bound)?;
        timing.first_ms = milliseconds(started.elapsed());
        timing.best_ms = f64::INFINITY;
        // A GPU that did nothing runs at a fraction of its clock for a while.
        let started = Instant::now();
        while !self.caps().cpu && started.elapsed() < WARM_UP {
            self.launch(&bound)?;
        }
        for _ in 0..repeats.max(1) {
            let took = timer.time(|pass| bound.record_in(pass))?;
            timing.best_ms = timing.best_ms.min(milliseconds(took));
        }
        Ok(timing)
    }
}
