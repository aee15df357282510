//! The CUDA devices of the tests, and a launch as a framework does it: its own stream, its own
//! memory.
#![allow(unsafe_code)]

use super::Case;
use super::guard::{bytes_of, checked, sentinel};
use super::mock::{self, Mock};
use longhand::cuda::{Context, DeviceBuffer, Stream};
use longhand::full::Output;
use longhand::full::cuda::{Args, Plan};
use longhand::{DType, Error};

/// A device of the tests.
pub struct Device {
    pub name: &'static str,
    pub context: Context,
    /// The stand-in, if the device is one of its.
    pub mock: Option<Mock>,
}

/// Runs `test` on the machine's GPU if the tests are for that (its absence is loud, and an error if
/// `LONGHAND_REQUIRE` names `cuda`), else on each device of the stand-in. A stand-in's reports fail
/// the test, although its results may be right.
pub fn on_devices(test: impl Fn(&Device)) {
    if mock::on_gpu() {
        match Context::open(0) {
            Ok(context) => {
                eprintln!("on {}", context.name());
                test(&Device { name: "gpu", context, mock: None });
            }
            Err(why) => {
                let required = std::env::var("LONGHAND_REQUIRE").unwrap_or_default();
                assert!(!required.contains("cuda"), "LONGHAND_REQUIRE={required}, but {why}");
                eprintln!("SKIPPED: {why}");
            }
        }
        return;
    }
    // Real tensor cores cut what they add up toward zero; one of the two does.
    on_simulated("a100", &[], &test);
    on_simulated("h100", &[("tc", "trunc")], &test);
}

/// Runs `test` on a device of the stand-in with `options` of the simulator.
pub fn on_simulated(name: &'static str, options: &[(&str, &str)], test: impl Fn(&Device)) {
    let Some(mock) = mock::install() else { return };
    mock.set("device", name);
    for (key, value) in options {
        mock.set(key, value);
    }
    let context = Context::open(0).expect("the stand-in has a device");
    let device = Device { name, context, mock: Some(mock) };
    test(&device);
    let report = device.mock.as_ref().map(Mock::report).unwrap_or_default();
    assert!(!report.contains("error["), "{name} {options:?}: {report}");
}

/// A tensor in memory of its own, `guard` bytes from its beginning and from its end.
pub struct Tensor {
    memory: DeviceBuffer,
    guard: usize,
    bytes: usize,
}

impl Tensor {
    pub fn new(
        device: &Device,
        stream: &Stream,
        name: &str,
        tensor: &[u8],
        guard: usize,
    ) -> Tensor {
        let mut bytes = sentinel(2 * guard + tensor.len());
        bytes[guard..guard + tensor.len()].copy_from_slice(tensor);
        let memory = DeviceBuffer::with_bytes(&device.context, stream, &bytes).unwrap();
        if let (Some(mock), false) = (&device.mock, bytes.is_empty()) {
            let written = name.starts_with("out") || ["lse", "workspace"].contains(&name);
            mock.tag(memory.pointer(), !written, name);
        }
        Tensor { memory, guard, bytes: tensor.len() }
    }

    /// All of `memory`, as it is.
    pub fn of(memory: DeviceBuffer) -> Tensor {
        Tensor { memory, guard: 0, bytes: 0 }
    }

    pub fn memory(&self) -> &DeviceBuffer {
        &self.memory
    }

    pub fn at(&self) -> u64 {
        self.memory.pointer() + self.guard as u64
    }

    /// The tensor; what is around it must be as it was.
    pub fn read(&self, stream: &Stream, name: &str) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; self.memory.bytes()];
        self.memory.read(stream, &mut bytes)?;
        let (end, untouched) = (self.guard + self.bytes, sentinel(bytes.len()));
        assert!(bytes[..self.guard] == untouched[..self.guard], "{name}: written before it");
        assert!(bytes[end..] == untouched[end..], "{name}: written past its end");
        Ok(bytes[self.guard..end].to_vec())
    }
}

/// Runs `case`, each tensor `guard` bytes into memory of its own, and checks that nothing outside a
/// result was written and (with a dense layout) nothing inside left out. Without guards the
/// stand-in sees reads outside too.
pub fn run_guarded(
    device: &Device,
    plan: &Plan,
    case: &Case,
    guard: usize,
) -> Result<Output<f32>, Error> {
    let p = &case.problem;
    let stream = Stream::new(&device.context)?;
    let tensor = |name, bytes: &[u8]| Tensor::new(device, &stream, name, bytes, guard);
    let floats = |name, x: &[f32], dtype: DType| tensor(name, &bytes_of(x, dtype));
    let words = |name, x: &Vec<i32>| {
        tensor(name, &x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
    };
    let q = floats("q", &case.q, p.dtype);
    let k = floats("k", &case.k, p.dtype);
    let v = floats("v", &case.v, p.dtype);
    let out = tensor("out", &sentinel(p.spans()[3] * p.dtype.bytes()));
    let lse = tensor("lse", &sentinel(p.lse_len() * 4));
    let slopes = case.alibi_slopes.as_ref().map(|x| floats("alibi_slopes", x, DType::F32));
    let bias = case.bias.as_ref().map(|x| floats("bias", x, DType::F32));
    let table = case.bias_table.as_ref().map(|x| floats("bias_table", x, DType::F32));
    let valid = case.key_valid.as_ref().map(|x| tensor("key_valid", x));
    let cu_q = case.cu_seqlens_q.as_ref().map(|x| words("cu_seqlens_q", x));
    let cu_k = case.cu_seqlens_k.as_ref().map(|x| words("cu_seqlens_k", x));
    let bytes = plan.workspace_bytes() as usize;
    let workspace = match device.mock {
        // Nothing is written: the stand-in reports what a kernel reads of it before it wrote it.
        Some(_) => Tensor::of(DeviceBuffer::new(&device.context, bytes)?),
        None => Tensor::new(device, &stream, "workspace", &sentinel(bytes), 256),
    };

    let at = |tensor: &Option<Tensor>| tensor.as_ref().map(Tensor::at);
    let args = Args {
        alibi_slopes: at(&slopes),
        bias: at(&bias),
        bias_table: at(&table),
        key_valid: at(&valid),
        cu_seqlens_q: at(&cu_q),
        cu_seqlens_k: at(&cu_k),
        workspace: (plan.workspace_bytes() > 0).then_some(workspace.at()),
        ..Args::new(q.at(), k.at(), v.at(), out.at(), lse.at())
    };
    // SAFETY: every tensor is as large as the problem says, and lives until it was read.
    unsafe { plan.launch(&stream, &args) }?;
    if device.mock.is_none() {
        workspace.read(&stream, "workspace")?;
    }
    let (out, lse) = (out.read(&stream, "out")?, lse.read(&stream, "lse")?);
    Ok(checked(case, &out, &lse, &plan.describe()))
}
