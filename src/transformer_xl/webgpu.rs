//! Relative-position attention on a WebGPU device: plan, bind, record.

mod args;
mod host;
mod params;

pub use crate::timing::Timing;
pub use crate::webgpu::Bound;
pub use args::Args;

use super::TransformerXl;
use super::config::{Config, Slot, Stage, select};
use crate::Error;
use crate::full::config::{SPLIT_LEN, texels_of_row};
use crate::webgpu::{Access, Caps, Checked, Context, Dispatch, Pipeline, PipelineKey, Uniforms};
use params::Params;
use std::sync::Arc;

/// The checked tensors of a launch.
type Tensors<'a> = [(Slot, Checked<'a>)];
type Pipelines = Vec<(Stage, Arc<Pipeline>)>;

/// A compiled problem.
#[derive(Clone)]
pub struct Plan {
    problem: TransformerXl,
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

/// What `bind` makes beside the bind groups.
struct Made {
    /// The params of every stage.
    uniforms: Uniforms,
    /// The textures of the kernel for CPU adapters.
    textures: Vec<(Slot, wgpu::TextureView)>,
}

impl TransformerXl {
    /// Selects, expands and compiles the kernels for `context`'s device; a configuration met before
    /// comes from the cache. Drivers may compile only at the first launch.
    ///
    /// # Errors
    ///
    /// [`Error::Declined`] for what is beyond the device's limits.
    pub fn plan_webgpu(&self, context: &Context) -> Result<Plan, Error> {
        context.check_lost()?;
        let config = select(self, context.caps())?;
        let pipelines = pipelines(context, &config)?;
        let plan = Plan { problem: *self, config, context: context.clone(), pipelines };
        for stage in config.stages() {
            context.caps().dispatches(plan.workgroups(stage))?;
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
            config.slots(stage).into_iter().map(|slot| access(slot, stage, config)).collect();
        let key = PipelineKey::TransformerXl(config.of_stage(stage), stage);
        Ok((stage, context.pipeline(key, || config.source(stage), &accesses)?))
    };
    config.stages().into_iter().map(build).collect()
}

fn access(slot: Slot, stage: Stage, config: &Config) -> Access {
    match (slot, stage.writes(slot, config)) {
        (Slot::Params, _) => Access::Uniform(size_of::<Params>() as u64),
        (slot, true) if slot.is_texture() => Access::WriteTexture(texture_format(slot)),
        (slot, false) if slot.is_texture() => Access::ReadTexture(texture_format(slot)),
        (_, true) => Access::Write,
        (_, false) => Access::Read,
    }
}

fn texture_format(slot: Slot) -> wgpu::TextureFormat {
    match slot {
        Slot::WordTexels => wgpu::TextureFormat::R32Uint,
        _ => wgpu::TextureFormat::Rgba32Float,
    }
}

impl Plan {
    /// Device memory beside inputs and outputs that a launch needs; may be 0.
    pub fn workspace_bytes(&self) -> u64 {
        match (self.is_empty(), self.partial_bytes()) {
            (true, _) => 0,
            (false, 0) => self.words_bytes(),
            (false, bytes) => self.partial_offset() + bytes,
        }
    }

    /// Bytes of the textures that [`bind`](Self::bind) makes (on CPU adapters only).
    pub fn owned_bytes(&self) -> u64 {
        let bytes = |(slot, [width, height]): (Slot, [u32; 2])| {
            let texel = if slot == Slot::WordTexels { 4 } else { 16 };
            u64::from(width) * u64::from(height) * texel
        };
        self.texture_sizes().into_iter().map(bytes).sum()
    }

    /// The kernels and their tile sizes, for people.
    pub fn describe(&self) -> String {
        let c = &self.config;
        let mut text = format!("head_dim {}, {}", c.head_dim, c.kernel.describe());
        let flags = [
            (c.targets, "targets"),
            (c.padded, "padded"),
            (!c.vec4, "scalar loads"),
            (c.f16, "f16 type"),
        ];
        for (_, name) in flags.iter().filter(|(on, _)| *on) {
            text += ", ";
            text += name;
        }
        text
    }

    /// What was selected.
    pub fn config(&self) -> &Config {
        &self.config
    }

    fn is_empty(&self) -> bool {
        self.problem.lse_len() == 0
    }

    /// Bytes of what the preparing kernels put into the workspace.
    fn words_bytes(&self) -> u64 {
        match self.config.is_tile() {
            true => self.problem.words(Some(self.config.head_dim)).end * 4,
            false => 0,
        }
    }

    /// Where the parts begin in the workspace; every device aligns bindings to 256 or less.
    fn partial_offset(&self) -> u64 {
        self.words_bytes().next_multiple_of(256)
    }

    fn partial_bytes(&self) -> u64 {
        match self.config.kernel.splits() {
            true => self.problem.partial_bytes(self.config.head_dim, self.splits()),
            false => 0,
        }
    }

