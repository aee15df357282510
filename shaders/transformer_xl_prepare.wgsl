// Relative-position attention: what the scores' terms have in common, once for all keys.
//
//     s = scale · ((q + u)·k + (q + v)·r) = qu·(k + r) + w·r    qu = scale · (q + u), w = scale · (v − u)
//     e_x = scale · (q + bias_s)·seg_embed[x]                   x = 0 in the same segment, else 1
//
// One row qu serves both products, and what is left of the two biases depends on the head alone.
//% if texels
// As textures for CPU adapters, for full_pack.wgsl's reason: qu, the table r, and w·r of each of its
// rows.
//% endif
//
// Floor: bound by bandwidth; moves each element once. One invocation makes four elements or words.
//% if f16
enable f16;
//% endif
//% include "shared/transformer_xl_bindings.wgsl"

const HEAD_DIM = ${ head_dim }u;
const D4 = HEAD_DIM / 4u;
const THREADS = 64u;

fn difference(head: u32, d: u32) -> vec4<f32> {
    return (load_bias_v(head, d) - load_bias_u(head, d)) * P.scale;
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    // In order: qu, then what is left of the biases, then the rows' records.
    var n = (w.x + w.y * grid.x) * THREADS + lane;
    let rows_q = P.batches * P.heads * P.seqlen_q;
    if (n < rows_q * D4) {
        let local_row = n / D4;
        let d = n % D4 * 4u;
        let head = local_row / P.seqlen_q % P.heads;
        let batch = local_row / (P.seqlen_q * P.heads);
        let at = P.q_base + batch * P.q_batch + head * P.q_head + local_row % P.seqlen_q * P.q_row;
        let x = (load_q(at, d) + load_bias_u(head, d)) * P.scale;
//% if texels
        textureStore(q_texels_of, q_texel(local_row) + vec2<i32>(i32(n % D4), 0), x);
//% else
        workspace[n] = bitcast<vec4<u32>>(x);
//% endif
        return;
    }
    n -= rows_q * D4;
//% if texels
    let table_rows = P.heads * P.rows;
    if (n < table_rows * D4) {
        let local_row = n / D4;
        let x = load_table(P.table_base + local_row / P.rows * P.table_head + local_row % P.rows * P.table_row, n % D4 * 4u);
        textureStore(r_texels_of, q_texel(local_row) + vec2<i32>(i32(n % D4), 0), x);
        return;
    }
    n -= table_rows * D4;
    if (n < (table_rows + 3u) / 4u) {
        var four = vec4<u32>();
        for (var c = 0u; c < 4u; c++) {
            let local_row = n * 4u + c;
            if (local_row < table_rows) {
                let head = local_row / P.rows;
                let at = P.table_base + head * P.table_head + local_row % P.rows * P.table_row;
                var sum = 0.0;
                for (var d = 0u; d < HEAD_DIM; d += 4u) { sum += dot(difference(head, d), load_table(at, d)); }
                four[c] = bitcast<u32>(sum);
            }
        }
        store_words(P.differences_at + 4u * n, four);
        return;
    }
    n -= (table_rows + 3u) / 4u;
//% else
    if (n < P.heads * D4) {
        store_words(P.differences_at + 4u * n, bitcast<vec4<u32>>(difference(n / D4, n % D4 * 4u)));
        return;
    }
    n -= P.heads * D4;
//% endif
//% if records
    if (n < rows_q) {
        let row = n % P.seqlen_q;
        let head = n / P.seqlen_q % P.heads;
        let batch = n / (P.seqlen_q * P.heads);
        var record = vec4<u32>();
        var place = row;
//%   if targets
        place = target_of(batch, row);
        record.w = place + P.seqlen_k - P.segment_len;
//%   endif
//%   if segments
        let at = P.q_base + batch * P.q_batch + head * P.q_head + row * P.q_row;
        var terms = vec2<f32>();
        for (var d = 0u; d < HEAD_DIM; d += 4u) {
            let x = (load_q(at, d) + load_bias_s(head, d)) * P.scale;
            terms += vec2<f32>(dot(x, load_seg_embed(head, d)), dot(x, load_seg_embed(P.heads + head, d)));
        }
        let found = bitcast<vec2<u32>>(terms);
        record = vec4<u32>(found, seg_q[P.seg_q_base + batch * P.segment_len + place], record.w);
//%   endif
        store_words(P.records_at + 4u * n, record);
    }
//% endif
}
