//! Convolution over time.

use super::launches::{self, place};
use super::product::{Matrix, matmul};
use crate::Tensor;

/// `[batch, length, in]` under `weight` `[out, in / groups, width]` to `[batch, ⌊(length + 2 · padding −
/// width) / stride⌋ + 1, out]`; zeros beyond the ends. Gradients: the products of a linear map on the
/// gathered windows, scattered back.
///
/// # Panics
///
/// If the sizes do not fit.
pub fn conv1d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    [stride, padding, groups]: [usize; 3],
) -> Tensor {
    let (&[_, length, from], &[to, part, width]) = (x.shape(), weight.shape()) else {
        panic!("three dimensions each: {:?}, {:?}", x.shape(), weight.shape());
    };
    assert_eq!(from, part * groups, "channels of the groups");
    assert!(to.is_multiple_of(groups), "outputs of the groups");
    let frames = (length + 2 * padding).checked_sub(width).map_or(0, |n| n / stride + 1);
    let out = match place(&[x]) {
        Some(gpu) => launches::conv1d(gpu, x, weight, frames, [stride, padding, groups]),
        None => on_host(x, weight, frames, [stride, padding, groups]),
    };
    match bias {
        Some(bias) => super::add_row(out, bias),
        None => out,
    }
}

fn on_host(
    x: &Tensor,
    weight: &Tensor,
    frames: usize,
    [stride, padding, groups]: [usize; 3],
) -> Tensor {
    let [batch, length, from] = [0, 1, 2].map(|i| x.shape()[i]);
    let [to, part, width] = [0, 1, 2].map(|i| weight.shape()[i]);
    let per_group = to / groups;
    let mut out = vec![0.0; batch * frames * to];
    // The window of each frame as a row, channel by channel as the weights lie.
    let mut windows = vec![0.0; batch * frames * part * width];
    let mut result = vec![0.0; batch * frames * per_group];
    for group in 0..groups {
        for (row, window) in windows.chunks_exact_mut(part * width).enumerate() {
            let (b, frame) = (row / frames, row % frames);
            for c in 0..part {
                for t in 0..width {
                    let at = (frame * stride + t).checked_sub(padding).filter(|&at| at < length);
                    window[c * width + t] =
                        at.map_or(0.0, |at| x.data()[(b * length + at) * from + group * part + c]);
                }
            }
        }
        let own = &weight.data()[group * per_group * part * width..][..per_group * part * width];
        let rows = Matrix::new(&windows, batch * frames, part * width);
        matmul(&mut result, false, rows, Matrix::new(own, per_group, part * width).t());
        for (row, values) in result.chunks_exact(per_group).enumerate() {
            out[row * to + group * per_group..][..per_group].copy_from_slice(values);
        }
    }
    Tensor::new(&[batch, frames, to], out)
}

/// Of `[batch, length, width]`, the largest over the length: `[batch, width]`. Gradient: to the
/// position that was largest.
///
/// # Panics
///
/// If `x` has not three dimensions.
pub fn max_over_length(x: &Tensor) -> Tensor {
    let &[batch, length, width] = x.shape() else { panic!("three dimensions: {:?}", x.shape()) };
    let mut most = vec![f32::NEG_INFINITY; batch * width];
    for i in 0..batch * length {
        let row = &mut most[i / length * width..][..width];
        row.iter_mut().zip(x.row(i)).for_each(|(m, &x)| *m = m.max(x));
    }
    Tensor::new(&[batch, width], most)
}
