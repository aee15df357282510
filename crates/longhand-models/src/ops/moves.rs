//! Boxes of elements that are copied from one place to another: what cuts, shifts and puts together
//! rows and columns says once where its elements lie, and it is done where they lie.

use super::*;
use std::borrow::Borrow;
use std::ops::Range;

/// A box of elements: where element (0, 0, 0, 0) lies in the source and in the result, and the steps
/// of each dimension.
pub(super) struct Moved {
    pub(super) size: [usize; 4],
    pub(super) from: usize,
    pub(super) from_steps: [usize; 4],
    pub(super) to: usize,
    pub(super) to_steps: [usize; 4],
}

impl Moved {
    /// A box that is written densely.
    pub(super) fn dense(size: [usize; 4], from: usize, from_steps: [usize; 4]) -> Self {
        let to_steps = [size[1] * size[2] * size[3], size[2] * size[3], size[3], 1];
        Moved { size, from, from_steps, to: 0, to_steps }
    }

    /// The box out of `x`, as a tensor that lies where `x` does.
    pub(super) fn tensor(self, x: &Tensor, shape: &[usize]) -> Tensor {
        together(place(&[x]), &[(x, self)], shape)
    }

    /// On a GPU, into a buffer of the result's size.
    fn launch(&self, gpu: &Gpu, x: &Tensor, out: &Buffer) {
        let Moved { size, from, from_steps, to, to_steps } = self;
        let total = size.iter().product::<usize>();
        let counts = [total.div_ceil(BLOCK), total];
        let words = [&counts, &size[1..], &[*from], from_steps, &[*to], to_steps].concat();
        gpu.launch(Kernel::Copy, &[x], out, &words);
    }

    /// On the host, into zeros.
    fn copy(&self, x: &[f32], out: &mut [f32]) {
        let [n0, n1, n2, n3] = self.size;
        let ([f0, f1, f2, f3], [t0, t1, t2, t3]) = (self.from_steps, self.to_steps);
        for i0 in 0..n0 {
            for i1 in 0..n1 {
                for i2 in 0..n2 {
                    let from = self.from + i0 * f0 + i1 * f1 + i2 * f2;
                    let to = self.to + i0 * t0 + i1 * t1 + i2 * t2;
                    match (f3, t3) {
                        (1, 1) => out[to..to + n3].copy_from_slice(&x[from..from + n3]),
                        _ => (0..n3).for_each(|i3| out[to + i3 * t3] = x[from + i3 * f3]),
                    }
                }
            }
        }
    }
}

/// A tensor of the boxes out of several, which lies at `place`.
pub(super) fn together(place: Option<&Gpu>, parts: &[(&Tensor, Moved)], shape: &[usize]) -> Tensor {
    let len = shape.iter().product();
    if let Some(gpu) = place {
        let out = gpu.empty(len);
        parts.iter().for_each(|(x, moved)| moved.launch(gpu, x, &out));
        return Tensor::on_gpu(shape, out);
    }
    let mut out = vec![0.0; len];
    parts.iter().for_each(|(x, moved)| moved.copy(x.data(), &mut out));
    Tensor::new(shape, out)
}

/// `[batch, rows, columns]` to `[batch, columns, rows]`. Gradient: turned back.
///
/// # Panics
///
/// If `x` has not three dimensions.
pub fn turned(x: &Tensor) -> Tensor {
    let &[batch, rows, columns] = x.shape() else { panic!("three dimensions: {:?}", x.shape()) };
    let steps = [0, rows * columns, 1, columns];
    Moved::dense([1, batch, columns, rows], 0, steps).tensor(x, &[batch, columns, rows])
}

/// Tensors one after another along a dimension. Gradient: cut apart again.
///
/// # Panics
///
/// If there is none, or they differ in another dimension.
pub fn concat(parts: &[impl Borrow<Tensor>], axis: usize) -> Tensor {
    let parts: Vec<&Tensor> = parts.iter().map(Borrow::borrow).collect();
    if let [x] = parts[..] {
        return x.clone();
    }
    let mut shape = parts[0].shape().to_vec();
    shape[axis] = parts.iter().map(|x| x.shape()[axis]).sum();
    let (outer, row) = (shape[..axis].iter().product(), shape[axis..].iter().product());
    let mut start = 0;
    let part = |x| {
        let own = Tensor::shape(x);
        assert!(own[..axis] == shape[..axis] && own[axis + 1..] == shape[axis + 1..], "{own:?}");
        let width = own[axis..].iter().product();
        let dense = Moved::dense([1, 1, outer, width], 0, [0, 0, width, 1]);
        start += width;
        (x, Moved { to: start - width, to_steps: [0, 0, row, 1], ..dense })
    };
    let moved: Vec<(&Tensor, Moved)> = parts.iter().copied().map(part).collect();
    together(place(&parts), &moved, &shape)
}

/// `[batch, length, width]` with so many rows of zeros before and behind. Gradient: cut out again.
pub fn padded(x: &Tensor, count: usize) -> Tensor {
    if count == 0 {
        return x.clone();
    }
    let zeros = Tensor::zeros(&[x.shape()[0], count, x.width()]);
    concat(&[&zeros, x, &zeros], 1)
}

/// A range of a dimension. Gradient: zeros for the others.
///
/// # Panics
///
/// If the dimension ends before it.
pub fn cut(x: &Tensor, axis: usize, range: Range<usize>) -> Tensor {
    let mut shape = x.shape().to_vec();
    assert!(range.end <= shape[axis], "{range:?} of dimension {axis} of {shape:?}");
    let (outer, whole) = (shape[..axis].iter().product(), shape[axis..].iter().product());
    let inner: usize = shape[axis + 1..].iter().product();
    shape[axis] = range.len();
    let size = [1, 1, outer, range.len() * inner];
    let moved = Moved::dense(size, range.start * inner, [0, 0, whole, 1]);
    moved.tensor(x, &shape)
}

/// The last `count` rows of each sequence of `[batch, length, …]`, or all of fewer. Gradient: zeros
/// for the others.
pub fn last_rows(x: &Tensor, count: usize) -> Tensor {
    let length = x.shape()[1];
    cut(x, 1, length.saturating_sub(count)..length)
}

/// The last dimension cut into parts of these widths. Gradient: put together again.
///
/// # Panics
///
/// If the widths do not add up.
pub fn split_last(x: &Tensor, widths: &[usize]) -> Vec<Tensor> {
    assert_eq!(widths.iter().sum::<usize>(), x.width(), "widths of the parts");
    let mut end = 0;
    let part = |width: &usize| {
        end += width;
        cut(x, x.shape().len() - 1, end - width..end)
    };
    widths.iter().map(part).collect()
}

/// Columns of a fused projection, sorted into queries, keys and values of `heads · dim` each:
/// column `part · steps[0] + head · steps[1] + element · steps[2]`. Gradient: sorted back.
///
/// # Panics
///
/// If a column is not below the width.
pub fn split_fused(x: &Tensor, heads: usize, dim: usize, steps: [usize; 3]) -> [Tensor; 3] {
    let shape = with_width(x.shape(), heads * dim);
    let (rows, width) = (x.rows(), x.width());
    [0, 1, 2].map(|part| {
        let from_steps = [0, width, steps[1], steps[2]];
        let moved = Moved::dense([1, rows, heads, dim], part * steps[0], from_steps);
        moved.tensor(x, &shape)
    })
}
