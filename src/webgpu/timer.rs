//! How long a compute pass takes, by the device's own clock where it has one.

use super::Context;
use crate::Error;
use crate::timing::Clock;
use std::time::{Duration, Instant};

/// Times compute passes, one after the other.
#[derive(Debug)]
pub struct DeviceTimer {
    context: Context,
    queries: Option<Queries>,
}

#[derive(Debug)]
struct Queries {
    set: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    readback: wgpu::Buffer,
    /// Nanoseconds of one tick.
    period: f64,
}

/// Bytes of the buffers that [`Context::bandwidth`] copies between.
const COPIED: u64 = 64 << 20;

impl Context {
    /// Bytes a second that the device moves when it copies a buffer of 64 MiB (or the largest that it
    /// allows, if smaller) to another, reads and writes both counted: the best of five, by the wall
    /// clock.
    pub fn bandwidth(&self) -> Result<f64, Error> {
        let size = COPIED.min(self.device().limits().max_buffer_size) / 4 * 4;
        let [from, to] =
            [wgpu::BufferUsages::COPY_SRC, wgpu::BufferUsages::COPY_DST].map(|usage| {
                self.checked(|| {
                    self.device().create_buffer(&wgpu::BufferDescriptor {
                        label: Some("longhand bandwidth"),
                        size,
                        usage: wgpu::BufferUsages::COPY_DST | usage,
                        mapped_at_creation: false,
                    })
                })
            });
        let (from, to) = (from?, to?);
        let mut least = f64::INFINITY;
        // The first clears them.
        for _ in 0..6 {
            let mut encoder = self.device().create_command_encoder(&Default::default());
            encoder.copy_buffer_to_buffer(&from, 0, &to, 0, size);
            self.wait()?;
            let started = Instant::now();
            self.submit_encoder(encoder)?;
            self.wait()?;
            least = least.min(started.elapsed().as_secs_f64());
        }
        Ok(2.0 * size as f64 / least)
    }
}

/// Two timestamps of 64 bits.
const BYTES: u64 = 16;

impl DeviceTimer {
    /// Device timestamps if `context`'s device was opened with [`wgpu::Features::TIMESTAMP_QUERY`],
    /// as [`Context::open`] does where the adapter has it; else the wall clock.
    pub fn new(context: &Context) -> Result<Self, Error> {
        let device = context.device();
        let queries = match device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            true => Some(context.checked(|| Queries::new(device, context.queue()))?),
            false => None,
        };
        Ok(DeviceTimer { context: context.clone(), queries })
    }

    /// The same, but by the wall clock whatever the device has.
    pub fn wall(context: &Context) -> Self {
        DeviceTimer { context: context.clone(), queries: None }
    }

    /// What [`time`](Self::time) reads.
    pub fn clock(&self) -> Clock {
        match self.queries {
            Some(_) => Clock::Device,
            None => Clock::Wall,
        }
    }

    /// Submits a compute pass holding what `record` records, waits for it, and returns what it took.
    pub fn time(&self, record: impl FnOnce(&mut wgpu::ComputePass<'_>)) -> Result<Duration, Error> {
        // Work submitted before must not count.
        self.context.wait()?;
        let device = self.context.device();
        let mut encoder = device.create_command_encoder(&Default::default());
        let queries = self.queries.as_ref();
        let writes = queries.map(|queries| wgpu::ComputePassTimestampWrites {
            query_set: &queries.set,
            beginning_of_pass_write_index: Some(0),
            end_of_pass_write_index: Some(1),
        });
        record(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some("longhand timed"),
            timestamp_writes: writes,
        }));
        if let Some(q) = queries {
            encoder.resolve_query_set(&q.set, 0..2, &q.resolved, 0);
            encoder.copy_buffer_to_buffer(&q.resolved, 0, &q.readback, 0, BYTES);
        }
        let started = Instant::now();
        self.context.submit_encoder(encoder)?;
        self.context.wait()?;
        let wall = started.elapsed();
        match queries {
            Some(queries) => queries.read(&self.context),
            None => Ok(wall),
        }
    }
}

impl Queries {
    fn new(device: &wgpu::Device, queue: &wgpu::Queue) -> Self {
        let buffer = |label, usage| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size: BYTES,
                usage,
                mapped_at_creation: false,
            })
        };
        use wgpu::BufferUsages as Usage;
        Queries {
            set: device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("longhand timer"),
                ty: wgpu::QueryType::Timestamp,
                count: 2,
            }),
            resolved: buffer("longhand timestamps", Usage::QUERY_RESOLVE | Usage::COPY_SRC),
            readback: buffer("longhand timestamp readback", Usage::COPY_DST | Usage::MAP_READ),
            period: f64::from(queue.get_timestamp_period()),
        }
    }

    fn read(&self, context: &Context) -> Result<Duration, Error> {
        let bytes = context.read_mapped(&self.readback)?;
        let stamp = |n: usize| {
            let bytes = bytes[8 * n..8 * n + 8].try_into().expect("eight bytes");
            u64::from_le_bytes(bytes)
        };
        let (begin, end) = (stamp(0), stamp(1));
        let ticks = end
            .checked_sub(begin)
            .ok_or_else(|| Error::Device(format!("its clock went back, from {begin} to {end}")))?;
        Ok(Duration::from_secs_f64(ticks as f64 * self.period * 1e-9))
    }
}
