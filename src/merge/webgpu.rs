//! Merging two results on a WebGPU device: plan, bind, record.

use super::{Merge, sizes_fit};
use crate::template::expand;
use crate::webgpu::{
    Access, Binding, Bound, Caps, Checked, Context, DeviceBuffer, Dispatch, Pipeline, PipelineKey,
    Uniforms, Usage, check_aliasing,
};
use crate::{DType, Error};
use minijinja::context;
use std::sync::Arc;

/// Rows of a workgroup.
const ROWS: u64 = 16;

/// Everything that the source depends on; the key of the pipeline cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Config {
    dtype: DType,
    /// Rows begin on multiples of four elements and are stored four at a time.
    vec4: bool,
    /// The shader uses the f16 type.
    f16: bool,
}

/// The uniform block of `shaders/merge_results.wgsl`, field by field.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: u32,
    heads: u32,
    seqlen_q: u32,
    head_dim: u32,
    out_base: u32,
    lse_base: u32,
    part_out_base: u32,
    part_lse_base: u32,
}

const ACCESSES: [Access; 5] = [
    Access::Write,
    Access::Write,
    Access::Read,
    Access::Read,
    Access::Uniform(size_of::<Params>() as u64),
];

/// The tensors of one launch.
#[derive(Debug, Clone, Copy)]
pub struct Args<'a> {
    /// The result, read and written.
    pub out: Binding<'a>,
    /// Its `lse`, read and written.
    pub lse: Binding<'a>,
    /// The part, which is merged into it.
    pub part_out: Binding<'a>,
    /// The part's `lse`.
    pub part_lse: Binding<'a>,
}

impl<'a> Args<'a> {
    /// `out` and `lse` of the result, then of the part.
    pub fn new<B: Into<Binding<'a>>>([out, lse]: [B; 2], [part_out, part_lse]: [B; 2]) -> Self {
        Args {
            out: out.into(),
            lse: lse.into(),
            part_out: part_out.into(),
            part_lse: part_lse.into(),
        }
    }
}

