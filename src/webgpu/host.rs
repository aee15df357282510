//! Host data to a device and back: for tests, tools and first steps, not for speed.

use super::{Bound, Context, DeviceTimer};
use crate::timing::{Timing, milliseconds};
use crate::{DType, Error};
use std::time::Instant;

/// A buffer with a tensor in it.
pub(crate) struct HostBuffer {
    pub(crate) buffer: wgpu::Buffer,
    bytes: u64,
}

impl HostBuffer {
    /// A buffer of `bytes` (at least 4, rounded up to 4) holding `data` and then zeros.
    pub(crate) fn with_bytes(context: &Context, data: &[u8], bytes: usize) -> Result<Self, Error> {
        let size = (bytes.max(data.len()).max(4) as u64).next_multiple_of(4);
        let limit = context.device().limits().max_buffer_size;
        if size > limit {
            let reason =
                format!("a tensor needs {size} bytes, the device allows buffers of {limit}");
            return Err(crate::Declined::new(reason).into());
        }
        let buffer = context.checked(|| {
            let buffer = context.device().create_buffer(&wgpu::BufferDescriptor {
                label: Some("longhand host tensor"),
                size,
                usage: wgpu::BufferUsages::STORAGE
                    | wgpu::BufferUsages::COPY_SRC
                    | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: true,
            });
            if let Ok(mut mapped) = buffer.get_mapped_range_mut(..) {
                mapped.slice(..data.len()).copy_from_slice(data);
            }
            buffer.unmap();
            buffer
        })?;
        Ok(HostBuffer { buffer, bytes: size })
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
        let device = context.device();
        let staging = context.checked(|| {
            let staging = device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("longhand readback"),
                size: self.bytes,
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            let mut encoder = device.create_command_encoder(&Default::default());
            encoder.copy_buffer_to_buffer(&self.buffer, 0, &staging, 0, self.bytes);
            context.queue().submit([encoder.finish()]);
            staging
        })?;
        context.read_mapped(&staging)
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

    /// Submits `encoder` and reports what wgpu finds wrong with it.
    pub(crate) fn submit(&self, encoder: wgpu::CommandEncoder) -> Result<(), Error> {
        self.checked(|| {
            self.queue().submit([encoder.finish()]);
        })
    }

    /// Runs `bound` by itself and waits for it.
    pub(crate) fn launch(&self, bound: &Bound) -> Result<(), Error> {
        let mut encoder = self.device().create_command_encoder(&Default::default());
        bound.record(&mut encoder);
        self.submit(encoder)?;
        self.wait()
    }

    /// Times `plan`, which plans and binds and says what memory that takes, with the first launch,
    /// and then `repeats` launches. No launch if it binds nothing, having no result to compute.
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
        for _ in 0..repeats.max(1) {
            let took = timer.time(|pass| bound.record_in(pass))?;
            timing.best_ms = timing.best_ms.min(milliseconds(took));
        }
        Ok(timing)
    }
}
