//! LSH attention on a WebGPU device: plan, bind, record.

mod args;
mod host;
mod params;
mod stages;

pub use crate::timing::Timing;
pub use crate::webgpu::Bound;
pub use args::Args;

use super::Lsh;
use super::config::{Config, Slot, Stage, select};
use crate::Error;
use crate::webgpu::{Access, Caps, Checked, Context, Dispatch, Pipeline, PipelineKey, Uniforms};
use params::Params;
use std::ops::Range;
use std::sync::Arc;

/// The checked tensors of a launch; the workspace stands under [`Slot::Norms`].
type Tensors<'a> = [(Slot, Checked<'a>)];
type Pipelines = Vec<(Stage, Arc<Pipeline>)>;

/// A compiled problem.
#[derive(Clone)]
pub struct Plan {
    problem: Lsh,
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
    /// The params of every launch of a kernel.
    uniforms: Uniforms,
    /// The textures of the kernels for CPU adapters.
    textures: Vec<(Slot, wgpu::TextureView)>,
    /// Half of each factor, if there is anything to hash.
    factors: Option<wgpu::Buffer>,
}

/// One launch of a kernel.
#[derive(Debug, Clone, Copy)]
struct Step {
    stage: Stage,
    /// The digit or the round that it is for.
    number: usize,
    /// Of how many positions, or chunks of the round, and from which on.
    first: usize,
    len: usize,
}

impl Lsh {
    /// Selects, expands and compiles the kernels for `context`'s device; a configuration met before
    /// comes from the cache. Drivers may compile only at the first launch.
    pub fn plan_webgpu(&self, context: &Context) -> Result<Plan, Error> {
        context.check_lost()?;
        let config = select(self, context.caps())?;
        let pipelines = pipelines(context, &config)?;
        let plan = Plan { problem: self.clone(), config, context: context.clone(), pipelines };
        for step in plan.steps() {
            context.caps().dispatches(plan.workgroups(step))?;
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
        let access = |slot| access(slot, config.writes(stage, slot));
        let accesses: Vec<Access> = config.slots(stage).into_iter().map(access).collect();
        let key = PipelineKey::Lsh(config.of_stage(stage), stage);
        Ok((stage, context.pipeline(key, || config.source(stage), &accesses)?))
    };
    config.stages().into_iter().map(build).collect()
}

fn access(slot: Slot, writes: bool) -> Access {
    match (slot, writes) {
        (Slot::Params, _) => Access::Uniform(size_of::<Params>() as u64),
        (slot, true) if slot.is_texture() => Access::WriteTexture(texture_format(slot)),
        (slot, false) if slot.is_texture() => Access::ReadTexture(texture_format(slot)),
        (_, true) => Access::Write,
        (_, false) => Access::Read,
    }
}

fn texture_format(slot: Slot) -> wgpu::TextureFormat {
    match slot {
        Slot::ItemTexels => wgpu::TextureFormat::Rg32Uint,
        Slot::PlaceTexels => wgpu::TextureFormat::R32Uint,
        _ => wgpu::TextureFormat::Rgba32Float,
    }
}

impl Plan {
    /// Device memory beside inputs and outputs that a launch needs; may be 0.
    pub fn workspace_bytes(&self) -> u64 {
        self.workspace(Slot::Histogram).end
    }

    /// The bytes of the workspace that hold the sorted order after a launch: i32, `[batch, heads,
    /// num_hashes, seqlen]`, the position at each place. `None` if nothing is sorted.
    pub fn order(&self) -> Option<Range<u64>> {
        self.config.sorted.then(|| self.workspace(Slot::Order))
    }

    /// Bytes of the textures that [`bind`](Self::bind) makes (on CPU adapters only).
    pub fn owned_bytes(&self) -> u64 {
        let bytes = |(slot, [width, height]): (Slot, [u32; 2])| {
            let texel = texture_format(slot).block_copy_size(None).unwrap_or(0);
            u64::from(width) * u64::from(height) * u64::from(texel)
        };
        self.texture_sizes().into_iter().map(bytes).sum()
    }

    /// The kernels and their tile sizes, for people.
    pub fn describe(&self) -> String {
        let c = &self.config;
        let mut text = c.kernel.describe();
        let sort = match self.problem.digits().len() {
            _ if !c.sorted => "one chunk, nothing sorted".to_owned(),
            digits => {
                let rounds = self.problem.num_hashes;
                let digits =
                    if digits == 1 { "1 digit".into() } else { format!("{digits} digits") };
                format!("{rounds} rounds sorted by {digits}")
            }
        };
        let flags = [(c.padded, "padded"), (!c.vec4, "scalar loads"), (c.f16, "f16 type")];
        for (_, name) in flags.iter().filter(|(on, _)| *on) {
            text += ", ";
            text += name;
        }
        format!("head_dim {}, {text}; {sort}", c.head_dim)
    }

