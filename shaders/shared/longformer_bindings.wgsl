//% from "shared/tensor.wgsl" import reader, writer
// ---- what every kernel of Longformer's attention is given

//% include "shared/numbers.wgsl"

// Element counts and strides. q, k and v are the local or the global ones, whichever a kernel reads.
struct Params {
    workgroups: u32,
    blocks: u32,
    splits: u32,
    split_len: u32,
    heads: u32,
    batches: u32,
    // Of the (batch, head) pairs in order, those that a kernel works for.
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
    q_base: u32,
    q_batch: u32,
    q_row: u32,
    q_head: u32,
    k_base: u32,
    k_batch: u32,
    k_row: u32,
    k_head: u32,
    v_base: u32,
    v_batch: u32,
    v_row: u32,
    v_head: u32,
    out_base: u32,
    out_batch: u32,
    out_row: u32,
    out_head: u32,
}
@group(0) @binding(${ slot.params }) var<uniform> P: Params;

//% if slot.q is defined
${ reader("q", slot.q) }
//% endif
//% if slot.k is defined
${ reader("k", slot.k) }
${ reader("v", slot.v) }
//% endif
//% if slot.out is defined
${ writer("out", slot.out) }
@group(0) @binding(${ slot.lse }) var<storage, read_write> lse: array<u32>;
//% endif
//% if slot.partial is defined
// Per (split, row): head_dim unnormalised sums, then the row maximum and the sum of exponentials.
@group(0) @binding(${ slot.partial }) var<storage, ${ partial_access }> partial: array<f32>;
//% endif
//% if slot.global_indices is defined
@group(0) @binding(${ slot.global_indices }) var<storage, read> global_indices: array<i32>;
//% endif
//% if slot.key_valid is defined
// One byte a position, four to a word.
@group(0) @binding(${ slot.key_valid }) var<storage, read> key_valid: array<u32>;
//% endif
//% if slot.dilation is defined
@group(0) @binding(${ slot.dilation }) var<storage, read> dilations: array<u32>;
//% endif
//% if slot.marks is defined
// What longformer_prepare.wgsl found out. Per sequence the number of globals G and the globals
// themselves, ascending; then per sequence and position two bits: valid, and global.
@group(0) @binding(${ slot.marks }) var<storage, ${ marks_access }> marks: array<${ marks_type }>;
//% endif
//% if slot.kv_texels is defined
@group(0) @binding(${ slot.kv_texels }) var kv_texels_of: texture_storage_2d<rgba32float, ${ texel_access }>;
//% endif
//% if slot.mark_texels is defined
@group(0) @binding(${ slot.mark_texels }) var mark_texels_of: texture_storage_2d<r32uint, ${ texel_access }>;
//% endif
//% if slot.kv_texels is defined
//%   include "shared/full_texels.wgsl"
//% endif

const POSITIONS_OF_WORD = 16u;

// Where a sequence's number of globals lies, with the globals behind it.
fn list_at(batch: u32) -> u32 {
    return batch * (1u + P.max_globals);
}

// The word of a position's mark, and how far up in it.
fn mark_at(batch: u32, position: u32) -> vec2<u32> {
    let words = (P.seqlen + POSITIONS_OF_WORD - 1u) / POSITIONS_OF_WORD;
    let word = P.batches * (1u + P.max_globals) + batch * words + position / POSITIONS_OF_WORD;
    return vec2<u32>(word, position % POSITIONS_OF_WORD * 2u);
}

const LOCAL = 1u;    // valid and not global
const GLOBAL = 3u;   // valid and global; neither: 0
//% if slot.marks is defined and marks_type == "u32"

fn mark_of(batch: u32, position: u32) -> u32 {
    let at = mark_at(batch, position);
    return (marks[at.x] >> at.y) & 3u;
}
//% endif
//% if slot.mark_texels is defined and texel_access == "read"

// Number n = 0 of a sequence's list is how many globals there are, the others are they.
fn list_texel(batch: u32, n: u32) -> u32 {
    return list_at(batch) + n;
}

fn mark_texel(batch: u32, position: u32) -> u32 {
    return P.batches * (1u + P.max_globals) + batch * P.seqlen + position;
}

fn load_texel(n: u32) -> u32 {
    return textureLoad(mark_texels_of, valid_texel(n)).x;
}
//% endif
