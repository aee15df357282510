//! Full attention on a WebGPU device: plan, bind, record.

use super::config::{Config, Kernel, SPLIT_LEN, Slot, select};
use super::{Full, Inputs, Output};
use crate::webgpu::{
    Access, Binding, Caps, Checked, Context, HostBuffer, Pipeline, Usage, check_aliasing,
};
use crate::{DType, Declined, Error, Strides};
use std::sync::Arc;

/// The tensors of one launch. What the problem does not use is `None`.
#[derive(Debug, Clone, Copy)]
pub struct Args<'a> {
    /// Queries, in the problem's layout and dtype.
    pub q: Binding<'a>,
    /// Keys.
    pub k: Binding<'a>,
    /// Values.
    pub v: Binding<'a>,
    /// The result.
    pub out: Binding<'a>,
    /// f32, `[batch, heads_q, seqlen_q]` (ragged: `[heads_q, total_q]`).
    pub lse: Binding<'a>,
    /// f32, `[heads_q]`.
    pub alibi_slopes: Option<Binding<'a>>,
    /// f32; see [`super::Bias`].
    pub bias: Option<Binding<'a>>,
    /// One byte a key, `[batch, seqlen_k]`, not 0 for a key that may be attended.
    pub key_valid: Option<Binding<'a>>,
    /// i32, `[batch + 1]`. The device trusts it: see [`super::Ragged`].
    pub cu_seqlens_q: Option<Binding<'a>>,
    /// i32, `[batch + 1]`.
    pub cu_seqlens_k: Option<Binding<'a>>,
    /// [`Plan::workspace_bytes`] bytes, if that is not 0. Its contents mean nothing between launches.
    pub workspace: Option<Binding<'a>>,
}

impl<'a> Args<'a> {
    /// The five tensors that every problem has.
    pub fn new(
        q: impl Into<Binding<'a>>,
        k: impl Into<Binding<'a>>,
        v: impl Into<Binding<'a>>,
        out: impl Into<Binding<'a>>,
        lse: impl Into<Binding<'a>>,
    ) -> Self {
        Args {
            q: q.into(),
            k: k.into(),
            v: v.into(),
            out: out.into(),
            lse: lse.into(),
            alibi_slopes: None,
            bias: None,
            key_valid: None,
            cu_seqlens_q: None,
            cu_seqlens_k: None,
            workspace: None,
        }
    }
}

/// The uniform block of `shaders/shared/full_bindings.wgsl`, field by field.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    workgroups: u32,
    blocks: u32,
    splits: u32,
    split_len: u32,
    heads: u32,
    first_head: u32,
    first_batch: u32,
    group: u32,
    seqlen_q: u32,
    seqlen_k: u32,
    head_dim: u32,
    bias_batch: u32,
    bias_head: u32,
    bias_base: u32,
    key_valid_base: u32,
    lse_base: u32,
    lse_batch: u32,
    lse_head: u32,
    window_left: i32,
    window_right: i32,
    scale: f32,
    softcap: f32,
    q: Steps,
    k: Steps,
    v: Steps,
    out: Steps,
    alibi_base: u32,
    partial_rows: u32,
}

/// A tensor's base and strides, in elements.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
struct Steps {
    base: u32,
    batch: u32,
    row: u32,
    head: u32,
}

/// Sequences and heads that one dispatch computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Chunk {
    batch: usize,
    batches: usize,
    head_kv: usize,
    heads_kv: usize,
}

/// A compiled problem.
#[derive(Clone)]
pub struct Plan {
    problem: Full,
    config: Config,
    context: Context,
    main: Arc<Pipeline>,
    combine: Option<Arc<Pipeline>>,
    chunks: Vec<Chunk>,
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan")
            .field("problem", &self.problem)
            .field("config", &self.config)
            .field("chunks", &self.chunks.len())
            .finish_non_exhaustive()
    }
}

/// A plan with its buffers, ready to be recorded any number of times.
pub struct Bound {
    main: Arc<Pipeline>,
    combine: Option<Arc<Pipeline>>,
    dispatches: Vec<Dispatch>,
}

impl std::fmt::Debug for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bound")
            .field("dispatches", &self.dispatches.len())
            .finish_non_exhaustive()
    }
}

struct Dispatch {
    main: wgpu::BindGroup,
    grid: [u32; 2],
    combine: Option<(wgpu::BindGroup, [u32; 2])>,
}

