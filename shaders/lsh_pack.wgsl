//% if gathered
// LSH attention on CPU adapters: copies the qk of some positions to a storage texture as f32, for the
// hash to read (full_pack.wgsl says why).
//% else
// LSH attention on CPU adapters: copies qk and v to a storage texture as f32, as full_pack.wgsl does
// and for its reason. Keys are not multiplied by their factors yet, since the rows are queries too.
//% endif
//% if slot.rotations is defined
// The rotations go to another, one column a row.
//% endif
//
// Floor: bound by bandwidth; moves each element once. One invocation copies one row of a texture.
//% include "shared/lsh_bindings.wgsl"

const THREADS = ${ threads }u;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let n = (w.x + w.y * grid.x) * THREADS + lane;
    let rows = P.batches * P.heads * P.segment_rows;
    if (n < rows) {
        let position = P.segment_first + n % P.segment_rows;
        let head = n / P.segment_rows % P.heads;
        let batch = n / (P.segment_rows * P.heads);
        let from_qk = P.qk_base + batch * P.qk_batch + head * P.qk_head + position * P.qk_row;
        let to = kv_texel(n);
//% if slot.v is defined
        let from_v = P.v_base + batch * P.v_batch + head * P.v_head + position * P.v_row;
//% endif
        // No constant: lavapipe would unroll the loop and compile it for seconds.
        let d4 = max(${ d4 }, i32(P.head_dim) / 4);
        for (var d = 0; d < d4; d++) {
            textureStore(kv_texels_of, to + vec2<i32>(d, 0), load_qk(from_qk, u32(d) * 4u));
//% if slot.v is defined
            textureStore(kv_texels_of, to + vec2<i32>(d + ${ d4 }, 0), load_v(from_v, u32(d) * 4u));
//% endif
        }
        return;
    }
//% if slot.rotations is defined
    // One row for each head, round and column.
    let of_head = P.rounds * P.columns;
    let column = n - rows;
    if (column < P.heads * of_head) {
        let first = P.rotations_base + column / of_head * P.head_dim * of_head + column % of_head;
        let to = q_texel(column);
        for (var d = 0u; d < ${ head_dim }u; d += 4u) {
            var x = vec4<f32>();
            for (var e = 0u; e < 4u; e++) {
                if (d + e < P.head_dim) { x[e] = rotations[first + (d + e) * of_head]; }
            }
            textureStore(rotation_texels_of, to + vec2<i32>(i32(d / 4u), 0), x);
        }
    }
//% endif
}