/// A compiled merge.
#[derive(Clone)]
pub struct Plan {
    merge: Merge,
    rows: usize,
    config: Config,
    context: Context,
    pipeline: Arc<Pipeline>,
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan")
            .field("merge", &self.merge)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Merge {
    /// Compiles the kernel for `context`'s device; one met before comes from the cache.
    ///
    /// # Errors
    ///
    /// [`Error::Declined`] for results beyond the device's limits.
    pub fn plan_webgpu(&self, context: &Context) -> Result<Plan, Error> {
        context.check_lost()?;
        let (rows, config) = select(self, context.caps())?;
        let pipeline = pipeline(context, &config)?;
        context.caps().dispatches((rows as u64).div_ceil(ROWS))?;
        Ok(Plan { merge: *self, rows, config, context: context.clone(), pipeline })
    }

    /// The WGSL that would run on a device with `caps`, by kernel name.
    pub fn sources_webgpu(&self, caps: &Caps) -> Result<Vec<(String, String)>, Error> {
        Ok(vec![("merge_results".to_owned(), source(&select(self, caps)?.1))])
    }

    /// Merges two results of the host's, waits and reads them back: for tests, tools and first steps.
    ///
    /// # Errors
    ///
    /// As [`plan_webgpu`](Self::plan_webgpu), and [`Error::Invalid`] for tensors of another size.
    pub fn run_webgpu(
        &self,
        context: &Context,
        parts: [(&[f32], &[f32]); 2],
    ) -> Result<(Vec<f32>, Vec<f32>), Error> {
        let plan = self.plan_webgpu(context)?;
        let elements = plan.rows * self.shape.head_dim;
        sizes_fit(parts, [elements, plan.rows])?;
        let mut tensors = Vec::new();
        for (out, lse) in parts {
            tensors.push(DeviceBuffer::floats(context, out, self.dtype)?);
            tensors.push(DeviceBuffer::floats(context, lse, DType::F32)?);
        }
        let [out, lse, part_out, part_lse] = [0, 1, 2, 3].map(|n: usize| &tensors[n].buffer);
        context.launch(&plan.bind(&Args::new([out, lse], [part_out, part_lse]))?)?;
        let out = tensors[0].read(context, elements, self.dtype)?;
        Ok((out, tensors[1].read(context, plan.rows, DType::F32)?))
    }
}

fn select(merge: &Merge, caps: &Caps) -> Result<(usize, Config), Error> {
    let [rows, elements] = merge.counts()?;
    let (out, lse) = ((elements * merge.dtype.bytes()) as u64, 4 * rows as u64);
    caps.binds(&[("out", out), ("lse", lse), ("part_out", out), ("part_lse", lse)])?;
    let vec4 = merge.shape.head_dim.is_multiple_of(4);
    let f16 = merge.dtype == DType::F16 && caps.f16 && vec4;
    Ok((rows, Config { dtype: merge.dtype, vec4, f16 }))
}

fn source(config: &Config) -> String {
    let values = context! {
        dtype => config.dtype.name(),
        vec4 => config.vec4,
        f16 => config.f16,
        padded => false,
    };
    expand("merge_results.wgsl", values)
}

fn pipeline(context: &Context, config: &Config) -> Result<Arc<Pipeline>, Error> {
    context.pipeline(PipelineKey::Merge(*config), || source(config), &ACCESSES)
}

impl Plan {
    /// Checks `args` and prepares everything that recording needs.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] names the tensor that is too small, misaligned, without the usage `STORAGE`,
    /// or that shares its buffer with one that is written.
    pub fn bind(&self, args: &Args<'_>) -> Result<Bound, Error> {
        self.context.check_lost()?;
        let (shape, bytes) = (&self.merge.shape, self.merge.dtype.bytes());
        let elements = self.rows * shape.head_dim;
        let out = |name, binding, usage| Checked::new(name, Some(binding), elements, bytes, usage);
        let lse = |name, binding, usage| Checked::new(name, Some(binding), self.rows, 4, usage);
        let tensors = [
            out("out", args.out, Usage::Write)?,
            lse("lse", args.lse, Usage::Write)?,
            out("part_out", args.part_out, Usage::Read)?,
            lse("part_lse", args.part_lse, Usage::Read)?,
        ];
        check_aliasing(&tensors)?;
        const LABEL: &str = "longhand merge";
        if self.rows == 0 {
            return Ok(Bound::new(LABEL, vec![]));
        }
        let aligned = (tensors[0].offset | tensors[2].offset).is_multiple_of(4 * bytes as u64);
        let pipeline = match self.config.vec4 && !aligned {
            true => pipeline(&self.context, &Config { vec4: false, f16: false, ..self.config })?,
            false => self.pipeline.clone(),
        };
        let dispatch = self.context.checked(|| {
            let context = &self.context;
            let lens = [elements, self.rows, elements, self.rows];
            let sizes = [bytes, 4, bytes, 4];
            let parts = [0, 1, 2, 3]
                .map(|n: usize| tensors[n].part(context, 0, lens[n] as u64, sizes[n] as u64));
            let params = Params {
                rows: self.rows as u32,
                heads: shape.heads_q as u32,
                seqlen_q: shape.seqlen_q as u32,
                head_dim: shape.head_dim as u32,
                out_base: parts[0].1,
                lse_base: parts[1].1,
                part_out_base: parts[2].1,
                part_lse_base: parts[3].1,
            };
            let uniforms = Uniforms::new(context, &[params]);
            let mut resources: Vec<_> =
                parts.into_iter().map(|(part, _)| wgpu::BindingResource::Buffer(part)).collect();
            resources.push(uniforms.block(0));
            Dispatch {
                bind_group: context.bind_group(&pipeline, resources),
                grid: context.fold((self.rows as u64).div_ceil(ROWS)),
                pipeline,
            }
        })?;
        Ok(Bound::new(LABEL, vec![dispatch]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn every_field_lies_where_the_shader_reads_it() {
        macro_rules! offsets {
            ($($field:ident)*) => { vec![$((stringify!($field).to_owned(), offset_of!(Params, $field))),*] };
        }
        let expected =
            offsets!(rows heads seqlen_q head_dim out_base lse_base part_out_base part_lse_base);
        let config = Config { dtype: DType::F32, vec4: true, f16: false };
        let (members, span) = crate::webgpu::members_of_params(&source(&config));
        assert_eq!((members, span), (expected, size_of::<Params>()));
    }
}
