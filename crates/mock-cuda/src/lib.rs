//! A stand-in for libcuda: hosts load it in place of NVIDIA's driver, and their PTX kernels run on
//! the simulator `ptx-sim`, which reports what a GPU would hide.
//!
//! It is used as a shared library, through the functions it exports under the driver's names. A
//! test opens it by its file before its first CUDA call; then every later request for `libcuda.so`
//! in the process finds it. Functions beginning with `lh_sim_` (see the README) set the simulator's
//! options and fetch its reports.
//!
//! Errors are a driver's: a hazard in a kernel becomes 700, 716 or 719 at the next call that waits,
//! with the simulator's text on stderr; a module that does not parse is 218 with the text in the
//! log of `cuModuleLoadDataEx`. What the stand-in lacks is 801, never a crash.

// The driver's interface is C: every argument that is a pointer is valid by the caller's promise,
// as it would be for the real one.
#![allow(unsafe_code, unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]
#![allow(non_snake_case, clippy::too_many_arguments)]

mod abi;
mod control;
mod entry;
mod kernels;
mod memory;
mod queue;
mod settings;
mod state;
mod stubs;
mod tensor_map;

/// The names that the library exports, in no order: what a host may look up.
pub fn exported() -> Vec<&'static str> {
    entry::tables().map(|(name, _)| name).collect()
}
