//! From f32 tensors to f32 results: for tests, tools and first steps.

use super::{Args, Plan};
use crate::Error;
use crate::cpu::{Element, time, with_dtype, workspace};
use crate::timing::Timing;
use crate::transformer_xl::{Inputs, Output, TransformerXl};
use std::borrow::Cow;

impl TransformerXl {
    /// Stores `inputs` as the problem's dtype and computes on this machine's processor.
    pub fn run_cpu(&self, inputs: &Inputs<'_, f32>) -> Result<Output<f32>, Error> {
        self.plan_cpu()?.run_inputs(inputs)
    }

    /// Measures the forward pass: the least time of `repeats` runs after the first.
    pub fn time_cpu(&self, inputs: &Inputs<'_, f32>, repeats: usize) -> Result<Timing, Error> {
        let plan = self.plan_cpu()?;
        with_dtype!(self.dtype, T => {
            let mut stored = Stored::<'_, T>::new(self, inputs)?;
            let workspace = workspace(|threads| plan.workspace_len(threads));
            time(workspace, repeats, |workspace| plan.run(stored.args(inputs), workspace))
        })
    }
}

impl Plan {
    /// As [`TransformerXl::run_cpu`], by this plan.
    pub fn run_inputs(&self, inputs: &Inputs<'_, f32>) -> Result<Output<f32>, Error> {
        with_dtype!(self.problem.dtype, T => {
            let mut stored = Stored::<'_, T>::new(&self.problem, inputs)?;
            let mut workspace = workspace(|threads| self.workspace_len(threads));
            self.run(stored.args(inputs), &mut workspace)?;
            Ok(Output { out: T::loaded(stored.out), lse: stored.lse })
        })
    }
}

/// A problem's large tensors in its dtype, and room for its results.
struct Stored<'a, T: Element> {
    /// q, k, v and r.
    given: [Cow<'a, [T]>; 4],
    /// k and v of the memory.
    memory: [Option<Cow<'a, [T]>>; 2],
    out: Vec<T>,
    lse: Vec<f32>,
}

impl<'a, T: Element> Stored<'a, T> {
    fn new(problem: &TransformerXl, inputs: &Inputs<'a, f32>) -> Result<Self, Error> {
        problem.validate_inputs(inputs)?;
        Ok(Stored {
            given: [inputs.q, inputs.k, inputs.v, inputs.r].map(T::stored),
            memory: [inputs.k_memory, inputs.v_memory].map(|x| x.map(T::stored)),
            out: vec![T::default(); problem.span("out")],
            lse: vec![0.0; problem.lse_len()],
        })
    }

    fn args<'b>(&'b mut self, inputs: &Inputs<'b, f32>) -> Args<'b, T> {
        let [q, k, v, r] = self.given.each_ref().map(|x| &**x);
        let [k_memory, v_memory] = self.memory.each_ref().map(Option::as_deref);
        let biases = [inputs.bias_u, inputs.bias_v];
        Args {
            k_memory,
            v_memory,
            bias_s: inputs.bias_s,
            seg_embed: inputs.seg_embed,
            seg_q: inputs.seg_q,
            seg_k: inputs.seg_k,
            perm_mask: inputs.perm_mask,
            key_valid: inputs.key_valid,
            targets: inputs.targets,
            ..Args::new([q, k, v], r, biases, &mut self.out, &mut self.lse)
        }
    }
}
