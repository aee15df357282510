//! What a framework that links the CUDA backend relies on: its context, its stream, its memory,
//! errors instead of panics, its current context left alone.
#![allow(unsafe_code)]

#[path = "common/mock.rs"]
mod mock;

use cudarc::driver::sys::{self, CUcontext};
use cudarc::driver::{CudaContext, DevicePtr, DevicePtrMut};
use longhand::Error;
use longhand::cuda::{Context, DeviceBuffer, DeviceTimer, Launch, Stream};

/// out[i] = a·x[i], with all parameters in one struct, through shared memory of any size.
const SCALE: &str = r#"
.version 7.4
.target sm_80
.address_size 64
.extern .shared .align 16 .b8 smem[];
.visible .entry scale(.param .align 8 .b8 args[24])
{
  .reg .pred %p<2>;
  .reg .b32 %r<8>;
  .reg .f32 %f<4>;
  .reg .b64 %rd<8>;
  ld.param.u64 %rd1, [args];
  ld.param.u64 %rd2, [args+8];
  ld.param.f32 %f1, [args+16];
  ld.param.u32 %r4, [args+20];
  mov.u32 %r1, %ctaid.x;
  mov.u32 %r2, %ntid.x;
  mov.u32 %r3, %tid.x;
  mad.lo.s32 %r1, %r1, %r2, %r3;
  setp.ge.u32 %p1, %r1, %r4;
  @%p1 bra DONE;
  cvta.to.global.u64 %rd1, %rd1;
  cvta.to.global.u64 %rd2, %rd2;
  mul.wide.u32 %rd3, %r1, 4;
  add.s64 %rd4, %rd1, %rd3;
  add.s64 %rd5, %rd2, %rd3;
  ld.global.f32 %f2, [%rd4];
  mov.u32 %r5, smem;
  shl.b32 %r6, %r3, 2;
  add.u32 %r5, %r5, %r6;
  st.shared.f32 [%r5], %f2;
  ld.shared.f32 %f3, [%r5];
  mul.rn.f32 %f3, %f3, %f1;
  st.global.f32 [%rd5], %f3;
DONE:
  ret;
}
"#;

const N: u32 = 1000;

fn params(out: u64, x: u64, a: f32) -> Vec<u8> {
    let numbers = [&x.to_le_bytes()[..], &out.to_le_bytes(), &a.to_le_bytes(), &N.to_le_bytes()];
    numbers.concat()
}

fn launch() -> Launch {
    Launch::new([N.div_ceil(128), 1, 1], 128).dynamic_shared(512)
}

fn bytes(of: impl Fn(u32) -> f32) -> Vec<u8> {
    (0..N).flat_map(|i| of(i).to_le_bytes()).collect()
}

/// A context, or a loud nothing on a machine that was to have a GPU and has none.
fn open() -> Option<Context> {
    match Context::open(0) {
        Ok(context) => Some(context),
        Err(why) => {
            let required = std::env::var("LONGHAND_REQUIRE").unwrap_or_default();
            assert!(!required.contains("cuda"), "LONGHAND_REQUIRE={required}, but {why}");
            eprintln!("SKIPPED: {why}");
            None
        }
    }
}

fn current() -> CUcontext {
    let mut context = std::ptr::null_mut();
    // SAFETY: `context` is a local.
    unsafe { sys::cuCtxGetCurrent(&mut context) }.result().unwrap();
    context
}

/// The field of an `Invalid` error.
fn field<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result.unwrap_err() {
        Error::Invalid { field, .. } => field,
        other => panic!("not an invalid argument: {other}"),
    }
}

#[test]
fn a_context_of_our_own_computes_and_measures() {
    let _mock = mock::install();
    let Some(context) = open() else { return };
    assert!(context.caps().compute_capability >= (8, 0));
    assert!(context.caps().max_shared_opt_in > 48 << 10);
    assert_eq!(context.is_simulated(), !mock::on_gpu());
    let stream = Stream::new(&context).unwrap();
    let x = DeviceBuffer::with_bytes(&context, &stream, &bytes(|i| i as f32)).unwrap();
    let out = DeviceBuffer::new(&context, 4 * N as usize).unwrap();
    out.fill(&stream, 0xff).unwrap();
    let scale = context.function(SCALE, "scale").unwrap();
    let params = params(out.pointer(), x.pointer(), 3.0);
    let timer = DeviceTimer::new(&context).unwrap();
    let took = timer
        .time(&stream, |stream| {
            // SAFETY: the kernel's parameters; its memory lives until it is done.
            unsafe { scale.launch(stream, &launch(), &params) }
        })
        .unwrap();
    assert!(!took.is_zero());
    let mut got = vec![0; 4 * N as usize];
    out.read(&stream, &mut got).unwrap();
    assert_eq!(got, bytes(|i| 3.0 * i as f32));
    assert!(scale.registers() > 0);
    assert_eq!(scale.static_shared(), 0);
    assert!(scale.blocks_per_sm(128, 512).unwrap() > 0);
    assert!(current().is_null(), "no context was current before");
}

