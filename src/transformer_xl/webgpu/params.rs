//! The uniform block that every kernel of relative-position attention reads.

use super::{Plan, Tensors};
use crate::full::config::SPLIT_LEN;
use crate::transformer_xl::config::{Slot, Stage};
use crate::webgpu::Steps;

/// The uniform block of `shaders/shared/transformer_xl_bindings.wgsl`, field by field.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Params {
    workgroups: u32,
    blocks: u32,
    splits: u32,
    split_len: u32,
    heads: u32,
    group: u32,
    batches: u32,
    seqlen_q: u32,
    seqlen_k: u32,
    head_dim: u32,
    rows: u32,
    lse_base: u32,
    window_left: i32,
    window_right: i32,
    chunk_size: i32,
    chunk_reach: i32,
    distance_offset: i32,
    row_first: i32,
    row_last: i32,
    memory_len: i32,
    memory_rows: i32,
    memory_start: i32,
    partial_rows: u32,
    scale: f32,
    bias_u_base: u32,
    bias_v_base: u32,
    bias_s_base: u32,
    seg_embed_base: u32,
    seg_q_base: u32,
    seg_k_base: u32,
    perm_mask_base: u32,
    key_valid_base: u32,
    targets_base: u32,
    segment_len: u32,
    differences_at: u32,
    records_at: u32,
    segments_at: u32,
    blocked_at: u32,
    q: Steps,
    k: Steps,
    v: Steps,
    k_memory: Steps,
    v_memory: Steps,
    table: Steps,
    out: Steps,
}

/// Further than any two positions lie apart.
const FAR: usize = 1 << 29;

impl Plan {
    pub(super) fn params(&self, tensors: &Tensors<'_>, stage: Stage) -> Params {
        let p = &self.problem;
        let (s, l) = (&p.shape, &p.layout);
        let base = |slot| self.base(tensors, slot);
        let steps = |slot, strides| Steps::new(base(slot), strides);
        let head_dim = self.config.head_dim;
        let q = match stage {
            Stage::Prepare => steps(Slot::Q, &l.q),
            // Dense rows of [batch, head, query].
            _ => Steps {
                base: 0,
                batch: (s.heads_q * s.seqlen_q) as u32 * head_dim,
                row: head_dim,
                head: s.seqlen_q as u32 * head_dim,
            },
        };
        let words = p.words(self.config.is_tile().then_some(head_dim));
        let side = |side: Option<usize>| side.map_or(FAR, |n| n.min(FAR)) as i32;
        let chunk_size = p.chunks.map_or(FAR, |c| c.size.min(FAR));
        let chunk_reach = match p.chunks.and_then(|c| c.left) {
            Some(left) => left.saturating_mul(chunk_size).min(2 * FAR),
            None => 2 * FAR,
        };
        // The table's rows, of them those that clamped distances leave.
        let offset = p.distance_offset as i64;
        let clamp = p.clamp_len.map_or(i64::MAX / 2, |n| n as i64);
        let last = (p.rows as i64 - 1).max(0);
        let [row_first, row_last] = [offset - clamp, offset + clamp].map(|x| x.clamp(0, last));
        let memory = p.memory;
        Params {
            workgroups: self.workgroups(stage) as u32,
            blocks: self.blocks() as u32,
            splits: self.splits() as u32,
            split_len: SPLIT_LEN as u32,
            heads: s.heads_q as u32,
            group: (s.heads_q / s.heads_kv) as u32,
            batches: s.batch as u32,
            seqlen_q: s.seqlen_q as u32,
            seqlen_k: s.seqlen_k as u32,
            head_dim: s.head_dim as u32,
            rows: p.rows as u32,
            lse_base: base(Slot::Lse),
            window_left: side(p.window.left),
            window_right: side(p.window.right),
            chunk_size: chunk_size as i32,
            chunk_reach: chunk_reach as i32,
            distance_offset: p.distance_offset as i32,
            row_first: row_first as i32,
            row_last: row_last as i32,
            memory_len: memory.map_or(0, |m| m.len as i32),
            memory_rows: memory.map_or(0, |m| m.rows as i32),
            memory_start: memory.map_or(0, |m| m.start as i32),
            partial_rows: p.lse_len() as u32,
            scale: (p.softmax_scale * std::f64::consts::LOG2_E) as f32,
            bias_u_base: base(Slot::BiasU),
            bias_v_base: base(Slot::BiasV),
            bias_s_base: base(Slot::BiasS),
            seg_embed_base: base(Slot::SegEmbed),
            seg_q_base: base(Slot::SegQ),
            seg_k_base: base(Slot::SegK),
            perm_mask_base: base(Slot::PermMask),
            key_valid_base: base(Slot::KeyValid),
            targets_base: base(Slot::Targets),
            segment_len: p.segment_len() as u32,
            differences_at: words.differences as u32,
            records_at: words.records as u32,
            segments_at: words.segments as u32,
            blocked_at: words.blocked as u32,
            q,
            k: steps(Slot::K, &l.k),
            v: steps(Slot::V, &l.v),
            k_memory: steps(Slot::KMemory, &l.k_memory),
            v_memory: steps(Slot::VMemory, &l.v_memory),
            table: steps(Slot::R, &l.r),
            out: steps(Slot::Out, &l.out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Params, Steps};
    use crate::transformer_xl::Memory;
    use crate::webgpu::Caps;
    use crate::{DType, TransformerXl};
    use std::mem::offset_of;

    #[test]
    fn every_field_lies_where_the_shaders_read_it() {
        macro_rules! offsets {
            ($($field:ident)*) => { vec![$((stringify!($field).to_owned(), offset_of!(Params, $field))),*] };
        }
        let mut expected = offsets!(
            workgroups blocks splits split_len heads group batches seqlen_q seqlen_k head_dim rows
            lse_base window_left window_right chunk_size chunk_reach distance_offset row_first
            row_last memory_len memory_rows memory_start partial_rows scale bias_u_base bias_v_base
            bias_s_base seg_embed_base seg_q_base seg_k_base perm_mask_base key_valid_base
            targets_base segment_len differences_at records_at segments_at blocked_at
        );
        let tensors = [
            ("q", offset_of!(Params, q)),
            ("k", offset_of!(Params, k)),
            ("v", offset_of!(Params, v)),
            ("k_memory", offset_of!(Params, k_memory)),
            ("v_memory", offset_of!(Params, v_memory)),
            ("table", offset_of!(Params, table)),
            ("out", offset_of!(Params, out)),
        ];
        for (name, at) in tensors {
            expected.push((format!("{name}_base"), at + offset_of!(Steps, base)));
            expected.push((format!("{name}_batch"), at + offset_of!(Steps, batch)));
            expected.push((format!("{name}_row"), at + offset_of!(Steps, row)));
            expected.push((format!("{name}_head"), at + offset_of!(Steps, head)));
        }
        expected.sort_by_key(|(_, at)| *at);
        let problem = TransformerXl::xlnet([1, 64, 1, 64], 4032, DType::F32)
            .memory(Memory { len: 4032, rows: 4032, start: 0 })
            .segments()
            .perm_mask();
        for cpu in [false, true] {
            let caps = Caps { cpu, ..Caps::baseline() };
            let sources = problem.sources_webgpu(&caps).unwrap();
            assert_eq!(sources.len(), 4, "preparing, marking, attention, and copying or combining");
            for (kernel, source) in sources {
                let (members, span) = crate::webgpu::members_of_params(&source);
                assert_eq!(members, expected, "{kernel}");
                assert_eq!(span, size_of::<Params>(), "{kernel}");
            }
        }
    }
}
