//! Random problems of Longformer's, and what their results must be.

use super::Random;
use super::guard::{written, written_rows};
use longhand::longformer::{Inputs, Layout, Output};
use longhand::{DType, Longformer, Strides};

/// A problem with tensors of its own.
#[derive(Clone)]
pub struct Case {
    pub problem: Longformer,
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    pub global: Option<[Vec<f32>; 3]>,
    pub global_indices: Option<Vec<i32>>,
    pub key_valid: Option<Vec<u8>>,
}

impl Case {
    /// Random tensors for `problem`: the first sequence lists as many globals as there may be,
    /// later ones fewer, in any order; one key in four is padding.
    pub fn new(problem: Longformer, random: &mut Random) -> Case {
        problem.validate().expect("the generator makes valid problems");
        // Exact in 16 bits; in f32 every bit of the significand is used, so that a kernel which
        // works in parts of it is seen.
        let mut tensor = |strides: &Strides| {
            let mut all = random.normals(problem.span(strides));
            if problem.dtype == DType::F32 {
                all.iter_mut().for_each(|x| *x *= 1.000_123_4);
            }
            all
        };
        let l = &problem.layout;
        let (q, k, v) = (tensor(&l.q), tensor(&l.k), tensor(&l.v));
        let global = problem
            .has_global_tensors()
            .then(|| [tensor(&l.q_global), tensor(&l.k_global), tensor(&l.v_global)]);
        let mut global_indices = (problem.max_globals > 0).then(Vec::new);
        if let Some(all) = &mut global_indices {
            for b in 0..problem.batch {
                let most = problem.max_globals;
                let listed = if b == 0 { most } else { random.below(most + 1) };
                let mut positions: Vec<i32> = (0..problem.seqlen as i32).collect();
                for n in 0..listed {
                    positions.swap(n, n + random.below(problem.seqlen - n));
                }
                all.extend(&positions[..listed]);
                all.extend(std::iter::repeat_n(-1, most - listed));
            }
        }
        let positions = problem.batch * problem.seqlen;
        let key_valid = problem
            .key_padding
            .then(|| (0..positions).map(|_| u8::from(random.below(4) != 0)).collect());
        Case { q, k, v, global, global_indices, key_valid, problem }
    }

    pub fn inputs(&self) -> Inputs<'_, f32> {
        let global = |n: usize| self.global.as_ref().map(|g| g[n].as_slice());
        Inputs {
            q_global: global(0),
            k_global: global(1),
            v_global: global(2),
            global_indices: self.global_indices.as_deref(),
            key_valid: self.key_valid.as_deref(),
            ..Inputs::new(&self.q, &self.k, &self.v)
        }
    }

    /// The oracle, in f64.
    pub fn reference(&self) -> Output<f64> {
        self.reference_with(&self.v, self.global.as_ref().map(|g| g[2].as_slice()))
    }

    fn reference_with(&self, v: &[f32], v_global: Option<&[f32]>) -> Output<f64> {
        let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
        let (q, k, v) = (wide(&self.q), wide(&self.k), wide(v));
        let global = self.global.as_ref().map(|g| [wide(&g[0]), wide(&g[1])]);
        let v_global = v_global.map(wide);
        let inputs = Inputs {
            q_global: global.as_ref().map(|g| g[0].as_slice()),
            k_global: global.as_ref().map(|g| g[1].as_slice()),
            v_global: v_global.as_deref(),
            global_indices: self.global_indices.as_deref(),
            key_valid: self.key_valid.as_deref(),
            ..Inputs::new(&q, &k, &v)
        };
        self.problem.reference(&inputs).expect("valid")
    }

    /// How far `out` may be off, by the fixtures' measure. In a 16-bit dtype the result is rounded
    /// once, and so are the probabilities before the product with v: each by half a unit in its
    /// last place, so that the latter moves a row by that much of the sum of p·|v|.
    pub fn bound(&self, expected: &Output<f64>) -> f64 {
        let unit = match self.problem.dtype {
            DType::F32 => return super::tolerance(DType::F32),
            DType::F16 => 1.0 / 2048.0,
            DType::BF16 => 1.0 / 256.0,
        };
        let absolute = |x: &[f32]| x.iter().map(|x| x.abs()).collect::<Vec<f32>>();
        let global = self.global.as_ref().map(|g| absolute(&g[2]));
        let sums = self.reference_with(&absolute(&self.v), global.as_deref()).out;
        let largest = |of: &[f64], least: f64| of.iter().fold(least, |m, x| m.max(x.abs()));
        super::tolerance(DType::F32)
            + unit * (1.0 + largest(&sums, 0.0) / largest(&expected.out, 0.1))
    }

    /// The valid globals of sequence `b`.
    pub fn globals(&self, b: usize) -> Vec<usize> {
        let (p, most) = (&self.problem, self.problem.max_globals);
        let listed = self.global_indices.as_ref().map_or(&[][..], |all| &all[b * most..][..most]);
        let valid = |&i: &usize| self.key_valid.as_ref().is_none_or(|v| v[b * p.seqlen + i] != 0);
        let positions = listed.iter().filter_map(|&i| usize::try_from(i).ok());
        positions.filter(valid).collect()
    }
}

/// Rows with gaps between them, and between heads and sequences.
pub fn odd(p: &Longformer, gap: usize) -> Strides {
    let head = p.head_dim + gap;
    let row = p.heads * head + 2 * gap;
    Strides { batch: p.seqlen * row + 5 * gap, seqlen: row, head }
}

/// Every choice that a problem has, at random.
pub fn random_problem(random: &mut Random, dtype: DType, head_dim: usize) -> Longformer {
    let lengths = [1, 2, 7, 31, 33, 64, 65, 100, 127, 129, 150, 200, 260, 300];
    let seqlen = lengths[random.below(lengths.len())];
    let heads = 1 + random.below(3);
    let windows = [0, 1, 2, 5, 16, 33, 64, 90, 400];
    let window = |random: &mut Random| windows[random.below(windows.len())];
    let (left, right) = (window(random), window(random));
    let mut p = Longformer::new([1 + random.below(2), seqlen, heads, head_dim], 0, dtype)
        .window(left, if random.below(2) == 0 { left } else { right });
    p.causal = random.below(3) == 0;
    p.key_padding = random.below(3) == 0;
    p.max_globals = match random.below(5) {
        0 => 0,
        1 => 1,
        2 => seqlen.min(5),
        3 => seqlen.min(70),
        _ => seqlen,
    };
    p.shared_projections = random.below(4) == 0;
    if random.below(3) == 0 {
        let steps = [1, 2, 3, 7, 40, 1000];
        p.dilation = (0..heads).map(|_| steps[random.below(steps.len())]).collect();
    }
    p.layout = match random.below(3) {
        0 => Layout::of(Strides::bhsd(seqlen, heads, head_dim)),
        1 => Layout { k: odd(&p, 8), v_global: odd(&p, 16), out: odd(&p, 24), ..p.layout },
        _ => p.layout,
    };
    p
}

/// Errors of `got` by the fixtures' measure: (out, lse).
pub fn errors(got: &Output<f32>, expected: &Output<f64>) -> (f64, f64) {
    super::errors_of((&got.out, &got.lse), (&expected.out, &expected.lse))
}

/// The results of a launch into sentinels: every element is written, and what lies between rows is
/// not.
pub fn checked(p: &Longformer, out: &[u8], lse: &[u8]) -> Output<f32> {
    let shape = [p.batch, p.seqlen, p.heads, p.head_dim];
    Output { out: written_rows(out, &p.layout.out, shape, p.dtype), lse: written("lse", lse) }
}
