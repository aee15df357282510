//! What can go wrong, in words that name the field, its value and the rule.

/// Every error of the crate.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The problem or an argument has no meaning.
    #[error("{field} = {value}: {rule}")]
    Invalid {
        /// The field or argument, as the caller knows it (`shape.head_dim`, `q.offset`).
        field: String,
        /// What it holds.
        value: String,
        /// What it must be.
        rule: String,
    },
    /// The problem is sound, but no kernel of this device computes it.
    #[error(transparent)]
    Declined(#[from] Declined),
    /// No device was found, or not the one asked for.
    #[error("no device: {0}")]
    NoDevice(String),
    /// The driver or the graphics API reported an error.
    #[error("device error: {0}")]
    Device(String),
    /// The device is gone (reset, unplugged, destroyed); nothing on it can be used any more.
    #[error("the device was lost")]
    DeviceLost,
}

impl Error {
    /// An [`Error::Invalid`] from its three parts.
    pub(crate) fn invalid(
        field: impl Into<String>,
        value: impl std::fmt::Display,
        rule: impl Into<String>,
    ) -> Self {
        Error::Invalid { field: field.into(), value: value.to_string(), rule: rule.into() }
    }
}

/// A sound problem that a device has no kernel for, and precisely why, so that a framework can
/// fall back to something else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("declined: {reason}")]
pub struct Declined {
    /// The limit or feature that is missing, with the numbers.
    pub reason: String,
}

impl Declined {
    /// A refusal for `reason`.
    pub fn new(reason: impl Into<String>) -> Self {
        Declined { reason: reason.into() }
    }
}
