//! What a framework that links the WebGPU backend relies on: its device, its encoder, its buffers,
//! errors instead of panics, nothing reaching its error handler.

mod common;

use common::{Case, Random, device, errors, raw};
use longhand::full::webgpu::Args;
use longhand::webgpu::{Binding, Context};
use longhand::{DType, Error, Full, Shape};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const SHAPE: Shape =
    Shape { batch: 1, heads_q: 2, heads_kv: 1, seqlen_q: 20, seqlen_k: 30, head_dim: 32 };

fn buffer(gpu: &Context, size: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
    gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size,
        usage,
        mapped_at_creation: false,
    })
}

/// The field of an `Invalid` error.
fn field<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result.unwrap_err() {
        Error::Invalid { field, .. } => field,
        other => panic!("not an invalid argument: {other}"),
    }
}

#[test]
fn unfit_buffers_are_named_and_no_wgpu_error_reaches_the_caller() {
    if device().is_none() {
        return;
    }
    // A device of its own, whose error handler counts.
    let gpu = Context::open(std::env::var("LONGHAND_ADAPTER").ok().as_deref()).unwrap();
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = seen.clone();
    gpu.device().on_uncaptured_error(Arc::new(move |e| {
        eprintln!("uncaptured: {e}");
        counter.fetch_add(1, Ordering::SeqCst);
    }));

    let problem = Full::new(SHAPE, DType::F32);
    let plan = problem.plan_webgpu(&gpu).unwrap();
    let storage = wgpu::BufferUsages::STORAGE;
    let make = |size| buffer(&gpu, size, storage);
    let (q, k, v) = (make(20 * 2 * 32 * 4), make(30 * 32 * 4), make(30 * 32 * 4));
    let (out, lse) = (make(20 * 2 * 32 * 4), make(2 * 20 * 4));
    let good = Args::new(&q, &k, &v, &out, &lse);
    assert!(plan.bind(&good).is_ok());

    let small = make(30 * 32 * 4 - 4);
    assert_eq!(field(plan.bind(&Args { k: (&small).into(), ..good })), "k.buffer.size");
    assert_eq!(field(plan.bind(&Args { v: Binding::new(&v, 4), ..good })), "v.buffer.size");
    assert_eq!(field(plan.bind(&Args { q: Binding::new(&q, 2), ..good })), "q.offset");
    assert_eq!(
        field(plan.bind(&Args { q: Binding::new(&q, u64::MAX - 3), ..good })),
        "q.buffer.size"
    );
    let copy_only = buffer(&gpu, 30 * 32 * 4, wgpu::BufferUsages::COPY_DST);
    assert_eq!(field(plan.bind(&Args { v: (&copy_only).into(), ..good })), "v.buffer.usage");
    assert_eq!(field(plan.bind(&Args { out: (&q).into(), ..good })), "out.buffer");
    let both = make(20 * 2 * 32 * 4 + 200);
    let overlapping =
        Args { out: (&both).into(), lse: Binding::new(&both, 20 * 2 * 32 * 4 - 4), ..good };
    assert_eq!(field(plan.bind(&overlapping)), "lse");
    assert_eq!(field(plan.bind(&Args { bias: Some((&k).into()), ..good })), "bias");
    let padded = Full::new(SHAPE, DType::F32).key_padding().plan_webgpu(&gpu).unwrap();
    assert_eq!(field(padded.bind(&good)), "key_valid");

    // Inputs may be views of one buffer, and outputs parts of another.
    let inputs = make(4 * (1280 + 960 + 960));
    let outputs = make(4 * (1280 + 40));
    let views = Args::new(
        &inputs,
        Binding::new(&inputs, 1280 * 4),
        Binding::new(&inputs, (1280 + 960) * 4),
        &outputs,
        Binding::new(&outputs, 1280 * 4),
    );
    let bound = plan.bind(&views).unwrap();
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    bound.record(&mut encoder);
    gpu.queue().submit([encoder.finish()]);
    gpu.wait().unwrap();
    assert_eq!(seen.load(Ordering::SeqCst), 0, "an error reached the caller's handler");
}

