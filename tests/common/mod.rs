//! What the device tests share: the devices, random problems, comparison with the reference.
#![allow(dead_code, unused_imports, unreachable_pub, missing_docs)]

#[cfg(feature = "cuda")]
pub mod cuda;
pub mod fixtures;
pub mod guard;
pub mod longformer;
#[cfg(feature = "cuda")]
pub mod longformer_cuda;
#[cfg(feature = "webgpu")]
pub mod longformer_webgpu;
pub mod lsh;
#[cfg(feature = "cuda")]
pub mod lsh_cuda;
#[cfg(feature = "webgpu")]
pub mod lsh_webgpu;
pub mod merge;
#[cfg(feature = "cuda")]
pub mod mock;
#[cfg(feature = "cuda")]
pub mod mutation;
#[cfg(feature = "webgpu")]
pub mod raw;
pub mod relative;
#[cfg(feature = "cuda")]
pub mod relative_cuda;
#[cfg(feature = "webgpu")]
pub mod relative_webgpu;
pub mod sinusoids;
#[cfg(feature = "webgpu")]
mod webgpu;

#[cfg(feature = "webgpu")]
pub use webgpu::{baseline_gpu, device, device_with, devices, devices_by_turns};

use longhand::full::{Bias, Inputs, Output, Ragged};
use longhand::{DType, Full};

/// A small fixed generator, so that a failure can be repeated from its seed.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Roughly normal, rounded to 8 significant bits, so exact in every dtype.
    pub fn normal(&mut self) -> f32 {
        let sum: f32 = (0..4).map(|_| (self.next() >> 40) as f32 / (1u64 << 24) as f32).sum();
        half::bf16::from_f32((sum - 2.0) * 1.7).to_f32()
    }

    pub fn normals(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.normal()).collect()
    }
}

/// A problem with tensors of its own.
pub struct Case {
    pub problem: Full,
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    pub alibi_slopes: Option<Vec<f32>>,
    pub bias: Option<Vec<f32>>,
    pub bias_table: Option<Vec<f32>>,
    pub key_valid: Option<Vec<u8>>,
    pub cu_seqlens_q: Option<Vec<i32>>,
    pub cu_seqlens_k: Option<Vec<i32>>,
}

impl Case {
    /// Random tensors for `problem`; of a ragged one, the lengths are drawn and the totals set.
    pub fn new(mut problem: Full, random: &mut Random) -> Case {
        let s = problem.shape;
        let mut lengths = |longest: usize| -> Vec<i32> {
            let mut ends = vec![0i32];
            for b in 0..s.batch {
                let n = if b == 0 { longest } else { random.below(longest + 1) };
                ends.push(ends[b] + n as i32);
            }
            ends
        };
        let (mut cu_q, mut cu_k) = (None, None);
        if problem.ragged.is_some() {
            let (q, k) = (lengths(s.seqlen_q), lengths(s.seqlen_k));
            problem.ragged =
                Some(Ragged { total_q: q[s.batch] as usize, total_k: k[s.batch] as usize });
            (cu_q, cu_k) = (Some(q), Some(k));
        }
        problem.validate().expect("the generator makes valid problems");
        let [q, k, v, _] = problem.spans();
        // Exact in 16 bits; in f32 every bit of the significand is used, so that a kernel which
        // works in parts of it is seen.
        let mut tensor = |n| {
            let mut all = random.normals(n);
            if problem.dtype == DType::F32 {
                all.iter_mut().for_each(|x| *x *= 1.000_123_4);
            }
            all
        };
        Case {
            problem,
            q: tensor(q),
            k: tensor(k),
            v: tensor(v),
            alibi_slopes: problem
                .alibi
                .then(|| (0..s.heads_q).map(|h| 0.5f32.powi(h as i32 % 8 + 1)).collect()),
            bias: problem
                .bias
                .map(|b: Bias| random.normals(problem.bias_dims(&b).iter().product())),
            bias_table: problem.buckets.map(|b| random.normals(b.num_buckets * s.heads_q)),
            key_valid: problem.key_padding.then(|| {
                (0..s.batch * s.seqlen_k).map(|_| u8::from(random.below(4) != 0)).collect()
            }),
            cu_seqlens_q: cu_q,
            cu_seqlens_k: cu_k,
        }
    }

    pub fn inputs(&self) -> Inputs<'_, f32> {
        Inputs {
            alibi_slopes: self.alibi_slopes.as_deref(),
            bias: self.bias.as_deref(),
            bias_table: self.bias_table.as_deref(),
            key_valid: self.key_valid.as_deref(),
            cu_seqlens_q: self.cu_seqlens_q.as_deref(),
            cu_seqlens_k: self.cu_seqlens_k.as_deref(),
            ..Inputs::new(&self.q, &self.k, &self.v)
        }
    }

    /// The oracle, in f64.
    pub fn reference(&self) -> Output<f64> {
        let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
        let (q, k, v) = (wide(&self.q), wide(&self.k), wide(&self.v));
        let slopes = self.alibi_slopes.as_deref().map(wide);
        let bias = self.bias.as_deref().map(wide);
        let table = self.bias_table.as_deref().map(wide);
        let inputs = Inputs {
            alibi_slopes: slopes.as_deref(),
            bias: bias.as_deref(),
            bias_table: table.as_deref(),
            key_valid: self.key_valid.as_deref(),
            cu_seqlens_q: self.cu_seqlens_q.as_deref(),
            cu_seqlens_k: self.cu_seqlens_k.as_deref(),
            ..Inputs::new(&q, &k, &v)
        };
        self.problem.reference(&inputs).expect("valid")
    }
}

/// Errors of `got` by the fixtures' measure: (out, lse).
pub fn errors(got: &Output<f32>, expected: &Output<f64>) -> (f64, f64) {
    errors_of((&got.out, &got.lse), (&expected.out, &expected.lse))
}

/// The same of any kind's results, (out, lse).
pub fn errors_of(got: (&[f32], &[f32]), expected: (&[f64], &[f64])) -> (f64, f64) {
    assert_eq!(got.0.len(), expected.0.len());
    assert_eq!(got.1.len(), expected.1.len());
    let largest = expected.0.iter().fold(0.1, |m: f64, x| m.max(x.abs()));
    let worst = |m: f64, e: f64| if e.is_nan() || e > m { e } else { m };
    let out = got
        .0
        .iter()
        .zip(expected.0)
        .map(|(&g, &e)| (f64::from(g) - e).abs() / largest)
        .fold(0.0, worst);
    let lse = got.1.iter().zip(expected.1).map(|(&g, &e)| match (f64::from(g), e) {
        (g, e) if g == e => 0.0,
        (g, e) if g.is_infinite() || e.is_infinite() => f64::NAN * (g - e),
        (g, e) => (g - e).abs() / e.abs().max(1.0),
    });
    (out, lse.fold(0.0, worst))
}

/// What rounding the result to `dtype` may add to a computation in f32.
pub fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 5e-6,
        DType::F16 => 5e-6 + 1.0 / 2048.0,
        DType::BF16 => 5e-6 + 1.0 / 256.0,
    }
}

/// `x` as `T` stores it.
pub fn stored<T: longhand::cpu::Element>(x: &[f32]) -> Vec<T> {
    let mut all = vec![T::default(); x.len()];
    T::store(x, &mut all);
    all
}