impl Full {
    /// Selects, expands and compiles the kernel for `context`'s device; a configuration met before
    /// comes from the cache. Drivers may compile only at the first launch.
    pub fn plan_webgpu(&self, context: &Context) -> Result<Plan, Error> {
        let config = select(self, context.caps())?;
        let chunks = chunks(self, context.caps())?;
        let (main, combine) = pipelines(context, &config)?;
        Ok(Plan {
            problem: *self,
            config,
            context: context.clone(),
            main,
            combine,
            chunks,
        })
    }

    /// The WGSL that would run on a device with `caps`, by kernel name.
    pub fn sources_webgpu(&self, caps: &Caps) -> Result<Vec<(String, String)>, Error> {
        let config = select(self, caps)?;
        let mut sources = vec![(config.kernel.name().to_owned(), config.source())];
        sources.extend(
            config
                .combine_source()
                .map(|text| ("full_combine".to_owned(), text)),
        );
        Ok(sources)
    }

    /// Uploads `inputs` as the problem's dtype, runs, waits and reads back: for tests, tools and
    /// first steps.
    pub fn run_webgpu(
        &self,
        context: &Context,
        inputs: &Inputs<'_, f32>,
    ) -> Result<Output<f32>, Error> {
        let uploaded = Uploaded::new(self, context, inputs)?;
        if let Some(bound) = uploaded.bind(&self.plan_webgpu(context)?)? {
            uploaded.launch(context, &bound)?;
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
        let started = std::time::Instant::now();
        let plan = self.plan_webgpu(context)?;
        let mut timing = Timing {
            first_ms: 0.0,
            best_ms: 0.0,
            workspace_bytes: plan.workspace_bytes(),
        };
        let Some(bound) = uploaded.bind(&plan)? else {
            return Ok(timing);
        };
        uploaded.launch(context, &bound)?;
        timing.first_ms = milliseconds(started);
        timing.best_ms = f64::INFINITY;
        for _ in 0..repeats.max(1) {
            let started = std::time::Instant::now();
            uploaded.launch(context, &bound)?;
            timing.best_ms = timing.best_ms.min(milliseconds(started));
        }
        Ok(timing)
    }
}

fn milliseconds(since: std::time::Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// What a forward pass costs; wall time from submission until the device is done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timing {
    /// Planning, compiling and the first launch, in milliseconds.
    pub first_ms: f64,
    /// The fastest of the later launches, in milliseconds.
    pub best_ms: f64,
    /// Device memory beside inputs and outputs.
    pub workspace_bytes: u64,
}

fn pipelines(
    context: &Context,
    config: &Config,
) -> Result<(Arc<Pipeline>, Option<Arc<Pipeline>>), Error> {
    let uniform = Access::Uniform(size_of::<Params>() as u64);
    let accesses = |slots: &[Slot]| -> Vec<Access> {
        let main = !slots.contains(&Slot::Out);
        let access = |slot: &Slot| match slot {
            Slot::Params => uniform,
            Slot::Out | Slot::Lse => Access::Write,
            Slot::Partial if main => Access::Write,
            _ => Access::Read,
        };
        slots.iter().map(access).collect()
    };
    let main = context.pipeline(
        (*config, "main"),
        || config.source(),
        &accesses(&config.slots()),
    )?;
    let combine = config
        .combine_source()
        .map(|source| {
            context.pipeline(
                (*config, "combine"),
                || source,
                &accesses(&config.combine_slots()),
            )
        })
        .transpose()?;
    Ok((main, combine))
}

/// Elements of each tensor that `chunk` touches, and the first of them.
fn range(problem: &Full, slot: Slot, chunk: &Chunk) -> (u64, u64) {
    let s = &problem.shape;
    let group = s.heads_q / s.heads_kv;
    let (head, heads) = (chunk.head_kv * group, chunk.heads_kv * group);
    let ragged = problem.ragged.is_some();
    let (batch, batches) = if ragged {
        (0, 1)
    } else {
        (chunk.batch, chunk.batches)
    };
    let tensor = |strides: &Strides, rows: usize, head: usize, heads: usize| {
        let span = strides
            .span(batches, rows, heads, s.head_dim)
            .unwrap_or(usize::MAX);
        (batch * strides.batch + head * strides.head, span)
    };
    let l = &problem.layout;
    let (first, len) = match slot {
        Slot::Q => tensor(&l.q, problem.rows_q(), head, heads),
        Slot::Out => tensor(&l.out, problem.rows_q(), head, heads),
        Slot::K => tensor(&l.k, problem.rows_k(), chunk.head_kv, chunk.heads_kv),
        Slot::V => tensor(&l.v, problem.rows_k(), chunk.head_kv, chunk.heads_kv),
        Slot::Lse => {
            let rows = problem.rows_q();
            (
                (batch * s.heads_q + head) * rows,
                ((batches - 1) * s.heads_q + heads) * rows,
            )
        }
        Slot::Alibi => (0, s.heads_q),
        Slot::KeyValid => (batch * s.seqlen_k, batches * s.seqlen_k),
        Slot::CuQ | Slot::CuK => (0, s.batch + 1),
        Slot::Bias => problem.bias.as_ref().map_or((0, 0), |bias| {
            let [_, all, lq, lk] = problem.bias_dims(bias);
            let (b, nb) = if bias.per_batch {
                (batch, batches)
            } else {
                (0, 1)
            };
            let (h, nh) = if bias.per_head { (head, heads) } else { (0, 1) };
            ((b * all + h) * lq * lk, ((nb - 1) * all + nh) * lq * lk)
        }),
        Slot::Partial | Slot::Params => (0, 0),
    };
    (first as u64, len as u64)
}

fn element_bytes(problem: &Full, slot: Slot) -> u64 {
    match slot {
        Slot::Q | Slot::K | Slot::V | Slot::Out => problem.dtype.bytes() as u64,
        Slot::KeyValid => 1,
        _ => 4,
    }
}

/// Cuts the problem by sequences, then by heads, until every binding is within the device's limit.
fn chunks(problem: &Full, caps: &Caps) -> Result<Vec<Chunk>, Error> {
    let s = &problem.shape;
    if s.batch == 0 || problem.rows_q() == 0 {
        return Ok(vec![]);
    }
    let whole = Chunk {
        batch: 0,
        batches: s.batch,
        head_kv: 0,
        heads_kv: s.heads_kv,
    };
    // A binding begins up to one alignment early and ends on a whole word.
    let room = caps
        .max_binding_size
        .saturating_sub(u64::from(caps.offset_alignment) + 16);
    let slots = [
        Slot::Q,
        Slot::K,
        Slot::V,
        Slot::Out,
        Slot::Lse,
        Slot::Bias,
        Slot::KeyValid,
    ];
    let largest = |chunk: &Chunk| {
        let bytes = |slot: &Slot| range(problem, *slot, chunk).1 * element_bytes(problem, *slot);
        slots
            .iter()
            .map(|slot| (bytes(slot), *slot))
            .max_by_key(|(bytes, _)| *bytes)
            .expect("some slots")
    };
    let mut size = whole;
    while largest(&size).0 > room {
        if size.batches > 1 && problem.ragged.is_none() {
            size.batches = size.batches.div_ceil(2);
        } else if size.heads_kv > 1 {
            size.heads_kv = size.heads_kv.div_ceil(2);
        } else {
            let (bytes, slot) = largest(&size);
            let reason = format!(
                "one head of one sequence spans {bytes} bytes of {}, the device binds at most {} at once",
                slot.name(),
                caps.max_binding_size
            );
            return Err(Declined::new(reason).into());
        }
    }
    let mut all = vec![];
    for batch in (0..s.batch).step_by(size.batches) {
        for head_kv in (0..s.heads_kv).step_by(size.heads_kv) {
            all.push(Chunk {
                batch,
                batches: size.batches.min(s.batch - batch),
                head_kv,
                heads_kv: size.heads_kv.min(s.heads_kv - head_kv),
            });
        }
    }
    Ok(all)
}

impl Plan {
    /// Device memory beside inputs and outputs that a launch needs; may be 0.
    pub fn workspace_bytes(&self) -> u64 {
        self.chunks
            .iter()
            .map(|c| self.partial_bytes(c))
            .max()
            .unwrap_or(0)
    }

