//! What a test asks of the stand-in itself. Every function may be called at any time.

use crate::abi::{code, entries, out};
use crate::settings::Settings;
use crate::state::{State, with};
use std::ffi::{CStr, c_char, c_uint};

entries! {
    // Sets `key` to `value`, as one part of `LONGHAND_SIM` would. 1 if there is no such.
    fn lh_sim_set(key: *const c_char, value: *const c_char) {
        let (key, value) = (text(key)?, text(value)?);
        with(|s| {
            s.settings.set(&key, &value).map_err(|e| {
                eprintln!("mock-cuda: {e}");
                code::INVALID_VALUE
            })?;
            if key == "seed" {
                s.random = s.settings.seed;
            }
            s.apply_options();
            Ok(())
        })
    }

    // Copies what the simulator reported since the last reset into `buffer`, as much as `length`
    // bytes and a final zero allow, and writes how many bytes all of it is.
    fn lh_sim_report(buffer: *mut u8, length: usize, whole: *mut usize) {
        let text = with(|s| s.reports.join("\n"));
        copy(&text, buffer, length, whole)
    }

    // The same for the counters of launch `launch` of kernel `kernel` (counted from 0 since the
    // last reset), as JSON. 500 if there was no such launch.
    fn lh_sim_counters(
        kernel: *const c_char, launch: c_uint, buffer: *mut u8, length: usize, whole: *mut usize,
    ) {
        let kernel = text(kernel)?;
        let found = with(|s| {
            let mut of = s.counters.iter().filter(|(name, _)| *name == kernel);
            of.nth(launch as usize).map(|(_, counters)| counters.to_string())
        });
        copy(&found.ok_or(code::NOT_FOUND)?, buffer, length, whole)
    }

    // The same for the functions that were called and are not supported, one a line.
    fn lh_sim_missing(buffer: *mut u8, length: usize, whole: *mut usize) {
        let text = with(|s| s.missing.iter().cloned().collect::<Vec<_>>().join("\n"));
        copy(&text, buffer, length, whole)
    }

    // The same for how many modules, streams (with two of each context's own), events and
    // allocations there are, and how many modules were loaded since the last reset.
    fn lh_sim_live(buffer: *mut u8, length: usize, whole: *mut usize) {
        let text = with(|s| {
            let counts = [s.modules.len(), s.streams.len(), s.events.len(), s.memory.len()];
            let [modules, streams, events, memory] = counts;
            let live =
                format!("modules {modules}, streams {streams}, events {events}, memory {memory}");
            format!("{live}; loaded {}", s.loaded)
        });
        copy(&text, buffer, length, whole)
    }

    // Names the allocation at `pointer` in reports; with `flags` 1, kernels must not write it.
    fn lh_sim_tag(pointer: u64, _length: usize, flags: c_uint, name: *const c_char) {
        let name = text(name)?;
        with(|s| {
            s.allocation(pointer).ok_or(code::INVALID_VALUE)?;
            s.simulator().tag(pointer, flags & 1 != 0, &name);
            Ok(())
        })
    }

    // Forgets reports, counters and missing functions; settings are again the environment's.
    fn lh_sim_reset() {
        with(|s| {
            s.reports.clear();
            s.counters.clear();
            s.missing.clear();
            s.settings = Settings::from_environment();
            s.random = s.settings.seed;
            s.clock = 0.0;
            s.loaded = 0;
            s.apply_options();
        });
        Ok(())
    }
}

impl State {
    fn apply_options(&mut self) {
        let options = self.settings.options();
        if let Some(simulator) = &mut self.simulator {
            simulator.set_options(options);
        }
    }
}

unsafe fn text(from: *const c_char) -> Result<String, u32> {
    if from.is_null() {
        return Err(code::INVALID_VALUE);
    }
    Ok(CStr::from_ptr(from).to_string_lossy().into_owned())
}

unsafe fn copy(text: &str, buffer: *mut u8, length: usize, whole: *mut usize) -> Result<(), u32> {
    if !whole.is_null() {
        out(whole, text.len())?;
    }
    if length > 0 && !buffer.is_null() {
        let n = text.len().min(length - 1);
        std::ptr::copy_nonoverlapping(text.as_ptr(), buffer, n);
        buffer.add(n).write(0);
    }
    Ok(())
}
