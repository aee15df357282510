//! What every kind's launch is made of.

use super::{Context, Pipeline};
use crate::Strides;
use std::sync::Arc;

/// A plan with its buffers, ready to be recorded any number of times.
pub struct Bound {
    label: &'static str,
    dispatches: Vec<Dispatch>,
}

impl std::fmt::Debug for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bound").field("dispatches", &self.dispatches.len()).finish_non_exhaustive()
    }
}

pub(crate) struct Dispatch {
    pub(crate) pipeline: Arc<Pipeline>,
    pub(crate) bind_group: wgpu::BindGroup,
    pub(crate) grid: [u32; 2],
}

impl Bound {
    pub(crate) fn new(label: &'static str, dispatches: Vec<Dispatch>) -> Self {
        Bound { label, dispatches }
    }

    /// Records the launch into `encoder`, in a compute pass of its own. Allocates nothing, waits
    /// for nothing.
    pub fn record(&self, encoder: &mut wgpu::CommandEncoder) {
        if self.dispatches.is_empty() {
            return;
        }
        let descriptor =
            wgpu::ComputePassDescriptor { label: Some(self.label), timestamp_writes: None };
        self.record_in(&mut encoder.begin_compute_pass(&descriptor));
    }

    /// Records the launch into a compute pass of yours. Changes its pipeline and bind group 0.
    pub fn record_in(&self, pass: &mut wgpu::ComputePass<'_>) {
        for n in 0..self.dispatches.len() {
            self.record_one(n, pass);
        }
    }

    /// Records number `n` of the launch's kernels alone.
    pub(crate) fn record_one(&self, n: usize, pass: &mut wgpu::ComputePass<'_>) {
        let dispatch = &self.dispatches[n];
        let [x, y] = dispatch.grid;
        pass.set_pipeline(&dispatch.pipeline.pipeline);
        pass.set_bind_group(0, &dispatch.bind_group, &[]);
        pass.dispatch_workgroups(x, y, 1);
    }
}

/// A tensor's base and strides as a uniform block holds them, in elements.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct Steps {
    pub(crate) base: u32,
    pub(crate) batch: u32,
    pub(crate) row: u32,
    pub(crate) head: u32,
}

impl Steps {
    pub(crate) fn new(base: u32, strides: &Strides) -> Self {
        Steps {
            base,
            batch: strides.batch as u32,
            row: strides.seqlen as u32,
            head: strides.head as u32,
        }
    }
}

/// Uniform blocks in one buffer.
pub(crate) struct Uniforms {
    buffer: wgpu::Buffer,
    step: u64,
    bytes: u64,
}

impl Uniforms {
    pub(crate) fn new<P: bytemuck::Pod>(context: &Context, blocks: &[P]) -> Self {
        Self::of_bytes(context, bytemuck::cast_slice(blocks), size_of::<P>())
    }

    /// Blocks of `bytes` each, one after another in `blocks`.
    pub(crate) fn of_bytes(context: &Context, blocks: &[u8], bytes: usize) -> Self {
        let alignment = context.device().limits().min_uniform_buffer_offset_alignment;
        let step = (bytes as u64).next_multiple_of(u64::from(alignment));
        let count = blocks.len() / bytes.max(1);
        let bytes = bytes as u64;
        let buffer = context.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some("longhand params"),
            size: step * count.max(1) as u64,
            usage: wgpu::BufferUsages::UNIFORM,
            mapped_at_creation: true,
        });
        for (n, block) in (0..).zip(blocks.chunks_exact((bytes as usize).max(1))) {
            let at = n * step;
            if let Ok(mut mapped) = buffer.get_mapped_range_mut(at..at + bytes) {
                mapped.copy_from_slice(block);
            }
        }
        buffer.unmap();
        Uniforms { buffer, step, bytes }
    }

    pub(crate) fn block(&self, n: usize) -> wgpu::BindingResource<'_> {
        wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: &self.buffer,
            offset: n as u64 * self.step,
            size: std::num::NonZeroU64::new(self.bytes),
        })
    }
}

impl Context {
    /// `n` workgroups as a grid of two dimensions within the device's limit.
    pub(crate) fn fold(&self, n: u64) -> [u32; 2] {
        let y = n.div_ceil(u64::from(self.caps().max_workgroups_per_dimension)).max(1);
        [n.div_ceil(y) as u32, y as u32]
    }

    /// A bind group of `pipeline`, its resources in the order of their numbers.
    pub(crate) fn bind_group(
        &self,
        pipeline: &Pipeline,
        resources: Vec<wgpu::BindingResource<'_>>,
    ) -> wgpu::BindGroup {
        let entries: Vec<wgpu::BindGroupEntry<'_>> = (0..)
            .zip(resources)
            .map(|(binding, resource)| wgpu::BindGroupEntry { binding, resource })
            .collect();
        self.device().create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("longhand"),
            layout: &pipeline.layout,
            entries: &entries,
        })
    }

    /// A buffer of these words, for kernels to read.
    pub(crate) fn words(&self, label: &str, words: &[u32]) -> wgpu::Buffer {
        let buffer = self.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: 4 * words.len() as u64,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: true,
        });
        if let Ok(mut mapped) = buffer.get_mapped_range_mut(..) {
            mapped.copy_from_slice(bytemuck::cast_slice(words));
        }
        buffer.unmap();
        buffer
    }

    /// A storage texture for kernels to fill and read.
    pub(crate) fn texels(
        &self,
        [width, height]: [u32; 2],
        format: wgpu::TextureFormat,
    ) -> wgpu::TextureView {
        let texture = self.device().create_texture(&wgpu::TextureDescriptor {
            label: Some("longhand texels"),
            size: wgpu::Extent3d { width, height, depth_or_array_layers: 1 },
            mip_level_count: 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format,
            usage: wgpu::TextureUsages::STORAGE_BINDING,
            view_formats: &[],
        });
        texture.create_view(&Default::default())
    }
}

/// A shader's view of its uniform block: names and offsets, and the size.
#[cfg(test)]
pub(crate) fn members_of_params(source: &str) -> (Vec<(String, usize)>, usize) {
    let module = naga::front::wgsl::parse_str(source).expect("the gates check it");
    let of_type = |(_, t): (_, &naga::Type)| match &t.inner {
        naga::TypeInner::Struct { members, span } if t.name.as_deref() == Some("Params") => {
            Some((members.clone(), *span as usize))
        }
        _ => None,
    };
    let (members, span) = module.types.iter().find_map(of_type).expect("every kernel has it");
    let named = |m: naga::StructMember| (m.name.unwrap_or_default(), m.offset as usize);
    (members.into_iter().map(named).collect(), span)
}
