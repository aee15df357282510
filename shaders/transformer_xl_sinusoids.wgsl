// Relative positions: the sines and cosines of distances, which position tables are projected from.
//
//     phase = (P.first + row) · frequencies[i]        in turns, 64 bits of fraction
//     table[row, <% if interleaved %>2i<% else %>i<% endif %>] = sin phase;   table[row, <% if interleaved %>2i + 1<% else %>D/2 + i<% endif %>] = cos phase
//
// Whole turns overflow, so the phase is as exact at distance 2^30 as at 1, and sin and cos are needed
// for an eighth of a turn only. Floor: bound by bandwidth; one invocation makes four elements of a row.
//% from "shared/tensor.wgsl" import writer
//% if f16
enable f16;
//% endif

// head_dim: elements of a row, as what stores them calls it.
struct Params {
    rows: u32,
    head_dim: u32,
    first: i32,
    frequencies_base: u32,
    table_base: u32,
}
@group(0) @binding(2) var<uniform> P: Params;
// The lower word first.
@group(0) @binding(0) var<storage, read> frequencies: array<vec2<u32>>;
${ writer("table", 1) }

const THREADS = 64u;

// The upper word of a · b. No sum of 16-bit pieces is above 2^32 − 1.
fn upper(a: u32, b: u32) -> u32 {
    let low = (a & 0xffffu) * (b & 0xffffu);
    let mid = (a >> 16u) * (b & 0xffffu) + (low >> 16u);
    let other = (a & 0xffffu) * (b >> 16u) + (mid & 0xffffu);
    return (a >> 16u) * (b >> 16u) + (mid >> 16u) + (other >> 16u);
}

fn element(distance: i32, column: u32) -> f32 {
//% if interleaved
    let cosine = column & 1u;
    let i = column >> 1u;
//% else
    let cosine = select(0u, 1u, column >= P.head_dim / 2u);
    let i = column - cosine * (P.head_dim / 2u);
//% endif
    let step = frequencies[P.frequencies_base + i];
    let p = bitcast<u32>(distance);
    // As an unsigned number a negative distance is 2^32 too large.
    let phase = upper(step.x, p) + step.y * p - select(0u, step.x, distance < 0);
    // From the nearest quarter of a turn up to an eighth to either side.
    let quarter = (phase + 0x20000000u) >> 30u;
    let rest = bitcast<i32>(phase - (quarter << 30u));
    let t = f32(rest) * 2.3283064365386963e-10 + f32(step.x * p) * 5.421010862427522e-20;
    // Taylor's series in turns; what is left out is below 2e-9.
    let z = t * t;
    let s = t * (6.2831853 + z * (-41.341702 + z * (81.605249 + z * (-76.70586 + z * 42.058694))));
    let c = 1.0 + z * (-19.739209 + z * (64.939394 + z * (-85.456817 + z * (60.244641 + z * -26.426257))));
    let n = quarter + cosine;
    let x = select(s, c, (n & 1u) != 0u);
    return select(x, -x, (n & 2u) != 0u);
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let n = (w.x + w.y * grid.x) * THREADS + lane;
    let fours = (P.head_dim + 3u) / 4u;
    let row = n / fours;
    if (row >= P.rows) { return; }
    let d = (n % fours) * 4u;
    let distance = P.first + i32(row);
    // A row may end in half a vec4.
    let last = P.head_dim - 1u;
    let x = vec4<f32>(
        element(distance, d),
        element(distance, d + 1u),
        element(distance, min(d + 2u, last)),
        element(distance, min(d + 3u, last)),
    );
    store_table(P.table_base + row * P.head_dim, d, x);
}
