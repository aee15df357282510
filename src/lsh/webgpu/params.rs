//! The uniform block that every kernel of LSH attention reads.

use super::{Plan, Step, Tensors};
use crate::lsh::config::{Slot, Stage};
use crate::webgpu::Steps;

/// The uniform block of `shaders/shared/lsh_bindings.wgsl`, field by field.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Params {
    workgroups: u32,
    blocks: u32,
    heads: u32,
    batches: u32,
    seqlen: u32,
    head_dim: u32,
    rounds: u32,
    round: u32,
    chunk_len: u32,
    chunks: u32,
    ring: u32,
    ring_round: u32,
    ring_shift: u32,
    seen: u32,
    segment_first: u32,
    segment_len: u32,
    segment_rows: u32,
    buckets: u32,
    columns: u32,
    factors: u32,
    digit_shift: u32,
    digits: u32,
    sort_blocks: u32,
    key_valid_base: u32,
    rotations_base: u32,
    buckets_base: u32,
    lse_base: u32,
    lse_rounds_base: u32,
    causal: u32,
    scale: f32,
    key_norm_eps: f32,
    self_mask: f32,
    self_mask_value: f32,
    mask: f32,
    mask_value: f32,
    qk: Steps,
    v: Steps,
    out: Steps,
}

impl Plan {
    pub(super) fn params(&self, tensors: &Tensors<'_>, step: Step) -> Params {
        let p = &self.problem;
        let l = &p.layout;
        let base = |slot| self.base(tensors, slot);
        let steps = |slot, strides| Steps::new(base(slot), strides);
        let of_round = matches!(step.stage, Stage::Attend | Stage::Gather);
        let round = if of_round { step.number } else { 0 };
        // The rotations are packed once.
        let packed = step.stage != Stage::Pack || step.first == 0;
        let (shift, bits) = match step.stage {
            Stage::Count { .. } | Stage::Scan | Stage::Scatter { .. } => p.digits()[step.number],
            _ => (0, 0),
        };
        let ring = p.ring();
        let (before, after) = p.seen_chunks();
        let log2 = |x: f64| (x * std::f64::consts::LOG2_E) as f32;
        Params {
            workgroups: self.workgroups(step) as u32,
            blocks: self.blocks(step).max(1) as u32,
            heads: p.heads as u32,
            batches: p.batch as u32,
            seqlen: p.seqlen as u32,
            head_dim: p.head_dim as u32,
            rounds: p.rounds() as u32,
            round: round as u32,
            chunk_len: p.items_of_chunk() as u32,
            chunks: p.chunks_of_round() as u32,
            ring: ring as u32,
            // The first round of the ring that this one is in.
            ring_round: if ring == p.chunks_of_round() { round as u32 } else { 0 },
            // As many chunks forward as `before` are back.
            ring_shift: ((ring - before % ring) % ring) as u32,
            seen: (before + 1 + after) as u32,
            segment_first: step.first as u32,
            segment_len: step.len as u32,
            segment_rows: self.segment_rows(step) as u32,
            buckets: p.buckets() as u32,
            columns: if packed { p.columns() as u32 } else { 0 },
            factors: p.num_buckets.len() as u32,
            digit_shift: shift,
            digits: 1 << bits,
            sort_blocks: p.sort_blocks() as u32,
            key_valid_base: base(Slot::KeyValid),
            rotations_base: base(Slot::Rotations),
            buckets_base: base(Slot::Buckets),
            lse_base: base(Slot::Lse),
            lse_rounds_base: base(Slot::LseRounds),
            causal: u32::from(p.causal),
            scale: log2(p.softmax_scale),
            key_norm_eps: p.key_norm_eps as f32,
            self_mask: log2(p.self_mask_value),
            self_mask_value: p.self_mask_value as f32,
            mask: log2(p.mask_value),
            mask_value: p.mask_value as f32,
            qk: steps(Slot::Qk, &l.qk),
            v: steps(Slot::V, &l.v),
            out: steps(Slot::Out, &l.out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Params, Steps};
    use crate::webgpu::Caps;
    use crate::{DType, Lsh};
    use std::mem::offset_of;

    #[test]
    fn every_field_lies_where_the_shaders_read_it() {
        macro_rules! offsets {
            ($($field:ident)*) => { vec![$((stringify!($field).to_owned(), offset_of!(Params, $field))),*] };
        }
        let mut expected = offsets!(
            workgroups blocks heads batches seqlen head_dim rounds round chunk_len chunks ring
            ring_round ring_shift seen segment_first segment_len segment_rows buckets columns
            factors digit_shift digits sort_blocks key_valid_base rotations_base buckets_base
            lse_base lse_rounds_base causal scale key_norm_eps self_mask self_mask_value mask
            mask_value
        );
        let tensors = [
            ("qk", offset_of!(Params, qk)),
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
        let problem = Lsh::new([1, 4096, 2, 64], 64, 2, DType::F32).key_padding();
        let problem = Lsh { num_buckets: vec![32, 32], ..problem };
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
