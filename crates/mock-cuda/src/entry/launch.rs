//! Launches.

use crate::abi::{code, entries};
use crate::kernels::Launching;
use crate::queue::Work;
use crate::state::with;
use ptx_sim::Launch;
use std::ffi::{c_uint, c_void};

/// `CUlaunchConfig`.
#[repr(C)]
struct Config {
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: u64,
    attributes: *const Attribute,
    count: u32,
}

/// `CUlaunchAttribute`: an id, and a union of 64 bytes.
#[repr(C)]
struct Attribute {
    id: u32,
    padding: [u8; 4],
    value: [u32; 16],
}

// The attributes that change what is computed; the others are hints.
const COOPERATIVE: u32 = 2;
const CLUSTER: u32 = 4;

entries! {
    fn cuLaunchKernel(
        function: u64, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint,
        block_y: c_uint, block_z: c_uint, shared: c_uint, stream: u64,
        params: *const *const c_void, extra: *const *const c_void,
    ) {
        let shape = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z], [1; 3]);
        launch(function, shape, shared, stream, params, extra, false)
    }

    fn cuLaunchCooperativeKernel(
        function: u64, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint,
        block_y: c_uint, block_z: c_uint, shared: c_uint, stream: u64,
        params: *const *const c_void,
    ) {
        let shape = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z], [1; 3]);
        launch(function, shape, shared, stream, params, std::ptr::null(), true)
    }

    fn cuLaunchKernelEx(
        config: *const Config, function: u64, params: *const *const c_void,
        extra: *const *const c_void,
    ) {
        let config = config.as_ref().ok_or(code::INVALID_VALUE)?;
        let attributes = match config.count {
            0 => &[],
            n => std::slice::from_raw_parts(config.attributes, n as usize),
        };
        let (mut cluster, mut cooperative) = ([1; 3], false);
        for attribute in attributes {
            match attribute.id {
                CLUSTER => cluster = [attribute.value[0], attribute.value[1], attribute.value[2]],
                COOPERATIVE => cooperative = attribute.value[0] != 0,
                _ => {}
            }
        }
        let shape = (config.grid, config.block, cluster);
        launch(function, shape, config.shared, config.stream, params, extra, cooperative)
    }
}

unsafe fn launch(
    function: u64,
    (grid, block, cluster): ([u32; 3], [u32; 3], [u32; 3]),
    shared: u32,
    stream: u64,
    params: *const *const c_void,
    extra: *const *const c_void,
    cooperative: bool,
) -> Result<(), u32> {
    with(|s| {
        let stream = s.stream(stream)?;
        let mut launch = Launch { grid, block, cluster, dynamic_smem: shared, smem_limit: shared };
        s.check_launch(function, &mut launch)?;
        let blocks_per_sm = s.occupancy(function, block.iter().product(), u64::from(shared))?;
        if cooperative {
            let most = u64::from(blocks_per_sm) * u64::from(s.settings.profile().sm_count);
            if grid.iter().map(|&n| u64::from(n)).product::<u64>() > most {
                return Err(code::COOPERATIVE_LAUNCH_TOO_LARGE);
            }
        }
        let found = s.functions.get(&function).ok_or(code::INVALID_HANDLE)?;
        if found.context != s.streams[&stream].context {
            return Err(code::INVALID_HANDLE);
        }
        let entry = found.entry()?;
        let params = match (params.is_null(), extra.is_null()) {
            (_, true) => gather(entry, params)?,
            (true, false) => match packed(entry, extra) {
                Ok(params) => params,
                Err(text) => {
                    let text = format!("error[LAUNCH-PARAM] launch of {}: {text}", entry.name);
                    s.report(text);
                    return Err(code::INVALID_VALUE);
                }
            },
            (false, false) => return Err(code::INVALID_VALUE),
        };
        let (ptx, entry) = (found.ptx.clone(), found.entry.clone());
        let launching = Launching { ptx, entry, launch, params, blocks_per_sm };
        s.submit(stream, vec![], Work::Launch(Box::new(launching)))?;
        Ok(())
    })
}

/// The parameters from a pointer to each.
unsafe fn gather(entry: &ptx_sim::Entry, params: *const *const c_void) -> Result<Vec<u8>, u32> {
    let mut bytes = vec![0; entry.param_bytes as usize];
    if params.is_null() && !entry.params.is_empty() {
        return Err(code::INVALID_VALUE);
    }
    for (n, param) in entry.params.iter().enumerate() {
        let from = (*params.add(n)).cast::<u8>();
        if from.is_null() {
            return Err(code::INVALID_VALUE);
        }
        let (at, size) = (param.offset as usize, param.size as usize);
        std::ptr::copy_nonoverlapping(from, bytes[at..at + size].as_mut_ptr(), size);
    }
    Ok(bytes)
}

/// The parameters from one buffer: pairs of a marker and a value, then null.
unsafe fn packed(entry: &ptx_sim::Entry, extra: *const *const c_void) -> Result<Vec<u8>, String> {
    let (mut buffer, mut size) = (std::ptr::null::<u8>(), None);
    let mut n = 0;
    loop {
        let (marker, value) = (*extra.add(n) as usize, n + 1);
        match marker {
            0 => break,
            1 => buffer = (*extra.add(value)).cast(),
            2 => size = Some((*extra.add(value)).cast::<usize>().read_unaligned()),
            other => return Err(format!("marker {other} in `extra`")),
        }
        n += 2;
    }
    let size = size.ok_or("no size in `extra`")?;
    let wanted = entry.param_bytes as usize;
    // A struct of the host's may end in padding.
    if size != wanted && size != wanted.next_multiple_of(8) && size != wanted.next_multiple_of(64) {
        return Err(format!("{size} bytes of parameters, the kernel takes {wanted}"));
    }
    if size > 0 && buffer.is_null() {
        return Err("no parameters in `extra`".to_owned());
    }
    let mut bytes = vec![0; wanted];
    std::ptr::copy_nonoverlapping(buffer, bytes.as_mut_ptr(), wanted.min(size));
    Ok(bytes)
}
