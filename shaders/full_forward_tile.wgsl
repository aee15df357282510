// Full attention, forward, for GPUs: register tiles over workgroup memory.
//
// One pass over the keys with an online softmax (FlashAttention-2, algorithm 1):
//     S = Q Kᵀ · scale;  m' = max(m, rowmax S);  P = 2^(S − m');  α = 2^(m − m')
//     l = α l + rowsum P;  O = α O + P V;  at the end  out = O / l,  lse = (m + log2 l) ln 2
// S and m are held in units of log2, so that exp2 is the only transcendental.
//
// Floor: 4·B·H·Lq·Lk·D operations (half if causal) over 2·B·(H·Lq + H_kv·Lk)·D elements: bound by
// arithmetic from a few hundred keys on; each key row is staged once for BLOCK_M queries.
//
// Shape of the work: a workgroup owns BLOCK_M query rows of one head, as TR × TC invocations. An
// invocation owns MR = BLOCK_M / TR rows; of S four neighbouring keys of each (BLOCK_N = 4 TC), of O
// the vec4 columns tc, tc + TC, …  The head dimension passes through workgroup memory DC elements
// at a time, so its size does not grow with D.
//
// Bitwise reproducible: every sum has one owner and a fixed order.
//% if f16
enable f16;
//% endif
//% include "shared/full_bindings.wgsl"

const BLOCK_M = ${ block_m }u;
const BLOCK_N = ${ block_n }u;
const TR = ${ tr }u;
const TC = ${ tc }u;
const HEAD_DIM = ${ head_dim }u;
const MR = BLOCK_M / TR;
const D4 = HEAD_DIM / 4u;
const OC = D4 / TC;                 // vec4 columns of O per invocation
const DC4 = ${ dc }u / 4u;          // vec4s of the head dimension staged at a time
const CHUNKS = D4 / DC4;
const LD = DC4 + 1u;                // odd: neighbouring rows start in different banks
const VR = ${ vr }u;                // rows of V staged at a time
const VBASE = ${ vbase }u;
const STAGE = ${ stage }u;
const LP = BLOCK_N / 4u + 1u;
//% if stage_f16
alias Staged = vec4<f16>;
//% else
alias Staged = vec4<f32>;
//% endif

var<workgroup> sh: array<Staged, STAGE>;             // Q chunk and K chunk, then V rows
var<workgroup> ps: array<vec4<f32>, BLOCK_M * LP>;   // P: one vec4 = four keys of a row
//% if not subgroups
var<workgroup> red: array<f32, BLOCK_M * TC>;
//% endif
// Set once a V row of a boundary tile holds inf or NaN: then 0 · V is no longer 0.
var<workgroup> not_finite: atomic<u32>;

//% include "shared/full_sequence.wgsl"

//% if subgroups
fn row_max(x: f32) -> f32 {
    var y = x;
//%   for step in subgroup_steps
    y = max(y, subgroupShuffleXor(y, ${ step }u));
//%   endfor
    return y;
}
fn row_sum(x: f32) -> f32 {
    var y = x;
//%   for step in subgroup_steps
    y += subgroupShuffleXor(y, ${ step }u);
//%   endfor
    return y;
}
//% endif

@compute @workgroup_size(TR * TC)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    // The grid is folded into two dimensions; its surplus has nothing to do.
    let id = w.x + w.y * grid.x;
    if (id >= P.workgroups) { return; }
    let block = id % P.blocks;
    let split = (id / P.blocks) % P.splits;
    let head = P.first_head + (id / (P.blocks * P.splits)) % P.heads;
    let batch = P.first_batch + id / (P.blocks * P.splits * P.heads);
    let s = sequence_of(batch, head);
    let q0 = i32(block * BLOCK_M);
    if (q0 >= s.seqlen_q) { return; }

    let tc = lane % TC;
    let tr = lane / TC;
    let offset = s.seqlen_k - s.seqlen_q;     // query i stands at position i + offset
    let q_last = min(q0 + i32(BLOCK_M), s.seqlen_q) - 1;
    let see_first = visible(q0 + offset, s.seqlen_k);
    let see_last = visible(q_last + offset, s.seqlen_k);
    // Keys that any row of the block sees, and those that all of them see.
    var k_begin = u32(see_first.x);
    var k_end = u32(see_last.y);
    let all_from = see_last.x;
    let all_to = see_first.y;
//% if split
    k_begin = max(k_begin, split * P.split_len);
    k_end = min(k_end, (split + 1u) * P.split_len);
//% endif

    if (lane == 0u) { atomicStore(&not_finite, 0u); }
    var acc = array<array<vec4<f32>, OC>, MR>();
    var m = array<f32, MR>();
    var l = array<f32, MR>();                 // this invocation's share of the row sum
    for (var i = 0u; i < MR; i++) { m[i] = NEG; }
