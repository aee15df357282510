//! Modules: PTX text that the driver compiled, kept for as long as the context.

use super::Handle;
use super::driver::{Failed, code};
use crate::{Declined, Error};
use cudarc::driver::sys::{CUfunction, CUfunction_attribute, CUjit_option as Jit, CUmodule};
use std::collections::HashMap;
use std::ffi::{CString, c_int, c_void};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

/// The modules of a context by their text.
pub(crate) struct Modules {
    handle: Arc<Handle>,
    loaded: Mutex<HashMap<Arc<str>, Arc<Module>>>,
}

struct Module {
    handle: Arc<Handle>,
    raw: CUmodule,
    entries: Mutex<HashMap<String, Arc<Entry>>>,
}

// SAFETY: the driver's functions may be called from any thread.
unsafe impl Send for Module {}
// SAFETY: as above; the driver does its own locking.
unsafe impl Sync for Module {}

/// A kernel, ready to launch. Keeps its module loaded.
#[derive(Clone)]
pub struct Function {
    module: Arc<Module>,
    entry: Arc<Entry>,
}

/// What clones of a [`Function`] share.
struct Entry {
    name: String,
    raw: CUfunction,
    registers: u32,
    local_bytes: u32,
    static_shared: u32,
    /// Bytes of dynamic shared memory that launches may have.
    allowed_shared: AtomicU32,
    /// Bytes of parameters, where the driver can say.
    #[cfg(debug_assertions)]
    param_bytes: Option<usize>,
}

/// Shared memory that every block may have without being asked for.
const SHARED_BY_DEFAULT: u32 = 48 << 10;

// SAFETY: the driver's functions may be called from any thread.
unsafe impl Send for Entry {}
// SAFETY: as above; the driver does its own locking.
unsafe impl Sync for Entry {}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Function")
            .field("name", &self.entry.name)
            .field("registers", &self.entry.registers)
            .finish_non_exhaustive()
    }
}

impl Modules {
    pub(crate) fn new(handle: Arc<Handle>) -> Self {
        Modules { handle, loaded: Mutex::default() }
    }

    pub(crate) fn function(&self, source: &str, entry: &str) -> Result<Function, Error> {
        let found = self.loaded.lock().expect("no panic while held").get(source).cloned();
        let module = match found {
            Some(module) => module,
            None => {
                // Not under the lock: compiling takes up to seconds.
                let built = Arc::new(Module::load(&self.handle, source)?);
                let mut loaded = self.loaded.lock().expect("no panic while held");
                loaded.entry(source.into()).or_insert(built).clone()
            }
        };
        let entry = module.entry(entry)?;
        Ok(Function { module, entry })
    }
}

