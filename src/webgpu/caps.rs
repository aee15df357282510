//! What a device allows, as far as kernels are chosen by it.

/// Limits and features of a device; plain data, so that selection can be tested without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// Bytes of workgroup memory.
    pub max_workgroup_storage: u32,
    /// Invocations of a workgroup.
    pub max_invocations: u32,
    /// Workgroups along one dimension of a dispatch.
    pub max_workgroups_per_dimension: u32,
    /// Storage buffers a kernel may bind.
    pub max_storage_buffers: u32,
    /// Bytes of one storage binding.
    pub max_binding_size: u64,
    /// Texels along one side of a texture.
    pub max_texture_size: u32,
    /// What the offset of a storage binding must be a multiple of.
    pub offset_alignment: u32,
    /// WGSL's f16 type.
    pub f16: bool,
    /// The smallest subgroup, if subgroup operations are enabled.
    pub subgroup_size: Option<u32>,
    /// The adapter is a CPU (lavapipe, SwiftShader): its "invocations" are lanes of one vector, and
    /// other kernels are fast there.
    pub cpu: bool,
}

impl Caps {
    /// What every WebGPU device has.
    pub fn baseline() -> Self {
        Self::from_limits(&wgpu::Limits::default())
    }

    /// Of a device, which must have been opened with the features it is to use.
    pub fn of(device: &wgpu::Device) -> Self {
        let features = device.features();
        let info = device.adapter_info();
        Caps {
            f16: features.contains(wgpu::Features::SHADER_F16),
            subgroup_size: features
                .contains(wgpu::Features::SUBGROUP)
                .then_some(info.subgroup_min_size),
            cpu: info.device_type == wgpu::DeviceType::Cpu,
            ..Self::from_limits(&device.limits())
        }
    }

    fn from_limits(limits: &wgpu::Limits) -> Self {
        Caps {
            max_workgroup_storage: limits.max_compute_workgroup_storage_size,
            max_invocations: limits
                .max_compute_invocations_per_workgroup
                .min(limits.max_compute_workgroup_size_x),
            max_workgroups_per_dimension: limits.max_compute_workgroups_per_dimension,
            max_storage_buffers: limits.max_storage_buffers_per_shader_stage,
            max_binding_size: limits.max_storage_buffer_binding_size.min(limits.max_buffer_size),
            max_texture_size: limits.max_texture_dimension_2d,
            offset_alignment: limits.min_storage_buffer_offset_alignment,
            f16: false,
            subgroup_size: None,
            cpu: false,
        }
    }
}
