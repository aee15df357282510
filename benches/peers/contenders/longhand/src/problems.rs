//! A case as longhand's problems, with their tensors on a device.

use crate::{Bind, Contents, Gpu, buffer, stored, text};
use longhand::full::{self, Bias};
use longhand::webgpu::{Binding, Context};
use longhand::{
    DType, Error, Full, Longformer, Lsh, Shape, TransformerXl, longformer as lf, lsh,
    transformer_xl as xl,
};
use peer::Case;

type Compute = Box<dyn Fn() -> Result<Vec<f32>, Error>>;

/// Full attention of `seqlen_q` rows over the case's keys.
fn full_problem(case: &Case, dtype: DType, seqlen_q: usize) -> Full {
    let shape = Shape {
        batch: case.batch,
        heads_q: case.heads,
        heads_kv: case.heads,
        seqlen_q,
        seqlen_k: case.seqlen,
        head_dim: case.head_dim,
    };
    Full { causal: case.causal, ..Full::new(shape, dtype) }
}

fn longformer_problem(case: &Case, dtype: DType) -> Longformer {
    let shape = [case.batch, case.seqlen, case.heads, case.head_dim];
    let problem = Longformer::new(shape, case.window, dtype).globals(case.globals.len());
    Longformer { causal: case.causal, ..problem }
}

fn lsh_problem(case: &Case, dtype: DType) -> Lsh {
    let shape = [case.batch, case.seqlen, case.heads, case.head_dim];
    let problem = Lsh::new(shape, case.chunk, case.rounds, dtype).num_buckets(&case.buckets);
    Lsh { causal: case.causal, ..problem }
}

/// `[batch, globals]`.
fn indices(case: &Case) -> Vec<i32> {
    let row: Vec<i32> = case.globals.iter().map(|&i| i as i32).collect();
    row.repeat(case.batch)
}

pub fn full_reference(case: &Case, dtype: DType, inputs: Vec<Vec<f32>>) -> Compute {
    let problem = full_problem(case, dtype, case.seqlen);
    Box::new(move || {
        let [q, k, v] = [0, 1, 2].map(|n| &inputs[n][..]);
        Ok(problem.reference(&full::Inputs::new(q, k, v))?.out)
    })
}

pub fn longformer_reference(case: &Case, dtype: DType, inputs: Vec<Vec<f32>>) -> Compute {
    let (problem, indices) = (longformer_problem(case, dtype), indices(case));
    Box::new(move || {
        let [q, k, v] = [0, 1, 2].map(|n| &inputs[n][..]);
        let mut given = lf::Inputs::new(q, k, v);
        if problem.max_globals > 0 {
            let [qg, kg, vg] = [3, 4, 5].map(|n| Some(&inputs[n][..]));
            (given.q_global, given.k_global, given.v_global) = (qg, kg, vg);
            given.global_indices = Some(&indices);
        }
        Ok(problem.reference(&given)?.out)
    })
}

pub fn lsh_reference(case: &Case, dtype: DType, inputs: Vec<Vec<f32>>) -> Compute {
    let problem = lsh_problem(case, dtype);
    Box::new(move || {
        let rotations = problem.is_hashed().then_some(&inputs[2][..]);
        let given = lsh::Inputs { rotations, ..lsh::Inputs::new(&inputs[0], &inputs[1]) };
        Ok(problem.reference(&given)?.out)
    })
}

fn relative_problem(case: &Case, dtype: DType) -> TransformerXl {
    let shape = [case.batch, case.seqlen, case.heads, case.head_dim];
    TransformerXl::with_memory(shape, case.memory, dtype)
}

pub fn relative_reference(case: &Case, dtype: DType, inputs: Vec<Vec<f32>>) -> Compute {
    let problem = relative_problem(case, dtype);
    Box::new(move || {
        let [q, k, v, r, u, w] = [0, 1, 2, 3, 4, 5].map(|n| &inputs[n][..]);
        Ok(problem.reference(&xl::Inputs::new([q, k, v], r, [u, w]))?.out)
    })
}

