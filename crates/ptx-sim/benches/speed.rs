//! Lane-instructions per second of a FlashAttention-like kernel with all detectors on, and the time
//! of single warp instructions: `cargo bench -p ptx-sim`.

use std::hint::black_box;
use std::time::Instant;

use ptx_sim::alu::{Kind, L32, decode};
use ptx_sim::num::Approx;
use ptx_sim::tc::{Tc, decode_mma, product};
use ptx_sim::{Completion, Device, Launch, Module, Options, Profile, Schedule};

const FORWARD: &str = include_str!("../tests/data/kernels/attention_forward.ptx");

fn main() {
    attention();
    if std::env::args().any(|a| a == "--all") {
        instructions();
    }
}

/// Forward attention of `len` queries and keys, head size 64: 64×64 tiles of 4 warps.
fn attention() {
    let module = match Module::parse(FORWARD, "attention_forward.ptx") {
        Ok(module) => module,
        Err(diag) => panic!("{diag}"),
    };
    let len = 512u32;
    println!("{:34} {:>12} {:>12} {:>10}", "", "M lane-in/s", "M warp-in/s", "ms/tile");
    let round_robin = Schedule::RoundRobin(16);
    let modes = [
        ("eager", round_robin, Completion::Eager),
        ("late", round_robin, Completion::Late),
        ("early", round_robin, Completion::Early),
        ("random", round_robin, Completion::Random),
        ("eager, every instruction in turn", Schedule::RoundRobin(1), Completion::Eager),
        ("late, random priorities", Schedule::Pct(1, 3), Completion::Late),
        ("eager, a random warp each time", Schedule::Random(1), Completion::Eager),
    ];
    // `cargo bench -p ptx-sim -- late` runs what begins so.
    let wanted = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    for (name, schedule, completion) in modes.into_iter().filter(|m| m.0.starts_with(&wanted)) {
        let mut best = f64::MAX;
        let mut counts = Default::default();
        for _ in 0..3 {
            let options = Options { schedule, completion, ..Options::default() };
            let (seconds, total) = run(&module, len, options);
            best = best.min(seconds);
            counts = total;
        }
        let counts: ptx_sim::Counts = counts;
        let tiles = f64::from(len / 64 * (len / 64));
        println!(
            "{name:34} {:12.1} {:12.2} {:10.3}",
            counts.lane_instructions as f64 / best / 1e6,
            counts.warp_instructions as f64 / best / 1e6,
            best * 1e3 / tiles
        );
    }
}

fn run(module: &Module, len: u32, options: Options) -> (f64, ptx_sim::Counts) {
    let mut device = Device::new(Profile::a100(), options);
    let bytes = u64::from(len) * 128;
    let mut state = 1u64;
    let mut buffer = || {
        let data: Vec<u8> = (0..bytes / 2)
            .flat_map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let value = (state >> 40) as f32 / 16_777_216.0 - 0.5;
                ((value.to_bits() >> 16) as u16).to_le_bytes()
            })
            .collect();
        let address = device.alloc(bytes).expect("allocation");
        device.write(address, &data).expect("write");
        address
    };
    let mut params = Vec::new();
    for _ in 0..3 {
        params.extend(buffer().to_le_bytes());
    }
    params.extend(device.alloc(bytes).expect("allocation").to_le_bytes());
    params.extend(device.alloc(u64::from(len) * 4).expect("allocation").to_le_bytes());
    params.extend(len.to_le_bytes());
    params.extend(len.to_le_bytes());
    params.extend((0.125f32 * std::f32::consts::LOG2_E).to_le_bytes());
    params.extend(0u32.to_le_bytes());
    let launch = Launch::new([len / 64, 1, 1], [128, 1, 1], 40960);
    let start = Time::now();
    match device.launch(module, "mma80_fwd", &launch, &params) {
        Ok(report) => (start.elapsed(), report.counters.total),
        Err(report) => panic!("{report}"),
    }
}
/// Time on the processor where the system tells it, which others that share it do not disturb.
struct Time {
    wall: Instant,
    processor: Option<u64>,
}

impl Time {
    fn now() -> Self {
        Time { wall: Instant::now(), processor: processor() }
    }

