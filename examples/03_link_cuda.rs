//! Attention inside another program's CUDA work: `cargo run --example 03_link_cuda`.
//!
//! The context, the stream and the memory belong to the host, here through cudarc; raw handles do
//! as well. Q, K and V lie interleaved in one buffer, `[seqlen, 3, heads, head_dim]`, as one matrix
//! product leaves them. The host's copies and the attention are queued on one stream, and nothing
//! waits before the host does.

use cudarc::driver::{CudaContext, DevicePtr, DevicePtrMut};
use longhand::cuda::{Context, Stream};
use longhand::full::cuda::Args;
use longhand::full::{Inputs, Layout};
use longhand::{DType, Full, Shape, Strides};

const SHAPE: Shape =
    Shape { batch: 1, heads_q: 4, heads_kv: 4, seqlen_q: 300, seqlen_k: 300, head_dim: 64 };
/// Elements of one token's queries, and of its keys and values.
const ROW: usize = SHAPE.heads_q * SHAPE.head_dim;
const LEN: usize = SHAPE.seqlen_q;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // cudarc panics where there is no driver; this does not.
    if let Err(why) = Context::devices() {
        println!("SKIPPED: {why}");
        let required = std::env::var("LONGHAND_REQUIRE").unwrap_or_default();
        assert!(!required.contains("cuda"), "LONGHAND_REQUIRE={required}");
        return Ok(());
    }
    // What a host framework has long before it links us.
    let host = CudaContext::new(0)?;
    let stream = host.new_stream()?;
    let values: Vec<f32> =
        (0..LEN * 3 * ROW).map(|n| ((n * 7919) % 1999) as f32 / 1000.0 - 1.0).collect();
    let qkv = stream.clone_htod(&values)?; // the host's work before
    let mut out = stream.alloc_zeros::<f32>(LEN * ROW)?;
    let mut lse = stream.alloc_zeros::<f32>(LEN * SHAPE.heads_q)?;

    // The problem says how far apart rows and heads are; the addresses say where each tensor begins.
    let apart = Strides { batch: LEN * 3 * ROW, seqlen: 3 * ROW, head: SHAPE.head_dim };
    let layout = Layout { q: apart, k: apart, v: apart, ..Layout::bshd(&SHAPE) };
    let problem = Full::new(SHAPE, DType::F32).causal().layout(layout);
    let context = Context::with_cudarc(&host)?;
    let plan = problem.plan_cuda(&context)?;
    let mut workspace = stream.alloc_zeros::<u8>(plan.workspace_bytes().max(1) as usize)?;
    {
        let (qkv, _q) = qkv.device_ptr(&stream);
        let (out, _o) = out.device_ptr_mut(&stream);
        let (lse, _l) = lse.device_ptr_mut(&stream);
        let (workspace, _w) = workspace.device_ptr_mut(&stream);
        let at = |n: usize| qkv + (4 * n * ROW) as u64;
        let workspace = (plan.workspace_bytes() > 0).then_some(workspace);
        let args = Args { workspace, ..Args::new(at(0), at(1), at(2), out, lse) };
        let ours = Stream::with_cudarc(&context, &stream)?;
        // SAFETY: the memory is as large as the problem says, and cudarc frees it on this stream.
        #[allow(unsafe_code)]
        unsafe { plan.launch(&ours, &args) }?;
    }
    let got = stream.clone_dtoh(&out)?; // and after

    let expected = problem.reference(&Inputs::new(&values, &values[ROW..], &values[2 * ROW..]))?;
    let error = got.iter().zip(&expected.out).map(|(a, b)| (a - b).abs());
    let error = error.fold(0.0, |m: f32, e| if e > m || e.is_nan() { e } else { m });
    println!("{}, {}: max error {error:.1e}", context.name(), plan.describe());
    assert!(error < 1e-5, "the device and the reference disagree");
    Ok(())
}
