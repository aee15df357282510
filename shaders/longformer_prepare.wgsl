// Longformer: which positions are valid, which of them are global, and the globals in order.
//
//     G = { g in global_indices[b] : key_valid[b, g] };   mark = valid + 2·(in G);   list = sort(G)
//
// On the device, so that the host never waits for it. Floor: reads L bytes and g indices, writes
// L/4 bytes; sorting by counting takes g² comparisons, fewer than the g·L·D of the global rows.
//
// Shape of the work: one workgroup to a sequence. Ascending order makes the result independent of
// the order in global_indices.
//% include "shared/longformer_bindings.wgsl"

const THREADS = 256u;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let batch = w.x + w.y * grid.x;
    if (batch >= P.batches) { return; }
    let list = list_at(batch);
    let words = (P.seqlen + POSITIONS_OF_WORD - 1u) / POSITIONS_OF_WORD;
    for (var word = lane; word < words; word += THREADS) {
        var bits = 0u;
        for (var n = 0u; n < POSITIONS_OF_WORD; n++) {
            let position = word * POSITIONS_OF_WORD + n;
            if (position < P.seqlen) {
//% if slot.key_valid is defined
                let i = P.key_valid_base + batch * P.seqlen + position;
                let valid = ((key_valid[i >> 2u] >> (8u * (i & 3u))) & 0xffu) != 0u;
                bits |= select(0u, 1u, valid) << (2u * n);
//% else
                bits |= 1u << (2u * n);
//% endif
            }
        }
        atomicStore(&marks[mark_at(batch, word * POSITIONS_OF_WORD).x], bits);
    }
    if (lane == 0u) { atomicStore(&marks[list], 0u); }
//% if slot.global_indices is defined
    storageBarrier();
    // Mark and count. An index that is out of range or not valid is not global.
    for (var n = lane; n < P.max_globals; n += THREADS) {
        let g = global_indices[P.indices_base + batch * P.max_globals + n];
        if (g >= 0 && u32(g) < P.seqlen) {
            let at = mark_at(batch, u32(g));
            if (((atomicLoad(&marks[at.x]) >> at.y) & 1u) != 0u) {
                let before = (atomicOr(&marks[at.x], 2u << at.y) >> at.y) & 2u;
                if (before == 0u) { atomicAdd(&marks[list], 1u); }
            }
        }
    }
    storageBarrier();
    // The place of a global: how many are smaller.
    for (var n = lane; n < P.max_globals; n += THREADS) {
        let g = global_indices[P.indices_base + batch * P.max_globals + n];
        if (g >= 0 && u32(g) < P.seqlen) {
            let at = mark_at(batch, u32(g));
            if (((atomicLoad(&marks[at.x]) >> at.y) & 3u) == GLOBAL) {
                var place = 0u;
                for (var k = 0u; k < P.max_globals; k++) {
                    let other = global_indices[P.indices_base + batch * P.max_globals + k];
                    if (other >= 0 && other < g) {
                        let other_at = mark_at(batch, u32(other));
                        place += select(0u, 1u, ((atomicLoad(&marks[other_at.x]) >> other_at.y) & 3u) == GLOBAL);
                    }
                }
                atomicStore(&marks[list + 1u + place], u32(g));
            }
        }
    }
//% endif
}
