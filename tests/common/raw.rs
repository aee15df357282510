//! A launch as a framework does it: its own buffers with guard bands, its own encoder.

use super::Case;
use longhand::full::Output;
use longhand::full::webgpu::{Args, Plan};
use longhand::webgpu::{Binding, Context};
use longhand::{DType, Error};

/// Bytes on both sides of every tensor; not a multiple of 256, so that offsets are odd ones.
pub const GUARD: usize = 256 + 48;

/// Written where nobody may write, and before a launch where everybody must.
const SENTINEL: u32 = 0x7fc0_dead;

pub fn bytes_of(values: &[f32], dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        DType::F16 => values.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect(),
        DType::BF16 => values.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect(),
    }
}

fn floats_of(bytes: &[u8], dtype: DType) -> Vec<f32> {
    let pair = |b: &[u8]| [b[0], b[1]];
    match dtype {
        DType::F32 => {
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
        }
        DType::F16 => {
            bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes(pair(b)).to_f32()).collect()
        }
        DType::BF16 => {
            bytes.chunks_exact(2).map(|b| half::bf16::from_le_bytes(pair(b)).to_f32()).collect()
        }
    }
}

/// A buffer: guard, tensor, guard. The guards are NaN in every dtype.
pub fn guarded(gpu: &Context, tensor: &[u8], guard: usize) -> wgpu::Buffer {
    let size = (guard * 2 + tensor.len()).next_multiple_of(4).max(16);
    let mut bytes: Vec<u8> = SENTINEL.to_le_bytes().into_iter().cycle().take(size).collect();
    bytes[guard..guard + tensor.len()].copy_from_slice(tensor);
    let buffer = gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: size as u64,
        usage: wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::COPY_SRC
            | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    gpu.queue().write_buffer(&buffer, 0, &bytes);
    buffer
}

pub fn read(gpu: &Context, buffer: &wgpu::Buffer) -> Vec<u8> {
    let staging = gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: buffer.size(),
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, buffer.size());
    gpu.queue().submit([encoder.finish()]);
    staging.map_async(wgpu::MapMode::Read, .., |r| r.expect("mapped"));
    gpu.wait().unwrap();
    staging.get_mapped_range(..).unwrap().to_vec()
}

/// Runs `case` from guarded buffers, each tensor `guard` bytes into its own, and checks that
/// nothing outside a result was written and (with a dense layout) nothing inside left out.
pub fn run_guarded(
    gpu: &Context,
    plan: &Plan,
    case: &Case,
    guard: usize,
) -> Result<Output<f32>, Error> {
    let p = &case.problem;
    let sentinel =
        |bytes: usize| SENTINEL.to_le_bytes().into_iter().cycle().take(bytes).collect::<Vec<u8>>();
    let tensor = |x: &[f32], dtype| guarded(gpu, &bytes_of(x, dtype), guard);
    let words = |x: &Vec<i32>| {
        guarded(gpu, &x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>(), guard)
    };
    let (q, k, v) = (tensor(&case.q, p.dtype), tensor(&case.k, p.dtype), tensor(&case.v, p.dtype));
    let out_bytes = p.spans()[3] * p.dtype.bytes();
    let out = guarded(gpu, &sentinel(out_bytes), guard);
    let lse = guarded(gpu, &sentinel(p.lse_len() * 4), guard);
    let slopes = case.alibi_slopes.as_ref().map(|x| tensor(x, DType::F32));
    let bias = case.bias.as_ref().map(|x| tensor(x, DType::F32));
    let valid = case.key_valid.as_ref().map(|x| guarded(gpu, x, guard));
    let cu_q = case.cu_seqlens_q.as_ref().map(words);
    let cu_k = case.cu_seqlens_k.as_ref().map(words);
    let workspace = guarded(gpu, &sentinel(plan.workspace_bytes() as usize), 256);

    let at = |buffer| Binding::new(buffer, guard as u64);
    let args = Args {
        alibi_slopes: slopes.as_ref().map(at),
        bias: bias.as_ref().map(at),
        key_valid: valid.as_ref().map(at),
        cu_seqlens_q: cu_q.as_ref().map(at),
        cu_seqlens_k: cu_k.as_ref().map(at),
        workspace: (plan.workspace_bytes() > 0).then_some(Binding::new(&workspace, 256)),
        ..Args::new(at(&q), at(&k), at(&v), at(&out), at(&lse))
    };
    let bound = plan.bind(&args)?;
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    bound.record(&mut encoder);
    gpu.queue().submit([encoder.finish()]);

    let inside = |buffer: &wgpu::Buffer, len: usize, name: &str| {
        let bytes = read(gpu, buffer);
        let untouched = sentinel(bytes.len());
        assert!(bytes[..guard] == untouched[..guard], "{name}: written before its beginning");
        assert!(bytes[guard + len..] == untouched[guard + len..], "{name}: written past its end");
        bytes[guard..guard + len].to_vec()
    };
    let out = inside(&out, out_bytes, "out");
    let lse = inside(&lse, p.lse_len() * 4, "lse");
    let unwritten = |bytes: &[u8]| bytes.chunks_exact(4).any(|b| b == SENTINEL.to_le_bytes());
    assert!(!unwritten(&lse), "lse: an element was not written ({}): {p:?}", plan.describe());
    // Gaps between rows must be left alone; the reference has zeros there.
    let mut values = floats_of(&out, p.dtype);
    let owned = owned_elements(case);
    for (n, (value, owned)) in values.iter_mut().zip(owned).enumerate() {
        let e = p.dtype.bytes();
        if owned {
            continue;
        }
        let untouched = sentinel(out_bytes);
        assert!(
            out[n * e..][..e] == untouched[n * e..][..e],
            "out: the gap at element {n} was written"
        );
        *value = 0.0;
    }
    Ok(Output { out: values, lse: floats_of(&lse, DType::F32) })
}

/// Which elements of `out`'s span are its own.
fn owned_elements(case: &Case) -> Vec<bool> {
    let p = &case.problem;
    let (s, l) = (&p.shape, &p.layout.out);
    let mut owned = vec![false; p.spans()[3]];
    for batch in 0..p.batches() {
        for row in 0..p.rows_q() {
            for head in 0..s.heads_q {
                let at = batch * l.batch + row * l.seqlen + head * l.head;
                owned[at..at + s.head_dim].fill(true);
            }
        }
    }
    owned
}
