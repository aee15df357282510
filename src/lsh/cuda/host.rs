//! From host tensors to host results: for tests, tools and first steps.

use super::{Args, Plan};
use crate::cuda::{Context, DeviceBuffer, Stream, host};
use crate::lsh::{Inputs, Lsh, Output};
use crate::timing::Timing;
use crate::{DType, Error};

impl Lsh {
    /// Uploads `inputs` as the problem's dtype (rotations as f32), runs, waits and reads back: for
    /// tests, tools and first steps.
    pub fn run_cuda(
        &self,
        context: &Context,
        inputs: &Inputs<'_, f32>,
    ) -> Result<Output<f32>, Error> {
        let stream = Stream::new(context)?;
        let uploaded = Uploaded::new(self, context, &stream, inputs)?;
        let plan = self.plan_cuda(context)?;
        let workspace = DeviceBuffer::new(context, plan.workspace_bytes() as usize)?;
        uploaded.launch(&plan, &stream, &workspace)?;
        uploaded.read(self, &stream, inputs, &workspace)
    }

    /// Measures the forward pass: what planning and the first launch cost, and the least time of
    /// `repeats` launches after it.
    pub fn time_cuda(
        &self,
        context: &Context,
        inputs: &Inputs<'_, f32>,
        repeats: usize,
    ) -> Result<Timing, Error> {
        let stream = Stream::new(context)?;
        let uploaded = Uploaded::new(self, context, &stream, inputs)?;
        let plan = || self.plan_cuda(context);
        let launch = |plan: &Plan, stream: &Stream, workspace: &DeviceBuffer| {
            uploaded.launch(plan, stream, workspace)
        };
        host::time(context, &stream, repeats, plan, Plan::workspace_bytes, launch)
    }

    /// Given buckets as a result: an invalid position's is the last, whatever was given.
    fn buckets_of(&self, inputs: &Inputs<'_, f32>) -> Vec<i32> {
        let given = inputs.buckets.unwrap_or(&[]);
        let of_sequence = (self.heads * self.num_hashes * self.seqlen).max(1);
        let valid = |n: usize| {
            let at = n / of_sequence * self.seqlen + n % self.seqlen.max(1);
            inputs.key_valid.is_none_or(|valid| valid[at] != 0)
        };
        let all = self.buckets() as i32;
        given.iter().enumerate().map(|(n, &x)| if valid(n) { x } else { all }).collect()
    }
}

/// A problem's tensors in device memory of their own.
pub(super) struct Uploaded {
    qk: DeviceBuffer,
    v: DeviceBuffer,
    rotations: Option<DeviceBuffer>,
    buckets: Option<DeviceBuffer>,
    key_valid: Option<DeviceBuffer>,
    out: DeviceBuffer,
    lse: DeviceBuffer,
    lse_rounds: Option<DeviceBuffer>,
}

impl Uploaded {
    pub(super) fn new(
        problem: &Lsh,
        context: &Context,
        stream: &Stream,
        inputs: &Inputs<'_, f32>,
    ) -> Result<Self, Error> {
        problem.validate_inputs(inputs)?;
        let bytes = |x: &[u8]| DeviceBuffer::with_bytes(context, stream, x);
        let floats = |x: &[f32]| bytes(&problem.dtype.encode(x));
        let zeros = |len, dtype| host::zeros(context, stream, len, dtype);
        let buckets = match inputs.buckets {
            Some(given) => Some(bytes(bytemuck::cast_slice(given))?),
            None if problem.is_sorted() => Some(zeros(problem.buckets_len(), DType::F32)?),
            None => None,
        };
        let rounds = problem.is_sorted().then_some(problem.lse_rounds_len());
        Ok(Uploaded {
            qk: floats(inputs.qk)?,
            v: floats(inputs.v)?,
            rotations: inputs.rotations.map(|x| bytes(bytemuck::cast_slice(x))).transpose()?,
            buckets,
            key_valid: inputs.key_valid.map(bytes).transpose()?,
            out: zeros(problem.span(&problem.layout.out), problem.dtype)?,
            lse: zeros(problem.lse_len(), DType::F32)?,
            lse_rounds: rounds.map(|len| zeros(len, DType::F32)).transpose()?,
        })
    }

    fn launch(&self, plan: &Plan, stream: &Stream, workspace: &DeviceBuffer) -> Result<(), Error> {
        // SAFETY: every buffer was made for this problem, in this context; each outlives the
        // stream's work, since dropping one waits for the device.
        unsafe { plan.launch(stream, &self.args(workspace)) }
    }

    pub(super) fn args(&self, workspace: &DeviceBuffer) -> Args {
        let at = |x: &Option<DeviceBuffer>| x.as_ref().map(DeviceBuffer::pointer);
        let [qk, v, out, lse] =
            [&self.qk, &self.v, &self.out, &self.lse].map(DeviceBuffer::pointer);
        Args {
            rotations: at(&self.rotations),
            buckets: at(&self.buckets),
            key_valid: at(&self.key_valid),
            lse_rounds: at(&self.lse_rounds),
            workspace: Some(workspace.pointer()),
            ..Args::new(qk, v, out, lse)
        }
    }

    fn read(
        &self,
        problem: &Lsh,
        stream: &Stream,
        inputs: &Inputs<'_, f32>,
        workspace: &DeviceBuffer,
    ) -> Result<Output<f32>, Error> {
        let words = |buffer: &DeviceBuffer, len: usize| {
            let mut words = vec![0i32; len];
            buffer.read(stream, bytemuck::cast_slice_mut(&mut words))?;
            Ok::<_, Error>(words)
        };
        let floats = |buffer: &DeviceBuffer, len| host::read(buffer, stream, len, DType::F32);
        let lse = floats(&self.lse, problem.lse_len())?;
        let lse_rounds = match &self.lse_rounds {
            Some(buffer) => floats(buffer, problem.lse_rounds_len())?,
            None => lse.clone(),
        };
        let buckets = match (&self.buckets, problem.buckets_given) {
            (Some(buffer), false) => words(buffer, problem.buckets_len())?,
            _ => problem.buckets_of(inputs),
        };
        Ok(Output {
            out: host::read(&self.out, stream, problem.span(&problem.layout.out), problem.dtype)?,
            lse,
            lse_rounds,
            buckets,
            order: words(workspace, problem.buckets_len())?,
        })
    }
}
