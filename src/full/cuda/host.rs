//! From host tensors to host results: for tests, tools and first steps.

use super::{Args, Plan};
use crate::cuda::{Context, DeviceBuffer, Stream, host};
use crate::full::{Full, Inputs, Output};
use crate::timing::Timing;
use crate::{DType, Error};

impl Full {
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
        uploaded.read(&stream)
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
    problem: Full,
    q: DeviceBuffer,
    k: DeviceBuffer,
    v: DeviceBuffer,
    out: DeviceBuffer,
    lse: DeviceBuffer,
    alibi_slopes: Option<DeviceBuffer>,
    bias: Option<DeviceBuffer>,
    bias_table: Option<DeviceBuffer>,
    key_valid: Option<DeviceBuffer>,
    cu_seqlens_q: Option<DeviceBuffer>,
    cu_seqlens_k: Option<DeviceBuffer>,
}

impl Uploaded {
    fn new(
        problem: &Full,
        context: &Context,
        stream: &Stream,
        inputs: &Inputs<'_, f32>,
    ) -> Result<Self, Error> {
        problem.validate_inputs(inputs)?;
        let bytes = |x: &[u8]| DeviceBuffer::with_bytes(context, stream, x);
        let floats = |x: &[f32], dtype: DType| bytes(&dtype.encode(x));
        let words = |x: &[i32]| bytes(bytemuck::cast_slice(x));
        let zeros = |len, dtype| host::zeros(context, stream, len, dtype);
        Ok(Uploaded {
            problem: *problem,
            q: floats(inputs.q, problem.dtype)?,
            k: floats(inputs.k, problem.dtype)?,
            v: floats(inputs.v, problem.dtype)?,
            out: zeros(problem.spans()[3], problem.dtype)?,
            lse: zeros(problem.lse_len(), DType::F32)?,
            alibi_slopes: inputs.alibi_slopes.map(|x| floats(x, DType::F32)).transpose()?,
            bias: inputs.bias.map(|x| floats(x, DType::F32)).transpose()?,
            bias_table: inputs.bias_table.map(|x| floats(x, DType::F32)).transpose()?,
            key_valid: inputs.key_valid.map(bytes).transpose()?,
            cu_seqlens_q: inputs.cu_seqlens_q.map(words).transpose()?,
            cu_seqlens_k: inputs.cu_seqlens_k.map(words).transpose()?,
        })
    }

    fn launch(&self, plan: &Plan, stream: &Stream, workspace: &DeviceBuffer) -> Result<(), Error> {
        let at = |x: &Option<DeviceBuffer>| x.as_ref().map(DeviceBuffer::pointer);
        let [q, k, v, out, lse] =
            [&self.q, &self.k, &self.v, &self.out, &self.lse].map(DeviceBuffer::pointer);
        let args = Args {
            alibi_slopes: at(&self.alibi_slopes),
            bias: at(&self.bias),
            bias_table: at(&self.bias_table),
            key_valid: at(&self.key_valid),
            cu_seqlens_q: at(&self.cu_seqlens_q),
            cu_seqlens_k: at(&self.cu_seqlens_k),
            workspace: Some(workspace.pointer()),
            ..Args::new(q, k, v, out, lse)
        };
        // SAFETY: every buffer was made for this problem, in this context; each outlives the
        // stream's work, since dropping one waits for the device.
        unsafe { plan.launch(stream, &args) }
    }

    fn read(&self, stream: &Stream) -> Result<Output<f32>, Error> {
        Ok(Output {
            out: host::read(&self.out, stream, self.problem.spans()[3], self.problem.dtype)?,
            lse: host::read(&self.lse, stream, self.problem.lse_len(), DType::F32)?,
        })
    }
}
