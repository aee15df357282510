//! Longformer's attention on a WebGPU device: plan, bind, record.

mod args;
mod host;
mod params;

pub use crate::timing::Timing;
pub use crate::webgpu::Bound;
pub use args::Args;

use super::Longformer;
use super::config::{Config, Kernel, Slot, Stage, select};
use crate::Error;
use crate::webgpu::{Access, Caps, Checked, Context, Dispatch, Pipeline, PipelineKey, Uniforms};
use params::Params;
use std::ops::Range;
use std::sync::Arc;

/// The checked tensors of a launch.
type Tensors<'a> = [(Slot, Checked<'a>)];
type Pipelines = Vec<(Stage, Arc<Pipeline>)>;

/// A compiled problem.
#[derive(Clone)]
pub struct Plan {
    problem: Longformer,
    config: Config,
    context: Context,
    pipelines: Pipelines,
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan")
            .field("problem", &self.problem)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// One dispatch of a launch.
struct Step {
    stage: Stage,
    /// The (batch, head) pairs it works for.
    locals: Range<usize>,
}

/// What `bind` makes beside the bind groups.
struct Made {
    /// The params of every stage.
    uniforms: Uniforms,
    /// The textures of [`Kernel::Rows`].
    textures: Vec<(Slot, wgpu::TextureView)>,
    /// The heads' dilations, if they are not all 1.
    dilation: Option<wgpu::Buffer>,
}

impl Longformer {
    /// Selects, expands and compiles the kernels for `context`'s device; a configuration met before
    /// comes from the cache. Drivers may compile only at the first launch.
    pub fn plan_webgpu(&self, context: &Context) -> Result<Plan, Error> {
        context.check_lost()?;
        let config = select(self, context.caps())?;
        let pipelines = pipelines(context, &config)?;
        let plan = Plan { problem: self.clone(), config, context: context.clone(), pipelines };
        for step in plan.steps(&config) {
            context.caps().dispatches(plan.workgroups(&step))?;
        }
        Ok(plan)
    }

    /// The WGSL that would run on a device with `caps`, by kernel name, in the order of launch.
    pub fn sources_webgpu(&self, caps: &Caps) -> Result<Vec<(String, String)>, Error> {
        let config = select(self, caps)?;
        let source = |stage| (config.name(stage).to_owned(), config.source(stage));
        Ok(config.stages().into_iter().map(source).collect())
    }
}

fn pipelines(context: &Context, config: &Config) -> Result<Pipelines, Error> {
    let build = |stage: Stage| {
        let accesses: Vec<Access> =
            config.slots(stage).into_iter().map(|slot| access(slot, stage)).collect();
        let key = PipelineKey::Longformer(config.of_stage(stage), stage);
        Ok((stage, context.pipeline(key, || config.source(stage), &accesses)?))
    };
    config.stages().into_iter().map(build).collect()
}

fn access(slot: Slot, stage: Stage) -> Access {
    match (slot, stage.writes(slot)) {
        (Slot::Params, _) => Access::Uniform(size_of::<Params>() as u64),
        (slot, true) if slot.is_texture() => Access::WriteTexture(texture_format(slot)),
        (slot, false) if slot.is_texture() => Access::ReadTexture(texture_format(slot)),
        (_, true) => Access::Write,
        (_, false) => Access::Read,
    }
}

fn texture_format(slot: Slot) -> wgpu::TextureFormat {
    match slot {
        Slot::MarkTexels => wgpu::TextureFormat::R32Uint,
        _ => wgpu::TextureFormat::Rgba32Float,
    }
}

impl Plan {
    /// Device memory beside inputs and outputs that a launch needs; may be 0.
    pub fn workspace_bytes(&self) -> u64 {
        match self.partial_bytes() {
            0 => self.problem.marks_bytes(),
            bytes => self.partial_offset() + bytes,
        }
    }

    /// Bytes of the textures that [`bind`](Self::bind) makes (on CPU adapters only).
    pub fn owned_bytes(&self) -> u64 {
        let bytes = |(slot, [width, height]): (Slot, [u32; 2])| {
            let texel = if slot == Slot::MarkTexels { 4 } else { 16 };
            u64::from(width) * u64::from(height) * texel
        };
        self.texture_sizes().into_iter().map(bytes).sum()
    }

