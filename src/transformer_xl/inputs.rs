//! A problem's tensors on the host, and whether they fit it.

use super::TransformerXl;
use crate::Error;
use crate::problem::{at_least, exactly};

/// The tensors of a problem on the host, laid out as [`TransformerXl::layout`] says.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a, T> {
    /// `[batch, seqlen_q, heads_q, head_dim]`.
    pub q: &'a [T],
    /// `[batch, rows_k, heads_kv, head_dim]`: all keys, or those after the memory's.
    pub k: &'a [T],
    /// As `k`.
    pub v: &'a [T],
    /// `[batch, memory.rows, heads_kv, head_dim]`, if [`TransformerXl::memory`].
    pub k_memory: Option<&'a [T]>,
    /// As `k_memory`.
    pub v_memory: Option<&'a [T]>,
    /// `[rows, heads_q, head_dim]`, by distance, ascending.
    pub r: &'a [T],
    /// `[heads_q, head_dim]`: `r_w_bias`, added to q for the keys.
    pub bias_u: &'a [T],
    /// `[heads_q, head_dim]`: `r_r_bias`, added to q for the positions.
    pub bias_v: &'a [T],
    /// `[heads_q, head_dim]`: `r_s_bias`, added to q for the segments; with the next three if
    /// [`TransformerXl::segments`].
    pub bias_s: Option<&'a [T]>,
    /// `[2, heads_q, head_dim]`: the same segment, another one.
    pub seg_embed: Option<&'a [T]>,
    /// `[batch, segment_len]`: any numbers.
    pub seg_q: Option<&'a [i32]>,
    /// `[batch, seqlen_k]`.
    pub seg_k: Option<&'a [i32]>,
    /// `[batch, segment_len, perm_words]`, bit `j % 32` of word `j / 32` set: key `j` must **not** be
    /// attended; if [`TransformerXl::perm_mask`].
    pub perm_mask: Option<&'a [u32]>,
    /// `[batch, seqlen_k]`, 1 for a key that may be attended, if [`TransformerXl::key_padding`].
    pub key_valid: Option<&'a [u8]>,
    /// `[batch, seqlen_q]`, each below the segment's length, if [`TransformerXl::targets`].
    pub targets: Option<&'a [i32]>,
}

impl<'a, T> Inputs<'a, T> {
    /// Queries, keys, values, the position table and its two biases, nothing else.
    pub fn new([q, k, v]: [&'a [T]; 3], r: &'a [T], [bias_u, bias_v]: [&'a [T]; 2]) -> Self {
        Inputs {
            q,
            k,
            v,
            k_memory: None,
            v_memory: None,
            r,
            bias_u,
            bias_v,
            bias_s: None,
            seg_embed: None,
            seg_q: None,
            seg_k: None,
            perm_mask: None,
            key_valid: None,
            targets: None,
        }
    }
}

/// A mask of one byte a pair (`[rows, seqlen_k]`, not 0: set) as bits, `[rows, seqlen_k / 32 rounded
/// up]`.
///
/// # Errors
///
/// If the mask's length is no multiple of `seqlen_k`.
pub fn bits_from_mask(mask: &[u8], seqlen_k: usize) -> Result<Vec<u32>, Error> {
    if seqlen_k == 0 || !mask.len().is_multiple_of(seqlen_k) {
        let rule = format!("must be a multiple of seqlen_k, {seqlen_k}");
        return Err(Error::invalid("mask.len", mask.len(), rule));
    }
    let word = |bytes: &[u8]| {
        bytes.iter().enumerate().fold(0, |word, (n, &byte)| word | u32::from(byte != 0) << n)
    };
    Ok(mask.chunks_exact(seqlen_k).flat_map(|row| row.chunks(32).map(word)).collect())
}

impl TransformerXl {
    /// Rejects tensors that do not fit the problem.
    pub fn validate_inputs<T>(&self, inputs: &Inputs<'_, T>) -> Result<(), Error> {
        self.validate()?;
        let s = &self.shape;
        for (name, tensor) in [("q", inputs.q), ("k", inputs.k), ("v", inputs.v), ("r", inputs.r)] {
            at_least(name, tensor.len(), self.span(name))?;
        }
        self.validate_memory([inputs.k_memory, inputs.v_memory])?;
        let of_heads = s.heads_q * s.head_dim;
        exactly("bias_u", Some(inputs.bias_u.len()), Some(of_heads))?;
        exactly("bias_v", Some(inputs.bias_v.len()), Some(of_heads))?;
        let segments = |n: usize| self.segments.then_some(n);
        exactly("bias_s", inputs.bias_s.map(<[T]>::len), segments(of_heads))?;
        exactly("seg_embed", inputs.seg_embed.map(<[T]>::len), segments(2 * of_heads))?;
        self.validate_segments(inputs.seg_q, inputs.seg_k)?;
        self.validate_masks(inputs.perm_mask, inputs.key_valid)?;
        self.validate_targets(inputs.targets)
    }

    /// Rejects tensors of a memory that do not fit the problem.
    pub(super) fn validate_memory<T>(&self, tensors: [Option<&[T]>; 2]) -> Result<(), Error> {
        for (name, tensor) in ["k_memory", "v_memory"].into_iter().zip(tensors) {
            match (tensor, self.memory.is_some()) {
                (Some(tensor), true) => at_least(name, tensor.len(), self.span(name))?,
                (given, needed) => exactly(name, given.map(<[T]>::len), needed.then_some(0))?,
            }
        }
        Ok(())
    }

    /// Rejects segments' numbers that do not fit the problem.
    pub(super) fn validate_segments(
        &self,
        seg_q: Option<&[i32]>,
        seg_k: Option<&[i32]>,
    ) -> Result<(), Error> {
        let s = &self.shape;
        let segments = |n: usize| self.segments.then_some(s.batch * n);
        exactly("seg_q", seg_q.map(<[i32]>::len), segments(self.segment_len()))?;
        exactly("seg_k", seg_k.map(<[i32]>::len), segments(s.seqlen_k))
    }

    /// Rejects masks that do not fit the problem.
    pub(super) fn validate_masks(
        &self,
        perm_mask: Option<&[u32]>,
        key_valid: Option<&[u8]>,
    ) -> Result<(), Error> {
        let s = &self.shape;
        let words = s.batch * self.segment_len() * self.perm_words();
        exactly("perm_mask", perm_mask.map(<[u32]>::len), self.perm_mask.then_some(words))?;
        let keys = self.key_padding.then_some(s.batch * s.seqlen_k);
        exactly("key_valid", key_valid.map(<[u8]>::len), keys)?;
        match key_valid.and_then(|x| x.iter().find(|&&x| x > 1)) {
            Some(bad) => Err(Error::invalid("key_valid", bad, "must hold 0 or 1")),
            None => Ok(()),
        }
    }

    /// Rejects queries' positions that do not fit the problem.
    pub(super) fn validate_targets(&self, targets: Option<&[i32]>) -> Result<(), Error> {
        let s = &self.shape;
        let count = self.targets.map(|_| s.batch * s.seqlen_q);
        exactly("targets", targets.map(<[i32]>::len), count)?;
        for (n, &at) in targets.unwrap_or(&[]).iter().enumerate() {
            if !usize::try_from(at).is_ok_and(|at| at < self.segment_len()) {
                let field = format!("targets[{}][{}]", n / s.seqlen_q, n % s.seqlen_q);
                let rule = format!("must be a position below {}", self.segment_len());
                return Err(Error::invalid(field, at, rule));
            }
        }
        Ok(())
    }
}
