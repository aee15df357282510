//! The stand-in as cudarc sees it.
#![allow(unsafe_code)]

#[path = "../../../tests/common/mock.rs"]
mod mock;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUevent_flags, CUfunction, CUresult};
use cudarc::driver::{CudaContext, CudaStream, DevicePtr, DevicePtrMut};
use std::ffi::{CStr, CString, c_void};
use std::sync::Arc;

/// y = a·x + y.
const AXPY: &CStr = cr#"
.version 7.4
.target sm_80
.address_size 64
.visible .entry axpy(.param .u64 px, .param .u64 py, .param .f32 pa, .param .u32 pn)
{
  .reg .pred %p<2>;
  .reg .b32 %r<5>;
  .reg .f32 %f<5>;
  .reg .b64 %rd<8>;
  ld.param.u64 %rd1, [px];
  ld.param.u64 %rd2, [py];
  ld.param.f32 %f1, [pa];
  ld.param.u32 %r4, [pn];
  mov.u32 %r1, %ctaid.x;
  mov.u32 %r2, %ntid.x;
  mov.u32 %r3, %tid.x;
  mad.lo.s32 %r1, %r1, %r2, %r3;
  setp.ge.u32 %p1, %r1, %r4;
  @%p1 bra DONE;
  cvta.to.global.u64 %rd3, %rd1;
  cvta.to.global.u64 %rd4, %rd2;
  mul.wide.s32 %rd5, %r1, 4;
  add.s64 %rd6, %rd3, %rd5;
  add.s64 %rd7, %rd4, %rd5;
  ld.global.f32 %f2, [%rd6];
  ld.global.f32 %f3, [%rd7];
  fma.rn.f32 %f4, %f1, %f2, %f3;
  st.global.f32 [%rd7], %f4;
DONE:
  ret;
}
"#;

const N: usize = 1000;

fn x() -> Vec<f32> {
    (0..N).map(|i| i as f32).collect()
}

fn function(text: &CStr) -> Result<CUfunction, DriverError> {
    // SAFETY: a text with its end, and the name of a kernel in it. The context unloads it.
    unsafe {
        let module = result::module::load_data(text.as_ptr().cast())?;
        result::module::get_function(module, c"axpy".to_owned())
    }
}

/// Launches over addresses, whatever they are.
fn launch(f: CUfunction, stream: &CudaStream, [mut x, mut y]: [u64; 2]) -> Result<(), DriverError> {
    let (mut a, mut n) = (2.0f32, N as u32);
    let mut args: [*mut c_void; 4] =
        [(&raw mut x).cast(), (&raw mut y).cast(), (&raw mut a).cast(), (&raw mut n).cast()];
    // SAFETY: the kernel's four parameters; a wrong address is what some tests are about.
    unsafe { result::launch_kernel(f, (8, 1, 1), (128, 1, 1), 0, stream.cu_stream(), &mut args) }
}

fn axpy_twice(context: &Arc<CudaContext>, stream: &Arc<CudaStream>) {
    let f = function(AXPY).unwrap();
    let (dx, mut dy) = (stream.clone_htod(&x()).unwrap(), stream.clone_htod(&x()).unwrap());
    let event = || context.new_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
    let (start, end) = (event(), event());
    start.record(stream).unwrap();
    for _ in 0..2 {
        let (px, _x) = dx.device_ptr(stream);
        let (py, _y) = dy.device_ptr_mut(stream);
        launch(f, stream, [px, py]).unwrap();
    }
    end.record(stream).unwrap();
    let got = stream.clone_dtoh(&dy).unwrap();
    assert!(got.iter().enumerate().all(|(i, y)| *y == 5.0 * i as f32), "{:?}", &got[..8]);
    assert!(start.elapsed_ms(&end).unwrap() > 0.0);
}

#[test]
fn memory_modules_events_and_launches_work_with_and_without_pools() {
    let Some(mock) = mock::install() else { return };
    for pools in ["0", "1"] {
        mock.set("pools", pools);
        let context = CudaContext::new(0).unwrap();
        assert_eq!(context.name().unwrap(), "PTX-SIM sm_80 (not a GPU)");
        assert_eq!(context.compute_capability().unwrap(), (8, 0));
        assert_eq!(context.has_async_alloc(), pools == "1");
        axpy_twice(&context, &context.default_stream());
        axpy_twice(&context, &context.new_stream().unwrap());
        let zeros = context.default_stream().alloc_zeros::<f32>(16).unwrap();
        assert_eq!(context.default_stream().clone_dtoh(&zeros).unwrap(), vec![0.0; 16]);
    }
    assert_eq!(mock.report(), "");
    assert_eq!(mock.missing(), "");
    let counters = mock.counters("axpy", 7).expect("the eighth launch");
    assert!(counters.contains("warp_instructions"), "{counters}");
    assert_eq!(mock.counters("axpy", 8), None);
}

