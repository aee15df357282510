//% from "shared/tensor.wgsl" import reader, writer, rereader
// ---- what every kernel of LSH attention is given

//% include "shared/numbers.wgsl"
const NOT_VALID = -1.0;

// Element counts and strides. Scores are in units of log2, as are the masks.
struct Params {
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
    qk_base: u32,
    qk_batch: u32,
    qk_row: u32,
    qk_head: u32,
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

//% if slot.qk is defined
${ reader("qk", slot.qk) }
//% endif
//% if slot.v is defined
${ reader("v", slot.v) }
//% endif
//% if slot.out is defined
${ writer("out", slot.out) }
${ rereader("out") }
@group(0) @binding(${ slot.lse }) var<storage, read_write> lse: array<u32>;
//% endif
//% if slot.lse_rounds is defined
@group(0) @binding(${ slot.lse_rounds }) var<storage, read_write> lse_rounds: array<u32>;
//% endif
//% if slot.rotations is defined
@group(0) @binding(${ slot.rotations }) var<storage, read> rotations: array<f32>;
//% endif
//% if slot.factors is defined
// Half of each factor of the number of buckets.
@group(0) @binding(${ slot.factors }) var<storage, read> factors: array<u32>;
//% endif
//% if slot.buckets is defined
@group(0) @binding(${ slot.buckets }) var<storage, ${ access.buckets }> buckets: array<u32>;
//% endif
//% if slot.key_valid is defined
// One byte a position, four to a word.
@group(0) @binding(${ slot.key_valid }) var<storage, read> key_valid: array<u32>;

fn is_valid(batch: u32, position: u32) -> bool {
    let i = P.key_valid_base + batch * P.seqlen + position;
    return ((key_valid[i >> 2u] >> (8u * (i & 3u))) & 0xffu) != 0u;
}
//% endif
//% if slot.norms is defined
// Per (batch, head, position): what a key is multiplied by, which is not negative, or NOT_VALID.
@group(0) @binding(${ slot.norms }) var<storage, ${ access.norms }> norms: array<f32>;
//% endif
//% if slot.order is defined
// Per (batch, head, round, place): a position.
@group(0) @binding(${ slot.order }) var<storage, ${ access.order }> order: array<u32>;
//% endif
//% if slot.order_before is defined
// The same after the digits before.
@group(0) @binding(${ slot.order_before }) var<storage, ${ access.order_before }> order_before: array<u32>;
//% endif
//% if slot.places is defined
// Per (batch, head, round, position): its place in the order.
@group(0) @binding(${ slot.places }) var<storage, ${ access.places }> places: array<u32>;
//% endif
//% if slot.histogram is defined
// Per (batch, head, round, digit, block of items): how many items; after the scan, where they go.
@group(0) @binding(${ slot.histogram }) var<storage, read_write> histogram: array<u32>;
//% endif
//% if slot.row_texels is defined
@group(0) @binding(${ slot.row_texels }) var kv_texels_of: texture_storage_2d<rgba32float, ${ access.row_texels }>;
//% endif
//% if slot.rotation_texels is defined
@group(0) @binding(${ slot.rotation_texels }) var rotation_texels_of: texture_storage_2d<rgba32float, ${ access.rotation_texels }>;
//% endif
//% if slot.item_texels is defined
@group(0) @binding(${ slot.item_texels }) var item_texels_of: texture_storage_2d<rg32uint, ${ access.item_texels }>;
//% endif
//% if slot.place_texels is defined
@group(0) @binding(${ slot.place_texels }) var place_texels_of: texture_storage_2d<r32uint, ${ access.place_texels }>;
//% endif
//% if slot.row_texels is defined or slot.item_texels is defined or slot.place_texels is defined
//%   include "shared/full_texels.wgsl"
//% endif
