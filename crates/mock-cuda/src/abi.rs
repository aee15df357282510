//! What every entry point shares: result codes, the guard against panics, writing through pointers.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The driver's result codes that occur here.
pub(crate) mod code {
    pub(crate) const INVALID_VALUE: u32 = 1;
    pub(crate) const OUT_OF_MEMORY: u32 = 2;
    pub(crate) const NOT_INITIALIZED: u32 = 3;
    pub(crate) const INVALID_DEVICE: u32 = 101;
    pub(crate) const INVALID_CONTEXT: u32 = 201;
    pub(crate) const NO_BINARY_FOR_GPU: u32 = 209;
    pub(crate) const INVALID_PTX: u32 = 218;
    pub(crate) const UNSUPPORTED_PTX_VERSION: u32 = 222;
    pub(crate) const INVALID_HANDLE: u32 = 400;
    pub(crate) const NOT_FOUND: u32 = 500;
    pub(crate) const NOT_READY: u32 = 600;
    pub(crate) const ILLEGAL_ADDRESS: u32 = 700;
    pub(crate) const LAUNCH_OUT_OF_RESOURCES: u32 = 701;
    pub(crate) const LAUNCH_TIMEOUT: u32 = 702;
    pub(crate) const CONTEXT_IS_DESTROYED: u32 = 709;
    pub(crate) const MISALIGNED_ADDRESS: u32 = 716;
    pub(crate) const LAUNCH_FAILED: u32 = 719;
    pub(crate) const COOPERATIVE_LAUNCH_TOO_LARGE: u32 = 720;
    pub(crate) const NOT_SUPPORTED: u32 = 801;
    pub(crate) const STREAM_CAPTURE_UNSUPPORTED: u32 = 900;
    pub(crate) const ILLEGAL_STATE: u32 = 401;
    pub(crate) const INVALID_CLUSTER_SIZE: u32 = 912;
    pub(crate) const UNKNOWN: u32 = 999;
}

/// What an entry point does; the error is the code that it returns.
pub(crate) type Answer = Result<(), u32>;

/// The address of a function, for tables of them.
#[derive(Clone, Copy)]
pub(crate) struct Address(pub(crate) *const c_void);

/// Runs an entry point. A panic must not cross into C: it becomes 999.
pub(crate) fn guard(name: &'static str, body: impl FnOnce() -> Answer) -> u32 {
    let log = std::env::var_os("LONGHAND_SIM_LOG").is_some();
    let code = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => 0,
        Ok(Err(code)) => code,
        Err(_) => {
            eprintln!("mock-cuda: a panic in {name}");
            code::UNKNOWN
        }
    };
    if log {
        eprintln!("mock-cuda: {name} -> {code}");
    }
    code
}

/// Writes a result where the caller wants it.
///
/// # Safety
///
/// `to` is null or valid for a write.
pub(crate) unsafe fn out<T>(to: *mut T, value: T) -> Answer {
    if to.is_null() {
        return Err(code::INVALID_VALUE);
    }
    to.write_unaligned(value);
    Ok(())
}

/// Defines entry points with C's calling convention, and `table()` of their names and addresses.
macro_rules! entries {
    ($($(#[$meta:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) $body:block)*) => {
        $(
            $(#[$meta])*
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name($($arg: $type),*) -> u32 {
                $crate::abi::guard(stringify!($name), || $body)
            }
        )*

        pub(crate) fn table() -> Vec<(&'static str, $crate::abi::Address)> {
            [$(
                $(#[$meta])*
                (stringify!($name), $crate::abi::Address($name as *const std::ffi::c_void)),
            )*]
            .to_vec()
        }
    };
}
pub(crate) use entries;
