// Full attention on CPU adapters: copies q, k and v to storage textures as f32.
//
// A software rasteriser reads a storage buffer inside a loop lane by lane with a branch for each,
// but a storage texture by straight vector code; full_forward_rows.wgsl lives on that. The copy also
// takes dtype, strides and padding of the head dimension out of that kernel, and scales q.
//
// Floor: bound by bandwidth; moves each element once. One invocation copies one vec4.
//% if f16
enable f16;
//% endif
//% include "shared/full_bindings.wgsl"

const D4 = ${ head_dim }u / 4u;
const THREADS = 64u;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    // Texels in order: all of q, then K and V of each key, then (with key padding) one a key.
    var n = (w.x + w.y * grid.x) * THREADS + lane;
    let q_texels = P.batches * P.heads * P.rows_q * D4;
    if (n < q_texels) {
        let texel_row = n / D4;
        let row = texel_row % P.rows_q;
        let head = P.first_head + texel_row / P.rows_q % P.heads;
        let batch = P.first_batch + texel_row / (P.rows_q * P.heads);
        let at = P.q_base + batch * P.q_batch + head * P.q_head + row * P.q_row;
        textureStore(q_texels_of, q_texel(texel_row) + vec2<i32>(i32(n % D4), 0), load_q(at, n % D4 * 4u) * P.scale);
        return;
    }
    n -= q_texels;
    let heads_kv = P.heads / P.group;
    let kv_texels = P.batches * heads_kv * P.rows_k * 2u * D4;
    if (n < kv_texels) {
        let texel_row = n / (2u * D4);
        let column = n % (2u * D4);
        let row = texel_row % P.rows_k;
        let head = P.first_head / P.group + texel_row / P.rows_k % heads_kv;
        let batch = P.first_batch + texel_row / (P.rows_k * heads_kv);
        var x: vec4<f32> = vec4<f32>();
        if (column < D4) {
            x = load_k(P.k_base + batch * P.k_batch + head * P.k_head + row * P.k_row, column * 4u);
        } else {
            x = load_v(P.v_base + batch * P.v_batch + head * P.v_head + row * P.v_row, (column - D4) * 4u);
        }
        textureStore(kv_texels_of, kv_texel(texel_row) + vec2<i32>(i32(column), 0), x);
        return;
    }
//% if key_padding
    n -= kv_texels;
    if (n < P.batches * P.seqlen_k) {
        let i = P.key_valid_base + P.first_batch * P.seqlen_k + n;
        let valid = (key_valid[i >> 2u] >> (8u * (i & 3u))) & 0xffu;
        textureStore(valid_texels_of, valid_texel(n), vec4<u32>(valid, 0u, 0u, 0u));
    }
//% endif
}
