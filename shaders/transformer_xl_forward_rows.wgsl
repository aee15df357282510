// Relative-position attention, forward, for CPU adapters (lavapipe, SwiftShader), where the
// invocations of a workgroup are the lanes of one vector: full_forward_rows.wgsl with another score,
//     s = qu·(k_j + r_δ) + w·r_δ,   δ = i + seqlen_k − seqlen_q − j
// of what transformer_xl_prepare.wgsl made.
//
// Floor: 5·B·H·Lq·Lk·D operations, as r is added to k before the one product (half if causal). What
// binds is the reading of K, V and r, shared by ROWS rows: an invocation's rows are neighbours, so
// that the row of the table that one of them meets at a key, the next meets one key later. A step of
// KEYS keys therefore reads KEYS rows of the table, and the others move up in registers.
//
//% if targets
// Rows at positions of their own are no neighbours, so that an invocation owns one row only.
//
//% endif
// Shape of the work: a workgroup owns LANES · ROWS query rows of one head, an invocation ROWS of them.
// The loop begins ROWS − 1 keys early, to fill the registers that hold rows of the table.
//
// Bitwise reproducible: every sum has one owner and a fixed order.
//% set positions = true
//% if f16
enable f16;
//% endif
//% include "shared/transformer_xl_bindings.wgsl"

const LANES = ${ lanes }u;
const ROWS = ${ rows }u;
const D4 = ${ head_dim }u / 4u;
// Below NEG, where a row's maximum starts.
const MASKED = -2e30;

// What an invocation wrote, it alone reads.
var<workgroup> o: array<vec4<f32>, ${ lanes * rows * d4 }>;

//% include "shared/transformer_xl_sequence.wgsl"
//% include "shared/rows_block.wgsl"

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let id = w.x + w.y * grid.x;
    if (id >= P.workgroups) { return; }
    let local = id / P.blocks;                       // of (batch, head)
    let head = local % P.heads;
    let batch = local / P.heads;
    let s = sequence_of(batch, head);
    let q0 = i32(block_of(id) * LANES * ROWS);
    if (q0 >= i32(P.seqlen_q)) { return; }
    let q_last = min(q0 + i32(LANES * ROWS), i32(P.seqlen_q)) - 1;
//% if not targets
    let offset = i32(P.seqlen_k) - i32(P.seqlen_q);
//% endif
    // Rows of the textures at which this sequence and head begin.
    let q_first = local * P.seqlen_q;
    let k_first = local / P.group * P.seqlen_k;
    let r_first = head * P.rows;
//% if targets
    // A row stands anywhere; keys begin with what the first of the block sees and end with the last.
    let position = position_of(q_first + u32(min(q0 + i32(lane), q_last)));
    var least = position;
    var most = position;
    for (var row = q0; row <= q_last; row++) {
        let other = position_of(q_first + u32(row));
        least = min(least, other);
        most = max(most, other);
    }
    let k_begin = visible(least).x;
    let k_end = visible(most).y;
//% else
    let position = q0 + i32(lane * ROWS) + offset;   // of the first row
    let k_begin = visible(q0 + offset).x;
    let k_end = visible(q_last + offset).y;
//% endif

//% for r in range(rows)
    let row${ r } = q0 + i32(lane * ROWS) + ${ r };
    let position${ r } = <% if targets %>position<% else %>row${ r } + offset<% endif %>;
    let see${ r } = visible(position${ r });
    let local_row${ r } = u32(min(row${ r }, q_last));
    let at${ r } = q_texel(q_first + local_row${ r });
//%   if segments
    let record${ r } = P.records_at + 4u * (q_first + local_row${ r });
    let same${ r } = bitcast<f32>(load_word(record${ r }));
    let other${ r } = bitcast<f32>(load_word(record${ r } + 1u));
    let segment${ r } = load_word(record${ r } + 2u);
//%   endif
    var m${ r } = NEG;
    var l${ r } = 0.0;
