// Relative-position attention: merges the partial results of a key sequence that was split.
//
//     m = max_s m_s;  l = Σ_s 2^(m_s − m) l_s;  out = Σ_s 2^(m_s − m) O_s / l;  lse = (m + log2 l) ln 2
//
// Floor: bound by bandwidth; reads splits · rows · (D + 2) f32 once. One invocation owns one vec4 of
// one row and adds the splits in order, so the result is bitwise reproducible.
//% set partial_rows = "P.partial_rows"
//% if f16
enable f16;
//% endif
//% include "shared/transformer_xl_bindings.wgsl"

const HEAD_DIM = ${ head_dim }u;
const D4 = HEAD_DIM / 4u;
const THREADS = 64u;

//% include "shared/transformer_xl_sequence.wgsl"

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let n = (w.x + w.y * grid.x) * THREADS + lane;
    let local_row = n / D4;
    if (local_row >= P.partial_rows) { return; }
    let row = local_row % P.seqlen_q;
    let s = sequence_of(local_row / (P.seqlen_q * P.heads), local_row / P.seqlen_q % P.heads);
    let d = (n % D4) * 4u;

//% include "shared/merge.wgsl"
}
