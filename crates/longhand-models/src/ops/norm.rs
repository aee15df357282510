//! Norms over the last dimension.

use super::each_row;
use crate::Tensor;

/// `(x − mean) / sqrt(variance + eps) · weight + bias` of each row, biased variance. Gradient to
/// `x`: with `h = weight · g` and the normalised row `n`, `(h − mean(h) − n · mean(h n)) · rstd`.
///
/// # Panics
///
/// If `weight` or `bias` is not as long as a row.
pub fn layer_norm(x: Tensor, weight: &[f32], bias: &[f32], eps: f64) -> Tensor {
    assert_eq!((x.width(), x.width()), (weight.len(), bias.len()), "one weight and bias a column");
    let n = x.width() as f32;
    each_row(x, |row| {
        let mean = sum(row, |x| x) / n;
        let variance = sum(row, |x| (x - mean) * (x - mean)) / n;
        let rstd = 1.0 / (variance + eps as f32).sqrt();
        for ((x, w), b) in row.iter_mut().zip(weight).zip(bias) {
            *x = (*x - mean) * rstd * w + b;
        }
    })
}

/// `x / sqrt(mean(x²) + eps) · weight` of each row. Gradient to `x`: with `h = weight · g` and the
/// normalised row `n`, `(h − n · mean(h n)) · rstd`.
///
/// # Panics
///
/// If `weight` is not as long as a row.
pub fn rms_norm(x: Tensor, weight: &[f32], eps: f64) -> Tensor {
    assert_eq!(x.width(), weight.len(), "one weight a column");
    let n = x.width() as f32;
    each_row(x, |row| {
        let rstd = 1.0 / (sum(row, |x| x * x) / n + eps as f32).sqrt();
        row.iter_mut().zip(weight).for_each(|(x, w)| *x = *x * rstd * w);
    })
}

/// `x · weight + bias`: a norm without statistics. Gradient to `x`: `weight · g`.
///
/// # Panics
///
/// If `weight` or `bias` is not as long as a row.
pub fn affine(x: Tensor, weight: &[f32], bias: &[f32]) -> Tensor {
    assert_eq!((x.width(), x.width()), (weight.len(), bias.len()), "one weight and bias a column");
    each_row(x, |row| {
        row.iter_mut().zip(weight).zip(bias).for_each(|((x, w), b)| *x = *x * w + b);
    })
}

/// The sum of `f` over a row, in eight partial sums: vectors, and less rounding.
fn sum(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = row.as_chunks::<8>();
    let mut sums = [0.0f32; 8];
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(s, &x)| *s += f(x));
    }
    sums.iter().sum::<f32>() + rest.iter().map(|&x| f(x)).sum::<f32>()
}
