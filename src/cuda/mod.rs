//! The CUDA backend: a context, its modules compiled from PTX by the driver, streams, memory.
//!
//! Nothing of CUDA is needed to build; the driver's library is loaded when a context is first asked
//! for, and a machine without one gives [`Error::NoDevice`]. A host that has a context already
//! gives it to [`Context::current`], [`Context::with_cudarc`] or [`Context::from_raw`]; else
//! [`Context::open`] uses a device's primary context, which is the one that the CUDA runtime,
//! PyTorch and cudarc use too. No call here changes which context is current on the caller's thread.
//!
//! A launch of a loaded kernel neither waits nor allocates, so that a host may capture it in a
//! graph.
//!
//! ```no_run
//! use longhand::cuda::Context;
//! use longhand::{DType, Full, Shape, full::Inputs};
//!
//! let gpu = Context::open(0)?;
//! println!("{}, {} multiprocessors", gpu.name(), gpu.caps().sm_count);
//! let shape = Shape { batch: 1, heads_q: 2, heads_kv: 1, seqlen_q: 64, seqlen_k: 64, head_dim: 64 };
//! let problem = Full::new(shape, DType::BF16).causal();
//! let (q, kv) = (vec![0.5; 2 * 64 * 64], vec![0.25; 64 * 64]);
//! let result = problem.run_cuda(&gpu, &Inputs::new(&q, &kv, &kv))?;
//! # Ok::<(), longhand::Error>(())
//! ```

// The driver is C; every call of it is here and in the files of this folder.
#![allow(unsafe_code)]

mod caps;
mod driver;
pub(crate) mod host;
pub(crate) mod launch;
mod memory;
mod module;
mod stream;
pub(crate) mod tile;
mod timer;

pub use crate::timing::{Clock, Timing};
pub use caps::Caps;
pub use launch::Launch;
pub use memory::DeviceBuffer;
pub use module::Function;
pub use stream::Stream;
pub use timer::DeviceTimer;

use crate::{Declined, Error};
use cudarc::driver::CudaContext;
use cudarc::driver::sys::{CUcontext, CUdevice, CUdevice_attribute};
use driver::{Driver, Failed, initialised};
use module::Modules;
use std::ffi::{c_char, c_int};
use std::sync::Arc;

/// A device with the modules loaded for it. Clones share both.
#[derive(Clone)]
pub struct Context {
    handle: Arc<Handle>,
    caps: Caps,
    name: Arc<str>,
    modules: Arc<Modules>,
}

/// A device that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// What it can do, or why it is of no use here.
    pub caps: Result<Caps, Error>,
}

/// A driver's context, and who keeps it alive.
pub(crate) struct Handle {
    driver: &'static Driver,
    raw: CUcontext,
    owner: Owner,
}

/// Whoever keeps a context alive.
enum Owner {
    /// This handle, which retained the device's primary context.
    Primary(CUdevice),
    /// cudarc.
    Cudarc { _context: Arc<CudaContext> },
    /// Someone who promised to in [`Context::from_raw`].
    Caller,
}

// SAFETY: the driver's functions may be called from any thread, with any context of the process.
unsafe impl Send for Handle {}
// SAFETY: as above; the driver does its own locking.
unsafe impl Sync for Handle {}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("name", &self.name)
            .field("caps", &self.caps)
            .finish_non_exhaustive()
    }
}

impl Context {
    /// The primary context of device `ordinal`, as the driver counts them.
    ///
    /// # Errors
    ///
    /// [`Error::NoDevice`] without a driver or without that device, [`Error::Declined`] for a
    /// device below compute capability 8.0.
    pub fn open(ordinal: u32) -> Result<Self, Error> {
        let driver = initialised()?;
        let mut device = 0;
        // SAFETY: `device` is a local.
        let got = unsafe { driver.cuDeviceGet(&mut device, ordinal as c_int) };
        got.map_err(|e| Error::NoDevice(format!("CUDA device {ordinal}: {}", e.text())))?;
        // Looked at first: to initialise a context takes a second and hundreds of megabytes.
        supported(driver, device)?;
        Self::of(Handle::primary(driver, device)?)
    }

