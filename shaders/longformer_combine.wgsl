// Longformer: merges the parts of the global rows, and puts them where they belong.
//
//     m = max_s m_s;  l = Σ_s 2^(m_s − m) l_s;  out = Σ_s 2^(m_s − m) O_s / l;  lse = (m + log2 l) ln 2
//
// Floor: bound by bandwidth; reads splits · B · H · g · (D + 2) f32 once. One invocation owns one
// vec4 of one row and adds the splits in order, so the result is bitwise reproducible.
//% set partial_rows = "partial_rows"
//% if f16
enable f16;
//% endif
//% include "shared/longformer_bindings.wgsl"

const HEAD_DIM = ${ head_dim }u;
const D4 = HEAD_DIM / 4u;
const THREADS = 64u;

//% include "shared/longformer_sequence.wgsl"

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let n = (w.x + w.y * grid.x) * THREADS + lane;
    let partial_rows = P.batches * P.heads * P.max_globals;
    let local_row = n / D4;
    if (local_row >= partial_rows) { return; }
    let place = local_row % P.max_globals;
    let head = (local_row / P.max_globals) % P.heads;
    let batch = local_row / (P.max_globals * P.heads);
    let s = sequence_of(batch, head);
    if (place >= marks[list_at(batch)]) { return; }
    let row = marks[list_at(batch) + 1u + place];
    let d = (n % D4) * 4u;

//% include "shared/merge.wgsl"
}
