//! The inputs of a problem with relative positions.

use crate::problem_file::stored_as;
use longhand::DType;
use longhand::transformer_xl::Inputs;

/// The inputs of a problem, contiguous.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RelativeInputs<T> {
    /// `[batch, seqlen_q, heads, head_dim]`; of one stream at `targets`, `[batch, targets, …]`.
    pub q: Vec<T>,
    /// The queries of XLNet's second stream, at `targets` if these are given; else as `q`.
    pub q_g: Option<Vec<T>>,
    /// `[batch, seqlen_k, heads, head_dim]`.
    pub k: Vec<T>,
    /// As `k`.
    pub v: Vec<T>,
    /// `[rows, heads, head_dim]`.
    pub r: Vec<T>,
    /// `[heads, head_dim]`.
    pub bias_u: Vec<T>,
    /// As `bias_u`.
    pub bias_v: Vec<T>,
    /// As `bias_u`.
    pub bias_s: Option<Vec<T>>,
    /// `[2, heads, head_dim]`.
    pub seg_embed: Option<Vec<T>>,
    /// `[batch, seqlen_q]`.
    pub seg_q: Option<Vec<i32>>,
    /// `[batch, seqlen_k]`.
    pub seg_k: Option<Vec<i32>>,
    /// `[batch, seqlen_q, seqlen_k / 32 rounded up]`, as bits.
    pub perm_mask: Option<Vec<u32>>,
    /// `[batch, seqlen_k]`, 0 or 1.
    pub key_valid: Option<Vec<u8>>,
    /// `[batch, targets]`: the positions of the queries, of two streams those of the second.
    pub targets: Option<Vec<i32>>,
}

impl<T> RelativeInputs<T> {
    /// The same, borrowed, as the library takes them: of the content stream or the query stream.
    pub fn as_inputs(&self, stream: Stream) -> Inputs<'_, T> {
        let (q, targets) = match (stream, &self.q_g) {
            (Stream::Query, Some(q)) => (q, self.targets.as_deref()),
            (Stream::Content, Some(_)) => (&self.q, None),
            (_, None) => (&self.q, self.targets.as_deref()),
        };
        Inputs {
            bias_s: self.bias_s.as_deref(),
            seg_embed: self.seg_embed.as_deref(),
            seg_q: self.seg_q.as_deref(),
            seg_k: self.seg_k.as_deref(),
            perm_mask: self.perm_mask.as_deref(),
            key_valid: self.key_valid.as_deref(),
            targets,
            ..Inputs::new([q, &self.k, &self.v], &self.r, [&self.bias_u, &self.bias_v])
        }
    }
}

impl RelativeInputs<f32> {
    /// What a device that stores `dtype` holds. Biases and segments are f32 on every device.
    pub fn stored_as<T: From<f32>>(&self, dtype: DType) -> RelativeInputs<T> {
        let stored = |x: &Vec<f32>| stored_as(x, dtype);
        let wide = |x: &Vec<f32>| stored_as(x, DType::F32);
        RelativeInputs {
            q: stored(&self.q),
            q_g: self.q_g.as_ref().map(stored),
            k: stored(&self.k),
            v: stored(&self.v),
            r: stored(&self.r),
            bias_u: wide(&self.bias_u),
            bias_v: wide(&self.bias_v),
            bias_s: self.bias_s.as_ref().map(wide),
            seg_embed: self.seg_embed.as_ref().map(wide),
            seg_q: self.seg_q.clone(),
            seg_k: self.seg_k.clone(),
            perm_mask: self.perm_mask.clone(),
            key_valid: self.key_valid.clone(),
            targets: self.targets.clone(),
        }
    }
}

/// One of XLNet's two; other ops have only the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Of `q`, with results `out` and `lse`.
    Content,
    /// Of `q_g`, with results `out_g` and `lse_g`.
    Query,
}
