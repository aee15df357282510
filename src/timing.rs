//! What is said of measured times.

use std::time::Duration;

/// Which clock a time is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// Timestamps that the device writes before and after the work: the kernels alone.
    Device,
    /// The host's clock from submission until the device is done: also what submitting and waiting
    /// cost, some tens of microseconds.
    Wall,
}

impl std::fmt::Display for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Clock::Device => "device timestamps",
            Clock::Wall => "wall clock",
        })
    }
}

/// What a forward pass costs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timing {
    /// Planning, compiling and the first launch, in milliseconds of wall time.
    pub first_ms: f64,
    /// The fastest of the later launches, in milliseconds of `clock`.
    pub best_ms: f64,
    /// Whether `best_ms` is the kernels alone or includes submitting and waiting.
    pub clock: Clock,
    /// Device memory beside inputs and outputs.
    pub workspace_bytes: u64,
}

pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
