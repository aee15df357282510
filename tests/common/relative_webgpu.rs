//! A launch of relative-position attention on WebGPU from guarded buffers.

use super::guard::{bytes_of, sentinel};
use super::raw::{guarded, read};
use super::relative::{Case, TENSORS, checked};
use longhand::DType;
use longhand::transformer_xl::Output;
use longhand::transformer_xl::webgpu::{Args, Plan};
use longhand::webgpu::{Binding, Context};

/// Runs `case` from guarded buffers, each tensor `guard` bytes into its own, and checks that
/// nothing outside a result was written and nothing inside left out. Biases and what are no numbers
/// of the problem's dtype lie at a multiple of four bytes.
pub fn run_guarded(gpu: &Context, plan: &Plan, case: &Case, guard: usize) -> Output<f32> {
    let p = &case.problem;
    let wide = guard.next_multiple_of(4);
    let tensors: Vec<(wgpu::Buffer, usize)> = TENSORS
        .iter()
        .zip(&case.tensors)
        .map(|(name, x)| match name.contains("bias") || *name == "seg_embed" {
            true => (guarded(gpu, &bytes_of(x, DType::F32), wide), wide),
            false => (guarded(gpu, &bytes_of(x, p.dtype), guard), guard),
        })
        .collect();
    let words = |x: &[u32]| guarded(gpu, bytemuck::cast_slice(x), wide);
    let ids = [&case.seg_q, &case.seg_k].map(|x| words(bytemuck::cast_slice(x)));
    let perm = words(&case.perm_mask);
    let valid = guarded(gpu, &case.key_valid, guard);
    let targets = words(bytemuck::cast_slice(&case.targets));
    let out_bytes = p.span("out") * p.dtype.bytes();
    let out = guarded(gpu, &sentinel(out_bytes), guard);
    let lse = guarded(gpu, &sentinel(p.lse_len() * 4), wide);
    let workspace = guarded(gpu, &sentinel(plan.workspace_bytes() as usize), 256);

    let tensor = |n: usize| Binding::new(&tensors[n].0, tensors[n].1 as u64);
    let at = |buffer, guard: usize| Binding::new(buffer, guard as u64);
    let segments = |binding| p.segments.then_some(binding);
    let args = Args {
        k_memory: p.memory.map(|_| tensor(6)),
        v_memory: p.memory.map(|_| tensor(7)),
        bias_s: segments(tensor(8)),
        seg_embed: segments(tensor(9)),
        seg_q: segments(at(&ids[0], wide)),
        seg_k: segments(at(&ids[1], wide)),
        perm_mask: p.perm_mask.then_some(at(&perm, wide)),
        key_valid: p.key_padding.then_some(at(&valid, guard)),
        targets: p.targets.map(|_| at(&targets, wide)),
        workspace: (plan.workspace_bytes() > 0).then_some(Binding::new(&workspace, 256)),
        ..Args::new(
            [0, 1, 2].map(tensor),
            tensor(3),
            [4, 5].map(tensor),
            at(&out, guard),
            at(&lse, wide),
        )
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
    let lse = inside(&lse, wide, p.lse_len() * 4, "lse");
    checked(p, &out, &lse)
}
