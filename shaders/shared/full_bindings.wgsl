//% from "shared/tensor.wgsl" import reader, writer
// ---- what every kernel of full attention is given

//% include "shared/numbers.wgsl"

// Element counts and strides. The `*_base` are where (batch 0, head 0, row 0) would lie; they may
// wrap below zero when a dispatch covers later batches only, and come right again modulo 2^32.
struct Params {
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
@group(0) @binding(${ slot.params }) var<uniform> P: Params;

//% if slot.q is defined
${ reader("q", slot.q) }
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
//% if slot.q_texels is defined
@group(0) @binding(${ slot.q_texels }) var q_texels_of: texture_storage_2d<rgba32float, ${ texel_access }>;
@group(0) @binding(${ slot.kv_texels }) var kv_texels_of: texture_storage_2d<rgba32float, ${ texel_access }>;
//%   if slot.valid_texels is defined
@group(0) @binding(${ slot.valid_texels }) var valid_texels_of: texture_storage_2d<r32uint, ${ texel_access }>;
//%   endif
//%   include "shared/full_texels.wgsl"
//% endif
//% if slot.alibi is defined
@group(0) @binding(${ slot.alibi }) var<storage, read> alibi_slopes: array<f32>;
//% endif
//% if slot.bias is defined
@group(0) @binding(${ slot.bias }) var<storage, read> bias: array<f32>;
//% endif
//% if slot.bias_table is defined
@group(0) @binding(${ slot.bias_table }) var<storage, read> bias_table: array<f32>;
//% endif
//% if slot.key_valid is defined
// One byte a key, four to a word.
@group(0) @binding(${ slot.key_valid }) var<storage, read> key_valid: array<u32>;
//% endif
//% if slot.cu_q is defined
@group(0) @binding(${ slot.cu_q }) var<storage, read> cu_seqlens_q: array<i32>;
//% endif
//% if slot.cu_k is defined
@group(0) @binding(${ slot.cu_k }) var<storage, read> cu_seqlens_k: array<i32>;
//% endif
