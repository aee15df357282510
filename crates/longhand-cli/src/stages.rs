//! The kernels of one launch, each by itself: `longhand bench lsh --stages`.

use crate::table;
#[cfg(any(feature = "cuda", feature = "webgpu"))]
use crate::{failure::Result, full_file::OwnedInputs, generate};
#[cfg(any(feature = "cuda", feature = "webgpu"))]
use longhand::{DType, Full, Shape, lsh::StageTiming};
use serde_json::{Value, json};

/// The kernels of a forward pass, and how fast the device moves and computes elsewhere.
pub(crate) struct Stages {
    pub(crate) of: Vec<Stage>,
    /// Of a copy from buffer to buffer.
    pub(crate) bytes_per_ms: f64,
    /// Of full attention.
    pub(crate) flops_per_ms: f64,
}

/// What a kernel's launches take together, and what they move and compute.
pub(crate) struct Stage {
    pub(crate) name: String,
    pub(crate) launches: usize,
    pub(crate) ms: f64,
    pub(crate) bytes: f64,
    pub(crate) flops: f64,
    /// Hashing or sorting.
    pub(crate) orders: bool,
    /// The attention: of the first round, or of those that merge with what is there.
    pub(crate) attends: Option<Round>,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Round {
    First,
    Later,
}

/// A problem of full attention whose rows reuse what they read as much as kernels can.
#[cfg(any(feature = "cuda", feature = "webgpu"))]
pub(crate) fn dense(head_dim: usize, dtype: DType) -> Result<(Full, OwnedInputs<f32>)> {
    let (heads_q, heads_kv, seqlen_q, seqlen_k) = (1, 1, 2048, 2048);
    let dense =
        Full::new(Shape { batch: 1, heads_q, heads_kv, seqlen_q, seqlen_k, head_dim }, dtype);
    let inputs = generate::inputs(&dense)?;
    Ok((dense, inputs))
}

impl Stages {
    #[cfg(any(feature = "cuda", feature = "webgpu"))]
    pub(crate) fn new(of: Vec<StageTiming>, bytes_per_ms: f64, flops_per_ms: f64) -> Self {
        let stage = |of: StageTiming| Stage {
            name: if of.merges { format!("{}, merging", of.name) } else { of.name.to_owned() },
            launches: of.launches,
            ms: of.ms,
            bytes: of.bytes,
            flops: of.flops,
            // Rows that are gathered, the attention would gather itself.
            orders: !of.name.contains("forward") && !of.name.contains("gather"),
            attends: of.name.contains("forward").then_some(match of.merges {
                true => Round::Later,
                false => Round::First,
            }),
        };
        Stages { of: of.into_iter().map(stage).collect(), bytes_per_ms, flops_per_ms }
    }

    fn ms(&self) -> f64 {
        self.of.iter().map(|s| s.ms).sum()
    }

    /// At least so many milliseconds, and what binds.
    fn floor(&self, stage: &Stage) -> (f64, &'static str) {
        let (moves, computes) = (stage.bytes / self.bytes_per_ms, stage.flops / self.flops_per_ms);
        if moves > computes { (moves, "bytes") } else { (computes, "flops") }
    }

    /// What merging takes: by how much a later round's launches outlast the first's.
    fn merging_ms(&self) -> f64 {
        let of = |round| self.of.iter().find(|s| s.attends == Some(round));
        match (of(Round::First), of(Round::Later)) {
            (Some(first), Some(later)) => {
                let rounds = later.launches as f64 / first.launches as f64;
                (later.ms - rounds * first.ms).max(0.0)
            }
            _ => 0.0,
        }
    }

    /// Hashing, sorting and merging, as a part of the whole.
    fn overhead(&self) -> f64 {
        let orders: f64 = self.of.iter().filter(|s| s.orders).map(|s| s.ms).sum();
        (orders + self.merging_ms()) / self.ms()
    }

    pub(crate) fn text(&self, seqlen: usize) -> String {
        let head = ["kernel", "launches", "ms", "of all", "floor ms", "x floor", "bound by"];
        let all = self.ms();
        let row = |stage: &Stage| {
            let (floor, by) = self.floor(stage);
            vec![
                stage.name.clone(),
                stage.launches.to_string(),
                table::ms(stage.ms),
                format!("{:.1} %", 100.0 * stage.ms / all),
                table::ms(floor),
                format!("{:.1}", stage.ms / floor),
                by.to_owned(),
            ]
        };
        let rows: Vec<_> = self.of.iter().map(row).collect();
        format!(
            "length {seqlen}: {} ms; a copy moves {:.1} GB/s, full attention computes {:.4} TFLOP/s\n\
             {}hash, sort and merge: {:.1} % of the whole\n",
            table::ms(all),
            self.bytes_per_ms / 1e6,
            self.flops_per_ms / 1e9,
            table::render(&head, &rows, 1),
            100.0 * self.overhead(),
        )
    }

    pub(crate) fn json(&self) -> Value {
        let row = |stage: &Stage| {
            let (floor_ms, bound_by) = self.floor(stage);
            json!({
                "kernel": stage.name,
                "launches": stage.launches,
                "ms": stage.ms,
                "floor_ms": floor_ms,
                "bound_by": bound_by,
            })
        };
        json!({
            "kernels": self.of.iter().map(row).collect::<Vec<_>>(),
            "bytes_per_ms": self.bytes_per_ms,
            "flops_per_ms": self.flops_per_ms,
            "hash_sort_merge": self.overhead(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(name: &str, launches: usize, ms: f64, attends: Option<Round>) -> Stage {
        let orders = attends.is_none();
        Stage { name: name.into(), launches, ms, bytes: 80.0, flops: 30.0, orders, attends }
    }

    #[test]
    fn merging_is_what_later_rounds_take_beyond_the_first() {
        let of = vec![
            stage("hash", 1, 20.0, None),
            stage("attend", 1, 10.0, Some(Round::First)),
            stage("attend", 3, 50.0, Some(Round::Later)),
        ];
        let stages = Stages { of, bytes_per_ms: 10.0, flops_per_ms: 10.0 };
        assert_eq!(stages.merging_ms(), 20.0);
        assert_eq!(stages.overhead(), 0.5);
        assert_eq!(stages.floor(&stages.of[0]), (8.0, "bytes"));
        assert_eq!(
            stages.floor(&Stage { flops: 90.0, ..stage("x", 1, 1.0, None) }),
            (9.0, "flops")
        );
        let text = stages.text(7);
        assert!(text.contains("25.0 %") && text.contains("2.5"), "{text}");
    }

    #[test]
    fn one_round_merges_nothing() {
        let of = vec![stage("attend", 1, 10.0, Some(Round::First))];
        let stages = Stages { of, bytes_per_ms: 1.0, flops_per_ms: 1.0 };
        assert_eq!((stages.merging_ms(), stages.overhead()), (0.0, 0.0));
    }
}
