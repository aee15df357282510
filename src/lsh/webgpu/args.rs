//! The caller's tensors of one launch, and their checks.

use super::{Plan, Tensors};
use crate::Error;
use crate::lsh::Lsh;
use crate::lsh::config::Slot;
use crate::webgpu::{Binding, Checked, Usage, check_aliasing};

/// The tensors of one launch. What the problem does not use is `None`.
#[derive(Debug, Clone, Copy)]
pub struct Args<'a> {
    /// Queries, which are also the keys, in the problem's layout and dtype.
    pub qk: Binding<'a>,
    /// Values.
    pub v: Binding<'a>,
    /// f32, `[heads, head_dim, num_hashes, columns]`: where [`Lsh::is_hashed`].
    pub rotations: Option<Binding<'a>>,
    /// i32, `[batch, heads, num_hashes, seqlen]`: where [`Lsh::is_sorted`]. Read where
    /// [`Lsh::buckets_given`], written otherwise.
    pub buckets: Option<Binding<'a>>,
    /// One byte a position, `[batch, seqlen]`, not 0 for a valid one.
    pub key_valid: Option<Binding<'a>>,
    /// The result.
    pub out: Binding<'a>,
    /// f32, `[batch, heads, seqlen]`.
    pub lse: Binding<'a>,
    /// f32, `[batch, heads, num_hashes, seqlen]`: where [`Lsh::is_sorted`].
    pub lse_rounds: Option<Binding<'a>>,
    /// [`Plan::workspace_bytes`] bytes, if that is not 0. After a launch it holds [`Plan::order`];
    /// otherwise its contents mean nothing between launches.
    pub workspace: Option<Binding<'a>>,
}

impl<'a> Args<'a> {
    /// The four tensors that every problem has.
    pub fn new(
        qk: impl Into<Binding<'a>>,
        v: impl Into<Binding<'a>>,
        out: impl Into<Binding<'a>>,
        lse: impl Into<Binding<'a>>,
    ) -> Self {
        Args {
            qk: qk.into(),
            v: v.into(),
            rotations: None,
            buckets: None,
            key_valid: None,
            out: out.into(),
            lse: lse.into(),
            lse_rounds: None,
            workspace: None,
        }
    }
}

/// A tensor of `[batch, seqlen, heads, head_dim]`, stored in the problem's dtype.
pub(super) fn is_large(slot: Slot) -> bool {
    matches!(slot, Slot::Qk | Slot::V | Slot::Out)
}

/// Elements of a tensor of the caller's, and bytes of one.
pub(super) fn size(p: &Lsh, slot: Slot) -> (usize, usize) {
    let l = &p.layout;
    let large = |strides| (p.span(strides), p.dtype.bytes());
    match slot {
        Slot::Qk => large(&l.qk),
        Slot::V => large(&l.v),
        Slot::Out => large(&l.out),
        Slot::Lse => (p.lse_len(), 4),
        Slot::LseRounds => (p.lse_rounds_len(), 4),
        Slot::Rotations => (p.rotations_len(), 4),
        Slot::Buckets => (p.buckets_len(), 4),
        Slot::KeyValid => (p.batch * p.seqlen, 1),
        _ => (0, 4),
    }
}

impl Plan {
    /// Every tensor of `args` by slot, checked; tensors that the problem does not use are errors.
    /// The workspace stands under [`Slot::Norms`].
    pub(super) fn check<'a>(&self, args: &Args<'a>) -> Result<Vec<(Slot, Checked<'a>)>, Error> {
        let p = &self.problem;
        let (sorted, hashed) = (p.is_sorted(), p.is_hashed());
        let of_buckets = if hashed { Usage::Both } else { Usage::Read };
        let all = [
            (Slot::Qk, "qk", Some(args.qk), true, Usage::Read),
            (Slot::V, "v", Some(args.v), true, Usage::Read),
            (Slot::Rotations, "rotations", args.rotations, hashed, Usage::Read),
            (Slot::Buckets, "buckets", args.buckets, sorted, of_buckets),
            (Slot::KeyValid, "key_valid", args.key_valid, p.key_padding, Usage::Read),
            (Slot::Out, "out", Some(args.out), true, Usage::Write),
            (Slot::Lse, "lse", Some(args.lse), true, Usage::Write),
            (Slot::LseRounds, "lse_rounds", args.lse_rounds, sorted, Usage::Write),
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
            tensors.push((Slot::Norms, workspace));
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
