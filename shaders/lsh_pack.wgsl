// LSH attention on CPU adapters: copies qk and v to a storage texture as f32, as full_pack.wgsl does
// and for its reason. Keys are not multiplied by their factors yet, since the rows are queries too.
//% if slot.rotations is defined
// The rotations go to another, one column a row.
//% endif
//
// Floor: bound by bandwidth; moves each element once. One invocation copies one texel.
//% if f16
enable f16;
//% endif
//% include "shared/lsh_bindings.wgsl"

const D4 = ${ head_dim }u / 4u;
const THREADS = 64u;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    var n = (w.x + w.y * grid.x) * THREADS + lane;
    let row_texels = P.batches * P.heads * P.seqlen * 2u * D4;
    if (n < row_texels) {
        let texel_row = n / (2u * D4);
        let column = n % (2u * D4);
        let row = texel_row % P.seqlen;
        let head = texel_row / P.seqlen % P.heads;
        let batch = texel_row / (P.seqlen * P.heads);
        var x: vec4<f32> = vec4<f32>();
        if (column < D4) {
            x = load_qk(P.qk_base + batch * P.qk_batch + head * P.qk_head + row * P.qk_row, column * 4u);
        } else {
            x = load_v(P.v_base + batch * P.v_batch + head * P.v_head + row * P.v_row, (column - D4) * 4u);
        }
        textureStore(kv_texels_of, kv_texel(texel_row) + vec2<i32>(i32(column), 0), x);
        return;
    }
//% if slot.rotations is defined
    n -= row_texels;
    // One row for each head, round and column.
    let texel_row = n / D4;
    let of_head = P.rounds * P.columns;
    if (texel_row < P.heads * of_head) {
        let head = texel_row / of_head;
        var x = vec4<f32>();
        for (var e = 0u; e < 4u; e++) {
            let d = n % D4 * 4u + e;
            if (d < P.head_dim) {
                x[e] = rotations[P.rotations_base + (head * P.head_dim + d) * of_head + texel_row % of_head];
            }
        }
        textureStore(rotation_texels_of, q_texel(texel_row) + vec2<i32>(i32(n % D4), 0), x);
    }
//% endif
}