    /// What was selected.
    pub fn config(&self) -> &Config {
        &self.config
    }

    fn is_empty(&self) -> bool {
        self.problem.batch == 0 || self.problem.seqlen == 0
    }

    /// The bytes of the workspace that a part of it takes; every device aligns bindings to 256 or
    /// less.
    fn workspace(&self, slot: Slot) -> Range<u64> {
        let p = &self.problem;
        let indices = p.buckets_len() as u64 * 4;
        let mut begin = 0;
        for (part, bytes) in [
            (Slot::Norms, p.lse_len() as u64 * 4),
            (Slot::Order, indices),
            (Slot::OrderBefore, if self.config.digits { indices } else { 0 }),
            (Slot::Places, if self.has_places() { indices } else { 0 }),
            (Slot::Histogram, p.histogram_words() * 4),
        ] {
            let end: u64 = begin + bytes;
            if part == slot {
                return begin..end;
            }
            begin = end.next_multiple_of(256);
        }
        begin..begin
    }

    /// Whether places by position lie in the workspace, not in a texture.
    fn has_places(&self) -> bool {
        self.config.duplicates_once && !self.config.is_rows()
    }

    /// The launches, in order.
    fn steps(&self) -> Vec<Step> {
        let (p, gathered) = (&self.problem, self.config.gathered);
        let digits = if self.config.sorted { p.digits().len() } else { 0 };
        let stages = self.config.stages();
        let whole = |stage, number| Step { stage, number, first: 0, len: p.seqlen };
        let one = |stage| stages.contains(&stage).then_some(whole(stage, 0));
        // As many positions, and chunks of a round, as the texture takes at once.
        let (positions, chunks) = match gathered {
            true => (p.gathered_rows(), p.segment_chunks()),
            false => (p.seqlen, p.chunks_of_round()),
        };
        let parts = |of: usize, most: usize| {
            let part = move |first| (first, most.min(of - first));
            (0..of).step_by(most.max(1)).map(part)
        };
        let hash = parts(p.seqlen, positions).flat_map(|(first, len)| {
            let step = |mut step: Step| {
                (step.first, step.len) = (first, len);
                step
            };
            [one(Stage::Pack), one(Stage::Hash)].map(|s| s.map(step))
        });
        let sort = (0..digits).flat_map(|number| {
            let first = number == 0;
            [Stage::Count { first }, Stage::Scan, Stage::Scatter { first }]
                .map(|stage| whole(stage, number))
        });
        let attend = (0..p.rounds()).flat_map(|number| {
            parts(p.chunks_of_round(), chunks).flat_map(move |(first, len)| {
                let step = |stage| Step { stage, number, first, len };
                [gathered.then(|| step(Stage::Gather)), Some(step(Stage::Attend))]
            })
        });
        let index = one(Stage::Index);
        hash.flatten().chain(sort).chain(index).chain(attend.flatten()).collect()
    }

    /// Checks `args` and prepares everything that recording needs: one uniform buffer, the bind
    /// groups, the factors of the number of buckets and [`owned_bytes`](Self::owned_bytes) of
    /// textures. Recording then allocates nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] names the tensor that is absent, too small, misaligned, without the usage
    /// `STORAGE`, or that shares its buffer with one that is written.
    pub fn bind(&self, args: &Args<'_>) -> Result<Bound, Error> {
        const LABEL: &str = "longhand lsh forward";
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
            return Ok(Bound::new(LABEL, vec![]));
        }
        let steps = self.steps();
        let dispatches = self.context.checked(|| {
            let params: Vec<Params> = steps.iter().map(|s| self.params(&tensors, *s)).collect();
            let made = Made {
                uniforms: Uniforms::new(&self.context, &params),
                textures: self.textures(),
                factors: config.hashed.then(|| self.factors_buffer()),
            };
            let dispatch = |(n, step): (usize, &Step)| {
                let slots = config.slots(step.stage);
                let resource = |slot: &Slot| self.resource(*slot, &tensors, &made, *step, n);
                let pipeline = compiled.iter().find(|(stage, _)| *stage == step.stage);
                let (_, pipeline) = pipeline.expect("every stage was compiled");
                Dispatch {
                    bind_group: self
                        .context
                        .bind_group(pipeline, slots.iter().map(resource).collect()),
                    grid: self.context.fold(self.workgroups(*step)),
                    pipeline: pipeline.clone(),
                }
            };
            steps.iter().enumerate().map(dispatch).collect()
        })?;
        Ok(Bound::new(LABEL, dispatches))
    }

    fn textures(&self) -> Vec<(Slot, wgpu::TextureView)> {
        let make = |(slot, size)| (slot, self.context.texels(size, texture_format(slot)));
        self.texture_sizes().into_iter().map(make).collect()
    }

