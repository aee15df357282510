//! Modules and libraries.

use crate::abi::{code, entries, out};
use crate::state::with;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

// Options of cuModuleLoadDataEx.
const INFO_LOG: c_uint = 3;
const INFO_LOG_BYTES: c_uint = 4;
const ERROR_LOG: c_uint = 5;
const ERROR_LOG_BYTES: c_uint = 6;

entries! {
    fn cuModuleLoadData(module: *mut u64, image: *const c_char) {
        let handle = load(image)?;
        out(module, handle)
    }

    fn cuModuleLoadDataEx(
        module: *mut u64, image: *const c_char, count: c_uint, options: *const c_uint,
        values: *mut *mut c_void,
    ) {
        if image.is_null() {
            return Err(code::INVALID_VALUE);
        }
        let loaded = with(|s| s.load(CStr::from_ptr(image).to_bytes()));
        let text = loaded.as_ref().err().map_or("", |(_, text)| text.as_str());
        let options = match count {
            0 => &[],
            _ => std::slice::from_raw_parts(options, count as usize),
        };
        for (n, option) in options.iter().enumerate() {
            let (size_option, text) = match *option {
                ERROR_LOG => (ERROR_LOG_BYTES, text),
                INFO_LOG => (INFO_LOG_BYTES, ""),
                _ => continue,
            };
            let Some(size_at) = options.iter().position(|o| *o == size_option) else { continue };
            let (buffer, size) = (*values.add(n), *values.add(size_at) as usize);
            if buffer.is_null() || size == 0 {
                continue;
            }
            let written = text.len().min(size - 1);
            std::ptr::copy_nonoverlapping(text.as_ptr(), buffer.cast::<u8>(), written);
            buffer.cast::<u8>().add(written).write(0);
            // The size comes back as how much was filled.
            values.add(size_at).write(written as *mut c_void);
        }
        let handle = loaded.map_err(|(code, _)| code)?;
        out(module, handle)
    }

    fn cuModuleLoad(module: *mut u64, file: *const c_char) {
        let path = CStr::from_ptr(file).to_string_lossy().into_owned();
        // 301 is what the driver says of a file that is not there.
        let mut text = std::fs::read(path).map_err(|_| 301u32)?;
        text.push(0);
        let handle = load(text.as_ptr().cast())?;
        out(module, handle)
    }

    fn cuModuleUnload(module: u64) {
        with(|s| {
            let context = s.current()?;
            s.drain(context);
            s.modules.remove(&module).ok_or(code::INVALID_HANDLE)?;
            s.functions.retain(|_, f| f.module != module);
            Ok(())
        })
    }

    fn cuModuleGetFunction(function: *mut u64, module: u64, name: *const c_char) {
        get_function(function, module, name)
    }

    fn cuModuleGetLoadingMode(mode: *mut c_uint) {
        out(mode, 1)
    }

    fn cuModuleGetGlobal_v2(
        _address: *mut u64, _bytes: *mut usize, module: u64, _name: *const c_char,
    ) {
        // The simulator keeps a module's variables to itself.
        with(|s| {
            s.modules.get(&module).ok_or(code::INVALID_HANDLE)?;
            s.missing.insert("cuModuleGetGlobal_v2".to_owned());
            Err(code::NOT_SUPPORTED)
        })
    }

    fn cuLibraryLoadData(
        library: *mut u64, image: *const c_char, _jit_options: *mut c_uint,
        _jit_values: *mut *mut c_void, _jit_count: c_uint, _options: *mut c_uint,
        _values: *mut *mut c_void, _count: c_uint,
    ) {
        let handle = load(image)?;
        out(library, handle)
    }

    fn cuLibraryUnload(library: u64) {
        with(|s| {
            s.modules.remove(&library).ok_or(code::INVALID_HANDLE)?;
            s.functions.retain(|_, f| f.module != library);
            Ok(())
        })
    }

    fn cuLibraryGetKernel(kernel: *mut u64, library: u64, name: *const c_char) {
        get_function(kernel, library, name)
    }

    fn cuLibraryGetModule(module: *mut u64, library: u64) {
        with(|s| s.modules.get(&library).map(|_| ()).ok_or(code::INVALID_HANDLE))?;
        out(module, library)
    }

    fn cuKernelGetFunction(function: *mut u64, kernel: u64) {
        with(|s| s.functions.get(&kernel).map(|_| ()).ok_or(code::INVALID_HANDLE))?;
        out(function, kernel)
    }

    fn cuKernelSetAttribute(attribute: c_uint, value: c_int, kernel: u64, _device: c_int) {
        with(|s| s.set_function_attribute(kernel, attribute, value))
    }

    fn cuKernelGetAttribute(
        value: *mut c_int, attribute: c_uint, kernel: u64, _device: c_int,
    ) {
        let got = with(|s| s.function_attribute(kernel, attribute))?;
        out(value, got)
    }
}

unsafe fn load(image: *const c_char) -> Result<u64, u32> {
    if image.is_null() {
        return Err(code::INVALID_VALUE);
    }
    with(|s| s.load(CStr::from_ptr(image).to_bytes())).map_err(|(code, text)| {
        // This call has no log to put it in.
        eprintln!("{text}");
        code
    })
}

unsafe fn get_function(to: *mut u64, module: u64, name: *const c_char) -> Result<(), u32> {
    let name = CStr::from_ptr(name).to_str().map_err(|_| code::NOT_FOUND)?;
    let handle = with(|s| s.function(module, name))?;
    out(to, handle)
}