#[test]
fn a_hosts_context_stream_and_memory_are_used_as_they_are() {
    let mock = mock::install();
    if open().is_none() {
        return;
    }
    let host = CudaContext::new(0).unwrap();
    let hosts_stream = host.new_stream().unwrap();
    let x: Vec<f32> = (0..N).map(|i| i as f32).collect();
    let x = hosts_stream.clone_htod(&x).unwrap();
    let mut out = hosts_stream.alloc_zeros::<f32>(N as usize).unwrap();

    let before = current();
    // SAFETY: the host keeps its context until the end.
    let raw = unsafe { Context::from_raw(host.cu_ctx()) }.unwrap();
    for context in [Context::current().unwrap(), Context::with_cudarc(&host).unwrap(), raw] {
        assert_eq!(context.raw(), host.cu_ctx());
        // SAFETY: the host keeps its stream until the end.
        let raw = unsafe { Stream::from_raw(&context, hosts_stream.cu_stream()) };
        for stream in [raw, Stream::with_cudarc(&context, &hosts_stream).unwrap()] {
            let scale = context.function(SCALE, "scale").unwrap();
            let params = {
                let (from, _reading) = x.device_ptr(&hosts_stream);
                let (to, _writing) = out.device_ptr_mut(&hosts_stream);
                params(to, from, 0.5)
            };
            // SAFETY: the kernel's parameters; its memory lives until it is done.
            unsafe { scale.launch(&stream, &launch(), &params) }.unwrap();
            let got = hosts_stream.clone_dtoh(&out).unwrap();
            assert!(got.iter().enumerate().all(|(i, y)| *y == 0.5 * i as f32));
            hosts_stream.memset_zeros(&mut out).unwrap();
        }
    }
    assert_eq!(current(), before);
    if let Some(mock) = &mock {
        assert_eq!((mock.report(), mock.missing()), (String::new(), String::new()));
    }
}

#[test]
fn the_callers_current_context_is_left_alone() {
    let _mock = mock::install();
    let Some(context) = open() else { return };
    let mut other = std::ptr::null_mut();
    // SAFETY: `other` is a local; the context is destroyed below.
    unsafe { sys::cuCtxCreate_v2(&mut other, 0, 0) }.result().unwrap();
    assert_eq!(field(Context::current()), "current context");
    let stream = Stream::new(&context).unwrap();
    let memory = DeviceBuffer::new(&context, 16).unwrap();
    memory.write(&stream, &[7; 16]).unwrap();
    context.function(SCALE, "scale").unwrap();
    drop((stream, memory));
    assert_eq!(current(), other);
    // SAFETY: created above, and nothing of it is left.
    let ours = unsafe { Context::from_raw(other) }.unwrap();
    let stream = Stream::new(&context).unwrap();
    assert_eq!(field(DeviceBuffer::with_bytes(&ours, &stream, &[0; 4])), "stream");
    drop(ours);
    // SAFETY: as above.
    unsafe { sys::cuCtxDestroy_v2(other) }.result().unwrap();
    assert!(current().is_null());
}

#[test]
fn wrong_arguments_are_named() {
    let _mock = mock::install();
    let Some(context) = open() else { return };
    let stream = Stream::new(&context).unwrap();
    let scale = context.function(SCALE, "scale").unwrap();
    assert_eq!(field(context.function(SCALE, "scales")), "entry");
    assert_eq!(field(context.function("a\0b", "scale")), "PTX text");
    let memory = DeviceBuffer::with_bytes(&context, &stream, &[1, 2, 3]).unwrap();
    assert_eq!(field(memory.write(&stream, &[0; 4])), "data");
    assert_eq!(field(memory.read(&stream, &mut [0; 4])), "data");
    let launch = |launch: Launch, params: &[u8]| {
        // SAFETY: refused before it runs.
        unsafe { scale.launch(&stream, &launch, params) }
    };
    let shape = Launch::new([1, 1, 1], 32);
    if cfg!(debug_assertions) && context.caps().driver_version >= 12_040 {
        assert_eq!(field(launch(shape, &[0; 20])), "params");
        assert_eq!(field(launch(shape, &[0; 32])), "params");
    }
    let most = context.caps().max_shared_opt_in;
    assert_eq!(field(launch(shape.dynamic_shared(most + 1), &[0; 24])), "dynamic_shared");
    let error = launch(Launch::new([0, 1, 1], 32), &[0; 24]).unwrap_err();
    assert!(error.to_string().contains("CUDA_ERROR_INVALID_VALUE (1)"), "{error}");
    stream.wait().unwrap();
    let mut empty = [];
    let nothing = DeviceBuffer::with_bytes(&context, &stream, &[]).unwrap();
    nothing.read(&stream, &mut empty).unwrap();
    nothing.fill(&stream, 1).unwrap();
}

