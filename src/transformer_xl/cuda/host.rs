//! From host tensors to host results: for tests, tools and first steps.

use super::{Args, Plan};
use crate::cuda::{Context, DeviceBuffer, Stream, host};
use crate::timing::Timing;
use crate::transformer_xl::{Inputs, Output, TransformerXl};
use crate::{DType, Error};

impl TransformerXl {
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
    r: DeviceBuffer,
    bias_u: DeviceBuffer,
    bias_v: DeviceBuffer,
    out: DeviceBuffer,
    lse: DeviceBuffer,
    k_memory: Option<DeviceBuffer>,
    v_memory: Option<DeviceBuffer>,
    bias_s: Option<DeviceBuffer>,
    seg_embed: Option<DeviceBuffer>,
    seg_q: Option<DeviceBuffer>,
    seg_k: Option<DeviceBuffer>,
    perm_mask: Option<DeviceBuffer>,
    key_valid: Option<DeviceBuffer>,
    targets: Option<DeviceBuffer>,
}

impl Uploaded {
    fn new(
        problem: &TransformerXl,
        context: &Context,
        stream: &Stream,
        inputs: &Inputs<'_, f32>,
    ) -> Result<Self, Error> {
        problem.validate_inputs(inputs)?;
        let bytes = |x: &[u8]| DeviceBuffer::with_bytes(context, stream, x);
        let stored = |x: &[f32]| bytes(&problem.dtype.encode(x));
        let floats = |x: &[f32]| bytes(bytemuck::cast_slice(x));
        let words = |x: &[i32]| bytes(bytemuck::cast_slice(x));
        let zeros = |len, dtype| host::zeros(context, stream, len, dtype);
        Ok(Uploaded {
            q: stored(inputs.q)?,
            k: stored(inputs.k)?,
            v: stored(inputs.v)?,
            r: stored(inputs.r)?,
            bias_u: floats(inputs.bias_u)?,
            bias_v: floats(inputs.bias_v)?,
            out: zeros(problem.span("out"), problem.dtype)?,
            lse: zeros(problem.lse_len(), DType::F32)?,
            k_memory: inputs.k_memory.map(stored).transpose()?,
            v_memory: inputs.v_memory.map(stored).transpose()?,
            bias_s: inputs.bias_s.map(floats).transpose()?,
            seg_embed: inputs.seg_embed.map(floats).transpose()?,
            seg_q: inputs.seg_q.map(words).transpose()?,
            seg_k: inputs.seg_k.map(words).transpose()?,
            perm_mask: inputs.perm_mask.map(|x| bytes(bytemuck::cast_slice(x))).transpose()?,
            key_valid: inputs.key_valid.map(bytes).transpose()?,
            targets: inputs.targets.map(words).transpose()?,
        })
    }

    fn launch(&self, plan: &Plan, stream: &Stream, workspace: &DeviceBuffer) -> Result<(), Error> {
        let at = |x: &Option<DeviceBuffer>| x.as_ref().map(DeviceBuffer::pointer);
        let args = Args {
            k_memory: at(&self.k_memory),
            v_memory: at(&self.v_memory),
            bias_s: at(&self.bias_s),
            seg_embed: at(&self.seg_embed),
            seg_q: at(&self.seg_q),
            seg_k: at(&self.seg_k),
            perm_mask: at(&self.perm_mask),
            key_valid: at(&self.key_valid),
            targets: at(&self.targets),
            workspace: Some(workspace.pointer()),
            ..Args::new(
                [&self.q, &self.k, &self.v].map(DeviceBuffer::pointer),
                self.r.pointer(),
                [&self.bias_u, &self.bias_v].map(DeviceBuffer::pointer),
                self.out.pointer(),
                self.lse.pointer(),
            )
        };
        // SAFETY: every buffer was made for this problem, in this context; each outlives the
        // stream's work, since dropping one waits for the device.
        unsafe { plan.launch(stream, &args) }
    }

    fn read(&self, problem: &TransformerXl, stream: &Stream) -> Result<Output<f32>, Error> {
        Ok(Output {
            out: host::read(&self.out, stream, problem.span("out"), problem.dtype)?,
            lse: host::read(&self.lse, stream, problem.lse_len(), DType::F32)?,
        })
    }
}
