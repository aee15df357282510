//! Launches on CUDA: queued on one stream.

use super::kernels::{Buffers, Functions, KERNELS, Kernel, Text, Words};
use super::{Buffer, Memory};
use crate::{Error, Result};
use longhand::cuda::{Context, DeviceBuffer, Function, Launch, Stream};
use std::sync::Arc;

pub(crate) struct Cuda {
    pub(crate) context: Context,
    pub(crate) stream: Stream,
    functions: Functions<Function>,
}

impl Cuda {
    pub(super) fn new(context: Context) -> Result<Self> {
        let stream = Stream::new(&context)?;
        Ok(Cuda { context, stream, functions: Functions::default() })
    }

    pub(super) fn name(&self) -> &str {
        self.context.name()
    }

    /// Memory of `bytes`, holding `data`.
    pub(super) fn memory(&self, data: &[u8], bytes: usize) -> Result<Memory> {
        let memory = DeviceBuffer::new(&self.context, bytes)?;
        if !data.is_empty() {
            memory.write(&self.stream, data)?;
        }
        Ok(Arc::new(memory))
    }

    pub(super) fn launch(&self, kernel: Kernel, buffers: &Buffers, words: &Words) -> Result<()> {
        let addresses = buffers.iter().map(|buffer| address(buffer)).collect::<Result<Vec<_>>>()?;
        let params = [bytemuck::cast_slice(&addresses), bytemuck::cast_slice(words)].concat();
        let Text { ptx, entry, threads, shared, .. } = KERNELS[kernel as usize];
        let build = || Ok(self.context.function(ptx, entry)?);
        let function = self.functions[kernel as usize].get_or_init(build);
        let function = function.as_ref().map_err(Error::clone)?;
        let launch = Launch::new([words[0], 1, 1], threads).dynamic_shared(shared);
        // SAFETY: the parameters are those of every kernel of the layer, the sizes in them are of the
        // tensors whose addresses they hold, and memory is written by later work of this stream only.
        #[allow(unsafe_code)]
        unsafe { function.launch(&self.stream, &launch, &params) }?;
        Ok(())
    }

    pub(super) fn read(&self, buffers: &[&Buffer]) -> Result<Vec<Vec<f32>>> {
        let read = |buffer: &&Buffer| {
            let mut data = vec![0.0f32; buffer.bytes / 4];
            buffer.on::<DeviceBuffer>()?.read(&self.stream, bytemuck::cast_slice_mut(&mut data))?;
            Ok(data)
        };
        buffers.iter().map(read).collect()
    }
}

pub(crate) fn address(buffer: &Buffer) -> Result<u64> {
    Ok(buffer.on::<DeviceBuffer>()?.pointer())
}
