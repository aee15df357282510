//! A launch of LSH attention on CUDA as a framework does it.
#![allow(unsafe_code)]

use super::cuda::{Device, Tensor};
use super::guard::{bytes_of, sentinel};
use super::lsh::{Case, checked_out, written};
use longhand::cuda::{DeviceBuffer, Stream};
use longhand::lsh::Output;
use longhand::lsh::cuda::{Args, Plan};
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
    let tensor = |name: &str, bytes: &[u8]| Tensor::new(device, &stream, name, bytes, guard);
    // Of 4-byte elements, unlike the large tensors.
    let words = |name: &str, bytes: &[u8]| {
        Tensor::new(device, &stream, name, bytes, guard.next_multiple_of(4))
    };
    let qk = tensor("qk", &bytes_of(&case.qk, p.dtype));
    let v = tensor("v", &bytes_of(&case.v, p.dtype));
    let rotations = case.rotations.as_ref().map(|x| words("rotations", &bytes_of(x, DType::F32)));
    let given = case.buckets.as_ref().map(|x| {
        let bytes: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()).collect();
        words("buckets", &bytes)
    });
    let computed = (p.is_sorted() && !p.buckets_given)
        .then(|| words("out.buckets", &sentinel(4 * p.buckets_len())));
    let valid = case.key_valid.as_ref().map(|x| tensor("key_valid", x));
    let out = tensor("out", &sentinel(p.span(&p.layout.out) * p.dtype.bytes()));
    let lse = words("lse", &sentinel(p.lse_len() * 4));
    let lse_rounds =
        p.is_sorted().then(|| words("out.lse_rounds", &sentinel(p.lse_rounds_len() * 4)));
    let bytes = plan.workspace_bytes() as usize;
    let workspace = match device.mock {
        // Nothing is written: the stand-in reports what a kernel reads of it before it wrote it.
        Some(_) => Tensor::of(DeviceBuffer::new(&device.context, bytes)?),
        None => Tensor::new(device, &stream, "workspace", &sentinel(bytes), 256),
    };
    let at = |tensor: &Option<Tensor>| tensor.as_ref().map(Tensor::at);
    let args = Args {
        rotations: at(&rotations),
        buckets: at(&given).or(at(&computed)),
        key_valid: at(&valid),
        lse_rounds: at(&lse_rounds),
        workspace: (bytes > 0).then_some(workspace.at()),
        ..Args::new(qk.at(), v.at(), out.at(), lse.at())
    };
    // SAFETY: every tensor is as large as the problem says, and lives until it was read.
    unsafe { plan.launch(&stream, &args) }?;
    let order = match device.mock {
        Some(_) => {
            let mut order = vec![0; 4 * p.buckets_len()];
            workspace.memory().read(&stream, &mut order)?;
            order
        }
        None => workspace.read(&stream, "workspace")?[..4 * p.buckets_len()].to_vec(),
    };
    let floats = |name: &str, tensor: &Tensor| {
        let words = written(name, &tensor.read(&stream, name)?);
        Ok::<_, Error>(words.into_iter().map(f32::from_le_bytes).collect::<Vec<f32>>())
    };
    let ints = |name: &str, bytes: &[u8]| {
        written(name, bytes).into_iter().map(i32::from_le_bytes).collect::<Vec<i32>>()
    };
    let lse = floats("lse", &lse)?;
    let lse_rounds = match &lse_rounds {
        Some(tensor) => floats("lse_rounds", tensor)?,
        None => lse.clone(),
    };
    let buckets = match &computed {
        Some(tensor) => ints("buckets", &tensor.read(&stream, "buckets")?),
        None => case.buckets_of_positions(),
    };
    Ok(Output {
        out: checked_out(p, &out.read(&stream, "out")?),
        lse,
        lse_rounds,
        buckets,
        order: ints("order", &order),
    })
}
