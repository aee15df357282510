//! The operations on a GPU, each as a launch of a kernel of `gpu::kernels`.

use super::product::Order;
use crate::Tensor;
use crate::gpu::{BLOCK, Buffer, Gpu, Kernel, TILE, WORDS};
use std::sync::Arc;

/// What [`Kernel::Elements`] computes of `a` and `b`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    Add,
    Multiply,
    /// The constant times `a`.
    Scale,
    /// `a` where `b` is not 0, else 0.
    Keep,
    Gelu,
    GeluTanh,
    QuickGelu,
    Relu,
    Silu,
    Tanh,
    Sigmoid,
}

/// Which of `b`'s elements meets an element of `a`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meets {
    /// The one at its place.
    Same,
    /// The one of its column: `b` is a row.
    Row,
    /// The one of its row: `b` is a column.
    Column,
}

/// The GPU that an operand lies on: the operation runs there.
pub(super) fn place<'a>(operands: &[&'a Tensor]) -> Option<&'a Gpu> {
    operands.iter().find_map(|tensor| tensor.gpu())
}

/// Sizes as a kernel takes them; one that is too large fails on the device.
fn words(gpu: &Gpu, sizes: &[usize]) -> [u32; WORDS] {
    let mut words = [0; WORDS];
    for (word, &size) in words.iter_mut().zip(sizes) {
        match i32::try_from(size) {
            Ok(size) => *word = size as u32,
            Err(_) => gpu.decline(format!("a tensor of {size} elements: kernels count to 2^31")),
        }
    }
    words
}

pub(super) fn elements(
    gpu: &Gpu,
    of: Of,
    a: &Tensor,
    b: Option<(&Tensor, Meets)>,
    constant: f32,
) -> Tensor {
    let total = a.len();
    let from = a.buffer(gpu);
    let other = b.map(|(b, _)| b.buffer(gpu));
    let (every, count) = match b {
        None => (1, 1),
        Some((b, Meets::Column)) => (a.width(), b.len()),
        Some((b, _)) => (1, b.len()),
    };
    let groups = total.div_ceil(BLOCK);
    let mut words = words(gpu, &[groups, total, of as usize, every.max(1), count.max(1)]);
    words[5] = constant.to_bits();
    let out = gpu.empty(total);
    let reads = [&*from, other.as_deref().unwrap_or(&from)];
    gpu.launch(Kernel::Elements, &reads, &out, words, groups);
    Tensor::on_gpu(a.shape(), out)
}

/// Rows of `width` in a buffer.
struct Rows<'a> {
    buffer: &'a Buffer,
    rows: usize,
    width: usize,
}

/// `x wᵀ`, and a bias, into rows of `out` that lie `step` apart, from element `first` on.
fn multiply(
    gpu: &Gpu,
    x: &Rows<'_>,
    (w, columns, steps): (&Buffer, usize, [usize; 2]),
    bias: Option<&Buffer>,
    (out, first, step): (&Buffer, usize, usize),
) {
    let tiles = columns.div_ceil(TILE);
    let groups = x.rows.div_ceil(TILE) * tiles;
    let biased = usize::from(bias.is_some());
    let sizes =
        [groups, x.rows, columns, x.width, steps[0], steps[1], biased, step, first, tiles.max(1)];
    let reads = [x.buffer, w, bias.unwrap_or(w)];
    gpu.launch(Kernel::Linear, &reads, out, words(gpu, &sizes), groups);
}

pub(super) fn linear(
    gpu: &Gpu,
    x: &Tensor,
    w: &Tensor,
    order: Order,
    bias: Option<&Tensor>,
) -> Tensor {
    let (columns, steps) = match order {
        Order::OutIn => (w.rows(), [w.width(), 1]),
        Order::InOut => (w.width(), [1, w.width()]),
    };
    let out = gpu.empty(x.rows() * columns);
    let (from, weight) = (x.buffer(gpu), w.buffer(gpu));
    let bias = bias.map(|bias| bias.buffer(gpu));
    let rows = Rows { buffer: &from, rows: x.rows(), width: x.width() };
    multiply(gpu, &rows, (&weight, columns, steps), bias.as_deref(), (&out, 0, columns));
    Tensor::on_gpu(&super::with_width(x.shape(), columns), out)
}

/// Which norm [`Kernel::Norm`] computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Norm {
    Layer,
    Rms,
    Affine,
}

pub(super) fn norm(
    gpu: &Gpu,
    kind: Norm,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    eps: f64,
) -> Tensor {
    let from = Rows { buffer: &x.buffer(gpu), rows: x.rows(), width: x.width() };
    let weight = weight.buffer(gpu);
    let bias = bias.map_or_else(|| weight.clone(), |bias| bias.buffer(gpu));
    Tensor::on_gpu(x.shape(), normed(gpu, kind, &from, [&weight, &bias], eps, 0))
}

/// The norm of rows. Weight and bias are those of the column, or, with `channels`, those of the row's
/// number modulo that.
fn normed(
    gpu: &Gpu,
    kind: Norm,
    x: &Rows<'_>,
    [weight, bias]: [&Buffer; 2],
    eps: f64,
    channels: usize,
) -> Buffer {
    let mut words = words(gpu, &[x.rows, x.width, kind as usize, 0, channels]);
    words[3] = (eps as f32).to_bits();
    let out = gpu.empty(x.rows * x.width);
    gpu.launch(Kernel::Norm, &[x.buffer, weight, bias], &out, words, x.rows);
    out
}

