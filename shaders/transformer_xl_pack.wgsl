// Relative-position attention on CPU adapters: copies k and v to a storage texture as f32, those of
// the memory first, as full_pack.wgsl does and for its reason.
//
// Floor: bound by bandwidth; moves each element once. One invocation copies one texel.
//% if f16
enable f16;
//% endif
//% include "shared/transformer_xl_bindings.wgsl"

const D4 = ${ head_dim }u / 4u;
const THREADS = 64u;

//% include "shared/transformer_xl_sequence.wgsl"

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let n = (w.x + w.y * grid.x) * THREADS + lane;
    let heads_kv = P.heads / P.group;
    if (n >= P.batches * heads_kv * P.seqlen_k * 2u * D4) { return; }
    let texel_row = n / (2u * D4);
    let column = n % (2u * D4);
    let key = i32(texel_row % P.seqlen_k);
    let s = sequence_of(texel_row / (P.seqlen_k * heads_kv), texel_row / P.seqlen_k % heads_kv * P.group);
    var x = vec4<f32>();
    if (column < D4) {
        x = load_key(s, key, column * 4u);
    } else {
        x = load_value(s, key, (column - D4) * 4u);
    }
    textureStore(kv_texels_of, kv_texel(texel_row) + vec2<i32>(i32(column), 0), x);
}
