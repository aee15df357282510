// Elements from one place of four dimensions to another: element (i0, i1, i2, i3) of a box.

struct Params {
    workgroups: u32,
    total: u32,
    size_1: u32,
    size_2: u32,
    size_3: u32,
    take: u32,
    take_0: u32,
    take_1: u32,
    take_2: u32,
    take_3: u32,
    put: u32,
    put_0: u32,
    put_1: u32,
    put_2: u32,
    put_3: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> unused: array<f32>;
@group(0) @binding(2) var<storage, read> unused_too: array<f32>;
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
    if (i >= P.total) {
        return;
    }
    let i3 = i % P.size_3;
    let i2 = i / P.size_3 % P.size_2;
    let i1 = i / P.size_3 / P.size_2 % P.size_1;
    let i0 = i / P.size_3 / P.size_2 / P.size_1;
    let place = P.take + i0 * P.take_0 + i1 * P.take_1 + i2 * P.take_2 + i3 * P.take_3;
    y[P.put + i0 * P.put_0 + i1 * P.put_1 + i2 * P.put_2 + i3 * P.put_3] = x[place];
}
