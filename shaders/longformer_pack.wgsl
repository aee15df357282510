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
// Floor: bound by bandwidth; moves each element once. One invocation copies a row of each tensor: a
// software driver divides lane by lane and walks through both sides of a branch, so an invocation a
// texel with a branch a tensor would mostly find out where it is.
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
    let n = (w.x + w.y * grid.x) * THREADS + lane;
    if (n < P.batches * P.heads * P.seqlen) {
        let row = n % P.seqlen;
        let head = n / P.seqlen % P.heads;
        let batch = n / P.seqlen / P.heads;
        let k_at = P.k_base + batch * P.k_batch + head * P.k_head + row * P.k_row;
        let v_at = P.v_base + batch * P.v_batch + head * P.v_head + row * P.v_row;
        let kv_to = kv_texel(n);
//% if not global_rows
        let q_at = P.q_base + batch * P.q_batch + head * P.q_head + row * P.q_row;
        let q_to = q_texel(n);
//% endif
        for (var c = 0u; c < D4; c++) {
            let column = vec2<i32>(i32(c), 0);
//% if not global_rows
            textureStore(q_texels_of, q_to + column, load_q(q_at, c * 4u) * P.scale);
//% endif
            textureStore(kv_texels_of, kv_to + column, load_k(k_at, c * 4u));
            textureStore(kv_texels_of, kv_to + column + vec2<i32>(i32(D4), 0), load_v(v_at, c * 4u));
        }
    }
//% if global_rows
    if (n < P.batches * P.heads * P.max_globals) {
        let place = n % P.max_globals;
        let local = n / P.max_globals;
        let batch = local / P.heads;
        if (place < marks[list_at(batch)]) {
            let row = marks[list_at(batch) + 1u + place];
            let q_at = P.q_base + batch * P.q_batch + local % P.heads * P.q_head + row * P.q_row;
            let q_to = q_texel(local * P.seqlen + row);
            for (var c = 0u; c < D4; c++) {
                textureStore(q_texels_of, q_to + vec2<i32>(i32(c), 0), load_q(q_at, c * 4u) * P.scale);
            }
        }
    }
//% elif slot.mark_texels is defined
    let list_texels = P.batches * (1u + P.max_globals);
    if (n < list_texels) {
        textureStore(mark_texels_of, valid_texel(n), vec4<u32>(marks[n], 0u, 0u, 0u));
    } else if (n < list_texels + P.batches * P.seqlen) {
        let i = n - list_texels;
        let mark = mark_of(i / P.seqlen, i % P.seqlen);
        textureStore(mark_texels_of, valid_texel(n), vec4<u32>(mark, 0u, 0u, 0u));
    }
//% endif
}