/// The norm of each channel over the length: turned so that channels are rows, and back.
pub(super) fn channel_norm(
    gpu: &Gpu,
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Tensor {
    let [batch, length, width] = [0, 1, 2].map(|i| x.shape()[i]);
    let turned = |rows: usize, columns: usize, x: &Buffer| {
        let steps = [0, length * width, 1, rows];
        let moved = Moved::dense([1, batch, rows, columns], 0, steps);
        let out = gpu.empty(moved.len());
        moved.run(gpu, x, &out);
        out
    };
    let channels = turned(width, length, &x.buffer(gpu));
    let rows = Rows { buffer: &channels, rows: batch * width, width: length };
    let (weight, bias) = (weight.buffer(gpu), bias.buffer(gpu));
    let normed = normed(gpu, Norm::Layer, &rows, [&weight, &bias], eps, width);
    Tensor::on_gpu(x.shape(), turned(length, width, &normed))
}

pub(super) fn softmax(gpu: &Gpu, x: &Tensor, logarithm: bool) -> Tensor {
    let rows = x.rows();
    let words = words(gpu, &[rows, x.width(), usize::from(logarithm)]);
    let out = gpu.empty(x.len());
    gpu.launch(Kernel::Softmax, &[&*x.buffer(gpu)], &out, words, rows);
    Tensor::on_gpu(x.shape(), out)
}

pub(super) fn gather(gpu: &Gpu, table: &Tensor, indices: &[usize], shape: &[usize]) -> Tensor {
    assert!(indices.iter().all(|&i| i < table.rows()), "rows of the table");
    let index: Vec<u32> = indices.iter().map(|&i| i as u32).collect();
    let index = gpu.constant(bytemuck::cast_slice(&index));
    let total = indices.len() * table.width();
    let groups = total.div_ceil(BLOCK);
    let out = gpu.empty(total);
    let words = words(gpu, &[groups, total, table.width().max(1)]);
    gpu.launch(Kernel::Gather, &[&*table.buffer(gpu), &index], &out, words, groups);
    Tensor::on_gpu(&super::with_width(&[shape, &[1]].concat(), table.width()), out)
}

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

    /// Elements that it writes.
    pub(super) fn len(&self) -> usize {
        self.size.iter().product()
    }

    pub(super) fn run(&self, gpu: &Gpu, x: &Buffer, out: &Buffer) {
        let total = self.len();
        let groups = total.div_ceil(BLOCK);
        let [_, s1, s2, s3] = self.size.map(|n| n.max(1));
        let [f0, f1, f2, f3] = self.from_steps;
        let [t0, t1, t2, t3] = self.to_steps;
        let (guard, [g1, g2], end) = self.guard.unwrap_or((0, [0, 0], 1));
        let sizes =
            [groups, total, s1, s2, s3, 0, f0, f1, f2, f3, self.to, t0, t1, t2, t3, 0, g1, g2, end];
        let mut words = words(gpu, &sizes);
        words[5] = self.from as i32 as u32;
        words[15] = guard as i32 as u32;
        gpu.launch(Kernel::Copy, &[x], out, words, groups);
    }

    /// The box out of `x`, as a tensor.
    pub(super) fn tensor(&self, gpu: &Gpu, x: &Tensor, shape: &[usize]) -> Tensor {
        let out = gpu.empty(self.len());
        self.run(gpu, &x.buffer(gpu), &out);
        Tensor::on_gpu(shape, out)
    }
}

/// Tensors of `[outer, own · width]` one beside another: `[outer, sum of the own · width]`.
pub(super) fn joined(gpu: &Gpu, parts: &[(&Tensor, usize)], outer: usize) -> Buffer {
    let row: usize = parts.iter().map(|(_, width)| width).sum();
    let out = gpu.empty(outer * row);
    let mut start = 0;
    for (x, width) in parts {
        let moved = Moved {
            to: start,
            to_steps: [0, 0, row, 1],
            ..Moved::dense([1, 1, outer, *width], 0, [0, 0, *width, 1])
        };
        moved.run(gpu, &x.buffer(gpu), &out);
        start += width;
    }
    out
}

/// The convolution of [`super::conv1d`] without its bias: windows gathered for each group of channels,
/// then a product.
pub(super) fn conv1d(
    gpu: &Gpu,
    x: &Tensor,
    weight: &Tensor,
    frames: usize,
    [stride, padding, groups]: [usize; 3],
) -> Tensor {
    let [batch, length, from] = [0, 1, 2].map(|i| x.shape()[i]);
    let [to, part, width] = [0, 1, 2].map(|i| weight.shape()[i]);
    let own = to / groups;
    let (source, weights): (Arc<Buffer>, _) = (x.buffer(gpu), weight.buffer(gpu));
    let out = gpu.empty(batch * frames * to);
    for group in 0..groups {
        let first = (group * part) as isize - (padding * from) as isize;
        let windows = Moved {
            guard: Some((-(padding as isize), [stride, 1], length)),
            ..Moved::dense(
                [batch, frames, width, part],
                first,
                [length * from, stride * from, from, 1],
            )
        };
        let rows = gpu.empty(windows.len());
        windows.run(gpu, &source, &rows);
        // Weights lie channel by channel, windows step by step.
        let start = (group * own * part * width) as isize;
        let turned = Moved::dense([1, own, width, part], start, [0, part * width, 1, width]);
        let map = gpu.empty(turned.len());
        turned.run(gpu, &weights, &map);
        let rows = Rows { buffer: &rows, rows: batch * frames, width: width * part };
        multiply(gpu, &rows, (&map, own, [width * part, 1]), None, (&out, group * own, to));
    }
    Tensor::on_gpu(&[batch, frames, to], out)
}
