// Longformer on CPU adapters: copies q, k and v to storage textures as f32, as full_pack.wgsl does
// and for its reason.
//
//% if global_rows
// Of q_global only the rows of global positions are read and copied, each to its position's place.
//% else
// Beside them the marks, one texel each: per sequence the number of globals and the globals, then a
// texel for each position.
//% endif
//
// Floor: bound by bandwidth; moves each element once. One invocation copies one texel.
//% if f16
enable f16;
//% endif
//% include "shared/longformer_bindings.wgsl"

const D4 = ${ head_dim }u / 4u;
const THREADS = 64u;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    var n = (w.x + w.y * grid.x) * THREADS + lane;
//% if global_rows
    let rows_q = P.max_globals;
//% else
    let rows_q = P.seqlen;
//% endif
    let q_texels = P.batches * P.heads * rows_q * D4;
    if (n < q_texels) {
        let texel_row = n / D4;
        let head = texel_row / rows_q % P.heads;
        let batch = texel_row / (rows_q * P.heads);
//% if global_rows
        let place = texel_row % rows_q;
        if (place >= marks[list_at(batch)]) { return; }
        let row = marks[list_at(batch) + 1u + place];
//% else
        let row = texel_row % rows_q;
//% endif
        let at = P.q_base + batch * P.q_batch + head * P.q_head + row * P.q_row;
        let to = q_texel((batch * P.heads + head) * P.seqlen + row) + vec2<i32>(i32(n % D4), 0);
        textureStore(q_texels_of, to, load_q(at, n % D4 * 4u) * P.scale);
        return;
    }
    n -= q_texels;
    let kv_texels = P.batches * P.heads * P.seqlen * 2u * D4;
    if (n < kv_texels) {
        let texel_row = n / (2u * D4);
        let column = n % (2u * D4);
        let row = texel_row % P.seqlen;
        let head = texel_row / P.seqlen % P.heads;
        let batch = texel_row / (P.seqlen * P.heads);
        var x: vec4<f32> = vec4<f32>();
        if (column < D4) {
            x = load_k(P.k_base + batch * P.k_batch + head * P.k_head + row * P.k_row, column * 4u);
        } else {
            x = load_v(P.v_base + batch * P.v_batch + head * P.v_head + row * P.v_row, (column - D4) * 4u);
        }
        textureStore(kv_texels_of, kv_texel(texel_row) + vec2<i32>(i32(column), 0), x);
        return;
    }
//% if slot.mark_texels is defined
    n -= kv_texels;
    let list_texels = P.batches * (1u + P.max_globals);
    if (n < list_texels) {
        textureStore(mark_texels_of, valid_texel(n), vec4<u32>(marks[n], 0u, 0u, 0u));
        return;
    }
    let i = n - list_texels;
    if (i < P.batches * P.seqlen) {
        let mark = mark_of(i / P.seqlen, i % P.seqlen);
        textureStore(mark_texels_of, valid_texel(n), vec4<u32>(mark, 0u, 0u, 0u));
    }
//% endif
}
