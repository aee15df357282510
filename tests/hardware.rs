//! What the simulator believes about the machine, asked of the driver: the worked cases, the
//! instruction vectors and the error bounds of `crates/ptx-sim`. On the stand-in the answers are the
//! simulator's own, so that this holds it to its vectors through a driver; with
//! `LONGHAND_TEST_DEVICE=gpu` they are the hardware's, and a difference is an error of ours.
#![allow(unsafe_code)]

#[path = "common/mock.rs"]
mod mock;

use longhand::cuda::{Context, DeviceBuffer, Launch, Stream};
use ptx_sim::alu::L32;
use ptx_sim::case::{Arg, Case};
use ptx_sim::tc::{self, Tc};
use std::collections::BTreeMap;
use std::path::PathBuf;

struct Device {
    context: Context,
    stream: Stream,
    mock: Option<mock::Mock>,
}

/// The GPU, or the stand-in as an H100, which has both instruction sets. `None`, loudly, where the
/// tests are for a GPU and there is none.
fn device() -> Option<Device> {
    let mock = mock::install();
    if let Some(mock) = &mock {
        mock.set("device", "h100");
    }
    match Context::open(0) {
        Ok(context) => {
            let stream = Stream::new(&context).expect("a stream");
            Some(Device { context, stream, mock })
        }
        Err(why) => {
            let required = std::env::var("LONGHAND_REQUIRE").unwrap_or_default();
            assert!(!required.contains("cuda"), "LONGHAND_REQUIRE={required}, but {why}");
            eprintln!("SKIPPED: {why}");
            None
        }
    }
}

impl Device {
    fn upload(&self, bytes: &[u8]) -> DeviceBuffer {
        DeviceBuffer::with_bytes(&self.context, &self.stream, bytes).expect("memory")
    }

    fn launch(&self, text: &str, entry: &str, launch: &Launch, params: &[u8]) {
        let function =
            self.context.function(text, entry).unwrap_or_else(|e| panic!("{entry}: {e}"));
        // SAFETY: each test gives the parameters that its kernel takes, of buffers that it keeps.
        let launched = unsafe { function.launch(&self.stream, launch, params) };
        launched.and_then(|()| self.stream.wait()).unwrap_or_else(|e| panic!("{entry}: {e}"));
        if let Some(mock) = &self.mock {
            assert_eq!(mock.report(), "", "{entry}");
        }
    }

    fn download(&self, buffer: &DeviceBuffer) -> Vec<u8> {
        let mut bytes = vec![0; buffer.bytes()];
        buffer.read(&self.stream, &mut bytes).expect("a copy");
        bytes
    }
}

fn data(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("crates/ptx-sim/tests/data").join(path)
}

fn unhex(text: &str) -> Vec<u8> {
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hex");
    (0..text.len()).step_by(2).map(byte).collect()
}

#[test]
fn the_worked_cases_give_their_bits() {
    let Some(device) = device() else { return };
    // c04 takes tensor maps, which the host layer does not make yet.
    for name in [
        "c01_axpy",
        "c02_block_sum",
        "c03_mma_cpasync",
        "c05_wgmma_rs",
        "c06_ring",
        "c07_last_cta",
        "c08_cluster",
    ] {
        let read = |extension: &str| {
            let path = data(&format!("cases/{name}.{extension}"));
            std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        };
        let (case, text) = (Case::from_json(&read("json")).expect("a case"), read("ptx"));
        if text.contains("sm_90a") && !device.context.caps().runs_sm90a() {
            eprintln!("SKIPPED: {name} is for sm_90a");
            continue;
        }
        let buffers: BTreeMap<&str, DeviceBuffer> = case
            .buffers
            .iter()
            .map(|b| {
                let poison = || vec![0xff; b.poison_bytes.unwrap_or(0) as usize];
                (b.name.as_str(), device.upload(&b.hex.as_deref().map_or_else(poison, unhex)))
            })
            .collect();
        let mut params = Vec::new();
        for arg in &case.args {
            let bytes = match arg {
                Arg::Ptr(name) => buffers[name.as_str()].pointer().to_le_bytes().to_vec(),
                Arg::F32(x) => x.to_le_bytes().to_vec(),
                Arg::U32(n) => n.to_le_bytes().to_vec(),
                Arg::U64(n) => n.to_le_bytes().to_vec(),
                Arg::Tensormap(_) => panic!("{name}: a tensor map"),
            };
            params.resize(params.len().next_multiple_of(bytes.len()), 0);
            params.extend(bytes);
        }
        let cluster = case.launch.cluster;
        let launch = Launch {
            grid: case.launch.grid,
            block: case.launch.block,
            cluster: (cluster != [1, 1, 1]).then_some(cluster),
            dynamic_shared: case.launch.dyn_smem,
        };
        device.launch(&text, &case.entry, &launch, &params);
        for expect in &case.expect {
            let got = device.download(&buffers[expect.name.as_str()]);
            let wanted = unhex(&expect.hex);
            assert!(expect.abs_tol.is_some() || got == wanted, "{name}: {}", expect.name);
        }
    }
}