    /// The context that is current on this thread, if it is its device's primary one.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if none is current, or one that was made by `cuCtxCreate`: only its maker
    /// knows how long it lives, so it needs [`from_raw`](Self::from_raw).
    pub fn current() -> Result<Self, Error> {
        let driver = initialised()?;
        let (mut raw, mut device) = (std::ptr::null_mut(), 0);
        // SAFETY: `raw` is a local.
        unsafe { driver.cuCtxGetCurrent(&mut raw) }?;
        if raw.is_null() {
            return Err(Error::invalid("current context", "none", "make one current, or open one"));
        }
        // SAFETY: `device` is a local, and a context is current.
        unsafe { driver.cuCtxGetDevice(&mut device) }?;
        supported(driver, device)?;
        let handle = Handle::primary(driver, device)?;
        if handle.raw != raw {
            let rule = "not the primary context of its device: give it to Context::from_raw";
            return Err(Error::invalid("current context", format!("{raw:?}"), rule));
        }
        Self::of(handle)
    }

    /// A context of cudarc's, which this one keeps alive.
    pub fn with_cudarc(context: &Arc<CudaContext>) -> Result<Self, Error> {
        let driver = initialised()?;
        let owner = Owner::Cudarc { _context: context.clone() };
        Self::of(Handle { driver, raw: context.cu_ctx(), owner })
    }

    /// A context of any other origin.
    ///
    /// # Safety
    ///
    /// `context` is a context of this process, and outlives this value, its clones and everything
    /// that is made from them.
    pub unsafe fn from_raw(context: CUcontext) -> Result<Self, Error> {
        if context.is_null() {
            return Err(Error::invalid("context", "null", "must be a context"));
        }
        Self::of(Handle { driver: initialised()?, raw: context, owner: Owner::Caller })
    }

    fn of(handle: Handle) -> Result<Self, Error> {
        let handle = Arc::new(handle);
        let driver = handle.driver;
        let mut device = 0;
        let current = handle.make_current()?;
        // SAFETY: `device` is a local, and the context is current.
        unsafe { driver.cuCtxGetDevice(&mut device) }?;
        drop(current);
        supported(driver, device)?;
        let name = device_name(driver, device)?.into();
        let caps = caps(driver, device)?;
        Ok(Context { modules: Arc::new(Modules::new(handle.clone())), handle, caps, name })
    }

    /// Every device of this machine, in the driver's order.
    pub fn devices() -> Result<Vec<Device>, Error> {
        let driver = initialised()?;
        let mut count = 0;
        // SAFETY: `count` is a local.
        unsafe { driver.cuDeviceGetCount(&mut count) }?;
        let look = |ordinal| {
            let mut device = 0;
            // SAFETY: `device` is a local.
            unsafe { driver.cuDeviceGet(&mut device, ordinal) }?;
            let caps = supported(driver, device).and_then(|()| Ok(caps(driver, device)?));
            Ok(Device { name: device_name(driver, device)?, caps })
        };
        (0..count).map(look).collect()
    }

    /// What kernels are selected for.
    pub fn caps(&self) -> &Caps {
        &self.caps
    }

    /// The same context, but kernels are selected for `caps`, which must not promise more than the
    /// device has: to run an A100's kernel on a later device.
    pub fn with_caps(&self, caps: Caps) -> Self {
        Context { caps, ..self.clone() }
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the driver is this project's stand-in, which runs kernels in a simulator: its times
    /// are a model's and must not be taken for a GPU's.
    pub fn is_simulated(&self) -> bool {
        self.name.starts_with("PTX-SIM")
    }

    /// The driver's handle.
    pub fn raw(&self) -> CUcontext {
        self.handle.raw
    }

    /// Kernel `entry` of the module with PTX text `source`, which the driver compiles if it was not
    /// loaded before.
    ///
    /// # Errors
    ///
    /// [`Error::Device`] with the compiler's messages if it rejects the text, [`Error::Declined`]
    /// if the text is of a PTX version that the driver does not know.
    pub fn function(&self, source: &str, entry: &str) -> Result<Function, Error> {
        self.modules.function(source, entry)
    }
}

impl Handle {
    fn primary(driver: &'static Driver, device: CUdevice) -> Result<Self, Failed> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: `raw` is a local. The handle releases what is retained here.
        unsafe { driver.cuDevicePrimaryCtxRetain(&mut raw, device) }?;
        Ok(Handle { driver, raw, owner: Owner::Primary(device) })
    }

