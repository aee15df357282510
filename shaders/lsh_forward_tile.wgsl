// LSH attention, one round, for GPUs: register tiles over workgroup memory.
//
//     s = scale · qk_i·qk_j · factor_j;  mask_value if j is not valid or, causal, j > i;  then
//     self_mask_value if j = i;  o, lse: softmax and logsumexp over the chunks that i's chunk sees
//     out_i = (e^(lse_i − m) out_i + e^(lse − m) o) / (e^(lse_i − m) + e^(lse − m)),  m the larger
//
// Rounds are launched one after another, so that no round's result is kept: the first stores out and
// lse, the others merge theirs into it.
//
// Floor: 4·B·H·L·w·D operations for chunks of w keys in all. A workgroup takes BLOCK_M rows of a
// chunk; rows are found through the order as they are staged, and nothing is copied in that.
//
// Online softmax and shape of the work are those of full_forward_tile.wgsl; its tiles do not cross
// chunks.
//
// Bitwise reproducible: every sum has one owner and a fixed order.
//% set first_tile = "t == 0u"
//% set q_row = "qid[n / DC4]"
//% set k_row = "max(kid[r / 4u][r % 4u], 0)"
//% set v_row = "max(kid[(r0 + n / D4) / 4u][(r0 + n / D4) % 4u], 0)"
//% if duplicates_once
//%   set shares = true
//% endif
//% set stored = "row < q_end"
//% set q_tensor = "qk"
//% set k_tensor = "qk"
//% set merged = "shared/lsh_merged_store.wgsl"
//% if f16
enable f16;
//% endif
//% include "shared/lsh_bindings.wgsl"

//% include "shared/tile_memory.wgsl"
var<workgroup> qid: array<i32, BLOCK_M>;             // positions of the rows
// Of the tile's keys: positions, or −1; the same, or above all if not valid; factors.
var<workgroup> kid: array<vec4<i32>, BLOCK_N / 4u>;
var<workgroup> kseen: array<vec4<i32>, BLOCK_N / 4u>;
var<workgroup> kfactor: array<vec4<f32>, BLOCK_N / 4u>;

//% include "shared/lsh_rounds.wgsl"

// One sequence and head: the element at which row 0 begins.
struct Sequence {
    q: u32,
    k: u32,
    v: u32,
    out: u32,
}

fn sequence_of(batch: u32, head: u32) -> Sequence {
    var s = Sequence();
    s.q = P.qk_base + batch * P.qk_batch + head * P.qk_head;
    s.k = s.q;
    s.v = P.v_base + batch * P.v_batch + head * P.v_head;
    s.out = P.out_base + batch * P.out_batch + head * P.out_head;
    return s;
}

// The position at a place of the round whose items begin at `first`.
fn position_at(first: u32, place: u32) -> i32 {
//% if slot.order is defined
    return i32(order[first + place]);
//% else
    return i32(place);
//% endif
}

//% include "shared/tile_reduce.wgsl"

@compute @workgroup_size(TR * TC)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    // The grid is folded into two dimensions; its surplus has nothing to do.
    let id = w.x + w.y * grid.x;
    if (id >= P.workgroups) { return; }
    let chunk = id / P.blocks % P.chunks;
    let local = id / (P.blocks * P.chunks);           // of (batch, head)
    let s = sequence_of(local / P.heads, local % P.heads);
    let tc = lane % TC;
    let tr = lane / TC;
    let q0 = i32(places_of(chunk).x + id % P.blocks * BLOCK_M);
    let q_end = min(q0 + i32(BLOCK_M), i32(places_of(chunk).y));
    if (q0 >= q_end) { return; }
    let first_norm = local * P.seqlen;
    let first_item = first_norm * P.rounds;
    let items_q = first_item + P.round * P.seqlen;
    let at_lse = P.lse_base + first_norm;

    if (lane == 0u) { atomicStore(&not_finite, 0u); }
    for (var n = lane; n < BLOCK_M; n += TR * TC) { qid[n] = position_at(items_q, u32(min(q0 + i32(n), q_end - 1))); }
    workgroupBarrier();
    var acc = array<array<vec4<f32>, OC>, MR>();
    var m = array<f32, MR>();
    var l = array<f32, MR>();                 // this invocation's share of the row sum
    var position = array<i32, MR>();
    // Read here, since the first of these invocations writes it.
    var lse_before = array<f32, MR>();
    for (var i = 0u; i < MR; i++) {
        // A row meets itself, so that no maximum is lower; and no masked key counts before that.
        m[i] = P.self_mask;
        position[i] = qid[tr * MR + i];
        lse_before[i] = bitcast<f32>(lse[at_lse + u32(position[i])]);
    }

    let tiles_of_chunk = (P.chunk_len + BLOCK_N - 1u) / BLOCK_N;
    for (var t = 0u; t < P.seen * tiles_of_chunk; t++) {
        let of_round = chunk_seen(chunk, t / tiles_of_chunk);
        // The reads of the tile before are behind the barrier after its last rows of V.
        if (lane < BLOCK_N / 4u) {
            let kt = places_of(of_round.y).x + t % tiles_of_chunk * BLOCK_N;
            var four = vec4<i32>();
            var four_seen = vec4<i32>();
            var four_factors = vec4<f32>();
            for (var n = 0u; n < 4u; n++) {
                let place = kt + lane * 4u + n;
                four[n] = -1;
                if (place < places_of(of_round.y).y) {
                    let key = position_at(first_item + of_round.x * P.seqlen, place);
                    four[n] = key;
                    let norm = norms[first_norm + u32(key)];
                    four_seen[n] = select(key, 0x7fffffff, norm == NOT_VALID);
                    four_factors[n] = norm * P.scale;
                }
            }
            kid[lane] = four;
            kseen[lane] = four_seen;
            kfactor[lane] = four_factors;
        }
//% include "shared/tile_scores.wgsl"

        // ---- scale, masks
        let keys = kid[tc];
        let seen = kseen[tc];
        let factor = kfactor[tc];
        // A value that counts for nothing may be inf or NaN in any tile.
        let edge = true;
//% if duplicates_once
        var share = array<vec4<f32>, MR>();
//% endif
        for (var i = 0u; i < MR; i++) {
            let sees = select(0x7ffffffe, position[i], P.causal != 0u);
            var x = select(score[i] * factor, vec4<f32>(P.mask), seen > vec4<i32>(sees));
            x = select(x, vec4<f32>(P.self_mask), keys == vec4<i32>(position[i]));
//% if duplicates_once
            for (var n = 0u; n < 4u; n++) { share[i][n] = share_of(local, u32(position[i]), u32(max(keys[n], 0))); }
//% endif
            score[i] = select(x, vec4<f32>(NEG), keys < vec4<i32>());
        }

//% include "shared/tile_softmax.wgsl"

//% include "shared/tile_values.wgsl"
    }

//% include "shared/tile_store.wgsl"
}
