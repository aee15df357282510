//! The one parameter that every kernel of full attention takes.

use super::Args;
use super::config::{Config, partial_rows};
use crate::Strides;
use crate::cuda::launch::Steps;
use crate::full::Full;

/// The parameter of `kernels/shared/full_params.ptx`, field by field. Steps are in bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Params {
    q: u64,
    k: u64,
    v: u64,
    out: u64,
    lse: u64,
    alibi_slopes: u64,
    bias: u64,
    key_valid: u64,
    cu_seqlens_q: u64,
    cu_seqlens_k: u64,
    partial: u64,
    bias_table: u64,
    q_steps: Steps,
    k_steps: Steps,
    v_steps: Steps,
    out_steps: Steps,
    lse_batch: u64,
    lse_head: u64,
    bias_batch: u64,
    bias_head: u64,
    bias_row: u64,
    partial_rows: u64,
    /// Where m and l begin in the workspace.
    partial_stats: u64,
    blocks: u32,
    heads: u32,
    group: u32,
    splits: u32,
    split_len: u32,
    seqlen_q: u32,
    seqlen_k: u32,
    head_dim: u32,
    window_left: i32,
    window_right: i32,
    scale: f32,
    softcap: f32,
}

impl Params {
    pub(super) fn new(p: &Full, config: &Config, args: &Args) -> Self {
        let s = &p.shape;
        let steps = |strides: &Strides| Steps::new(strides, p.dtype);
        let log2e = std::f64::consts::LOG2_E;
        let (scale, softcap) = match p.softcap > 0.0 {
            true => (p.softmax_scale / p.softcap, p.softcap * log2e),
            false => (p.softmax_scale * log2e, 0.0),
        };
        let (seqlen_q, seqlen_k) = (s.seqlen_q as u64, s.seqlen_k as u64);
        let bias_row = 4 * seqlen_k;
        let bias_heads = p.bias.map_or(1, |b| if b.per_head { s.heads_q as u64 } else { 1 });
        let of_bias = |own: Option<bool>, step: u64| if own == Some(true) { step } else { 0 };
        // No position lies beyond 2^29.
        let limit = |side: Option<usize>| side.map_or(1 << 30, |n| n.min(1 << 30) as i32);
        let mask = p.mask();
        let rows = partial_rows(p) as u64;
        let splits = if config.split { config.splits(p) } else { 1 };
        Params {
            q: args.q,
            k: args.k,
            v: args.v,
            out: args.out,
            lse: args.lse,
            alibi_slopes: args.alibi_slopes.unwrap_or(0),
            bias: args.bias.unwrap_or(0),
            key_valid: args.key_valid.unwrap_or(0),
            cu_seqlens_q: args.cu_seqlens_q.unwrap_or(0),
            cu_seqlens_k: args.cu_seqlens_k.unwrap_or(0),
            partial: args.workspace.unwrap_or(0),
            bias_table: args.bias_table.unwrap_or(0),
            q_steps: steps(&p.layout.q),
            k_steps: steps(&p.layout.k),
            v_steps: steps(&p.layout.v),
            out_steps: steps(&p.layout.out),
            lse_batch: 4 * s.heads_q as u64 * seqlen_q,
            lse_head: 4 * p.rows_q() as u64,
            bias_batch: of_bias(p.bias.map(|b| b.per_batch), bias_heads * seqlen_q * bias_row),
            bias_head: of_bias(p.bias.map(|b| b.per_head), seqlen_q * bias_row),
            bias_row,
            partial_rows: rows,
            partial_stats: splits as u64 * rows * u64::from(config.head_dim) * 4,
            blocks: config.row_blocks(p) as u32,
            heads: s.heads_q as u32,
            group: (s.heads_q / s.heads_kv) as u32,
            splits: splits as u32,
            split_len: config.split_len(p) as u32,
            seqlen_q: s.seqlen_q as u32,
            seqlen_k: s.seqlen_k as u32,
            head_dim: s.head_dim as u32,
            window_left: limit(mask.left),
            window_right: limit(mask.right),
            scale: scale as f32,
            softcap: softcap as f32,
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
            q k v out lse alibi_slopes bias key_valid cu_seqlens_q cu_seqlens_k partial bias_table lse_batch
            lse_head bias_batch bias_head bias_row partial_rows partial_stats blocks heads group
            splits split_len seqlen_q seqlen_k head_dim window_left window_right scale softcap
        );
        let tensors = [
            ("q", offset_of!(Params, q_steps)),
            ("k", offset_of!(Params, k_steps)),
            ("v", offset_of!(Params, v_steps)),
            ("out", offset_of!(Params, out_steps)),
        ];
        let expected = offsets::of_struct(expected, &tensors, size_of::<Params>());
        let text = include_str!("../../../kernels/shared/full_params.ptx");
        assert_eq!(offsets::stated(text), expected);
    }
}
