//! From host tensors to host results: for tests, tools and first steps.

use super::{Args, Plan};
use crate::cuda::{Context, DeviceBuffer, Stream, host};
use crate::longformer::{Inputs, Longformer, Output};
use crate::timing::Timing;
use crate::{DType, Error};

impl Longformer {
    /// Uploads `inputs` as the problem's dtype, runs, waits and reads back: for tests, tools and
    /// first steps.
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
        uploaded.read(self, &stream)
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
}

/// A problem's tensors in device memory of their own.
struct Uploaded {
    q: DeviceBuffer,
    k: DeviceBuffer,
    v: DeviceBuffer,
    out: DeviceBuffer,
    lse: DeviceBuffer,
    q_global: Option<DeviceBuffer>,
    k_global: Option<DeviceBuffer>,
    v_global: Option<DeviceBuffer>,
    global_indices: Option<DeviceBuffer>,
    key_valid: Option<DeviceBuffer>,
}

impl Uploaded {
    fn new(
        problem: &Longformer,
        context: &Context,
        stream: &Stream,
        inputs: &Inputs<'_, f32>,
    ) -> Result<Self, Error> {
        problem.validate_inputs(inputs)?;
        let bytes = |x: &[u8]| DeviceBuffer::with_bytes(context, stream, x);
        let floats = |x: &[f32]| bytes(&problem.dtype.encode(x));
        let words = |x: &[i32]| bytes(bytemuck::cast_slice(x));
        let zeros = |len, dtype| host::zeros(context, stream, len, dtype);
        Ok(Uploaded {
            q: floats(inputs.q)?,
            k: floats(inputs.k)?,
            v: floats(inputs.v)?,
            out: zeros(problem.span(&problem.layout.out), problem.dtype)?,
            lse: zeros(problem.lse_len(), DType::F32)?,
            q_global: inputs.q_global.map(floats).transpose()?,
            k_global: inputs.k_global.map(floats).transpose()?,
            v_global: inputs.v_global.map(floats).transpose()?,
            global_indices: inputs.global_indices.map(words).transpose()?,
            key_valid: inputs.key_valid.map(bytes).transpose()?,
        })
    }

    fn launch(&self, plan: &Plan, stream: &Stream, workspace: &DeviceBuffer) -> Result<(), Error> {
        let at = |x: &Option<DeviceBuffer>| x.as_ref().map(DeviceBuffer::pointer);
        let [q, k, v, out, lse] =
            [&self.q, &self.k, &self.v, &self.out, &self.lse].map(DeviceBuffer::pointer);
        let args = Args {
            q_global: at(&self.q_global),
            k_global: at(&self.k_global),
            v_global: at(&self.v_global),
            global_indices: at(&self.global_indices),
            key_valid: at(&self.key_valid),
            workspace: Some(workspace.pointer()),
            ..Args::new(q, k, v, out, lse)
        };
        // SAFETY: every buffer was made for this problem, in this context; each outlives the
        // stream's work, since dropping one waits for the device.
        unsafe { plan.launch(stream, &args) }
    }

    fn read(&self, problem: &Longformer, stream: &Stream) -> Result<Output<f32>, Error> {
        Ok(Output {
            out: host::read(&self.out, stream, problem.span(&problem.layout.out), problem.dtype)?,
            lse: host::read(&self.lse, stream, problem.lse_len(), DType::F32)?,
        })
    }
}
