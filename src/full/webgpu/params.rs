//! The uniform block that every kernel of full attention reads.

use super::chunk::{Chunk, range};
use super::{Plan, Tensors};
use crate::Strides;

use crate::full::config::{Config, SPLIT_LEN, Slot, Stage};
use crate::webgpu::Steps;

/// The uniform block of `shaders/shared/full_bindings.wgsl`, field by field.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Params {
    workgroups: u32,
    blocks: u32,
    splits: u32,
    split_len: u32,
    heads: u32,
    first_head: u32,
    first_batch: u32,
    group: u32,
    seqlen_q: u32,
    seqlen_k: u32,
    head_dim: u32,
    bias_batch: u32,
    bias_head: u32,
    bias_base: u32,
    key_valid_base: u32,
    lse_base: u32,
    lse_batch: u32,
    lse_head: u32,
    window_left: i32,
    window_right: i32,
    scale: f32,
    softcap: f32,
    q: Steps,
    k: Steps,
    v: Steps,
    out: Steps,
    alibi_base: u32,
    partial_rows: u32,
    cu_q_base: u32,
    cu_k_base: u32,
    batches: u32,
    rows_q: u32,
    rows_k: u32,
    table_base: u32,
    table_row: u32,
}

impl Plan {
    pub(super) fn params(&self, tensors: &Tensors<'_>, config: &Config, chunk: &Chunk) -> Params {
        let p = &self.problem;
        let s = &p.shape;
        let group = s.heads_q / s.heads_kv;
        let limit = |side: Option<usize>| side.map_or(1 << 30, |n| n.min(1 << 30) as i32);
        let mask = p.mask();
        // Where (batch 0, head 0) would lie: the bound part begins at the chunk's first.
        let base = |slot: Slot| {
            let (_, residual) = self.part(tensors, slot, chunk);
            residual.wrapping_sub(range(p, slot, chunk).0 as u32)
        };
        let steps = |slot: Slot, strides: &Strides| Steps::new(base(slot), strides);
        let log2e = std::f64::consts::LOG2_E;
        let (scale, softcap) = match p.softcap > 0.0 {
            true => (p.softmax_scale / p.softcap, p.softcap * log2e),
            false => (p.softmax_scale * log2e, 0.0),
        };
        let bias = p.bias.as_ref().map(|bias| (bias, p.bias_dims(bias)));
        let one = |slot: Slot, given: bool| if given { base(slot) } else { 0 };
        Params {
            workgroups: self.workgroups(Stage::Forward, chunk) as u32,
            blocks: s.seqlen_q.div_ceil(config.kernel.block_m() as usize) as u32,
            splits: self.splits() as u32,
            split_len: SPLIT_LEN as u32,
            heads: (chunk.heads_kv * group) as u32,
            first_head: (chunk.head_kv * group) as u32,
            first_batch: chunk.batch as u32,
            group: group as u32,
            seqlen_q: s.seqlen_q as u32,
            seqlen_k: s.seqlen_k as u32,
            head_dim: s.head_dim as u32,
            bias_batch: bias.map_or(
                0,
                |(b, [_, h, lq, lk])| if b.per_batch { (h * lq * lk) as u32 } else { 0 },
            ),
            bias_head: bias
                .map_or(0, |(b, [_, _, lq, lk])| if b.per_head { (lq * lk) as u32 } else { 0 }),
            bias_base: one(Slot::Bias, p.bias.is_some()),
            key_valid_base: one(Slot::KeyValid, p.key_padding),
            lse_base: base(Slot::Lse),
            lse_batch: (s.heads_q * s.seqlen_q) as u32,
            lse_head: p.rows_q() as u32,
            window_left: limit(mask.left),
            window_right: limit(mask.right),
            scale: scale as f32,
            softcap: softcap as f32,
            q: steps(Slot::Q, &p.layout.q),
            k: steps(Slot::K, &p.layout.k),
            v: steps(Slot::V, &p.layout.v),
            out: steps(Slot::Out, &p.layout.out),
            alibi_base: one(Slot::Alibi, p.alibi),
            partial_rows: self.partial_rows(chunk) as u32,
            cu_q_base: one(Slot::CuQ, p.ragged.is_some()),
            cu_k_base: one(Slot::CuK, p.ragged.is_some()),
            batches: if p.ragged.is_some() { 1 } else { chunk.batches as u32 },
            rows_q: p.rows_q() as u32,
            rows_k: p.rows_k() as u32,
            table_base: one(Slot::BiasTable, p.buckets.is_some()),
            table_row: s.heads_q as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Params, Steps};
    use crate::webgpu::Caps;
    use crate::{DType, Full, Shape};
    use std::mem::offset_of;

    #[test]
    fn every_field_lies_where_the_shader_reads_it() {
        macro_rules! offsets {
            ($($field:ident)*) => { vec![$((stringify!($field).to_owned(), offset_of!(Params, $field))),*] };
        }
        let mut expected = offsets!(
            workgroups blocks splits split_len heads first_head first_batch group seqlen_q seqlen_k
            head_dim bias_batch bias_head bias_base key_valid_base lse_base lse_batch lse_head
            window_left window_right scale softcap alibi_base partial_rows cu_q_base cu_k_base
            batches rows_q rows_k table_base table_row
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

        let shape =
            Shape { batch: 1, heads_q: 1, heads_kv: 1, seqlen_q: 1, seqlen_k: 4096, head_dim: 64 };
        let sources = Full::new(shape, DType::F32).sources_webgpu(&Caps::baseline()).unwrap();
        assert_eq!(sources.len(), 2, "one that splits, so both kernels are looked at");
        for (kernel, source) in sources {
            let (members, span) = crate::webgpu::members_of_params(&source);
            assert_eq!(members, expected, "{kernel}");
            assert_eq!(span, size_of::<Params>(), "{kernel}");
        }
    }
}
