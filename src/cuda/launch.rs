//! Launches.

use super::{Function, Stream};
use crate::{DType, Error, Strides};
use cudarc::driver::sys::CUstream;
use std::ffi::c_void;

/// The shape of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y and z.
    pub block: [u32; 3],
    /// Blocks of a cluster, if the kernel does not say so itself.
    pub cluster: Option<[u32; 3]>,
    /// Bytes of shared memory beside what the kernel declares with a size.
    pub dynamic_shared: u32,
}

impl Launch {
    /// `grid` blocks of `threads`.
    pub fn new(grid: [u32; 3], threads: u32) -> Self {
        Launch { grid, block: [threads, 1, 1], cluster: None, dynamic_shared: 0 }
    }

    /// The same with so many bytes of dynamic shared memory.
    pub fn dynamic_shared(self, bytes: u32) -> Self {
        Launch { dynamic_shared: bytes, ..self }
    }
}

/// `CUlaunchConfig`. cudarc has it in its bindings of CUDA 11.8 and later only.
#[repr(C)]
pub(crate) struct Config {
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared: u32,
    stream: CUstream,
    attributes: *const Attribute,
    count: u32,
}

/// `CUlaunchAttribute`: which it is, and a union of 64 bytes.
#[repr(C, align(8))]
pub(crate) struct Attribute {
    id: u32,
    padding: u32,
    value: [u32; 16],
}

const CLUSTER_DIMENSION: u32 = 4;

const _: () = assert!(size_of::<Config>() == 56 && size_of::<Attribute>() == 72);

// The driver's markers in `extra`: a pointer to the parameters, their size, the end.
const PARAMS: *mut c_void = std::ptr::without_provenance_mut(1);
const PARAMS_SIZE: *mut c_void = std::ptr::without_provenance_mut(2);
const END: *mut c_void = std::ptr::null_mut();

impl Function {
    /// Queues a launch on `stream` and returns; nothing is allocated.
    ///
    /// `params` holds the kernel's parameters as they lie in its parameter space: each at the next
    /// multiple of its alignment, as in a `repr(C)` struct. Where the driver can say how many bytes
    /// they are (from CUDA 12.4), a debug build compares.
    ///
    /// # Safety
    ///
    /// The parameters are what the kernel takes, and every address among them stays valid for what
    /// the kernel reads and writes until the launch is done.
    pub unsafe fn launch(
        &self,
        stream: &Stream,
        launch: &Launch,
        params: &[u8],
    ) -> Result<(), Error> {
        if !stream.is_of(self.handle()) {
            return Err(Error::invalid("stream", "of another context", "must be the kernel's"));
        }
        self.check_params(params)?;
        self.allow_shared(launch.dynamic_shared)?;
        let driver = stream.make_current()?;
        let mut size = params.len();
        let mut extra =
            [PARAMS, params.as_ptr().cast_mut().cast(), PARAMS_SIZE, (&raw mut size).cast(), END];
        let (grid, block) = (launch.grid, launch.block);
        let Some(cluster) = launch.cluster else {
            // SAFETY: the parameters are the caller's promise; the driver reads `extra` and what it
            // points to before it returns.
            return Ok(unsafe {
                driver.cuLaunchKernel(
                    self.raw(),
                    grid[0],
                    grid[1],
                    grid[2],
                    block[0],
                    block[1],
                    block[2],
                    launch.dynamic_shared,
                    stream.raw(),
                    std::ptr::null_mut(),
                    extra.as_mut_ptr(),
                )
            }?);
        };
        let mut value = [0; 16];
        value[..3].copy_from_slice(&cluster);
        let attribute = Attribute { id: CLUSTER_DIMENSION, padding: 0, value };
        let config = Config {
            grid,
            block,
            dynamic_shared: launch.dynamic_shared,
            stream: stream.raw(),
            attributes: &attribute,
            count: 1,
        };
        // SAFETY: as above; the configuration and its one attribute are locals.
        Ok(unsafe {
            driver.cuLaunchKernelEx(&config, self.raw(), std::ptr::null_mut(), extra.as_mut_ptr())
        }?)
    }

    /// A struct that ends in padding is longer than the parameters by less than 8 bytes.
    fn check_params(&self, params: &[u8]) -> Result<(), Error> {
        #[cfg(debug_assertions)]
        if let Some(bytes) = self.param_bytes()
            && params.len() != bytes
            && params.len() != bytes.next_multiple_of(8)
        {
            let rule = format!("the parameters of {} are {bytes} bytes", self.name());
            return Err(Error::invalid("params", format!("{} bytes", params.len()), rule));
        }
        let _ = params;
        Ok(())
    }
}

/// Rejects an address that no tensor of the problem can have.
pub(crate) fn address(name: &str, at: u64, alignment: u64, may_be_null: bool) -> Result<(), Error> {
    if at == 0 && !may_be_null {
        return Err(Error::invalid(name, "null", "must be an address"));
    }
    if !at.is_multiple_of(alignment) {
        let rule = format!("must be a multiple of {alignment} bytes");
        return Err(Error::invalid(name, format!("{at:#x}"), rule));
    }
    Ok(())
}

/// [`address`] of a tensor that the problem has if `used`. Only a workspace may be given in vain.
pub(crate) fn optional_address(
    name: &str,
    given: Option<u64>,
    used: bool,
    alignment: u64,
    may_be_null: bool,
) -> Result<(), Error> {
    match (given, used) {
        (Some(at), true) => address(name, at, alignment, may_be_null),
        (None, true) => Err(Error::invalid(name, "absent", "the problem says that it is given")),
        (Some(_), false) if name != "workspace" => {
            Err(Error::invalid(name, "given", "the problem says that there is none"))
        }
        (_, false) => Ok(()),
    }
}

/// A tensor's steps in bytes, as the kernels take them.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct Steps {
    pub(crate) batch: u64,
    pub(crate) row: u64,
    pub(crate) head: u64,
}

impl Steps {
    pub(crate) fn new(strides: &Strides, dtype: DType) -> Self {
        let bytes = |elements: usize| (elements * dtype.bytes()) as u64;
        Steps { batch: bytes(strides.batch), row: bytes(strides.seqlen), head: bytes(strides.head) }
    }
}

/// What the tests of the kinds' parameters share.
#[cfg(test)]
pub(crate) mod offsets {
    use super::Steps;
    use std::mem::offset_of;

    /// Of a struct of `size` bytes: each field with its offset, those of `tensors` taken apart into
    /// their steps, as `stated` reads them from the kernels' list.
    pub(crate) fn of_struct(
        mut fields: Vec<(String, usize)>,
        tensors: &[(&str, usize)],
        size: usize,
    ) -> Vec<(String, usize)> {
        for (name, at) in tensors {
            fields.push((format!("{name}_batch"), at + offset_of!(Steps, batch)));
            fields.push((format!("{name}_row"), at + offset_of!(Steps, row)));
            fields.push((format!("{name}_head"), at + offset_of!(Steps, head)));
        }
        fields.push(("SIZE".to_owned(), size));
        fields.sort_by_key(|(_, at)| *at);
        fields
    }

    /// The names and offsets that a template of parameters states.
    pub(crate) fn stated(text: &str) -> Vec<(String, usize)> {
        text.lines()
            .filter_map(|line| line.strip_prefix("//% set ")?.split_once(" = "))
            .map(|(name, at)| (name.to_owned(), at.parse().expect("a number")))
            .collect()
    }
}
