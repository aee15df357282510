// LSH attention, sorting by one digit of the bucket: puts each item where it goes.
//
// Floor: bound by bandwidth; reads a bucket, reads and writes a position. An invocation takes the
// items of one block in order, so that items with equal digits keep theirs: the sort is stable, and
// the same in every run.
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
    let next = histogram_at(segment, block);
    let end = min((block + 1u) * ITEMS, P.seqlen);
    for (var i = block * ITEMS; i < end; i++) {
//% if slot.order_before is defined
        let position = order_before[segment * P.seqlen + i];
//% else
        let position = i;
//% endif
        let at = next + digit_of(segment, position) * P.sort_blocks;
        let place = histogram[at];
        histogram[at] = place + 1u;
        order[segment * P.seqlen + place] = position;
    }
}