    /// The kernel and its tile sizes, for people.
    pub fn describe(&self) -> String {
        let c = &self.config;
        let mut text = c.kernel.describe();
        let flags = [
            (c.padded, "padded"),
            (!c.vec4, "scalar loads"),
            (c.f16, "f16 type"),
        ];
        for (_, name) in flags.iter().filter(|(on, _)| *on) {
            text += ", ";
            text += name;
        }
        if self.chunks.len() > 1 {
            text += &format!(", {} dispatches", self.chunks.len());
        }
        format!("head_dim {}, {text}", c.head_dim)
    }

    /// What was selected.
    pub fn config(&self) -> &Config {
        &self.config
    }

    fn partial_rows(&self, chunk: &Chunk) -> u64 {
        let s = &self.problem.shape;
        (chunk.batches * chunk.heads_kv * (s.heads_q / s.heads_kv) * s.seqlen_q) as u64
    }

    fn splits(&self) -> usize {
        match self.config.kernel.splits() {
            true => self.problem.shape.seqlen_k.div_ceil(SPLIT_LEN).max(1),
            false => 1,
        }
    }

    fn partial_bytes(&self, chunk: &Chunk) -> u64 {
        match self.config.kernel.splits() {
            true => {
                self.splits() as u64
                    * self.partial_rows(chunk)
                    * u64::from(self.config.head_dim + 2)
                    * 4
            }
            false => 0,
        }
    }

