//! Norms over the last dimension.

use super::*;

/// Which norm, with the gradient to `x` of each: `h = weight · g`, `n` the normalised row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// `(x − mean) / sqrt(variance + eps) · weight + bias`, biased variance. Gradient:
    /// `(h − mean(h) − n · mean(h n)) · rstd`.
    Layer,
    /// `x / sqrt(mean(x²) + eps) · weight`, no bias. Gradient: `(h − n · mean(h n)) · rstd`.
    Rms,
    /// `x · weight + bias`: no statistics. Gradient: `h`.
    Affine,
}

/// The norm of each row.
///
/// # Panics
///
/// If `weight` or `bias` is not as long as a row.
pub fn norm(x: Tensor, kind: NormKind, weight: &Tensor, bias: Option<&Tensor>, eps: f64) -> Tensor {
    assert_eq!(x.width(), weight.len(), "one weight a column");
    assert!(bias.is_none_or(|bias| bias.len() == x.width()), "one bias a column");
    // The kernel knows the kinds by their order.
    let words = [x.rows(), x.width(), kind as usize, (eps as f32).to_bits() as usize];
    let reads = [&x, weight, bias.unwrap_or(weight)];
    if let Some(y) = launch(Kernel::Norm, &reads, &words, x.shape()) {
        return y;
    }
    let (weight, bias) = (weight.data(), bias.map(Tensor::data));
    let n = x.width() as f32;
    each_row(x, |_, row| {
        let mean = if kind == NormKind::Layer { sum(row, |x| x) / n } else { 0.0 };
        let rstd = match kind {
            NormKind::Affine => 1.0,
            _ => 1.0 / (sum(row, |x| (x - mean) * (x - mean)) / n + eps as f32).sqrt(),
        };
        row.iter_mut().zip(weight).for_each(|(x, w)| *x = (*x - mean) * rstd * w);
        if let Some(bias) = bias {
            row.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
        }
    })
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
    let of_part = |part: &[f32]| {
        let (chunks, rest) = part.as_chunks::<8>();
        let mut sums = [0.0f32; 8];
        for chunk in chunks {
            sums.iter_mut().zip(chunk).for_each(|(s, &x)| *s += f(x));
        }
        f64::from(sums.iter().sum::<f32>() + rest.iter().map(|&x| f(x)).sum::<f32>())
    };
    row.chunks(4096).map(of_part).sum::<f64>() as f32
}
