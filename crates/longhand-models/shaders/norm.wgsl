// Norms of rows, a workgroup a row. kind 0: (x - mean) / sqrt(variance + eps) · weight + bias;
// 1: x / sqrt(mean(x²) + eps) · weight; 2: x · weight + bias.

struct Params {
    workgroups: u32,
    width: u32,
    kind: u32,
    eps: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<uniform> P: Params;

const LANES = 64u;

var<workgroup> parts: array<f32, LANES>;

// The sum over the workgroup's invocations.
fn total(lane: u32, part: f32) -> f32 {
    parts[lane] = part;
    workgroupBarrier();
    for (var reach = LANES / 2u; reach > 0u; reach = reach / 2u) {
        if (lane < reach) {
            parts[lane] += parts[lane + reach];
        }
        workgroupBarrier();
    }
    let sum = parts[0];
    workgroupBarrier();
    return sum;
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = group.x + group.y * groups.x;
    if (row >= P.workgroups) {
        return;
    }
    let first = row * P.width;
    let n = f32(P.width);
    var mean = 0.0;
    if (P.kind == 0u) {
        var sum = 0.0;
        for (var i = lane; i < P.width; i += LANES) {
            sum += x[first + i];
        }
        mean = total(lane, sum) / n;
    }
    var scale = 1.0;
    if (P.kind != 2u) {
        var squares = 0.0;
        for (var i = lane; i < P.width; i += LANES) {
            let d = x[first + i] - mean;
            squares += d * d;
        }
        scale = 1.0 / sqrt(total(lane, squares) / n + P.eps);
    }
    for (var i = lane; i < P.width; i += LANES) {
        let v = (x[first + i] - mean) * scale * weight[i];
        y[first + i] = select(v + bias[i], v, P.kind == 1u);
    }
}
