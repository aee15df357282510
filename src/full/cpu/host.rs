//! From f32 tensors to f32 results: for tests, tools and first steps.

use super::{Args, Plan};
use crate::Error;
use crate::cpu::{Element, time, with_dtype, workspace};
use crate::full::{Full, Inputs, Output};
use crate::timing::Timing;
use std::borrow::Cow;

impl Full {
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
    /// As [`Full::run_cpu`], by this plan.
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
    q: Cow<'a, [T]>,
    k: Cow<'a, [T]>,
    v: Cow<'a, [T]>,
    out: Vec<T>,
    lse: Vec<f32>,
}

impl<'a, T: Element> Stored<'a, T> {
    fn new(problem: &Full, inputs: &Inputs<'a, f32>) -> Result<Self, Error> {
        problem.validate_inputs(inputs)?;
        Ok(Stored {
            q: T::stored(inputs.q),
            k: T::stored(inputs.k),
            v: T::stored(inputs.v),
            out: vec![T::default(); problem.spans()[3]],
            lse: vec![0.0; problem.lse_len()],
        })
    }

    fn args<'b>(&'b mut self, inputs: &Inputs<'b, f32>) -> Args<'b, T> {
        Args {
            alibi_slopes: inputs.alibi_slopes,
            bias: inputs.bias,
            bias_table: inputs.bias_table,
            key_valid: inputs.key_valid,
            cu_seqlens_q: inputs.cu_seqlens_q,
            cu_seqlens_k: inputs.cu_seqlens_k,
            ..Args::new([&self.q, &self.k, &self.v], &mut self.out, &mut self.lse)
        }
    }
}
