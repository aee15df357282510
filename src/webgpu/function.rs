//! Kernels of the caller's, beside those of the crate: what a model computes between attentions.

use super::{
    Access, Binding, Bound, Checked, Context, Dispatch, Pipeline, Uniforms, Usage, check_aliasing,
};
use crate::Error;
use std::sync::Arc;

/// A kernel of the caller's, compiled; see [`Context::function`].
#[derive(Clone)]
pub struct Function {
    context: Context,
    pipeline: Arc<Pipeline>,
    reads: usize,
    params: usize,
}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Function")
            .field("reads", &self.reads)
            .field("params", &self.params)
            .finish_non_exhaustive()
    }
}

impl Context {
    /// Compiles the kernel `main` of a WGSL text. Its bindings of group 0 are, in this order: `reads`
    /// storage buffers that it reads, one that it writes, a uniform block of `params` bytes. It writes
    /// workgroup memory before it reads it: nobody clears that.
    ///
    /// # Errors
    ///
    /// [`Error::Device`] with the compiler's message, [`Error::Invalid`] for a block that is no
    /// positive multiple of 16 bytes.
    pub fn function(&self, source: &str, reads: usize, params: usize) -> Result<Function, Error> {
        if params == 0 || !params.is_multiple_of(16) {
            return Err(Error::invalid("params", params, "must be a positive multiple of 16"));
        }
        let mut accesses = vec![Access::Read; reads];
        accesses.extend([Access::Write, Access::Uniform(params as u64)]);
        let pipeline = self.checked(|| {
            let module = self.device().create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some("longhand caller's"),
                source: wgpu::ShaderSource::Wgsl(source.into()),
            });
            Pipeline::build(self.device(), &module, &accesses)
        })?;
        Ok(Function { context: self.clone(), pipeline: Arc::new(pipeline), reads, params })
    }
}

impl Function {
    /// A launch of `workgroups`, folded into the grid's x and y where they are more than one
    /// dimension takes: workgroup `x + y · num_workgroups.x`, of which the last may be too many.
    /// Every tensor is bound from its offset to its buffer's end.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if there are not as many buffers or bytes as the kernel takes, if a buffer
    /// has not the usage `STORAGE`, begins where none may be bound, or is also the one written;
    /// [`Error::Declined`] beyond the device's limits.
    pub fn bind(
        &self,
        reads: &[Binding<'_>],
        write: Binding<'_>,
        params: &[u8],
        workgroups: u64,
    ) -> Result<Bound, Error> {
        if reads.len() != self.reads {
            return Err(Error::invalid("reads", reads.len(), format!("must be {}", self.reads)));
        }
        if params.len() != self.params {
            let rule = format!("must be {}", self.params);
            return Err(Error::invalid("bytes of params", params.len(), rule));
        }
        self.context.caps().dispatches(workgroups)?;
        let mut all = Vec::with_capacity(reads.len() + 1);
        for binding in reads {
            all.push(self.whole("read", *binding, Usage::Read)?);
        }
        all.push(self.whole("write", write, Usage::Write)?);
        check_aliasing(&all)?;
        let dispatch = self.context.checked(|| {
            let uniform = Uniforms::of_bytes(&self.context, params, self.params);
            let range = all.iter().map(|tensor| {
                wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: tensor.buffer,
                    offset: tensor.offset,
                    size: None,
                })
            });
            let mut resources: Vec<wgpu::BindingResource<'_>> = range.collect();
            resources.push(uniform.block(0));
            Dispatch {
                bind_group: self.context.bind_group(&self.pipeline, resources),
                grid: self.context.fold(workgroups),
                pipeline: self.pipeline.clone(),
            }
        })?;
        Ok(Bound::new("longhand caller's", vec![dispatch]))
    }

    fn whole<'a>(
        &self,
        name: &'static str,
        binding: Binding<'a>,
        usage: Usage,
    ) -> Result<Checked<'a>, Error> {
        let caps = self.context.caps();
        let alignment = u64::from(caps.offset_alignment);
        if !binding.offset.is_multiple_of(alignment) {
            let rule = format!("must be a multiple of the device's {alignment} bytes");
            return Err(Error::invalid(format!("{name}.offset"), binding.offset, rule));
        }
        let bytes = binding.buffer.size().saturating_sub(binding.offset);
        caps.binds(&[(name, bytes)])?;
        Checked::new(name, Some(binding), (bytes / 4).max(1) as usize, 4, usage)
    }
}
