//! What a device allows, as far as kernels are chosen by it.

use crate::Declined;

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

    /// Declines a kernel with more workgroup memory, storage buffers or invocations than there are.
    pub(crate) fn allows(&self, bytes: u32, buffers: u32, threads: u32) -> Result<(), Declined> {
        let most = self.max_workgroup_storage;
        if bytes > most {
            let needs = format!("{bytes} bytes of workgroup memory, the device allows {most}");
            return Err(Declined::new(format!("the kernel needs {needs}")));
        }
        let most = self.max_storage_buffers;
        if buffers > most {
            let needs = format!("{buffers} storage buffers, the device allows {most}");
            return Err(Declined::new(format!("the problem needs {needs}")));
        }
        let most = self.max_invocations;
        if threads > most {
            let needs = format!("{threads} invocations per workgroup, the device allows {most}");
            return Err(Declined::new(format!("the kernel needs {needs}")));
        }
        Ok(())
    }

    /// Declines more workgroups than one dispatch takes, folded into two dimensions.
    pub(crate) fn dispatches(&self, workgroups: u64) -> Result<(), Declined> {
        let side = u64::from(self.max_workgroups_per_dimension);
        if workgroups > side.saturating_mul(side).min(u64::from(u32::MAX)) {
            let reason =
                format!("{workgroups} workgroups are more than the device dispatches at once");
            return Err(Declined::new(reason));
        }
        Ok(())
    }

    /// Declines tensors, of which the bytes are given, that one binding does not take.
    pub(crate) fn binds(&self, tensors: &[(&str, u64)]) -> Result<(), Declined> {
        // A binding begins up to one alignment early and ends on a whole word.
        let room = self.max_binding_size.saturating_sub(u64::from(self.offset_alignment) + 16);
        match tensors.iter().find(|(_, bytes)| *bytes > room) {
            Some((name, bytes)) => {
                let most = self.max_binding_size;
                let reason =
                    format!("{name} spans {bytes} bytes, the device binds at most {most} at once");
                Err(Declined::new(reason))
            }
            None => Ok(()),
        }
    }
}
