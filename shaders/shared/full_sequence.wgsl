// ---- which sequence, and what its rows may see

// One sequence and head: the element at which row 0 begins, and the lengths.
struct Sequence {
    q: u32,
    k: u32,
    v: u32,
    out: u32,
    lse: u32,
    seqlen_q: i32,
    seqlen_k: i32,
}

fn sequence_of(batch: u32, head: u32) -> Sequence {
    let head_kv = head / P.group;
    var s = Sequence();
    s.q = P.q_base + head * P.q_head;
    s.k = P.k_base + head_kv * P.k_head;
    s.v = P.v_base + head_kv * P.v_head;
    s.out = P.out_base + head * P.out_head;
    s.lse = P.lse_base + head * P.lse_head;
//% if ragged
    let q_at = P.cu_q_base + batch;
    let k_at = P.cu_k_base + batch;
    let q_first = cu_seqlens_q[q_at];
    let k_first = cu_seqlens_k[k_at];
    s.seqlen_q = min(cu_seqlens_q[q_at + 1u] - q_first, i32(P.seqlen_q));
    s.seqlen_k = min(cu_seqlens_k[k_at + 1u] - k_first, i32(P.seqlen_k));
    s.q += u32(q_first) * P.q_row;
    s.k += u32(k_first) * P.k_row;
    s.v += u32(k_first) * P.v_row;
    s.out += u32(q_first) * P.out_row;
    s.lse += u32(q_first);
//% else
    s.seqlen_q = i32(P.seqlen_q);
    s.seqlen_k = i32(P.seqlen_k);
    s.q += batch * P.q_batch;
    s.k += batch * P.k_batch;
    s.v += batch * P.v_batch;
    s.out += batch * P.out_batch;
    s.lse += batch * P.lse_batch;
//% endif
    return s;
}

// Keys that a row at `position` may see: x to y - 1.
fn visible(position: i32, seqlen_k: i32) -> vec2<i32> {
    let lo = clamp(position - P.window_left, 0, seqlen_k);
    return vec2<i32>(lo, clamp(position + P.window_right + 1, lo, seqlen_k));
}

//% if slot.key_valid is defined
fn key_is_valid(batch: u32, key: u32) -> bool {
    let i = P.key_valid_base + batch * P.seqlen_k + key;
    return ((key_valid[i >> 2u] >> (8u * (i & 3u))) & 0xffu) != 0u;
}
//% endif

//% if softcap
// tanh by its odd series near 0, where 1 - 2 / (e^2x + 1) would cancel. WGSL's own may be off by
// 1e-5 and overflow.
fn tanh4(x: vec4<f32>) -> vec4<f32> {
    let y = x * x;
    let near = x * (1.0 + y * (-1.0 / 3.0 + y * (2.0 / 15.0 + y * (-17.0 / 315.0 + y * (62.0 / 2835.0)))));
    let far = 1.0 - 2.0 / (exp2(x * (2.0 * LOG2E)) + 1.0);
    return select(far, near, abs(x) < vec4<f32>(0.25));
}
//% endif
