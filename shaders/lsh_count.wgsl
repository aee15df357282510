// LSH attention, sorting by one digit of the bucket: how many items of each block have each digit.
//
// Floor: bound by bandwidth; reads a bucket and writes DIGITS / ITEMS words an item. An invocation
// counts the ITEMS items of one block, in order, in numbers of its own: no atomics, and
// lsh_scatter.wgsl can go through the same items in the same order.
//% include "shared/lsh_bindings.wgsl"

const ITEMS = ${ items }u;
const THREADS = ${ threads }u;

//% include "shared/lsh_key.wgsl"

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let n = (w.x + w.y * grid.x) * THREADS + lane;
    let segment = n / P.sort_blocks;
    if (segment >= P.batches * P.heads * P.rounds) { return; }
    let block = n % P.sort_blocks;
    let counts = histogram_at(segment, block);
    for (var digit = 0u; digit < P.digits; digit++) { histogram[counts + digit * P.sort_blocks] = 0u; }
    let end = min((block + 1u) * ITEMS, P.seqlen);
    for (var i = block * ITEMS; i < end; i++) {
//% if slot.order_before is defined
        let position = order_before[segment * P.seqlen + i];
//% else
        let position = i;
//% endif
        let at = counts + digit_of(segment, position) * P.sort_blocks;
        histogram[at] += 1u;
    }
}
