//! The arithmetic of the references: rows of numbers in f32 or f64.

use crate::Strides;
use num_traits::Float;

/// f32 or f64.
pub trait Real:
    Float + Send + Sync + std::iter::Sum + std::ops::AddAssign + std::fmt::Debug
{
    /// `x` in this type.
    fn of(x: f64) -> Self;
}

impl Real for f32 {
    fn of(x: f64) -> Self {
        x as f32
    }
}

impl Real for f64 {
    fn of(x: f64) -> Self {
        x
    }
}

/// Where row `i` of a head begins in a tensor whose sequence begins at `base`.
pub(crate) fn row_start(base: usize, strides: Strides, i: usize, head: usize) -> usize {
    base + i * strides.seqlen + head * strides.head
}

/// Row `i` of a head.
pub(crate) fn row<T>(
    x: &[T],
    base: usize,
    strides: Strides,
    i: usize,
    head: usize,
    d: usize,
) -> &[T] {
    &x[row_start(base, strides, i, head)..][..d]
}

/// Eight partial sums, so that the compiler may vectorise.
pub(crate) fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    let mut sums = [T::zero(); 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: T = a8.remainder().iter().zip(b8.remainder()).map(|(&x, &y)| x * y).sum();
    for (x, y) in a8.zip(b8) {
        for n in 0..8 {
            sums[n] += x[n] * y[n];
        }
    }
    sums.into_iter().sum::<T>() + rest
}

/// `sum += factor · x`.
pub(crate) fn add_scaled<T: Real>(sum: &mut [T], factor: T, x: &[T]) {
    for (sum, &x) in sum.iter_mut().zip(x) {
        *sum += factor * x;
    }
}
