//! Full attention, forward, on the device that `Context::open` finds (`LONGHAND_ADAPTER` names
//! another): `cargo bench --bench full`, `cargo bench --bench full -- 'd64/causal'`.
//!
//! Times are the device's own where it writes timestamps; the first line says which. "elem/s" are
//! floating-point operations that the mask leaves.

use criterion::{
    BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use longhand::full::webgpu::{Args, Bound, Plan};
use longhand::webgpu::{Binding, Context, DeviceTimer};
use longhand::{DType, Full, Shape};
use std::time::{Duration, Instant};

const HEADS: usize = 8;

fn problem(seqlen: usize, head_dim: usize, causal: bool) -> Full {
    let shape = Shape {
        batch: 1,
        heads_q: HEADS,
        heads_kv: HEADS,
        seqlen_q: seqlen,
        seqlen_k: seqlen,
        head_dim,
    };
    let problem = Full::new(shape, DType::F32);
    if causal { problem.causal() } else { problem }
}

/// The plan's tensors: zeros, which cost a kernel what other numbers do.
fn bind(context: &Context, problem: &Full, plan: &Plan) -> Bound {
    let buffer = |bytes: u64| {
        context.device().create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: bytes.max(4),
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        })
    };
    let [q, k, v, out] = problem.spans().map(|n| buffer((n * problem.dtype.bytes()) as u64));
    let lse = buffer(4 * problem.lse_len() as u64);
    let workspace = buffer(plan.workspace_bytes());
    let args = Args {
        workspace: (plan.workspace_bytes() > 0).then_some(Binding::from(&workspace)),
        ..Args::new(&q, &k, &v, &out, &lse)
    };
    plan.bind(&args).expect("the tensors fit the plan")
}

fn launch(context: &Context, bound: &Bound) {
    let mut encoder = context.device().create_command_encoder(&Default::default());
    bound.record(&mut encoder);
    context.queue().submit([encoder.finish()]);
    context.wait().expect("a device that works");
}

/// What a process pays once: opening, expanding and compiling, and what the driver leaves for the
/// first launch. Drivers cache on disk: a second process may pay less.
fn print_once(context: &Context, opened: Duration) {
    let problem = problem(64, 64, false);
    let time = |f: &mut dyn FnMut()| {
        let started = Instant::now();
        f();
        started.elapsed()
    };
    let mut plan = None;
    let first = time(&mut || plan = Some(problem.plan_webgpu(context).expect("a plan")));
    let again = time(&mut || drop(problem.plan_webgpu(context).expect("a plan")));
    let plan = plan.expect("planned above");
    let bound = bind(context, &problem, &plan);
    let launched = time(&mut || launch(context, &bound));
    let relaunched = time(&mut || launch(context, &bound));
    println!(
        "open {opened:.2?}; plan {first:.2?}, again {again:.2?}; \
         launch {launched:.2?}, again {relaunched:.2?} ({})",
        plan.describe()
    );
    let long = self::problem(4096, 64, true);
    let plan = long.plan_webgpu(context).expect("a plan");
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    println!(
        "memory at 4096: tensors {:.1} MiB, beside them {:.1} MiB; the scores would take {:.0} MiB",
        mib(long.bytes()),
        mib((plan.workspace_bytes() + plan.owned_bytes()) as f64),
        mib(4.0 * (HEADS * 4096 * 4096) as f64),
    );
}

fn forward(criterion: &mut Criterion) {
    let started = Instant::now();
    let want = std::env::var("LONGHAND_ADAPTER").ok();
    let context = match Context::open(want.as_deref()) {
        Ok(context) => context,
        Err(why) => {
            eprintln!("nothing to measure: {why}");
            return;
        }
    };
    let opened = started.elapsed();
    let timer = DeviceTimer::new(&context).expect("two timestamps");
    let info = context.info();
    println!("{} ({} {}), by {}", info.name, info.driver, info.driver_info, timer.clock());
    print_once(&context, opened);

    let lengths = match context.caps().cpu {
        true => [256, 512, 1024],
        false => [1024, 4096, 16384],
    };
    for head_dim in [64, 128] {
        for (mask, causal) in [("full", false), ("causal", true)] {
            let mut group = criterion.benchmark_group(format!("forward/f32/d{head_dim}/{mask}"));
            group.sample_size(10).sampling_mode(SamplingMode::Flat);
            group.warm_up_time(Duration::from_millis(500));
            group.measurement_time(Duration::from_secs(2));
            for seqlen in lengths {
                let problem = problem(seqlen, head_dim, causal);
                let plan = problem.plan_webgpu(&context).expect("a plan");
                let bound = bind(&context, &problem, &plan);
                group.throughput(Throughput::Elements(problem.flops() as u64));
                group.bench_function(BenchmarkId::from_parameter(seqlen), |bencher| {
                    bencher.iter_custom(|runs| {
                        let run = |_| timer.time(|pass| bound.record_in(pass));
                        (0..runs).map(|n| run(n).expect("a device that works")).sum()
                    });
                });
            }
        }
    }
}

criterion_group!(benches, forward);
criterion_main!(benches);