    fn splits(&self) -> usize {
        match self.config.kernel.splits() {
            true => self.problem.shape.seqlen_k.div_ceil(SPLIT_LEN),
            false => 1,
        }
    }

    /// Checks `args` and prepares everything that recording needs: one uniform buffer, the bind
    /// groups and [`owned_bytes`](Self::owned_bytes) of textures. Recording then allocates nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] names the tensor that is absent, too small, misaligned, without the usage
    /// `STORAGE`, or that shares its buffer with one that is written.
    pub fn bind(&self, args: &Args<'_>) -> Result<Bound, Error> {
        self.context.check_lost()?;
        let tensors = self.check(args)?;
        // A tensor that begins off a multiple of four elements takes the kernels with scalar loads;
        // so does an empty one, whose buffer need not hold four.
        let vec4_bytes = 4 * self.problem.dtype.bytes() as u64;
        let off = |(slot, t): &(Slot, Checked<'_>)| {
            let empty = args::size(&self.problem, *slot).0 == 0;
            args::is_large(*slot) && (empty || !t.offset.is_multiple_of(vec4_bytes))
        };
        let (mut config, mut compiled) = (self.config, self.pipelines.clone());
        if config.vec4 && tensors.iter().any(off) {
            config = config.with_scalar_loads();
            compiled = pipelines(&self.context, &config)?;
        }
        const LABEL: &str = "longhand relative-position forward";
        if self.is_empty() {
            return Ok(Bound::new(LABEL, vec![]));
        }
        let dispatches = self.context.checked(|| {
            let params: Vec<Params> =
                compiled.iter().map(|(stage, _)| self.params(&tensors, *stage)).collect();
            let made =
                Made { uniforms: Uniforms::new(&self.context, &params), textures: self.textures() };
            let dispatch = |(n, (stage, pipeline)): (usize, &(Stage, Arc<Pipeline>))| {
                let slots = config.slots(*stage);
                let resource = |slot: &Slot| self.resource(*slot, &tensors, &made, n);
                Dispatch {
                    bind_group: self
                        .context
                        .bind_group(pipeline, slots.iter().map(resource).collect()),
                    grid: self.context.fold(self.workgroups(*stage)),
                    pipeline: pipeline.clone(),
                }
            };
            compiled.iter().enumerate().map(dispatch).collect()
        })?;
        Ok(Bound::new(LABEL, dispatches))
    }

    fn textures(&self) -> Vec<(Slot, wgpu::TextureView)> {
        let make = |(slot, size)| (slot, self.context.texels(size, texture_format(slot)));
        self.texture_sizes().into_iter().map(make).collect()
    }

    fn texture_sizes(&self) -> Vec<(Slot, [u32; 2])> {
        if self.is_empty() || self.config.is_tile() {
            return vec![];
        }
        let head_dim = self.config.head_dim;
        let size = |slot: Slot| {
            let rows = self.problem.texel_rows(slot);
            (slot, self.config.kernel.texture_size(head_dim, slot.texels(), rows))
        };
        Slot::TEXTURES.map(size).to_vec()
    }

    /// Blocks of rows of one head.
    fn blocks(&self) -> usize {
        self.problem.shape.seqlen_q.div_ceil(self.config.kernel.block_m() as usize)
    }

    fn workgroups(&self, stage: Stage) -> u64 {
        let (p, s) = (&self.problem, &self.problem.shape);
        let texels = |slot: Slot| {
            p.texel_rows(slot) * u64::from(texels_of_row(self.config.head_dim, slot.texels()))
        };
        let words = p.words(self.config.is_tile().then_some(self.config.head_dim));
        let heads = (s.batch * s.heads_q) as u64;
        match stage {
            Stage::Prepare => {
                let table = if self.config.is_tile() { 0 } else { texels(Slot::RTexels) };
                let words = (words.segments - words.differences) / 4;
                (texels(Slot::QTexels) + table + words).div_ceil(64)
            }
            Stage::Mark => ((words.end - words.segments) / 4).div_ceil(64),
            Stage::Pack => texels(Slot::KvTexels).div_ceil(64),
            Stage::Forward => (self.blocks() * self.splits()) as u64 * heads,
            Stage::Combine => {
                let rows = heads * s.seqlen_q as u64;
                (rows * u64::from(self.config.head_dim) / 4).div_ceil(64)
            }
        }
    }

    /// The part of the buffer that `slot` lies in, and the element of it at which the tensor begins.
    fn part<'a>(&self, tensors: &Tensors<'a>, slot: Slot) -> (wgpu::BufferBinding<'a>, u32) {
        let find =
            |slot: Slot| tensors.iter().find(|(s, _)| *s == slot).map(|(_, t)| t).expect("checked");
        match slot {
            Slot::Workspace => find(slot).part(&self.context, 0, self.words_bytes() / 4, 4),
            Slot::Partial => {
                let (first, len) = (self.partial_offset() / 4, self.partial_bytes() / 4);
                find(Slot::Workspace).part(&self.context, first, len, 4)
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
