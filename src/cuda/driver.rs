//! The driver's functions, looked up by name in its library when first needed.
//!
//! cudarc has bindings of its own, whose types are used here. They are not called, for three
//! reasons: a symbol that a driver lacks is a panic there and an error here; a result code newer
//! than the bindings would be an invalid value of a Rust enum; and which functions exist there
//! depends on the CUDA version that some other crate of the build asked for.

use super::launch::Config;
use crate::Error;
use cudarc::driver::sys::{
    CUcontext, CUdevice, CUdeviceptr, CUevent, CUfunction, CUmodule, CUstream,
};
use libloading::Library;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

/// A call that the driver answered with an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) call: &'static str,
    pub(crate) code: u32,
}

/// The codes that mean something other than a device error.
pub(crate) mod code {
    pub(crate) const OUT_OF_MEMORY: u32 = 2;
    pub(crate) const NO_DEVICE: u32 = 100;
    pub(crate) const INVALID_DEVICE: u32 = 101;
    pub(crate) const UNSUPPORTED_PTX_VERSION: u32 = 222;
    pub(crate) const NOT_FOUND: u32 = 500;
}

impl Failed {
    /// The code with the driver's words for it.
    pub(crate) fn text(&self) -> String {
        let Failed { call, code } = self;
        let (name, words) = driver().map(|d| d.words(*code)).unwrap_or_default();
        match words.is_empty() || words == name {
            true => format!("{call}: {name} ({code})"),
            false => format!("{call}: {name} ({code}): {words}"),
        }
    }
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        match failed.code {
            code::NO_DEVICE | code::INVALID_DEVICE => Error::NoDevice(failed.text()),
            _ => Error::Device(failed.text()),
        }
    }
}

/// For each function a method that calls it and turns its code into a `Result`.
macro_rules! functions {
    ($($name:ident($($arg:ident: $type:ty),*);)*) => {
        /// The functions that this crate calls; every one exists since CUDA 12.0 or before.
        #[allow(non_snake_case)]
        pub(crate) struct Driver {
            // The functions are there while it is loaded.
            #[cfg_attr(not(debug_assertions), expect(dead_code))]
            library: Library,
            $($name: unsafe extern "system" fn($($type),*) -> u32,)*
        }

        #[allow(non_snake_case, clippy::too_many_arguments)]
        impl Driver {
            fn load(library: Library) -> Result<Self, String> {
                $(
                    // SAFETY: the type is that of the function in the driver's header.
                    let symbol = unsafe {
                        library.get::<unsafe extern "system" fn($($type),*) -> u32>(stringify!($name))
                    };
                    let $name = *symbol.map_err(|_| {
                        format!("its driver has no {}: it is older than CUDA 12.0", stringify!($name))
                    })?;
                )*
                Ok(Driver { $($name,)* library })
            }

            $(
                /// # Safety
                ///
                /// As the driver's manual says of the function of that name.
                pub(crate) unsafe fn $name(&self, $($arg: $type),*) -> Result<(), Failed> {
                    // SAFETY: the caller's.
                    match unsafe { (self.$name)($($arg),*) } {
                        0 => Ok(()),
                        code => Err(Failed { call: stringify!($name), code }),
                    }
                }
            )*
        }
    };
}

