//! The caller's tensors of one launch, and their checks.

use super::{Plan, Tensors};
use crate::Error;
use crate::longformer::Longformer;
use crate::longformer::config::Slot;
use crate::webgpu::{Binding, Checked, Usage, check_aliasing};

/// The tensors of one launch. What the problem does not use is `None`.
#[derive(Debug, Clone, Copy)]
pub struct Args<'a> {
    /// Local queries, in the problem's layout and dtype.
    pub q: Binding<'a>,
    /// Local keys.
    pub k: Binding<'a>,
    /// Local values.
    pub v: Binding<'a>,
    /// Global queries: only rows of global positions are read.
    pub q_global: Option<Binding<'a>>,
    /// Global keys.
    pub k_global: Option<Binding<'a>>,
    /// Global values.
    pub v_global: Option<Binding<'a>>,
    /// i32, `[batch, max_globals]`, distinct; what is no position is ignored. The device trusts
    /// that none is listed twice.
    pub global_indices: Option<Binding<'a>>,
    /// One byte a position, `[batch, seqlen]`, not 0 for a valid one.
    pub key_valid: Option<Binding<'a>>,
    /// The result.
    pub out: Binding<'a>,
    /// f32, `[batch, heads, seqlen]`.
    pub lse: Binding<'a>,
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
            q_global: None,
            k_global: None,
            v_global: None,
            global_indices: None,
            key_valid: None,
            out: out.into(),
            lse: lse.into(),
            workspace: None,
        }
    }
}

/// A tensor of `[batch, seqlen, heads, head_dim]`, stored in the problem's dtype.
pub(super) fn is_large(slot: Slot) -> bool {
    use Slot::{K, KGlobal, Out, Q, QGlobal, V, VGlobal};
    matches!(slot, Q | K | V | QGlobal | KGlobal | VGlobal | Out)
}

/// Elements of a tensor of the caller's, and bytes of one.
pub(super) fn size(p: &Longformer, slot: Slot) -> (usize, usize) {
    let l = &p.layout;
    let large = |strides| (p.span(strides), p.dtype.bytes());
    match slot {
        Slot::Q => large(&l.q),
        Slot::K => large(&l.k),
        Slot::V => large(&l.v),
        Slot::QGlobal => large(&l.q_global),
        Slot::KGlobal => large(&l.k_global),
        Slot::VGlobal => large(&l.v_global),
        Slot::Out => large(&l.out),
        Slot::Lse => (p.lse_len(), 4),
        Slot::GlobalIndices => (p.batch * p.max_globals, 4),
        Slot::KeyValid => (p.batch * p.seqlen, 1),
        _ => (0, 4),
    }
}

impl Plan {
    /// Every tensor of `args` by slot, checked; tensors that the problem does not use are errors.
    /// The workspace stands under [`Slot::Marks`].
    pub(super) fn check<'a>(&self, args: &Args<'a>) -> Result<Vec<(Slot, Checked<'a>)>, Error> {
        let p = &self.problem;
        let own = p.has_global_tensors();
        let all = [
            (Slot::Q, "q", Some(args.q), true, Usage::Read),
            (Slot::K, "k", Some(args.k), true, Usage::Read),
            (Slot::V, "v", Some(args.v), true, Usage::Read),
            (Slot::QGlobal, "q_global", args.q_global, own, Usage::Read),
            (Slot::KGlobal, "k_global", args.k_global, own, Usage::Read),
            (Slot::VGlobal, "v_global", args.v_global, own, Usage::Read),
            (
                Slot::GlobalIndices,
                "global_indices",
                args.global_indices,
                p.max_globals > 0,
                Usage::Read,
            ),
            (Slot::KeyValid, "key_valid", args.key_valid, p.key_padding, Usage::Read),
            (Slot::Out, "out", Some(args.out), true, Usage::Write),
            (Slot::Lse, "lse", Some(args.lse), true, Usage::Write),
        ];
        let mut tensors = vec![];
        for (slot, name, binding, used, usage) in all {
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
            tensors.push((Slot::Marks, workspace));
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
