//! The caller's tensors of one launch, and their checks.

use super::{Plan, Tensors};
use crate::Error;
use crate::transformer_xl::TransformerXl;
use crate::transformer_xl::config::Slot;
use crate::webgpu::{Binding, Checked, Usage, check_aliasing};

/// The tensors of one launch. What the problem does not use is `None`.
#[derive(Debug, Clone, Copy)]
pub struct Args<'a> {
    /// Queries, in the problem's layout and dtype.
    pub q: Binding<'a>,
    /// Keys, without those of the memory.
    pub k: Binding<'a>,
    /// Values.
    pub v: Binding<'a>,
    /// The memory's keys.
    pub k_memory: Option<Binding<'a>>,
    /// The memory's values.
    pub v_memory: Option<Binding<'a>>,
    /// The position table, `[rows, heads_q, head_dim]`, by distance, ascending.
    pub r: Binding<'a>,
    /// f32, `[heads_q, head_dim]`.
    pub bias_u: Binding<'a>,
    /// f32, as `bias_u`.
    pub bias_v: Binding<'a>,
    /// f32, as `bias_u`.
    pub bias_s: Option<Binding<'a>>,
    /// f32, `[2, heads_q, head_dim]`.
    pub seg_embed: Option<Binding<'a>>,
    /// i32, `[batch, segment_len]`.
    pub seg_q: Option<Binding<'a>>,
    /// i32, `[batch, seqlen_k]`.
    pub seg_k: Option<Binding<'a>>,
    /// u32, `[batch, segment_len, seqlen_k / 32 rounded up]`: see
    /// [`Inputs::perm_mask`](crate::transformer_xl::Inputs::perm_mask).
    pub perm_mask: Option<Binding<'a>>,
    /// One byte a key, `[batch, seqlen_k]`, not 0 for one that may be attended.
    pub key_valid: Option<Binding<'a>>,
    /// i32, `[batch, seqlen_q]`, each below the segment's length; others count as its last position.
    pub targets: Option<Binding<'a>>,
    /// The result.
    pub out: Binding<'a>,
    /// f32, `[batch, heads_q, seqlen_q]`.
    pub lse: Binding<'a>,
    /// [`Plan::workspace_bytes`] bytes, if that is not 0. Its contents mean nothing between launches.
    pub workspace: Option<Binding<'a>>,
}

impl<'a> Args<'a> {
    /// The eight tensors that every problem has: `q`, `k` and `v`, the table, `bias_u` and `bias_v`,
    /// the result and `lse`.
    pub fn new<B: Into<Binding<'a>>>(
        [q, k, v]: [B; 3],
        r: B,
        biases: [B; 2],
        out: B,
        lse: B,
    ) -> Self {
        let [bias_u, bias_v] = biases;
        Args {
            q: q.into(),
            k: k.into(),
            v: v.into(),
            k_memory: None,
            v_memory: None,
            r: r.into(),
            bias_u: bias_u.into(),
            bias_v: bias_v.into(),
            bias_s: None,
            seg_embed: None,
            seg_q: None,
            seg_k: None,
            perm_mask: None,
            key_valid: None,
            targets: None,
            out: out.into(),
            lse: lse.into(),
            workspace: None,
        }
    }
}

/// A tensor with strides, stored in the problem's dtype.
pub(super) fn is_large(slot: Slot) -> bool {
    use Slot::{K, KMemory, Out, Q, R, V, VMemory};
    matches!(slot, Q | K | V | KMemory | VMemory | R | Out)
}

/// Elements of a tensor of the caller's, and bytes of one.
pub(super) fn size(p: &TransformerXl, slot: Slot) -> (usize, usize) {
    let s = &p.shape;
    match slot {
        slot if is_large(slot) => (p.span(slot.tensor()), p.dtype.bytes()),
        Slot::BiasU | Slot::BiasV | Slot::BiasS => (s.heads_q * s.head_dim, 4),
        Slot::SegEmbed => (2 * s.heads_q * s.head_dim, 4),
        Slot::SegQ => (s.batch * p.segment_len(), 4),
        Slot::SegK => (s.batch * s.seqlen_k, 4),
        Slot::Targets => (s.batch * s.seqlen_q, 4),
        Slot::PermMask => (s.batch * p.segment_len() * p.perm_words(), 4),
        Slot::KeyValid => (s.batch * s.seqlen_k, 1),
        Slot::Lse => (p.lse_len(), 4),
        _ => (0, 4),
    }
}

impl Plan {
    /// Every tensor of `args` by slot, checked; tensors that the problem does not use are errors.
    pub(super) fn check<'a>(&self, args: &Args<'a>) -> Result<Vec<(Slot, Checked<'a>)>, Error> {
        use Slot::*;
        let p = &self.problem;
        let (memory, segments) = (p.memory.is_some(), p.segments);
        let all = [
            (Q, Some(args.q), true, Usage::Read),
            (K, Some(args.k), true, Usage::Read),
            (V, Some(args.v), true, Usage::Read),
            (KMemory, args.k_memory, memory, Usage::Read),
            (VMemory, args.v_memory, memory, Usage::Read),
            (R, Some(args.r), true, Usage::Read),
            (BiasU, Some(args.bias_u), true, Usage::Read),
            (BiasV, Some(args.bias_v), true, Usage::Read),
            (BiasS, args.bias_s, segments, Usage::Read),
            (SegEmbed, args.seg_embed, segments, Usage::Read),
            (SegQ, args.seg_q, segments, Usage::Read),
            (SegK, args.seg_k, segments, Usage::Read),
            (PermMask, args.perm_mask, p.perm_mask, Usage::Read),
            (KeyValid, args.key_valid, p.key_padding, Usage::Read),
            (Targets, args.targets, p.targets.is_some(), Usage::Read),
            (Out, Some(args.out), true, Usage::Write),
            (Lse, Some(args.lse), true, Usage::Write),
        ];
        let mut tensors = vec![];
        for (slot, binding, used, usage) in all {
            let name = slot.tensor();
            if used {
                let (elements, bytes) = size(p, slot);
                tensors.push((slot, Checked::new(name, binding, elements, bytes, usage)?));
            } else if binding.is_some() {
                return Err(Error::invalid(name, "given", "the problem says that there is none"));
            }
        }
        let bytes = self.workspace_bytes();
        if bytes > 0 {
            let workspace = Checked::workspace(args.workspace, bytes, self.context.caps())?;
            tensors.push((Workspace, workspace));
        }
        let all: Vec<Checked<'_>> = tensors.iter().map(|(_, t)| *t).collect();
        check_aliasing(&all)?;
        Ok(tensors)
    }

    /// The element at which `slot` begins in what is bound; 0 if it is not given.
    pub(super) fn base(&self, tensors: &Tensors<'_>, slot: Slot) -> u32 {
        match tensors.iter().any(|(s, _)| *s == slot) {
            true => self.part(tensors, slot).1,
            false => 0,
        }
    }
}
