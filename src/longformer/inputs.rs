//! A problem's tensors on the host, and whether they fit it.

use super::Longformer;
use crate::Error;
use crate::problem::{at_least, exactly};

/// The tensors of a problem on the host, laid out as [`Longformer::layout`] says.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a, T> {
    /// `[batch, seqlen, heads, head_dim]`: the local projections.
    pub q: &'a [T],
    /// As `q`.
    pub k: &'a [T],
    /// As `q`.
    pub v: &'a [T],
    /// As `q`, the global projections: where there are globals, unless
    /// [`Longformer::shared_projections`]. Only rows of global positions are read.
    pub q_global: Option<&'a [T]>,
    /// As `q_global`; every row is read.
    pub k_global: Option<&'a [T]>,
    /// As `k_global`.
    pub v_global: Option<&'a [T]>,
    /// `[batch, max_globals]`: distinct positions in any order, filled up with −1 at the end.
    pub global_indices: Option<&'a [i32]>,
    /// `[batch, seqlen]`, 1 for a valid position, if [`Longformer::key_padding`].
    pub key_valid: Option<&'a [u8]>,
}

impl<'a, T> Inputs<'a, T> {
    /// Queries, keys and values, nothing else.
    pub fn new(q: &'a [T], k: &'a [T], v: &'a [T]) -> Self {
        Inputs {
            q,
            k,
            v,
            q_global: None,
            k_global: None,
            v_global: None,
            global_indices: None,
            key_valid: None,
        }
    }
}

impl Longformer {
    /// Rejects tensors that do not fit the problem.
    pub fn validate_inputs<T>(&self, inputs: &Inputs<'_, T>) -> Result<(), Error> {
        self.validate()?;
        let l = &self.layout;
        at_least("q", inputs.q.len(), self.span(&l.q))?;
        at_least("k", inputs.k.len(), self.span(&l.k))?;
        at_least("v", inputs.v.len(), self.span(&l.v))?;
        self.validate_globals_and_mask(
            [inputs.q_global, inputs.k_global, inputs.v_global].map(|x| x.map(<[T]>::len)),
            inputs.global_indices.map(<[i32]>::len),
            inputs.key_valid,
        )?;
        inputs.global_indices.map_or(Ok(()), |all| self.validate_globals(all))
    }

    /// Rejects global tensors and a list of globals of these lengths, or a mask, that do not fit the
    /// problem.
    pub(super) fn validate_globals_and_mask(
        &self,
        [q_global, k_global, v_global]: [Option<usize>; 3],
        global_indices: Option<usize>,
        key_valid: Option<&[u8]>,
    ) -> Result<(), Error> {
        let l = &self.layout;
        for (name, len, strides) in [
            ("q_global", q_global, &l.q_global),
            ("k_global", k_global, &l.k_global),
            ("v_global", v_global, &l.v_global),
        ] {
            match (len, self.has_global_tensors()) {
                (Some(len), true) => at_least(name, len, self.span(strides))?,
                (None, false) => {}
                (None, true) => {
                    let rule =
                        "must be given where there are globals with projections of their own";
                    return Err(Error::invalid(name, "absent", rule));
                }
                (Some(_), false) => {
                    let rule = "the problem has no globals, or they share the local projections";
                    return Err(Error::invalid(name, "given", rule));
                }
            }
        }
        let globals = (self.max_globals > 0).then_some(self.batch * self.max_globals);
        exactly("global_indices", global_indices, globals)?;
        let valid = self.key_padding.then_some(self.batch * self.seqlen);
        exactly("key_valid", key_valid.map(<[u8]>::len), valid)?;
        if let Some(bad) = key_valid.and_then(|x| x.iter().find(|&&x| x > 1)) {
            return Err(Error::invalid("key_valid", bad, "must hold 0 or 1"));
        }
        Ok(())
    }

    /// Distinct positions, then −1.
    pub(super) fn validate_globals(&self, all: &[i32]) -> Result<(), Error> {
        let mut seen = vec![usize::MAX; self.seqlen];
        for (b, row) in all.chunks_exact(self.max_globals).enumerate() {
            let mut ended = false;
            for (n, &position) in row.iter().enumerate() {
                let field = || format!("global_indices[{b}][{n}]");
                if position == -1 {
                    ended = true;
                    continue;
                }
                if ended {
                    let rule = "follows a -1, which ends the list";
                    return Err(Error::invalid(field(), position, rule));
                }
                let slot = usize::try_from(position).ok().and_then(|p| seen.get_mut(p));
                let Some(slot) = slot else {
                    let rule = format!("must be a position below {} or -1", self.seqlen);
                    return Err(Error::invalid(field(), position, rule));
                };
                if *slot == b {
                    return Err(Error::invalid(field(), position, "is listed twice"));
                }
                *slot = b;
            }
        }
        Ok(())
    }
}
