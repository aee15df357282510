//! The caller's tensors of one launch, and their checks.

use super::Plan;
use crate::Error;
use crate::full::config::Slot;
use crate::webgpu::{Binding, Checked, Usage, check_aliasing};

/// The tensors of one launch. What the problem does not use is `None`.
#[derive(Debug, Clone, Copy)]
pub struct Args<'a> {
    /// Queries, in the problem's layout and dtype.
    pub q: Binding<'a>,
    /// Keys.
    pub k: Binding<'a>,
    /// Values.
    pub v: Binding<'a>,
    /// The result.
    pub out: Binding<'a>,
    /// f32, `[batch, heads_q, seqlen_q]` (ragged: `[heads_q, total_q]`).
    pub lse: Binding<'a>,
    /// f32, `[heads_q]`.
    pub alibi_slopes: Option<Binding<'a>>,
    /// f32; see [`Bias`](crate::full::Bias).
    pub bias: Option<Binding<'a>>,
    /// f32, `[num_buckets, heads_q]`.
    pub bias_table: Option<Binding<'a>>,
    /// One byte a key, `[batch, seqlen_k]`, not 0 for a key that may be attended.
    pub key_valid: Option<Binding<'a>>,
    /// i32, `[batch + 1]`. The device trusts it: see [`Ragged`](crate::full::Ragged).
    pub cu_seqlens_q: Option<Binding<'a>>,
    /// i32, `[batch + 1]`.
    pub cu_seqlens_k: Option<Binding<'a>>,
    /// [`Plan::workspace_bytes`] bytes, if that is not 0. Its contents mean nothing between launches.
    pub workspace: Option<Binding<'a>>,
}

impl<'a> Args<'a> {
    /// The five tensors that every problem has.
    pub fn new(
        q: impl Into<Binding<'a>>,
        k: impl Into<Binding<'a>>,
        v: impl Into<Binding<'a>>,
        out: impl Into<Binding<'a>>,
        lse: impl Into<Binding<'a>>,
    ) -> Self {
        Args {
            q: q.into(),
            k: k.into(),
            v: v.into(),
            out: out.into(),
            lse: lse.into(),
            alibi_slopes: None,
            bias: None,
            bias_table: None,
            key_valid: None,
            cu_seqlens_q: None,
            cu_seqlens_k: None,
            workspace: None,
        }
    }
}

impl Plan {
    /// Every tensor of `args` by slot, checked; tensors that the problem does not use are errors.
    pub(super) fn check<'a>(&self, args: &Args<'a>) -> Result<Vec<(Slot, Checked<'a>)>, Error> {
        let p = &self.problem;
        let s = &p.shape;
        let [q, k, v, out] = p.spans();
        let e = p.dtype.bytes();
        let mut tensors = vec![
            (Slot::Q, Checked::new("q", Some(args.q), q, e, Usage::Read)?),
            (Slot::K, Checked::new("k", Some(args.k), k, e, Usage::Read)?),
            (Slot::V, Checked::new("v", Some(args.v), v, e, Usage::Read)?),
            (Slot::Out, Checked::new("out", Some(args.out), out, e, Usage::Write)?),
            (Slot::Lse, Checked::new("lse", Some(args.lse), p.lse_len(), 4, Usage::Write)?),
        ];
        let table = p.buckets.map_or(0, |b| b.num_buckets * s.heads_q);
        let bias = p.bias.as_ref().map_or(0, |b| p.bias_dims(b).iter().product());
        let optional = [
            (Slot::Alibi, "alibi_slopes", args.alibi_slopes, p.alibi, s.heads_q, 4),
            (Slot::Bias, "bias", args.bias, p.bias.is_some(), bias, 4),
            (Slot::BiasTable, "bias_table", args.bias_table, p.buckets.is_some(), table, 4),
            (Slot::KeyValid, "key_valid", args.key_valid, p.key_padding, s.batch * s.seqlen_k, 1),
            (Slot::CuQ, "cu_seqlens_q", args.cu_seqlens_q, p.ragged.is_some(), s.batch + 1, 4),
            (Slot::CuK, "cu_seqlens_k", args.cu_seqlens_k, p.ragged.is_some(), s.batch + 1, 4),
        ];
        for (slot, name, binding, used, len, bytes) in optional {
            if used {
                tensors.push((slot, Checked::new(name, binding, len, bytes, Usage::Read)?));
            } else if binding.is_some() {
                return Err(Error::invalid(name, "given", "the problem says that there is none"));
            }
        }
        let bytes = self.workspace_bytes();
        if bytes > 0 {
            let workspace = Checked::workspace(args.workspace, bytes, self.context.caps())?;
            tensors.push((Slot::Partial, workspace));
        }
        let all: Vec<Checked<'_>> = tensors.iter().map(|(_, t)| *t).collect();
        check_aliasing(&all)?;
        Ok(tensors)
    }
}
