// ---- which chunks a chunk sees, and how rounds are merged

// Number n of the chunks that `chunk` of this round sees: x is its round, y its number in that.
fn chunk_seen(chunk: u32, n: u32) -> vec2<u32> {
    let own = (P.round - P.ring_round) * P.chunks + chunk;
    let c = (own + n % P.ring + P.ring_shift) % P.ring;
    return vec2<u32>(P.ring_round + c / P.chunks, c % P.chunks);
}

// The places of a round's chunk: x to y - 1. In the last one, those past the sequence hold nothing.
fn places_of(chunk: u32) -> vec2<u32> {
    return vec2<u32>(chunk * P.chunk_len, min((chunk + 1u) * P.chunk_len, P.seqlen));
}

// The lse of a maximum in units of log2 and a sum. A row that meets nothing but masks has theirs
// exactly: at −1e5 the rounding of another factor would be seen.
fn lse_of(m: f32, l: f32) -> f32 {
    let natural = select(select(m * LN2, P.mask_value, m == P.mask), P.self_mask_value, m == P.self_mask);
    return natural + ln(l);
}

//% include "shared/two_results.wgsl"

// The rounds before and this one.
fn merge_rounds(before: f32, own: f32) -> vec3<f32> {
    return select(merge(before, own), vec3<f32>(own, 0.0, 1.0), vec3<bool>(P.round == 0u));
}
//% if duplicates_once

fn place_at(local: u32, round: u32, position: u32) -> u32 {
    let n = (local * P.rounds + round) * P.seqlen + position;
//%   if slot.place_texels is defined
    return textureLoad(place_texels_of, valid_texel(n)).x;
//%   else
    return places[n];
//%   endif
}

// 1 / N for the N times that a row meets a key in all rounds: what each of them counts. Their scores
// would lose log2 N, which is less exact.
fn share_of(local: u32, row: u32, key: u32) -> f32 {
    var met = 0u;
    for (var r = 0u; r < P.rounds; r++) {
        let of_row = place_at(local, r, row) / P.chunk_len;
        // In a ring of one round, only that round's chunks.
        let one = P.ring == P.chunks;
        for (var t = select(0u, r, one); t < select(P.rounds, r + 1u, one); t++) {
            let of_key = place_at(local, t, key) / P.chunk_len;
            // By how much the chunk seen first must be passed to come to the key's.
            let first = select(r * P.chunks, 0u, one) + of_row + P.ring_shift;
            let last = select(t * P.chunks, 0u, one) + of_key;
            let steps = (last + P.ring - first % P.ring) % P.ring;
            met += select(0u, (P.seen - 1u - min(steps, P.seen - 1u)) / P.ring + 1u, steps < P.seen);
        }
    }
    return 1.0 / f32(max(met, 1u));
}
//% endif
