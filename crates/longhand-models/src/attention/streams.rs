//! XLNet's two streams: contents, which see themselves, and queries, which do not.

use super::*;
use crate::ops;
use longhand::Window;
use longhand::transformer_xl::{SinCos, sinusoids};

/// What a position of a segment may see, the same in every layer. Keys are the memory's, then the
/// segment's.
#[derive(Debug, Clone, Default)]
pub struct StreamMask {
    /// How far back, and whether ahead.
    pub window: Window,
    /// Distances beyond this one are alike, on either side.
    pub clamp_len: Option<usize>,
    /// The numbers of the segment's parts, `[batch, seqlen]`, and those of the keys,
    /// `[batch, seqlen_k]`.
    pub parts: Option<[Vec<i32>; 2]>,
    /// `[batch, seqlen_k]`, 1 for a key that is there.
    pub key_valid: Option<Vec<u8>>,
    /// `[batch, seqlen, words]`, a bit for each key that the position must not see.
    pub blocked: Option<Vec<u32>>,
}

/// What the two streams of a layer read.
pub struct Streams<'a> {
    /// Heads and the scale.
    pub heads: &'a Heads,
    /// Keys and values, `[batch, seqlen_k, heads · dim]`.
    pub keys_values: [&'a Tensor; 2],
    /// Positions of the segment.
    pub seqlen: usize,
    /// The projected [`distances`]; where there are two, the second is the second half's of the
    /// batch.
    pub r: &'a [Tensor],
    /// `[heads, dim]`: added to queries for the keys, the distances, the parts.
    pub biases: [&'a Tensor; 3],
    /// `[2, heads, dim]`: for keys of the same part, and of another.
    pub seg_embed: &'a Tensor,
    /// What is seen.
    pub mask: &'a StreamMask,
}

/// The sinusoids `[rows, width]` of all distances that a segment of `seqlen` positions after
/// `memory` ones meets, ascending.
///
/// # Errors
///
/// If the width is odd.
pub fn distances([memory, seqlen, width]: [usize; 3], clamp_len: Option<usize>) -> Result<Tensor> {
    let problem = problem([1, seqlen, 1, 1], memory, clamp_len);
    let first = -(problem.distance_offset as i64);
    let rows = sinusoids(first, problem.rows, width, SinCos::Halves)?;
    Ok(Tensor::new(&[problem.rows, width], rows))
}

fn problem(shape: [usize; 4], memory: usize, clamp_len: Option<usize>) -> TransformerXl {
    let problem = TransformerXl::xlnet(shape, memory, DType::F32);
    match clamp_len {
        Some(n) => problem.clamp_len(n),
        None => problem,
    }
}

impl Streams<'_> {
    /// Attention of one stream's `q`: of the content stream, `[batch, seqlen, heads · dim]`, or of
    /// the query stream, `[batch, count, heads · dim]` at the positions `targets` (`[batch, count]`).
    /// Gradient: as of [`relative`](super::relative), also to `seg_embed`.
    ///
    /// # Errors
    ///
    /// If the sizes do not fit.
    pub fn run(&self, device: &Device, q: &Tensor, targets: Option<&[i32]>) -> Result<Tensor> {
        let batch = q.shape()[0];
        let each = batch / self.r.len().max(1);
        let part = |(n, r)| self.part(device, q, targets, [n * each, each, batch], r);
        let parts: Vec<Tensor> = self.r.iter().enumerate().map(part).collect::<Result<_>>()?;
        Ok(ops::stacked(&parts).reshape(q.shape()))
    }

    /// Of `each` sequences from `first` on, whose distances are `r`'s.
    fn part(
        &self,
        device: &Device,
        q: &Tensor,
        targets: Option<&[i32]>,
        [first, each, batch]: [usize; 3],
        r: &Tensor,
    ) -> Result<Tensor> {
        let (mask, [k, v]) = (self.mask, self.keys_values);
        let (heads, memory) = (self.heads, k.shape()[1] - self.seqlen);
        let shape = [each, self.seqlen, heads.count, heads.dim];
        let mut problem = problem(shape, memory, mask.clamp_len);
        problem.softmax_scale = heads.scale;
        problem.window = mask.window;
        problem.segments = mask.parts.is_some();
        problem.key_padding = mask.key_valid.is_some();
        problem.perm_mask = mask.blocked.is_some();
        if targets.is_some() {
            problem = problem.query_stream().targets(q.shape()[1]);
        }
        let rows = [q, k, v].map(|x| sequences(x, first, each));
        let [q, k, v] = rows.each_ref();
        let [u, w, s] = self.biases;
        let part = |i: usize| mask.parts.as_ref().map(|x| of_batch(&x[i], [first, each, batch]));
        let (out, _) = attend!(device, problem, transformer_xl(q, k, v, r, u, w)([q, k, v], r, [u, w]), {
            bias_s: mask.parts.is_some().then_some(s),
            seg_embed: mask.parts.is_some().then_some(self.seg_embed),
            seg_q: part(0),
            seg_k: part(1),
            perm_mask: mask.blocked.as_deref().map(|x| of_batch(x, [first, each, batch])),
            key_valid: mask.key_valid.as_deref().map(|x| of_batch(x, [first, each, batch])),
            targets: targets.map(|x| of_batch(x, [first, each, batch])),
        });
        Ok(out)
    }
}

/// `each` sequences of a tensor from `first` on.
fn sequences(x: &Tensor, first: usize, each: usize) -> Tensor {
    let &[batch, length, width] = x.shape() else { panic!("three dimensions: {:?}", x.shape()) };
    if each == batch {
        return x.clone();
    }
    let all = x.clone().reshape(&[1, batch, length * width]);
    ops::rows_from(&all, first, each).reshape(&[each, length, width])
}

/// What belongs to `each` of `batch` sequences from `first` on.
fn of_batch<T>(x: &[T], [first, each, batch]: [usize; 3]) -> &[T] {
    let len = x.len() / batch.max(1);
    &x[first * len..(first + each) * len]
}
