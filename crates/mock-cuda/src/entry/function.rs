//! Attributes of kernels, their parameters, occupancy.

use crate::abi::{code, entries, out};
use crate::kernels::{SHARED_BY_DEFAULT, registers};
use crate::state::{State, ask, with};
use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::sync::Mutex;

entries! {
    fn cuFuncGetAttribute(value: *mut c_int, attribute: c_uint, function: u64) {
        let got = with(|s| {
            s.current()?;
            s.function_attribute(function, attribute)
        })?;
        out(value, got)
    }

    fn cuFuncSetAttribute(function: u64, attribute: c_uint, value: c_int) {
        with(|s| {
            s.current()?;
            s.set_function_attribute(function, attribute, value)
        })
    }

    fn cuFuncSetCacheConfig(function: u64, _config: c_uint) {
        with(|s| s.functions.get(&function).map(|_| ()).ok_or(code::INVALID_HANDLE))
    }

    fn cuFuncGetModule(module: *mut u64, function: u64) {
        let found = with(|s| s.functions.get(&function).map(|f| f.module));
        out(module, found.ok_or(code::INVALID_HANDLE)?)
    }

    #[cfg(not(feature = "drv1200"))]
    fn cuFuncGetName(name: *mut *const c_char, function: u64) {
        // The driver's string lives as long as the module; these, as long as the process.
        static NAMES: Mutex<Vec<CString>> = Mutex::new(Vec::new());
        let entry = with(|s| s.functions.get(&function).map(|f| f.entry.clone()));
        let entry = CString::new(entry.ok_or(code::INVALID_HANDLE)?).map_err(|_| code::UNKNOWN)?;
        let mut names = NAMES.lock().map_err(|_| code::UNKNOWN)?;
        if !names.contains(&entry) {
            names.push(entry.clone());
        }
        let kept = names.iter().find(|kept| **kept == entry).map(|kept| kept.as_ptr());
        out(name, kept.unwrap_or(std::ptr::null()))
    }

    #[cfg(not(feature = "drv1200"))]
    fn cuFuncGetParamInfo(
        function: u64, index: usize, offset: *mut usize, size: *mut usize,
    ) {
        let (at, bytes) = ask(|s| {
            let entry = s.functions.get(&function).ok_or(code::INVALID_HANDLE)?.entry()?;
            let param = entry.params.get(index).ok_or(code::INVALID_VALUE)?;
            Ok((param.offset, param.size))
        })?;
        out(offset, at as usize)?;
        if size.is_null() { Ok(()) } else { out(size, bytes as usize) }
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        blocks: *mut c_int, function: u64, threads: c_int, shared: usize,
    ) {
        let fit = with(|s| s.occupancy(function, threads.max(0) as u32, shared as u64))?;
        out(blocks, fit as c_int)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        blocks: *mut c_int, function: u64, threads: c_int, shared: usize, _flags: c_uint,
    ) {
        let fit = with(|s| s.occupancy(function, threads.max(0) as u32, shared as u64))?;
        out(blocks, fit as c_int)
    }

    fn cuOccupancyMaxPotentialBlockSize(
        grid: *mut c_int, block: *mut c_int, function: u64,
        _shared: Option<unsafe extern "C" fn(c_int) -> usize>, shared: usize, limit: c_int,
    ) {
        let (count, threads) = with(|s| s.best_block(function, shared as u64, limit))?;
        out(grid, count)?;
        out(block, threads)
    }

    fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        grid: *mut c_int, block: *mut c_int, function: u64,
        _shared: Option<unsafe extern "C" fn(c_int) -> usize>, shared: usize, limit: c_int,
        _flags: c_uint,
    ) {
        let (count, threads) = with(|s| s.best_block(function, shared as u64, limit))?;
        out(grid, count)?;
        out(block, threads)
    }

    fn cuOccupancyAvailableDynamicSMemPerBlock(
        bytes: *mut usize, function: u64, blocks: c_int, _threads: c_int,
    ) {
        let free = ask(|s| {
            let profile = s.settings.profile();
            let entry = s.functions.get(&function).ok_or(code::INVALID_HANDLE)?.entry()?;
            let each = profile.smem_per_sm / blocks.max(1) as u32;
            let taken = 1024 + entry.static_smem;
            Ok(each.saturating_sub(taken).min(profile.smem_optin - entry.static_smem))
        })?;
        out(bytes, free as usize)
    }

    fn cuOccupancyMaxActiveClusters(
        clusters: *mut c_int, function: u64, config: *const c_void,
    ) {
        let _ = config;
        with(|s| s.functions.get(&function).map(|_| ()).ok_or(code::INVALID_HANDLE))?;
        let (sm, count) = with(|s| (s.settings.profile().sm, s.settings.profile().sm_count));
        // Of two blocks each, one to a multiprocessor.
        out(clusters, if sm >= 90 { (count / 2) as c_int } else { 0 })
    }

    fn cuOccupancyMaxPotentialClusterSize(
        blocks: *mut c_int, function: u64, _config: *const c_void,
    ) {
        let most = ask(|s| {
            let function = s.functions.get(&function).ok_or(code::INVALID_HANDLE)?;
            let most = if function.large_clusters { 16 } else { 8 };
            Ok(if s.settings.profile().sm >= 90 { most } else { 1 })
        })?;
        out(blocks, most)
    }
}

