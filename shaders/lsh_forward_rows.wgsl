// LSH attention, one round, for CPU adapters (lavapipe, SwiftShader), where the invocations of a
// workgroup are the lanes of one vector: full_forward_rows.wgsl over the keys of the chunks seen.
//
//     s = scale · qk_i·qk_j · factor_j;  mask_value if j is not valid or, causal, j > i;  then
//     self_mask_value if j = i;  o, lse: softmax and logsumexp over the chunks that i's chunk sees
//     out_i = (e^(lse_i − m) out_i + e^(lse − m) o) / (e^(lse_i − m) + e^(lse − m)),  m the larger
//
// Rounds are launched one after another, so that no round's result is kept: the first stores out and
// lse, the others merge theirs into it.
//
// Floor: 4·B·H·L·w·D operations for chunks of w keys in all. What binds is the reading of rows, shared
//% if gathered
// by ROWS queries of the chunk. A launch takes a part of the round's chunks, whose rows lsh_gather.wgsl
// has put in order before it.
//% else
// by ROWS queries of the chunk; a row is found through the order, and nothing is copied in that.
//% endif
//
// Bitwise reproducible: every sum has one owner and a fixed order.
//% if f16
enable f16;
//% endif
//% include "shared/lsh_bindings.wgsl"

const LANES = ${ lanes }u;
const ROWS = ${ rows }u;
const D4 = ${ head_dim }u / 4u;
// Of no key.
const MASKED = -2e30;

// What an invocation wrote, it alone reads.
var<workgroup> o: array<vec4<f32>, ${ lanes * rows * d4 }>;

//% include "shared/lsh_rounds.wgsl"

