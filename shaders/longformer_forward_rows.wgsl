// Longformer's attention, forward, for CPU adapters (lavapipe, SwiftShader), where the invocations
// of a workgroup are the lanes of one vector: full_forward_rows.wgsl with other keys.
//
//% if global_rows
// The rows of the global positions, which see every valid key:
//     i ∈ G:  out_i = softmax_j(scale · q_global_i·k_global_j) v_global_j,  j valid (causal: j ≤ i)
// The keys are split over workgroups; longformer_combine.wgsl merges the parts and scatters the rows.
//% else
// The rows of all positions (longformer_combine.wgsl replaces those of globals), one joint softmax
// over the band and the global keys:
//     i ∉ G:  out_i = softmax_j(scale · q_i·k_j) v_j,  j ∈ { i + t·δ : −left ≤ t ≤ right } ∪ G, valid
// Keys in G are taken out of the band, so that each counts once. A workgroup takes rows of one
// residue class modulo the dilation δ, in which the band is a plain window of numbers.
//% endif
//
// A key has a coordinate, its number in the class or its position, and −1 if it is masked for every
// row; a row sees a range of coordinates. One loop takes the band's keys and then the global ones,
// since a second copy of its body would double what the driver compiles.
//
// Floor: 4·B·H·L·(w + g)·D operations for w keys of the band and g globals (global rows: 4·B·H·g·L·D).
// What binds is the reading of K and V, shared by ROWS rows. q is read once, so where it lies: a copy
// in a texture would cost more than it saves.
//
// Bitwise reproducible: every sum has one owner and a fixed order.
//% if f16
enable f16;
//% endif
//% include "shared/longformer_bindings.wgsl"

const LANES = ${ lanes }u;
const ROWS = ${ rows }u;
const D4 = ${ head_dim }u / 4u;
const HEAD_DIM = ${ head_dim }u;
// Below NEG, where a row's maximum starts.
const MASKED = -2e30;

//% set looped = global_rows or not vec4
//% if looped
// q and then O, whose loads and stores are a short loop instead of a long list. What an invocation
// wrote, it alone reads.
var<workgroup> o: array<vec4<f32>, ${ lanes * rows * d4 }>;

//% endif
//% include "shared/longformer_sequence.wgsl"

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let id = w.x + w.y * grid.x;
    if (id >= P.workgroups) { return; }
    let block = id % P.blocks;
    let local = P.first_local + id / (P.blocks * P.splits);   // of (batch, head)
    let head = local % P.heads;
    let batch = local / P.heads;
    let s = sequence_of(batch, head);
    // Row of the texture at which this sequence and head begin.
    let first_texel = (local - P.first_local) * P.seqlen;
//% if global_rows
    let split = (id / P.blocks) % P.splits;
    let rows = i32(load_texel(list_texel(batch, 0u)));
    let q0 = i32(block * LANES * ROWS);
    if (q0 >= rows) { return; }
    let q_last = min(q0 + i32(LANES * ROWS), rows) - 1;
    let band_begin = i32(split * P.split_len);
    let band_end = min(min(i32(P.seqlen), i32((split + 1u) * P.split_len)), sees(position_of(batch, q_last)));
    let keys_end = band_end;
//% else
    let gap = dilation_of(head);
    // Blocks of one residue class; the classes lie one after the other.
    let of_class = (u32(class_len(0, gap)) + LANES * ROWS - 1u) / (LANES * ROWS);
    let origin = i32(block / of_class);
    if (origin >= gap) { return; }
    let rows = class_len(origin, gap);
    let q0 = i32(block % of_class * LANES * ROWS);
    if (q0 >= rows) { return; }
    let q_last = min(q0 + i32(LANES * ROWS), rows) - 1;
    let band_begin = band(q0, rows).x;
    let band_end = band(q_last, rows).y;
//%   if globals
    // Behind the band's keys, the global ones.
    let keys_end = band_end + i32(load_texel(list_texel(batch, 0u)));
//%   else
    let keys_end = band_end;
//%   endif
//% endif

//% if looped
    for (var i = 0u; i < ROWS * D4; i++) {
        let row = min(q0 + i32(lane + i / D4 * LANES), q_last);
        let position = <% if global_rows %>position_of(batch, row)<% else %>origin + row * gap<% endif %>;
        o[lane * ROWS * D4 + i] = load_q(s.q + u32(position) * P.q_row, i % D4 * 4u) * P.scale;
    }
//% endif
//% for r in range(rows)
    let row${ r } = q0 + i32(lane) + ${ r * lanes };
//%   if global_rows
    let position${ r } = position_of(batch, min(row${ r }, q_last));
    // What the row sees: of the band x to y - 1, of the global keys those below z.
    let see${ r } = vec3<i32>(0, sees(position${ r }), 0);
