//! Norms over the last dimension.

use super::each_row;
use super::launches::{self, Norm, place};
use super::moves::turned;
use crate::Tensor;

/// `(x − mean) / sqrt(variance + eps) · weight + bias` of each row, biased variance. Gradient to
/// `x`: with `h = weight · g` and the normalised row `n`, `(h − mean(h) − n · mean(h n)) · rstd`.
///
/// # Panics
///
/// If `weight` or `bias` is not as long as a row.
pub fn layer_norm(x: Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Tensor {
    assert_eq!((x.width(), x.width()), (weight.len(), bias.len()), "one weight and bias a column");
    if let Some(gpu) = place(&[&x]) {
        return launches::norm(gpu, Norm::Layer, &x, weight, Some(bias), eps);
    }
    let (weight, bias) = (weight.data(), bias.data());
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
pub fn rms_norm(x: Tensor, weight: &Tensor, eps: f64) -> Tensor {
    assert_eq!(x.width(), weight.len(), "one weight a column");
    if let Some(gpu) = place(&[&x]) {
        return launches::norm(gpu, Norm::Rms, &x, weight, None, eps);
    }
    let weight = weight.data();
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
pub fn affine(x: Tensor, weight: &Tensor, bias: &Tensor) -> Tensor {
    assert_eq!((x.width(), x.width()), (weight.len(), bias.len()), "one weight and bias a column");
    if let Some(gpu) = place(&[&x]) {
        return launches::norm(gpu, Norm::Affine, &x, weight, Some(bias), 0.0);
    }
    let (weight, bias) = (weight.data(), bias.data());
    each_row(x, |row| {
        row.iter_mut().zip(weight).zip(bias).for_each(|((x, w), b)| *x = *x * w + b);
    })
}

/// `(x − mean) / sqrt(variance + eps) · weight + bias` of each channel of `[batch, length, width]`
/// over the length, biased variance: a group norm of one channel a group, or the norm of the turned
/// tensor's rows. Gradient: as of [`layer_norm`], channels in place of rows.
///
/// # Panics
///
/// If `x` has not three dimensions, or `weight` or `bias` is not as long as a row.
pub fn channel_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Tensor {
    let length = x.shape()[1];
    let (ones, zeros) = (Tensor::new(&[length], vec![1.0; length]), Tensor::zeros(&[length]));
    affine(turned(&layer_norm(turned(x), &ones, &zeros, eps)), weight, bias)
}

/// A convolution's weight `[out, in, width]` from directions of that shape and a length for each
/// place of the kernel: `length[k] · v / |v[:, :, k]|`. Gradient to the length: the direction's part
/// of what comes in.
///
/// # Panics
///
/// If there are not as many lengths as places.
pub fn weight_norm(mut v: Tensor, lengths: &[f32]) -> Tensor {
    let width = v.width();
    assert_eq!(width, lengths.len(), "a length for each place of the kernel");
    let mut squares = vec![0.0; width];
    for row in v.data().chunks_exact(width) {
        row.iter().zip(&mut squares).for_each(|(&x, sum)| *sum += f64::from(x) * f64::from(x));
    }
    for row in v.data_mut().chunks_exact_mut(width) {
        for ((x, &length), square) in row.iter_mut().zip(lengths).zip(&squares) {
            *x = (f64::from(*x) * f64::from(length) / square.sqrt()) as f32;
        }
    }
    v
}

/// The sum of `f` over a row, in eight partial sums: vectors, and less rounding. Of a long row the
/// sums of parts are added in f64.
fn sum(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    const PART: usize = 4096;
    if row.len() > PART {
        return row.chunks(PART).map(|part| f64::from(sum_of_part(part, &f))).sum::<f64>() as f32;
    }
    sum_of_part(row, f)
}

fn sum_of_part(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = row.as_chunks::<8>();
    let mut sums = [0.0f32; 8];
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(s, &x)| *s += f(x));
    }
    sums.iter().sum::<f32>() + rest.iter().map(|&x| f(x)).sum::<f32>()
}
