//! Softmax over the last dimension.

use super::*;

/// What [`Kernel::Softmax`] makes of rows, by its number there.
pub(super) enum OfRow {
    Softmax,
    Logarithm,
    /// The largest: one number of a row.
    Largest,
    /// The largest magnitude.
    Magnitude,
    /// The place of the largest.
    Place,
}

/// What the kernel makes of the rows of a tensor that lies on a GPU.
pub(super) fn of_rows(x: &Tensor, of: OfRow) -> Option<Tensor> {
    let (_, rows) = x.shape().split_last()?;
    let shape = if matches!(of, OfRow::Softmax | OfRow::Logarithm) { x.shape() } else { rows };
    let words = [x.rows(), x.width(), of as usize];
    launch(Kernel::Softmax, &[x], &words, shape)
}

/// `exp(x) / Σ exp(x)` of each row. Gradient: `y (g − Σ g y)`.
pub fn softmax(x: Tensor) -> Tensor {
    let of_row = |_, row: &mut [f32]| {
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        row.iter_mut().for_each(|x| *x = (*x - most).exp());
        let sum: f64 = row.iter().map(|&x| f64::from(x)).sum();
        row.iter_mut().for_each(|x| *x = (f64::from(*x) / sum) as f32);
    };
    of_rows(&x, OfRow::Softmax).unwrap_or_else(|| each_row(x, of_row))
}

/// `x − ln Σ exp(x)` of each row. Gradient: `g − softmax · Σ g`.
pub fn log_softmax(x: Tensor) -> Tensor {
    let of_row = |_, row: &mut [f32]| {
        let lse = log_sum_exp(row);
        row.iter_mut().for_each(|x| *x = (f64::from(*x) - lse) as f32);
    };
    of_rows(&x, OfRow::Logarithm).unwrap_or_else(|| each_row(x, of_row))
}

/// `ln Σ exp(x)`, in f64.
pub(super) fn log_sum_exp(row: &[f32]) -> f64 {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if most == f32::NEG_INFINITY {
        return f64::NEG_INFINITY;
    }
    let most = f64::from(most);
    row.iter().map(|&x| (f64::from(x) - most).exp()).sum::<f64>().ln() + most
}

/// The largest magnitude of all elements, `[1]`. It has no gradient.
pub fn largest(x: &Tensor) -> Tensor {
    let of_each = of_rows(x, OfRow::Magnitude).map(|most| most.reshape(&[1, x.rows()]));
    let most = || x.data().iter().fold(0.0, |most: f32, x| most.max(x.abs()));
    let of_all = of_each.and_then(|rows| of_rows(&rows, OfRow::Magnitude));
    of_all.unwrap_or_else(|| Tensor::new(&[1], vec![most()]))
}
