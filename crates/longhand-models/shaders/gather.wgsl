// Rows of a table by index: y[i, c] = table[index[i], c]. The index is integers or, with numbers, f32
// that are whole.

struct Params {
    workgroups: u32,
    total: u32,
    width: u32,
    numbers: u32,
}

@group(0) @binding(0) var<storage, read> table: array<f32>;
@group(0) @binding(1) var<storage, read> index: array<u32>;
@group(0) @binding(2) var<storage, read> unused: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<uniform> P: Params;

const BLOCK = 64u;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * BLOCK + lane;
    if (i < P.total) {
        let at = index[i / P.width];
        let row = select(at, u32(bitcast<f32>(at)), P.numbers != 0u);
        y[i] = table[row * P.width + i % P.width];
    }
}