#[test]
fn a_rejected_text_comes_with_the_compilers_words() {
    let _mock = mock::install();
    let Some(context) = open() else { return };
    let broken = SCALE.replace("mul.rn.f32 %f3, %f3, %f1;", "mul.rn.f32 %f3, %f3, %undeclared;");
    let error = context.function(&broken, "scale").unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Device(_)), "{text}");
    assert!(text.contains("CUDA_ERROR_INVALID_PTX (218)"), "{text}");
    assert!(text.contains("undeclared"), "{text}");
    // A version of PTX that is not out yet is declined: the driver may be updated.
    let newer = SCALE.replace(".version 7.4", ".version 9.9");
    let error = context.function(&newer, "scale").unwrap_err();
    assert!(matches!(error, Error::Declined(_)), "{error}");
}

#[test]
fn shared_memory_beyond_48_kib_is_asked_for() {
    let mock = mock::install();
    let Some(context) = open() else { return };
    let stream = Stream::new(&context).unwrap();
    let x = DeviceBuffer::with_bytes(&context, &stream, &bytes(|i| i as f32)).unwrap();
    let scale = context.function(SCALE, "scale").unwrap();
    let params = params(x.pointer(), x.pointer(), 1.0);
    for shared in [512, 49_152, 49_153, 100_000, 60_000, context.caps().max_shared_opt_in] {
        // SAFETY: the kernel's parameters; its memory lives until it is done.
        unsafe { scale.launch(&stream, &launch().dynamic_shared(shared), &params) }.unwrap();
        stream.wait().unwrap();
    }
    if let Some(mock) = &mock {
        assert_eq!(mock.report(), "");
    }
}

#[test]
fn a_fault_is_an_error_with_the_drivers_words() {
    // On a GPU the fault would end the context for the other tests of this process.
    let Some(mock) = mock::install() else { return };
    let context = Context::open(0).unwrap();
    let stream = Stream::new(&context).unwrap();
    let x = DeviceBuffer::with_bytes(&context, &stream, &bytes(|i| i as f32)).unwrap();
    let short = DeviceBuffer::new(&context, 4 * N as usize - 4).unwrap();
    let scale = context.function(SCALE, "scale").unwrap();
    let params = params(short.pointer(), x.pointer(), 1.0);
    // SAFETY: one element beyond the memory, which the stand-in catches.
    unsafe { scale.launch(&stream, &launch(), &params) }.unwrap();
    let error = stream.wait().unwrap_err();
    assert!(error.to_string().contains("CUDA_ERROR_ILLEGAL_ADDRESS (700)"), "{error}");
    assert!(mock.report().contains("MEM-OOB-GLOBAL"), "{}", mock.report());
    assert!(stream.wait().is_err(), "the context is of no use any more");
}

#[test]
fn devices_are_listed() {
    let _mock = mock::install();
    if open().is_none() {
        return;
    }
    let devices = Context::devices().unwrap();
    assert!(!devices.is_empty() && !devices[0].name.is_empty());
    let beyond = Context::open(devices.len() as u32).unwrap_err();
    assert!(matches!(beyond, Error::NoDevice(_)), "{beyond}");
    let null = std::ptr::null_mut();
    // SAFETY: null is refused.
    assert_eq!(field(unsafe { Context::from_raw(null) }), "context");
}

