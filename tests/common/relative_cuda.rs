//! A launch of relative-position attention on CUDA as a framework does it.
#![allow(unsafe_code)]

use super::cuda::{Device, Tensor};
use super::guard::{bytes_of, sentinel};
use super::relative::{Case, TENSORS, checked};
use longhand::cuda::{DeviceBuffer, Stream};
use longhand::transformer_xl::Output;
use longhand::transformer_xl::cuda::{Args, Plan};
use longhand::{DType, Error};

/// Runs `case`, each tensor `guard` bytes into memory of its own, and checks that nothing outside a
/// result was written and nothing inside left out. Without guards the stand-in sees reads outside
/// too.
pub fn run_guarded(
    device: &Device,
    plan: &Plan,
    case: &Case,
    guard: usize,
) -> Result<Output<f32>, Error> {
    let p = &case.problem;
    let stream = Stream::new(&device.context)?;
    // Tensors of 4-byte elements, unlike the large ones, begin on multiples of 4.
    let tensor = |name: &str, bytes: &[u8]| {
        let wide = [
            "lse",
            "bias_u",
            "bias_v",
            "bias_s",
            "seg_embed",
            "seg_q",
            "seg_k",
            "perm_mask",
            "targets",
        ];
        let guard = if wide.contains(&name) { guard.next_multiple_of(4) } else { guard };
        Tensor::new(device, &stream, name, bytes, guard)
    };
    let floats: Vec<Tensor> = TENSORS
        .iter()
        .zip(&case.tensors)
        .map(|(name, x)| {
            let wide = name.starts_with("bias") || *name == "seg_embed";
            tensor(name, &bytes_of(x, if wide { DType::F32 } else { p.dtype }))
        })
        .collect();
    let words = |name: &str, x: &[i32]| {
        tensor(name, &x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
    };
    let (seg_q, seg_k) = (words("seg_q", &case.seg_q), words("seg_k", &case.seg_k));
    let bits: Vec<u8> = case.perm_mask.iter().flat_map(|x| x.to_le_bytes()).collect();
    let perm_mask = tensor("perm_mask", &bits);
    let valid = tensor("key_valid", &case.key_valid);
    let targets = words("targets", &case.targets);
    let out = tensor("out", &sentinel(p.span("out") * p.dtype.bytes()));
    let lse = tensor("lse", &sentinel(p.lse_len() * 4));
    let bytes = plan.workspace_bytes() as usize;
    let workspace = match device.mock {
        // Nothing is written: the stand-in reports what a kernel reads of it before it wrote it.
        Some(_) => Tensor::of(DeviceBuffer::new(&device.context, bytes)?),
        None => Tensor::new(device, &stream, "workspace", &sentinel(bytes), 256),
    };
    let [q, k, v, r, bias_u, bias_v, k_memory, v_memory, bias_s, seg_embed] =
        std::array::from_fn(|n| floats[n].at());
    let memory = |at: u64| p.memory.map(|_| at);
    let segments = |at: u64| p.segments.then_some(at);
    let args = Args {
        k_memory: memory(k_memory),
        v_memory: memory(v_memory),
        bias_s: segments(bias_s),
        seg_embed: segments(seg_embed),
        seg_q: segments(seg_q.at()),
        seg_k: segments(seg_k.at()),
        perm_mask: p.perm_mask.then_some(perm_mask.at()),
        key_valid: p.key_padding.then_some(valid.at()),
        targets: p.targets.map(|_| targets.at()),
        workspace: (bytes > 0).then_some(workspace.at()),
        ..Args::new([q, k, v], r, [bias_u, bias_v], out.at(), lse.at())
    };
    // SAFETY: every tensor is as large as the problem says, and lives until it was read.
    unsafe { plan.launch(&stream, &args) }?;
    if device.mock.is_none() {
        workspace.read(&stream, "workspace")?;
    }
    let (out, lse) = (out.read(&stream, "out")?, lse.read(&stream, "lse")?);
    Ok(checked(p, &out, &lse))
}
