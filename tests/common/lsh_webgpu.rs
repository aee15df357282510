//! A launch of LSH attention on WebGPU from guarded buffers.

use super::guard::{bytes_of, sentinel};
use super::lsh::{Case, checked, words_of};
use super::raw::{guarded, read};
use longhand::DType;
use longhand::lsh::Output;
use longhand::lsh::webgpu::{Args, Plan};
use longhand::webgpu::{Binding, Context};

/// Runs `case` from guarded buffers, each tensor `guard` bytes into its own, and checks that
/// nothing outside a result was written and nothing inside left out.
pub fn run_guarded(gpu: &Context, plan: &Plan, case: &Case, guard: usize) -> Output<f32> {
    let p = &case.problem;
    let tensor = |x: &[f32], dtype| guarded(gpu, &bytes_of(x, dtype), guard);
    let (qk, v) = (tensor(&case.qk, p.dtype), tensor(&case.v, p.dtype));
    let rotations = case.rotations.as_ref().map(|x| tensor(x, DType::F32));
    let words = |x: &Vec<i32>| x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let given = case.buckets.as_ref().map_or_else(|| sentinel(p.buckets_len() * 4), words);
    let buckets = p.is_sorted().then(|| guarded(gpu, &given, guard));
    let valid = case.key_valid.as_ref().map(|x| guarded(gpu, x, guard));
    let out_bytes = p.span(&p.layout.out) * p.dtype.bytes();
    let empty = |bytes: usize| guarded(gpu, &sentinel(bytes), guard);
    let (out, lse) = (empty(out_bytes), empty(p.lse_len() * 4));
    let lse_rounds = p.is_sorted().then(|| empty(p.lse_rounds_len() * 4));
    let workspace = guarded(gpu, &sentinel(plan.workspace_bytes() as usize), 256);
    let at = |buffer| Binding::new(buffer, guard as u64);
    let args = Args {
        rotations: rotations.as_ref().map(at),
        buckets: buckets.as_ref().map(at),
        key_valid: valid.as_ref().map(at),
        lse_rounds: lse_rounds.as_ref().map(at),
        workspace: (plan.workspace_bytes() > 0).then_some(Binding::new(&workspace, 256)),
        ..Args::new(at(&qk), at(&v), at(&out), at(&lse))
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
    let workspace = inside(&workspace, 256, plan.workspace_bytes() as usize, "workspace");
    let out = inside(&out, guard, out_bytes, "out");
    let lse = inside(&lse, guard, p.lse_len() * 4, "lse");
    let lse_rounds = lse_rounds.map(|x| inside(&x, guard, p.lse_rounds_len() * 4, "lse_rounds"));
    let mut output = checked(p, &out, &lse, lse_rounds.as_deref());
    if let (Some(buckets), Some(order)) = (&buckets, plan.order()) {
        output.buckets = words_of(&inside(buckets, guard, p.buckets_len() * 4, "buckets"));
        output.order = words_of(&workspace[order.start as usize..order.end as usize]);
    }
    output
}
