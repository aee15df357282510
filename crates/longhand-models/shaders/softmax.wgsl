// Softmax of rows, a workgroup a row. kind 0: exp(x) / sum; 1: its logarithm. One number of a row:
// 2: the largest; 3: the largest magnitude; 4: the first place of the largest, as a number.

struct Params {
    workgroups: u32,
    width: u32,
    kind: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> unused: array<f32>;
@group(0) @binding(2) var<storage, read> unused_too: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<uniform> P: Params;

const LANES = 64u;
const LN2 = 0.6931471805599453;

var<workgroup> parts: array<f32, LANES>;

// The natural logarithm of a positive v. WGSL allows log2 an error of 2^-21 near 1, and software
// drivers make use of it.
fn ln(v: f32) -> f32 {
    let bits = bitcast<u32>(v);
    // v = 2^e · y with y from sqrt(1/2) to sqrt(2);  ln y = 2 artanh(t),  t = (y - 1) / (y + 1)
    let e = (i32(bits) - 0x3f3504f3) >> 23u;
    let m = bitcast<f32>(i32(bits) - e * 0x800000);
    let t = (m - 1.0) / (m + 1.0);
    let z = t * t;
    let series = 2.0 * t + 2.0 * t * z * (1.0 / 3.0 + z * (1.0 / 5.0 + z * (1.0 / 7.0 + z * (1.0 / 9.0))));
    return f32(e) * LN2 + series;
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
    var part = -3.4e38;
    for (var i = lane; i < P.width; i += LANES) {
        let v = x[first + i];
        part = max(part, select(v, abs(v), P.kind == 3u));
    }
    parts[lane] = part;
    workgroupBarrier();
    for (var reach = LANES / 2u; reach > 0u; reach = reach / 2u) {
        if (lane < reach) {
            parts[lane] = max(parts[lane], parts[lane + reach]);
        }
        workgroupBarrier();
    }
    var most = parts[0];
    if (P.kind == 4u) {
        workgroupBarrier();
        var place = P.width;
        for (var i = lane; i < P.width; i += LANES) {
            place = select(place, min(place, i), x[first + i] == most);
        }
        // The largest of the negative places.
        parts[lane] = -f32(place);
        workgroupBarrier();
        for (var reach = LANES / 2u; reach > 0u; reach = reach / 2u) {
            if (lane < reach) {
                parts[lane] = max(parts[lane], parts[lane + reach]);
            }
            workgroupBarrier();
        }
        // Of NaN alone, 0.
        most = select(-parts[0], 0.0, parts[0] == -f32(P.width));
    }
    if (P.kind >= 2u) {
        if (lane == 0u) {
            y[row] = most;
        }
        return;
    }
    workgroupBarrier();
    part = 0.0;
    for (var i = lane; i < P.width; i += LANES) {
        part += exp(x[first + i] - most);
    }
    parts[lane] = part;
    workgroupBarrier();
    for (var reach = LANES / 2u; reach > 0u; reach = reach / 2u) {
        if (lane < reach) {
            parts[lane] += parts[lane + reach];
        }
        workgroupBarrier();
    }
    let sum = parts[0];
    let lse = most + ln(sum);
    for (var i = lane; i < P.width; i += LANES) {
        let v = x[first + i];
        y[first + i] = select(exp(v - most) / sum, v - lse, P.kind == 1u);
    }
}
