// Relative-position attention, forward, for GPUs: register tiles over workgroup memory.
//
//     s = qu·k_j + (qu + w)·r_δ,   δ = i + seqlen_k − seqlen_q − j
// of the rows qu and the vector w of the head that transformer_xl_prepare.wgsl made. Online softmax
// and shape of the work are those of full_forward_tile.wgsl.
//
// Floor: 6·B·H·Lq·Lk·D operations (half if causal), a third more than plain attention's twofold.
//
//% if targets
// Queries stand at positions of their own: each pair's row of the table is read where it lies, of
// which the four of an invocation's keys are neighbours. Rows that stand near each other read much the
// same ones, so that targets in order find them in the caches.
//% else
// A tile's rows and keys meet BLOCK_M + BLOCK_N − 1 distances, a band of neighbouring rows of the
// table, staged beside Q and K. Of them an invocation needs MR + 3 for its MR rows and four keys, so
// that the second product takes as many operations as the first: the band's products with all rows
// are not computed, nor is there anything to shear.
//% endif
//
// Bitwise reproducible: every sum has one owner and a fixed order.
//% set positions = true
//% set first_tile = "kt == k_begin / BLOCK_N * BLOCK_N"
//% set q_row = "min(q0 + i32(n / DC4), q_last)"
//% set k_row = "min(i32(kt + r), i32(P.seqlen_k) - 1)"
//% set v_row = "min(i32(kt + r0 + n / D4), i32(P.seqlen_k) - 1)"
//% set table_row = "row_of(q0 + offset - i32(kt + BLOCK_N) + 1 + i32(r))"
//% set stored = "row <= q_last"
//% set out_row = "row"
//% set partial_row = "split * P.partial_rows + (batch * P.heads + head) * P.seqlen_q + u32(row)"
//% if f16
enable f16;
//% endif
//% include "shared/transformer_xl_bindings.wgsl"

//% include "shared/tile_memory.wgsl"
//% if targets
var<workgroup> outermost: vec2<i32>;  // the least and the largest position of the block
//% else
const BAND = BLOCK_M + BLOCK_N;     // distances of a tile, and one place more
//% endif

//% include "shared/transformer_xl_sequence.wgsl"

//% include "shared/tile_reduce.wgsl"

//% if not targets
// Where a row of the band lies, so that neighbours tc read neighbouring rows.
fn band_slot(r: u32) -> u32 {
    return BLOCK_M + BLOCK_N + (r % 4u) * (BAND / 4u) + r / 4u;
}
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
    let head = (id / (P.blocks * P.splits)) % P.heads;
    let batch = id / (P.blocks * P.splits * P.heads);
    let s = sequence_of(batch, head);
    let q0 = i32(block * BLOCK_M);
    if (q0 >= i32(P.seqlen_q)) { return; }

    let tc = lane % TC;
    let tr = lane / TC;
    let q_last = min(q0 + i32(BLOCK_M), i32(P.seqlen_q)) - 1;
//% if targets
    let q_first = (batch * P.heads + head) * P.seqlen_q;
    if (lane == 0u) {
        var ends = vec2<i32>(position_of(q_first + u32(q0)));
        for (var row = q0 + 1; row <= q_last; row++) {
            let position = position_of(q_first + u32(row));
            ends = vec2<i32>(min(ends.x, position), max(ends.y, position));
        }
        outermost = ends;
    }
    let ends = workgroupUniformLoad(&outermost);
    let see_first = visible(ends.x);
    let see_last = visible(ends.y);
    var place = array<i32, MR>();
    for (var i = 0u; i < MR; i++) {
        place[i] = position_of(q_first + u32(min(q0 + i32(tr * MR + i), q_last)));
    }
//% else
    let offset = i32(P.seqlen_k) - i32(P.seqlen_q);   // query i stands at position i + offset
    let see_first = visible(q0 + offset);
    let see_last = visible(q_last + offset);
//% endif
    // Keys that any row of the block sees, and those that all of them see.
    var k_begin = u32(see_first.x);
    var k_end = u32(see_last.y);
    let all_from = see_last.x;
    let all_to = see_first.y;
//% if split
    k_begin = max(k_begin, split * P.split_len);
    k_end = min(k_end, (split + 1u) * P.split_len);
//% endif
//% if not targets
    // Of the band: the invocation's first row and its last key.
    let nearest = tr * MR + BLOCK_N - 4u - tc * 4u;
//% endif

    if (lane == 0u) { atomicStore(&not_finite, 0u); }
    var acc = array<array<vec4<f32>, OC>, MR>();
    var m = array<f32, MR>();
    var l = array<f32, MR>();                 // this invocation's share of the row sum
    for (var i = 0u; i < MR; i++) { m[i] = NEG; }

    for (var kt = k_begin / BLOCK_N * BLOCK_N; kt < k_end; kt += BLOCK_N) {
//% include "shared/tile_scores.wgsl"

        // ---- segments, mask
        let j = i32(kt + tc * 4u);
        let keys = vec4<i32>(j, j + 1, j + 2, j + 3);
        let edge = i32(kt) < all_from || i32(kt + BLOCK_N) > all_to<% if blocked %> || true<% endif %>;
//% if segments
        let top = i32(P.seqlen_k) - 1;
        let at_segments = P.segments_at + batch * P.seqlen_k;
        let segment = vec4<u32>(
            load_word(at_segments + u32(min(j, top))), load_word(at_segments + u32(min(j + 1, top))),
            load_word(at_segments + u32(min(j + 2, top))), load_word(at_segments + u32(min(j + 3, top))));
//% endif
        for (var i = 0u; i < MR; i++) {
            let row = q0 + i32(tr * MR + i);
            let position = <% if targets %>place[i]<% else %>row + offset<% endif %>;
            var x = score[i];
//% if segments or blocked
            let local_row = u32(min(row, q_last));
//% endif
//% if segments
            let record = workspace[P.records_at / 4u + (batch * P.heads + head) * P.seqlen_q + local_row];
            let terms = bitcast<vec2<f32>>(record.xy);
            x += select(vec4<f32>(terms.y), vec4<f32>(terms.x), segment == vec4<u32>(record.z));
//% endif
            if (edge) {
                let see = visible(position);
                var ok = (keys >= vec4<i32>(see.x)) & (keys < vec4<i32>(see.y));
//% if blocked
                // Four neighbours from a multiple of four lie in one word.
                let word = load_word(blocked_at(batch, local_row, min(u32(j), P.seqlen_k - 1u)));
                let bits = vec4<u32>(word) >> (vec4<u32>(u32(j) % 32u) + vec4<u32>(0u, 1u, 2u, 3u));
                var open = (bits & vec4<u32>(1u)) == vec4<u32>();
//%   if own_position
                open = open | (keys == vec4<i32>(position));
//%   endif
                ok = ok & open;
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