#[test]
fn a_fault_is_the_result_of_a_later_call_and_stays() {
    let Some(mock) = mock::install() else { return };
    {
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        let f = function(AXPY).unwrap();
        launch(f, &stream, [0x1000, 0x1000]).unwrap();
        let fault = Err(DriverError(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS));
        assert_eq!(stream.synchronize(), fault);
        assert_eq!(stream.synchronize(), fault);
        assert_eq!(launch(f, &stream, [0, 0]), fault);
        assert!(mock.report().contains("error[MEM-"), "{}", mock.report());
    }
    // The last release of the context ends it.
    let context = CudaContext::new(0).unwrap();
    axpy_twice(&context, &context.default_stream());
}

#[test]
fn immediate_mode_returns_a_fault_from_the_launch() {
    let Some(mock) = mock::install() else { return };
    mock.set("mode", "immediate");
    let context = CudaContext::new(0).unwrap();
    let f = function(AXPY).unwrap();
    let launched = launch(f, &context.default_stream(), [0x1000, 0x1000]);
    assert_eq!(launched, Err(DriverError(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS)));
}

#[test]
fn what_a_driver_refuses_is_refused() {
    let Some(mock) = mock::install() else { return };
    let context = CudaContext::new(0).unwrap();
    let load = |text: &str| function(&CString::new(text).unwrap()).unwrap_err().0;
    let text = AXPY.to_str().unwrap();
    assert_eq!(load("nonsense"), CUresult::CUDA_ERROR_INVALID_PTX);
    assert_eq!(load(&text.replace("7.4", "9.9")), CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
    let hopper = text.replace("7.4", "8.0").replace("sm_80", "sm_90a");
    assert_eq!(load(&hopper), CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
    assert_eq!(load(&text.replace("axpy", "other")), CUresult::CUDA_ERROR_NOT_FOUND);
    mock.set("driver", "12000");
    assert_eq!(load(&text.replace("7.4", "8.1")), CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION);

    let f = function(AXPY).unwrap();
    let stream = context.default_stream();
    let shape = |grid, block, shared| {
        // SAFETY: refused before a parameter is looked at.
        unsafe { result::launch_kernel(f, grid, block, shared, stream.cu_stream(), &mut []) }
            .unwrap_err()
            .0
    };
    assert_eq!(shape((0, 1, 1), (32, 1, 1), 0), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(shape((1, 65_536, 1), (32, 1, 1), 0), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(shape((1, 1, 1), (1025, 1, 1), 0), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(shape((1, 1, 1), (32, 1, 1), 49_153), CUresult::CUDA_ERROR_INVALID_VALUE);
    let report = mock.report();
    assert!(report.contains("LAUNCH-DIM") && report.contains("LAUNCH-SMEM"), "{report}");

    assert!(stream.alloc_zeros::<u8>(100 << 30).is_err(), "more than the device has");
    assert_eq!(mock.missing(), "");
}

#[test]
fn streams_run_in_any_order_that_events_allow() {
    let Some(mock) = mock::install() else { return };
    for seed in 0..16 {
        mock.set("seed", &seed.to_string());
        let context = CudaContext::new(0).unwrap();
        let f = function(AXPY).unwrap();
        let [a, b] = [0; 2].map(|_| context.new_stream().unwrap());
        let (dx, dy) = (a.clone_htod(&x()).unwrap(), a.clone_htod(&x()).unwrap());
        let (px, py) = (dx.device_ptr(&a).0, dy.device_ptr(&a).0);
        launch(f, &a, [px, py]).unwrap(); // y = 3x
        b.join(&a).unwrap();
        launch(f, &b, [py, px]).unwrap(); // x = 7x
        a.join(&b).unwrap();
        launch(f, &a, [px, py]).unwrap(); // y = 17x
        let got = a.clone_dtoh(&dy).unwrap();
        assert_eq!((got[1], got[999]), (17.0, 17.0 * 999.0), "seed {seed}");
    }
}

#[test]
fn streams_that_nothing_orders_run_in_more_than_one_order() {
    let Some(mock) = mock::install() else { return };
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..16 {
        mock.set("seed", &seed.to_string());
        let context = CudaContext::new(0).unwrap();
        let f = function(AXPY).unwrap();
        let [a, b] = [0; 2].map(|_| context.new_stream().unwrap());
        let (dx, dy) = (a.clone_htod(&x()).unwrap(), a.clone_htod(&x()).unwrap());
        let (px, py) = (dx.device_ptr(&a).0, dy.device_ptr(&a).0);
        context.synchronize().unwrap();
        launch(f, &a, [px, py]).unwrap();
        launch(f, &b, [py, px]).unwrap();
        context.synchronize().unwrap();
        seen.insert(a.clone_dtoh(&dy).unwrap()[1] as u32);
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [3, 7]);
}

#[test]
fn a_copy_to_pinned_memory_lands_when_it_is_waited_for() {
    let Some(_mock) = mock::install() else { return };
    let context = CudaContext::new(0).unwrap();
    let stream = context.default_stream();
    let dx = stream.clone_htod(&x()).unwrap();
    let px = dx.device_ptr(&stream).0;
    // SAFETY: page-locked memory of N floats, copied to, waited for, and freed once.
    unsafe {
        let host = result::malloc_host(4 * N, 0).unwrap().cast::<f32>();
        let to = std::slice::from_raw_parts_mut(host, N);
        result::memcpy_dtoh_async(to, px, stream.cu_stream()).unwrap();
        assert!(host.read_volatile().is_nan(), "poisoned until then");
        stream.synchronize().unwrap();
        assert_eq!(std::slice::from_raw_parts(host, N), x());
        result::free_host(host.cast()).unwrap();
    }
}

#[test]
fn clusters_are_of_sm_90() {
    let Some(mock) = mock::install() else { return };
    let refused = Err(DriverError(CUresult::CUDA_ERROR_INVALID_CLUSTER_SIZE));
    for (device, blocks, expected) in
        [("a100", 2, refused), ("h100", 2, Ok(())), ("h100", 3, refused), ("h100", 16, refused)]
    {
        mock.set("device", device);
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        let f = function(AXPY).unwrap();
        let dx = stream.clone_htod(&x()).unwrap();
        let (mut px, mut a, mut n) = (dx.device_ptr(&stream).0, 0.0f32, N as u32);
        let mut args: [*mut c_void; 4] =
            [(&raw mut px).cast(), (&raw mut px).cast(), (&raw mut a).cast(), (&raw mut n).cast()];
        // SAFETY: zeros are a value of it; the launch is as in `launch`.
        let launched = unsafe {
            let mut cluster: sys::CUlaunchAttribute = std::mem::zeroed();
            cluster.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
            cluster.value.clusterDim.x = blocks;
            cluster.value.clusterDim.y = 1;
            cluster.value.clusterDim.z = 1;
            let config = sys::CUlaunchConfig {
                gridDimX: 16,
                gridDimY: 1,
                gridDimZ: 1,
                blockDimX: 64,
                blockDimY: 1,
                blockDimZ: 1,
                sharedMemBytes: 0,
                hStream: stream.cu_stream(),
                attrs: &mut cluster,
                numAttrs: 1,
            };
            sys::cuLaunchKernelEx(&config, f, args.as_mut_ptr(), std::ptr::null_mut()).result()
        };
        assert_eq!(launched, expected, "{device}, cluster of {blocks}");
        stream.synchronize().unwrap();
    }
}

#[test]
fn a_tensor_map_is_encoded_if_its_numbers_are_right() {
    use sys::CUtensorMapDataType as Type;
    use sys::CUtensorMapFloatOOBfill as Fill;
    use sys::CUtensorMapInterleave as Interleave;
    use sys::CUtensorMapL2promotion as Promotion;
    use sys::CUtensorMapSwizzle as Swizzle;

    let Some(_mock) = mock::install() else { return };
    let context = CudaContext::new(0).unwrap();
    let stream = context.default_stream();
    let data = stream.alloc_zeros::<u16>(64 * 128).unwrap();
    let address = data.device_ptr(&stream).0;
    let encode = |address: u64, row_bytes: u64, box_width: u32| {
        // SAFETY: zeros are a value of it; the lists are two, one, two and two numbers.
        unsafe {
            let mut map: sys::CUtensorMap = std::mem::zeroed();
            sys::cuTensorMapEncodeTiled(
                &mut map,
                Type::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                2,
                address as *mut c_void,
                [64, 128].as_ptr(),
                [row_bytes].as_ptr(),
                [box_width, 64].as_ptr(),
                [1, 1].as_ptr(),
                Interleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                Swizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                Promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                Fill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
            .result()
        }
    };
    let refused = Err(DriverError(CUresult::CUDA_ERROR_INVALID_VALUE));
    assert_eq!(encode(address, 128, 64), Ok(()));
    assert_eq!(encode(address + 8, 128, 64), refused, "the address");
    assert_eq!(encode(address, 120, 64), refused, "the stride");
    assert_eq!(encode(address, 128, 128), refused, "wider than the swizzle");
    assert_eq!(encode(0x1000, 128, 64), refused, "no memory of the device");
}

/// Everything that cudarc's bindings may look up is there: a stray call is an error, no panic.
#[test]
fn a_function_that_is_not_supported_says_so_and_is_recorded() {
    let Some(mock) = mock::install() else { return };
    // SAFETY: it takes nothing.
    let result = unsafe { sys::cuProfilerStart() };
    assert_eq!(result, CUresult::CUDA_ERROR_NOT_SUPPORTED);
    assert_eq!(mock.missing(), "cuProfilerStart");
}
