//! The WebGPU backend: a device, its limits, compiled pipelines, and buffers as kernels take them.
//!
//! [`Context::new`] takes your device and queue; [`Context::open`] opens one. A kind's plan
//! (`Full::plan_webgpu`) compiles once per configuration; binding it to buffers gives something
//! that records into your encoder without allocating or waiting.

mod binding;
mod caps;
mod function;
mod host;
mod launch;
mod pipeline;
mod timer;

pub use crate::timing::Clock;
pub use binding::Binding;
pub use caps::Caps;
pub use function::Function;
pub use host::DeviceBuffer;
pub use launch::Bound;
pub use timer::DeviceTimer;

pub(crate) use binding::{Checked, Usage, check_aliasing};
#[cfg(test)]
pub(crate) use launch::members_of_params;
pub(crate) use launch::{Dispatch, Steps, Uniforms};
pub(crate) use pipeline::{Access, Pipeline, PipelineKey, create_trusted_module};

use crate::Error;
use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use wgpu::{ErrorFilter, ErrorScopeGuard};

/// A device with the pipelines compiled for it. Clones share both.
#[derive(Clone)]
pub struct Context {
    device: wgpu::Device,
    queue: wgpu::Queue,
    info: wgpu::AdapterInfo,
    caps: Caps,
    lost: Arc<AtomicBool>,
    pipelines: Arc<Mutex<HashMap<PipelineKey, Arc<Pipeline>>>>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("adapter", &self.info.name)
            .field("caps", &self.caps)
            .finish_non_exhaustive()
    }
}

impl Context {
    /// Uses a device of yours. Nothing is installed on it: neither an error handler nor a
    /// device-lost callback, since those are yours to set. Errors of what the crate creates are
    /// caught in error scopes and returned.
    pub fn new(device: wgpu::Device, queue: wgpu::Queue) -> Self {
        let caps = Caps::of(&device);
        Self::with_caps(device, queue, caps)
    }

    /// As [`new`](Self::new), but kernels are selected for `caps`, which must not promise more
    /// than the device has: to test a GPU's kernel on another adapter, or to stay within a limit.
    pub fn with_caps(device: wgpu::Device, queue: wgpu::Queue, caps: Caps) -> Self {
        Context {
            info: device.adapter_info(),
            caps,
            lost: Arc::default(),
            pipelines: Arc::default(),
            device,
            queue,
        }
    }

    /// Opens a device: of the adapter whose name contains `want` (in any case), else of the one
    /// the system prefers. It has the adapter's limits and, of its features, f16, subgroups and
    /// timestamps.
    pub fn open(want: Option<&str>) -> Result<Self, Error> {
        block_on(Self::open_async(want, None))
    }

