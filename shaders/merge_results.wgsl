// Two results over different keys as one: the part is merged into `out` and `lse`, where they lie.
//
//     lse' = ln(e^lse + e^lse_p);   out = e^(lse − lse') out + e^(lse_p − lse') out_p
//
// Floor: bound by bandwidth; reads both results, writes one. A workgroup owns ROWS rows, which lie one
// behind the other in `out`: an invocation weighs one of them, and all use the weights after a barrier.
//% from "shared/tensor.wgsl" import reader, rereader, writer
//% if f16
enable f16;
//% endif

struct Params {
    rows: u32,
    heads: u32,
    seqlen_q: u32,
    head_dim: u32,
    out_base: u32,
    lse_base: u32,
    part_out_base: u32,
    part_lse_base: u32,
}
@group(0) @binding(4) var<uniform> P: Params;
${ writer("out", 0) }
${ rereader("out") }
@group(0) @binding(1) var<storage, read_write> lse: array<u32>;
${ reader("part", 2) }
@group(0) @binding(3) var<storage, read> part_lse: array<u32>;

//% include "shared/numbers.wgsl"
//% include "shared/two_results.wgsl"

const THREADS = 64u;
const ROWS = 16u;

// What the result and the part are multiplied by.
var<workgroup> weights: array<vec2<f32>, ROWS>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let first = (w.x + w.y * grid.x) * ROWS;
    if (first >= P.rows) { return; }
    let rows = min(ROWS, P.rows - first);
    if (lane < rows) {
        // lse lies at [batch, head, row], the elements at [batch, row, head].
        let head = (first + lane) % P.heads;
        let row = (first + lane) / P.heads % P.seqlen_q;
        let batch = (first + lane) / (P.heads * P.seqlen_q);
        let at = (batch * P.heads + head) * P.seqlen_q + row;
        let bits = vec2<u32>(lse[P.lse_base + at], part_lse[P.part_lse_base + at]);
        let none = bits == vec2<u32>(MINUS_INF_BITS);
        let parts = select(bitcast<vec2<f32>>(bits), vec2<f32>(NEG), none);
        let merged = merge(parts.x, parts.y);
        weights[lane] = select(merged.yz, vec2<f32>(), none);
        lse[P.lse_base + at] = select(bitcast<u32>(merged.x), MINUS_INF_BITS, all(none));
    }
    workgroupBarrier();
    let fours = (P.head_dim + 3u) / 4u;
    for (var i = lane; i < rows * fours; i += THREADS) {
        let weight = weights[i / fours];
        // Nothing changes where the part has no say and the result has.
        if (weight.y == 0.0 && weight.x != 0.0) { continue; }
        let at = (first + i / fours) * P.head_dim;
        let d = i % fours * 4u;
        let own = weighted(weight.x, load_out(P.out_base + at, d));
        store_out(P.out_base + at, d, own + weighted(weight.y, load_part(P.part_out_base + at, d)));
    }
}
