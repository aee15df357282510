//! What a device allows, as far as kernels are chosen by it.

/// Capabilities of a device; plain data, so that selection can be tested without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Caps {
    /// Compute capability, (8, 0) for `sm_80`. At least (8, 0).
    pub compute_capability: (u32, u32),
    /// Multiprocessors.
    pub sm_count: u32,
    /// Bytes of shared memory that a block may have if it asks for more than 48 KiB.
    pub max_shared_opt_in: u32,
    /// The newest CUDA version that the driver knows: 12040 for 12.4.
    pub driver_version: u32,
}

impl Caps {
    /// Declines a device that the kernels' instructions are not for.
    pub(crate) fn runs_kernels(&self) -> Result<(), crate::Error> {
        let (major, minor) = self.compute_capability;
        if major < 8 {
            let reason = format!("compute capability {major}.{minor}, the kernels need 8.0");
            return Err(crate::Declined::new(reason).into());
        }
        Ok(())
    }

    /// An A100 with a driver of CUDA 12.0.
    pub fn a100() -> Self {
        Caps {
            compute_capability: (8, 0),
            sm_count: 108,
            max_shared_opt_in: 166_912,
            driver_version: 12_000,
        }
    }

    /// An H100 (SXM) with a driver of CUDA 12.0.
    pub fn h100() -> Self {
        Caps {
            compute_capability: (9, 0),
            sm_count: 132,
            max_shared_opt_in: 232_448,
            driver_version: 12_000,
        }
    }

    /// Whether code for `sm_90a` loads. It does so on compute capability 9.0 alone, not on later
    /// ones, and from CUDA 12.0 on.
    pub fn runs_sm90a(&self) -> bool {
        self.compute_capability == (9, 0) && self.driver_version >= 12_000
    }
}
