//! What each kernel of a launch takes, and the least that its work could.

use super::{Plan, Step, host::Uploaded};
use crate::lsh::config::{Slot, Stage};
use crate::lsh::{Inputs, Lsh};
use crate::timing::milliseconds;
use crate::webgpu::{Context, DeviceTimer};
use crate::{DType, Error};

/// What a kernel's launches take together: see [`Lsh::time_stages_webgpu`].
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

impl Lsh {
    /// Measures each kernel of the forward pass by itself, in the order of the first launch: all
    /// launches in their order, each timed alone, `repeats` times; on CPU adapters by the wall clock.
    /// Empty if there is nothing to compute. Errors as [`time_webgpu`](Self::time_webgpu).
    pub fn time_stages_webgpu(
        &self,
        context: &Context,
        inputs: &Inputs<'_, f32>,
        repeats: usize,
    ) -> Result<Vec<StageTiming>, Error> {
        let uploaded = Uploaded::new(self, context, inputs)?;
        let plan = self.plan_webgpu(context)?;
        if plan.is_empty() {
            return Ok(vec![]);
        }
        let (bound, _workspace) = uploaded.bind(&plan)?;
        context.launch(&bound)?;
        // lavapipe's timestamps miss kernels of few milliseconds.
        let timer = match context.caps().cpu {
            true => DeviceTimer::wall(context),
            false => DeviceTimer::new(context)?,
        };
        let steps = plan.steps();
        let mut least = vec![f64::INFINITY; steps.len()];
        for _ in 0..repeats.max(1) {
            for (n, least) in least.iter_mut().enumerate() {
                let took = timer.time(|pass| bound.record_one(n, pass))?;
                *least = least.min(milliseconds(took));
            }
        }
        let mut stages: Vec<StageTiming> = vec![];
        for (step, ms) in steps.into_iter().zip(least) {
            let name = plan.config.name(step.stage);
            let merges = step.stage == Stage::Attend && step.number > 0;
            let same = |s: &&mut StageTiming| s.name == name && s.merges == merges;
            let (bytes, flops) = (plan.bytes_of(step), plan.flops_of(step));
            match stages.iter_mut().find(same) {
                Some(stage) => {
                    stage.launches += 1;
                    stage.ms += ms;
                    stage.bytes += bytes;
                    stage.flops += flops;
                }
                None => stages.push(StageTiming { name, merges, launches: 1, ms, bytes, flops }),
            }
        }
        Ok(stages)
    }
}

impl Plan {
    fn flops_of(&self, step: Step) -> f64 {
        let p = &self.problem;
        let rows = (p.lse_len() * p.head_dim) as f64;
        match step.stage {
            Stage::Hash if p.is_hashed() => {
                let part = step.len as f64 / p.seqlen as f64;
                2.0 * rows * part * (p.num_hashes * p.columns()) as f64
            }
            Stage::Attend => {
                let (before, after) = p.seen_chunks();
                let keys = (before + 1 + after) * p.items_of_chunk();
                let part = step.len as f64 / p.chunks_of_round() as f64;
                4.0 * rows * part * keys as f64
            }
            _ => 0.0,
        }
    }

    /// What is read and what is written.
    fn bytes_of(&self, step: Step) -> f64 {
        const WORD: usize = 4;
        let p = &self.problem;
        let heads = p.batch * p.heads;
        let items = heads * p.rounds() * p.seqlen;
        let row = p.head_dim * p.dtype.bytes();
        // A row of qk in a texture.
        let packed = p.head_dim * DType::F32.bytes();
        let histogram = p.histogram_words() as usize * WORD;
        let bytes = match step.stage {
            Stage::Pack => {
                let rotations = p.texel_rows(Slot::RotationTexels) as usize * p.head_dim * WORD;
                let tensors = if self.config.gathered { 1 } else { 2 };
                let rotations = if step.first == 0 { 2 * rotations } else { 0 };
                heads * step.len * tensors * (row + packed) + rotations
            }
            Stage::Hash => {
                let row = if self.config.is_rows() { packed } else { row };
                let buckets = if p.is_hashed() { p.num_hashes } else { 0 };
                heads * step.len * (row + (1 + buckets) * WORD)
            }
            Stage::Count { first } => items * if first { 1 } else { 2 } * WORD + histogram,
            Stage::Scan => 2 * histogram,
            Stage::Scatter { first } => items * if first { 2 } else { 3 } * WORD + histogram,
            Stage::Index => items * 4 * WORD,
            Stage::Gather => heads * self.segment_rows(step) * (2 * (row + packed) + 4 * WORD),
            Stage::Attend => {
                let of_rows = if self.config.is_rows() { packed } else { row };
                let rows = heads * step.len * p.items_of_chunk();
                let out = row * if step.number > 0 { 2 } else { 1 };
                rows * (2 * of_rows + out + 4 * WORD)
            }
        };
        bytes as f64
    }
}