#[test]
fn what_is_dropped_is_gone_and_what_is_not_works_without_its_maker() {
    let Some(mock) = mock::install() else { return };
    // Keeps the primary context alive, whose end would take everything with it.
    let host = CudaContext::new(0).unwrap();
    let before = mock.live();
    {
        let (scale, stream, x) = {
            let context = Context::open(0).unwrap();
            let stream = Stream::new(&context).unwrap();
            let x = DeviceBuffer::with_bytes(&context, &stream, &bytes(|i| i as f32)).unwrap();
            DeviceTimer::new(&context).unwrap();
            let again = context.clone().function(SCALE, "scale").unwrap();
            assert_eq!(again.name(), "scale");
            (context.function(SCALE, "scale").unwrap(), stream, x)
        };
        assert_eq!(mock.loaded(), 1, "one text, one module: {}", mock.live());
        let params = params(x.pointer(), x.pointer(), 2.0);
        // SAFETY: the kernel's parameters; its memory lives until it is done.
        unsafe { scale.launch(&stream, &launch(), &params) }.unwrap();
        let mut got = vec![0; 4 * N as usize];
        x.read(&stream, &mut got).unwrap();
        assert_eq!(got, bytes(|i| 2.0 * i as f32));
    }
    assert_eq!(mock.live(), before);
    drop(host);
}

#[test]
fn a_stream_of_another_context_is_refused() {
    let _mock = mock::install();
    if open().is_none() {
        return;
    }
    let host = CudaContext::new(0).unwrap();
    let stream = host.new_stream().unwrap();
    let mut other = std::ptr::null_mut();
    // SAFETY: `other` is a local; the context is destroyed below.
    unsafe { sys::cuCtxCreate_v2(&mut other, 0, 0) }.result().unwrap();
    {
        // SAFETY: created above, destroyed below.
        let other = unsafe { Context::from_raw(other) }.unwrap();
        assert_eq!(field(Stream::with_cudarc(&other, &stream)), "stream");
        let scale = other.function(SCALE, "scale").unwrap();
        let ours = Stream::with_cudarc(&Context::with_cudarc(&host).unwrap(), &stream).unwrap();
        // SAFETY: refused.
        let launched = unsafe { scale.launch(&ours, &launch(), &params(0, 0, 0.0)) };
        assert_eq!(field(launched), "stream");
        let timer = DeviceTimer::new(&other).unwrap();
        assert_eq!(field(timer.time(&ours, |_| Ok(()))), "stream");
    }
    // SAFETY: as above, and nothing of it is left.
    unsafe { sys::cuCtxDestroy_v2(other) }.result().unwrap();
}

#[test]
fn clusters_are_launched_where_the_device_has_them() {
    let mock = mock::install();
    for device in ["a100", "h100"] {
        if let Some(mock) = &mock {
            mock.set("device", device);
        }
        let Some(context) = open() else { return };
        let stream = Stream::new(&context).unwrap();
        let x = DeviceBuffer::with_bytes(&context, &stream, &bytes(|i| i as f32)).unwrap();
        let scale = context.function(SCALE, "scale").unwrap();
        let params = params(x.pointer(), x.pointer(), 2.0);
        let clustered = Launch { cluster: Some([2, 1, 1]), ..launch() };
        // SAFETY: the kernel's parameters; its memory lives until it is done.
        let launched = unsafe { scale.launch(&stream, &clustered, &params) };
        assert_eq!(launched.is_ok(), context.caps().compute_capability >= (9, 0), "{launched:?}");
        let factor = if launched.is_ok() { 2.0 } else { 1.0 };
        let mut got = vec![0; 4 * N as usize];
        x.read(&stream, &mut got).unwrap();
        assert_eq!(got, bytes(|i| factor * i as f32));
    }
}

/// A host that captures its work and launches it as a graph can capture ours.
#[test]
fn a_launch_can_be_captured() {
    use sys::{CUgraphInstantiate_flags as Instantiate, CUstreamCaptureMode as Mode};

    let mock = mock::install();
    if open().is_none() {
        return;
    }
    let host = CudaContext::new(0).unwrap();
    let hosts_stream = host.new_stream().unwrap();
    let context = Context::with_cudarc(&host).unwrap();
    let stream = Stream::with_cudarc(&context, &hosts_stream).unwrap();
    let x = DeviceBuffer::with_bytes(&context, &stream, &bytes(|i| i as f32)).unwrap();
    let scale = context.function(SCALE, "scale").unwrap();
    let params = params(x.pointer(), x.pointer(), 2.0);
    hosts_stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    // Also where the shared memory must be asked for first.
    let large = launch().dynamic_shared(60_000);
    // SAFETY: the kernel's parameters; its memory lives until it is done.
    unsafe { scale.launch(&stream, &large, &params) }.unwrap();
    if mock.is_some() {
        assert!(stream.wait().is_err(), "nothing may wait while a stream captures");
    }
    let graph = hosts_stream.end_capture(Instantiate(0)).unwrap().expect("a graph");
    for _ in 0..3 {
        graph.launch().unwrap();
    }
    let mut got = vec![0; 4 * N as usize];
    x.read(&stream, &mut got).unwrap();
    assert_eq!(got, bytes(|i| 8.0 * i as f32));
}
