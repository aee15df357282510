// LSH attention: what is looked up for a place of the order, and where a position stands in it.
//
//% if slot.item_texels is defined
// A texel for each place: the position, with the highest bit set if it is not valid, and what a score
// with that key is multiplied by. A loop over keys reads nothing else but their rows.
//% endif
//% if duplicates_once
// For each position its place, the order's inverse.
//% endif
//
// Floor: bound by bandwidth. One invocation takes one place.
//% include "shared/lsh_bindings.wgsl"

const THREADS = 64u;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let n = (w.x + w.y * grid.x) * THREADS + lane;
    let local = n / (P.seqlen * P.rounds);            // of (batch, head)
    if (local >= P.batches * P.heads) { return; }
//% if slot.order is defined
    let position = order[n];
//% else
    let position = n % P.seqlen;
//% endif
//% if slot.item_texels is defined
    let norm = norms[local * P.seqlen + position];
    let bits = position | select(0u, 0x80000000u, norm == NOT_VALID);
    textureStore(item_texels_of, valid_texel(n), vec4<u32>(bits, bitcast<u32>(norm * P.scale), 0u, 0u));
//% endif
//% if duplicates_once
    let to = n - n % P.seqlen + position;
//%   if slot.place_texels is defined
    textureStore(place_texels_of, valid_texel(to), vec4<u32>(n % P.seqlen, 0u, 0u, 0u));
//%   else
    places[to] = n % P.seqlen;
//%   endif
//% endif
}
