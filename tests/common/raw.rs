//! A launch as a framework does it: its own buffers with guard bands, its own encoder.

use super::Case;
use super::guard::{checked, sentinel};
use longhand::full::Output;
use longhand::full::webgpu::{Args, Plan};
use longhand::webgpu::{Binding, Context};
use longhand::{DType, Error};

pub use super::guard::{GUARD, bytes_of};

/// A buffer: guard, tensor, guard. The guards are NaN in every dtype.
pub fn guarded(gpu: &Context, tensor: &[u8], guard: usize) -> wgpu::Buffer {
    let size = (guard * 2 + tensor.len()).next_multiple_of(4).max(16);
    let mut bytes = sentinel(size);
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
    let table = case.bias_table.as_ref().map(|x| tensor(x, DType::F32));
    let valid = case.key_valid.as_ref().map(|x| guarded(gpu, x, guard));
    let cu_q = case.cu_seqlens_q.as_ref().map(words);
    let cu_k = case.cu_seqlens_k.as_ref().map(words);
    let workspace = guarded(gpu, &sentinel(plan.workspace_bytes() as usize), 256);

    let at = |buffer| Binding::new(buffer, guard as u64);
    let args = Args {
        alibi_slopes: slopes.as_ref().map(at),
        bias: bias.as_ref().map(at),
        bias_table: table.as_ref().map(at),
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
    Ok(checked(case, &out, &lse, &plan.describe()))
}
