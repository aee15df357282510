//! From host tensors to host results: for tests, tools and first steps.

use super::{Args, Bound, Plan};
use crate::longformer::{Inputs, Longformer, Output};
use crate::timing::Timing;
use crate::webgpu::{Binding, Context, DeviceBuffer};
use crate::{DType, Error};

impl Longformer {
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
    problem: &'a Longformer,
    context: &'a Context,
    q: DeviceBuffer,
    k: DeviceBuffer,
    v: DeviceBuffer,
    out: DeviceBuffer,
    lse: DeviceBuffer,
    global: [Option<DeviceBuffer>; 3],
    global_indices: Option<DeviceBuffer>,
    key_valid: Option<DeviceBuffer>,
}

impl<'a> Uploaded<'a> {
    fn new(
        problem: &'a Longformer,
        context: &'a Context,
        inputs: &Inputs<'_, f32>,
    ) -> Result<Self, Error> {
        problem.validate_inputs(inputs)?;
        let floats = |x: &[f32]| DeviceBuffer::floats(context, x, problem.dtype);
        let optional = |x: Option<&[f32]>| x.map(floats).transpose();
        let bytes =
            |x: Option<&[u8]>| x.map(|x| DeviceBuffer::with_bytes(context, x, 0)).transpose();
        let empty =
            |len: usize, dtype: DType| DeviceBuffer::with_bytes(context, &[], len * dtype.bytes());
        Ok(Uploaded {
            problem,
            context,
            q: floats(inputs.q)?,
            k: floats(inputs.k)?,
            v: floats(inputs.v)?,
            out: empty(problem.span(&problem.layout.out), problem.dtype)?,
            lse: empty(problem.lse_len(), DType::F32)?,
            global: [
                optional(inputs.q_global)?,
                optional(inputs.k_global)?,
                optional(inputs.v_global)?,
            ],
            global_indices: bytes(inputs.global_indices.map(bytemuck::cast_slice))?,
            key_valid: bytes(inputs.key_valid)?,
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
        let [q_global, k_global, v_global] = self.global.each_ref().map(binding);
        let args = Args {
            q_global,
            k_global,
            v_global,
            global_indices: binding(&self.global_indices),
            key_valid: binding(&self.key_valid),
            workspace: binding(&workspace),
            ..Args::new(
                &self.q.buffer,
                &self.k.buffer,
                &self.v.buffer,
                &self.out.buffer,
                &self.lse.buffer,
            )
        };
        plan.bind(&args)
    }

    fn read(&self) -> Result<Output<f32>, Error> {
        let out = self.problem.span(&self.problem.layout.out);
        Ok(Output {
            out: self.out.read(self.context, out, self.problem.dtype)?,
            lse: self.lse.read(self.context, self.problem.lse_len(), DType::F32)?,
        })
    }
}
