//! What the kernels of a forward pass take, each by itself, and what they compute.

use super::Lsh;

/// What a kernel's launches take together: see `Lsh::time_stages_webgpu` and `Lsh::time_stages_cuda`.
#[derive(Debug, Clone, PartialEq)]
pub struct StageTiming {
    /// The kernel.
    pub name: &'static str,
    /// Of the attention, whether these are the rounds that merge with what is there.
    pub merges: bool,
    /// How many launches of it a forward pass has.
    pub launches: usize,
    /// Their time in milliseconds, of each the least that was measured.
    pub ms: f64,
    /// Bytes that they must move, each tensor or texture of theirs once a launch.
    pub bytes: f64,
    /// Floating-point operations that they must do.
    pub flops: f64,
}

/// Timings of single launches, those of one kernel together, in the order of their first.
pub(super) fn by_name(launches: impl IntoIterator<Item = StageTiming>) -> Vec<StageTiming> {
    let mut stages: Vec<StageTiming> = vec![];
    for launch in launches {
        let same = |s: &&mut StageTiming| s.name == launch.name && s.merges == launch.merges;
        match stages.iter_mut().find(same) {
            Some(stage) => {
                stage.launches += launch.launches;
                stage.ms += launch.ms;
                stage.bytes += launch.bytes;
                stage.flops += launch.flops;
            }
            None => stages.push(launch),
        }
    }
    stages
}

impl Lsh {
    /// Floating-point operations of the product with the rotations.
    pub(super) fn hash_flops(&self) -> f64 {
        let columns = if self.is_hashed() { self.num_hashes * self.columns() } else { 0 };
        2.0 * (self.lse_len() * self.head_dim) as f64 * columns as f64
    }

    /// Those of the attention of a round.
    pub(super) fn round_flops(&self) -> f64 {
        let (before, after) = self.seen_chunks();
        let keys = (before + 1 + after) * self.items_of_chunk();
        4.0 * (self.lse_len() * self.head_dim) as f64 * keys as f64
    }
}