pub fn relative(context: Context, case: &Case, dtype: DType, inputs: &[Vec<f32>]) -> Gpu {
    let problem = relative_problem(case, dtype);
    // Biases are f32 whatever the dtype.
    let stored_in = |n| if n < 4 { dtype } else { DType::F32 };
    let [q, k, v, r, u, w] = [0, 1, 2, 3, 4, 5]
        .map(|n| buffer(&context, Contents::Of(&stored(&inputs[n], stored_in(n)))));
    let out = buffer(&context, Contents::Empty(q.size()));
    let lse = buffer(&context, Contents::Empty(4 * problem.lse_len() as u64));
    let result = out.clone();
    let bind: Bind = Box::new(move |gpu| {
        let plan = problem.plan_webgpu(gpu).map_err(text)?;
        say(gpu, &plan.describe());
        let workspace = workspace(gpu, plan.workspace_bytes());
        let args = xl::webgpu::Args {
            workspace: workspace.as_ref().map(Binding::from),
            ..xl::webgpu::Args::new([&q, &k, &v], &r, [&u, &w], &out, &lse)
        };
        Ok(vec![plan.bind(&args).map_err(text)?])
    });
    Gpu { context, dtype, bind, bound: vec![], out: result, apart: None }
}

/// Plans `problem`, gives it a workspace and binds its tensors, with a bias if it has one.
fn bind_full(
    context: &Context,
    problem: &Full,
    [q, k, v, out, lse]: [&wgpu::Buffer; 5],
    bias: Option<&wgpu::Buffer>,
) -> Result<longhand::webgpu::Bound, String> {
    let plan = problem.plan_webgpu(context).map_err(text)?;
    say(context, &plan.describe());
    let workspace = workspace(context, plan.workspace_bytes());
    let args = full::webgpu::Args {
        bias: bias.map(Binding::from),
        workspace: workspace.as_ref().map(Binding::from),
        ..full::webgpu::Args::new(q, k, v, out, lse)
    };
    plan.bind(&args).map_err(text)
}

fn workspace(context: &Context, bytes: u64) -> Option<wgpu::Buffer> {
    (bytes > 0).then(|| buffer(context, Contents::Empty(bytes)))
}

fn say(context: &Context, plan: &str) {
    if std::env::var_os("PEER_VERBOSE").is_some() {
        eprintln!("{}: {plan}", context.info().name);
    }
}

pub fn full(context: Context, case: &Case, dtype: DType, inputs: &[Vec<f32>]) -> Gpu {
    let problem = full_problem(case, dtype, case.seqlen);
    let [q, k, v] = [0, 1, 2].map(|n| buffer(&context, Contents::Of(&stored(&inputs[n], dtype))));
    let out = buffer(&context, Contents::Empty(q.size()));
    let lse = buffer(&context, Contents::Empty(4 * problem.lse_len() as u64));
    let result = out.clone();
    let bind: Bind =
        Box::new(move |gpu| Ok(vec![bind_full(gpu, &problem, [&q, &k, &v, &out, &lse], None)?]));
    Gpu { context, dtype, bind, bound: vec![], out: result, apart: None }
}

pub fn longformer(context: Context, case: &Case, dtype: DType, inputs: &[Vec<f32>]) -> Gpu {
    let problem = longformer_problem(case, dtype);
    let given: Vec<wgpu::Buffer> =
        inputs.iter().map(|x| buffer(&context, Contents::Of(&stored(x, dtype)))).collect();
    let indices = buffer(&context, Contents::Of(bytemuck::cast_slice(&indices(case))));
    let out = buffer(&context, Contents::Empty(given[0].size()));
    let lse = buffer(&context, Contents::Empty(4 * problem.lse_len() as u64));
    let result = out.clone();
    let bind: Bind = Box::new(move |gpu| {
        let plan = problem.plan_webgpu(gpu).map_err(text)?;
        say(gpu, &plan.describe());
        let workspace = workspace(gpu, plan.workspace_bytes());
        let mut args = lf::webgpu::Args {
            workspace: workspace.as_ref().map(Binding::from),
            ..lf::webgpu::Args::new(&given[0], &given[1], &given[2], &out, &lse)
        };
        if problem.max_globals > 0 {
            let [qg, kg, vg] = [3, 4, 5].map(|n| Some(Binding::from(&given[n])));
            (args.q_global, args.k_global, args.v_global) = (qg, kg, vg);
            args.global_indices = Some((&indices).into());
        }
        Ok(vec![plan.bind(&args).map_err(text)?])
    });
    Gpu { context, dtype, bind, bound: vec![], out: result, apart: None }
}

