//! Products of matrices, by the crate `gemm`.

use super::launches::{self, place};
use crate::Tensor;

/// How a matrix of a linear map is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// `[out, in]`.
    OutIn,
    /// `[in, out]`, as GPT's "Conv1D".
    InOut,
}

/// A matrix inside a slice, with a step between neighbouring rows and columns.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_step: usize,
    column_step: usize,
}

impl<'a> Matrix<'a> {
    /// Contiguous rows.
    ///
    /// # Panics
    ///
    /// If the slice has another length.
    pub fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        assert_eq!(data.len(), rows * columns, "elements of a {rows} x {columns} matrix");
        Matrix { data, rows, columns, row_step: columns, column_step: 1 }
    }

    /// A matrix whose rows lie `row_step` apart.
    ///
    /// # Panics
    ///
    /// If the slice ends before the matrix.
    pub fn with_step(data: &'a [f32], rows: usize, columns: usize, row_step: usize) -> Self {
        let end = if rows == 0 { 0 } else { (rows - 1) * row_step + columns };
        assert!(end <= data.len(), "a {rows} x {columns} matrix of step {row_step}");
        Matrix { data, rows, columns, row_step, column_step: 1 }
    }

    /// The transposed matrix, in the same place.
    pub fn t(self) -> Self {
        Matrix {
            rows: self.columns,
            columns: self.rows,
            row_step: self.column_step,
            column_step: self.row_step,
            ..self
        }
    }
}

/// `a b`, contiguous; added to what `out` holds if `accumulate`. Gradients: `g bᵀ` and `aᵀ g`.
///
/// # Panics
///
/// If the sizes do not fit.
pub fn matmul(out: &mut [f32], accumulate: bool, a: Matrix<'_>, b: Matrix<'_>) {
    let (m, k, n) = (a.rows, a.columns, b.columns);
    assert_eq!(k, b.rows, "columns against rows");
    assert_eq!(out.len(), m * n, "elements of the product");
    if out.is_empty() {
        return;
    }
    if k == 0 {
        if !accumulate {
            out.fill(0.0);
        }
        return;
    }
    // Threads cost more than they bring below some hundred thousand multiplications.
    let threads = match m * n * k {
        0..200_000 => gemm_common::Parallelism::None,
        _ => gemm_common::Parallelism::Rayon(rayon::current_num_threads()),
    };
    let (step, one) = (n as isize, 1);
    let steps = |x: &Matrix<'_>| (x.column_step as isize, x.row_step as isize);
    let ((a_cs, a_rs), (b_cs, b_rs)) = (steps(&a), steps(&b));
    // SAFETY: `out` holds m x n elements and nobody else sees it; the constructors of `Matrix` have
    // held sizes and steps against the length of its slice.
    #[allow(unsafe_code)]
    unsafe {
        gemm_f32::gemm::f32::get_gemm_fn()(
            m,
            n,
            k,
            out.as_mut_ptr(),
            one,
            step,
            accumulate,
            a.data.as_ptr(),
            a_cs,
            a_rs,
            b.data.as_ptr(),
            b_cs,
            b_rs,
            1.0,
            1.0,
            false,
            false,
            false,
            threads,
        );
    }
}

/// `x W + bias` for every row of `x`; `order` says how `w` stores W `[in, out]`. Gradients: `g Wᵀ` to
/// `x`, `xᵀ g` to W, the sum of the rows of `g` to the bias.
///
/// # Panics
///
/// If the sizes do not fit.
pub fn linear(x: &Tensor, w: &Tensor, order: Order, bias: Option<&Tensor>) -> Tensor {
    let (from, to) = match order {
        Order::OutIn => (w.width(), w.rows()),
        Order::InOut => (w.rows(), w.width()),
    };
    assert_eq!(x.width(), from, "columns against rows");
    assert!(bias.is_none_or(|bias| bias.len() == to), "a bias for every column");
    if let Some(gpu) = place(&[x]) {
        return launches::linear(gpu, x, w, order, bias);
    }
    let matrix = Matrix::new(w.data(), w.rows(), w.width());
    let mut y = match bias {
        Some(bias) => bias.data().repeat(x.rows()),
        None => vec![0.0; x.rows() * to],
    };
    let rows = Matrix::new(x.data(), x.rows(), from);
    let matrix = if order == Order::OutIn { matrix.t() } else { matrix };
    matmul(&mut y, bias.is_some(), rows, matrix);
    Tensor::new(&super::with_width(x.shape(), to), y)
}
