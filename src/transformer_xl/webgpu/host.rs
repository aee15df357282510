//! From host tensors to host results: for tests, tools and first steps.

use super::{Args, Bound, Plan};
use crate::timing::Timing;
use crate::transformer_xl::{Inputs, Output, TransformerXl};
use crate::webgpu::{Binding, Context, DeviceBuffer};
use crate::{DType, Error};

impl TransformerXl {
    /// Uploads `inputs` as the problem's dtype, runs, waits and reads back: for tests, tools and
    /// first steps.
    pub fn run_webgpu(
        &self,
        context: &Context,
        inputs: &Inputs<'_, f32>,
    ) -> Result<Output<f32>, Error> {
        let uploaded = Uploaded::new(self, context, inputs)?;
        let bound = uploaded.bind(&self.plan_webgpu(context)?)?;
        context.launch(&bound)?;
        uploaded.read()
    }

    /// Measures the forward pass: what planning and the first launch cost, and the least time of
    /// `repeats` launches after it.
    pub fn time_webgpu(
        &self,
        context: &Context,
        inputs: &Inputs<'_, f32>,
        repeats: usize,
    ) -> Result<Timing, Error> {
        let uploaded = Uploaded::new(self, context, inputs)?;
        let plan = || {
            let plan = self.plan_webgpu(context)?;
            let workspace = plan.workspace_bytes() + plan.owned_bytes();
            let bound = if plan.is_empty() { None } else { Some(uploaded.bind(&plan)?) };
            Ok((bound, workspace))
        };
        context.time_launches(plan, repeats)
    }
}

/// A problem's tensors in buffers of their own.
struct Uploaded<'a> {
    problem: &'a TransformerXl,
    context: &'a Context,
    /// q, k, v, r, and the biases u and v.
    given: [DeviceBuffer; 6],
    out: DeviceBuffer,
    lse: DeviceBuffer,
    memory: [Option<DeviceBuffer>; 2],
    /// bias_s, seg_embed, seg_q and seg_k.
    segments: [Option<DeviceBuffer>; 4],
    perm_mask: Option<DeviceBuffer>,
    key_valid: Option<DeviceBuffer>,
    targets: Option<DeviceBuffer>,
}

impl<'a> Uploaded<'a> {
    fn new(
        problem: &'a TransformerXl,
        context: &'a Context,
        inputs: &Inputs<'_, f32>,
    ) -> Result<Self, Error> {
        problem.validate_inputs(inputs)?;
        let floats = |x: &[f32]| DeviceBuffer::floats(context, x, problem.dtype);
        let wide = |x: &[f32]| DeviceBuffer::floats(context, x, DType::F32);
        let bytes = |x: &[u8]| DeviceBuffer::with_bytes(context, x, 0);
        let words = |x: Option<&[i32]>| x.map(|x| bytes(bytemuck::cast_slice(x))).transpose();
        let empty =
            |len: usize, dtype: DType| DeviceBuffer::with_bytes(context, &[], len * dtype.bytes());
        Ok(Uploaded {
            problem,
            context,
            given: [
                floats(inputs.q)?,
                floats(inputs.k)?,
                floats(inputs.v)?,
                floats(inputs.r)?,
                wide(inputs.bias_u)?,
                wide(inputs.bias_v)?,
            ],
            out: empty(problem.span("out"), problem.dtype)?,
            lse: empty(problem.lse_len(), DType::F32)?,
            memory: [
                inputs.k_memory.map(floats).transpose()?,
                inputs.v_memory.map(floats).transpose()?,
            ],
            segments: [
                inputs.bias_s.map(wide).transpose()?,
                inputs.seg_embed.map(wide).transpose()?,
                words(inputs.seg_q)?,
                words(inputs.seg_k)?,
            ],
            perm_mask: inputs.perm_mask.map(|x| bytes(bytemuck::cast_slice(x))).transpose()?,
            key_valid: inputs.key_valid.map(bytes).transpose()?,
            targets: words(inputs.targets)?,
        })
    }

    fn bind(&self, plan: &Plan) -> Result<Bound, Error> {
        let workspace = match plan.workspace_bytes() {
            0 => None,
            bytes => Some(DeviceBuffer::with_bytes(self.context, &[], bytes as usize)?),
        };
        fn binding(x: &Option<DeviceBuffer>) -> Option<Binding<'_>> {
            x.as_ref().map(|x| Binding::from(&x.buffer))
        }
        let [q, k, v, r, bias_u, bias_v] = self.given.each_ref().map(|x| &x.buffer);
        let [k_memory, v_memory] = self.memory.each_ref().map(binding);
        let [bias_s, seg_embed, seg_q, seg_k] = self.segments.each_ref().map(binding);
        let args = Args {
            k_memory,
            v_memory,
            bias_s,
            seg_embed,
            seg_q,
            seg_k,
            perm_mask: binding(&self.perm_mask),
            key_valid: binding(&self.key_valid),
            targets: binding(&self.targets),
            workspace: binding(&workspace),
            ..Args::new([q, k, v], r, [bias_u, bias_v], &self.out.buffer, &self.lse.buffer)
        };
        plan.bind(&args)
    }

    fn read(&self) -> Result<Output<f32>, Error> {
        let out = self.problem.span("out");
        Ok(Output {
            out: self.out.read(self.context, out, self.problem.dtype)?,
            lse: self.lse.read(self.context, self.problem.lse_len(), DType::F32)?,
        })
    }
}