/// Bits of an instruction's sources and result, from its types; none where a kernel would need more
/// than operands in registers.
fn widths(op: &str) -> Option<(Vec<u32>, u32)> {
    let parts: Vec<&str> = op.split('.').collect();
    let bits = |ty: &str| match ty {
        "f16" | "bf16" | "e4m3x2" | "e5m2x2" | "b16" => 16,
        "s64" | "u64" | "f64" | "b64" => 64,
        _ => 32,
    };
    let last = parts.last().copied().unwrap_or("");
    Some(match parts[0] {
        "lop3" | "shfl" => return None,
        "cvt" => {
            let to = parts[parts.len() - 2];
            let packs = matches!(to, "f16x2" | "bf16x2" | "e4m3x2" | "e5m2x2") && last == "f32";
            (vec![bits(last); if packs { 2 } else { 1 }], bits(to))
        }
        "popc" | "clz" | "brev" | "bfind" => (vec![32], 32),
        "bfi" => (vec![32; 4], 32),
        "fma" | "mad" | "shf" | "prmt" | "bfe" => (vec![32; 3], 32),
        "mul" if parts[1] == "wide" => (vec![32; 2], 64),
        "setp" => (vec![32; 2], 1),
        _ => (vec![32; 2], 32),
    })
}

/// A kernel that applies `op` to the vectors of [n][4] words and writes 64-bit results.
fn kernel(op: &str, sources: &[u32], result: u32) -> String {
    let register = |bits: u32, name: String| match bits {
        16 => format!("%h{name}"),
        _ => format!("%x{name}"),
    };
    let mut body = String::new();
    for (i, bits) in sources.iter().enumerate() {
        body += &format!("  ld.global.b32 %x{i}, [%in+{}];\n", 4 * i);
        if *bits == 16 {
            body += &format!("  cvt.u16.u32 %h{i}, %x{i};\n");
        }
    }
    let operands: Vec<String> =
        sources.iter().enumerate().map(|(i, bits)| register(*bits, i.to_string())).collect();
    let operands = operands.join(", ");
    body += &match result {
        1 => format!("  {op} %p1, {operands};\n  selp.b64 %y, 1, 0, %p1;\n"),
        16 => format!("  {op} %h9, {operands};\n  cvt.u64.u16 %y, %h9;\n"),
        64 => format!("  {op} %y, {operands};\n"),
        _ => format!("  {op} %x9, {operands};\n  cvt.u64.u32 %y, %x9;\n"),
    };
    format!(
        ".version 8.1
.target sm_90
.address_size 64
.visible .entry apply(.param .u64 p_in, .param .u64 p_out, .param .u64 p_n)
{{
  .reg .pred %p<2>;
  .reg .b16 %h<10>;
  .reg .b32 %x<10>, %i, %n, %t;
  .reg .b64 %in, %out, %y, %w;
  ld.param.u64 %in, [p_in];
  ld.param.u64 %out, [p_out];
  ld.param.u32 %n, [p_n];
  mov.u32 %i, %ctaid.x;
  mov.u32 %x9, %ntid.x;
  mov.u32 %t, %tid.x;
  mad.lo.u32 %i, %i, %x9, %t;
  setp.ge.u32 %p0, %i, %n;
  @%p0 bra DONE;
  mul.wide.u32 %w, %i, 16;
  add.u64 %in, %in, %w;
  mul.wide.u32 %w, %i, 8;
  add.u64 %out, %out, %w;
{body}  st.global.b64 [%out], %y;
DONE:
  ret;
}}
"
    )
}

