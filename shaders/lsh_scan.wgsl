// LSH attention, sorting by one digit of the bucket: from how many items there are to where they go,
// an exclusive sum over digits and, within a digit, over blocks.
//
// Floor: bound by bandwidth; moves DIGITS / ITEMS words an item. One workgroup to a segment: each
// invocation sums a run of words, the runs are summed, then each goes through its run again.
//% include "shared/lsh_bindings.wgsl"

const THREADS = ${ threads }u;

var<workgroup> sums: array<u32, THREADS>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let segment = w.x + w.y * grid.x;
    if (segment >= P.workgroups) { return; }
    let words = P.digits * P.sort_blocks;
    let run = (words + THREADS - 1u) / THREADS;
    let begin = segment * words + min(lane * run, words);
    let end = segment * words + min((lane + 1u) * run, words);
    var sum = 0u;
    for (var n = begin; n < end; n++) { sum += histogram[n]; }
    sums[lane] = sum;
    workgroupBarrier();
    // Each adds what lies 1, 2, 4, … before it.
    for (var step = 1u; step < THREADS; step *= 2u) {
        let before = select(0u, sums[max(lane, step) - step], lane >= step);
        workgroupBarrier();
        sums[lane] += before;
        workgroupBarrier();
    }
    var at = sums[lane] - sum;
    for (var n = begin; n < end; n++) {
        let count = histogram[n];
        histogram[n] = at;
        at += count;
    }
}