pub fn lsh(context: Context, case: &Case, dtype: DType, inputs: &[Vec<f32>]) -> Gpu {
    let problem = lsh_problem(case, dtype);
    let of = |x: &[f32], dtype| buffer(&context, Contents::Of(&stored(x, dtype)));
    let [qk, v] = [0, 1].map(|n| of(&inputs[n], dtype));
    // Rotations are f32 whatever the dtype.
    let rotations = of(&inputs[2], DType::F32);
    let words = |len: usize| buffer(&context, Contents::Empty(4 * len as u64));
    let (out, lse) = (buffer(&context, Contents::Empty(qk.size())), words(problem.lse_len()));
    let (buckets, lse_rounds) = (words(problem.buckets_len()), words(problem.lse_rounds_len()));
    let result = out.clone();
    let bind: Bind = Box::new(move |gpu| {
        let plan = problem.plan_webgpu(gpu).map_err(text)?;
        say(gpu, &plan.describe());
        let workspace = workspace(gpu, plan.workspace_bytes());
        let sorted = |buffer| problem.is_sorted().then(|| Binding::from(buffer));
        let args = lsh::webgpu::Args {
            rotations: problem.is_hashed().then(|| Binding::from(&rotations)),
            buckets: sorted(&buckets),
            lse_rounds: sorted(&lse_rounds),
            workspace: workspace.as_ref().map(Binding::from),
            ..lsh::webgpu::Args::new(&qk, &v, &out, &lse)
        };
        Ok(vec![plan.bind(&args).map_err(text)?])
    });
    Gpu { context, dtype, bind, bound: vec![], out: result, apart: None }
}

/// Longformer by full attention: every row over all keys with the mask as a bias, one for all
/// heads, then the rows of the global positions with their own projections.
pub fn full_mask(context: Context, case: &Case, dtype: DType, inputs: &[Vec<f32>]) -> Gpu {
    let all =
        full_problem(case, dtype, case.seqlen).bias(Bias { per_batch: false, per_head: false });
    let rows = full_problem(case, dtype, case.globals.len());
    let of = |x: &[f32]| buffer(&context, Contents::Of(&stored(x, dtype)));
    let [q, k, v, kg, vg] = [0, 1, 2, 4, 5].map(|n| of(&inputs[n]));
    let (places, qg) = case.global_rows(&inputs[3]);
    let qg = of(&qg);
    let bias: Vec<f32> =
        case.hidden().map(|hidden| if hidden { f32::NEG_INFINITY } else { 0.0 }).collect();
    let bias = buffer(&context, Contents::Of(bytemuck::cast_slice(&bias)));
    let [out, out_rows] = [&q, &qg].map(|x| buffer(&context, Contents::Empty(x.size())));
    let [lse, lse_rows] =
        [&all, &rows].map(|p| buffer(&context, Contents::Empty(4 * p.lse_len() as u64)));
    let (result, apart) = (out.clone(), out_rows.clone());
    let some = !places.is_empty();
    let bind: Bind = Box::new(move |gpu| {
        let mut bound = vec![bind_full(gpu, &all, [&q, &k, &v, &out, &lse], Some(&bias))?];
        if some {
            let tensors = [&qg, &kg, &vg, &out_rows, &lse_rows];
            bound.push(bind_full(gpu, &rows, tensors, None)?);
        }
        Ok(bound)
    });
    Gpu { context, dtype, bind, bound: vec![], out: result, apart: some.then_some((apart, places)) }
}
