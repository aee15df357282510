// y[i] = f(a[i], b[i / b_div % b_mod]): b may be as large as a, a row for every row, or a column.

struct Params {
    workgroups: u32,
    total: u32,
    op: u32,
    b_div: u32,
    b_mod: u32,
    constant: f32,
}

@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read> unused: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<uniform> P: Params;

const BLOCK = 64u;

fn sigmoid(v: f32) -> f32 {
    return 1.0 / (1.0 + exp(-v));
}

// Of |v|: exp then neither overflows nor is it compared with inf.
fn tanh_of(v: f32) -> f32 {
    let t = exp(-2.0 * abs(v));
    return sign(v) * (1.0 - t) / (1.0 + t);
}

// v · ½(1 + erf(v/√2)), erf by the rational approximation that the processor's gelu has.
fn gelu(v: f32) -> f32 {
    let z = clamp(v * 0.70710678118654752, -4.0, 4.0);
    let s = z * z;
    var p = -2.7261423e-10;
    p = p * s + 2.7706814e-8;
    p = p * s - 2.101024e-6;
    p = p * s - 5.6925064e-5;
    p = p * s - 7.3499063e-4;
    p = p * s - 2.9546e-3;
    p = p * s - 1.6096033e-2;
    var q = -1.4566072e-5;
    q = q * s - 2.1337406e-4;
    q = q * s - 1.682827e-3;
    q = q * s - 7.373329e-3;
    q = q * s - 1.4264739e-2;
    return 0.5 * v * (1.0 + z * p / q);
}

// What is not a number stays so: clamp may drop it.
fn limited(v: f32) -> f32 {
    return select(v, sign(v) * P.constant, abs(v) > P.constant);
}

fn value(v: f32, other: f32) -> f32 {
    switch P.op {
        case 0u: { return v + other; }
        case 1u: { return v * other; }
        case 2u: { return P.constant * v; }
        case 3u: { return select(0.0, v, other != 0.0); }
        case 4u: { return gelu(v); }
        case 5u: { return 0.5 * v * (1.0 + tanh_of(0.7978846 * (v + 0.044715 * v * v * v))); }
        case 6u: { return v * sigmoid(1.702 * v); }
        case 7u: { return max(v, 0.0); }
        case 8u: { return v * sigmoid(v); }
        case 9u: { return tanh_of(v); }
        case 10u: { return sigmoid(v); }
        case 12u: { return select(1.0, v / P.constant, v > 0.0); }
        case 13u: { return limited(round(v / other)); }
        case 14u: { return limited(v); }
        default: { return v; }
    }
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * BLOCK + lane;
    if (i < P.total) {
        y[i] = value(a[i], b[i / P.b_div % P.b_mod]);
    }
}
