//! Random problems of Longformer's attention, and their launch from guarded buffers.

use super::Random;
use super::guard::{SENTINEL, bytes_of, floats_of, sentinel};
use super::raw::{guarded, read};
use longhand::longformer::webgpu::{Args, Plan};
use longhand::longformer::{Inputs, Layout, Output};
use longhand::webgpu::{Binding, Context};
use longhand::{DType, Longformer, Strides};

/// A problem with tensors of its own.
#[derive(Clone)]
pub struct Case {
    pub problem: Longformer,
    /// q, k, v.
    pub local: [Vec<f32>; 3],
    /// The same of the global projections.
    pub global: Option<[Vec<f32>; 3]>,
    pub global_indices: Option<Vec<i32>>,
    pub key_valid: Option<Vec<u8>>,
}

impl Case {
    /// Random tensors; each sequence has a random number of globals, the first as many as may be.
    pub fn new(problem: Longformer, random: &mut Random) -> Case {
        problem.validate().expect("the generator makes valid problems");
        let l = &problem.layout;
        // Exact in 16 bits; in f32 every bit of the significand is used.
        let mut tensor = |strides: &Strides| {
            let mut all = random.normals(problem.span(strides));
            if problem.dtype == DType::F32 {
                all.iter_mut().for_each(|x| *x *= 1.000_123_4);
            }
            all
        };
        let local = [&l.q, &l.k, &l.v].map(&mut tensor);
        let global = problem
            .has_global_tensors()
            .then(|| [&l.q_global, &l.k_global, &l.v_global].map(&mut tensor));
        let global_indices = (problem.max_globals > 0).then(|| {
            let one = |b| {
                let few = random.below(problem.max_globals + 1);
                let count = if b == 0 { problem.max_globals } else { few };
                let mut positions: Vec<i32> = (0..problem.seqlen as i32).collect();
                for n in 0..count {
                    let other = n + random.below(problem.seqlen - n);
                    positions.swap(n, other);
                }
                positions.truncate(count);
                positions.resize(problem.max_globals, -1);
                positions
            };
            (0..problem.batch).flat_map(one).collect()
        });
        let key_valid = problem.key_padding.then(|| {
            (0..problem.batch * problem.seqlen).map(|_| u8::from(random.below(4) != 0)).collect()
        });
        Case { problem, local, global, global_indices, key_valid }
    }

    pub fn inputs(&self) -> Inputs<'_, f32> {
        let global = |n: usize| self.global.as_ref().map(|g| g[n].as_slice());
        Inputs {
            q_global: global(0),
            k_global: global(1),
            v_global: global(2),
            global_indices: self.global_indices.as_deref(),
            key_valid: self.key_valid.as_deref(),
            ..Inputs::new(&self.local[0], &self.local[1], &self.local[2])
        }
    }

    /// The oracle, in f64.
    pub fn reference(&self) -> Output<f64> {
        let wide = |x: &Vec<f32>| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
        let local = self.local.each_ref().map(wide);
        let global = self.global.as_ref().map(|g| g.each_ref().map(wide));
        let global = |n: usize| global.as_ref().map(|g| g[n].as_slice());
        let inputs = Inputs {
            q_global: global(0),
            k_global: global(1),
            v_global: global(2),
            global_indices: self.global_indices.as_deref(),
            key_valid: self.key_valid.as_deref(),
            ..Inputs::new(&local[0], &local[1], &local[2])
        };
        self.problem.reference(&inputs).expect("valid")
    }
}

/// Errors of `got` by the fixtures' measure: (out, lse).
pub fn errors(got: &Output<f32>, expected: &Output<f64>) -> (f64, f64) {
    let full =
        |out: &[f32], lse: &[f32]| longhand::full::Output { out: out.to_vec(), lse: lse.to_vec() };
    let wide = longhand::full::Output { out: expected.out.clone(), lse: expected.lse.clone() };
    super::errors(&full(&got.out, &got.lse), &wide)
}