    /// Checks `args` and prepares everything that recording needs. Allocates one uniform buffer and
    /// the bind groups; recording then allocates nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] names the tensor that is absent, too small, misaligned, without the usage
    /// `STORAGE`, or that shares its buffer with one that is written.
    pub fn bind(&self, args: &Args<'_>) -> Result<Bound, Error> {
        self.context.check_lost()?;
        let tensors = self.check(args)?;
        // A tensor that begins off a multiple of four elements takes the kernel with scalar loads.
        let vec4_bytes = 4 * self.problem.dtype.bytes() as u64;
        let off = |(slot, t): &(Slot, Checked<'_>)| {
            matches!(slot, Slot::Q | Slot::K | Slot::V | Slot::Out)
                && !t.offset.is_multiple_of(vec4_bytes)
        };
        let (mut config, mut main, mut combine) =
            (self.config, self.main.clone(), self.combine.clone());
        if config.vec4 && tensors.iter().any(off) {
            config = config.with_scalar_loads();
            (main, combine) = pipelines(&self.context, &config)?;
        }
        let dispatches = self.context.checked(|| {
            let uniform = self.uniform(&tensors, &config);
            let chunks = self.chunks.iter().enumerate();
            let dispatch = |(n, chunk)| {
                let slots = config.slots();
                Dispatch {
                    main: self.bind_group(&main, &slots, &tensors, &uniform, n, chunk),
                    grid: self.fold(self.workgroups(chunk)),
                    combine: combine.as_ref().map(|combine| {
                        let group = self.bind_group(
                            combine,
                            &config.combine_slots(),
                            &tensors,
                            &uniform,
                            n,
                            chunk,
                        );
                        let vec4s = self.partial_rows(chunk) * u64::from(config.head_dim / 4);
                        (group, self.fold(vec4s.div_ceil(64)))
                    }),
                }
            };
            chunks.map(dispatch).collect()
        })?;
        Ok(Bound {
            main,
            combine,
            dispatches,
        })
    }