impl Device {
    /// `op` of many vectors of up to four words.
    fn apply(&self, op: &str, (sources, result): (&[u32], u32), vectors: &[[u32; 4]]) -> Vec<u64> {
        let words: Vec<u8> = vectors.iter().flatten().flat_map(|w| w.to_le_bytes()).collect();
        let (input, output) = (self.upload(&words), self.upload(&vec![0; 8 * vectors.len()]));
        let mut params = Vec::new();
        for word in [input.pointer(), output.pointer(), vectors.len() as u64] {
            params.extend(word.to_le_bytes());
        }
        let blocks = vectors.len().div_ceil(128) as u32;
        let text = kernel(op, sources, result);
        self.launch(&text, "apply", &Launch::new([blocks, 1, 1], 128), &params);
        let bytes = self.download(&output);
        let word = |c: &[u8]| c.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b));
        bytes.chunks_exact(8).map(word).collect()
    }
}

#[test]
fn the_instruction_vectors_hold() {
    let Some(device) = device() else { return };
    if device.context.caps().compute_capability < (9, 0) {
        eprintln!("SKIPPED: the vectors have instructions of sm_90");
        return;
    }
    let text = std::fs::read_to_string(data("units.json")).expect("units.json");
    let units: BTreeMap<String, serde_json::Value> = serde_json::from_str(&text).expect("JSON");
    let number = |v: &serde_json::Value| {
        u64::from_str_radix(v.as_str().expect("hex digits"), 16).expect("hex")
    };
    let (mut ops, mut count, mut wrong) = (0, 0, Vec::new());
    for (op, vectors) in &units {
        let Some((sources, result)) = widths(op) else { continue };
        let vectors = vectors.as_array().expect("vectors");
        let inputs: Vec<[u32; 4]> = vectors
            .iter()
            .map(|v| {
                let all = v[0].as_array().expect("sources");
                assert_eq!(all.len(), sources.len(), "{op}");
                std::array::from_fn(|i| all.get(i).map_or(0, |x| number(x) as u32))
            })
            .collect();
        let got = device.apply(op, (&sources, result), &inputs);
        for ((got, vector), input) in got.iter().zip(vectors).zip(&inputs) {
            count += 1;
            if *got != number(&vector[1]) {
                wrong.push(format!("{op} {input:x?}: {got:x}, expected {}", vector[1]));
            }
        }
        ops += 1;
    }
    println!("{ops} operations, {count} vectors, {} differ", wrong.len());
    wrong.truncate(40);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Error of the approximate instructions against the PTX ISA's bounds.
#[test]
fn approximations_stay_within_their_bounds() {
    let Some(device) = device() else { return };
    // Bounds of the PTX ISA: in units of the last place, or (0) relative 2^-22.
    type Function = fn(f64) -> f64;
    let exact: [(&str, f64, Function, f32, f32); 4] = [
        ("ex2.approx.ftz.f32", 0.0, f64::exp2, -120.0, 120.0),
        ("rcp.approx.ftz.f32", 1.0, f64::recip, 1e-30, 1e30),
        ("sqrt.approx.ftz.f32", 3.0, f64::sqrt, 1e-30, 1e30),
        ("lg2.approx.ftz.f32", 0.0, f64::log2, 1e-30, 1e30),
    ];
    for (op, most, function, low, high) in exact {
        // Spread over the exponents where the function takes them.
        let n = if device.mock.is_some() { 4096 } else { 1 << 20 };
        let inputs: Vec<[u32; 4]> = (0..n)
            .map(|i| {
                let t = (f64::from(i) + 0.5) / f64::from(n);
                let x = match low > 0.0 {
                    true => (f64::from(low).ln() * (1.0 - t) + f64::from(high).ln() * t).exp(),
                    false => f64::from(low) * (1.0 - t) + f64::from(high) * t,
                };
                [(x as f32).to_bits(), 0, 0, 0]
            })
            .collect();
        let got = device.apply(op, (&[32], 32), &inputs);
        let (mut worst, mut right) = (0f64, 0);
        for (input, got) in inputs.iter().zip(&got) {
            let wanted = function(f64::from(f32::from_bits(input[0])));
            let found = f64::from(f32::from_bits(*got as u32));
            right += u64::from((wanted as f32).to_bits() == *got as u32);
            let unit = if most == 0.0 {
                // lg2: absolute 2^-22 between 1/2 and 2, else relative.
                if wanted.abs() < 1.0 && op.starts_with("lg2") {
                    f64::exp2(-22.0)
                } else {
                    wanted.abs() * f64::exp2(-22.0)
                }
            } else {
                f64::exp2(wanted.abs().log2().floor() - 23.0)
            };
            worst = worst.max((found - wanted).abs() / unit);
        }
        println!("{op}: {worst:.3} units at most, {right} of {n} correctly rounded");
        assert!(worst <= if most == 0.0 { 1.0 } else { most }, "{op}: {worst}");
    }
}

/// D = A·B + C of one warp, fragments as they are.
const MMA: &str = ".version 8.0
.target sm_80
.address_size 64
.visible .entry product(.param .u64 p_abc, .param .u64 p_d)
{
  .reg .b32 %a<4>, %b<2>, %i, %x;
  .reg .f32 %c<4>;
  .reg .b64 %in, %out, %w;
  ld.param.u64 %in, [p_abc];
  ld.param.u64 %out, [p_d];
  mov.u32 %i, %ctaid.x;
  shl.b32 %i, %i, 5;
  mov.u32 %x, %tid.x;
  add.u32 %i, %i, %x;
  mul.wide.u32 %w, %i, 48;
  add.u64 %in, %in, %w;
  mul.wide.u32 %w, %i, 16;
  add.u64 %out, %out, %w;
  ld.global.v4.b32 {%a0, %a1, %a2, %a3}, [%in];
  ld.global.v2.b32 {%b0, %b1}, [%in+16];
  ld.global.v4.f32 {%c0, %c1, %c2, %c3}, [%in+32];
  mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%c0, %c1, %c2, %c3}, {%a0, %a1, %a2, %a3}, {%b0, %b1}, {%c0, %c1, %c2, %c3};
  st.global.v4.f32 [%out], {%c0, %c1, %c2, %c3};
  ret;
}
";