impl State {
    pub(super) fn function_attribute(
        &mut self,
        function: u64,
        attribute: c_uint,
    ) -> Result<c_int, u32> {
        let sm = self.settings.profile().sm;
        let found = self.functions.get(&function).ok_or(code::INVALID_HANDLE)?;
        let entry = found.entry()?;
        let product = |n: [u32; 3]| n.iter().map(|&n| n.max(1)).product::<u32>();
        let by_default = SHARED_BY_DEFAULT.saturating_sub(entry.static_smem);
        Ok(match attribute {
            0 => entry.maxntid.or(entry.reqntid).map_or(1024, product) as c_int,
            1 => entry.static_smem as c_int,
            // Constants, local memory: of the compiler's making, and there is none.
            2 | 3 => 0,
            4 => registers(entry) as c_int,
            5 => found.ptx.target as c_int,
            6 => sm as c_int,
            7 | 10..=13 | 15 => 0,
            8 => found.allowed_shared.unwrap_or(by_default) as c_int,
            9 => -1,
            14 => c_int::from(found.large_clusters),
            _ => {
                self.missing.insert(format!("function attribute {attribute}"));
                return Err(code::INVALID_VALUE);
            }
        })
    }

    pub(super) fn set_function_attribute(
        &mut self,
        function: u64,
        attribute: c_uint,
        value: c_int,
    ) -> Result<(), u32> {
        let most = self.settings.profile().smem_optin;
        let found = self.functions.get_mut(&function).ok_or(code::INVALID_HANDLE)?;
        match attribute {
            8 => {
                let bytes = u32::try_from(value).map_err(|_| code::INVALID_VALUE)?;
                if bytes.saturating_add(found.entry()?.static_smem) > most {
                    return Err(code::INVALID_VALUE);
                }
                found.allowed_shared = Some(bytes);
            }
            14 => found.large_clusters = value != 0,
            // Hints.
            9 | 15 => {}
            _ => return Err(code::INVALID_VALUE),
        }
        Ok(())
    }

    /// Blocks that fill the device and their threads: the most threads of which any block fits.
    fn best_block(&self, function: u64, shared: u64, limit: c_int) -> Result<(c_int, c_int), u32> {
        let limit = if limit <= 0 { 1024 } else { (limit as u32).min(1024) };
        for threads in (32..=limit).rev().step_by(32) {
            let blocks = self.occupancy(function, threads, shared)?;
            if blocks > 0 {
                let all = blocks * self.settings.profile().sm_count;
                return Ok((all as c_int, threads as c_int));
            }
        }
        Err(code::LAUNCH_OUT_OF_RESOURCES)
    }
}
