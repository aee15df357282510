//! What each kernel of a launch takes, and the least that its work could.

use super::{Plan, Step, host::Uploaded};
use crate::Error;
use crate::cuda::{Context, DeviceBuffer, DeviceTimer, Stream};
use crate::lsh::{Inputs, Lsh, StageTiming, stages};
use crate::timing::milliseconds;

impl Lsh {
    /// Measures each kernel of the forward pass by itself, in the order of the first launch: all
    /// launches in their order, each timed alone, `repeats` times. Empty if there is nothing to
    /// compute. Errors as [`time_cuda`](Self::time_cuda).
    pub fn time_stages_cuda(
        &self,
        context: &Context,
        inputs: &Inputs<'_, f32>,
        repeats: usize,
    ) -> Result<Vec<StageTiming>, Error> {
        let stream = Stream::new(context)?;
        let uploaded = Uploaded::new(self, context, &stream, inputs)?;
        let plan = self.plan_cuda(context)?;
        let workspace = DeviceBuffer::new(context, plan.workspace_bytes() as usize)?;
        let args = uploaded.args(&workspace);
        let timer = DeviceTimer::new(context)?;
        let steps = plan.steps();
        let mut least = vec![f64::INFINITY; steps.len()];
        // The first time round, the driver still loads kernels.
        for repeat in 0..=repeats.max(1) {
            for (step, least) in steps.iter().zip(&mut least) {
                let queue = |stream: &Stream| plan.queue(stream, &args, std::slice::from_ref(step));
                let took = milliseconds(timer.time(&stream, queue)?);
                *least = if repeat == 0 { f64::INFINITY } else { least.min(took) };
            }
        }
        let timing = |(&step, ms): (&Step, f64)| StageTiming {
            name: plan.config.entry(step.stage()),
            merges: matches!(step, Step::Forward(1..)),
            launches: 1,
            ms,
            bytes: plan.bytes_of(step),
            flops: plan.flops_of(step),
        };
        Ok(stages::by_name(steps.iter().zip(least).map(timing)))
    }
}

impl Plan {
    fn flops_of(&self, step: Step) -> f64 {
        match step {
            Step::Hash => self.problem.hash_flops(),
            Step::Count(_) | Step::Scatter(_) => 0.0,
            Step::Forward(_) => self.problem.round_flops(),
        }
    }

    /// What is read and what is written.
    fn bytes_of(&self, step: Step) -> f64 {
        const WORD: usize = 4;
        let p = &self.problem;
        let rows = p.batch * p.heads * p.seqlen;
        let items = rows * p.rounds();
        let row = p.head_dim * p.dtype.bytes();
        let counts = |bits: u32| {
            let tiles = p.batch * p.heads * p.rounds() * self.config.sort_tiles(p);
            (tiles << bits) * WORD
        };
        let bytes = match step {
            Step::Hash => {
                let rounds = if p.is_hashed() { p.num_hashes } else { 0 };
                let rotations = p.heads * p.head_dim * rounds * p.columns() * WORD;
                rows * (row + (1 + rounds) * WORD) + rotations
            }
            // Buckets; after the first pass they are found through an order.
            Step::Count(pass) => {
                items * if pass.number == 0 { 1 } else { 2 } * WORD + counts(pass.bits)
            }
            Step::Scatter(pass) => {
                items * if pass.number == 0 { 2 } else { 3 } * WORD + counts(pass.bits)
            }
            Step::Forward(round) => {
                // qk and v; the result is read again by rounds that merge.
                let out = if round > 0 { 2 * (row + WORD) } else { row + WORD };
                rows * (2 * row + out + 3 * WORD)
            }
        };
        bytes as f64
    }
}
