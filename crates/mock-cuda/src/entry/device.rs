//! Initialisation, devices, errors' names, looking functions up.

use crate::abi::{code, entries, out};
use crate::state::{State, with};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

entries! {
    fn cuInit(flags: c_uint) {
        if flags != 0 {
            return Err(code::INVALID_VALUE);
        }
        with(|s| s.initialised = true);
        Ok(())
    }

    fn cuDriverGetVersion(version: *mut c_int) {
        out(version, with(|s| s.settings.driver as c_int))
    }

    fn cuDeviceGetCount(count: *mut c_int) {
        with(|s| s.check_initialised())?;
        out(count, 1)
    }

    fn cuDeviceGet(device: *mut c_int, ordinal: c_int) {
        with(|s| s.check_initialised())?;
        check_device(ordinal)?;
        out(device, 0)
    }

    fn cuDeviceGetName(name: *mut c_char, length: c_int, device: c_int) {
        check_device(device)?;
        write_text(name, length.max(0) as usize, &with(|s| s.device_name()))
    }

    fn cuDeviceGetUuid(uuid: *mut [u8; 16], device: c_int) {
        check_device(device)?;
        out(uuid, *b"longhand-ptx-sim")
    }

    fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], device: c_int) {
        check_device(device)?;
        out(uuid, *b"longhand-ptx-sim")
    }

    fn cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) {
        check_device(device)?;
        out(bytes, with(|s| s.settings.memory as usize))
    }

    fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_uint, device: c_int) {
        check_device(device)?;
        out(value, with(|s| s.attribute(attribute)))
    }

    fn cuDeviceGetPCIBusId(name: *mut c_char, length: c_int, device: c_int) {
        check_device(device)?;
        write_text(name, length.max(0) as usize, "0000:00:00.0")
    }

    fn cuDeviceCanAccessPeer(can: *mut c_int, device: c_int, peer: c_int) {
        check_device(device)?;
        check_device(peer)?;
        out(can, 0)
    }

    fn cuGetErrorName(error: c_uint, text: *mut *const c_char) {
        let (name, _) = words(error).ok_or(code::INVALID_VALUE)?;
        out(text, name.as_ptr())
    }

    fn cuGetErrorString(error: c_uint, text: *mut *const c_char) {
        let (_, words) = words(error).ok_or(code::INVALID_VALUE)?;
        out(text, words.as_ptr())
    }

    fn cuGetProcAddress_v2(
        symbol: *const c_char, pointer: *mut *const c_void, _version: c_int, _flags: u64,
        status: *mut c_int,
    ) {
        let wanted = CStr::from_ptr(symbol).to_string_lossy();
        // A host asks by the name without its version.
        let base = |name: &str| {
            let (base, version) = name.rsplit_once("_v").unwrap_or((name, ""));
            let versioned = !version.is_empty() && version.bytes().all(|b| b.is_ascii_digit());
            (if versioned { base } else { name }).to_owned()
        };
        let mut found: Vec<_> = super::tables()
            .filter(|(name, _)| *name == wanted || base(name) == *wanted)
            .collect();
        // The newest generation of a name is the one it means.
        found.sort_by_key(|(name, _)| *name);
        let address = found.last().map(|(_, address)| address.0);
        if !status.is_null() {
            out(status, c_int::from(address.is_none()))?;
        }
        out(pointer, address.unwrap_or(std::ptr::null()))?;
        if address.is_some() { Ok(()) } else { Err(code::NOT_FOUND) }
    }
}

pub(super) fn check_device(device: c_int) -> Result<(), u32> {
    if device == 0 { Ok(()) } else { Err(code::INVALID_DEVICE) }
}

/// Writes as much of `text` as fits, with a zero byte.
unsafe fn write_text(to: *mut c_char, length: usize, text: &str) -> Result<(), u32> {
    if to.is_null() || length == 0 {
        return Err(code::INVALID_VALUE);
    }
    let n = text.len().min(length - 1);
    std::ptr::copy_nonoverlapping(text.as_ptr(), to.cast::<u8>(), n);
    to.add(n).write(0);
    Ok(())
}

impl State {
    fn check_initialised(&self) -> Result<(), u32> {
        if self.initialised { Ok(()) } else { Err(code::NOT_INITIALIZED) }
    }

    fn device_name(&self) -> String {
        let sm = self.settings.profile().sm;
        format!("PTX-SIM sm_{sm}{} (not a GPU)", if sm == 90 { "a" } else { "" })
    }

