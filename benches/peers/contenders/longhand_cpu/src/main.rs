//! longhand's kernels for this machine's processor, through its public interface. Variants: `1t` and
//! `2t` (threads). A package of its own, which builds without wgpu.

use half::{bf16, f16};
use longhand::cpu::Element;
use longhand::{DType, Error, Full, Longformer, Lsh, Shape, TransformerXl};
use longhand::{full, longformer, lsh, transformer_xl};
use peer::{Case, Contender, Kind, Pass};

fn main() {
    peer::serve(|case, inputs| {
        if case.pass != Pass::Forward {
            return Err("forward only".to_owned());
        }
        let opened = match case.dtype.as_str() {
            "f32" => open::<f32>(case, inputs, DType::F32),
            "f16" => open::<f16>(case, inputs, DType::F16),
            "bf16" => open::<bf16>(case, inputs, DType::BF16),
            other => return Err(format!("no dtype {other:?}")),
        };
        let compute = opened.map_err(|e| e.to_string())?;
        let threads = case.variant.strip_suffix('t').and_then(|n| n.parse().ok());
        let threads = threads.ok_or_else(|| format!("no variant {:?}", case.variant))?;
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        Ok(Cpu { pool: pool.map_err(|e| e.to_string())?, compute, out: vec![] })
    });
}

/// Computes once on the pool that it is called in, and gives the result as f32.
type Compute = Box<dyn FnMut(&mut Vec<f32>) -> Result<(), Error> + Send>;

struct Cpu {
    pool: rayon::ThreadPool,
    compute: Compute,
    out: Vec<f32>,
}

impl Contender for Cpu {
    fn run(&mut self) -> Result<(), String> {
        let (compute, out) = (&mut self.compute, &mut self.out);
        // An empty result is filled in; a measured run computes only.
        self.pool.install(|| compute(out)).map_err(|e| e.to_string())
    }

    fn output(&mut self) -> Result<Vec<f32>, String> {
        self.out = vec![0.0];
        self.run()?;
        Ok(std::mem::take(&mut self.out))
    }
}

fn stored<T: Element>(x: &[f32]) -> Vec<T> {
    let mut all = vec![T::default(); x.len()];
    T::store(x, &mut all);
    all
}

/// The result, where it is asked for.
fn read<T: Element>(from: &[T], to: &mut Vec<f32>) {
    if !to.is_empty() {
        to.resize(from.len(), 0.0);
        T::load(from, to);
    }
}

fn workspace(len: impl Fn(usize) -> usize, have: &mut Vec<f32>) -> &mut [f32] {
    have.resize(len(rayon::current_num_threads()), 0.0);
    have
}

fn open<T: Element>(case: &Case, inputs: Vec<Vec<f32>>, dtype: DType) -> Result<Compute, Error> {
    match case.kind {
        Kind::Full => open_full::<T>(case, inputs, dtype),
        Kind::Longformer => open_longformer::<T>(case, inputs, dtype),
        Kind::Lsh => open_lsh::<T>(case, inputs, dtype),
        Kind::TransformerXl => open_relative::<T>(case, inputs, dtype),
    }
}

fn open_full<T: Element>(
    case: &Case,
    inputs: Vec<Vec<f32>>,
    dtype: DType,
) -> Result<Compute, Error> {
    let shape = Shape {
        batch: case.batch,
        heads_q: case.heads,
        heads_kv: case.heads,
        seqlen_q: case.seqlen,
        seqlen_k: case.seqlen,
        head_dim: case.head_dim,
    };
    let problem = Full { causal: case.causal, ..Full::new(shape, dtype) };
    let plan = problem.plan_cpu()?;
    let x: Vec<Vec<T>> = inputs.iter().map(|x| stored(x)).collect();
    let (mut out, mut lse) = (vec![T::default(); x[0].len()], vec![0.0; problem.lse_len()]);
    let mut scratch = vec![];
    Ok(Box::new(move |result| {
        let args = full::cpu::Args::new([&x[0], &x[1], &x[2]], &mut out, &mut lse);
        plan.run(args, workspace(|n| plan.workspace_len(n), &mut scratch))?;
        read(&out, result);
        Ok(())
    }))
}

