//! The one parameter that every kernel of Longformer takes.

use super::Args;
use super::config::{Config, Workspace, partial_rows};
use crate::Strides;
use crate::cuda::launch::Steps;
use crate::longformer::Longformer;

/// The parameter of `kernels/shared/longformer_params.ptx`, field by field. Steps are in bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Params {
    q: u64,
    k: u64,
    v: u64,
    q_global: u64,
    k_global: u64,
    v_global: u64,
    out: u64,
    lse: u64,
    global_indices: u64,
    key_valid: u64,
    flags: u64,
    list: u64,
    count: u64,
    partial: u64,
    q_steps: Steps,
    k_steps: Steps,
    v_steps: Steps,
    q_global_steps: Steps,
    k_global_steps: Steps,
    v_global_steps: Steps,
    out_steps: Steps,
    lse_batch: u64,
    lse_head: u64,
    partial_rows: u64,
    /// From `partial` to where m and l begin.
    partial_stats: u64,
    flags_row: u64,
    list_row: u64,
    blocks: u32,
    global_blocks: u32,
    global_ctas: u32,
    heads: u32,
    splits: u32,
    split_len: u32,
    seqlen: u32,
    max_globals: u32,
    head_dim: u32,
    left: i32,
    right: i32,
    scale: f32,
}

impl Params {
    pub(super) fn new(p: &Longformer, config: &Config, args: &Args) -> Self {
        let steps = |strides: &Strides| Steps::new(strides, p.dtype);
        let l = &p.layout;
        let own = p.has_global_tensors();
        // With shared projections the global rows read the local tensors.
        let (global, strides) = match own {
            true => {
                let at = [args.q_global, args.k_global, args.v_global];
                (at.map(|at| at.unwrap_or(0)), [&l.q_global, &l.k_global, &l.v_global])
            }
            false => ([args.q, args.k, args.v], [&l.q, &l.k, &l.v]),
        };
        let workspace = Workspace::new(config, p);
        let at = args.workspace.unwrap_or(0);
        // No position lies beyond 2^29.
        let limit = |side: usize| side.min(1 << 30) as i32;
        let rows = partial_rows(p);
        let splits = config.splits(p);
        Params {
            q: args.q,
            k: args.k,
            v: args.v,
            q_global: global[0],
            k_global: global[1],
            v_global: global[2],
            out: args.out,
            lse: args.lse,
            global_indices: args.global_indices.unwrap_or(0),
            key_valid: args.key_valid.unwrap_or(0),
            flags: at,
            list: at + workspace.list,
            count: at + workspace.count,
            partial: at + workspace.partial,
            q_steps: steps(&l.q),
            k_steps: steps(&l.k),
            v_steps: steps(&l.v),
            q_global_steps: steps(strides[0]),
            k_global_steps: steps(strides[1]),
            v_global_steps: steps(strides[2]),
            out_steps: steps(&l.out),
            lse_batch: 4 * (p.heads * p.seqlen) as u64,
            lse_head: 4 * p.seqlen as u64,
            partial_rows: rows,
            partial_stats: splits as u64 * rows * u64::from(config.head_dim) * 4,
            flags_row: workspace.flags_row,
            list_row: workspace.list_row,
            blocks: config.blocks(p) as u32,
            global_blocks: config.global_blocks(p) as u32,
            global_ctas: config.global_ctas(p) as u32,
            heads: p.heads as u32,
            splits: splits as u32,
            split_len: config.split_len(p) as u32,
            seqlen: p.seqlen as u32,
            max_globals: p.max_globals as u32,
            head_dim: p.head_dim as u32,
            left: limit(p.left),
            right: limit(p.right_of_band()),
            scale: (p.softmax_scale * std::f64::consts::LOG2_E) as f32,
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
            q k v q_global k_global v_global out lse global_indices key_valid flags list count
            partial lse_batch lse_head partial_rows partial_stats flags_row list_row blocks
            global_blocks global_ctas heads splits split_len seqlen max_globals head_dim left right
            scale
        );
        let tensors = [
            ("q", offset_of!(Params, q_steps)),
            ("k", offset_of!(Params, k_steps)),
            ("v", offset_of!(Params, v_steps)),
            ("q_global", offset_of!(Params, q_global_steps)),
            ("k_global", offset_of!(Params, k_global_steps)),
            ("v_global", offset_of!(Params, v_global_steps)),
            ("out", offset_of!(Params, out_steps)),
        ];
        let expected = offsets::of_struct(expected, &tensors, size_of::<Params>());
        let text = include_str!("../../../kernels/shared/longformer_params.ptx");
        assert_eq!(offsets::stated(text), expected);
    }
}
