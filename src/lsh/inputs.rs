//! A problem's tensors on the host, and whether they fit it.

use super::Lsh;
use crate::Error;
use crate::problem::{at_least, exactly};

/// The tensors of a problem on the host, laid out as [`Lsh::layout`] says.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a, T> {
    /// `[batch, seqlen, heads, head_dim]`: queries, which are also the keys.
    pub qk: &'a [T],
    /// As `qk`.
    pub v: &'a [T],
    /// `[heads, head_dim, num_hashes, columns]`, the columns of each factor of
    /// [`Lsh::num_buckets`] one after another: where [`Lsh::is_hashed`].
    pub rotations: Option<&'a [T]>,
    /// `[batch, heads, num_hashes, seqlen]`, each below [`Lsh::buckets`] (of an invalid position:
    /// whatever): where [`Lsh::buckets_given`] and [`Lsh::is_sorted`].
    pub buckets: Option<&'a [i32]>,
    /// `[batch, seqlen]`, 1 for a valid position, if [`Lsh::key_padding`].
    pub key_valid: Option<&'a [u8]>,
}

impl<'a, T> Inputs<'a, T> {
    /// Shared queries and keys, and values, nothing else.
    pub fn new(qk: &'a [T], v: &'a [T]) -> Self {
        Inputs { qk, v, rotations: None, buckets: None, key_valid: None }
    }
}

impl Lsh {
    /// Rejects tensors that do not fit the problem.
    pub fn validate_inputs<T>(&self, inputs: &Inputs<'_, T>) -> Result<(), Error> {
        self.validate()?;
        at_least("qk", inputs.qk.len(), self.span(&self.layout.qk))?;
        at_least("v", inputs.v.len(), self.span(&self.layout.v))?;
        let rotations = self.is_hashed().then(|| self.rotations_len());
        exactly("rotations", inputs.rotations.map(<[T]>::len), rotations)?;
        let given = self.is_sorted() && self.buckets_given;
        let buckets = given.then(|| self.buckets_len());
        exactly("buckets", inputs.buckets.map(<[i32]>::len), buckets)?;
        self.validate_mask_and_buckets(inputs.key_valid, inputs.buckets)
    }

    /// Rejects a mask of positions or given buckets that do not fit the problem.
    pub(super) fn validate_mask_and_buckets(
        &self,
        key_valid: Option<&[u8]>,
        buckets: Option<&[i32]>,
    ) -> Result<(), Error> {
        let valid = self.key_padding.then_some(self.batch * self.seqlen);
        exactly("key_valid", key_valid.map(<[u8]>::len), valid)?;
        if let Some(bad) = key_valid.and_then(|x| x.iter().find(|&&x| x > 1)) {
            return Err(Error::invalid("key_valid", bad, "must hold 0 or 1"));
        }
        for (n, &bucket) in buckets.unwrap_or(&[]).iter().enumerate() {
            let (b, i) = (n / (self.heads * self.num_hashes * self.seqlen), n % self.seqlen);
            let valid = key_valid.is_none_or(|x| x[b * self.seqlen + i] != 0);
            if valid && !usize::try_from(bucket).is_ok_and(|x| x < self.buckets()) {
                let (row, rule) = (n / self.seqlen, format!("must be below {}", self.buckets()));
                let (r, h) = (row % self.num_hashes, row / self.num_hashes % self.heads);
                return Err(Error::invalid(format!("buckets[{b}][{h}][{r}][{i}]"), bucket, rule));
            }
        }
        Ok(())
    }
}
