//! The uniform block that every kernel of Longformer's attention reads.

use super::{Plan, Step, Tensors};
use crate::longformer::config::Slot;
use crate::webgpu::Steps;

/// The uniform block of `shaders/shared/longformer_bindings.wgsl`, field by field.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Params {
    workgroups: u32,
    blocks: u32,
    splits: u32,
    split_len: u32,
    heads: u32,
    batches: u32,
    first_local: u32,
    locals: u32,
    seqlen: u32,
    head_dim: u32,
    max_globals: u32,
    indices_base: u32,
    key_valid_base: u32,
    lse_base: u32,
    window_left: i32,
    window_right: i32,
    causal: u32,
    scale: f32,
    q: Steps,
    k: Steps,
    v: Steps,
    out: Steps,
}

impl Plan {
    pub(super) fn params(&self, tensors: &Tensors<'_>, step: &Step) -> Params {
        let stage = step.stage;
        let p = &self.problem;
        let l = &p.layout;
        let base = |slot| self.base(tensors, slot);
        let steps = |slot, strides| Steps::new(base(slot), strides);
        let [q, k, v] = match stage.is_global() && p.has_global_tensors() {
            true => [
                steps(Slot::QGlobal, &l.q_global),
                steps(Slot::KGlobal, &l.k_global),
                steps(Slot::VGlobal, &l.v_global),
            ],
            false => [steps(Slot::Q, &l.q), steps(Slot::K, &l.k), steps(Slot::V, &l.v)],
        };
        let (splits, split_len) = if stage.is_global() { p.splits() } else { (1, 0) };
        Params {
            workgroups: self.workgroups(step) as u32,
            blocks: self.blocks(stage).max(1) as u32,
            splits: splits as u32,
            split_len: split_len as u32,
            heads: p.heads as u32,
            batches: p.batch as u32,
            first_local: step.locals.start as u32,
            locals: step.locals.len() as u32,
            seqlen: p.seqlen as u32,
            head_dim: p.head_dim as u32,
            max_globals: p.max_globals as u32,
            indices_base: base(Slot::GlobalIndices),
            key_valid_base: base(Slot::KeyValid),
            lse_base: base(Slot::Lse),
            // As numbers in a class, of which there are at most 2^30.
            window_left: p.left.min(p.seqlen) as i32,
            window_right: p.right_of_band().min(p.seqlen) as i32,
            causal: u32::from(p.causal),
            scale: (p.softmax_scale * std::f64::consts::LOG2_E) as f32,
            q,
            k,
            v,
            out: steps(Slot::Out, &l.out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Params, Steps};
    use crate::webgpu::Caps;
    use crate::{DType, Longformer};
    use std::mem::offset_of;

    #[test]
    fn every_field_lies_where_the_shaders_read_it() {
        macro_rules! offsets {
            ($($field:ident)*) => { vec![$((stringify!($field).to_owned(), offset_of!(Params, $field))),*] };
        }
        let mut expected = offsets!(
            workgroups blocks splits split_len heads batches first_local locals seqlen head_dim
            max_globals indices_base key_valid_base lse_base window_left window_right causal scale
        );
        let tensors = [
            ("q", offset_of!(Params, q)),
            ("k", offset_of!(Params, k)),
            ("v", offset_of!(Params, v)),
            ("out", offset_of!(Params, out)),
        ];
        for (name, at) in tensors {
            expected.push((format!("{name}_base"), at + offset_of!(Steps, base)));
            expected.push((format!("{name}_batch"), at + offset_of!(Steps, batch)));
            expected.push((format!("{name}_row"), at + offset_of!(Steps, row)));
            expected.push((format!("{name}_head"), at + offset_of!(Steps, head)));
        }
        expected.sort_by_key(|(_, at)| *at);
        let problem = Longformer::new([1, 4096, 2, 64], 64, DType::F32).globals(4).key_padding();
        for cpu in [false, true] {
            let caps = Caps { cpu, ..Caps::baseline() };
            for (kernel, source) in problem.sources_webgpu(&caps).unwrap() {
                let (members, span) = crate::webgpu::members_of_params(&source);
                assert_eq!(members, expected, "{kernel}");
                assert_eq!(span, size_of::<Params>(), "{kernel}");
            }
        }
    }
}