/// A random problem that mixes everything.
pub fn random_problem(random: &mut Random, dtype: DType, head_dim: usize) -> Longformer {
    let lengths = [1, 2, 7, 31, 32, 33, 63, 65, 100, 129, 200];
    let seqlen = lengths[random.below(lengths.len())];
    let (batch, heads) = (1 + random.below(3), 1 + random.below(3));
    let mut p = Longformer::new([batch, seqlen, heads, head_dim], random.below(40), dtype);
    if random.below(2) == 0 {
        p.right = random.below(40);
    }
    p.causal = random.below(3) == 0;
    if random.below(2) == 0 {
        p.dilation = (0..heads).map(|_| 1 + random.below(6) as u32).collect();
        if random.below(8) == 0 {
            p.dilation[0] = seqlen as u32 + random.below(2) as u32;
        }
    }
    if random.below(4) != 0 {
        p.max_globals = random.below(seqlen.min(50) + 1);
        p.shared_projections = random.below(3) == 0;
    }
    p.key_padding = random.below(3) == 0;
    match random.below(4) {
        0 => p.layout = Layout::of(Strides::bhsd(seqlen, heads, head_dim)),
        // Gaps between rows, heads and sequences.
        1 => {
            let row = heads * (head_dim + 4) + 4;
            let odd = Strides { batch: seqlen * row + 8, seqlen: row, head: head_dim + 4 };
            p.layout = Layout { v: odd, k_global: odd, out: odd, ..p.layout };
        }
        _ => {}
    }
    p
}

/// Runs `case` from guarded buffers, each tensor `guard` bytes into its own, and checks that
/// nothing outside a result was written and nothing inside left out.
pub fn run_guarded(gpu: &Context, plan: &Plan, case: &Case, guard: usize) -> Output<f32> {
    let p = &case.problem;
    let tensor = |x: &Vec<f32>| guarded(gpu, &bytes_of(x, p.dtype), guard);
    let local = case.local.each_ref().map(tensor);
    let global = case.global.as_ref().map(|g| g.each_ref().map(tensor));
    let indices = case
        .global_indices
        .as_ref()
        .map(|x| guarded(gpu, &x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>(), guard));
    let valid = case.key_valid.as_ref().map(|x| guarded(gpu, x, guard));
    let out_bytes = p.span(&p.layout.out) * p.dtype.bytes();
    let out = guarded(gpu, &sentinel(out_bytes), guard);
    let lse = guarded(gpu, &sentinel(p.lse_len() * 4), guard);
    let workspace = guarded(gpu, &sentinel(plan.workspace_bytes() as usize), 256);
    let at = |buffer| Binding::new(buffer, guard as u64);
    let of_global = |n: usize| global.as_ref().map(|g| at(&g[n]));
    let args = Args {
        q_global: of_global(0),
        k_global: of_global(1),
        v_global: of_global(2),
        global_indices: indices.as_ref().map(at),
        key_valid: valid.as_ref().map(at),
        workspace: (plan.workspace_bytes() > 0).then_some(Binding::new(&workspace, 256)),
        ..Args::new(at(&local[0]), at(&local[1]), at(&local[2]), at(&out), at(&lse))
    };
    let bound = plan.bind(&args).unwrap();
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    bound.record(&mut encoder);
    gpu.queue().submit([encoder.finish()]);
    let inside = |buffer: &wgpu::Buffer, guard: usize, len: usize, name: &str| {
        let bytes = read(gpu, buffer);
        let untouched = sentinel(bytes.len());
        assert!(bytes[..guard] == untouched[..guard], "{name}: written before its beginning");
        assert!(bytes[guard + len..] == untouched[guard + len..], "{name}: written past its end");
        bytes[guard..guard + len].to_vec()
    };
    inside(&workspace, 256, plan.workspace_bytes() as usize, "workspace");
    let out = inside(&out, guard, out_bytes, "out");
    let lse = inside(&lse, guard, p.lse_len() * 4, "lse");
    let unwritten = lse.chunks_exact(4).any(|b| b == SENTINEL.to_le_bytes());
    assert!(!unwritten, "lse: an element was not written: {p:?}");
    let (mut values, e) = (floats_of(&out, p.dtype), p.dtype.bytes());
    let untouched = sentinel(out.len());
    let mut owned = vec![false; values.len()];
    let l = &p.layout.out;
    for (b, i) in (0..p.batch).flat_map(|b| (0..p.seqlen).map(move |i| (b, i))) {
        for h in 0..p.heads {
            owned[b * l.batch + i * l.seqlen + h * l.head..][..p.head_dim].fill(true);
        }
    }
    for (n, value) in values.iter_mut().enumerate().filter(|(n, _)| !owned[*n]) {
        assert!(out[n * e..][..e] == untouched[n * e..][..e], "out: gap {n} was written");
        *value = 0.0;
    }
    Output { out: values, lse: floats_of(&lse, DType::F32) }
}
