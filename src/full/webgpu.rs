//! Full attention on a WebGPU device: plan, bind, record.

mod args;
mod chunk;
mod host;
mod params;

pub use crate::timing::Timing;
pub use crate::webgpu::Bound;
pub use args::Args;

use super::Full;
use super::config::{Config, Kernel, LANES, SPLIT_LEN, Slot, Stage, select, texels_of_row};
use crate::Error;
use crate::webgpu::{Access, Caps, Checked, Context, Dispatch, Pipeline, PipelineKey, Uniforms};
use chunk::{Chunk, chunks, element_bytes, range};
use params::Params;
use std::sync::Arc;

/// The checked tensors of a launch.
type Tensors<'a> = [(Slot, Checked<'a>)];

/// A compiled problem.
#[derive(Clone)]
pub struct Plan {
    problem: Full,
    config: Config,
    context: Context,
    pipelines: Pipelines,
    chunks: Vec<Chunk>,
}

type Pipelines = Vec<(Stage, Arc<Pipeline>)>;

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan")
            .field("problem", &self.problem)
            .field("config", &self.config)
            .field("chunks", &self.chunks.len())
            .finish_non_exhaustive()
    }
}

/// What `bind` makes beside the bind groups.
struct Made {
    /// The params of every chunk.
    uniform: Uniforms,
    /// The textures of [`Kernel::Rows`], large enough for every chunk.
    textures: Vec<(Slot, wgpu::TextureView)>,
}

impl Full {
    /// Selects, expands and compiles the kernels for `context`'s device; a configuration met before
    /// comes from the cache. Drivers may compile only at the first launch.
    pub fn plan_webgpu(&self, context: &Context) -> Result<Plan, Error> {
        context.check_lost()?;
        let config = select(self, context.caps())?;
        let chunks = chunks(self, context.caps())?;
        let pipelines = pipelines(context, &config)?;
        Ok(Plan { problem: *self, config, context: context.clone(), pipelines, chunks })
    }

    /// The WGSL that would run on a device with `caps`, by kernel name, in the order of launch.
    pub fn sources_webgpu(&self, caps: &Caps) -> Result<Vec<(String, String)>, Error> {
        let config = select(self, caps)?;
        let source = |stage| (config.kernel.stage_name(stage).to_owned(), config.source(stage));
        Ok(config.stages().into_iter().map(source).collect())
    }
}

fn pipelines(context: &Context, config: &Config) -> Result<Pipelines, Error> {
    let build = |stage: Stage| {
        let config = config.of_stage(stage);
        let slots = config.slots(stage);
        let accesses: Vec<Access> = slots.iter().map(|slot| access(*slot, stage)).collect();
        Ok((
            stage,
            context.pipeline(
                PipelineKey::Full(config, stage),
                || config.source(stage),
                &accesses,
            )?,
        ))
    };
    config.stages().into_iter().map(build).collect()
}

fn access(slot: Slot, stage: Stage) -> Access {
    match (slot, stage) {
        (Slot::Params, _) => Access::Uniform(size_of::<Params>() as u64),
        (Slot::QTexels | Slot::KvTexels | Slot::ValidTexels, Stage::Pack) => {
            Access::WriteTexture(texture_format(slot))
        }
        (Slot::QTexels | Slot::KvTexels | Slot::ValidTexels, _) => {
            Access::ReadTexture(texture_format(slot))
        }
        (Slot::Out | Slot::Lse, _) | (Slot::Partial, Stage::Forward) => Access::Write,
        _ => Access::Read,
    }
}

fn texture_format(slot: Slot) -> wgpu::TextureFormat {
    match slot {
        Slot::ValidTexels => wgpu::TextureFormat::R32Uint,
        _ => wgpu::TextureFormat::Rgba32Float,
    }
}

impl Plan {
    /// Device memory beside inputs and outputs that a launch needs; may be 0.
    pub fn workspace_bytes(&self) -> u64 {
        self.chunks.iter().map(|c| self.partial_bytes(c)).max().unwrap_or(0)
    }

    /// Bytes of the textures that [`bind`](Self::bind) makes (on CPU adapters only).
    pub fn owned_bytes(&self) -> u64 {
        let bytes = |(slot, [width, height]): (Slot, [u32; 2])| {
            let texel = if slot == Slot::ValidTexels { 4 } else { 16 };
            u64::from(width) * u64::from(height) * texel
        };
        self.texture_sizes().into_iter().map(bytes).sum()
    }

