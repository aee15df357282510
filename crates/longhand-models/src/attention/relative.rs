//! Attention over distances: Transformer-XL's, and XLNet's of two streams: contents, which see
//! themselves, and queries, which do not.

use super::*;
use crate::ops;
use longhand::transformer_xl::{SinCos, sinusoids};

/// A segment, and what its positions see, the same in every layer. Keys are the memory's, then the
/// segment's.
#[derive(Debug, Clone)]
pub struct Segment {
    /// Sizes of the whole batch, of contents; which distances are seen, and which are alike.
    pub problem: TransformerXl,
    /// The numbers of the segment's parts, `[batch, seqlen]`, and those of the keys,
    /// `[batch, seqlen_k]`.
    pub parts: Option<[Vec<i32>; 2]>,
    /// `[batch, seqlen_k]`, 1 for a key that is there.
    pub key_valid: Option<Vec<u8>>,
    /// `[batch, seqlen, words]`, a bit for each key that the position must not see.
    pub blocked: Option<Vec<u32>>,
}

impl Segment {
    /// The sinusoids `[rows, width]` of all distances that are met, ascending.
    ///
    /// # Errors
    ///
    /// If the width is odd.
    pub fn distances(&self, width: usize) -> Result<Tensor> {
        let TransformerXl { distance_offset, rows, .. } = self.problem;
        let table = sinusoids(-(distance_offset as i64), rows, width, SinCos::Halves)?;
        Ok(Tensor::new(&[rows, width], table))
    }
}

/// Attention of `q` `[batch, seqlen, heads · dim]` (of the query stream, `[batch, count, heads · dim]`
/// at the positions `targets`, `[batch, count]`) over `k` and `v` `[batch, seqlen_k, heads · dim]`.
/// `r`: the projected [`distances`](Segment::distances); where there are two, the second is the second
/// half's of the batch. `biases` are added to queries for the keys, the distances, the parts,
/// `[heads, dim]`; `seg_embed`, `[2, heads, dim]`, is for keys of the same part, and of another.
/// Gradient: as of [`full`], also to `r`, the biases and `seg_embed`.
///
/// # Errors
///
/// If the sizes do not fit.
pub fn relative(
    device: &Device,
    segment: &Segment,
    [q, k, v]: [&Tensor; 3],
    r: &[Tensor],
    biases: &[Tensor],
    seg_embed: Option<&Tensor>,
    targets: Option<&[i32]>,
) -> Result<Tensor> {
    let mut problem = segment.problem;
    problem.shape.batch /= r.len();
    problem.segments = segment.parts.is_some();
    problem.key_padding = segment.key_valid.is_some();
    problem.perm_mask = segment.blocked.is_some();
    if targets.is_some() {
        problem = problem.query_stream().targets(q.shape()[1]);
    }
    let [u, w] = [&biases[0], &biases[1]];
    let part = |(n, r_of): (usize, &Tensor)| -> Result<Tensor> {
        let at = (n, r.len());
        let [q, k, v] = &[q, k, v].map(|x| sequences(x, at));
        let seg = |i: usize| segment.parts.as_ref().map(|x| of_batch(&x[i], at));
        let (out, _) = attend!(device, problem,
            transformer_xl(q, k, v, r_of, u, w)([q, k, v], r_of, [u, w]), {
            bias_s: biases.get(2).filter(|_| problem.segments),
            seg_embed: seg_embed.filter(|_| problem.segments),
            seg_q: seg(0),
            seg_k: seg(1),
            perm_mask: segment.blocked.as_deref().map(|x| of_batch(x, at)),
            key_valid: segment.key_valid.as_deref().map(|x| of_batch(x, at)),
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