//%   else
    let position${ r } = origin + min(row${ r }, q_last) * gap;
//%     if marked
    let mark${ r } = load_texel(mark_texel(batch, u32(position${ r })));
    let see${ r } = vec3<i32>(band(min(row${ r }, q_last), rows), sees(position${ r })) * select(1, 0, mark${ r } == 0u);
//%     else
    let see${ r } = vec3<i32>(band(min(row${ r }, q_last), rows), sees(position${ r }));
//%     endif
//%   endif
//%   if not looped
    let at${ r } = s.q + u32(position${ r }) * P.q_row;
//%   endif
    var m${ r } = NEG;
    var l${ r } = 0.0;
//%   for d in range(d4)
//%     if looped
    let q${ r }_${ d } = o[lane * ROWS * D4 + ${ r * d4 + d }u];
//%     else
    let q${ r }_${ d } = load_q(at${ r }, ${ d * 4 }u) * P.scale;
//%     endif
    var o${ r }_${ d } = vec4<f32>();
//%   endfor
//% endfor

    for (var key = band_begin; key < keys_end; key += ${ keys }) {
        // ---- S = Q Kᵀ
//% for j in range(keys)
        let c${ j } = <% if j > 0 %>min(key + ${ j }, keys_end - 1)<% else %>key<% endif %>;
//%   if global_rows
        let at_key${ j } = c${ j };
        let seen${ j } = select(-1, c${ j }, key + ${ j } < keys_end<% if key_padding %> && load_texel(mark_texel(batch, u32(c${ j }))) != 0u<% endif %>);
//%   elif globals
        let in_band${ j } = c${ j } < band_end;
        let number${ j } = origin + min(c${ j }, band_end - 1) * gap;
        let texel${ j } = load_texel(select(list_texel(batch, u32(max(c${ j } - band_end, 0)) + 1u), mark_texel(batch, u32(number${ j })), in_band${ j }));
        let at_key${ j } = select(i32(texel${ j }), number${ j }, in_band${ j });
        let plain${ j } = !in_band${ j } || texel${ j } == LOCAL;
        let seen${ j } = select(-1, select(at_key${ j }, c${ j }, in_band${ j }), key + ${ j } < keys_end && plain${ j });
//%   else
        let at_key${ j } = origin + c${ j } * gap;
        let seen${ j } = select(-1, c${ j }, key + ${ j } < keys_end<% if key_padding %> && load_texel(mark_texel(batch, u32(at_key${ j }))) != 0u<% endif %>);
//%   endif
        let kv${ j } = kv_texel(first_texel + u32(at_key${ j }));
//%   for r in range(rows)
        var s${ r }_${ j } = 0.0;
//%   endfor
//% endfor
//% include "shared/rows_scores.wgsl"
        // ---- mask, online softmax
//% for j in range(keys)
//%   for r in range(rows)
//%     if globals and not global_rows
        let range${ r }_${ j } = select(vec2<i32>(0, see${ r }.z), see${ r }.xy, in_band${ j });
        s${ r }_${ j } = select(MASKED, s${ r }_${ j }, seen${ j } >= range${ r }_${ j }.x && seen${ j } < range${ r }_${ j }.y);
//%     else
        s${ r }_${ j } = select(MASKED, s${ r }_${ j }, seen${ j } >= see${ r }.x && seen${ j } < see${ r }.y);
//%     endif
//%   endfor
//% endfor
//% include "shared/rows_update.wgsl"
    }

//% if global_rows
    // ---- O, m and l of this part, the long list of stores through workgroup memory
    let parts = P.batches * P.heads * P.max_globals;
//% for r in range(rows)
//%   for d in range(d4)
    o[lane * ROWS * D4 + ${ r * d4 + d }u] = o${ r }_${ d };
//%   endfor
    if (row${ r } <= q_last) {
        let at = (split * parts + local * P.max_globals + u32(row${ r })) * (HEAD_DIM + 2u) + HEAD_DIM;
        partial[at] = m${ r };
        partial[at + 1u] = l${ r };
    }
//% endfor
    for (var i = 0u; i < ROWS * D4; i++) {
        let x = o[lane * ROWS * D4 + i];
        let row = q0 + i32(lane + i / D4 * LANES);
        if (row <= q_last) {
            let at = (split * parts + local * P.max_globals + u32(row)) * (HEAD_DIM + 2u) + i % D4 * 4u;
            partial[at] = x.x;
            partial[at + 1u] = x.y;
            partial[at + 2u] = x.z;
            partial[at + 3u] = x.w;
        }
    }
//% else
//%   set place_of_row = "u32(origin + row * gap)"
//%   include "shared/rows_store.wgsl"
//% endif
}
