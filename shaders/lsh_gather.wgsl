// LSH attention on CPU adapters: copies qk and v as f32 to a storage texture, in the order of a round:
// the rows that some of its chunks see. full_pack.wgsl says why; as many chunks are taken at once as
// leave the texture small beside tensors of 16 bits.
//
// Beside a row stands its item: the position, with the highest bit set if it is not valid, and what a
// score with that key is multiplied by.
//
// Floor: bound by bandwidth; moves each element once a round. One invocation copies one row.
//% include "shared/lsh_bindings.wgsl"

const THREADS = ${ threads }u;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let n = (w.x + w.y * grid.x) * THREADS + lane;
    let local = n / P.segment_rows;                   // of (batch, head)
    if (local >= P.batches * P.heads) { return; }
    let row = n % P.segment_rows;
    // Chunk of the ring, the round that it is in, and the place there.
    let first = (P.round - P.ring_round) * P.chunks + P.segment_first + P.ring_shift;
    let chunk = (first + row / P.chunk_len) % P.ring;
    let round = P.ring_round + chunk / P.chunks;
    let place = chunk % P.chunks * P.chunk_len + row % P.chunk_len;
    if (place >= P.seqlen) { return; }
//% if slot.order is defined
    let position = order[(local * P.rounds + round) * P.seqlen + place];
//% else
    let position = place;
//% endif
    let norm = norms[local * P.seqlen + position];
    let bits = position | select(0u, 0x80000000u, norm == NOT_VALID);
    textureStore(item_texels_of, valid_texel(n), vec4<u32>(bits, bitcast<u32>(norm * P.scale), 0u, 0u));
    let head = local % P.heads;
    let batch = local / P.heads;
    let from_qk = P.qk_base + batch * P.qk_batch + head * P.qk_head + position * P.qk_row;
    let from_v = P.v_base + batch * P.v_batch + head * P.v_head + position * P.v_row;
    let to = kv_texel(n);
    // No constant: lavapipe would unroll the loop and compile it for seconds.
    let d4 = max(${ d4 }, i32(P.head_dim) / 4);
    for (var d = 0; d < d4; d++) {
        textureStore(kv_texels_of, to + vec2<i32>(d, 0), load_qk(from_qk, u32(d) * 4u));
        textureStore(kv_texels_of, to + vec2<i32>(d + ${ d4 }, 0), load_v(from_v, u32(d) * 4u));
    }
}
