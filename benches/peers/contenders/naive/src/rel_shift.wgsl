// Transformer-XL's attention as the published code computes it, four kernels through memory: scores
// of the keys, scores of the positions, shift and softmax, product.
// q, out: [batch, seqlen, heads, head_dim]; k, v: [batch, keys, heads, head_dim];
// table: [keys, heads, head_dim], row n is distance n; bias: u, then w, each [heads, head_dim];
// s, b: [heads of this group, seqlen, keys]. The whole rectangle is computed and masked.

struct Params {
    seqlen: u32, heads: u32, head_dim: u32, first: u32,
    keys: u32, scale: f32, unused0: u32, unused1: u32,
}
@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<storage, read_write> s: array<f32>;
@group(0) @binding(5) var<uniform> p: Params;
@group(0) @binding(6) var<storage, read> table: array<f32>;
@group(0) @binding(7) var<storage, read> bias: array<f32>;
@group(0) @binding(8) var<storage, read_write> b: array<f32>;

const NEG: f32 = -1e30;

// Where position 0 of a head begins among `positions`; they are heads * head_dim apart.
fn head_start(z: u32, positions: u32) -> u32 {
    let bh = p.first + z;
    return ((bh / p.heads) * positions * p.heads + bh % p.heads) * p.head_dim;
}

fn head_of(z: u32) -> u32 { return (p.first + z) % p.heads; }

@compute @workgroup_size(16, 16)
fn keys(@builtin(global_invocation_id) id: vec3<u32>) {
    let j = id.x; let i = id.y;
    if (i >= p.seqlen || j >= p.keys) { return; }
    let step = p.heads * p.head_dim;
    let row = head_start(id.z, p.seqlen) + i * step;
    let key = head_start(id.z, p.keys) + j * step;
    let u = head_of(id.z) * p.head_dim;
    var sum = 0.0;
    for (var d = 0u; d < p.head_dim; d++) { sum += (q[row + d] + bias[u + d]) * k[key + d]; }
    s[(id.z * p.seqlen + i) * p.keys + j] = sum;
}

@compute @workgroup_size(16, 16)
fn positions(@builtin(global_invocation_id) id: vec3<u32>) {
    let n = id.x; let i = id.y;
    if (i >= p.seqlen || n >= p.keys) { return; }
    let step = p.heads * p.head_dim;
    let row = head_start(id.z, p.seqlen) + i * step;
    let at = n * step + head_of(id.z) * p.head_dim;
    let w = (p.heads + head_of(id.z)) * p.head_dim;
    var sum = 0.0;
    for (var d = 0u; d < p.head_dim; d++) { sum += (q[row + d] + bias[w + d]) * table[at + d]; }
    b[(id.z * p.seqlen + i) * p.keys + n] = sum;
}

@compute @workgroup_size(16, 16)
fn product(@builtin(global_invocation_id) id: vec3<u32>) {
    let d = id.x; let i = id.y;
    if (i >= p.seqlen || d >= p.head_dim) { return; }
    let step = p.heads * p.head_dim;
    let value = head_start(id.z, p.keys) + d;
    let row = (id.z * p.seqlen + i) * p.keys;
    var sum = 0.0;
    for (var j = 0u; j < p.keys; j++) { sum += s[row + j] * v[value + j * step]; }
    out[head_start(id.z, p.seqlen) + i * step + d] = sum;
}

// ---- shift, mask and softmax: one workgroup, one row, in place

var<workgroup> part: array<f32, 64>;

@compute @workgroup_size(64)
fn softmax(@builtin(workgroup_id) w: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let row = (w.y * p.seqlen + w.x) * p.keys;
    // Key j lies p.keys - p.seqlen + i - j in the past of row i.
    let own = p.keys - p.seqlen + w.x;
    var most = NEG;
    for (var j = t; j < p.keys; j += 64u) {
        var score = NEG;
        if (j <= own) { score = (s[row + j] + b[row + own - j]) * p.scale; }
        s[row + j] = score;
        most = max(most, score);
    }
    part[t] = most;
    workgroupBarrier();
    for (var n = 32u; n > 0u; n /= 2u) {
        if (t < n) { part[t] = max(part[t], part[t + n]); }
        workgroupBarrier();
    }
    most = part[0];
    workgroupBarrier();
    var sum = 0.0;
    for (var j = t; j < p.keys; j += 64u) {
        let e = exp(s[row + j] - most);
        s[row + j] = e;
        sum += e;
    }
    part[t] = sum;
    workgroupBarrier();
    for (var n = 32u; n > 0u; n /= 2u) {
        if (t < n) { part[t] += part[t + n]; }
        workgroupBarrier();
    }
    let scale = 1.0 / part[0];
    for (var j = t; j < p.keys; j += 64u) { s[row + j] *= scale; }
}
