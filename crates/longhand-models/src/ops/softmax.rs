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
    if let Some(y) = of_rows(&x, OfRow::Softmax) {
        return y;
    }
    each_row(x, |_, row| {
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        row.iter_mut().for_each(|x| *x = (*x - most).exp());
        let sum: f64 = row.iter().map(|&x| f64::from(x)).sum();
        row.iter_mut().for_each(|x| *x = (f64::from(*x) / sum) as f32);
    })
}

/// `x − ln Σ exp(x)` of each row. Gradient: `g − softmax · Σ g`.
pub fn log_softmax(x: Tensor) -> Tensor {
    if let Some(y) = of_rows(&x, OfRow::Logarithm) {
        return y;
    }
    each_row(x, |_, row| {
        let lse = log_sum_exp(row);
        row.iter_mut().for_each(|x| *x = (f64::from(*x) - lse) as f32);
    })
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
    if let Some(of_all) = of_each.and_then(|rows| of_rows(&rows, OfRow::Magnitude)) {
        return of_all;
    }
    let most = x.data().iter().fold(0.0, |most: f32, x| most.max(x.abs()));
    Tensor::new(&[1], vec![most])
}