    /// As [`open`](Self::open), without blocking, and with other limits than the adapter's.
    pub async fn open_async(
        want: Option<&str>,
        limits: Option<wgpu::Limits>,
    ) -> Result<Self, Error> {
        let instance = instance();
        let adapter = match want {
            Some(want) => {
                let adapters = instance.enumerate_adapters(wgpu::Backends::PRIMARY).await;
                let names: Vec<String> = adapters.iter().map(|a| a.get_info().name).collect();
                let matches = |a: &wgpu::Adapter| {
                    a.get_info().name.to_lowercase().contains(&want.to_lowercase())
                };
                adapters.into_iter().find(matches).ok_or_else(|| {
                    Error::NoDevice(format!(
                        "no WebGPU adapter is named like {want:?}; found: {names:?}"
                    ))
                })?
            }
            None => {
                let options = wgpu::RequestAdapterOptions {
                    power_preference: wgpu::PowerPreference::HighPerformance,
                    ..Default::default()
                };
                let why = |e| {
                    Error::NoDevice(format!(
                        "no WebGPU adapter (is a Vulkan, Metal or D3D12 driver installed?): {e}"
                    ))
                };
                instance.request_adapter(&options).await.map_err(why)?
            }
        };
        // With limits given, the device is held to the baseline in features too.
        let optional = match limits {
            Some(_) => wgpu::Features::TIMESTAMP_QUERY,
            None => {
                wgpu::Features::SHADER_F16
                    | wgpu::Features::SUBGROUP
                    | wgpu::Features::TIMESTAMP_QUERY
            }
        };
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("longhand"),
            required_features: optional & adapter.features(),
            required_limits: limits.unwrap_or_else(|| adapter.limits()),
            experimental_features: wgpu::ExperimentalFeatures::disabled(),
            memory_hints: wgpu::MemoryHints::Performance,
            trace: wgpu::Trace::Off,
        };
        let opened = adapter.request_device(&descriptor).await;
        let (device, queue) = opened.map_err(|e| Error::NoDevice(e.to_string()))?;
        // This device is ours alone: what no scope catches must not end the process.
        device
            .on_uncaptured_error(Arc::new(|e| eprintln!("longhand: uncaptured WebGPU error: {e}")));
        let context = Self::new(device, queue);
        let lost = context.lost.clone();
        context.device.set_device_lost_callback(move |_, _| lost.store(true, Ordering::SeqCst));
        Ok(context)
    }

    /// The adapters of this machine.
    pub fn adapters() -> Vec<wgpu::AdapterInfo> {
        let adapters = block_on(instance().enumerate_adapters(wgpu::Backends::PRIMARY));
        adapters.iter().map(wgpu::Adapter::get_info).collect()
    }

    /// The device.
    pub fn device(&self) -> &wgpu::Device {
        &self.device
    }

    /// Its queue.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.queue
    }

    /// The adapter's name, driver and kind.
    pub fn info(&self) -> &wgpu::AdapterInfo {
        &self.info
    }

    /// What kernels are selected for.
    pub fn caps(&self) -> &Caps {
        &self.caps
    }

    /// To be called from your device-lost callback, if the device is yours: wgpu reports nothing
    /// else after a loss, and later calls here return [`Error::DeviceLost`] instead of results.
    pub fn mark_lost(&self) {
        self.lost.store(true, Ordering::SeqCst);
    }

    pub(crate) fn check_lost(&self) -> Result<(), Error> {
        match self.lost.load(Ordering::SeqCst) {
            true => Err(Error::DeviceLost),
            false => Ok(()),
        }
    }

    /// Runs `f`, which creates or records things on the device, and returns the first error that
    /// wgpu reports of it.
    pub(crate) fn checked<T>(&self, f: impl FnOnce() -> T) -> Result<T, Error> {
        self.check_lost()?;
        // Scopes are thread-local and must be popped in order on this thread.
        let push = |filter| self.device.push_error_scope(filter);
        let internal = push(ErrorFilter::Internal);
        let memory = push(ErrorFilter::OutOfMemory);
        let validation = push(ErrorFilter::Validation);
        let value = f();
        let errors = [validation, memory, internal].map(ErrorScopeGuard::pop).map(block_on);
        if let Some(error) = errors.into_iter().flatten().next() {
            return Err(Error::Device(error.to_string()));
        }
        self.check_lost()?;
        Ok(value)
    }

    /// The pipeline for `key`, compiled now if it was not before.
    pub(crate) fn pipeline(
        &self,
        key: PipelineKey,
        source: impl FnOnce() -> String,
        accesses: &[Access],
    ) -> Result<Arc<Pipeline>, Error> {
        if let Some(found) = self.pipelines.lock().expect("no panic while held").get(&key) {
            return Ok(found.clone());
        }
        let built = Arc::new(self.checked(|| {
            let module = create_trusted_module(&self.device, &source());
            Pipeline::build(&self.device, &module, accesses)
        })?);
        let mut pipelines = self.pipelines.lock().expect("no panic while held");
        Ok(pipelines.entry(key).or_insert(built).clone())
    }
}

fn instance() -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::PRIMARY;
    wgpu::Instance::new(descriptor)
}

/// Waits for a future of wgpu's that needs no polling of the device.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    pollster::block_on(future)
}
