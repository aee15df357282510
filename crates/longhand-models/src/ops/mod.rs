//! The operations that models are made of, attention apart: plain functions of tensors. One runs
//! where its operands lie: with an operand on a GPU, there; else on the processor. Those without a
//! kernel bring their operands back.
//!
//! Each says what its gradient is. The gradient's function will stand beside it and be called from
//! a trace that the tensors carry; no operation keeps anything else.

mod activation;
mod conv;
mod elements;
mod loss;
mod moves;
mod norm;
mod product;
mod rows;
mod softmax;

pub use activation::*;
pub use conv::*;
pub use elements::*;
pub use loss::*;
pub use moves::*;
pub use norm::*;
pub use product::*;
pub use rows::*;
pub use softmax::*;

// The imports here are what operations are made of; each file takes them all.
use crate::gpu::{BLOCK, Buffer, Gpu, Kernel};
use crate::{Error, Ints, Result, Tensor, require};
use rayon::prelude::*;

/// Elements that one task takes, so that small tensors stay on one thread.
const TASK: usize = 1 << 14;

/// `f` of every row of `x`, in place, on the threads of the pool.
fn each_row(mut x: Tensor, f: impl Fn(usize, &mut [f32]) + Sync) -> Tensor {
    let width = x.width().max(1);
    let rows = x.data_mut().par_chunks_exact_mut(width).with_min_len(TASK / width + 1);
    rows.enumerate().for_each(|(i, row)| f(i, row));
    x
}

/// The GPU that an operand lies on: the operation runs there.
fn place<'a>(operands: &[&'a Tensor]) -> Option<&'a Gpu> {
    operands.iter().find_map(|tensor| tensor.gpu())
}

/// What a kernel makes of `reads`, a tensor of this shape, if one of them lies on a GPU; see
/// [`Gpu::launch`] for the words.
fn launch(kernel: Kernel, reads: &[&Tensor], words: &[usize], shape: &[usize]) -> Option<Tensor> {
    let gpu = place(reads)?;
    let out = gpu.empty(shape.iter().product());
    gpu.launch(kernel, reads, &out, words);
    Some(Tensor::on_gpu(shape, out))
}

/// `shape` with another last dimension.
pub(crate) fn with_width(shape: &[usize], width: usize) -> Vec<usize> {
    let mut shape = shape.to_vec();
    if let Some(last) = shape.last_mut() {
        *last = width;
    }
    shape
}
