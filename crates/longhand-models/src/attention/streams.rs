//! XLNet's two streams: contents, which see themselves, and queries, which do not.

use super::*;
use crate::ops;
use longhand::Window;
use longhand::transformer_xl::{SinCos, sinusoids};

/// What a position of a segment may see, the same in every layer. Keys are the memory's, then the
/// segment's.
#[derive(Debug, Clone, Default)]
pub struct StreamMask {
    /// Positions of the memory.
    pub memory: usize,
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
    clamp_len.map_or(problem, |n| problem.clamp_len(n))
}

/// Attention of one stream's `q`: of the content stream, `[batch, seqlen, heads · dim]`, or of the
/// query stream, `[batch, count, heads · dim]` at the positions `targets` (`[batch, count]`), over `k`
/// and `v` `[batch, seqlen_k, heads · dim]`. `r`: the projected [`distances`]; where there are two, the
/// second is the second half's of the batch. `biases` are added to queries for the keys, the
/// distances, the parts, `[heads, dim]`; `seg_embed`, `[2, heads, dim]`, is for keys of the same part,
/// and of another. Gradient: as of [`relative`](super::relative), also to `seg_embed`.
///
/// # Errors
///
/// If the sizes do not fit.
pub fn stream(
    device: &Device,
    heads: &Heads,
    [q, k, v]: [&Tensor; 3],
    r: &[Tensor],
    ([u, w, s], seg_embed): (&[Tensor; 3], &Tensor),
    mask: &StreamMask,
    targets: Option<&[i32]>,
) -> Result<Tensor> {
    let parts = r.len().max(1);
    let shape = [q.shape()[0] / parts, k.shape()[1] - mask.memory, heads.count, heads.dim];
    let mut problem = problem(shape, mask.memory, mask.clamp_len);
    problem.softmax_scale = heads.scale;
    problem.window = mask.window;
    problem.segments = mask.parts.is_some();
    problem.key_padding = mask.key_valid.is_some();
    problem.perm_mask = mask.blocked.is_some();
    if targets.is_some() {
        problem = problem.query_stream().targets(q.shape()[1]);
    }
    let part = |(n, r): (usize, &Tensor)| -> Result<Tensor> {
        let at = (n, parts);
        let [q, k, v] = &[q, k, v].map(|x| sequences(x, at));
        let seg = |i: usize| mask.parts.as_ref().map(|x| of_batch(&x[i], at));
        let (out, _) = attend!(device, problem, transformer_xl(q, k, v, r, u, w)([q, k, v], r, [u, w]), {
            bias_s: mask.parts.is_some().then_some(s),
            seg_embed: mask.parts.is_some().then_some(seg_embed),
            seg_q: seg(0),
            seg_k: seg(1),
            perm_mask: mask.blocked.as_deref().map(|x| of_batch(x, at)),
            key_valid: mask.key_valid.as_deref().map(|x| of_batch(x, at)),
            targets: targets.map(|x| of_batch(x, at)),
        });
        Ok(out)
    };
    let parts: Vec<Tensor> = r.iter().enumerate().map(part).collect::<Result<_>>()?;
    Ok(ops::concat(&parts, 0).reshape(q.shape()))
}

/// Part `n` of so many equal ones of a tensor's sequences.
fn sequences(x: &Tensor, (n, parts): (usize, usize)) -> Tensor {
    let each = x.shape()[0] / parts;
    if parts == 1 { x.clone() } else { ops::cut(x, 0, n * each..(n + 1) * each) }
}

/// Part `n` of so many equal ones.
fn of_batch<T>(x: &[T], (n, parts): (usize, usize)) -> &[T] {
    let len = x.len() / parts;
    &x[n * len..][..len]
}