    /// The kernel and its tile sizes, for people.
    pub fn describe(&self) -> String {
        let c = &self.config;
        let mut text = c.kernel.describe();
        let flags = [(c.padded, "padded"), (!c.vec4, "scalar loads"), (c.f16, "f16 type")];
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
        // A tensor that begins off a multiple of four elements takes the kernels with scalar loads.
        let vec4_bytes = 4 * self.problem.dtype.bytes() as u64;
        let off = |(slot, t): &(Slot, Checked<'_>)| {
            matches!(slot, Slot::Q | Slot::K | Slot::V | Slot::Out)
                && !t.offset.is_multiple_of(vec4_bytes)
        };
        let (mut config, mut compiled) = (self.config, self.pipelines.clone());
        if config.vec4 && tensors.iter().any(off) {
            config = config.with_scalar_loads();
            compiled = pipelines(&self.context, &config)?;
        }
        let dispatches = self.context.checked(|| {
            let params = |chunk| self.params(&tensors, &config, chunk);
            let blocks: Vec<Params> = self.chunks.iter().map(params).collect();
            let uniform = Uniforms::new(&self.context, &blocks);
            let made = Made { uniform, textures: self.textures() };
            let mut dispatches = vec![];
            for (n, chunk) in self.chunks.iter().enumerate() {
                for (stage, pipeline) in &compiled {
                    let slots = config.of_stage(*stage).slots(*stage);
                    dispatches.push(Dispatch {
                        bind_group: self.bind_group(pipeline, &slots, &tensors, &made, n, chunk),
                        grid: self.context.fold(self.workgroups(*stage, chunk)),
                        pipeline: pipeline.clone(),
                    });
                }
            }
            dispatches
        })?;
        Ok(Bound::new("longhand full forward", dispatches))
    }

    fn textures(&self) -> Vec<(Slot, wgpu::TextureView)> {
        let make = |(slot, size)| (slot, self.context.texels(size, texture_format(slot)));
        self.texture_sizes().into_iter().map(make).collect()
    }

    /// The textures that hold the largest chunk.
    fn texture_sizes(&self) -> Vec<(Slot, [u32; 2])> {
        let Kernel::Rows { .. } = self.config.kernel else { return vec![] };
        let Some(largest) = self.chunks.first() else { return vec![] };
        let size = |slot: &Slot| {
            let rows = self.problem.texel_rows(*slot, largest.batches, largest.heads_kv);
            (*slot, self.config.kernel.texture_size(self.config.head_dim, *slot, rows))
        };
        let slots = self.config.slots(Stage::Pack);
        slots.iter().filter(|slot| slot.is_texture()).map(size).collect()
    }

    fn workgroups(&self, stage: Stage, chunk: &Chunk) -> u64 {
        let s = &self.problem.shape;
        let texels = |slot: &Slot| {
            let rows = self.problem.texel_rows(*slot, chunk.batches, chunk.heads_kv);
            rows * u64::from(texels_of_row(self.config.head_dim, *slot))
        };
        match stage {
            Stage::Pack => {
                let textures = [Slot::QTexels, Slot::KvTexels, Slot::ValidTexels];
                return textures.iter().map(texels).sum::<u64>().div_ceil(64);
            }
            Stage::Combine => {
                return (self.partial_rows(chunk) * u64::from(self.config.head_dim / 4))
                    .div_ceil(64);
            }
            Stage::Forward => {}
        }
        let heads = chunk.heads_kv * (s.heads_q / s.heads_kv);
        (s.seqlen_q.div_ceil(self.config.kernel.block_m() as usize)
            * heads
            * chunk.batches
            * self.splits()) as u64
    }

    fn part<'a>(
        &self,
        tensors: &Tensors<'a>,
        slot: Slot,
        chunk: &Chunk,
    ) -> (wgpu::BufferBinding<'a>, u32) {
        let find =
            |slot: Slot| tensors.iter().find(|(s, _)| *s == slot).map(|(_, t)| t).expect("checked");
        if slot == Slot::Partial {
            return find(slot).part(&self.context, 0, self.partial_bytes(chunk) / 4, 4);
        }
        let (first, len) = range(&self.problem, slot, chunk);
        if len == 0 {
            // Never read; but a binding must not be empty, and queries there are.
            return (self.part(tensors, Slot::Q, chunk).0, 0);
        }
        find(slot).part(&self.context, first, len, element_bytes(&self.problem, slot))
    }

    fn bind_group(
        &self,
        pipeline: &Pipeline,
        slots: &[Slot],
        tensors: &Tensors<'_>,
        made: &Made,
        n: usize,
        chunk: &Chunk,
    ) -> wgpu::BindGroup {
        let resource = |slot: &Slot| match slot {
            Slot::Params => made.uniform.block(n),
            slot if slot.is_texture() => {
                let found = made.textures.iter().find(|(s, _)| s == slot);
                wgpu::BindingResource::TextureView(
                    found.map(|(_, view)| view).expect("made for this plan"),
                )
            }
            slot => wgpu::BindingResource::Buffer(self.part(tensors, *slot, chunk).0),
        };
        self.context.bind_group(pipeline, slots.iter().map(resource).collect())
    }
}

impl Kernel {
    fn stage_name(&self, stage: Stage) -> &'static str {
        match (stage, self) {
            (Stage::Pack, _) => "full_pack",
            (Stage::Combine, _) => "full_combine",
            (Stage::Forward, Kernel::Tile { .. }) => "full_forward_tile",
            (Stage::Forward, Kernel::Rows { .. }) => "full_forward_rows",
        }
    }

    pub(crate) fn describe(&self) -> String {
        match self {
            Kernel::Tile { block_m, tc, stage_f16, subgroups, split, .. } => format!(
                "tile {block_m}x{}{}{}{}",
                4 * tc,
                if *stage_f16 { ", f16 staging" } else { "" },
                if *subgroups { ", subgroups" } else { "" },
                if *split { ", split keys" } else { "" },
            ),
            Kernel::Rows { rows, keys, .. } => {
                format!("rows for CPU adapters, {} rows by {keys} keys", LANES * rows)
            }
        }
    }
}
