// Full attention, forward, for GPUs: register tiles over workgroup memory.
//
// One pass over the keys with an online softmax (FlashAttention-2, algorithm 1):
//     S = Q Kᵀ · scale;  m' = max(m, rowmax S);  P = 2^(S − m');  α = 2^(m − m')
//     l = α l + rowsum P;  O = α O + P V;  at the end  out = O / l,  lse = (m + log2 l) ln 2
// S and m are held in units of log2, so that exp2 is the only transcendental.
//
// Floor: 4·B·H·Lq·Lk·D operations (half if causal) over 2·B·(H·Lq + H_kv·Lk)·D elements: bound by
// arithmetic from a few hundred keys on; each key row is staged once for BLOCK_M queries.
//
// Shape of the work: a workgroup owns BLOCK_M query rows of one head, as TR × TC invocations. An
// invocation owns MR = BLOCK_M / TR rows; of S four neighbouring keys of each (BLOCK_N = 4 TC), of O
// the vec4 columns tc, tc + TC, …  The head dimension passes through workgroup memory DC elements
// at a time, so its size does not grow with D.
//
// Bitwise reproducible: every sum has one owner and a fixed order.
//% set first_tile = "kt == k_begin / BLOCK_N * BLOCK_N"
//% set q_row = "min(q0 + i32(n / DC4), q_last)"
//% set k_row = "min(i32(kt + r), s.seqlen_k - 1)"
//% set v_row = "min(i32(kt + r0 + n / D4), s.seqlen_k - 1)"
//% set stored = "row <= q_last"
//% set out_row = "row"
//% set partial_row = "split * P.partial_rows + id / (P.blocks * P.splits) * P.seqlen_q + u32(row)"
//% if f16
enable f16;
//% endif
//% include "shared/full_bindings.wgsl"

//% include "shared/tile_memory.wgsl"

//% include "shared/full_sequence.wgsl"

//% include "shared/tile_reduce.wgsl"
//% if buckets
//%   include "shared/full_buckets.wgsl"
//% endif

@compute @workgroup_size(TR * TC)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    // The grid is folded into two dimensions; its surplus has nothing to do.
    let id = w.x + w.y * grid.x;
    if (id >= P.workgroups) { return; }
    let block = id % P.blocks;
    let split = (id / P.blocks) % P.splits;
    let head = P.first_head + (id / (P.blocks * P.splits)) % P.heads;
    let batch = P.first_batch + id / (P.blocks * P.splits * P.heads);
//% if buckets
    fill_buckets(lane, TR * TC, head);
//% endif
    let s = sequence_of(batch, head);
    let q0 = i32(block * BLOCK_M);
    if (q0 >= s.seqlen_q) { return; }

    let tc = lane % TC;
    let tr = lane / TC;
    let offset = s.seqlen_k - s.seqlen_q;     // query i stands at position i + offset
    let q_last = min(q0 + i32(BLOCK_M), s.seqlen_q) - 1;
    let see_first = visible(q0 + offset, s.seqlen_k);
    let see_last = visible(q_last + offset, s.seqlen_k);
    // Keys that any row of the block sees, and those that all of them see.
    var k_begin = u32(see_first.x);
    var k_end = u32(see_last.y);
    let all_from = see_last.x;
    let all_to = see_first.y;
//% if split
    k_begin = max(k_begin, split * P.split_len);
    k_end = min(k_end, (split + 1u) * P.split_len);
//% endif

    if (lane == 0u) { atomicStore(&not_finite, 0u); }
    var acc = array<array<vec4<f32>, OC>, MR>();
    var m = array<f32, MR>();
    var l = array<f32, MR>();                 // this invocation's share of the row sum
    for (var i = 0u; i < MR; i++) { m[i] = NEG; }
//% if alibi
    let slope = alibi_slopes[P.alibi_base + head] * LOG2E;
//% endif

    for (var kt = k_begin / BLOCK_N * BLOCK_N; kt < k_end; kt += BLOCK_N) {
//% include "shared/tile_scores.wgsl"

        // ---- scale, modify, mask
        let j = i32(kt + tc * 4u);
        let keys = vec4<i32>(j, j + 1, j + 2, j + 3);
        let edge = i32(kt) < all_from || i32(kt + BLOCK_N) > all_to<% if always_edge %> || true<% endif %>;
//% if split
        let last_key = i32(k_end);
//% endif
        for (var i = 0u; i < MR; i++) {
            let row = q0 + i32(tr * MR + i);
            let position = row + offset;
            var x = score[i] * P.scale;
//% if softcap
            x = tanh4(x) * P.softcap;
//% endif
//% if alibi
            x -= slope * vec4<f32>(abs(vec4<i32>(position) - keys));
//% endif
//% if buckets
            let past = position - j;
            x += vec4<f32>(bias_of[bucket(past)], bias_of[bucket(past - 1)], bias_of[bucket(past - 2)], bias_of[bucket(past - 3)]);
//% endif
//% if bias
            if (row <= q_last) {
                let at = P.bias_base + batch * P.bias_batch + head * P.bias_head + u32(row) * P.seqlen_k;
                let top = s.seqlen_k - 1;
                x += LOG2E * vec4<f32>(
                    bias[at + u32(min(j, top))], bias[at + u32(min(j + 1, top))],
                    bias[at + u32(min(j + 2, top))], bias[at + u32(min(j + 3, top))]);
            }
//% endif
            if (edge) {
                let see = visible(position, s.seqlen_k);
                var ok = (keys >= vec4<i32>(see.x)) & (keys < vec4<i32>(see.y));
//% if split
                ok = ok & (keys < vec4<i32>(last_key));
//% endif
//% if key_padding
                let top = s.seqlen_k - 1;
                ok = ok & vec4<bool>(
                    key_is_valid(batch, u32(min(j, top))), key_is_valid(batch, u32(min(j + 1, top))),
                    key_is_valid(batch, u32(min(j + 2, top))), key_is_valid(batch, u32(min(j + 3, top))));
//% endif
                x = select(vec4<f32>(NEG), x, ok);
            }
            score[i] = x;
        }

//% include "shared/tile_softmax.wgsl"

//% include "shared/tile_values.wgsl"
    }

//% include "shared/tile_store.wgsl"
}
