//! From host tensors to host results: for tests, tools and first steps.

use super::{Args, Bound, Plan};
use crate::full::{Full, Inputs, Output};
use crate::timing::Timing;
use crate::webgpu::{Binding, Context, DeviceBuffer};
use crate::{DType, Error};

impl Full {
    /// Uploads `inputs` as the problem's dtype, runs, waits and reads back: for tests, tools and
    /// first steps.
    pub fn run_webgpu(
        &self,
        context: &Context,
        inputs: &Inputs<'_, f32>,
    ) -> Result<Output<f32>, Error> {
        let uploaded = Uploaded::new(self, context, inputs)?;
        if let Some(bound) = uploaded.bind(&self.plan_webgpu(context)?)? {
            context.launch(&bound)?;
        }
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
            Ok((uploaded.bind(&plan)?, plan.workspace_bytes() + plan.owned_bytes()))
        };
        context.time_launches(plan, repeats)
    }
}

/// A problem's tensors in buffers of their own.
struct Uploaded<'a> {
    problem: Full,
    context: &'a Context,
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

impl<'a> Uploaded<'a> {
    fn new(problem: &Full, context: &'a Context, inputs: &Inputs<'_, f32>) -> Result<Self, Error> {
        problem.validate_inputs(inputs)?;
        let floats = |x: &[f32], dtype| DeviceBuffer::floats(context, x, dtype);
        let words = |x: Option<&[i32]>| {
            x.map(|x| DeviceBuffer::with_bytes(context, bytemuck::cast_slice(x), 0)).transpose()
        };
        let empty =
            |len: usize, dtype: DType| DeviceBuffer::with_bytes(context, &[], len * dtype.bytes());
        Ok(Uploaded {
            problem: *problem,
            context,
            q: floats(inputs.q, problem.dtype)?,
            k: floats(inputs.k, problem.dtype)?,
            v: floats(inputs.v, problem.dtype)?,
            out: empty(problem.spans()[3], problem.dtype)?,
            lse: empty(problem.lse_len(), DType::F32)?,
            alibi_slopes: inputs.alibi_slopes.map(|x| floats(x, DType::F32)).transpose()?,
            bias: inputs.bias.map(|x| floats(x, DType::F32)).transpose()?,
            bias_table: inputs.bias_table.map(|x| floats(x, DType::F32)).transpose()?,
            key_valid: inputs
                .key_valid
                .map(|x| DeviceBuffer::with_bytes(context, x, 0))
                .transpose()?,
            cu_seqlens_q: words(inputs.cu_seqlens_q)?,
            cu_seqlens_k: words(inputs.cu_seqlens_k)?,
        })
    }

    /// `None` if the result has no elements.
    fn bind(&self, plan: &Plan) -> Result<Option<Bound>, Error> {
        if plan.chunks.is_empty() {
            return Ok(None);
        }
        let workspace = match plan.workspace_bytes() {
            0 => None,
            bytes => Some(DeviceBuffer::with_bytes(self.context, &[], bytes as usize)?),
        };
        let binding = |x: &'_ Option<DeviceBuffer>| x.as_ref().map(|x| x.buffer.clone());
        let optional = [
            &self.alibi_slopes,
            &self.bias,
            &self.bias_table,
            &self.key_valid,
            &self.cu_seqlens_q,
            &self.cu_seqlens_k,
            &workspace,
        ]
        .map(binding);
        let [alibi_slopes, bias, bias_table, key_valid, cu_seqlens_q, cu_seqlens_k, workspace] =
            optional.each_ref().map(|x| x.as_ref().map(Binding::from));
        let args = Args {
            alibi_slopes,
            bias,
            bias_table,
            key_valid,
            cu_seqlens_q,
            cu_seqlens_k,
            workspace,
            ..Args::new(
                &self.q.buffer,
                &self.k.buffer,
                &self.v.buffer,
                &self.out.buffer,
                &self.lse.buffer,
            )
        };
        plan.bind(&args).map(Some)
    }

    fn read(&self) -> Result<Output<f32>, Error> {
        Ok(Output {
            out: self.out.read(self.context, self.problem.spans()[3], self.problem.dtype)?,
            lse: self.lse.read(self.context, self.problem.lse_len(), DType::F32)?,
        })
    }
}
