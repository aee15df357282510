// y[m, n] = Σ_k x[m, k] w[n, k] + bias[n].
//
// A workgroup of 8 x 8 invocations makes a tile of 32 x 32 outputs, an invocation 4 x 4 of them: rows
// 8 apart, columns 8 apart. Tiles of x and w pass through workgroup memory, 16 elements of K at a
// time; all loads are of whole vec4 along K from there on.

struct Params {
    workgroups: u32,
    rows: u32,          // M
    columns: u32,       // N
    inner: u32,         // K
    w_column: u32,      // steps of w from one n to the next, and from one k to the next
    w_inner: u32,
    biased: u32,
    tiles: u32,         // tiles along N
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> w: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<uniform> P: Params;

const TILE = 32u;
const SIDE = 8u;    // invocations along a side
const DEEP = 4u;    // vec4s of K that are staged

var<workgroup> xs: array<vec4<f32>, TILE * DEEP>;
var<workgroup> ws: array<vec4<f32>, TILE * DEEP>;

fn x_at(row: u32, k: u32) -> f32 {
    // Rows beyond the end compute what nobody stores; k beyond it must add nothing.
    let at = min(row, P.rows - 1u) * P.inner + min(k, P.inner - 1u);
    return select(0.0, x[at], k < P.inner);
}

fn w_at(column: u32, k: u32) -> f32 {
    let at = min(column, P.columns - 1u) * P.w_column + min(k, P.inner - 1u) * P.w_inner;
    return select(0.0, w[at], k < P.inner);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let id = group.x + group.y * groups.x;
    if (id >= P.workgroups) {
        return;
    }
    let first_row = id / P.tiles * TILE;
    let first_column = id % P.tiles * TILE;
    let tx = lane % SIDE;
    let ty = lane / SIDE;
    var sums = array<vec4<f32>, 4>();
    for (var k = 0u; k < P.inner; k += 4u * DEEP) {
        for (var i = lane; i < TILE * DEEP; i += SIDE * SIDE) {
            let row = first_row + i / DEEP;
            let at = k + i % DEEP * 4u;
            xs[i] = vec4(x_at(row, at), x_at(row, at + 1u), x_at(row, at + 2u), x_at(row, at + 3u));
        }
        for (var i = lane; i < TILE * DEEP; i += SIDE * SIDE) {
            let column = first_column + i / DEEP;
            let at = k + i % DEEP * 4u;
            ws[i] = vec4(
                w_at(column, at), w_at(column, at + 1u), w_at(column, at + 2u), w_at(column, at + 3u));
        }
        workgroupBarrier();
        for (var d = 0u; d < DEEP; d += 1u) {
            let w0 = ws[tx * DEEP + d];
            let w1 = ws[(tx + SIDE) * DEEP + d];
            let w2 = ws[(tx + 2u * SIDE) * DEEP + d];
            let w3 = ws[(tx + 3u * SIDE) * DEEP + d];
            for (var i = 0u; i < 4u; i += 1u) {
                let a = xs[(ty + i * SIDE) * DEEP + d];
                sums[i] += vec4(dot(a, w0), dot(a, w1), dot(a, w2), dot(a, w3));
            }
        }
        workgroupBarrier();
    }
    for (var i = 0u; i < 4u; i += 1u) {
        let row = first_row + ty + i * SIDE;
        for (var j = 0u; j < 4u; j += 1u) {
            let column = first_column + tx + j * SIDE;
            if (row < P.rows && column < P.columns) {
                let added = select(0.0, bias[min(column, arrayLength(&bias) - 1u)], P.biased != 0u);
                y[row * P.columns + column] = sums[i][j] + added;
            }
        }
    }
}
