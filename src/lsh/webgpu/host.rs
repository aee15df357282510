//! From host tensors to host results: for tests, tools and first steps.

use super::{Args, Bound, Plan};
use crate::lsh::{Inputs, Lsh, Output};
use crate::timing::Timing;
use crate::webgpu::{Binding, Context, DeviceBuffer};
use crate::{DType, Error};

impl Lsh {
    /// Uploads `inputs` as the problem's dtype, runs, waits and reads back: for tests, tools and
    /// first steps.
    pub fn run_webgpu(
        &self,
        context: &Context,
        inputs: &Inputs<'_, f32>,
    ) -> Result<Output<f32>, Error> {
        let uploaded = Uploaded::new(self, context, inputs)?;
        let plan = self.plan_webgpu(context)?;
        let (bound, workspace) = uploaded.bind(&plan)?;
        context.launch(&bound)?;
        uploaded.read(&plan, workspace)
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
            let bound = if plan.is_empty() { None } else { Some(uploaded.bind(&plan)?.0) };
            Ok((bound, workspace))
        };
        context.time_launches(plan, repeats)
    }
}

/// A problem's tensors in buffers of their own.
pub(super) struct Uploaded<'a> {
    problem: &'a Lsh,
    context: &'a Context,
    qk: DeviceBuffer,
    v: DeviceBuffer,
    rotations: Option<DeviceBuffer>,
    buckets: Option<DeviceBuffer>,
    key_valid: Option<DeviceBuffer>,
    out: DeviceBuffer,
    lse: DeviceBuffer,
    lse_rounds: Option<DeviceBuffer>,
}

impl<'a> Uploaded<'a> {
    pub(super) fn new(
        problem: &'a Lsh,
        context: &'a Context,
        inputs: &Inputs<'_, f32>,
    ) -> Result<Self, Error> {
        problem.validate_inputs(inputs)?;
        let bytes = |data: &[u8], bytes: usize| DeviceBuffer::with_bytes(context, data, bytes);
        let floats = |x: &[f32]| DeviceBuffer::floats(context, x, problem.dtype);
        // Given ones with invalid positions where they are sorted to, as the result has them.
        let buckets = inputs.buckets.map(|given| problem.with_invalid(given, inputs.key_valid));
        let buckets = buckets.as_deref().map_or(&[][..], bytemuck::cast_slice);
        let sorted = problem.is_sorted();
        let optional = |on: bool, data: &[u8], len: usize| match on {
            true => bytes(data, len).map(Some),
            false => Ok(None),
        };
        Ok(Uploaded {
            problem,
            context,
            qk: floats(inputs.qk)?,
            v: floats(inputs.v)?,
            rotations: inputs
                .rotations
                .map(|x| DeviceBuffer::floats(context, x, DType::F32))
                .transpose()?,
            buckets: optional(sorted, buckets, problem.buckets_len() * 4)?,
            key_valid: inputs.key_valid.map(|x| bytes(x, 0)).transpose()?,
            out: bytes(&[], problem.span(&problem.layout.out) * problem.dtype.bytes())?,
            lse: bytes(&[], problem.lse_len() * 4)?,
            lse_rounds: optional(sorted, &[], problem.lse_rounds_len() * 4)?,
        })
    }

    /// With the workspace, which holds the order after a launch.
    pub(super) fn bind(&self, plan: &Plan) -> Result<(Bound, Option<DeviceBuffer>), Error> {
        let workspace = match plan.workspace_bytes() {
            0 => None,
            bytes => Some(DeviceBuffer::with_bytes(self.context, &[], bytes as usize)?),
        };
        fn binding(x: &Option<DeviceBuffer>) -> Option<Binding<'_>> {
            x.as_ref().map(|x| Binding::from(&x.buffer))
        }
        let args = Args {
            rotations: binding(&self.rotations),
            buckets: binding(&self.buckets),
            key_valid: binding(&self.key_valid),
            lse_rounds: binding(&self.lse_rounds),
            workspace: binding(&workspace),
            ..Args::new(&self.qk.buffer, &self.v.buffer, &self.out.buffer, &self.lse.buffer)
        };
        let bound = plan.bind(&args)?;
        Ok((bound, workspace))
    }

    fn read(&self, plan: &Plan, workspace: Option<DeviceBuffer>) -> Result<Output<f32>, Error> {
        let p = self.problem;
        let lse = self.lse.read(self.context, p.lse_len(), DType::F32)?;
        let words = |bytes: &[u8]| -> Vec<i32> { bytemuck::pod_collect_to_vec(bytes) };
        Ok(Output {
            out: self.out.read(self.context, p.span(&p.layout.out), p.dtype)?,
            lse_rounds: match &self.lse_rounds {
                Some(x) => x.read(self.context, p.lse_rounds_len(), DType::F32)?,
                None => lse.clone(),
            },
            lse,
            buckets: match &self.buckets {
                Some(x) => words(&x.read_bytes(self.context)?[..p.buckets_len() * 4]),
                None => vec![],
            },
            order: match (workspace, plan.order()) {
                (Some(x), Some(range)) => {
                    let bytes = x.read_bytes(self.context)?;
                    words(&bytes[range.start as usize..range.end as usize])
                }
                _ => vec![],
            },
        })
    }
}

impl Lsh {
    /// `buckets`, those of invalid positions the last.
    fn with_invalid(&self, buckets: &[i32], key_valid: Option<&[u8]>) -> Vec<i32> {
        let of_batch = self.heads * self.num_hashes * self.seqlen;
        let valid = |n: usize| {
            key_valid.is_none_or(|x| x[n / of_batch * self.seqlen + n % self.seqlen] != 0)
        };
        let last = self.buckets() as i32;
        let bucket = |(n, &x): (usize, &i32)| if valid(n) { x } else { last };
        buckets.iter().enumerate().map(bucket).collect()
    }
}
