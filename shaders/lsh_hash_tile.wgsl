// LSH attention on GPUs: a key's factor<% if hashed %>, and the bucket of each position in each round<% endif %>.
//
//     factor_i = 1 / sqrt(mean(qk_i²) + key_norm_eps)
//% if hashed
//     y = qk_i · rotations;  b_f = argmax [y ; −y], the first if equal;  bucket = b_0 + f_0·b_1 + …
//% endif
//
//% if hashed
// Floor: 2·B·H·L·D operations for each column of the rotations. A workgroup takes ROWS positions and
// one round; rows and columns are staged DC elements at a time, an invocation owns a position and
// COLUMNS columns at once.
//% else
// Floor: bound by bandwidth; reads qk once.
//% endif
// Every sum has one owner and a fixed order.
//% if f16
enable f16;
//% endif
//% include "shared/lsh_bindings.wgsl"

const ROWS = 64u;
const D4 = ${ head_dim }u / 4u;
//% if hashed
const DC4 = 8u;
const LD = DC4 + 1u;
const COLUMNS = 16u;
const C4 = COLUMNS / 4u;

var<workgroup> xs: array<vec4<f32>, ROWS * LD>;
var<workgroup> ys: array<vec4<f32>, DC4 * 4u * C4>;   // one row of columns for each element

//% include "shared/lsh_best.wgsl"
//% endif

@compute @workgroup_size(ROWS)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let id = w.x + w.y * grid.x;
    if (id >= P.workgroups) { return; }
    let first = id % P.blocks * ROWS;
//% if hashed
    let round = id / P.blocks % P.rounds;
    let local = id / (P.blocks * P.rounds);           // of (batch, head)
//% else
    let local = id / P.blocks;
//% endif
    let head = local % P.heads;
    let batch = local / P.heads;
    let origin = P.qk_base + batch * P.qk_batch + head * P.qk_head;
    let row = min(first + lane, P.seqlen - 1u);
    let writes = first + lane < P.seqlen;
//% if slot.key_valid is defined
    let valid = is_valid(batch, row);
//% else
    let valid = true;
//% endif
//% if hashed
    if (writes && round == 0u) {
//% else
    if (writes) {
//% endif
        var square = vec4<f32>();
        for (var d = 0u; d < D4; d++) {
            let x = load_qk(origin + row * P.qk_row, d * 4u);
            square += x * x;
        }
        let factor = 1.0 / sqrt(dot(square, vec4<f32>(1.0)) / f32(P.head_dim) + P.key_norm_eps);
        norms[local * P.seqlen + row] = select(NOT_VALID, factor, valid);
    }
//% if hashed
    var bucket = 0u;
    var below = 1u;
    var column = 0u;
    for (var f = 0u; f < P.factors; f++) {
        let half = factors[f];
        var best = nothing_yet();
        for (var c0 = 0u; c0 < half; c0 += COLUMNS) {
            var acc = array<vec4<f32>, C4>();
            for (var d0 = 0u; d0 < D4; d0 += DC4) {
                workgroupBarrier();
                for (var n = lane; n < ROWS * DC4; n += ROWS) {
                    let staged = min(first + n / DC4, P.seqlen - 1u);
                    xs[n / DC4 * LD + n % DC4] = load_qk(origin + staged * P.qk_row, (d0 + n % DC4) * 4u);
                }
                for (var n = lane; n < DC4 * 4u * C4; n += ROWS) {
                    let d = d0 * 4u + n / C4;
                    var x = vec4<f32>();
                    for (var e = 0u; e < 4u; e++) {
                        let c = c0 + n % C4 * 4u + e;
                        if (d < P.head_dim && c < half) {
                            x[e] = rotations[P.rotations_base + ((head * P.head_dim + d) * P.rounds + round) * P.columns + column + c];
                        }
                    }
                    ys[n] = x;
                }
                workgroupBarrier();
                for (var d = 0u; d < DC4; d++) {
                    let x = xs[lane * LD + d];
                    for (var c = 0u; c < C4; c++) {
                        acc[c] += x.x * ys[d * 4u * C4 + c];
                        acc[c] += x.y * ys[(d * 4u + 1u) * C4 + c];
                        acc[c] += x.z * ys[(d * 4u + 2u) * C4 + c];
                        acc[c] += x.w * ys[(d * 4u + 3u) * C4 + c];
                    }
                }
            }
            for (var c = 0u; c < min(COLUMNS, half - c0); c++) {
                best = better(best, acc[c / 4u][c % 4u], c0 + c);
            }
        }
        bucket += below * bucket_of_best(best, half);
        below *= 2u * half;
        column += half;
    }
    if (writes) {
        buckets[P.buckets_base + (local * P.rounds + round) * P.seqlen + row] = select(P.buckets, bucket, valid);
    }
//% endif
}
