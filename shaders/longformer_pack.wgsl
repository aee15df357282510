// Longformer on CPU adapters: copies K and V of the heads that follow P.first_local to a storage
// texture as f32, as full_pack.wgsl does and for its reason. Other heads take the same texture in turn.
//
//% if not global_rows
// With the first heads the marks, one texel each: per sequence the number of globals and the globals,
// then a texel for each position.
//
//% endif
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
    if (n < P.locals * P.seqlen) {
        let row = n % P.seqlen;
        let local = P.first_local + n / P.seqlen;
        let head = local % P.heads;
        let batch = local / P.heads;
        let k_at = P.k_base + batch * P.k_batch + head * P.k_head + row * P.k_row;
        let v_at = P.v_base + batch * P.v_batch + head * P.v_head + row * P.v_row;
        let k_to = kv_texel(n);
        let v_to = k_to + vec2<i32>(i32(D4), 0);
        for (var c = 0u; c < D4; c++) {
            textureStore(kv_texels_of, k_to + vec2<i32>(i32(c), 0), load_k(k_at, c * 4u));
        }
        for (var c = 0u; c < D4; c++) {
            textureStore(kv_texels_of, v_to + vec2<i32>(i32(c), 0), load_v(v_at, c * 4u));
        }
    }
//% if slot.mark_texels is defined
    if (P.first_local > 0u) { return; }
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
