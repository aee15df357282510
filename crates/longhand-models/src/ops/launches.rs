//! The operations on a GPU, each as a launch of a kernel of `gpu::kernels`.

use super::*;
use crate::gpu::{BLOCK, Buffer, Gpu, Kernel, TILE, WORDS, Words};

/// What [`Kernel::Elements`] computes of `a` and `b`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    Add,
    Multiply,
    /// The constant times `a`.
    Scale,
    /// `a` where `b` is not 0, else 0.
    Keep,
    Activation(Activation),
    /// The constant's part of `a`; 1 unless that is above 0.
    Unit,
    /// `a` in units of `b`, rounded, at most the constant up or down.
    Round,
    /// `a`, at most the constant up or down.
    Clamp,
}

impl Of {
    /// Its number in the kernel, which knows the activations in their order here.
    fn number(self) -> usize {
        match self {
            Of::Add => 0,
            Of::Multiply => 1,
            Of::Scale => 2,
            Of::Keep => 3,
            Of::Activation(activation) => 4 + activation as usize,
            Of::Unit => 12,
            Of::Round => 13,
            Of::Clamp => 14,
        }
    }
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

/// Sizes as a kernel takes them, the number of workgroups first; one that is too large fails on the
/// device.
fn words(gpu: &Gpu, sizes: &[usize]) -> Words {
    let mut words = [0; WORDS];
    for (word, &size) in words.iter_mut().zip(sizes) {
        match i32::try_from(size) {
            Ok(size) => *word = size as u32,
            Err(_) => gpu.decline(format!("a tensor of {size} elements: kernels count to 2^31")),
        }
    }
    words
}

/// What a kernel makes of `reads`, a tensor of this shape.
fn made(gpu: &Gpu, kernel: Kernel, reads: &[&Buffer], words: &Words, shape: &[usize]) -> Tensor {
    let out = gpu.empty(shape.iter().product());
    gpu.launch(kernel, reads, &out, words);
    Tensor::on_gpu(shape, out)
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
    let mut words = words(gpu, &[groups, total, of.number(), every.max(1), count.max(1)]);
    words[5] = constant.to_bits();
    let reads = [&*from, other.as_deref().unwrap_or(&from)];
    made(gpu, Kernel::Elements, &reads, &words, a.shape())
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
    let (from, weight) = (x.buffer(gpu), w.buffer(gpu));
    let bias = bias.map(|bias| bias.buffer(gpu));
    let tiles = columns.div_ceil(TILE);
    let groups = x.rows().div_ceil(TILE) * tiles;
    let biased = usize::from(bias.is_some());
    let [step_n, step_k] = steps;
    let sizes = [groups, x.rows(), columns, x.width(), step_n, step_k, biased, tiles.max(1)];
    let reads = [&*from, &weight, bias.as_deref().unwrap_or(&weight)];
    let shape = super::with_width(x.shape(), columns);
    made(gpu, Kernel::Linear, &reads, &words(gpu, &sizes), &shape)
}

/// The kernel knows the kinds by their order.
pub(super) fn norm(
    gpu: &Gpu,
    kind: NormKind,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    eps: f64,
) -> Tensor {
    let weight = weight.buffer(gpu);
    let bias = bias.map_or_else(|| weight.clone(), |bias| bias.buffer(gpu));
    let mut words = words(gpu, &[x.rows(), x.width(), kind as usize]);
    words[3] = (eps as f32).to_bits();
    made(gpu, Kernel::Norm, &[&*x.buffer(gpu), &weight, &bias], &words, x.shape())
}

/// What [`Kernel::Softmax`] makes of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

pub(super) fn softmax(gpu: &Gpu, x: &Tensor, of: OfRow) -> Tensor {
    let words = words(gpu, &[x.rows(), x.width(), of as usize]);
    let (_, rows) = x.shape().split_last().expect("rows");
    let shape = if matches!(of, OfRow::Softmax | OfRow::Logarithm) { x.shape() } else { rows };
    made(gpu, Kernel::Softmax, &[&*x.buffer(gpu)], &words, shape)
}

pub(super) fn gather(gpu: &Gpu, table: &Tensor, indices: &[usize], shape: &[usize]) -> Tensor {
    assert!(indices.iter().all(|&i| i < table.rows()), "rows of the table");
    let index: Vec<u32> = indices.iter().map(|&i| i as u32).collect();
    let index = gpu.constant(bytemuck::cast_slice(&index));
    gathered(gpu, table, &index, false, shape)
}

pub(super) fn gather_at(gpu: &Gpu, table: &Tensor, places: &Tensor) -> Tensor {
    gathered(gpu, table, &places.buffer(gpu), true, places.shape())
}

/// `index` holds integers, or `numbers` that are some.
fn gathered(gpu: &Gpu, table: &Tensor, index: &Buffer, numbers: bool, shape: &[usize]) -> Tensor {
    let total = shape.iter().product::<usize>() * table.width();
    let groups = total.div_ceil(BLOCK);
    let words = words(gpu, &[groups, total, table.width().max(1), numbers.into()]);
    let shape = [shape, &[table.width()]].concat();
    made(gpu, Kernel::Gather, &[&*table.buffer(gpu), index], &words, &shape)
}

/// A box of elements from `x` into `out`.
pub(super) fn copy(gpu: &Gpu, moved: &Moved, x: &Buffer, out: &Buffer) {
    let total = moved.size.iter().product::<usize>();
    let groups = total.div_ceil(BLOCK);
    let [_, s1, s2, s3] = moved.size.map(|n| n.max(1));
    let [f0, f1, f2, f3] = moved.from_steps;
    let [t0, t1, t2, t3] = moved.to_steps;
    let (guard, [g1, g2], end) = moved.guard.unwrap_or((0, [0, 0], 1));
    let sizes =
        [groups, total, s1, s2, s3, 0, f0, f1, f2, f3, moved.to, t0, t1, t2, t3, 0, g1, g2, end];
    let mut words = words(gpu, &sizes);
    words[5] = moved.from as i32 as u32;
    words[15] = guard as i32 as u32;
    gpu.launch(Kernel::Copy, &[x], out, &words);
}