/// Which model of tensor-core sums the device follows: printed, and each element within the sum of
/// what the models leave open. `LONGHAND_DUMP=FILE` keeps operands and results.
#[test]
fn tensor_cores_sum_within_the_models() {
    let Some(device) = device() else { return };
    let tiles = if device.mock.is_some() { 4 } else { 512 };
    let mut state = 12345u64;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    // Bf16 with exponents over a range of 2^8; C as large as the products.
    let mut half = || {
        let r = next();
        (r & 0x807f) | (127 - 4 + (r >> 8) % 8) << 7
    };
    let mut words: Vec<u32> = Vec::new();
    for _ in 0..tiles * 32 {
        for _ in 0..6 {
            words.push(half() | half() << 16);
        }
        words.extend([0, 0]);
        for _ in 0..4 {
            words.push(half() << 16 | half());
        }
    }
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    let (input, output) = (device.upload(&bytes), device.upload(&vec![0; tiles * 32 * 16]));
    let params: Vec<u8> =
        [input.pointer(), output.pointer()].iter().flat_map(|p| p.to_le_bytes()).collect();
    device.launch(MMA, "product", &Launch::new([tiles as u32, 1, 1], 32), &params);
    let got: Vec<u32> = device
        .download(&output)
        .chunks_exact(4)
        .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect();
    let f =
        tc::decode_mma("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32").expect("a product");
    let mut models = vec![("exact".to_owned(), Tc::Exact), ("reverse".to_owned(), Tc::Reverse)];
    for block in [4, 8, 16] {
        for extra in 0..4 {
            models.push((
                format!("truncate block {block} extra {extra}"),
                Tc::Truncate { block, extra },
            ));
        }
    }
    for (name, model) in models {
        let (mut same, mut worst) = (0, 0f64);
        for tile in 0..tiles {
            let fragment = |at: usize| -> L32 {
                std::array::from_fn(|lane| words[(tile * 32 + lane) * 12 + at])
            };
            let a: Vec<L32> = (0..4).map(fragment).collect();
            let b: Vec<L32> = (4..6).map(fragment).collect();
            let c: Vec<L32> = (8..12).map(fragment).collect();
            let mut d = [[0; 32]; 4];
            f.run(&mut d, &a, &b, &c, model);
            for lane in 0..32 {
                for (i, d) in d.iter().enumerate() {
                    let got = got[(tile * 32 + lane) * 4 + i];
                    same += usize::from(got == d[lane]);
                    let (x, y) = (f32::from_bits(got), f32::from_bits(d[lane]));
                    worst = worst.max(f64::from((x - y).abs()));
                }
            }
        }
        let all = tiles * 128;
        println!("{name}: {same} of {all} elements the same bits, {worst:.1e} apart at most");
        if name == "exact" {
            // Sums of 17 terms below 2^8 each: a truncation of each addend at 2^-16.
            assert!(worst <= 17.0 * f64::exp2(-15.0), "{worst}");
        }
    }
}
