// Full attention, forward, for CPU adapters (lavapipe, SwiftShader), where the invocations of a
// workgroup are the lanes of one vector.
//
// One pass over the keys with an online softmax (FlashAttention-2, algorithm 1), ROWS query rows to
// an invocation, all of q, O and the scores in registers, every index a literal:
//     s = q·k;  m' = max(m, s);  p = 2^(s − m');  α = 2^(m − m');  l = α l + p;  O = α O + p v
//
// Floor: 4·B·H·Lq·Lk·D operations (half if causal); such drivers have no fused multiply-add, so the
// peak is a multiply and an add per lane and cycle. What binds is the reading of K and V: about 50
// instructions for a vec4 of eight lanes, shared by ROWS rows.
//
// Shape of the work: a workgroup owns LANES · ROWS query rows of one head. An invocation owns the
// rows lane, lane + LANES, …  A step takes KEYS keys. Workgroup memory only turns the long list of
// final stores into a short loop (and holds the biases of buckets, the only reason for a barrier).
//
// Bitwise reproducible: every sum has one owner and a fixed order.
//% if f16
enable f16;
//% endif
//% include "shared/full_bindings.wgsl"

const LANES = ${ lanes }u;
const ROWS = ${ rows }u;
const D4 = ${ head_dim }u / 4u;
// Below NEG, where a row's maximum starts.
const MASKED = -2e30;

// What an invocation wrote, it alone reads.
var<workgroup> o: array<vec4<f32>, ${ lanes * rows * d4 }>;

//% include "shared/full_sequence.wgsl"
//% include "shared/rows_block.wgsl"

//% if alibi
var<private> slope: f32;
//% endif
//% if buckets
//%   include "shared/full_buckets.wgsl"
//% endif

// The final score in units of log2, of x = scale · q·k.
fn modify(x: f32, s: Sequence, batch: u32, head: u32, row: i32, key: i32) -> f32 {
    var y = x;
//% if softcap
    y = tanh4(vec4<f32>(y)).x * P.softcap;
//% endif
//% if alibi
    y -= slope * f32(abs(row + s.seqlen_k - s.seqlen_q - key));
//% endif
//% if bias
    let at = P.bias_base + batch * P.bias_batch + head * P.bias_head;
    y += bias[at + u32(min(row, s.seqlen_q - 1)) * P.seqlen_k + u32(key)] * LOG2E;
//% endif
//% if buckets
    y += bias_of[bucket(row + s.seqlen_k - s.seqlen_q - key)];
//% endif
    return y;
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let id = w.x + w.y * grid.x;
    if (id >= P.workgroups) { return; }
    let local = id / P.blocks;                       // of (batch, head)
    let head = P.first_head + local % P.heads;
    let batch = P.first_batch + local / P.heads;
//% if buckets
    fill_buckets(lane, LANES, head);
//% endif
    let s = sequence_of(batch, head);
    let q0 = i32(block_of(id) * LANES * ROWS);
    if (q0 >= s.seqlen_q) { return; }
    let q_last = min(q0 + i32(LANES * ROWS), s.seqlen_q) - 1;
    let offset = s.seqlen_k - s.seqlen_q;
    let k_begin = visible(q0 + offset, s.seqlen_k).x;
    let k_end = visible(q_last + offset, s.seqlen_k).y;
    // Rows of the textures at which this sequence and head begin.
//% if ragged
    let q_first = local % P.heads * P.rows_q + u32(cu_seqlens_q[P.cu_q_base + batch]);
    let k_first = local % P.heads / P.group * P.rows_k + u32(cu_seqlens_k[P.cu_k_base + batch]);
//% else
    let q_first = local * P.rows_q;
    let k_first = local / P.group * P.rows_k;
//% endif
//% if alibi
    slope = alibi_slopes[P.alibi_base + head] * LOG2E;
//% endif

//% for r in range(rows)
    let row${ r } = q0 + i32(lane) + ${ r * lanes };
    let see${ r } = visible(row${ r } + offset, s.seqlen_k);
    let at${ r } = q_texel(q_first + u32(min(row${ r }, q_last)));
    var m${ r } = NEG;
    var l${ r } = 0.0;
//%   for d in range(d4)
    let q${ r }_${ d } = textureLoad(q_texels_of, at${ r } + vec2<i32>(${ d }, 0));
    var o${ r }_${ d } = vec4<f32>();
//%   endfor
//% endfor

    for (var key = k_begin; key < k_end; key += ${ keys }) {
        // ---- S = Q Kᵀ
//% for j in range(keys)
        let kv${ j } = kv_texel(k_first + u32(<% if j > 0 %>min(key + ${ j }, s.seqlen_k - 1)<% else %>key<% endif %>));
//%   for r in range(rows)
        var s${ r }_${ j } = 0.0;
//%   endfor
//% endfor
//% include "shared/rows_scores.wgsl"
        // ---- mask, online softmax
//% for j in range(keys)
//%   if key_padding
        let valid${ j } = textureLoad(valid_texels_of, valid_texel((batch - P.first_batch) * P.seqlen_k + u32(min(key + ${ j }, s.seqlen_k - 1)))).x != 0u;
//%   endif
//%   for r in range(rows)
//%     if modified
        s${ r }_${ j } = modify(s${ r }_${ j }, s, batch, head, row${ r }, min(key + ${ j }, s.seqlen_k - 1));
//%     endif
        s${ r }_${ j } = select(MASKED, s${ r }_${ j }, key + ${ j } >= see${ r }.x && key + ${ j } < see${ r }.y<% if key_padding %> && valid${ j }<% endif %>);
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
        let row = q0 + i32(lane + i / D4 * LANES);
        if (row <= q_last) { store_out(s.out + u32(row) * P.out_row, i % D4 * 4u, x); }
    }
}