    /// Every tensor of `args` by slot, checked; tensors that the problem does not use are errors.
    fn check<'a>(&self, args: &Args<'a>) -> Result<Vec<(Slot, Checked<'a>)>, Error> {
        let p = &self.problem;
        let s = &p.shape;
        let [q, k, v, out] = p.spans();
        let e = p.dtype.bytes();
        let mut tensors = vec![
            (Slot::Q, Checked::new("q", Some(args.q), q, e, Usage::Read)?),
            (Slot::K, Checked::new("k", Some(args.k), k, e, Usage::Read)?),
            (Slot::V, Checked::new("v", Some(args.v), v, e, Usage::Read)?),
            (
                Slot::Out,
                Checked::new("out", Some(args.out), out, e, Usage::Write)?,
            ),
            (
                Slot::Lse,
                Checked::new("lse", Some(args.lse), p.lse_len(), 4, Usage::Write)?,
            ),
        ];
        let bias = p
            .bias
            .as_ref()
            .map_or(0, |b| p.bias_dims(b).iter().product());
        let optional = [
            (
                Slot::Alibi,
                "alibi_slopes",
                args.alibi_slopes,
                p.alibi,
                s.heads_q,
                4,
            ),
            (Slot::Bias, "bias", args.bias, p.bias.is_some(), bias, 4),
            (
                Slot::KeyValid,
                "key_valid",
                args.key_valid,
                p.key_padding,
                s.batch * s.seqlen_k,
                1,
            ),
            (
                Slot::CuQ,
                "cu_seqlens_q",
                args.cu_seqlens_q,
                p.ragged.is_some(),
                s.batch + 1,
                4,
            ),
            (
                Slot::CuK,
                "cu_seqlens_k",
                args.cu_seqlens_k,
                p.ragged.is_some(),
                s.batch + 1,
                4,
            ),
        ];
        for (slot, name, binding, used, len, bytes) in optional {
            if used {
                tensors.push((slot, Checked::new(name, binding, len, bytes, Usage::Read)?));
            } else if binding.is_some() {
                return Err(Error::invalid(
                    name,
                    "given",
                    "the problem says that there is none",
                ));
            }
        }
        let workspace = self.workspace_bytes();
        if workspace > 0 {
            let tensor = Checked::new(
                "workspace",
                args.workspace,
                (workspace / 4) as usize,
                4,
                Usage::Write,
            )?;
            let alignment = u64::from(self.context.caps().offset_alignment);
            if !tensor.offset.is_multiple_of(alignment) {
                let rule = format!("must be a multiple of the device's {alignment} bytes");
                return Err(Error::invalid("workspace.offset", tensor.offset, rule));
            }
            tensors.push((Slot::Partial, tensor));
        }
        let all: Vec<Checked<'_>> = tensors.iter().map(|(_, t)| *t).collect();
        check_aliasing(&all)?;
        Ok(tensors)
    }

    fn workgroups(&self, chunk: &Chunk) -> u64 {
        let s = &self.problem.shape;
        let heads = chunk.heads_kv * (s.heads_q / s.heads_kv);
        (s.seqlen_q.div_ceil(self.config.kernel.block_m() as usize)
            * heads
            * chunk.batches
            * self.splits()) as u64
    }

    /// `n` workgroups as a grid of two dimensions within the device's limit.
    fn fold(&self, n: u64) -> [u32; 2] {
        let y = n
            .div_ceil(u64::from(self.context.caps().max_workgroups_per_dimension))
            .max(1);
        [n.div_ceil(y) as u32, y as u32]
    }

