//! From host tensors to host results: for tests, tools and first steps.

use super::{Args, Plan};
use crate::cuda::{Context, DeviceBuffer, DeviceTimer, Stream};
use crate::longformer::{Inputs, Longformer, Output};
use crate::timing::{Timing, milliseconds};
use crate::{DType, Error};
use std::time::Instant;

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
        let timer = DeviceTimer::new(context)?;
        let started = Instant::now();
        let plan = self.plan_cuda(context)?;
        let workspace = DeviceBuffer::new(context, plan.workspace_bytes() as usize)?;
        uploaded.launch(&plan, &stream, &workspace)?;
        stream.wait()?;
        let mut timing = Timing {
            first_ms: milliseconds(started.elapsed()),
            best_ms: f64::INFINITY,
            workspace_bytes: plan.workspace_bytes(),
            clock: timer.clock(),
        };
        for _ in 0..repeats.max(1) {
            let took = timer.time(&stream, |stream| uploaded.launch(&plan, stream, &workspace))?;
            timing.best_ms = timing.best_ms.min(milliseconds(took));
        }
        Ok(timing)
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
        // Gaps between the result's rows stay 0.
        let zeros = |len: usize, dtype: DType| {
            let buffer = DeviceBuffer::new(context, len * dtype.bytes())?;
            buffer.fill(stream, 0)?;
            Ok::<_, Error>(buffer)
        };
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
        let floats = |buffer: &DeviceBuffer, len: usize, dtype: DType| {
            let mut bytes = vec![0; len * dtype.bytes()];
            buffer.read(stream, &mut bytes)?;
            Ok::<_, Error>(dtype.decode(&bytes))
        };
        Ok(Output {
            out: floats(&self.out, problem.span(&problem.layout.out), problem.dtype)?,
            lse: floats(&self.lse, problem.lse_len(), DType::F32)?,
        })
    }
}
