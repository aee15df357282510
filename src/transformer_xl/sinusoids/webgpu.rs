//! The table of sines and cosines on a WebGPU device: plan, bind, record.

use super::{SinCos, Sinusoids};
use crate::template::expand;
use crate::webgpu::{
    Access, Binding, Bound, Caps, Checked, Context, DeviceBuffer, Dispatch, Pipeline, PipelineKey,
    Uniforms, Usage, check_aliasing,
};
use crate::{DType, Error};
use minijinja::context;
use std::sync::Arc;

/// Everything that the source depends on; the key of the pipeline cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Config {
    order: SinCos,
    dtype: DType,
    /// Rows begin on multiples of four elements and are stored four at a time.
    vec4: bool,
    /// The shader uses the f16 type.
    f16: bool,
}

/// The uniform block of `shaders/transformer_xl_sinusoids.wgsl`, field by field.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: u32,
    head_dim: u32,
    first: i32,
    frequencies_base: u32,
    table_base: u32,
}

const ACCESSES: [Access; 3] =
    [Access::Read, Access::Write, Access::Uniform(size_of::<Params>() as u64)];

/// The tensors of one launch.
#[derive(Debug, Clone, Copy)]
pub struct Args<'a> {
    /// [`Sinusoids::frequencies`], eight bytes each.
    pub frequencies: Binding<'a>,
    /// The result.
    pub table: Binding<'a>,
}

impl<'a> Args<'a> {
    /// Frequencies and result.
    pub fn new<B: Into<Binding<'a>>>(frequencies: B, table: B) -> Self {
        Args { frequencies: frequencies.into(), table: table.into() }
    }
}

/// A compiled table.
#[derive(Clone)]
pub struct Plan {
    table: Sinusoids,
    config: Config,
    context: Context,
    pipeline: Arc<Pipeline>,
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan")
            .field("table", &self.table)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Sinusoids {
    /// Compiles the kernel for `context`'s device; one met before comes from the cache.
    ///
    /// # Errors
    ///
    /// [`Error::Declined`] for a table beyond the device's limits.
    pub fn plan_webgpu(&self, context: &Context) -> Result<Plan, Error> {
        context.check_lost()?;
        let config = select(self, context.caps())?;
        let pipeline = pipeline(context, &config)?;
        context.caps().dispatches(workgroups(self))?;
        Ok(Plan { table: *self, config, context: context.clone(), pipeline })
    }

    /// The WGSL that would run on a device with `caps`, by kernel name.
    pub fn sources_webgpu(&self, caps: &Caps) -> Result<Vec<(String, String)>, Error> {
        Ok(vec![("transformer_xl_sinusoids".to_owned(), source(&select(self, caps)?))])
    }

    /// Makes the table, waits and reads it back: for tests, tools and first steps.
    pub fn run_webgpu(&self, context: &Context) -> Result<Vec<f32>, Error> {
        let plan = self.plan_webgpu(context)?;
        let frequencies = self.frequencies();
        let frequencies = DeviceBuffer::with_bytes(context, bytemuck::cast_slice(&frequencies), 8)?;
        let table = DeviceBuffer::new(context, self.elements() * self.dtype.bytes())?;
        context.launch(&plan.bind(&Args::new(&frequencies.buffer, &table.buffer))?)?;
        table.read(context, self.elements(), self.dtype)
    }
}

fn select(table: &Sinusoids, caps: &Caps) -> Result<Config, Error> {
    table.validate()?;
    let elements = table.elements() as u64;
    table.indices_fit()?;
    caps.binds(&[
        ("frequencies", 4 * table.width as u64),
        ("table", elements * table.dtype.bytes() as u64),
    ])?;
    let vec4 = table.width.is_multiple_of(4);
    let f16 = table.dtype == DType::F16 && caps.f16 && vec4;
    Ok(Config { order: table.order, dtype: table.dtype, vec4, f16 })
}

fn source(config: &Config) -> String {
    let values = context! {
        interleaved => config.order == SinCos::Interleaved,
        dtype => config.dtype.name(),
        vec4 => config.vec4,
        f16 => config.f16,
        padded => false,
    };
    expand("transformer_xl_sinusoids.wgsl", values)
}

fn pipeline(context: &Context, config: &Config) -> Result<Arc<Pipeline>, Error> {
    context.pipeline(PipelineKey::Sinusoids(*config), || source(config), &ACCESSES)
}

/// Of 64 invocations, which make four elements each.
fn workgroups(table: &Sinusoids) -> u64 {
    (table.rows as u64 * table.width.div_ceil(4) as u64).div_ceil(64)
}

impl Plan {
    /// Checks `args` and prepares everything that recording needs.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] names the tensor that is too small, misaligned, without the usage `STORAGE`,
    /// or that shares its buffer with the other.
    pub fn bind(&self, args: &Args<'_>) -> Result<Bound, Error> {
        self.context.check_lost()?;
        let (t, bytes) = (&self.table, self.table.dtype.bytes());
        let frequencies =
            Checked::new("frequencies", Some(args.frequencies), t.width / 2, 8, Usage::Read)?;
        let table = Checked::new("table", Some(args.table), t.elements(), bytes, Usage::Write)?;
        check_aliasing(&[frequencies, table])?;
        const LABEL: &str = "longhand sinusoids";
        if t.elements() == 0 {
            return Ok(Bound::new(LABEL, vec![]));
        }
        let pipeline = match self.config.vec4 && !table.offset.is_multiple_of(4 * bytes as u64) {
            true => pipeline(&self.context, &Config { vec4: false, f16: false, ..self.config })?,
            false => self.pipeline.clone(),
        };
        let dispatch = self.context.checked(|| {
            let context = &self.context;
            let (steps, frequencies_base) = frequencies.part(context, 0, t.width as u64 / 2, 8);
            let (rows, table_base) = table.part(context, 0, t.elements() as u64, bytes as u64);
            let params = Params {
                rows: t.rows as u32,
                head_dim: t.width as u32,
                first: t.first as i32,
                frequencies_base,
                table_base,
            };
            let uniforms = Uniforms::new(context, &[params]);
            let resources = vec![
                wgpu::BindingResource::Buffer(steps),
                wgpu::BindingResource::Buffer(rows),
                uniforms.block(0),
            ];
            Dispatch {
                bind_group: context.bind_group(&pipeline, resources),
                grid: context.fold(workgroups(t)),
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
        let expected = offsets!(rows head_dim first frequencies_base table_base);
        let config = Config { order: SinCos::Halves, dtype: DType::F32, vec4: true, f16: false };
        let (members, span) = crate::webgpu::members_of_params(&source(&config));
        assert_eq!((members, span), (expected, size_of::<Params>()));
    }
}
