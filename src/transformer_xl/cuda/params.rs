//! The one parameter that every kernel of relative-position attention takes.

use super::Args;
use super::config::{Config, Workspace};
use crate::Strides;
use crate::cuda::launch::Steps;
use crate::transformer_xl::{Memory, TransformerXl};

/// The parameter of `kernels/shared/transformer_xl_params.ptx`, field by field. Steps are in bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Params {
    q: u64,
    k: u64,
    v: u64,
    k_memory: u64,
    v_memory: u64,
    r: u64,
    out: u64,
    lse: u64,
    bias_u: u64,
    bias_v: u64,
    bias_s: u64,
    seg_embed: u64,
    seg_q: u64,
    seg_k: u64,
    perm_mask: u64,
    key_valid: u64,
    key_terms: u64,
    row_terms: u64,
    seg_terms: u64,
    q_steps: Steps,
    k_steps: Steps,
    v_steps: Steps,
    k_memory_steps: Steps,
    v_memory_steps: Steps,
    r_steps: Steps,
    out_steps: Steps,
    lse_batch: u64,
    lse_head: u64,
    perm_batch: u64,
    perm_row: u64,
    blocks: u32,
    heads: u32,
    group: u32,
    seqlen_q: u32,
    seqlen_k: u32,
    batches: u32,
    rows: u32,
    memory_len: u32,
    memory_rows: u32,
    memory_start: u32,
    head_dim: u32,
    left: i32,
    right: i32,
    chunk_size: u32,
    chunk_left: u32,
    /// The least and the largest distance that has a row of its own; others use theirs.
    distance_least: i32,
    distance_most: i32,
    distance_offset: i32,
    scale: f32,
    segment_len: u32,
    targets: u64,
}

impl Params {
    pub(super) fn new(p: &TransformerXl, config: &Config, args: &Args) -> Self {
        let steps = |strides: &Strides| Steps::new(strides, p.dtype);
        let (s, l) = (&p.shape, &p.layout);
        let given = |at: Option<u64>| at.unwrap_or(0);
        let workspace = Workspace::new(p);
        let at = given(args.workspace);
        // No position lies beyond 2^29, so these are as good as any beyond.
        let limit = |side: Option<usize>| side.map_or(1 << 30, |n| n.min(1 << 30)) as i32;
        let memory = p.memory.unwrap_or(Memory { len: 0, rows: 1, start: 0 });
        let clamp = limit(p.clamp_len);
        let words = 4 * p.perm_words() as u64;
        let (rows, offset) = (p.rows as i64, p.distance_offset as i64);
        Params {
            q: args.q,
            k: args.k,
            v: args.v,
            k_memory: given(args.k_memory),
            v_memory: given(args.v_memory),
            r: args.r,
            out: args.out,
            lse: args.lse,
            bias_u: args.bias_u,
            bias_v: args.bias_v,
            bias_s: given(args.bias_s),
            seg_embed: given(args.seg_embed),
            seg_q: given(args.seg_q),
            seg_k: given(args.seg_k),
            perm_mask: given(args.perm_mask),
            key_valid: given(args.key_valid),
            key_terms: at,
            row_terms: at + workspace.row_terms,
            seg_terms: at + workspace.seg_terms,
            q_steps: steps(&l.q),
            k_steps: steps(&l.k),
            v_steps: steps(&l.v),
            k_memory_steps: steps(&l.k_memory),
            v_memory_steps: steps(&l.v_memory),
            // The table has no batch, whatever its strides say of one.
            r_steps: Steps { batch: 0, ..steps(&l.r) },
            out_steps: steps(&l.out),
            lse_batch: 4 * (s.heads_q * s.seqlen_q) as u64,
            lse_head: 4 * s.seqlen_q as u64,
            perm_batch: p.segment_len() as u64 * words,
            perm_row: words,
            blocks: config.blocks(p) as u32,
            heads: s.heads_q as u32,
            group: (s.heads_q / s.heads_kv) as u32,
            seqlen_q: s.seqlen_q as u32,
            seqlen_k: s.seqlen_k as u32,
            batches: s.batch as u32,
            rows: p.rows as u32,
            memory_len: memory.len as u32,
            memory_rows: memory.rows as u32,
            memory_start: memory.start as u32,
            head_dim: s.head_dim as u32,
            left: limit(p.window.left),
            right: limit(p.window.right),
            chunk_size: limit(p.chunks.map(|c| c.size)) as u32,
            chunk_left: limit(p.chunks.and_then(|c| c.left)) as u32,
            distance_least: (-offset).max(i64::from(-clamp)) as i32,
            distance_most: (rows - 1 - offset).min(i64::from(clamp)) as i32,
            distance_offset: offset as i32,
            scale: (p.softmax_scale * std::f64::consts::LOG2_E) as f32,
            segment_len: p.segment_len() as u32,
            targets: given(args.targets),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Params;
    use crate::cuda::launch::offsets;
    use std::mem::offset_of;

    #[test]
    fn every_field_lies_where_the_kernels_read_it() {
        macro_rules! offsets {
            ($($field:ident)*) => { vec![$((stringify!($field).to_owned(), offset_of!(Params, $field))),*] };
        }
        let expected = offsets!(
            q k v k_memory v_memory r out lse bias_u bias_v bias_s seg_embed seg_q seg_k perm_mask
            key_valid key_terms row_terms seg_terms lse_batch lse_head perm_batch perm_row blocks
            heads group seqlen_q seqlen_k batches rows memory_len memory_rows memory_start head_dim
            left right chunk_size chunk_left distance_least distance_most distance_offset scale
            segment_len targets
        );
        let tensors = [
            ("q", offset_of!(Params, q_steps)),
            ("k", offset_of!(Params, k_steps)),
            ("v", offset_of!(Params, v_steps)),
            ("k_memory", offset_of!(Params, k_memory_steps)),
            ("v_memory", offset_of!(Params, v_memory_steps)),
            ("r", offset_of!(Params, r_steps)),
            ("out", offset_of!(Params, out_steps)),
        ];
        let expected = offsets::of_struct(expected, &tensors, size_of::<Params>());
        let text = include_str!("../../../kernels/shared/transformer_xl_params.ptx");
        assert_eq!(offsets::stated(text), expected);
    }
}
