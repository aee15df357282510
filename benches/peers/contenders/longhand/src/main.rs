//! longhand itself, through its public interface. Variants: `webgpu` (the kernel that it selects
//! for this adapter), `webgpu-tile` (the kernel that it selects for a GPU with this adapter's
//! limits), `reference` (the definition, on all cores); of Longformer also `full-mask` (its full
//! attention with the mask as a bias: what one had to do without a kernel for it).

mod problems;

use half::{bf16, f16};
use longhand::DType;
use longhand::webgpu::{Bound, Caps, Context};
use peer::{Case, Contender, Kind, Pass};
use wgpu::BufferUsages;

fn main() {
    peer::serve(open);
}

fn open(case: &Case, inputs: Vec<Vec<f32>>) -> Result<Box<dyn Contender>, String> {
    if case.pass != Pass::Forward {
        return Err("forward only".into());
    }
    let dtype = match case.dtype.as_str() {
        "f32" => DType::F32,
        "f16" => DType::F16,
        "bf16" => DType::BF16,
        other => return Err(format!("no dtype {other:?}")),
    };
    let found = || Context::open(None).map_err(text);
    let context = match case.variant.as_str() {
        "webgpu" => found()?,
        "full-mask" if case.kind == Kind::Longformer => found()?,
        "webgpu-tile" => {
            let found = found()?;
            let caps = Caps { cpu: false, ..*found.caps() };
            Context::with_caps(found.device().clone(), found.queue().clone(), caps)
        }
        "reference" => {
            let rounded = |(n, x): (usize, &Vec<f32>)| match (case.kind, n) {
                // Rotations and biases are f32 whatever the dtype.
                (Kind::Lsh, 2) | (Kind::TransformerXl, 4..) => x.clone(),
                _ => loaded(&stored(x, dtype), dtype),
            };
            let inputs = inputs.iter().enumerate().map(rounded).collect();
            let compute = match case.kind {
                Kind::Full => problems::full_reference(case, dtype, inputs),
                Kind::Longformer => problems::longformer_reference(case, dtype, inputs),
                Kind::Lsh => problems::lsh_reference(case, dtype, inputs),
                Kind::TransformerXl => problems::relative_reference(case, dtype, inputs),
            };
            return Ok(Box::new(Reference { compute, out: vec![] }));
        }
        other => return Err(format!("{}: no variant {other:?}", case.kind.name())),
    };
    let gpu = match (case.kind, case.variant.as_str()) {
        (Kind::Full, _) => problems::full(context, case, dtype, &inputs),
        (Kind::Longformer, "full-mask") => problems::full_mask(context, case, dtype, &inputs),
        (Kind::Longformer, _) => problems::longformer(context, case, dtype, &inputs),
        (Kind::Lsh, _) => problems::lsh(context, case, dtype, &inputs),
        (Kind::TransformerXl, _) => problems::relative(context, case, dtype, &inputs),
    };
    Ok(Box::new(gpu))
}

fn text(error: longhand::Error) -> String {
    error.to_string()
}

/// Plans and binds a case's launches. The first run does it, which is the one that the table's
/// `first ms` times.
type Bind = Box<dyn Fn(&Context) -> Result<Vec<Bound>, String>>;

/// A case on a device.
struct Gpu {
    context: Context,
    dtype: DType,
    bind: Bind,
    bound: Vec<Bound>,
    out: wgpu::Buffer,
    /// Rows that a launch of their own computes, and where they belong in `out`: the element at
    /// which each begins.
    apart: Option<(wgpu::Buffer, Vec<usize>)>,
}

impl Gpu {
    fn download(&self, buffer: &wgpu::Buffer) -> Result<Vec<f32>, String> {
        let (device, size) = (self.context.device(), buffer.size());
        let staging = device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size,
            usage: BufferUsages::COPY_DST | BufferUsages::MAP_READ,
            mapped_at_creation: false,
        });
        let mut encoder = device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, size);
        self.context.queue().submit([encoder.finish()]);
        staging.map_async(wgpu::MapMode::Read, .., |_| {});
        self.context.wait().map_err(text)?;
        let bytes = staging.get_mapped_range(..).map_err(|e| e.to_string())?;
        Ok(loaded(&bytes, self.dtype))
    }
}

impl Contender for Gpu {
    fn run(&mut self) -> Result<(), String> {
        if self.bound.is_empty() {
            self.bound = (self.bind)(&self.context)?;
        }
        let mut encoder = self.context.device().create_command_encoder(&Default::default());
        self.bound.iter().for_each(|bound| bound.record(&mut encoder));
        self.context.queue().submit([encoder.finish()]);
        self.context.wait().map_err(text)
    }

    fn output(&mut self) -> Result<Vec<f32>, String> {
        let mut out = self.download(&self.out)?;
        if let Some((buffer, places)) = &self.apart {
            let rows = self.download(buffer)?;
            let len = rows.len() / places.len();
            for (row, &at) in rows.chunks_exact(len).zip(places) {
                out[at..at + len].copy_from_slice(row);
            }
        }
        Ok(out)
    }
}

enum Contents<'a> {
    Of(&'a [u8]),
    Empty(u64),
}

/// A storage buffer of whole words.
fn buffer(context: &Context, contents: Contents) -> wgpu::Buffer {
    let (data, size) = match contents {
        Contents::Of(data) => (data, data.len() as u64),
        Contents::Empty(size) => (&[][..], size),
    };
    let buffer = context.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: size.next_multiple_of(4),
        usage: BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    context.queue().write_buffer(&buffer, 0, data);
    buffer
}

/// `values` as the dtype's bytes, to whole words.
fn stored(values: &[f32], dtype: DType) -> Vec<u8> {
    let mut bytes: Vec<u8> = match dtype {
        DType::F32 => bytemuck::cast_slice(values).to_vec(),
        DType::F16 => values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
        DType::BF16 => values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
    };
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn loaded(bytes: &[u8], dtype: DType) -> Vec<f32> {
    let words = bytes.chunks_exact(dtype.bytes());
    match dtype {
        DType::F32 => bytemuck::pod_collect_to_vec(bytes),
        DType::F16 => words.map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        DType::BF16 => words.map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
    }
}

/// The definition, in f32, of inputs rounded to the dtype.
struct Reference {
    compute: Box<dyn Fn() -> Result<Vec<f32>, longhand::Error>>,
    out: Vec<f32>,
}

impl Contender for Reference {
    fn run(&mut self) -> Result<(), String> {
        self.out = (self.compute)().map_err(text)?;
        Ok(())
    }

    fn output(&mut self) -> Result<Vec<f32>, String> {
        Ok(self.out.clone())
    }
}
