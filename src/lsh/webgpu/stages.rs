//! What each kernel of a launch takes, and the least that its work could.

use super::{Plan, Step, host::Uploaded};
use crate::lsh::config::{Slot, Stage};
use crate::lsh::{Inputs, Lsh, StageTiming, stages};
use crate::timing::milliseconds;
use crate::webgpu::{Context, DeviceTimer};
use crate::{DType, Error};

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
        let timing = |(step, ms): (Step, f64)| StageTiming {
            name: plan.config.name(step.stage),
            merges: step.stage == Stage::Attend && step.number > 0,
            launches: 1,
            ms,
            bytes: plan.bytes_of(step),
            flops: plan.flops_of(step),
        };
        Ok(stages::by_name(steps.into_iter().zip(least).map(timing)))
    }
}

impl Plan {
    fn flops_of(&self, step: Step) -> f64 {
        let p = &self.problem;
        let part = |of: usize| step.len as f64 / of as f64;
        match step.stage {
            Stage::Hash => p.hash_flops() * part(p.seqlen),
            Stage::Attend => p.round_flops() * part(p.chunks_of_round()),
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
