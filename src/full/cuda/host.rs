//! From host tensors to host results: for tests, tools and first steps.

use super::{Args, Plan};
use crate::cuda::{Context, DeviceBuffer, DeviceTimer, Stream};
use crate::full::{Full, Inputs, Output};
use crate::timing::{Timing, milliseconds};
use crate::{DType, Error};
use std::time::Instant;

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
    problem: Full,
    q: DeviceBuffer,
    k: DeviceBuffer,
    v: DeviceBuffer,
    out: DeviceBuffer,
    lse: DeviceBuffer,
    alibi_slopes: Option<DeviceBuffer>,
    bias: Option<DeviceBuffer>,
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
        // Gaps between the result's rows stay 0.
        let zeros = |len: usize, dtype: DType| {
            let buffer = DeviceBuffer::new(context, len * dtype.bytes())?;
            buffer.fill(stream, 0)?;
            Ok::<_, Error>(buffer)
        };
        Ok(Uploaded {
            problem: *problem,
            q: floats(inputs.q, problem.dtype)?,
            k: floats(inputs.k, problem.dtype)?,
            v: floats(inputs.v, problem.dtype)?,
            out: zeros(problem.spans()[3], problem.dtype)?,
            lse: zeros(problem.lse_len(), DType::F32)?,
            alibi_slopes: inputs.alibi_slopes.map(|x| floats(x, DType::F32)).transpose()?,
            bias: inputs.bias.map(|x| floats(x, DType::F32)).transpose()?,
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
        let floats = |buffer: &DeviceBuffer, len: usize, dtype: DType| {
            let mut bytes = vec![0; len * dtype.bytes()];
            buffer.read(stream, &mut bytes)?;
            Ok::<_, Error>(dtype.decode(&bytes))
        };
        Ok(Output {
            out: floats(&self.out, self.problem.spans()[3], self.problem.dtype)?,
            lse: floats(&self.lse, self.problem.lse_len(), DType::F32)?,
        })
    }
}