functions! {
    cuInit(flags: c_uint);
    cuDriverGetVersion(version: *mut c_int);
    cuGetErrorName(code: u32, text: *mut *const c_char);
    cuGetErrorString(code: u32, text: *mut *const c_char);
    cuDeviceGetCount(count: *mut c_int);
    cuDeviceGet(device: *mut CUdevice, ordinal: c_int);
    cuDeviceGetName(name: *mut c_char, length: c_int, device: CUdevice);
    cuDeviceGetAttribute(value: *mut c_int, attribute: c_uint, device: CUdevice);
    cuDevicePrimaryCtxRetain(context: *mut CUcontext, device: CUdevice);
    cuDevicePrimaryCtxRelease_v2(device: CUdevice);
    cuCtxGetCurrent(context: *mut CUcontext);
    cuCtxGetDevice(device: *mut CUdevice);
    cuCtxPushCurrent_v2(context: CUcontext);
    cuCtxPopCurrent_v2(context: *mut CUcontext);
    cuModuleLoadDataEx(
        module: *mut CUmodule, image: *const c_void, count: c_uint, options: *mut c_uint,
        values: *mut *mut c_void
    );
    cuModuleUnload(module: CUmodule);
    cuModuleGetFunction(function: *mut CUfunction, module: CUmodule, name: *const c_char);
    cuFuncGetAttribute(value: *mut c_int, attribute: c_uint, function: CUfunction);
    cuFuncSetAttribute(function: CUfunction, attribute: c_uint, value: c_int);
    cuOccupancyMaxActiveBlocksPerMultiprocessor(
        blocks: *mut c_int, function: CUfunction, threads: c_int, shared: usize
    );
    cuLaunchKernel(
        function: CUfunction, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint,
        block_y: c_uint, block_z: c_uint, shared: c_uint, stream: CUstream,
        params: *mut *mut c_void, extra: *mut *mut c_void
    );
    cuLaunchKernelEx(
        config: *const Config, function: CUfunction, params: *mut *mut c_void,
        extra: *mut *mut c_void
    );
    cuMemAlloc_v2(pointer: *mut CUdeviceptr, bytes: usize);
    cuMemFree_v2(pointer: CUdeviceptr);
    cuMemcpyHtoDAsync_v2(to: CUdeviceptr, from: *const c_void, bytes: usize, stream: CUstream);
    cuMemcpyDtoHAsync_v2(to: *mut c_void, from: CUdeviceptr, bytes: usize, stream: CUstream);
    cuMemcpyDtoDAsync_v2(to: CUdeviceptr, from: CUdeviceptr, bytes: usize, stream: CUstream);
    cuMemsetD8Async(to: CUdeviceptr, byte: u8, bytes: usize, stream: CUstream);
    cuStreamCreate(stream: *mut CUstream, flags: c_uint);
    cuStreamDestroy_v2(stream: CUstream);
    cuStreamSynchronize(stream: CUstream);
    cuEventCreate(event: *mut CUevent, flags: c_uint);
    cuEventDestroy_v2(event: CUevent);
    cuEventRecord(event: CUevent, stream: CUstream);
    cuEventElapsedTime(milliseconds: *mut f32, start: CUevent, end: CUevent);
}

/// Offset and size of a kernel's parameter. Since CUDA 12.4.
#[cfg(debug_assertions)]
type GetParamInfo = unsafe extern "system" fn(CUfunction, usize, *mut usize, *mut usize) -> u32;

impl Driver {
    /// Bytes of all parameters of a kernel, where the driver can say.
    #[cfg(debug_assertions)]
    pub(crate) fn param_bytes(&self, function: CUfunction) -> Option<usize> {
        static GET: OnceLock<Option<GetParamInfo>> = OnceLock::new();
        let get = (*GET.get_or_init(|| {
            // SAFETY: the type is that of the function in the driver's header.
            unsafe { self.library.get::<GetParamInfo>("cuFuncGetParamInfo") }.ok().map(|s| *s)
        }))?;
        let mut end = 0;
        for index in 0.. {
            let (mut offset, mut size) = (0, 0);
            // SAFETY: `function` is alive, the rest points to locals. Past the last parameter the
            // driver answers with an error.
            match unsafe { get(function, index, &mut offset, &mut size) } {
                0 => end = end.max(offset + size),
                _ => break,
            }
        }
        Some(end)
    }

    /// The driver's name of a code and its words for it.
    fn words(&self, code: u32) -> (String, String) {
        let read = |get: unsafe fn(&Self, u32, *mut *const c_char) -> Result<(), Failed>| {
            let mut text = std::ptr::null();
            // SAFETY: `text` is a local; on success it points to a string of the driver's that is
            // never freed.
            match unsafe { get(self, code, &mut text) } {
                // SAFETY: as above.
                Ok(()) if !text.is_null() => unsafe { CStr::from_ptr(text) }.to_string_lossy(),
                _ => "an unknown error".into(),
            }
            .into_owned()
        };
        (read(Self::cuGetErrorName), read(Self::cuGetErrorString))
    }
}

/// In cudarc's order, so that both speak to the same library.
const LIBRARIES: &[&str] =
    if cfg!(windows) { &["nvcuda.dll"] } else { &["libcuda.so", "libcuda.so.1"] };

/// The driver of this machine, initialised.
pub(crate) fn driver() -> Result<&'static Driver, Error> {
    static DRIVER: OnceLock<Result<Driver, Error>> = OnceLock::new();
    let loaded = DRIVER.get_or_init(|| {
        // SAFETY: loading the driver's library runs its initialisers, which is what it is for.
        let open = |name: &&str| unsafe { Library::new(*name) }.ok();
        let library = LIBRARIES.iter().find_map(open).ok_or_else(|| {
            let names = LIBRARIES.join(", ");
            Error::NoDevice(format!("no NVIDIA driver is installed (looked for {names})"))
        })?;
        Driver::load(library).map_err(Error::NoDevice)
    });
    loaded.as_ref().map_err(Error::clone)
}

/// As [`driver`], after `cuInit`. A machine may gain a device, so that a failure is not kept.
pub(crate) fn initialised() -> Result<&'static Driver, Error> {
    let driver = driver()?;
    // SAFETY: `cuInit` may be called at any time and more than once.
    unsafe { driver.cuInit(0) }.map_err(|failed| Error::NoDevice(failed.text()))?;
    Ok(driver)
}
