//! Two results to merge, and what that gives.

use super::Random;
use super::guard::{bytes_of, floats_of};
use longhand::{DType, Merge, Shape, merge};

/// Two results, as they are stored.
pub struct Case {
    pub merge: Merge,
    /// `out` and `lse` of the result and of the part.
    pub parts: [(Vec<f32>, Vec<f32>); 2],
}

/// Sizes of every remainder that the kernels know, with rows that attended nothing in one part, in the
/// other or in both, whose elements are NaN, and with rows that one part decides alone.
pub fn cases(dtype: DType) -> Vec<Case> {
    let sizes = [
        [2, 3, 5, 64],
        [2, 3, 5, 16],
        [1, 1, 1, 8],
        [3, 2, 7, 20],
        [1, 2, 33, 3],
        [2, 1, 4, 256],
        [1, 5, 9, 130],
        [1, 17, 2, 1],
        [2, 2, 0, 16],
    ];
    let case = |(n, [batch, heads_q, seqlen_q, head_dim]): (usize, [usize; 4])| {
        let shape = Shape { batch, heads_q, heads_kv: heads_q, seqlen_q, seqlen_k: 1, head_dim };
        let mut random = Random(n as u64 + 90);
        let rows = batch * heads_q * seqlen_q;
        let parts = [0, 1].map(|part| {
            let lse: Vec<f32> = (0..rows)
                .map(|row| match (row % 7, part) {
                    (1, 0) | (2, 1) | (3, _) => f32::NEG_INFINITY,
                    (4, 0) | (5, 1) => -300.0 + random.normal(),
                    _ => 4.0 * random.normal(),
                })
                .collect();
            let mut out: Vec<f32> = (0..rows * head_dim).map(|_| random.normal()).collect();
            for (n, row) in out.chunks_exact_mut(head_dim).enumerate() {
                // The row among those of its sequence and head.
                let (batch, row_q, head) =
                    (n / heads_q / seqlen_q, n / heads_q % seqlen_q, n % heads_q);
                if lse[(batch * heads_q + head) * seqlen_q + row_q] == f32::NEG_INFINITY {
                    row.fill(f32::NAN);
                }
            }
            (floats_of(&bytes_of(&out, dtype), dtype), lse)
        });
        Case { merge: Merge::new(shape, dtype), parts }
    };
    sizes.into_iter().enumerate().map(case).collect()
}

impl Case {
    /// The largest errors of `out` and `lse`, as parts of what they may be off.
    pub fn worst(&self, out: &[f32], lse: &[f32]) -> (f64, f64) {
        let wide = |x: &Vec<f32>| -> Vec<f64> { x.iter().map(|&x| f64::from(x)).collect() };
        let [a, b] = self.parts.each_ref().map(|(out, lse)| (wide(out), wide(lse)));
        let (out_expected, lse_expected) =
            merge(&self.merge.shape, [(&a.0, &a.1), (&b.0, &b.1)]).expect("they fit");
        let half = match self.merge.dtype {
            DType::F32 => 0.0,
            DType::F16 => 2f64.powi(-11),
            DType::BF16 => 2f64.powi(-8),
        };
        let worst = |got: &[f32], expected: &[f64], allowed: &dyn Fn(f64) -> f64| {
            assert_eq!(got.len(), expected.len());
            got.iter().zip(expected).fold(0.0, |worst: f64, (&got, &x)| {
                let got = f64::from(got);
                let part = if got == x { 0.0 } else { (got - x).abs() / allowed(x) };
                // NaN is worse than everything.
                if part <= worst || worst.is_nan() { worst } else { part }
            })
        };
        (
            worst(out, &out_expected, &|x| 1e-6 + half * x.abs() + 2f64.powi(-24)),
            worst(lse, &lse_expected, &|x| 1e-6 + 1.2e-7 * x.abs()),
        )
    }
}