#[test]
fn a_split_plan_asks_for_its_workspace() {
    let Some(gpu) = common::device_with(common::baseline_gpu) else { return };
    let problem = Full::new(Shape { seqlen_q: 1, seqlen_k: 4096, ..SHAPE }, DType::F32);
    let plan = problem.plan_webgpu(&gpu).unwrap();
    assert!(plan.workspace_bytes() > 0);
    let make = |size| buffer(&gpu, size, wgpu::BufferUsages::STORAGE);
    let (q, kv, out, lse) = (make(256), make(4096 * 32 * 4), make(256), make(8));
    let args = Args::new(&q, &kv, &kv, &out, &lse);
    assert_eq!(field(plan.bind(&args)), "workspace");
    let small = make(plan.workspace_bytes() - 4);
    assert_eq!(
        field(plan.bind(&Args { workspace: Some((&small).into()), ..args })),
        "workspace.buffer.size"
    );
    let large = make(plan.workspace_bytes() + 256);
    assert_eq!(
        field(plan.bind(&Args { workspace: Some(Binding::new(&large, 4)), ..args })),
        "workspace.offset"
    );
    assert!(plan.bind(&Args { workspace: Some(Binding::new(&large, 256)), ..args }).is_ok());
}

#[test]
fn two_problems_in_one_encoder_do_not_disturb_each_other() {
    let Some(gpu) = device() else { return };
    let mut random = Random(1);
    let cases = [false, true].map(|causal| {
        let problem = Full { causal, ..Full::new(SHAPE, DType::F32) };
        Case::new(problem, &mut random)
    });
    let storage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    let outs: Vec<(wgpu::Buffer, wgpu::Buffer)> = cases
        .iter()
        .map(|case| {
            let upload = |x: &[f32]| raw::guarded(gpu, &raw::bytes_of(x, DType::F32), 0);
            let (q, k, v) = (upload(&case.q), upload(&case.k), upload(&case.v));
            let (out, lse) = (buffer(gpu, 20 * 2 * 32 * 4, storage), buffer(gpu, 160, storage));
            let plan = case.problem.plan_webgpu(gpu).unwrap();
            plan.bind(&Args::new(&q, &k, &v, &out, &lse)).unwrap().record(&mut encoder);
            (out, lse)
        })
        .collect();
    gpu.queue().submit([encoder.finish()]);
    for (case, (out, lse)) in cases.iter().zip(&outs) {
        let floats = |b: &wgpu::Buffer| -> Vec<f32> {
            raw::read(gpu, b)
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                .collect()
        };
        let got = longhand::full::Output { out: floats(out), lse: floats(lse) };
        let (out, lse) = errors(&got, &case.reference());
        assert!(out < 5e-6 && lse < 6e-7, "{out:e} {lse:e}");
    }
}

#[test]
fn a_destroyed_device_is_reported_and_nothing_hangs() {
    if device().is_none() {
        return;
    }
    let gpu = Context::open(std::env::var("LONGHAND_ADAPTER").ok().as_deref()).unwrap();
    let mut random = Random(1);
    let case = Case::new(Full::new(SHAPE, DType::F32), &mut random);
    case.problem.run_webgpu(&gpu, &case.inputs()).unwrap();
    gpu.device().destroy();
    // The callback runs when the device is next polled.
    let _ = gpu.wait();
    assert_eq!(case.problem.run_webgpu(&gpu, &case.inputs()).unwrap_err(), Error::DeviceLost);
    assert_eq!(case.problem.plan_webgpu(&gpu).map(|_| ()).unwrap_err(), Error::DeviceLost);
}

#[test]
fn contexts_on_two_threads_keep_their_errors_apart() {
    if device().is_none() {
        return;
    }
    let run = |bad: bool| {
        let gpu = Context::open(std::env::var("LONGHAND_ADAPTER").ok().as_deref()).unwrap();
        let mut random = Random(2);
        let case = Case::new(Full::new(SHAPE, DType::F32), &mut random);
        for _ in 0..5 {
            if bad {
                let short = longhand::full::Inputs { q: &case.q[1..], ..case.inputs() };
                assert!(case.problem.run_webgpu(&gpu, &short).is_err());
            } else {
                case.problem.run_webgpu(&gpu, &case.inputs()).unwrap();
            }
        }
    };
    std::thread::scope(|s| {
        s.spawn(|| run(true));
        s.spawn(|| run(false));
    });
}

#[test]
fn an_adapter_that_is_not_there_is_an_error_with_the_names_of_those_that_are() {
    let why = Context::open(Some("no such adapter")).unwrap_err();
    assert!(matches!(&why, Error::NoDevice(text) if text.contains("no such adapter")), "{why}");
}
