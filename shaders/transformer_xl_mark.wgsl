// Relative-position attention: the keys' segments, and one bit for each pair that the masks forbid.
//
//     blocked[b, i, j] = perm_mask[b, i, j] or not key_valid[b, j]     without perm_mask for all i at once
//
// Beside the other words, so that the main kernel binds one buffer for all of them (or reads them
// from a texture). Floor: bound by bandwidth. One invocation makes four words.
//% include "shared/transformer_xl_bindings.wgsl"

const THREADS = 64u;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    var n = (w.x + w.y * grid.x) * THREADS + lane;
    var four = vec4<u32>();
//% if segments
    let keys = P.batches * P.seqlen_k;
    if (n < (keys + 3u) / 4u) {
        for (var c = 0u; c < 4u; c++) {
            if (n * 4u + c < keys) { four[c] = seg_k[P.seg_k_base + n * 4u + c]; }
        }
        store_words(P.segments_at + 4u * n, four);
        return;
    }
    n -= (keys + 3u) / 4u;
//% endif
//% if blocked
    let words = (P.seqlen_k + 31u) / 32u;
//%   if perm_mask
    let rows = P.seqlen_q;
//%   else
    let rows = 1u;
//%   endif
    let all = P.batches * rows * words;
    if (n >= (all + 3u) / 4u) { return; }
    for (var c = 0u; c < 4u; c++) {
        let word = n * 4u + c;
        if (word < all) {
//%   if perm_mask
//%     if targets
            let row = word / words;
            let source = row / rows * P.segment_len + target_of(row / rows, row % rows);
            var bits = perm_mask[P.perm_mask_base + source * words + word % words];
//%     else
            var bits = perm_mask[P.perm_mask_base + word];
//%     endif
//%   else
            var bits = 0u;
//%   endif
//%   if key_padding
            for (var bit = 0u; bit < 32u; bit++) {
                let key = word % words * 32u + bit;
                if (key < P.seqlen_k) {
                    let i = P.key_valid_base + word / (words * rows) * P.seqlen_k + key;
                    let valid = ((key_valid[i >> 2u] >> (8u * (i & 3u))) & 0xffu) != 0u;
                    bits |= select(1u, 0u, valid) << bit;
                }
            }
//%   endif
            four[c] = bits;
        }
    }
    store_words(P.blocked_at + 4u * n, four);
//% endif
}