// An item of the order: its position in the lower 31 bits, whether it is not valid, its factor.
fn load_item(n: u32) -> vec2<u32> {
    return textureLoad(item_texels_of, valid_texel(n)).xy;
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let id = w.x + w.y * grid.x;
    if (id >= P.workgroups) { return; }
    let chunk = P.segment_first + id / P.blocks % P.segment_len;
    let local = id / (P.blocks * P.segment_len);      // of (batch, head)
    let head = local % P.heads;
    let batch = local / P.heads;
    let q0 = places_of(chunk).x + id % P.blocks * LANES * ROWS;
    let q_end = min(q0 + LANES * ROWS, places_of(chunk).y);
    if (q0 >= q_end) { return; }
    let first_row = local * P.seqlen;                 // of all positions
//% if gathered
    // Row of the textures at which what this chunk sees begins, and that of the round's first place.
    let first_seen = local * P.segment_rows + (chunk - P.segment_first) * P.chunk_len;
    let items_q = first_seen + ((P.ring - P.ring_shift) % P.ring) * P.chunk_len - places_of(chunk).x;
//% else
    let first_item = first_row * P.rounds;
    let items_q = first_item + P.round * P.seqlen;
//% endif

//% for r in range(rows)
    let place${ r } = q0 + lane + ${ r * lanes }u;
    let position${ r } = load_item(items_q + min(place${ r }, q_end - 1u)).x & 0x7fffffffu;
    // Keys above it are masked; one that is not valid is above all.
    let sees${ r } = select(0x7fffffffu, position${ r }, P.causal != 0u);
    let at${ r } = kv_texel(<% if gathered %>items_q + min(place${ r }, q_end - 1u)<% else %>first_row + position${ r }<% endif %>);
    // A row meets itself, so that no maximum is lower; and no masked key counts before that.
    var m${ r } = P.self_mask;
    var l${ r } = 0.0;
//%   for d in range(d4)
    let q${ r }_${ d } = textureLoad(kv_texels_of, at${ r } + vec2<i32>(${ d }, 0));
    var o${ r }_${ d } = vec4<f32>();
//%   endfor
//% endfor

    for (var n = 0u; n < P.seen; n++) {
        let of_round = chunk_seen(chunk, n);
//% if gathered
        let keys_begin = first_seen + n % P.ring * P.chunk_len;
        let keys_end = keys_begin + places_of(of_round.y).y - places_of(of_round.y).x;
//% else
        let keys_begin = first_item + of_round.x * P.seqlen + places_of(of_round.y).x;
        let keys_end = first_item + of_round.x * P.seqlen + places_of(of_round.y).y;
//% endif
        for (var key = keys_begin; key < keys_end; key += ${ keys }u) {
        // ---- S = Q Kᵀ
//% for j in range(keys)
        let item${ j } = load_item(<% if j > 0 %>min(key + ${ j }u, keys_end - 1u)<% else %>key<% endif %>);
        let at_key${ j } = item${ j }.x & 0x7fffffffu;
        let factor${ j } = bitcast<f32>(item${ j }.y);
        let kv${ j } = kv_texel(<% if gathered %><% if j > 0 %>min(key + ${ j }u, keys_end - 1u)<% else %>key<% endif %><% else %>first_row + at_key${ j }<% endif %>);
//%   for r in range(rows)
        var s${ r }_${ j } = 0.0;
//%   endfor
//% endfor
//% include "shared/rows_scores.wgsl"
        // ---- masks, online softmax
//% for j in range(keys)
//%   for r in range(rows)
        s${ r }_${ j } = select(s${ r }_${ j } * factor${ j }, P.mask, item${ j }.x > sees${ r });
        s${ r }_${ j } = select(s${ r }_${ j }, P.self_mask, at_key${ j } == position${ r });
//%     if duplicates_once
        let share${ r }_${ j } = share_of(local, position${ r }, at_key${ j });
//%     endif
//%     if j > 0
        s${ r }_${ j } = select(MASKED, s${ r }_${ j }, key + ${ j }u < keys_end);
//%     endif
//%   endfor
//% endfor
//% if duplicates_once
//%   set shares = true
//% endif
//% set adds_nothing = "p == 0"
//% include "shared/rows_update.wgsl"
        }
    }

    // ---- O / l and lse of this round, merged with those before it
    let at_lse = P.lse_base + first_row;
    let out_of = P.out_base + batch * P.out_batch + head * P.out_head;
//% for r in range(rows)
    let own${ r } = lse_of(m${ r }, l${ r });
    let merged${ r } = merge_rounds(bitcast<f32>(lse[at_lse + position${ r }]), own${ r });
    let scale${ r } = merged${ r }.z / l${ r };
//%   for d in range(d4)
    o[lane * ROWS * D4 + ${ r * d4 + d }u] = weighted(scale${ r }, o${ r }_${ d });
//%   endfor
    if (place${ r } < q_end) {
        lse[at_lse + position${ r }] = bitcast<u32>(merged${ r }.x);
//%   if slot.lse_rounds is defined
        lse_rounds[P.lse_rounds_base + (first_row * P.rounds + P.round * P.seqlen) + position${ r }] = bitcast<u32>(own${ r });
//%   endif
    }
//% endfor
    // The long list of stores through workgroup memory: two loops, of which one has nothing to do,
    // since both sides of a branch would run.
    let alone = select(0u, ROWS * D4, P.round == 0u);
    for (var i = 0u; i < alone; i++) {
        let r = i / D4;
        let position = <% for r in range(rows - 1) %>select(<% endfor %>position0<% for r in range(1, rows) %>, position${ r }, r == ${ r }u)<% endfor %>;
        let at = out_of + position * P.out_row;
        if (q0 + lane + r * LANES < q_end) { store_out(at, i % D4 * 4u, o[lane * ROWS * D4 + i]); }
    }
    for (var i = alone; i < ROWS * D4; i++) {
        let r = i / D4;
        let position = <% for r in range(rows - 1) %>select(<% endfor %>position0<% for r in range(1, rows) %>, position${ r }, r == ${ r }u)<% endfor %>;
        let weight = <% for r in range(rows - 1) %>select(<% endfor %>merged0.y<% for r in range(1, rows) %>, merged${ r }.y, r == ${ r }u)<% endfor %>;
        let at = out_of + position * P.out_row;
        if (q0 + lane + r * LANES < q_end) {
            let before = weighted(weight, load_out(at, i % D4 * 4u));
            store_out(at, i % D4 * 4u, o[lane * ROWS * D4 + i] + before);
        }
    }
}