    fn elapsed(&self) -> f64 {
        match (self.processor, processor()) {
            (Some(from), Some(to)) => (to - from) as f64 / 1e9,
            _ => self.wall.elapsed().as_secs_f64(),
        }
    }
}

/// Nanoseconds that this thread has run, on Linux.
fn processor() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// Nanoseconds of the fastest of five rounds.
fn time(mut f: impl FnMut()) -> f64 {
    (0..5)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..2000 {
                f();
            }
            start.elapsed().as_secs_f64() * 1e9 / 2000.0
        })
        .fold(f64::MAX, f64::min)
}

fn instructions() {
    let mut state = 1u64;
    let mut float = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        f32::to_bits((state >> 33) as f32 % 1000.0 * 0.37 - 150.0)
    };
    let (a, b, c): (L32, L32, L32) = (
        std::array::from_fn(|_| float()),
        std::array::from_fn(|_| float()),
        std::array::from_fn(|_| float()),
    );
    for op in [
        "add.s32",
        "mad.lo.s32",
        "shl.b32",
        "shf.l.wrap.b32",
        "prmt.b32",
        "bfe.u32",
        "add.rn.f32",
        "mul.rn.f32",
        "mul.rn.ftz.f32",
        "fma.rn.f32",
        "fma.rn.ftz.f32",
        "add.rz.f32",
        "fma.rz.f32",
        "div.rn.f32",
        "min.f32",
        "max.ftz.f32",
        "ex2.approx.ftz.f32",
        "rcp.approx.ftz.f32",
        "lg2.approx.f32",
        "tanh.approx.f32",
        "fma.rn.f16x2",
        "fma.rn.bf16x2",
        "add.bf16x2",
        "max.bf16x2",
        "cvt.rn.bf16x2.f32",
        "cvt.rn.f16x2.f32",
        "cvt.rn.satfinite.e4m3x2.f32",
        "cvt.rna.tf32.f32",
        "cvt.rzi.s32.f32",
        "cvt.rni.s32.f32",
        "cvt.f32.f16",
        "setp.lt.f32",
        "setp.lt.s32",
        "lop3.b32",
    ] {
        let mut d = [0; 32];
        let ns = match decode(op).unwrap().kind {
            Kind::W32(f) => time(|| f(black_box(&mut d), black_box(&a), &b, &c)),
            Kind::Lop3(f) => time(|| f(black_box(&mut d), black_box(&a), &b, &c, 0x96)),
            Kind::Approx(f) => {
                let seeded = time(|| f(black_box(&mut d), black_box(&a), &b, Approx::Seeded, 1));
                println!("{op:28} {seeded:8.1} ns seeded");
                time(|| f(black_box(&mut d), black_box(&a), &b, Approx::Exact, 1))
            }
            Kind::Cmp32(f) => time(|| d[0] = f(black_box(&a), black_box(&b))),
            _ => unreachable!(),
        };
        println!("{op:28} {ns:8.1} ns");
    }
    for op in [
        "m16n8k16.row.col.f32.bf16.bf16.f32",
        "m16n8k16.row.col.f16.f16.f16.f16",
        "m16n8k8.row.col.f32.tf32.tf32.f32",
        "m16n8k32.row.col.f32.e4m3.e4m3.f32",
        "m16n8k32.row.col.s32.s8.s8.s32",
    ] {
        let mma = decode_mma(&format!("mma.sync.aligned.{op}")).unwrap();
        let r = || [a, b, a, b].map(|r| r.map(|v| v & 0x3fff_3fff));
        let (x, y, z) = (r(), r(), [c; 4]);
        let mut d = [[0; 32]; 4];
        for tc in [Tc::Exact, Tc::Reverse, Tc::Truncate { block: 16, extra: 2 }] {
            let ns = time(|| mma.run(black_box(&mut d), black_box(&x), &y, &z, tc));
            println!("{op:40} {tc:?} {ns:8.1} ns");
        }
    }
    let (x, y) = (vec![0.5f32; 64 * 16], vec![0.25f32; 128 * 16]);
    let mut z = vec![0f32; 64 * 128];
    let ns = time(|| product(64, 128, 16, black_box(&x), &y, black_box(&mut z), Tc::Exact));
    println!("product 64x128x16 {ns:.0} ns, {:.1} GFLOP/s", 2.0 * 64.0 * 128.0 * 16.0 / ns);
}
