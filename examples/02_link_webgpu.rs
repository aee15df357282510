//! Attention inside another program's WebGPU work: `cargo run --example 02_link_webgpu`.
//!
//! The device, the buffers and the encoder belong to the host. Q, K and V lie interleaved in one
//! buffer, `[seqlen, 3, heads, head_dim]`, as one matrix product leaves them; the host's own copy
//! and the attention are recorded into one encoder and submitted once.

use longhand::full::webgpu::Args;
use longhand::full::{Inputs, Layout};
use longhand::webgpu::{Binding, Context};
use longhand::{DType, Full, Shape, Strides};
use wgpu::BufferUsages as Usage;

const SHAPE: Shape =
    Shape { batch: 1, heads_q: 4, heads_kv: 4, seqlen_q: 300, seqlen_k: 300, head_dim: 64 };
/// Elements of one token's queries, and of its keys and values.
const ROW: usize = SHAPE.heads_q * SHAPE.head_dim;
const LEN: usize = SHAPE.seqlen_q;

/// What a host framework has long before it links us; `None` without an adapter.
fn host_device() -> Option<(wgpu::Device, wgpu::Queue)> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.request_adapter(&Default::default())).ok()?;
    Some(pollster::block_on(adapter.request_device(&Default::default())).expect("the adapter's"))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Some((device, queue)) = host_device() else {
        println!("SKIPPED: no WebGPU adapter");
        assert!(std::env::var_os("LONGHAND_REQUIRE").is_none(), "LONGHAND_REQUIRE is set");
        return Ok(());
    };
    let buffer = |floats: usize, usage| {
        let size = 4 * floats as u64;
        device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size,
            usage,
            mapped_at_creation: false,
        })
    };
    let host: Vec<f32> =
        (0..LEN * 3 * ROW).map(|n| ((n * 7919) % 1999) as f32 / 1000.0 - 1.0).collect();
    let bytes: &[u8] = bytemuck::cast_slice(&host);
    let upload = buffer(host.len(), Usage::COPY_SRC | Usage::COPY_DST);
    let qkv = buffer(host.len(), Usage::STORAGE | Usage::COPY_DST);
    let out = buffer(LEN * ROW, Usage::STORAGE | Usage::COPY_SRC);
    let lse = buffer(LEN * SHAPE.heads_q, Usage::STORAGE);
    let read = buffer(LEN * ROW, Usage::MAP_READ | Usage::COPY_DST);
    queue.write_buffer(&upload, 0, bytes);

    // The problem says how far apart rows and heads are; the bindings say where each tensor begins.
    let apart = Strides { batch: LEN * 3 * ROW, seqlen: 3 * ROW, head: SHAPE.head_dim };
    let layout = Layout { q: apart, k: apart, v: apart, ..Layout::bshd(&SHAPE) };
    let problem = Full::new(SHAPE, DType::F32).causal().layout(layout);
    let plan = problem.plan_webgpu(&Context::new(device.clone(), queue.clone()))?;
    let at = |n: usize| Binding::new(&qkv, (4 * n * ROW) as u64);
    let workspace = buffer((plan.workspace_bytes() / 4).max(1) as usize, Usage::STORAGE);
    let workspace = (plan.workspace_bytes() > 0).then_some(Binding::from(&workspace));
    let bound = plan.bind(&Args { workspace, ..Args::new(at(0), at(1), at(2), &out, &lse) })?;

    let mut encoder = device.create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(&upload, 0, &qkv, 0, bytes.len() as u64); // the host's work before
    bound.record(&mut encoder);
    encoder.copy_buffer_to_buffer(&out, 0, &read, 0, read.size()); // and after
    queue.submit([encoder.finish()]);

    read.map_async(wgpu::MapMode::Read, .., |mapped| mapped.expect("mapped"));
    device.poll(wgpu::PollType::wait_indefinitely())?;
    let mapped = read.get_mapped_range(..)?;
    let got: &[f32] = bytemuck::cast_slice(&mapped);

    let expected = problem.reference(&Inputs::new(&host, &host[ROW..], &host[2 * ROW..]))?;
    let error = got.iter().zip(&expected.out).map(|(a, b)| (a - b).abs());
    let error = error.fold(0.0, |m: f32, e| if e > m || e.is_nan() { e } else { m });
    println!("{}, {}: max error {error:.1e}", device.adapter_info().name, plan.describe());
    assert!(error < 1e-5, "the device and the reference disagree");
    Ok(())
}
