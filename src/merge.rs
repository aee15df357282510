//! Two results over different keys as one: on the host, or where they lie on a device.

#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(feature = "webgpu")]
pub mod webgpu;

use crate::problem::{exactly, product};
use crate::{DType, Error, Real, Shape};

/// What attention over the keys of both parts gives, in one softmax, from what it gives over each:
/// `out` (`[batch, seqlen_q, heads_q, head_dim]`, contiguous) and `lse` (`[batch, heads_q,
/// seqlen_q]`). A key that is in both parts counts twice. The parts may differ in kind, projections,
/// scale and masks; only the sizes of `shape` that both results have are looked at.
///
/// ```text
/// lse = ln(e^lse_0 + e^lse_1);   out = e^(lse_0 − lse) · out_0 + e^(lse_1 − lse) · out_1
/// ```
///
/// A part in which a row attended nothing (`lse = −inf`) leaves the other's row as it is.
///
/// ```
/// use longhand::{DType, Full, Shape, full::Inputs, merge};
///
/// // Eight keys, say of a prefix that other sequences share, and four more.
/// let of = |seqlen_k| Shape { batch: 1, heads_q: 1, heads_kv: 1, seqlen_q: 2, seqlen_k, head_dim: 4 };
/// let (q, shared, own) = ([0.5f32; 8], [0.25f32; 32], [1.0f32; 16]);
/// let a = Full::new(of(8), DType::F32).reference(&Inputs::new(&q, &shared, &shared))?;
/// let b = Full::new(of(4), DType::F32).reference(&Inputs::new(&q, &own, &own))?;
/// let (out, lse) = merge(&of(12), [(&a.out, &a.lse), (&b.out, &b.lse)])?;
///
/// let all = [&shared[..], &own].concat();
/// let whole = Full::new(of(12), DType::F32).reference(&Inputs::new(&q, &all, &all))?;
/// assert!((out[0] - whole.out[0]).abs() < 1e-6 && (lse[0] - whole.lse[0]).abs() < 1e-6);
/// # Ok::<(), longhand::Error>(())
/// ```
///
/// # Errors
///
/// If a tensor has not as many elements as the shape says.
pub fn merge<T: Real>(shape: &Shape, [a, b]: [(&[T], &[T]); 2]) -> Result<(Vec<T>, Vec<T>), Error> {
    let rows = product("shape", &[shape.batch, shape.heads_q, shape.seqlen_q])?;
    let elements = product("shape", &[rows, shape.head_dim])?;
    sizes_fit([a, b], [elements, rows])?;
    let (mut out, mut lse) = (vec![T::zero(); elements], vec![T::neg_infinity(); rows]);
    for (n, merged) in lse.iter_mut().enumerate() {
        let most = a.1[n].max(b.1[n]);
        if most == T::neg_infinity() {
            continue;
        }
        let [of_a, of_b] = [a.1[n], b.1[n]].map(|lse| (lse - most).exp());
        let sum = of_a + of_b;
        *merged = most + sum.ln();
        // From [batch, head, row] to [batch, row, head].
        let (batch, head) =
            (n / (shape.heads_q * shape.seqlen_q), n / shape.seqlen_q % shape.heads_q);
        let row = (batch * shape.seqlen_q + n % shape.seqlen_q) * shape.heads_q + head;
        let at = row * shape.head_dim..(row + 1) * shape.head_dim;
        for (part, weight) in [(a.0, of_a / sum), (b.0, of_b / sum)] {
            if weight != T::zero() {
                crate::real::add_scaled(&mut out[at.clone()], weight, &part[at.clone()]);
            }
        }
    }
    Ok((out, lse))
}

/// Both parts have so many elements of `out` and `lse`.
fn sizes_fit<T>(parts: [(&[T], &[T]); 2], [elements, rows]: [usize; 2]) -> Result<(), Error> {
    for (n, (out, lse)) in parts.into_iter().enumerate() {
        exactly(&format!("parts[{n}].out"), Some(out.len()), Some(elements))?;
        exactly(&format!("parts[{n}].lse"), Some(lse.len()), Some(rows))?;
    }
    Ok(())
}

/// [`merge`](merge()) on a device: a part is merged into a result, where that lies. Parts merged one
/// after another, in whatever order they come (from other devices, or of other kinds of attention),
/// give what one softmax over all of their keys gives; in 16 bits the result is rounded once a part.
///
/// Both `out` and both `lse` are contiguous: `[batch, seqlen_q, heads_q, head_dim]` in `dtype`, and
/// `[batch, heads_q, seqlen_q]` in f32. A row whose part attended nothing stays as it is; one that
/// attended nothing in either is 0, with `lse = −inf`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Merge {
    /// Sizes; only those that both results have are looked at.
    pub shape: Shape,
    /// Storage of both `out`.
    pub dtype: DType,
}

