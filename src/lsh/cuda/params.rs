//! The one parameter that every kernel of LSH attention takes.

use super::Args;
use super::config::Config;
use super::sort::{Pass, Workspace, met_always};
use crate::Strides;
use crate::cuda::launch::Steps;
use crate::lsh::{Lsh, Wrap};

/// The parameter of `kernels/shared/lsh_params.ptx`, field by field. Steps are in bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Params {
    qk: u64,
    v: u64,
    out: u64,
    lse: u64,
    lse_rounds: u64,
    rotations: u64,
    buckets: u64,
    key_valid: u64,
    factors: u64,
    order: u64,
    /// What a pass of the sort reads: an order, or null for the positions as they are.
    sorted_from: u64,
    sorted_to: u64,
    counts: u64,
    chunk_of: u64,
    qk_steps: Steps,
    v_steps: Steps,
    out_steps: Steps,
    lse_batch: u64,
    lse_head: u64,
    /// From one head's rounds to the next's, in tensors of four bytes for each place.
    head_rounds: u64,
    heads: u32,
    seqlen: u32,
    head_dim: u32,
    rounds: u32,
    hash_blocks: u32,
    /// The bucket of invalid positions; no other is above it.
    buckets_all: u32,
    tiles: u32,
    tile_len: u32,
    /// A pass sorts by the digit `(bucket >> shift) & digits`.
    shift: u32,
    digits: u32,
    chunk_len: u32,
    /// Of a round.
    chunks: u32,
    blocks_of_chunk: u32,
    /// Chunks that a chunk sees.
    seen: u32,
    /// From a chunk to the first that it sees, around the ring.
    back: u32,
    ring: u32,
    round: u32,
    /// The rounds of the ring.
    round_begin: u32,
    round_end: u32,
    scale: f32,
    mask_value: f32,
    self_mask_value: f32,
    key_norm_eps: f32,
    /// How often each pair is met by chunks that see the whole ring, and how many of the ring's
    /// chunks are seen once more: where pairs count once.
    met_always: u32,
    met_rest: u32,
    pad: u32,
}

impl Params {
    /// What all kernels of a launch have in common.
    pub(super) fn new(p: &Lsh, config: &Config, args: &Args) -> Self {
        let steps = |strides: &Strides| Steps::new(strides, p.dtype);
        let workspace = Workspace::new(config, p);
        let at = args.workspace.unwrap_or(0);
        let (before, after) = p.seen_chunks();
        // Units of log2, finite as they were.
        let in_log2 = |x: f64| {
            let scaled = (x * std::f64::consts::LOG2_E) as f32;
            scaled.clamp(f32::MIN, f32::MAX)
        };
        Params {
            qk: args.qk,
            v: args.v,
            out: args.out,
            lse: args.lse,
            lse_rounds: args.lse_rounds.unwrap_or(0),
            rotations: args.rotations.unwrap_or(0),
            buckets: args.buckets.unwrap_or(0),
            key_valid: args.key_valid.unwrap_or(0),
            factors: at + workspace.factors,
            order: at + workspace.order,
            counts: at + workspace.counts,
            chunk_of: at + workspace.chunk_of,
            qk_steps: steps(&p.layout.qk),
            v_steps: steps(&p.layout.v),
            out_steps: steps(&p.layout.out),
            lse_batch: 4 * (p.heads * p.seqlen) as u64,
            lse_head: 4 * p.seqlen as u64,
            head_rounds: 4 * (p.rounds() * p.seqlen) as u64,
            heads: p.heads as u32,
            seqlen: p.seqlen as u32,
            head_dim: p.head_dim as u32,
            rounds: p.rounds() as u32,
            hash_blocks: config.hash_blocks(p) as u32,
            buckets_all: p.buckets() as u32,
            tiles: config.sort_tiles(p) as u32,
            tile_len: config.sort_tile_len(p) as u32,
            chunk_len: config.chunk_len(p) as u32,
            chunks: config.chunks(p) as u32,
            blocks_of_chunk: config.blocks_of_chunk(p) as u32,
            seen: (before + 1 + after) as u32,
            back: (before % p.ring().max(1)) as u32,
            ring: p.ring() as u32,
            scale: in_log2(p.softmax_scale),
            mask_value: in_log2(p.mask_value),
            self_mask_value: in_log2(p.self_mask_value),
            key_norm_eps: p.key_norm_eps as f32,
            met_always: if config.once { met_always(p) as u32 } else { 0 },
            met_rest: ((before + 1 + after) % p.ring().max(1)) as u32,
            ..Params::default()
        }
    }

    /// The same for a pass of the sort.
    pub(super) fn of_pass(self, config: &Config, p: &Lsh, args: &Args, pass: Pass) -> Self {
        let workspace = Workspace::new(config, p);
        let at = args.workspace.unwrap_or(0);
        // The passes go to and fro between two orders; the last ends in the one that is kept.
        let order =
            |n: usize| at + if n.is_multiple_of(2) { workspace.order } else { workspace.spare };
        let left = pass.of - pass.number;
        Params {
            sorted_from: if pass.number == 0 { 0 } else { order(left) },
            sorted_to: order(left - 1),
            shift: pass.shift,
            digits: (1 << pass.bits) - 1,
            // Buckets that were computed have the last for invalid positions already.
            key_valid: if config.hashed { 0 } else { self.key_valid },
            chunk_of: if left == 1 && config.once { self.chunk_of } else { 0 },
            ..self
        }
    }

    /// The same for the attention of `round`.
    pub(super) fn of_round(self, p: &Lsh, round: usize) -> Self {
        let round = round as u32;
        let (round_begin, round_end) = match p.wrap {
            Wrap::AcrossRounds => (0, p.rounds() as u32),
            Wrap::PerRound => (round, round + 1),
        };
        Params { round, round_begin, round_end, ..self }
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
            qk v out lse lse_rounds rotations buckets key_valid factors order sorted_from sorted_to
            counts chunk_of lse_batch lse_head head_rounds heads seqlen head_dim rounds hash_blocks
            buckets_all tiles tile_len shift digits chunk_len chunks blocks_of_chunk seen back ring
            round round_begin round_end scale mask_value self_mask_value key_norm_eps
            met_always met_rest pad
        );
        let tensors = [
            ("qk", offset_of!(Params, qk_steps)),
            ("v", offset_of!(Params, v_steps)),
            ("out", offset_of!(Params, out_steps)),
        ];
        let expected = offsets::of_struct(expected, &tensors, size_of::<Params>());
        let text = include_str!("../../../kernels/shared/lsh_params.ptx");
        assert_eq!(offsets::stated(text), expected);
    }
}
