//! The operations that models are made of, attention apart: plain functions of tensors. One runs
//! where its operands lie: with an operand on a GPU, there; else on the processor. Those without a
//! kernel bring their operands back.
//!
//! Each says what its gradient is. The gradient's function will stand beside it and be called from
//! a trace that the tensors carry; no operation keeps anything else.

mod activation;
mod conv;
mod launches;
mod loss;
mod moves;
mod norm;
mod product;
mod rounding;
mod rows;
mod softmax;

pub use activation::Activation;
pub use conv::{conv1d, max_over_length};
pub use loss::{
    binary_cross_entropy, cosine, dot, l1, labels_loss, mse, next_labels, nll, scored_rows,
    soft_cross_entropy,
};
pub use moves::turned;
pub use norm::{NormKind, norm, weight_norm};
pub use product::{Order, linear};
pub use rounding::{in_units, largest, round, unit};
pub use rows::{
    argmax, argmax_rows, concat_last, first_rows, gather, gather_at, join_rows, keep_rows,
    last_rows, put_row, rows_from, shift_rows, split_fused, split_last, stacked,
};
pub use softmax::{log_softmax, softmax};

// The imports here are what operations are made of; each file takes them all.
use crate::gpu::Gpu;
use crate::{Error, Ints, Result, Tensor, require};
use launches::{Meets, Of, OfRow, place};
use moves::Moved;
use rayon::prelude::*;
use softmax::log_sum_exp;

/// Rows that one task takes: about 16 k elements, so that small tensors stay on one thread.
fn rows_of_task(width: usize) -> usize {
    (1 << 14) / width.max(1) + 1
}

/// `f` of every row of `x`, in place, on the threads of the pool.
fn each_row(mut x: Tensor, f: impl Fn(&mut [f32]) + Sync) -> Tensor {
    let width = x.width();
    if width > 0 {
        let task = width * rows_of_task(width);
        x.data_mut()
            .par_chunks_mut(task)
            .for_each(|rows| rows.chunks_exact_mut(width).for_each(&f));
    }
    x
}

/// `f` of every element of `x`, in place, on the threads of the pool. Gradient: of `f`, times what
/// comes in.
pub fn map(mut x: Tensor, f: impl Fn(f32) -> f32 + Sync) -> Tensor {
    x.data_mut().par_chunks_mut(1 << 14).for_each(|part| part.iter_mut().for_each(|x| *x = f(*x)));
    x
}

/// `a + b`, elementwise. Gradient: passes to both.
///
/// # Panics
///
/// If the shapes differ.
pub fn add(a: Tensor, b: &Tensor) -> Tensor {
    zip(Of::Add, a, b, |a, b| a + b)
}

/// `a · b`, elementwise. Gradient: to each, times the other.
///
/// # Panics
///
/// If the shapes differ.
pub fn multiply(a: Tensor, b: &Tensor) -> Tensor {
    zip(Of::Multiply, a, b, |a, b| a * b)
}

/// `c · x`. Gradient: times `c`.
pub fn scale(x: Tensor, c: f32) -> Tensor {
    match place(&[&x]) {
        Some(gpu) => launches::elements(gpu, Of::Scale, &x, None, c),
        None => map(x, |x| c * x),
    }
}

/// `x`, at most `most` up or down. Gradient: passes where it is not clamped.
pub fn clamp(x: Tensor, most: f32) -> Tensor {
    match place(&[&x]) {
        Some(gpu) => launches::elements(gpu, Of::Clamp, &x, None, most),
        None => map(x, |x| x.clamp(-most, most)),
    }
}

/// `x + row` for every row of `x`. Gradient: passes to `x`, summed over the rows to `row`.
///
/// # Panics
///
/// If `row` is not as long as a row of `x`.
pub fn add_row(x: Tensor, row: &Tensor) -> Tensor {
    assert_eq!(x.width(), row.len(), "a row to every row");
    if let Some(gpu) = place(&[&x, row]) {
        return launches::elements(gpu, Of::Add, &x, Some((row, Meets::Row)), 0.0);
    }
    each_row(x, |x| x.iter_mut().zip(row.data()).for_each(|(x, r)| *x += r))
}

/// `x + column[i]` for every element of row `i` of `x`. Gradient: passes to `x`, summed over the rows'
/// elements to `column`.
///
/// # Panics
///
/// If `column` has not an element for each row of `x`.
pub fn add_column(mut x: Tensor, column: &Tensor) -> Tensor {
    assert_eq!(x.rows(), column.len(), "an element for every row");
    if let Some(gpu) = place(&[&x, column]) {
        return launches::elements(gpu, Of::Add, &x, Some((column, Meets::Column)), 0.0);
    }
    let width = x.width().max(1);
    for (row, c) in x.data_mut().chunks_exact_mut(width).zip(column.data()) {
        row.iter_mut().for_each(|x| *x += c);
    }
    x
}

/// `shape` with another last dimension.
pub(crate) fn with_width(shape: &[usize], width: usize) -> Vec<usize> {
    let mut shape = shape.to_vec();
    if let Some(last) = shape.last_mut() {
        *last = width;
    }
    shape
}

fn zip(of: Of, mut a: Tensor, b: &Tensor, f: impl Fn(f32, f32) -> f32 + Sync) -> Tensor {
    assert_eq!(a.shape(), b.shape(), "elementwise");
    if let Some(gpu) = place(&[&a, b]) {
        return launches::elements(gpu, of, &a, Some((b, Meets::Same)), 0.0);
    }
    let parts = a.data_mut().par_chunks_mut(1 << 14).zip(b.data().par_chunks(1 << 14));
    parts.for_each(|(a, b)| a.iter_mut().zip(b).for_each(|(a, b)| *a = f(*a, *b)));
    a
}