    /// Makes the context current on this thread until the guard is dropped.
    pub(crate) fn make_current(&self) -> Result<Current<'_>, Failed> {
        let mut now = std::ptr::null_mut();
        // SAFETY: `now` is a local.
        unsafe { self.driver.cuCtxGetCurrent(&mut now) }?;
        let pushed = now != self.raw;
        if pushed {
            // SAFETY: the owner keeps the context alive.
            unsafe { self.driver.cuCtxPushCurrent_v2(self.raw) }?;
        }
        Ok(Current { driver: self.driver, pushed, _handle: self })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Owner::Primary(device) = self.owner {
            // SAFETY: retained in `primary`, released once. There is nobody to tell of a failure.
            let _ = unsafe { self.driver.cuDevicePrimaryCtxRelease_v2(device) };
        }
    }
}

/// While it lives, a context is current on this thread; then the one before is again.
pub(crate) struct Current<'a> {
    driver: &'static Driver,
    pushed: bool,
    _handle: &'a Handle,
}

impl std::ops::Deref for Current<'_> {
    type Target = Driver;

    fn deref(&self) -> &Driver {
        self.driver
    }
}

impl Drop for Current<'_> {
    fn drop(&mut self) {
        if self.pushed {
            let mut popped = std::ptr::null_mut();
            // SAFETY: pops what `make_current` pushed. There is nobody to tell of a failure.
            let _ = unsafe { self.driver.cuCtxPopCurrent_v2(&mut popped) };
        }
    }
}

fn attribute(
    driver: &Driver,
    device: CUdevice,
    attribute: CUdevice_attribute,
) -> Result<u32, Failed> {
    let mut value = 0;
    // SAFETY: `value` is a local.
    unsafe { driver.cuDeviceGetAttribute(&mut value, attribute as u32, device) }?;
    Ok(value.max(0) as u32)
}

fn capability(driver: &Driver, device: CUdevice) -> Result<(u32, u32), Failed> {
    use CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    Ok((attribute(driver, device, MAJOR)?, attribute(driver, device, MINOR)?))
}

/// Declines a device that the kernels' PTX does not load on.
fn supported(driver: &Driver, device: CUdevice) -> Result<(), Error> {
    let (major, minor) = capability(driver, device)?;
    if major < 8 {
        let name = device_name(driver, device)?;
        let reason = format!("{name} has compute capability {major}.{minor}, kernels need 8.0");
        return Err(Declined::new(reason).into());
    }
    Ok(())
}

fn caps(driver: &Driver, device: CUdevice) -> Result<Caps, Failed> {
    use CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN as SHARED_OPT_IN,
        CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT as SM_COUNT,
    };
    let mut version = 0;
    // SAFETY: `version` is a local.
    unsafe { driver.cuDriverGetVersion(&mut version) }?;
    Ok(Caps {
        compute_capability: capability(driver, device)?,
        sm_count: attribute(driver, device, SM_COUNT)?,
        max_shared_opt_in: attribute(driver, device, SHARED_OPT_IN)?,
        driver_version: version.max(0) as u32,
    })
}

fn device_name(driver: &Driver, device: CUdevice) -> Result<String, Failed> {
    let mut bytes = [0u8; 256];
    // SAFETY: the driver writes a string with its end into at most so many bytes of a local.
    unsafe {
        driver.cuDeviceGetName(bytes.as_mut_ptr().cast::<c_char>(), bytes.len() as c_int, device)
    }?;
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
}
