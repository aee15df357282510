//! A launch of Longformer's on WebGPU from guarded buffers.

use super::guard::{bytes_of, sentinel};
use super::longformer::{Case, checked};
use super::raw::{guarded, read};
use longhand::longformer::Output;
use longhand::longformer::webgpu::{Args, Plan};
use longhand::webgpu::{Binding, Context};

/// Runs `case` from guarded buffers, each tensor `guard` bytes into its own, and checks that
/// nothing outside a result was written and nothing inside left out.
pub fn run_guarded(gpu: &Context, plan: &Plan, case: &Case, guard: usize) -> Output<f32> {
    let p = &case.problem;
    let tensor = |x: &Vec<f32>| guarded(gpu, &bytes_of(x, p.dtype), guard);
    let [q, k, v] = [&case.q, &case.k, &case.v].map(tensor);
    let global = case.global.as_ref().map(|g| g.each_ref().map(tensor));
    let indices = case
        .global_indices
        .as_ref()
        .map(|x| guarded(gpu, &x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>(), guard));
    let valid = case.key_valid.as_ref().map(|x| guarded(gpu, x, guard));
    let out_bytes = p.span(&p.layout.out) * p.dtype.bytes();
    let out = guarded(gpu, &sentinel(out_bytes), guard);
    let lse = guarded(gpu, &sentinel(p.lse_len() * 4), guard);
    let workspace = guarded(gpu, &sentinel(plan.workspace_bytes() as usize), 256);
    let at = |buffer| Binding::new(buffer, guard as u64);
    let of_global = |n: usize| global.as_ref().map(|g| at(&g[n]));
    let args = Args {
        q_global: of_global(0),
        k_global: of_global(1),
        v_global: of_global(2),
        global_indices: indices.as_ref().map(at),
        key_valid: valid.as_ref().map(at),
        workspace: (plan.workspace_bytes() > 0).then_some(Binding::new(&workspace, 256)),
        ..Args::new(at(&q), at(&k), at(&v), at(&out), at(&lse))
    };
    let bound = plan.bind(&args).unwrap();
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    bound.record(&mut encoder);
    gpu.queue().submit([encoder.finish()]);
    let inside = |buffer: &wgpu::Buffer, guard: usize, len: usize, name: &str| {
        let bytes = read(gpu, buffer);
        let untouched = sentinel(bytes.len());
        assert!(bytes[..guard] == untouched[..guard], "{name}: written before its beginning");
        assert!(bytes[guard + len..] == untouched[guard + len..], "{name}: written past its end");
        bytes[guard..guard + len].to_vec()
    };
    inside(&workspace, 256, plan.workspace_bytes() as usize, "workspace");
    let out = inside(&out, guard, out_bytes, "out");
    let lse = inside(&lse, guard, p.lse_len() * 4, "lse");
    checked(p, &out, &lse)
}
