//! Launches on CUDA: queued on one stream.

use super::kernels::{Kernel, READS, WORDS};
use super::{Buffer, Memory};
use crate::{Error, Result};
use longhand::cuda::{Context, DeviceBuffer, Function, Launch, Stream};
use std::sync::OnceLock;

pub(crate) struct Cuda {
    context: Context,
    stream: Stream,
    functions: [OnceLock<Function>; Kernel::COUNT],
}

impl Cuda {
    pub(super) fn new(context: Context) -> Result<Self> {
        let stream = Stream::new(&context)?;
        Ok(Cuda { context, stream, functions: Default::default() })
    }

    pub(super) fn name(&self) -> &str {
        self.context.name()
    }

    pub(crate) fn context(&self) -> &Context {
        &self.context
    }

    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Memory of `bytes`, holding `data`.
    pub(super) fn memory(&self, data: &[u8], bytes: usize) -> Result<DeviceBuffer> {
        let memory = DeviceBuffer::new(&self.context, bytes)?;
        if !data.is_empty() {
            memory.write(&self.stream, data)?;
        }
        Ok(memory)
    }

    fn function(&self, kernel: Kernel) -> Result<&Function> {
        let slot = &self.functions[kernel as usize];
        if let Some(function) = slot.get() {
            return Ok(function);
        }
        let built = self.context.function(kernel.ptx(), kernel.launch().0)?;
        Ok(slot.get_or_init(|| built))
    }

    pub(super) fn launch(
        &self,
        kernel: Kernel,
        reads: &[&Buffer],
        out: &Buffer,
        words: &[u32; WORDS],
        workgroups: usize,
    ) -> Result<()> {
        let mut params = Vec::with_capacity(8 * (READS + 1) + 4 * WORDS);
        for n in 0..READS {
            params.extend_from_slice(&address(reads[n.min(reads.len() - 1)])?.to_ne_bytes());
        }
        params.extend_from_slice(&address(out)?.to_ne_bytes());
        params.extend_from_slice(bytemuck::cast_slice(words));
        let blocks = u32::try_from(workgroups).ok().filter(|&n| n <= i32::MAX as u32);
        let blocks = blocks.ok_or_else(|| Error::Declined(format!("{workgroups} blocks")))?;
        let (_, threads, shared) = kernel.launch();
        let launch = Launch::new([blocks, 1, 1], threads).dynamic_shared(shared);
        // SAFETY: the parameters are those of every kernel of the layer, the sizes in them are of the
        // tensors whose addresses they hold, and memory is written by later work of this stream only.
        #[allow(unsafe_code)]
        unsafe { self.function(kernel)?.launch(&self.stream, &launch, &params) }?;
        Ok(())
    }

    pub(super) fn read(&self, buffers: &[&Buffer]) -> Result<Vec<Vec<f32>>> {
        let read = |buffer: &&Buffer| {
            let mut data = vec![0.0f32; buffer.bytes / 4];
            memory(buffer)?.read(&self.stream, bytemuck::cast_slice_mut(&mut data))?;
            Ok(data)
        };
        buffers.iter().map(read).collect()
    }
}

fn memory(buffer: &Buffer) -> Result<&DeviceBuffer> {
    match buffer.memory.as_deref() {
        Some(Memory::Cuda(memory)) => Ok(memory),
        _ => Err(Error::declined("a tensor that is not on this CUDA device")),
    }
}

pub(crate) fn address(buffer: &Buffer) -> Result<u64> {
    Ok(memory(buffer)?.pointer())
}