impl Merge {
    /// Of two results of `shape`, stored as `dtype`.
    pub fn new(shape: Shape, dtype: DType) -> Self {
        Merge { shape, dtype }
    }

    /// Rejects rows without elements, and sizes whose product no address can hold.
    pub fn validate(&self) -> Result<(), Error> {
        if self.shape.head_dim == 0 {
            return Err(Error::invalid("head_dim", 0, "must be at least 1"));
        }
        product("shape", &[self.rows()?, self.shape.head_dim]).map(|_| ())
    }

    /// Rows of all heads.
    fn rows(&self) -> Result<usize, Error> {
        product("shape", &[self.shape.batch, self.shape.heads_q, self.shape.seqlen_q])
    }

    /// Rows and elements, if the kernels can count them.
    #[cfg(any(feature = "cuda", feature = "webgpu"))]
    fn counts(&self) -> Result<[usize; 2], Error> {
        self.validate()?;
        let rows = self.rows()?;
        let elements = rows * self.shape.head_dim;
        crate::problem::counted(elements)?;
        Ok([rows, elements])
    }
}

#[cfg(test)]
mod tests {
    use super::{Merge, merge};
    use crate::{DType, Error, Full, Shape, full};

    #[test]
    fn sizes_without_meaning_are_named() {
        let shape =
            Shape { batch: 2, heads_q: 4, heads_kv: 2, seqlen_q: 5, seqlen_k: 12, head_dim: 3 };
        Merge::new(shape, DType::F16).validate().expect("a small one");
        let long = Shape { seqlen_q: usize::MAX / 8, ..shape };
        for (shape, rule) in [(long, "shape"), (Shape { head_dim: 0, ..shape }, "head_dim")] {
            match Merge::new(shape, DType::F16).validate() {
                Err(Error::Invalid { field, .. }) => assert_eq!(field, rule),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn halves_of_the_keys_are_the_whole() {
        let shape =
            Shape { batch: 2, heads_q: 4, heads_kv: 2, seqlen_q: 5, seqlen_k: 12, head_dim: 3 };
        let numbers = |seed: u64, len: usize| -> Vec<f64> {
            let number = |n| (crate::random::split_mix(seed, n) >> 40) as f64 / (1 << 22) as f64;
            (0..len as u64).map(|n| number(n) - 2.0).collect()
        };
        let (q, k, v) = (numbers(1, 120), numbers(2, 144), numbers(3, 144));
        let whole = Full::new(shape, DType::F32).causal();
        let expected = whole.reference(&full::Inputs::new(&q, &k, &v)).expect("valid");
        let part = |second: usize| {
            let of = Shape { seqlen_k: 6, ..shape };
            let mut problem = Full::new(of, DType::F32);
            // Keys 0 to 5 lie before position 7, that of the first query; 6 to 11 end with the last.
            problem.causal = second == 1;
            let keys = |x: &[f64]| [&x[second * 36..][..36], &x[72 + second * 36..][..36]].concat();
            let (k, v) = (keys(&k), keys(&v));
            problem.reference(&full::Inputs::new(&q, &k, &v)).expect("valid")
        };
        let [a, b] = [0, 1].map(part);
        let (out, lse) = merge(&shape, [(&a.out, &a.lse), (&b.out, &b.lse)]).expect("they fit");
        for (got, expected) in [(&out, &expected.out), (&lse, &expected.lse)] {
            let error = got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(error < 1e-14, "{error}");
        }
    }

    #[test]
    fn a_part_without_keys_adds_nothing_and_wrong_sizes_are_named() {
        let shape =
            Shape { batch: 1, heads_q: 1, heads_kv: 1, seqlen_q: 2, seqlen_k: 9, head_dim: 2 };
        let none = f32::NEG_INFINITY;
        let (a, b) = ([f32::NAN, 7.0, 0.0, 0.0], [1.0, 2.0, 0.0, 0.0]);
        let merged = merge(&shape, [(&a, &[none, none]), (&b, &[0.5, none])]).expect("they fit");
        assert_eq!(merged, (vec![1.0, 2.0, 0.0, 0.0], vec![0.5, none]));
        for (part, field) in [((&b[..3], &[0.0; 2][..]), "out"), ((&b[..], &[0.0; 3][..]), "lse")] {
            match merge(&shape, [(&a, &[none, none]), part]) {
                Err(Error::Invalid { field: named, .. }) => {
                    assert_eq!(named, format!("parts[1].{field}.len"));
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
