//! Softmax over the last dimension.

use super::*;

/// `exp(x) / Σ exp(x)` of each row. Gradient: `y (g − Σ g y)`.
pub fn softmax(x: Tensor) -> Tensor {
    if let Some(gpu) = place(&[&x]) {
        return launches::softmax(gpu, &x, OfRow::Softmax);
    }
    each_row(x, |row| {
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        row.iter_mut().for_each(|x| *x = (*x - most).exp());
        let sum: f64 = row.iter().map(|&x| f64::from(x)).sum();
        row.iter_mut().for_each(|x| *x = (f64::from(*x) / sum) as f32);
    })
}

/// `x − ln Σ exp(x)` of each row. Gradient: `g − softmax · Σ g`.
pub fn log_softmax(x: Tensor) -> Tensor {
    if let Some(gpu) = place(&[&x]) {
        return launches::softmax(gpu, &x, OfRow::Logarithm);
    }
    each_row(x, |row| {
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
