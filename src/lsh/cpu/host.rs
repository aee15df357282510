//! From f32 tensors to f32 results: for tests, tools and first steps.

use super::{Args, Plan};
use crate::Error;
use crate::cpu::{Element, time, with_dtype, workspace};
use crate::lsh::{Inputs, Lsh, Output};
use crate::timing::Timing;
use std::borrow::Cow;

impl Lsh {
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
    /// As [`Lsh::run_cpu`], by this plan.
    pub fn run_inputs(&self, inputs: &Inputs<'_, f32>) -> Result<Output<f32>, Error> {
        let p = &self.problem;
        with_dtype!(p.dtype, T => {
            let mut stored = Stored::<'_, T>::new(p, inputs)?;
            let mut workspace = workspace(|threads| self.workspace_len(threads));
            self.run(stored.args(inputs), &mut workspace)?;
            Ok(Output {
                out: T::loaded(stored.out),
                lse_rounds: stored.lse_rounds.unwrap_or_else(|| stored.lse.clone()),
                lse: stored.lse,
                buckets: stored.buckets.unwrap_or_default(),
                order: bytemuck::cast_slice(&workspace[..p.buckets_len()]).to_vec(),
            })
        })
    }
}

/// A problem's large tensors in its dtype, and room for its results.
struct Stored<'a, T: Element> {
    qk: Cow<'a, [T]>,
    v: Cow<'a, [T]>,
    buckets: Option<Vec<i32>>,
    out: Vec<T>,
    lse: Vec<f32>,
    lse_rounds: Option<Vec<f32>>,
}

impl<'a, T: Element> Stored<'a, T> {
    fn new(problem: &Lsh, inputs: &Inputs<'a, f32>) -> Result<Self, Error> {
        problem.validate_inputs(inputs)?;
        let sorted = problem.is_sorted();
        let buckets =
            || inputs.buckets.map_or_else(|| vec![0; problem.buckets_len()], <[i32]>::to_vec);
        Ok(Stored {
            qk: T::stored(inputs.qk),
            v: T::stored(inputs.v),
            buckets: sorted.then(buckets),
            out: vec![T::default(); problem.span(&problem.layout.out)],
            lse: vec![0.0; problem.lse_len()],
            lse_rounds: sorted.then(|| vec![0.0; problem.lse_rounds_len()]),
        })
    }

    fn args<'b>(&'b mut self, inputs: &Inputs<'b, f32>) -> Args<'b, T> {
        Args {
            rotations: inputs.rotations,
            buckets: self.buckets.as_deref_mut(),
            key_valid: inputs.key_valid,
            lse_rounds: self.lse_rounds.as_deref_mut(),
            ..Args::new(&self.qk, &self.v, &mut self.out, &mut self.lse)
        }
    }
}
