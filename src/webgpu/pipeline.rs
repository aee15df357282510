//! Compiled kernels.

use std::num::NonZeroU64;

/// What a pipeline is cached under: a kind's configuration and which of its kernels.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum PipelineKey {
    Full(crate::full::config::Config, crate::full::config::Stage),
    Longformer(crate::longformer::config::Config, crate::longformer::config::Stage),
    Lsh(crate::lsh::config::Config, crate::lsh::config::Stage),
    TransformerXl(crate::transformer_xl::config::Config, crate::transformer_xl::config::Stage),
    Merge(crate::merge::webgpu::Config),
    Sinusoids(crate::transformer_xl::sinusoids::webgpu::Config),
}

/// How a kernel uses a binding; its number is the position in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    /// A storage texture, read.
    ReadTexture(wgpu::TextureFormat),
    /// A storage texture, written.
    WriteTexture(wgpu::TextureFormat),
    /// A uniform block of so many bytes.
    Uniform(u64),
}

impl Access {
    fn binding_type(self) -> wgpu::BindingType {
        let buffer = |ty, bytes| wgpu::BindingType::Buffer {
            ty,
            has_dynamic_offset: false,
            min_binding_size: NonZeroU64::new(bytes),
        };
        let texture = |format, access| wgpu::BindingType::StorageTexture {
            access,
            format,
            view_dimension: wgpu::TextureViewDimension::D2,
        };
        match self {
            Access::Uniform(bytes) => buffer(wgpu::BufferBindingType::Uniform, bytes),
            Access::Read => buffer(wgpu::BufferBindingType::Storage { read_only: true }, 0),
            Access::Write => buffer(wgpu::BufferBindingType::Storage { read_only: false }, 0),
            Access::ReadTexture(format) => texture(format, wgpu::StorageTextureAccess::ReadOnly),
            Access::WriteTexture(format) => texture(format, wgpu::StorageTextureAccess::WriteOnly),
        }
    }
}

pub(crate) struct Pipeline {
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) layout: wgpu::BindGroupLayout,
}

impl Pipeline {
    pub(crate) fn build(
        device: &wgpu::Device,
        module: &wgpu::ShaderModule,
        accesses: &[Access],
    ) -> Self {
        let entries: Vec<wgpu::BindGroupLayoutEntry> = (0..)
            .zip(accesses)
            .map(|(binding, access)| wgpu::BindGroupLayoutEntry {
                binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: access.binding_type(),
                count: None,
            })
            .collect();
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some("longhand"),
            entries: &entries,
        });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some("longhand"),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some("longhand"),
            layout: Some(&pipeline_layout),
            module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                // Kernels write workgroup memory before they read it.
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: None,
        });
        Pipeline { pipeline, layout }
    }
}

/// A shader module without the counter that naga otherwise adds to every loop, which costs 1.7 × in
/// the tile kernel. Out-of-range indices stay checked.
#[allow(unsafe_code)]
pub(crate) fn create_trusted_module(device: &wgpu::Device, source: &str) -> wgpu::ShaderModule {
    let descriptor = wgpu::ShaderModuleDescriptor {
        label: Some("longhand"),
        source: wgpu::ShaderSource::Wgsl(source.into()),
    };
    let checks = wgpu::ShaderRuntimeChecks {
        force_loop_bounding: false,
        ..wgpu::ShaderRuntimeChecks::checked()
    };
    // SAFETY: without loop bounding every loop must end. Each loop of our kernels counts up by a
    // positive constant to a bound that is fixed before it begins.
    unsafe { device.create_shader_module_trusted(descriptor, checks) }
}
