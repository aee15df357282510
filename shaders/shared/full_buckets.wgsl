// T5's bias of one head, in units of log2: filled once, read by bucket.
var<workgroup> bias_of: array<f32, ${ buckets.num_buckets }>;

// The bucket of a key that lies `distance` positions in the past: see Buckets in the crate.
fn bucket(distance: i32) -> i32 {
//% if buckets.bidirectional
    let m = abs(distance);
//% else
    let m = max(distance, 0);
//% endif
    var b = min(m, ${ buckets.near });
//% for threshold in buckets.thresholds
    b += select(0, 1, m >= ${ threshold });
//% endfor
//% if buckets.bidirectional
    b += select(0, ${ buckets.of_side }, distance < 0);
//% endif
    return b;
}

fn fill_buckets(lane: u32, threads: u32, head: u32) {
    for (var n = lane; n < ${ buckets.num_buckets }u; n += threads) {
        bias_of[n] = bias_table[P.table_base + n * P.table_row + head] * LOG2E;
    }
    workgroupBarrier();
}