    fn part<'a>(
        &self,
        tensors: &[(Slot, Checked<'a>)],
        slot: Slot,
        chunk: &Chunk,
    ) -> (wgpu::BufferBinding<'a>, u32) {
        let find = |slot: Slot| {
            tensors
                .iter()
                .find(|(s, _)| *s == slot)
                .map(|(_, t)| t)
                .expect("checked")
        };
        if slot == Slot::Partial {
            return find(slot).part(&self.context, 0, self.partial_bytes(chunk) / 4, 4);
        }
        let (first, len) = range(&self.problem, slot, chunk);
        if len == 0 {
            // Never read; but a binding must not be empty, and queries there are.
            return (self.part(tensors, Slot::Q, chunk).0, 0);
        }
        find(slot).part(
            &self.context,
            first,
            len,
            element_bytes(&self.problem, slot),
        )
    }

    fn bind_group(
        &self,
        pipeline: &Pipeline,
        slots: &[Slot],
        tensors: &[(Slot, Checked<'_>)],
        uniform: &wgpu::Buffer,
        n: usize,
        chunk: &Chunk,
    ) -> wgpu::BindGroup {
        let resource = |slot: &Slot| match slot {
            Slot::Params => wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: uniform,
                offset: n as u64 * self.uniform_step(),
                size: std::num::NonZeroU64::new(size_of::<Params>() as u64),
            }),
            slot => wgpu::BindingResource::Buffer(self.part(tensors, *slot, chunk).0),
        };
        let entries: Vec<wgpu::BindGroupEntry<'_>> = (0..)
            .zip(slots)
            .map(|(binding, slot)| wgpu::BindGroupEntry {
                binding,
                resource: resource(slot),
            })
            .collect();
        self.context
            .device()
            .create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some("longhand"),
                layout: &pipeline.layout,
                entries: &entries,
            })
    }

    fn uniform_step(&self) -> u64 {
        let alignment = self
            .context
            .device()
            .limits()
            .min_uniform_buffer_offset_alignment;
        (size_of::<Params>() as u64).next_multiple_of(u64::from(alignment))
    }

    fn uniform(&self, tensors: &[(Slot, Checked<'_>)], config: &Config) -> wgpu::Buffer {
        let step = self.uniform_step();
        let buffer = self
            .context
            .device()
            .create_buffer(&wgpu::BufferDescriptor {
                label: Some("longhand params"),
                size: step * self.chunks.len().max(1) as u64,
                usage: wgpu::BufferUsages::UNIFORM,
                mapped_at_creation: true,
            });
        for (n, chunk) in self.chunks.iter().enumerate() {
            let at = n as u64 * step;
            let params = self.params(tensors, config, chunk);
            if let Ok(mut mapped) = buffer.get_mapped_range_mut(at..at + size_of::<Params>() as u64)
            {
                mapped.copy_from_slice(bytemuck::bytes_of(&params));
            }
        }
        buffer.unmap();
        buffer
    }

    fn params(&self, tensors: &[(Slot, Checked<'_>)], config: &Config, chunk: &Chunk) -> Params {
        let p = &self.problem;
        let s = &p.shape;
        let group = s.heads_q / s.heads_kv;
        let limit = |side: Option<usize>| side.map_or(1 << 30, |n| n.min(1 << 30) as i32);
        let mask = p.mask();
        // Where (batch 0, head 0) would lie: the bound part begins at the chunk's first.
        let base = |slot: Slot| {
            let (_, residual) = self.part(tensors, slot, chunk);
            residual.wrapping_sub(range(p, slot, chunk).0 as u32)
        };
        let steps = |slot: Slot, strides: &Strides| Steps {
            base: base(slot),
            batch: strides.batch as u32,
            row: strides.seqlen as u32,
            head: strides.head as u32,
        };
        let log2e = std::f64::consts::LOG2_E;
        let (scale, softcap) = match p.softcap > 0.0 {
            true => (p.softmax_scale / p.softcap, p.softcap * log2e),
            false => (p.softmax_scale * log2e, 0.0),
        };
        let bias = p.bias.as_ref().map(|bias| (bias, p.bias_dims(bias)));
        let one = |slot: Slot, given: bool| if given { base(slot) } else { 0 };
        Params {
            workgroups: self.workgroups(chunk) as u32,
            blocks: s.seqlen_q.div_ceil(config.kernel.block_m() as usize) as u32,
            splits: self.splits() as u32,
            split_len: SPLIT_LEN as u32,
            heads: (chunk.heads_kv * group) as u32,
            first_head: (chunk.head_kv * group) as u32,
            first_batch: chunk.batch as u32,
            group: group as u32,
            seqlen_q: s.seqlen_q as u32,
            seqlen_k: s.seqlen_k as u32,
            head_dim: s.head_dim as u32,
            bias_batch: bias.map_or(
                0,
                |(b, [_, h, lq, lk])| if b.per_batch { (h * lq * lk) as u32 } else { 0 },
            ),
            bias_head: bias.map_or(
                0,
                |(b, [_, _, lq, lk])| if b.per_head { (lq * lk) as u32 } else { 0 },
            ),
            bias_base: one(Slot::Bias, p.bias.is_some()),
            key_valid_base: one(Slot::KeyValid, p.key_padding),
            lse_base: base(Slot::Lse),
            lse_batch: (s.heads_q * s.seqlen_q) as u32,
            lse_head: p.rows_q() as u32,
            window_left: limit(mask.left),
            window_right: limit(mask.right),
            scale: scale as f32,
            softcap: softcap as f32,
            q: steps(Slot::Q, &p.layout.q),
            k: steps(Slot::K, &p.layout.k),
            v: steps(Slot::V, &p.layout.v),
            out: steps(Slot::Out, &p.layout.out),
            alibi_base: one(Slot::Alibi, p.alibi),
            partial_rows: self.partial_rows(chunk) as u32,
        }
    }
}

impl Bound {
    /// Records the launch into `encoder`, in a compute pass of its own. Allocates nothing, waits
    /// for nothing.
    pub fn record(&self, encoder: &mut wgpu::CommandEncoder) {
        if self.dispatches.is_empty() {
            return;
        }
        let descriptor = wgpu::ComputePassDescriptor {
            label: Some("longhand full forward"),
            timestamp_writes: None,
        };
        self.record_in(&mut encoder.begin_compute_pass(&descriptor));
    }

    /// Records the launch into a compute pass of yours. Changes its pipeline and bind group 0.
    pub fn record_in(&self, pass: &mut wgpu::ComputePass<'_>) {
        for dispatch in &self.dispatches {
            let [x, y] = dispatch.grid;
            pass.set_pipeline(&self.main.pipeline);
            pass.set_bind_group(0, &dispatch.main, &[]);
            pass.dispatch_workgroups(x, y, 1);
            if let (Some(combine), Some((group, [x, y]))) = (&self.combine, &dispatch.combine) {
                pass.set_pipeline(&combine.pipeline);
                pass.set_bind_group(0, group, &[]);
                pass.dispatch_workgroups(*x, *y, 1);
            }
        }
    }
}

/// A problem's tensors in buffers of their own.
struct Uploaded<'a> {
    problem: Full,
    context: &'a Context,
    q: HostBuffer,
    k: HostBuffer,
    v: HostBuffer,
    out: HostBuffer,
    lse: HostBuffer,
    alibi_slopes: Option<HostBuffer>,
    bias: Option<HostBuffer>,
    key_valid: Option<HostBuffer>,
    cu_seqlens_q: Option<HostBuffer>,
    cu_seqlens_k: Option<HostBuffer>,
}

impl<'a> Uploaded<'a> {
    fn new(problem: &Full, context: &'a Context, inputs: &Inputs<'_, f32>) -> Result<Self, Error> {
        problem.validate_inputs(inputs)?;
        let floats = |x: &[f32], dtype| HostBuffer::floats(context, x, dtype);
        let words = |x: Option<&[i32]>| {
            x.map(|x| HostBuffer::with_bytes(context, bytemuck::cast_slice(x), 0))
                .transpose()
        };
        let empty =
            |len: usize, dtype: DType| HostBuffer::with_bytes(context, &[], len * dtype.bytes());
        Ok(Uploaded {
            problem: *problem,
            context,
            q: floats(inputs.q, problem.dtype)?,
            k: floats(inputs.k, problem.dtype)?,
            v: floats(inputs.v, problem.dtype)?,
            out: empty(problem.spans()[3], problem.dtype)?,
            lse: empty(problem.lse_len(), DType::F32)?,
            alibi_slopes: inputs
                .alibi_slopes
                .map(|x| floats(x, DType::F32))
                .transpose()?,
            bias: inputs.bias.map(|x| floats(x, DType::F32)).transpose()?,
            key_valid: inputs
                .key_valid
                .map(|x| HostBuffer::with_bytes(context, x, 0))
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
            bytes => Some(HostBuffer::with_bytes(self.context, &[], bytes as usize)?),
        };
        let binding = |x: &'_ Option<HostBuffer>| x.as_ref().map(|x| x.buffer.clone());
        let optional = [
            &self.alibi_slopes,
            &self.bias,
            &self.key_valid,
            &self.cu_seqlens_q,
            &self.cu_seqlens_k,
            &workspace,
        ]
        .map(binding);
        let [
            alibi_slopes,
            bias,
            key_valid,
            cu_seqlens_q,
            cu_seqlens_k,
            workspace,
        ] = optional.each_ref().map(|x| x.as_ref().map(Binding::from));
        let args = Args {
            alibi_slopes,
            bias,
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

    fn launch(&self, context: &Context, bound: &Bound) -> Result<(), Error> {
        let mut encoder = context.device().create_command_encoder(&Default::default());
        bound.record(&mut encoder);
        context.submit(encoder)?;
        context.wait()
    }

    fn read(&self) -> Result<Output<f32>, Error> {
        Ok(Output {
            out: self
                .out
                .read(self.context, self.problem.spans()[3], self.problem.dtype)?,
            lse: self
                .lse
                .read(self.context, self.problem.lse_len(), DType::F32)?,
        })
    }
}

impl Kernel {
    fn name(&self) -> &'static str {
        match self {
            Kernel::Tile { .. } => "full_forward_tile",
        }
    }

    fn describe(&self) -> String {
        match self {
            Kernel::Tile {
                block_m,
                tc,
                stage_f16,
                subgroups,
                split,
                ..
            } => format!(
                "tile {block_m}x{}{}{}{}",
                4 * tc,
                if *stage_f16 { ", f16 staging" } else { "" },
                if *subgroups { ", subgroups" } else { "" },
                if *split { ", split keys" } else { "" },
            ),
        }
    }
}