    /// The kernels and their tile sizes, for people.
    pub fn describe(&self) -> String {
        let c = &self.config;
        let mut text = c.local.describe();
        if c.globals {
            text += &format!("; global rows: {}", c.global.describe());
        }
        let flags = [(c.padded, "padded"), (!c.vec4, "scalar loads"), (c.f16, "f16 type")];
        for (_, name) in flags.iter().filter(|(on, _)| *on) {
            text += ", ";
            text += name;
        }
        format!("head_dim {}, {text}", c.head_dim)
    }

    /// What was selected.
    pub fn config(&self) -> &Config {
        &self.config
    }

    fn is_empty(&self) -> bool {
        self.problem.batch == 0 || self.problem.seqlen == 0
    }

    /// Where the parts begin in the workspace; every device aligns bindings to 256 or less.
    fn partial_offset(&self) -> u64 {
        self.problem.marks_bytes().next_multiple_of(256)
    }

    fn partial_bytes(&self) -> u64 {
        match self.is_empty() {
            true => 0,
            false => self.problem.partial_bytes(self.config.head_dim),
        }
    }

    /// Checks `args` and prepares everything that recording needs: one uniform buffer, the bind
    /// groups, the heads' dilations and [`owned_bytes`](Self::owned_bytes) of textures. Recording
    /// then allocates nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] names the tensor that is absent, too small, misaligned, without the usage
    /// `STORAGE`, or that shares its buffer with one that is written.
    pub fn bind(&self, args: &Args<'_>) -> Result<Bound, Error> {
        self.context.check_lost()?;
        let tensors = self.check(args)?;
        // A tensor that begins off a multiple of four elements takes the kernels with scalar loads.
        let vec4_bytes = 4 * self.problem.dtype.bytes() as u64;
        let off = |(slot, t): &(Slot, Checked<'_>)| {
            args::is_large(*slot) && !t.offset.is_multiple_of(vec4_bytes)
        };
        let (mut config, mut compiled) = (self.config, self.pipelines.clone());
        if config.vec4 && tensors.iter().any(off) {
            config = config.with_scalar_loads();
            compiled = pipelines(&self.context, &config)?;
        }
        if self.is_empty() {
            return Ok(Bound::new("longhand longformer forward", vec![]));
        }
        let dispatches = self.context.checked(|| {
            let steps = self.steps(&config);
            let params: Vec<Params> =
                steps.iter().map(|step| self.params(&tensors, step)).collect();
            let made = Made {
                uniforms: Uniforms::new(&self.context, &params),
                textures: self.textures(),
                dilation: config.dilated.then(|| self.dilation_buffer()),
            };
            let dispatch = |(n, step): (usize, &Step)| {
                let slots = config.slots(step.stage);
                let found = compiled.iter().find(|(stage, _)| *stage == step.stage);
                let (_, pipeline) = found.expect("compiled for these stages");
                let resource = |slot: &Slot| self.resource(*slot, &tensors, &made, n);
                Dispatch {
                    bind_group: self
                        .context
                        .bind_group(pipeline, slots.iter().map(resource).collect()),
                    grid: self.context.fold(self.workgroups(step)),
                    pipeline: pipeline.clone(),
                }
            };
            steps.iter().enumerate().map(dispatch).collect()
        })?;
        Ok(Bound::new("longhand longformer forward", dispatches))
    }

    fn textures(&self) -> Vec<(Slot, wgpu::TextureView)> {
        let make = |(slot, size)| (slot, self.context.texels(size, texture_format(slot)));
        self.texture_sizes().into_iter().map(make).collect()
    }

    fn texture_sizes(&self) -> Vec<(Slot, [u32; 2])> {
        let Kernel::Rows { .. } = self.config.local else { return vec![] };
        if self.is_empty() {
            return vec![];
        }
        let head_dim = self.config.head_dim;
        let size = |slot: &Slot| {
            let rows = self.problem.texel_rows(*slot);
            (*slot, self.config.local.texture_size(head_dim, slot.texels(), rows))
        };
        self.config.slots(Stage::Pack).iter().filter(|s| s.is_texture()).map(size).collect()
    }

    fn dilation_buffer(&self) -> wgpu::Buffer {
        let p = &self.problem;
        let gaps: Vec<u32> = (0..p.heads).map(|h| self.gap(h) as u32).collect();
        self.context.words("longhand dilations", &gaps)
    }

