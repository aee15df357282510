//! A problem's tensors on the host, and whether they fit it.

use super::Full;
use crate::Error;
use crate::problem::{at_least, exactly};

/// The tensors of a problem on the host, laid out as [`Full::layout`] says.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a, T> {
    /// `[batch, seqlen_q, heads_q, head_dim]`.
    pub q: &'a [T],
    /// `[batch, seqlen_k, heads_kv, head_dim]`.
    pub k: &'a [T],
    /// As `k`.
    pub v: &'a [T],
    /// `[heads_q]`, if [`Full::alibi`].
    pub alibi_slopes: Option<&'a [T]>,
    /// See [`Bias`](super::Bias).
    pub bias: Option<&'a [T]>,
    /// `[num_buckets, heads_q]`, if [`Full::buckets`].
    pub bias_table: Option<&'a [T]>,
    /// `[batch, seqlen_k]`, 1 for a key that may be attended, if [`Full::key_padding`].
    pub key_valid: Option<&'a [u8]>,
    /// `[batch + 1]`, if [`Full::ragged`].
    pub cu_seqlens_q: Option<&'a [i32]>,
    /// `[batch + 1]`, if [`Full::ragged`].
    pub cu_seqlens_k: Option<&'a [i32]>,
}

impl<'a, T> Inputs<'a, T> {
    /// Queries, keys and values, nothing else.
    pub fn new(q: &'a [T], k: &'a [T], v: &'a [T]) -> Self {
        Inputs {
            q,
            k,
            v,
            alibi_slopes: None,
            bias: None,
            bias_table: None,
            key_valid: None,
            cu_seqlens_q: None,
            cu_seqlens_k: None,
        }
    }
}

impl Full {
    /// Rejects tensors that do not fit the problem.
    pub fn validate_inputs<T>(&self, inputs: &Inputs<'_, T>) -> Result<(), Error> {
        self.validate()?;
        let [q, k, v, _] = self.spans();
        at_least("q", inputs.q.len(), q)?;
        at_least("k", inputs.k.len(), k)?;
        at_least("v", inputs.v.len(), v)?;
        let s = &self.shape;
        let len = |x: &Option<&[T]>| x.map(<[T]>::len);
        exactly("alibi_slopes", len(&inputs.alibi_slopes), self.alibi.then_some(s.heads_q))?;
        let bias = self.bias.as_ref().map(|b| self.bias_dims(b).iter().product());
        exactly("bias", len(&inputs.bias), bias)?;
        let table = self.buckets.map(|b| b.num_buckets * s.heads_q);
        exactly("bias_table", len(&inputs.bias_table), table)?;
        self.validate_masks(inputs.key_valid, inputs.cu_seqlens_q, inputs.cu_seqlens_k)
    }

    /// Rejects a mask of keys or bounds of packed sequences that do not fit the problem.
    pub(super) fn validate_masks(
        &self,
        key_valid: Option<&[u8]>,
        cu_seqlens_q: Option<&[i32]>,
        cu_seqlens_k: Option<&[i32]>,
    ) -> Result<(), Error> {
        let s = &self.shape;
        let valid = self.key_padding.then_some(s.batch * s.seqlen_k);
        exactly("key_valid", key_valid.map(<[u8]>::len), valid)?;
        if let Some(bad) = key_valid.and_then(|x| x.iter().find(|&&x| x > 1)) {
            return Err(Error::invalid("key_valid", bad, "must hold 0 or 1"));
        }
        let ends = self.ragged.map(|_| s.batch + 1);
        exactly("cu_seqlens_q", cu_seqlens_q.map(<[i32]>::len), ends)?;
        exactly("cu_seqlens_k", cu_seqlens_k.map(<[i32]>::len), ends)?;
        if let (Some(r), Some(q), Some(k)) = (&self.ragged, cu_seqlens_q, cu_seqlens_k) {
            validate_cu_seqlens("cu_seqlens_q", q, r.total_q, s.seqlen_q)?;
            validate_cu_seqlens("cu_seqlens_k", k, r.total_k, s.seqlen_k)?;
        }
        Ok(())
    }
}

fn validate_cu_seqlens(
    name: &str,
    ends: &[i32],
    total: usize,
    longest: usize,
) -> Result<(), Error> {
    if ends.first() != Some(&0) {
        return Err(Error::invalid(
            format!("{name}[0]"),
            ends.first().copied().unwrap_or(-1),
            "must be 0",
        ));
    }
    for (b, pair) in ends.windows(2).enumerate() {
        let length = i64::from(pair[1]) - i64::from(pair[0]);
        if length < 0 {
            return Err(Error::invalid(format!("{name}[{}]", b + 1), pair[1], "must not descend"));
        }
        if length as usize > longest {
            let rule =
                format!("the sequence has {length} positions, the shape says at most {longest}");
            return Err(Error::invalid(format!("{name}[{}]", b + 1), pair[1], rule));
        }
    }
    let end = ends.last().copied().unwrap_or(0);
    if end as usize != total {
        return Err(Error::invalid(
            format!("{name}[{}]", ends.len() - 1),
            end,
            format!("must be the total, {total}"),
        ));
    }
    Ok(())
}