impl Module {
    fn load(handle: &Arc<Handle>, source: &str) -> Result<Self, Error> {
        let text = CString::new(source).map_err(|e| {
            Error::invalid("PTX text", "a zero byte", format!("at {}", e.nul_position()))
        })?;
        let mut log = vec![0u8; 16 << 10];
        // Values of options are passed as pointers, numbers too. The size comes back as how much of
        // the log was filled.
        let mut options = [Jit::CU_JIT_ERROR_LOG_BUFFER, Jit::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES]
            .map(|option| option as u32);
        let mut values = [log.as_mut_ptr().cast::<c_void>(), log.len() as *mut c_void];
        let mut raw = std::ptr::null_mut();
        let driver = handle.make_current()?;
        // SAFETY: the text ends in a zero byte; the options and their values are two each; the log
        // outlives the call and is as long as its size says.
        let loaded = unsafe {
            driver.cuModuleLoadDataEx(
                &mut raw,
                text.as_ptr().cast(),
                options.len() as u32,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        };
        drop(driver);
        match loaded {
            Ok(()) => Ok(Module { handle: handle.clone(), raw, entries: Mutex::default() }),
            Err(failed) => {
                let end = log.iter().position(|&b| b == 0).unwrap_or(log.len());
                Err(rejected(failed, String::from_utf8_lossy(&log[..end]).trim()))
            }
        }
    }

    fn entry(&self, name: &str) -> Result<Arc<Entry>, Error> {
        let mut entries = self.entries.lock().expect("no panic while held");
        if let Some(found) = entries.get(name) {
            return Ok(found.clone());
        }
        let c_name = CString::new(name)
            .map_err(|_| Error::invalid("entry", name, "must not hold a zero byte"))?;
        let driver = self.handle.make_current()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the module is loaded, the name ends in a zero byte, `raw` is a local.
        let got = unsafe { driver.cuModuleGetFunction(&mut raw, self.raw, c_name.as_ptr()) };
        got.map_err(|failed| match failed.code {
            code::NOT_FOUND => Error::invalid("entry", name, "not in the module"),
            _ => failed.into(),
        })?;
        let attribute = |attribute: CUfunction_attribute| -> Result<u32, Failed> {
            let mut value = 0;
            // SAFETY: `raw` is a function of a loaded module, `value` is a local.
            unsafe { driver.cuFuncGetAttribute(&mut value, attribute as u32, raw) }?;
            Ok(value.max(0) as u32)
        };
        let entry = Arc::new(Entry {
            name: name.to_owned(),
            raw,
            registers: attribute(CUfunction_attribute::CU_FUNC_ATTRIBUTE_NUM_REGS)?,
            local_bytes: attribute(CUfunction_attribute::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES)?,
            static_shared: attribute(CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?,
            allowed_shared: AtomicU32::new(SHARED_BY_DEFAULT),
            #[cfg(debug_assertions)]
            param_bytes: driver.param_bytes(raw),
        });
        entries.insert(name.to_owned(), entry.clone());
        Ok(entry)
    }
}

impl Function {
    /// The kernel's name.
    pub fn name(&self) -> &str {
        &self.entry.name
    }

    /// Registers of a thread.
    pub fn registers(&self) -> u32 {
        self.entry.registers
    }

    /// Bytes of a thread's registers that the compiler moved to memory, and of its local variables.
    pub fn local_bytes(&self) -> u32 {
        self.entry.local_bytes
    }

    /// Bytes of shared memory that the kernel declares with a size.
    pub fn static_shared(&self) -> u32 {
        self.entry.static_shared
    }

    /// Blocks of `threads` with `dynamic_shared` bytes that a multiprocessor holds at once.
    pub fn blocks_per_sm(&self, threads: u32, dynamic_shared: u32) -> Result<u32, Error> {
        self.allow_shared(dynamic_shared)?;
        let driver = self.handle().make_current()?;
        let mut blocks = 0;
        // SAFETY: the function's module is loaded, `blocks` is a local.
        unsafe {
            driver.cuOccupancyMaxActiveBlocksPerMultiprocessor(
                &mut blocks,
                self.raw(),
                threads as c_int,
                dynamic_shared as usize,
            )
        }?;
        Ok(blocks.max(0) as u32)
    }

    /// Lets launches have `bytes` of dynamic shared memory. Without it the driver refuses a block
    /// more than 48 KiB.
    pub(super) fn allow_shared(&self, bytes: u32) -> Result<(), Error> {
        let allowed = &self.entry.allowed_shared;
        if bytes.saturating_add(self.entry.static_shared) <= allowed.load(Ordering::Relaxed) {
            return Ok(());
        }
        let driver = self.handle().make_current()?;
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function's module is loaded.
        let set = unsafe {
            driver.cuFuncSetAttribute(self.raw(), attribute as u32, bytes.min(1 << 30) as c_int)
        };
        set.map_err(|e| {
            let rule = format!("more than the device lets a block have: {}", e.text());
            Error::invalid("dynamic_shared", bytes, rule)
        })?;
        allowed.fetch_max(bytes.saturating_add(self.entry.static_shared), Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn handle(&self) -> &Arc<Handle> {
        &self.module.handle
    }

    pub(super) fn raw(&self) -> CUfunction {
        self.entry.raw
    }

    #[cfg(debug_assertions)]
    pub(super) fn param_bytes(&self) -> Option<usize> {
        self.entry.param_bytes
    }
}

/// What a failed load means, with the compiler's messages.
fn rejected(failed: Failed, log: &str) -> Error {
    let text = match log.is_empty() {
        true => failed.text(),
        false => format!("{}\n{log}", failed.text()),
    };
    match failed.code {
        code::UNSUPPORTED_PTX_VERSION => Declined::new(text).into(),
        _ => Error::Device(text),
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if let Ok(driver) = self.handle.make_current() {
            // SAFETY: loaded once, unloaded once, and no function of it is left. There is nobody
            // to tell of a failure.
            let _ = unsafe { driver.cuModuleUnload(self.raw) };
        }
    }
}
