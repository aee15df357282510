//! Full attention on a WebGPU device: plan, bind, record.

mod args;
mod chunk;
mod host;
mod params;

pub use args::Args;
pub use host::Timing;

use super::Full;
use super::config::{Config, Kernel, SPLIT_LEN, Slot, select};
use crate::Error;
use crate::webgpu::{Access, Caps, Checked, Context, Pipeline};
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
        f.debug_struct("Bound").field("dispatches", &self.dispatches.len()).finish_non_exhaustive()
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
        Ok(Plan { problem: *self, config, context: context.clone(), main, combine, chunks })
    }

    /// The WGSL that would run on a device with `caps`, by kernel name.
    pub fn sources_webgpu(&self, caps: &Caps) -> Result<Vec<(String, String)>, Error> {
        let config = select(self, caps)?;
        let mut sources = vec![(config.kernel.name().to_owned(), config.source())];
        sources.extend(config.combine_source().map(|text| ("full_combine".to_owned(), text)));
        Ok(sources)
    }
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
    let main =
        context.pipeline((*config, "main"), || config.source(), &accesses(&config.slots()))?;
    let combine = config
        .combine_source()
        .map(|source| {
            context.pipeline((*config, "combine"), || source, &accesses(&config.combine_slots()))
        })
        .transpose()?;
    Ok((main, combine))
}

impl Plan {
    /// Device memory beside inputs and outputs that a launch needs; may be 0.
    pub fn workspace_bytes(&self) -> u64 {
        self.chunks.iter().map(|c| self.partial_bytes(c)).max().unwrap_or(0)
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
        Ok(Bound { main, combine, dispatches })
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
        let y = n.div_ceil(u64::from(self.context.caps().max_workgroups_per_dimension)).max(1);
        [n.div_ceil(y) as u32, y as u32]
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
            .map(|(binding, slot)| wgpu::BindGroupEntry { binding, resource: resource(slot) })
            .collect();
        self.context.device().create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("longhand"),
            layout: &pipeline.layout,
            entries: &entries,
        })
    }

    fn uniform_step(&self) -> u64 {
        let alignment = self.context.device().limits().min_uniform_buffer_offset_alignment;
        (size_of::<Params>() as u64).next_multiple_of(u64::from(alignment))
    }

    fn uniform(&self, tensors: &Tensors<'_>, config: &Config) -> wgpu::Buffer {
        let step = self.uniform_step();
        let buffer = self.context.device().create_buffer(&wgpu::BufferDescriptor {
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

impl Kernel {
    fn name(&self) -> &'static str {
        match self {
            Kernel::Tile { .. } => "full_forward_tile",
        }
    }

    fn describe(&self) -> String {
        match self {
            Kernel::Tile { block_m, tc, stage_f16, subgroups, split, .. } => format!(
                "tile {block_m}x{}{}{}{}",
                4 * tc,
                if *stage_f16 { ", f16 staging" } else { "" },
                if *subgroups { ", subgroups" } else { "" },
                if *split { ", split keys" } else { "" },
            ),
        }
    }
}
