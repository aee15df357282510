//! A launch of LSH attention on CUDA as a framework does it.
#![allow(unsafe_code)]

use super::cuda::{Device, Tensor};
use super::guard::{bytes_of, sentinel};
use super::lsh::{Case, checked, words_of};
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
    let words = |name: &str, tensor: &Option<Tensor>| {
        tensor.as_ref().map(|tensor| tensor.read(&stream, name)).transpose()
    };
    let (rounds, buckets) = (words("lse_rounds", &lse_rounds)?, words("buckets", &computed)?);
    let (out, lse) = (out.read(&stream, "out")?, lse.read(&stream, "lse")?);
    Ok(Output {
        buckets: buckets.map_or_else(|| buckets_of_positions(case), |bytes| words_of(&bytes)),
        order: words_of(&order),
        ..checked(p, &out, &lse, rounds.as_deref())
    })
}

/// The given buckets as a result has them: of an invalid position, the last.
pub fn buckets_of_positions(case: &Case) -> Vec<i32> {
    let p = &case.problem;
    let of_sequence = (p.heads * p.num_hashes * p.seqlen).max(1);
    let valid = |n: usize| {
        let at = n / of_sequence * p.seqlen + n % p.seqlen.max(1);
        case.key_valid.as_ref().is_none_or(|valid| valid[at] != 0)
    };
    let given = case.buckets.iter().flatten().enumerate();
    given.map(|(n, &b)| if valid(n) { b } else { p.buckets() as i32 }).collect()
}

/// The positions of each round in the order of their buckets, equal ones as they were.
pub fn stable_order(seqlen: usize, buckets: &[i32]) -> Vec<i32> {
    let of_round = |buckets: &[i32]| {
        let mut positions: Vec<i32> = (0..seqlen as i32).collect();
        positions.sort_by_key(|&i| buckets[i as usize]);
        positions
    };
    buckets.chunks_exact(seqlen.max(1)).flat_map(of_round).collect()
}

/// How far `out` may be off, by the fixtures' measure. In a 16-bit dtype the result is rounded in
/// each round, which `lsh::tolerance` counts, and so are the probabilities before the product with
/// v, by half a unit in their last place: that moves a row by that much of the sum of p·|v|.
pub fn bound(case: &Case, expected: &Output<f64>) -> f64 {
    let unit = match case.problem.dtype {
        DType::F32 => return super::tolerance(DType::F32),
        DType::F16 => 1.0 / 2048.0,
        DType::BF16 => 1.0 / 256.0,
    };
    let v = case.v.iter().map(|x| x.abs()).collect();
    let sums = Case { v, ..case.clone() }.reference().out;
    let largest = |of: &[f64], least: f64| of.iter().fold(least, |m, x| m.max(x.abs()));
    super::lsh::tolerance(&case.problem) + unit * largest(&sums, 0.0) / largest(&expected.out, 0.1)
}
