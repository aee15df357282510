//% from "shared/tensor.wgsl" import reader, writer
//% macro of_heads(name, slot)
@group(0) @binding(${ slot }) var<storage, read> ${ name }: array<f32>;
// Elements d to d + 3 of a row of head_dim; 0 past its end.
fn load_${ name }(row: u32, d: u32) -> vec4<f32> {
    let at = P.${ name }_base + row * P.head_dim + d;
    var x = vec4<f32>();
    if (d < P.head_dim) { x.x = ${ name }[at]; }
    if (d + 1u < P.head_dim) { x.y = ${ name }[at + 1u]; }
    if (d + 2u < P.head_dim) { x.z = ${ name }[at + 2u]; }
    if (d + 3u < P.head_dim) { x.w = ${ name }[at + 3u]; }
    return x;
}
//% endmacro
// ---- what every kernel of relative-position attention is given

//% include "shared/numbers.wgsl"

// Element counts and strides. q is the caller's for the preparing kernel and what that one makes of
// it for the others; the `*_at` are words of the workspace or of the texture of words, in fours.
struct Params {
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
    k_memory_base: u32,
    k_memory_batch: u32,
    k_memory_row: u32,
    k_memory_head: u32,
    v_memory_base: u32,
    v_memory_batch: u32,
    v_memory_row: u32,
    v_memory_head: u32,
    table_base: u32,
    table_batch: u32,
    table_row: u32,
    table_head: u32,
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
//% if slot.k_memory is defined
${ reader("k_memory", slot.k_memory) }
${ reader("v_memory", slot.v_memory) }
//% endif
//% if slot.table is defined
${ reader("table", slot.table) }
//% endif
//% if slot.bias_u is defined
${ of_heads("bias_u", slot.bias_u) }
${ of_heads("bias_v", slot.bias_v) }
//% endif
//% if slot.bias_s is defined
${ of_heads("bias_s", slot.bias_s) }
${ of_heads("seg_embed", slot.seg_embed) }
@group(0) @binding(${ slot.seg_q }) var<storage, read> seg_q: array<u32>;
//% endif
//% if slot.seg_k is defined
@group(0) @binding(${ slot.seg_k }) var<storage, read> seg_k: array<u32>;
//% endif
//% if slot.targets is defined
@group(0) @binding(${ slot.targets }) var<storage, read> targets: array<u32>;

// A query's position in its segment.
fn target_of(batch: u32, row: u32) -> u32 {
    return min(targets[P.targets_base + batch * P.seqlen_q + row], P.segment_len - 1u);
}
//% endif
//% if slot.perm_mask is defined
@group(0) @binding(${ slot.perm_mask }) var<storage, read> perm_mask: array<u32>;
//% endif
//% if slot.key_valid is defined
// One byte a key, four to a word.
@group(0) @binding(${ slot.key_valid }) var<storage, read> key_valid: array<u32>;
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
@group(0) @binding(${ slot.r_texels }) var r_texels_of: texture_storage_2d<rgba32float, ${ texel_access }>;
//% endif
//% if slot.kv_texels is defined
@group(0) @binding(${ slot.kv_texels }) var kv_texels_of: texture_storage_2d<rgba32float, ${ texel_access }>;
//% endif
//% if slot.word_texels is defined
@group(0) @binding(${ slot.word_texels }) var word_texels_of: texture_storage_2d<r32uint, ${ texel_access }>;
//% endif
//% if slot.q_texels is defined or slot.kv_texels is defined or slot.word_texels is defined
//%   include "shared/full_texels.wgsl"
//% endif

// What transformer_xl_prepare.wgsl and transformer_xl_mark.wgsl found out:
//   (workspace)   (q + bias_u) · scale, rows of [batch, head, query]
//   differences   (bias_v − bias_u) · scale of each head; as texels: that times each row of the table
//   records       of each row: the score's term for the same segment, for another one, seg_q, and the
//                 position of a query with a target
//   segments      seg_k
//   blocked       32 keys to a word, a bit set where a key must not be attended
//% if slot.workspace is defined
@group(0) @binding(${ slot.workspace }) var<storage, ${ workspace_access }> workspace: array<vec4<u32>>;
//% endif
//% if stores_words

fn store_words(at: u32, x: vec4<u32>) {
//%   if slot.workspace is defined
    workspace[at >> 2u] = x;
//%   else
    textureStore(word_texels_of, valid_texel(at), vec4<u32>(x.x, 0u, 0u, 0u));
    textureStore(word_texels_of, valid_texel(at + 1u), vec4<u32>(x.y, 0u, 0u, 0u));
    textureStore(word_texels_of, valid_texel(at + 2u), vec4<u32>(x.z, 0u, 0u, 0u));
    textureStore(word_texels_of, valid_texel(at + 3u), vec4<u32>(x.w, 0u, 0u, 0u));
//%   endif
}
//% elif slot.workspace is defined or slot.word_texels is defined

fn load_word(at: u32) -> u32 {
//%   if slot.workspace is defined
    return workspace[at >> 2u][at & 3u];
//%   else
    return textureLoad(word_texels_of, valid_texel(at)).x;
//%   endif
}
//%   if slot.workspace is defined

// Elements d to d + 3 of the prepared row that begins at element `row`.
fn load_q(row: u32, d: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(workspace[(row + d) >> 2u]);
}
//%   endif
//% endif
