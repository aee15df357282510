//! Where a model runs.

use crate::{Error, Result};

/// Where a model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    /// Attention by its definition, the rest as on `Cpu`.
    Reference,
    /// This machine's processor.
    #[default]
    Cpu,
}

impl Device {
    /// The device of that name.
    ///
    /// # Errors
    ///
    /// If this build has none.
    pub fn named(name: &str) -> Result<Self> {
        match name {
            "reference" => Ok(Device::Reference),
            "cpu" => Ok(Device::Cpu),
            "webgpu" | "cuda" => Err(Error::Declined(format!(
                "device {name}: models run on reference and cpu so far"
            ))),
            _ => Err(Error::invalid("device", name, "must be reference, cpu, webgpu or cuda")),
        }
    }
}