    /// A head's dilation; beyond the sequence all are alike.
    fn gap(&self, h: usize) -> usize {
        self.problem.dilation_of(h).min(self.problem.seqlen).max(1)
    }

    /// Blocks of rows of the head that has most.
    fn blocks(&self, stage: Stage) -> usize {
        if stage.is_global() {
            return self.problem.max_globals.div_ceil(self.config.global.block_m() as usize);
        }
        let of_head = |h: usize| {
            let gap = self.gap(h);
            let class = self.problem.seqlen.div_ceil(gap);
            gap * class.div_ceil(self.config.local.block_m() as usize)
        };
        (0..self.problem.heads).map(of_head).max().unwrap_or(0)
    }

    /// The dispatches in order. Where K and V are copied, some heads go all the way before the next
    /// ones take their place in the texture.
    fn steps(&self, config: &Config) -> Vec<Step> {
        if self.is_empty() {
            return vec![];
        }
        let all = 0..self.problem.batch * self.problem.heads;
        let len = match config.local {
            Kernel::Rows { .. } => self.problem.packed_heads(),
            Kernel::Tile { .. } => all.len().max(1),
        };
        let stages = config.stages();
        let whole = |stage: Stage| matches!(stage, Stage::Prepare | Stage::Combine);
        let once = |stage: Stage| {
            let found = stages.contains(&stage);
            found.then(|| Step { stage, locals: all.clone() })
        };
        let parts = all.clone().step_by(len).flat_map(|first| {
            let locals = first..(first + len).min(all.end);
            let inner = stages.iter().filter(|stage| !whole(**stage));
            inner.map(move |&stage| Step { stage, locals: locals.clone() })
        });
        once(Stage::Prepare).into_iter().chain(parts).chain(once(Stage::Combine)).collect()
    }

    fn workgroups(&self, step: &Step) -> u64 {
        let p = &self.problem;
        let stage = step.stage;
        let d = u64::from(self.config.head_dim);
        let n = step.locals.len() as u64;
        match stage {
            Stage::Prepare => p.batch as u64,
            // An invocation a row and, with the first heads, a mark.
            Stage::Pack | Stage::PackGlobal => {
                let slots = self.config.slots(stage);
                let with_marks = step.locals.start == 0 && slots.contains(&Slot::MarkTexels);
                let marks = if with_marks { p.texel_rows(Slot::MarkTexels) } else { 0 };
                (n * p.seqlen as u64).max(marks).div_ceil(64)
            }
            Stage::Local => self.blocks(stage) as u64 * n,
            Stage::Global => (self.blocks(stage) * p.splits().0) as u64 * n,
            Stage::Combine => (n * p.max_globals as u64 * d / 4).div_ceil(64),
        }
    }

    /// The part of the buffer that `slot` lies in, and the element of it at which the tensor begins.
    fn part<'a>(&self, tensors: &Tensors<'a>, slot: Slot) -> (wgpu::BufferBinding<'a>, u32) {
        let find =
            |slot: Slot| tensors.iter().find(|(s, _)| *s == slot).map(|(_, t)| t).expect("checked");
        match slot {
            Slot::Marks => find(slot).part(&self.context, 0, self.problem.marks_bytes() / 4, 4),
            Slot::Partial => {
                let (first, len) = (self.partial_offset() / 4, self.partial_bytes() / 4);
                find(Slot::Marks).part(&self.context, first, len, 4)
            }
            slot => {
                let (elements, bytes) = args::size(&self.problem, slot);
                find(slot).part(&self.context, 0, elements as u64, bytes as u64)
            }
        }
    }

    fn resource<'a>(
        &self,
        slot: Slot,
        tensors: &Tensors<'a>,
        made: &'a Made,
        n: usize,
    ) -> wgpu::BindingResource<'a> {
        match slot {
            Slot::Params => made.uniforms.block(n),
            Slot::Dilation => {
                made.dilation.as_ref().expect("made where a kernel binds it").as_entire_binding()
            }
            slot if slot.is_texture() => {
                let found = made.textures.iter().find(|(s, _)| *s == slot);
                wgpu::BindingResource::TextureView(
                    found.map(|(_, view)| view).expect("made for this plan"),
                )
            }
            slot => wgpu::BindingResource::Buffer(self.part(tensors, slot).0),
        }
    }
}