//% if alibi
    let slope = alibi_slopes[P.alibi_base + head] * LOG2E;
//% endif

    for (var kt = k_begin / BLOCK_N * BLOCK_N; kt < k_end; kt += BLOCK_N) {
        // ---- S = Q Kᵀ, DC elements of the head dimension at a time
        var score = array<vec4<f32>, MR>();
        for (var c = 0u; c < CHUNKS; c++) {
            workgroupBarrier();
//% if chunks == 1
            if (kt == k_begin / BLOCK_N * BLOCK_N) {
//% else
            {
//% endif
                for (var n = lane; n < BLOCK_M * DC4; n += TR * TC) {
                    let row = min(q0 + i32(n / DC4), q_last);
                    let x = load_q(s.q + u32(row) * P.q_row, (c * DC4 + n % DC4) * 4u);
                    sh[(n / DC4) * LD + n % DC4] = Staged(x);
                }
            }
            // Key r lies at slot (r % 4) TC + r / 4, so that neighbours tc read neighbouring rows.
            for (var n = lane; n < BLOCK_N * DC4; n += TR * TC) {
                let r = n / DC4;
                let row = min(i32(kt + r), s.seqlen_k - 1);
                let x = load_k(s.k + u32(row) * P.k_row, (c * DC4 + n % DC4) * 4u);
                sh[(BLOCK_M + (r % 4u) * TC + r / 4u) * LD + n % DC4] = Staged(x);
            }
            workgroupBarrier();
            for (var d = 0u; d < DC4; d++) {
                let k0 = vec4<f32>(sh[(BLOCK_M + tc) * LD + d]);
                let k1 = vec4<f32>(sh[(BLOCK_M + TC + tc) * LD + d]);
                let k2 = vec4<f32>(sh[(BLOCK_M + 2u * TC + tc) * LD + d]);
                let k3 = vec4<f32>(sh[(BLOCK_M + 3u * TC + tc) * LD + d]);
                for (var i = 0u; i < MR; i++) {
                    let q4 = vec4<f32>(sh[(tr * MR + i) * LD + d]);
                    score[i] += vec4<f32>(dot(q4, k0), dot(q4, k1), dot(q4, k2), dot(q4, k3));
                }
            }
        }

        // ---- scale, modify, mask
        let j = i32(kt + tc * 4u);
        let keys = vec4<i32>(j, j + 1, j + 2, j + 3);
        let edge = i32(kt) < all_from || i32(kt + BLOCK_N) > all_to<% if always_edge %> || true<% endif %>;
//% if split
        let last_key = i32(k_end);
//% endif
        for (var i = 0u; i < MR; i++) {
            let row = q0 + i32(tr * MR + i);
            let position = row + offset;
            var x = score[i] * P.scale;
//% if softcap
            x = tanh4(x) * P.softcap;
//% endif
//% if alibi
            x -= slope * vec4<f32>(abs(vec4<i32>(position) - keys));
//% endif
//% if bias
            if (row <= q_last) {
                let at = P.bias_base + batch * P.bias_batch + head * P.bias_head + u32(row) * P.seqlen_k;
                let top = s.seqlen_k - 1;
                x += LOG2E * vec4<f32>(
                    bias[at + u32(min(j, top))], bias[at + u32(min(j + 1, top))],
                    bias[at + u32(min(j + 2, top))], bias[at + u32(min(j + 3, top))]);
            }
//% endif
            if (edge) {
                let see = visible(position, s.seqlen_k);
                var ok = (keys >= vec4<i32>(see.x)) & (keys < vec4<i32>(see.y));
//% if split
                ok = ok & (keys < vec4<i32>(last_key));
//% endif
//% if key_padding
                let top = s.seqlen_k - 1;
                ok = ok & vec4<bool>(
                    key_is_valid(batch, u32(min(j, top))), key_is_valid(batch, u32(min(j + 1, top))),
                    key_is_valid(batch, u32(min(j + 2, top))), key_is_valid(batch, u32(min(j + 3, top))));
//% endif
                x = select(vec4<f32>(NEG), x, ok);
            }
            score[i] = x;
        }

        // ---- online softmax
//% if not subgroups
        for (var i = 0u; i < MR; i++) {
            let x = score[i];
            red[(tr * MR + i) * TC + tc] = max(max(x.x, x.y), max(x.z, x.w));
        }
        workgroupBarrier();
//% endif
        for (var i = 0u; i < MR; i++) {
            let x = score[i];
//% if subgroups
            let m_new = max(m[i], row_max(max(max(x.x, x.y), max(x.z, x.w))));
//% else
            var m_new = m[i];
            for (var t = 0u; t < TC; t++) { m_new = max(m_new, red[(tr * MR + i) * TC + t]); }
//% endif
            let alpha = exp2(m[i] - m_new);
            // Not p = 2^(NEG − m): m is NEG too while nothing was seen.
            let p = select(exp2(x - m_new), vec4<f32>(), x <= vec4<f32>(NEG));
            l[i] = l[i] * alpha + (p.x + p.y + p.z + p.w);
            m[i] = m_new;
            ps[(tr * MR + i) * LP + tc] = p;
            for (var c = 0u; c < OC; c++) { acc[i][c] *= alpha; }
        }

        // ---- O += P V, VR rows of V at a time
        for (var r0 = 0u; r0 < BLOCK_N; r0 += VR) {
            workgroupBarrier();
            for (var n = lane; n < VR * D4; n += TR * TC) {
                let row = min(i32(kt + r0 + n / D4), s.seqlen_k - 1);
                let x = load_v(s.v + u32(row) * P.v_row, (n % D4) * 4u);
                if (edge && any((bitcast<vec4<u32>>(x) & vec4<u32>(0x7f800000u)) == vec4<u32>(0x7f800000u))) {
                    atomicStore(&not_finite, 1u);
                }
                sh[VBASE + n] = Staged(x);
            }
            workgroupBarrier();
            // Bounds of two loops rather than a branch: a CPU adapter skips a loop with no lane in it,
            // but runs both sides of a branch.
            let finite_rows = select(0u, VR, atomicLoad(&not_finite) == 0u);
            for (var r = 0u; r < finite_rows; r += 4u) {
                var p = array<vec4<f32>, MR>();
                for (var i = 0u; i < MR; i++) { p[i] = ps[(tr * MR + i) * LP + (r0 + r) / 4u]; }
                for (var c = 0u; c < OC; c++) {
                    let at = VBASE + r * D4 + c * TC + tc;
                    let v0 = vec4<f32>(sh[at]);
                    let v1 = vec4<f32>(sh[at + D4]);
                    let v2 = vec4<f32>(sh[at + 2u * D4]);
                    let v3 = vec4<f32>(sh[at + 3u * D4]);
                    for (var i = 0u; i < MR; i++) {
                        acc[i][c] += p[i].x * v0 + p[i].y * v1 + p[i].z * v2 + p[i].w * v3;
                    }
                }
            }
            // The same, but a masked key adds nothing even where its value is inf or NaN.
            for (var r = finite_rows; r < VR; r++) {
                for (var c = 0u; c < OC; c++) {
                    let v0 = vec4<f32>(sh[VBASE + r * D4 + c * TC + tc]);
                    for (var i = 0u; i < MR; i++) {
                        let p = ps[(tr * MR + i) * LP + (r0 + r) / 4u][r % 4u];
                        acc[i][c] += select(p * v0, vec4<f32>(), vec4<bool>(p == 0.0));
                    }
                }
            }
        }
    }

    // ---- l over the row's invocations
//% if not subgroups
    workgroupBarrier();
    for (var i = 0u; i < MR; i++) { red[(tr * MR + i) * TC + tc] = l[i]; }
    workgroupBarrier();
//% endif
    for (var i = 0u; i < MR; i++) {
//% if subgroups
        let sum = row_sum(l[i]);
//% else
        var sum = 0.0;
        for (var t = 0u; t < TC; t++) { sum += red[(tr * MR + i) * TC + t]; }
//% endif
        let row = q0 + i32(tr * MR + i);
        if (row <= q_last) {
//% if split
            let at = (split * P.partial_rows + id / (P.blocks * P.splits) * P.seqlen_q + u32(row)) * (HEAD_DIM + 2u);
            for (var c = 0u; c < OC; c++) {
                let d = (c * TC + tc) * 4u;
                partial[at + d] = acc[i][c].x;
                partial[at + d + 1u] = acc[i][c].y;
                partial[at + d + 2u] = acc[i][c].z;
                partial[at + d + 3u] = acc[i][c].w;
            }
            if (tc == 0u) {
                partial[at + HEAD_DIM] = m[i];
                partial[at + HEAD_DIM + 1u] = sum;
            }
//% else
            let inverse = select(1.0 / sum, 0.0, sum == 0.0);
            for (var c = 0u; c < OC; c++) {
                store_out(s.out + u32(row) * P.out_row, (c * TC + tc) * 4u, acc[i][c] * inverse);
            }
            if (tc == 0u) {
                lse[s.lse + u32(row)] = select(bitcast<u32>((m[i] + log2(sum)) * LN2), MINUS_INF_BITS, sum == 0.0);
            }
//% endif
        }
    }
}