    fn texture_sizes(&self) -> Vec<(Slot, [u32; 2])> {
        if !self.config.is_rows() || self.is_empty() {
            return vec![];
        }
        let c = &self.config;
        let size = |slot: Slot| {
            let rows = self.problem.texel_rows(slot);
            (slot, c.kernel.texture_size(c.head_dim, slot.texels(), rows))
        };
        let slots: Vec<Slot> = c.stages().iter().flat_map(|stage| c.slots(*stage)).collect();
        Slot::TEXTURES.into_iter().filter(|s| slots.contains(s)).map(size).collect()
    }

    fn factors_buffer(&self) -> wgpu::Buffer {
        let halves: Vec<u32> = self.problem.num_buckets.iter().map(|n| *n as u32 / 2).collect();
        self.context.words("longhand factors", &halves)
    }

    fn workgroups(&self, step: Step) -> u64 {
        let stage = step.stage;
        let p = &self.problem;
        let heads = p.batch as u64 * p.heads as u64;
        let items = heads * p.rounds() as u64 * p.seqlen as u64;
        let threads = u64::from(stage.threads(&self.config));
        match stage {
            Stage::Pack => {
                let rotations =
                    if step.first == 0 { p.texel_rows(Slot::RotationTexels) } else { 0 };
                (heads * step.len as u64 + rotations).div_ceil(threads)
            }
            Stage::Gather => (heads * self.segment_rows(step) as u64).div_ceil(threads),
            Stage::Hash => {
                // On GPUs a workgroup is for one round.
                let one = self.config.is_rows() || !self.config.hashed;
                heads * self.blocks(step) as u64 * if one { 1 } else { p.num_hashes as u64 }
            }
            Stage::Count { .. } | Stage::Scatter { .. } => {
                (heads * (p.num_hashes * p.sort_blocks()) as u64).div_ceil(threads)
            }
            Stage::Scan => heads * p.num_hashes as u64,
            Stage::Index => items.div_ceil(threads),
            Stage::Attend => heads * (self.blocks(step) * step.len) as u64,
        }
    }

    /// Blocks of rows: of a head, or of a chunk.
    fn blocks(&self, step: Step) -> usize {
        match step.stage {
            Stage::Hash => step.len.div_ceil(self.config.hash_rows()),
            _ => self.problem.items_of_chunk().div_ceil(self.config.kernel.block_m() as usize),
        }
    }

    /// Rows of the texture that a launch reads or writes, of one head.
    fn segment_rows(&self, step: Step) -> usize {
        match step.stage {
            Stage::Gather | Stage::Attend => {
                self.problem.chunks_gathered(step.len) * self.problem.items_of_chunk()
            }
            _ => step.len,
        }
    }

    /// Which of the two orders a step by a digit writes: the last writes the one that stays.
    fn order_of(&self, slot: Slot, step: Step) -> Slot {
        let sorts = matches!(step.stage, Stage::Count { .. } | Stage::Scatter { .. });
        let swapped = sorts && (self.problem.digits().len() - 1 - step.number) % 2 == 1;
        match (slot, swapped) {
            (Slot::Order, true) => Slot::OrderBefore,
            (Slot::OrderBefore, true) => Slot::Order,
            (slot, _) => slot,
        }
    }

    /// The part of the buffer that `slot` lies in, and the element of it at which the tensor begins.
    fn part<'a>(&self, tensors: &Tensors<'a>, slot: Slot) -> (wgpu::BufferBinding<'a>, u32) {
        let find =
            |slot: Slot| tensors.iter().find(|(s, _)| *s == slot).map(|(_, t)| t).expect("checked");
        if slot.is_workspace() {
            let bytes = self.workspace(slot);
            let len = (bytes.end - bytes.start) / 4;
            return find(Slot::Norms).part(&self.context, bytes.start / 4, len, 4);
        }
        let (elements, bytes) = args::size(&self.problem, slot);
        find(slot).part(&self.context, 0, elements as u64, bytes as u64)
    }

    fn resource<'a>(
        &self,
        slot: Slot,
        tensors: &Tensors<'a>,
        made: &'a Made,
        step: Step,
        n: usize,
    ) -> wgpu::BindingResource<'a> {
        match slot {
            Slot::Params => made.uniforms.block(n),
            Slot::Factors => {
                made.factors.as_ref().expect("made where a kernel binds it").as_entire_binding()
            }
            slot if slot.is_texture() => {
                let found = made.textures.iter().find(|(s, _)| *s == slot);
                wgpu::BindingResource::TextureView(
                    found.map(|(_, view)| view).expect("made for this plan"),
                )
            }
            slot => wgpu::BindingResource::Buffer(self.part(tensors, self.order_of(slot, step)).0),
        }
    }
}
