// Longformer's attention, forward, for GPUs: register tiles over workgroup memory.
//
//% if global_rows
// The rows of the global positions, which see every valid key:
//     i ∈ G:  out_i = softmax_j(scale · q_global_i·k_global_j) v_global_j,  j valid (causal: j ≤ i)
//
// Floor: 4·B·H·g·L·D operations. Few rows over many keys: the keys are split over workgroups, and
// longformer_combine.wgsl merges the parts and scatters the rows.
//% else
// The rows of all positions, those of global ones to be replaced; one joint softmax over the band and the global keys:
//     i ∉ G:  out_i = softmax_j(scale · q_i·k_j) v_j,  j ∈ { i + t·δ : −left ≤ t ≤ right } ∪ G, valid
// Keys in G are taken out of the band, so that each counts once.
//
// Floor: 4·B·H·L·(w + g)·D operations for w keys of the band and g globals; no key outside them is
// visited but for the rounding to tiles.
//
// With a dilation δ the positions of one residue class ρ modulo δ see only each other: in the class,
// position ρ + c·δ is number c, and the band is a plain window of numbers. A workgroup takes
// BLOCK_M rows of one class.
//% endif
//
// Online softmax and shape of the work are those of full_forward_tile.wgsl. A key has a coordinate,
// its number in the class or its position, and −1 if it is masked for every row; a row sees a range
// of coordinates.
//
// Bitwise reproducible: every sum has one owner and a fixed order.
//% set first_tile = "t == 0u"
//% if global_rows
//%   set k_row = "max(kid[r / 4u][r % 4u], 0)"
//%   set v_row = "max(kid[(r0 + n / D4) / 4u][(r0 + n / D4) % 4u], 0)"
//%   set q_row = "position_of(batch, min(q0 + i32(n / DC4), q_last))"
//%   set out_row = "0"
//% elif marked
//%   set k_row = "key_origin + max(kid[r / 4u][r % 4u], 0) * key_gap"
//%   set v_row = "key_origin + max(kid[(r0 + n / D4) / 4u][(r0 + n / D4) % 4u], 0) * key_gap"
//% else
//%   set k_row = "origin + min(i32(kt + r), rows - 1) * gap"
//%   set v_row = "origin + min(i32(kt + r0 + n / D4), rows - 1) * gap"
//% endif
//% set stored = "row <= q_last"
//% if not global_rows
//%   set q_row = "origin + min(q0 + i32(n / DC4), q_last) * gap"
//%   set out_row = "origin + row * gap"
//% endif
//% set partial_row = "split * P.batches * P.heads * P.max_globals + (batch * P.heads + head) * P.max_globals + u32(row)"
//% if f16
enable f16;
//% endif
//% include "shared/longformer_bindings.wgsl"

//% include "shared/tile_memory.wgsl"
//% if marked
var<workgroup> kid: array<vec4<i32>, BLOCK_N / 4u>;  // the tile's keys: coordinates, or −1
//% endif
//% if global_rows
var<workgroup> block_of: vec2<u32>;                  // number of globals, the last of the block
//% endif

//% include "shared/longformer_sequence.wgsl"

//% include "shared/tile_reduce.wgsl"

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
    let tc = lane % TC;
    let tr = lane / TC;

//% if global_rows
    // Through workgroup memory, since what comes out of a buffer that is written is not uniform.
    if (lane == 0u) {
        let found = marks[list_at(batch)];
        let last = max(min((block + 1u) * BLOCK_M, found), 1u) - 1u;
        block_of = vec2<u32>(found, marks[list_at(batch) + 1u + last]);
    }
    let uniform_of = workgroupUniformLoad(&block_of);
    let rows = i32(uniform_of.x);
    let q0 = i32(block * BLOCK_M);
    if (q0 >= rows) { return; }
    let q_last = min(q0 + i32(BLOCK_M), rows) - 1;
    let k_begin = split * P.split_len;
    let k_end = min(min(P.seqlen, (split + 1u) * P.split_len), u32(sees(i32(uniform_of.y))));
    let band_tiles = select(0u, (k_end - k_begin + BLOCK_N - 1u) / BLOCK_N, k_end > k_begin);
    let first = k_begin / BLOCK_N;
    let tiles = band_tiles;