    fn attribute(&mut self, attribute: c_uint) -> c_int {
        let profile = self.settings.profile();
        let hopper = profile.sm >= 90;
        match attribute {
            // Threads of a block; its dimensions; those of a grid.
            1..=3 => 1024,
            4 => 64,
            5 => c_int::MAX,
            6 | 7 => 65_535,
            8 => 49_152,
            // Constant memory, warp, pitch, registers.
            9 | 12 | 82 => 65_536,
            10 => 32,
            11 => c_int::MAX,
            // Clock in kHz, texture alignment, multiprocessors.
            13 => {
                if hopper {
                    1_830_000
                } else {
                    1_410_000
                }
            }
            14 => 512,
            16 => profile.sm_count as c_int,
            // Kernels at once, copies beside kernels, memory mapping, unified addresses.
            15 | 19 | 31 | 41 => 1,
            // Memory: clock in kHz, bus, L2.
            36 => {
                if hopper {
                    2_619_000
                } else {
                    1_593_000
                }
            }
            37 => 5120,
            38 => {
                if hopper {
                    50 << 20
                } else {
                    40 << 20
                }
            }
            39 => 2048,
            40 => 3,
            75 => (profile.sm / 10) as c_int,
            76 => (profile.sm % 10) as c_int,
            78 | 79 | 80 | 83 | 95 => 1,
            81 => profile.smem_per_sm as c_int,
            97 => profile.smem_optin as c_int,
            106 => 32,
            111 => 1024,
            115 => c_int::from(self.settings.pools),
            // Clusters and tensor maps.
            120 | 127 => c_int::from(hopper),
            _ => {
                self.missing.insert(format!("device attribute {attribute}"));
                0
            }
        }
    }
}

/// A code's name and the driver's words for it.
fn words(error: c_uint) -> Option<(&'static CStr, &'static CStr)> {
    Some(match error {
        0 => (c"CUDA_SUCCESS", c"no error"),
        1 => (c"CUDA_ERROR_INVALID_VALUE", c"invalid argument"),
        2 => (c"CUDA_ERROR_OUT_OF_MEMORY", c"out of memory"),
        3 => (c"CUDA_ERROR_NOT_INITIALIZED", c"initialization error"),
        100 => (c"CUDA_ERROR_NO_DEVICE", c"no CUDA-capable device is detected"),
        101 => (c"CUDA_ERROR_INVALID_DEVICE", c"invalid device ordinal"),
        200 => (c"CUDA_ERROR_INVALID_IMAGE", c"device kernel image is invalid"),
        201 => (c"CUDA_ERROR_INVALID_CONTEXT", c"invalid device context"),
        209 => (
            c"CUDA_ERROR_NO_BINARY_FOR_GPU",
            c"no kernel image is available for execution on the device",
        ),
        218 => (c"CUDA_ERROR_INVALID_PTX", c"a PTX JIT compilation failed"),
        222 => (
            c"CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
            c"the provided PTX was compiled with an unsupported toolchain.",
        ),
        400 => (c"CUDA_ERROR_INVALID_HANDLE", c"invalid resource handle"),
        500 => (c"CUDA_ERROR_NOT_FOUND", c"named symbol not found"),
        600 => (c"CUDA_ERROR_NOT_READY", c"device not ready"),
        700 => (c"CUDA_ERROR_ILLEGAL_ADDRESS", c"an illegal memory access was encountered"),
        701 => (c"CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", c"too many resources requested for launch"),
        702 => (c"CUDA_ERROR_LAUNCH_TIMEOUT", c"the launch timed out and was terminated"),
        709 => (c"CUDA_ERROR_CONTEXT_IS_DESTROYED", c"context is destroyed"),
        716 => (c"CUDA_ERROR_MISALIGNED_ADDRESS", c"misaligned address"),
        717 => (
            c"CUDA_ERROR_INVALID_ADDRESS_SPACE",
            c"operation not supported on global/shared address space",
        ),
        719 => (c"CUDA_ERROR_LAUNCH_FAILED", c"unspecified launch failure"),
        720 => {
            (c"CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE", c"too many blocks in cooperative launch")
        }
        801 => (c"CUDA_ERROR_NOT_SUPPORTED", c"operation not supported"),
        401 => {
            (c"CUDA_ERROR_ILLEGAL_STATE", c"the operation cannot be performed in the present state")
        }
        900 => (
            c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
            c"operation not permitted when stream is capturing",
        ),
        912 => (c"CUDA_ERROR_INVALID_CLUSTER_SIZE", c"Invalid cluster size"),
        999 => (c"CUDA_ERROR_UNKNOWN", c"unknown error"),
        _ => return None,
    })
}
