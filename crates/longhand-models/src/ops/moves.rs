//! Boxes of elements that are copied from one place to another: what cuts, shifts and puts together
//! rows and columns says once where its elements lie, and it is done where they lie.

use super::*;

/// A box of elements: where element (0, 0, 0, 0) lies in the source (before its beginning, if a guard
/// keeps that from being read) and in the result, and the steps of each dimension.
pub(super) struct Moved {
    pub(super) size: [usize; 4],
    pub(super) from: isize,
    pub(super) from_steps: [usize; 4],
    pub(super) to: usize,
    pub(super) to_steps: [usize; 4],
    /// `at + i1 · steps[0] + i2 · steps[1]` must be below the end, and not negative; else a zero is
    /// written.
    pub(super) guard: Option<(isize, [usize; 2], usize)>,
}

impl Moved {
    /// A box that is written densely.
    pub(super) fn dense(size: [usize; 4], from: isize, from_steps: [usize; 4]) -> Self {
        let to_steps = [size[1] * size[2] * size[3], size[2] * size[3], size[3], 1];
        Moved { size, from, from_steps, to: 0, to_steps, guard: None }
    }

    /// The box out of `x`, as a tensor that lies where `x` does.
    pub(super) fn tensor(self, x: &Tensor, shape: &[usize]) -> Tensor {
        together(place(&[x]), &[(x, self)], shape)
    }

    /// On the host, into zeros.
    fn copy(&self, x: &[f32], out: &mut [f32]) {
        let [n0, n1, n2, n3] = self.size;
        let ([f0, f1, f2, f3], [t0, t1, t2, t3]) = (self.from_steps, self.to_steps);
        let there = |i1: usize, i2: usize| match self.guard {
            Some((at, [g1, g2], end)) => {
                (0..end as isize).contains(&(at + (i1 * g1 + i2 * g2) as isize))
            }
            None => true,
        };
        for i0 in 0..n0 {
            for i1 in 0..n1 {
                for i2 in (0..n2).filter(|&i2| there(i1, i2)) {
                    let from = self.from.wrapping_add_unsigned(i0 * f0 + i1 * f1 + i2 * f2);
                    let (from, to) = (from as usize, self.to + i0 * t0 + i1 * t1 + i2 * t2);
                    match (f3, t3) {
                        (1, 1) => out[to..to + n3].copy_from_slice(&x[from..from + n3]),
                        _ => (0..n3).for_each(|i3| out[to + i3 * t3] = x[from + i3 * f3]),
                    }
                }
            }
        }
    }
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

/// A tensor of the boxes out of several, which lies at `place`.
pub(super) fn together(place: Option<&Gpu>, parts: &[(&Tensor, Moved)], shape: &[usize]) -> Tensor {
    let len = shape.iter().product();
    if let Some(gpu) = place {
        let out = gpu.empty(len);
        parts.iter().for_each(|(x, moved)| launches::copy(gpu, moved, &x.buffer(gpu), &out));
        return Tensor::on_gpu(shape, out);
    }
    let mut out = vec![0.0; len];
    parts.iter().for_each(|(x, moved)| moved.copy(x.data(), &mut out));
    Tensor::new(shape, out)
}
