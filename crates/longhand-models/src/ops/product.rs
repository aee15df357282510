//! Products of matrices, by the crate `gemm`.

use super::*;
use crate::gpu::TILE;

/// How a matrix of a linear map is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// `[out, in]`.
    OutIn,
    /// `[in, out]`, as GPT's "Conv1D".
    InOut,
}

/// `x W + bias` for every row of `x`; `order` says how `w` stores W `[in, out]`. Gradients: `g Wᵀ` to
/// `x`, `xᵀ g` to W, the sum of the rows of `g` to the bias.
///
/// # Panics
///
/// If the sizes do not fit.
pub fn linear(x: &Tensor, w: &Tensor, order: Order, bias: Option<&Tensor>) -> Tensor {
    let (from, to, [in_step, out_step]) = match order {
        Order::OutIn => (w.width(), w.rows(), [1, w.width()]),
        Order::InOut => (w.rows(), w.width(), [w.width(), 1]),
    };
    assert_eq!(x.width(), from, "columns against rows");
    assert!(bias.is_none_or(|bias| bias.len() == to), "a bias for every column");
    let shape = with_width(x.shape(), to);
    let tiles = to.div_ceil(TILE);
    let (groups, biased) = (x.rows().div_ceil(TILE) * tiles, usize::from(bias.is_some()));
    let words = [groups, x.rows(), to, from, out_step, in_step, biased, tiles];
    if let Some(y) = launch(Kernel::Linear, &[x, w, bias.unwrap_or(w)], &words, &shape) {
        return y;
    }
    let (rows, weights) = (x.data(), w.data());
    let mut y = match bias {
        Some(bias) => bias.data().repeat(x.rows()),
        None => vec![0.0; x.rows() * to],
    };
    if !y.is_empty() && from > 0 {
        // Threads cost more than they bring below some hundred thousand multiplications.
        let threads = match x.rows() * from * to {
            0..200_000 => gemm_common::Parallelism::None,
            _ => gemm_common::Parallelism::Rayon(rayon::current_num_threads()),
        };
        // SAFETY: `y` holds rows x `to` elements and nobody else sees it, `rows` rows x `from`,
        // `weights` `from` x `to`: the shapes say so.
        #[allow(unsafe_code)]
        unsafe {
            gemm_f32::gemm::f32::get_gemm_fn()(
                x.rows(),
                to,
                from,
                y.as_mut_ptr(),
                1,
                to as isize,
                bias.is_some(),
                rows.as_ptr(),
                1,
                from as isize,
                weights.as_ptr(),
                out_step as isize,
                in_step as isize,
                1.0,
                1.0,
                false,
                false,
                false,
                threads,
            );
        }
    }
    Tensor::new(&shape, y)
}
