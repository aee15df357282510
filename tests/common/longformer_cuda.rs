//! A launch of Longformer's on CUDA as a framework does it.
#![allow(unsafe_code)]

use super::cuda::{Device, Tensor};
use super::guard::{bytes_of, sentinel};
use super::longformer::{Case, checked};
use longhand::Error;
use longhand::cuda::{DeviceBuffer, Stream};
use longhand::longformer::Output;
use longhand::longformer::cuda::{Args, Plan};

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
    let tensor = |name: &str, bytes: &[u8]| Tensor::new(device, &stream, name, bytes, guard);
    let floats = |name: &str, x: &[f32]| tensor(name, &bytes_of(x, p.dtype));
    let q = floats("q", &case.q);
    let k = floats("k", &case.k);
    let v = floats("v", &case.v);
    let out = tensor("out", &sentinel(p.span(&p.layout.out) * p.dtype.bytes()));
    let lse = tensor("lse", &sentinel(p.lse_len() * 4));
    let global: Option<Vec<Tensor>> = case.global.as_ref().map(|global| {
        let named = ["q_global", "k_global", "v_global"].into_iter().zip(global);
        named.map(|(name, x)| floats(name, x)).collect()
    });
    let indices = case.global_indices.as_ref().map(|x| {
        let bytes: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()).collect();
        // Of 4-byte elements, unlike the large tensors.
        Tensor::new(device, &stream, "global_indices", &bytes, guard.next_multiple_of(4))
    });
    let valid = case.key_valid.as_ref().map(|x| tensor("key_valid", x));
    let bytes = plan.workspace_bytes() as usize;
    let workspace = match device.mock {
        // Nothing is written: the stand-in reports what a kernel reads of it before it wrote it.
        Some(_) => Tensor::of(DeviceBuffer::new(&device.context, bytes)?),
        None => Tensor::new(device, &stream, "workspace", &sentinel(bytes), 256),
    };
    let at = |tensor: &Option<Tensor>| tensor.as_ref().map(Tensor::at);
    let own = |n: usize| global.as_ref().map(|g| g[n].at());
    let args = Args {
        q_global: own(0),
        k_global: own(1),
        v_global: own(2),
        global_indices: at(&indices),
        key_valid: at(&valid),
        workspace: (bytes > 0).then_some(workspace.at()),
        ..Args::new(q.at(), k.at(), v.at(), out.at(), lse.at())
    };
    // SAFETY: every tensor is as large as the problem says, and lives until it was read.
    unsafe { plan.launch(&stream, &args) }?;
    if device.mock.is_none() {
        workspace.read(&stream, "workspace")?;
    }
    let (out, lse) = (out.read(&stream, "out")?, lse.read(&stream, "lse")?);
    Ok(checked(p, &out, &lse))
}
