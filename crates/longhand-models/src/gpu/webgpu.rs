//! Launches on WebGPU: gathered, and submitted together when something is read or enough of them are
//! there.

use super::kernels::{Buffers, Functions, KERNELS, Kernel, READS, WORDS, Words};
use super::{Buffer, Memory};
use crate::{Error, Result, lock};
use longhand::webgpu::{Binding, Bound, Context, DeviceBuffer, Function};
use std::sync::{Arc, Mutex};

pub(crate) struct Webgpu {
    pub(crate) context: Context,
    functions: Functions<Function>,
    pending: Mutex<Vec<Bound>>,
}

/// Launches of one submission: enough that submitting costs little, few enough that the device has
/// something to do meanwhile.
const SUBMITTED: usize = 256;

impl Webgpu {
    pub(super) fn new(context: Context) -> Self {
        Webgpu { context, functions: Functions::default(), pending: Mutex::default() }
    }

    pub(super) fn name(&self) -> &str {
        &self.context.info().name
    }

    /// Memory of `bytes`, holding `data`.
    pub(super) fn memory(&self, data: &[u8], bytes: usize) -> Result<Memory> {
        Ok(Arc::new(DeviceBuffer::with_bytes(&self.context, data, bytes)?))
    }

    pub(super) fn launch(&self, kernel: Kernel, buffers: &Buffers, words: &Words) -> Result<()> {
        let bindings = buffers.iter().map(|buffer| binding(buffer)).collect::<Result<Vec<_>>>()?;
        let source = KERNELS[kernel as usize].wgsl;
        let build = || Ok(self.context.function(source, READS, 4 * WORDS)?);
        let function = self.functions[kernel as usize].get_or_init(build);
        let function = function.as_ref().map_err(Error::clone)?;
        let params = bytemuck::cast_slice(words);
        self.queue(function.bind(&bindings[..READS], bindings[READS], params, words[0].into())?)
    }

    /// Adds a launch to those that are submitted next.
    pub(crate) fn queue(&self, bound: Bound) -> Result<()> {
        let mut pending = lock(&self.pending);
        pending.push(bound);
        if pending.len() >= SUBMITTED { self.submit(&mut pending) } else { Ok(()) }
    }

    fn submit(&self, pending: &mut Vec<Bound>) -> Result<()> {
        let launches = std::mem::take(pending);
        if launches.is_empty() { Ok(()) } else { Ok(self.context.submit(&launches)?) }
    }

    pub(super) fn read(&self, buffers: &[&Buffer]) -> Result<Vec<Vec<f32>>> {
        self.submit(&mut lock(&self.pending))?;
        let parts = buffers.iter().map(|buffer| Ok((buffer.on::<DeviceBuffer>()?, buffer.bytes)));
        let parts = parts.collect::<Result<Vec<_>>>()?;
        let bytes = DeviceBuffer::read_all(&self.context, &parts)?;
        let mut rest = &bytes[..];
        let mut own = |buffer: &Buffer| rest.split_off(..buffer.bytes).unwrap_or_default();
        Ok(buffers.iter().map(|buffer| bytemuck::pod_collect_to_vec(own(buffer))).collect())
    }
}

pub(crate) fn binding(buffer: &Buffer) -> Result<Binding<'_>> {
    Ok(buffer.on::<DeviceBuffer>()?.buffer().into())
}