//%   for d in range(d4)
    let q${ r }_${ d } = textureLoad(q_texels_of, at${ r } + vec2<i32>(${ d }, 0));
    var o${ r }_${ d } = vec4<f32>();
//%   endfor
//% endfor
    // Rows of the table: number n lies n distances above the nearest that this step meets.
//% for n in range(rows + keys - 1)
    var w${ n } = 0.0;
//%   for d in range(d4)
    var t${ n }_${ d } = vec4<f32>();
//%   endfor
//% endfor

    let first = select(k_end, k_begin - ${ (rows - 1 + keys - 1) // keys * keys }, k_begin < k_end);
    for (var key = first; key < k_end; key += ${ keys }) {
        // ---- the table's next rows
//% for n in range(rows - 1) | reverse
        w${ n + keys } = w${ n };
//%   for d in range(d4)
        t${ n + keys }_${ d } = t${ n }_${ d };
//%   endfor
//% endfor
//% for n in range(keys)
        let r${ n } = r_first + row_of(position - key - ${ keys - 1 - n });
        let rt${ n } = q_texel(r${ n });
        w${ n } = bitcast<f32>(load_word(P.differences_at + r${ n }));
//%   for d in range(d4)
        t${ n }_${ d } = textureLoad(r_texels_of, rt${ n } + vec2<i32>(${ d }, 0));
//%   endfor
//% endfor
        // ---- S
//% for j in range(keys)
        let c${ j } = clamp(key + ${ j }, 0, i32(P.seqlen_k) - 1);
        let kv${ j } = kv_texel(k_first + u32(c${ j }));
//%   if segments
        let key_segment${ j } = load_word(P.segments_at + batch * P.seqlen_k + u32(c${ j }));
//%   endif
//%   for r in range(rows)
//%     if segments
        var s${ r }_${ j } = w${ r - j + keys - 1 } + select(other${ r }, same${ r }, segment${ r } == key_segment${ j });
//%     else
        var s${ r }_${ j } = w${ r - j + keys - 1 };
//%     endif
//%   endfor
//% endfor
//% include "shared/rows_scores.wgsl"
        // ---- mask, online softmax
//% for j in range(keys)
//%   if blocked and not perm_mask
        let open${ j } = ((load_word(blocked_at(batch, 0u, u32(c${ j }))) >> (u32(c${ j }) % 32u)) & 1u) == 0u;
//%   endif
//%   for r in range(rows)
//%     if perm_mask
        let open${ r }_${ j } = ((load_word(blocked_at(batch, local_row${ r }, u32(c${ j }))) >> (u32(c${ j }) % 32u)) & 1u) == 0u;
//%     endif
        s${ r }_${ j } = select(MASKED, s${ r }_${ j }, key + ${ j } >= see${ r }.x && key + ${ j } < see${ r }.y<% if blocked %> && (open<% if perm_mask %>${ r }_<% endif %>${ j }<% if own_position %> || key + ${ j } == position${ r }<% endif %>)<% endif %>);
//%   endfor
//% endfor
//% include "shared/rows_update.wgsl"
    }

    // ---- O / l and lse, the long list of stores through workgroup memory
//% for r in range(rows)
    let inverse${ r } = select(1.0 / l${ r }, 0.0, l${ r } == 0.0);
//%   for d in range(d4)
    o[lane * ROWS * D4 + ${ r * d4 + d }u] = o${ r }_${ d } * inverse${ r };
//%   endfor
    if (row${ r } <= q_last) {
        lse[s.lse + u32(row${ r })] = lse_bits(m${ r }, l${ r });
    }
//% endfor
    for (var i = 0u; i < ROWS * D4; i++) {
        let x = o[lane * ROWS * D4 + i];
        let row = q0 + i32(lane * ROWS + i / D4);
        if (row <= q_last) { store_out(s.out + u32(row) * P.out_row, i % D4 * 4u, x); }
    }
}
