//! longhand itself, through its public interface. Variants: `webgpu` (the kernel that it selects
//! for this adapter), `webgpu-tile` (the kernel that it selects for a GPU with this adapter's
//! limits), `reference` (the definition, on all cores).

use half::{bf16, f16};
use longhand::full::webgpu::{Args, Bound};
use longhand::full::{Inputs, Output};
use longhand::webgpu::{Binding, Caps, Context};
use longhand::{DType, Full, Shape};
use peer::{Case, Contender, Kind, Pass};
use wgpu::BufferUsages;

fn main() {
    peer::serve(open);
}

fn open(case: &Case, inputs: Vec<Vec<f32>>) -> Result<Box<dyn Contender>, String> {
    if case.kind != Kind::Full || case.pass != Pass::Forward {
        return Err("full attention, forward only".into());
    }
    let problem = problem(case)?;
    let context = || Context::open(None).map_err(text);
    let gpu = |context| Gpu::open(problem, context, &inputs).map(Box::new);
    match case.variant.as_str() {
        "webgpu" => Ok(gpu(context()?)?),
        "webgpu-tile" => {
            let found = context()?;
            let caps = Caps { cpu: false, ..*found.caps() };
            let (device, queue) = (found.device().clone(), found.queue().clone());
            Ok(gpu(Context::with_caps(device, queue, caps))?)
        }
        "reference" => Ok(Box::new(Reference::open(problem, &inputs))),
        other => Err(format!("no variant {other:?}: webgpu, webgpu-tile, reference")),
    }
}

fn problem(case: &Case) -> Result<Full, String> {
    let dtype = match case.dtype.as_str() {
        "f32" => DType::F32,
        "f16" => DType::F16,
        "bf16" => DType::BF16,
        other => return Err(format!("no dtype {other:?}")),
    };
    let shape = Shape {
        batch: case.batch,
        heads_q: case.heads,
        heads_kv: case.heads,
        seqlen_q: case.seqlen,
        seqlen_k: case.seqlen,
        head_dim: case.head_dim,
    };
    let problem = Full::new(shape, dtype);
    Ok(if case.causal { problem.causal() } else { problem })
}

fn text(error: longhand::Error) -> String {
    error.to_string()
}

/// A plan's tensors on a device; the plan itself is made by the first run, which is the one that
/// the table's `first ms` times.
struct Gpu {
    problem: Full,
    context: Context,
    q: wgpu::Buffer,
    k: wgpu::Buffer,
    v: wgpu::Buffer,
    out: wgpu::Buffer,
    lse: wgpu::Buffer,
    bound: Option<Bound>,
}

impl Gpu {
    fn open(problem: Full, context: Context, inputs: &[Vec<f32>]) -> Result<Self, String> {
        let [q, k, v] =
            [0, 1, 2].map(|n| buffer(&context, Contents::Of(&stored(&inputs[n], problem.dtype))));
        let out = buffer(&context, Contents::Empty(q.size()));
        let lse = buffer(&context, Contents::Empty(4 * problem.lse_len() as u64));
        Ok(Gpu { problem, context, q, k, v, out, lse, bound: None })
    }

    fn bind(&self) -> Result<Bound, String> {
        let plan = self.problem.plan_webgpu(&self.context).map_err(text)?;
        if std::env::var_os("PEER_VERBOSE").is_some() {
            eprintln!("{}: {}", self.context.info().name, plan.describe());
        }
        let workspace = match plan.workspace_bytes() {
            0 => None,
            bytes => Some(buffer(&self.context, Contents::Empty(bytes))),
        };
        let args = Args {
            workspace: workspace.as_ref().map(Binding::from),
            ..Args::new(&self.q, &self.k, &self.v, &self.out, &self.lse)
        };
        plan.bind(&args).map_err(text)
    }
}

impl Contender for Gpu {
    fn run(&mut self) -> Result<(), String> {
        if self.bound.is_none() {
            self.bound = Some(self.bind()?);
        }
        let bound = self.bound.as_ref().expect("bound above");
        let mut encoder = self.context.device().create_command_encoder(&Default::default());
        bound.record(&mut encoder);
        self.context.queue().submit([encoder.finish()]);
        self.context.wait().map_err(text)
    }

    fn output(&mut self) -> Result<Vec<f32>, String> {
        let (device, size) = (self.context.device(), self.out.size());
        let staging = device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size,
            usage: BufferUsages::COPY_DST | BufferUsages::MAP_READ,
            mapped_at_creation: false,
        });
        let mut encoder = device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&self.out, 0, &staging, 0, size);
        self.context.queue().submit([encoder.finish()]);
        staging.map_async(wgpu::MapMode::Read, .., |_| {});
        self.context.wait().map_err(text)?;
        let bytes = staging.get_mapped_range(..).map_err(|e| e.to_string())?;
        Ok(loaded(&bytes, self.problem.dtype))
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
    problem: Full,
    inputs: [Vec<f32>; 3],
    result: Option<Output<f32>>,
}

impl Reference {
    fn open(problem: Full, inputs: &[Vec<f32>]) -> Self {
        let rounded = |n: usize| {
            let bytes = stored(&inputs[n], problem.dtype);
            loaded(&bytes, problem.dtype)
        };
        Reference { problem, inputs: [0, 1, 2].map(rounded), result: None }
    }
}

impl Contender for Reference {
    fn run(&mut self) -> Result<(), String> {
        let [q, k, v] = &self.inputs;
        let result = self.problem.reference(&Inputs::new(q, k, v));
        self.result = Some(result.map_err(text)?);
        Ok(())
    }

    fn output(&mut self) -> Result<Vec<f32>, String> {
        let result = self.result.as_ref().ok_or("not run")?;
        Ok(result.out.clone())
    }
}