fn open_longformer<T: Element>(
    case: &Case,
    inputs: Vec<Vec<f32>>,
    dtype: DType,
) -> Result<Compute, Error> {
    let shape = [case.batch, case.seqlen, case.heads, case.head_dim];
    let problem = Longformer::new(shape, case.window, dtype).globals(case.globals.len());
    let problem = Longformer { causal: case.causal, ..problem };
    let plan = problem.plan_cpu()?;
    let x: Vec<Vec<T>> = inputs.iter().map(|x| stored(x)).collect();
    let row: Vec<i32> = case.globals.iter().map(|&i| i as i32).collect();
    let indices = row.repeat(case.batch);
    let (mut out, mut lse) = (vec![T::default(); x[0].len()], vec![0.0; problem.lse_len()]);
    let mut scratch = vec![];
    Ok(Box::new(move |result| {
        let mut args = longformer::cpu::Args::new([&x[0], &x[1], &x[2]], &mut out, &mut lse);
        if problem.max_globals > 0 {
            let [qg, kg, vg] = [3, 4, 5].map(|n| Some(&x[n][..]));
            (args.q_global, args.k_global, args.v_global) = (qg, kg, vg);
            args.global_indices = Some(&indices);
        }
        plan.run(args, workspace(|n| plan.workspace_len(n), &mut scratch))?;
        read(&out, result);
        Ok(())
    }))
}

fn open_lsh<T: Element>(
    case: &Case,
    inputs: Vec<Vec<f32>>,
    dtype: DType,
) -> Result<Compute, Error> {
    let shape = [case.batch, case.seqlen, case.heads, case.head_dim];
    let problem = Lsh::new(shape, case.chunk, case.rounds, dtype).num_buckets(&case.buckets);
    let problem = Lsh { causal: case.causal, ..problem };
    let plan = problem.plan_cpu()?;
    let (qk, v) = (stored::<T>(&inputs[0]), stored::<T>(&inputs[1]));
    // Rotations are f32 whatever the dtype.
    let rotations = inputs.into_iter().nth(2);
    let (mut out, mut lse) = (vec![T::default(); qk.len()], vec![0.0; problem.lse_len()]);
    let mut buckets = problem.is_sorted().then(|| vec![0; problem.buckets_len()]);
    let mut lse_rounds = problem.is_sorted().then(|| vec![0.0; problem.lse_rounds_len()]);
    let mut scratch = vec![];
    Ok(Box::new(move |result| {
        let args = lsh::cpu::Args {
            rotations: rotations.as_deref().filter(|_| problem.is_hashed()),
            buckets: buckets.as_deref_mut(),
            lse_rounds: lse_rounds.as_deref_mut(),
            ..lsh::cpu::Args::new(&qk, &v, &mut out, &mut lse)
        };
        plan.run(args, workspace(|n| plan.workspace_len(n), &mut scratch))?;
        read(&out, result);
        Ok(())
    }))
}

fn open_relative<T: Element>(
    case: &Case,
    inputs: Vec<Vec<f32>>,
    dtype: DType,
) -> Result<Compute, Error> {
    let shape = [case.batch, case.seqlen, case.heads, case.head_dim];
    let problem = TransformerXl::with_memory(shape, case.memory, dtype);
    let plan = problem.plan_cpu()?;
    // The case's keys begin with the memory's, as a caller with one tensor has them.
    let x: Vec<Vec<T>> = inputs[..4].iter().map(|x| stored(x)).collect();
    let (mut out, mut lse) = (vec![T::default(); x[0].len()], vec![0.0; problem.lse_len()]);
    let mut scratch = vec![];
    Ok(Box::new(move |result| {
        let biases = [&inputs[4][..], &inputs[5][..]];
        let tensors = [&x[0][..], &x[1], &x[2]];
        let args = transformer_xl::cpu::Args::new(tensors, &x[3], biases, &mut out, &mut lse);
        plan.run(args, workspace(|n| plan.workspace_len(n), &mut scratch))?;
        read(&out, result);
        Ok(())
    }))
}