//% else
    let gap = dilation_of(head);
    // Blocks of one residue class; the classes lie one after the other.
    let of_class = (u32(class_len(0, gap)) + BLOCK_M - 1u) / BLOCK_M;
    let origin = i32(block / of_class);
    if (origin >= gap) { return; }
    let rows = class_len(origin, gap);
    let q0 = i32(block % of_class * BLOCK_M);
    if (q0 >= rows) { return; }
    let q_last = min(q0 + i32(BLOCK_M), rows) - 1;
    let see_first = band(q0, rows);
    let see_last = band(q_last, rows);
    // Numbers that any row of the block sees, and those that all of them see.
    let k_end = u32(see_last.y);
    let all_from = see_last.x;
    let all_to = see_first.y;
    let first = u32(see_first.x) / BLOCK_N;
    let band_tiles = (k_end + BLOCK_N - 1u) / BLOCK_N - first;
//%   if globals
    let globals = marks[list_at(batch)];
    let tiles = band_tiles + (globals + BLOCK_N - 1u) / BLOCK_N;
//%   else
    let tiles = band_tiles;
//%   endif
//% endif

    if (lane == 0u) { atomicStore(&not_finite, 0u); }
    var acc = array<array<vec4<f32>, OC>, MR>();
    var m = array<f32, MR>();
    var l = array<f32, MR>();                 // this invocation's share of the row sum
    // What each row sees: from x to y - 1 of the band, below z of the global keys.
    var see = array<vec3<i32>, MR>();
    for (var i = 0u; i < MR; i++) {
        m[i] = NEG;
        let row = min(q0 + i32(tr * MR + i), q_last);
//% if global_rows
        see[i] = vec3<i32>(0, sees(position_of(batch, row)), 0);
//% else
        let position = origin + row * gap;
        see[i] = vec3<i32>(band(row, rows), sees(position));
//%   if marked
        if (mark_of(batch, u32(position)) == 0u) { see[i] = vec3<i32>(); }
//%   endif
//% endif
    }

    for (var t = 0u; t < tiles; t++) {
        let in_band = t < band_tiles;
        let kt = select(t - band_tiles, first + t, in_band) * BLOCK_N;
//% if marked and not global_rows
        let key_origin = select(0, origin, in_band);
        let key_gap = select(1, gap, in_band);
//% endif
//% if marked
        // The reads of the tile before are behind the barrier after its last rows of V.
        if (lane < BLOCK_N / 4u) {
            var four = vec4<i32>();
            for (var n = 0u; n < 4u; n++) {
                let c = kt + lane * 4u + n;
                var key = -1;
//%   if global_rows
                if (c < k_end && (mark_of(batch, c) & 1u) != 0u) { key = i32(c); }
//%   else
                if (in_band) {
                    if (c < k_end && mark_of(batch, u32(origin + i32(c) * gap)) == LOCAL) { key = i32(c); }
                }
//%     if globals
                else if (c < globals) { key = i32(marks[list_at(batch) + 1u + c]); }
//%     endif
//%   endif
                four[n] = key;
            }
            kid[lane] = four;
        }
//% endif
//% include "shared/tile_scores.wgsl"

        // ---- scale, mask
//% if marked
        let keys = kid[tc];
        let edge = true;
//% else
        let keys = vec4<i32>(i32(kt + tc * 4u)) + vec4<i32>(0, 1, 2, 3);
        let edge = i32(kt) < all_from || i32(kt + BLOCK_N) > all_to;
//% endif
        for (var i = 0u; i < MR; i++) {
            var x = score[i] * P.scale;
            if (edge) {
                let range = select(vec2<i32>(0, see[i].z), see[i].xy, in_band);
                x = select(vec4<f32>(NEG), x, (keys >= vec4<i32>(range.x)) & (keys < vec4<i32>(range.y)));
            }
            score[i] = x;
        }

//% include "shared/tile_softmax.wgsl"

//% include "shared/tile_values.wgsl"
    }

//% include "shared/tile_store.wgsl"
}
