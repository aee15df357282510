// LSH attention on CPU adapters: a key's factor<% if hashed %>, and the bucket of each position in each round<% endif %>.
//
//     factor_i = 1 / sqrt(mean(qk_i²) + key_norm_eps)
//% if hashed
//     y = qk_i · rotations;  b_f = argmax [y ; −y], the first if equal;  bucket = b_0 + f_0·b_1 + …
//% endif
//
// Floor: 2·B·H·L·D operations for each column of the rotations. ROWS positions to an invocation in
// registers share the reading of a column. Every sum has one owner and a fixed order.
//% include "shared/lsh_bindings.wgsl"

const LANES = ${ lanes }u;
const ROWS = ${ rows }u;

//% if hashed
//% include "shared/lsh_best.wgsl"

//% endif
@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let id = w.x + w.y * grid.x;
    if (id >= P.workgroups) { return; }
    let first = P.segment_first + id % P.blocks * LANES * ROWS;
    let end = min(P.segment_first + P.segment_rows, P.seqlen);
    let local = id / P.blocks;                        // of (batch, head)
//% for r in range(rows)
    let row${ r } = first + lane + ${ r * lanes }u;
    let at${ r } = kv_texel(local * P.segment_rows + min(row${ r }, end - 1u) - P.segment_first);
    var square${ r } = vec4<f32>();
//%   for d in range(d4)
    let x${ r }_${ d } = textureLoad(kv_texels_of, at${ r } + vec2<i32>(${ d }, 0));
    square${ r } += x${ r }_${ d } * x${ r }_${ d };
//%   endfor
//%   if slot.key_valid is defined
    let valid${ r } = is_valid(local / P.heads, min(row${ r }, end - 1u));
//%   else
    let valid${ r } = true;
//%   endif
    let factor${ r } = 1.0 / sqrt(dot(square${ r }, vec4<f32>(1.0)) / f32(P.head_dim) + P.key_norm_eps);
    if (row${ r } < end) { norms[local * P.seqlen + row${ r }] = select(NOT_VALID, factor${ r }, valid${ r }); }
//% endfor
//% if hashed
    for (var round = 0u; round < P.rounds; round++) {
        var column = (local % P.heads * P.rounds + round) * P.columns;
        var below = 1u;
//%   for r in range(rows)
        var bucket${ r } = 0u;
//%   endfor
        for (var f = 0u; f < P.factors; f++) {
            let half = factors[f];
//%   for r in range(rows)
            var best${ r } = nothing_yet();
//%   endfor
            for (var c = 0u; c < half; c++) {
                let at = q_texel(column + c);
//%   for r in range(rows)
                var y${ r } = 0.0;
//%   endfor
//%   for d in range(d4)
                let k${ d } = textureLoad(rotation_texels_of, at + vec2<i32>(${ d }, 0));
//%     for e in "xyzw"
//%       for r in range(rows)
                y${ r } += x${ r }_${ d }.${ e } * k${ d }.${ e };
//%       endfor
//%     endfor
//%   endfor
//%   for r in range(rows)
                best${ r } = better(best${ r }, y${ r }, c);
//%   endfor
            }
//%   for r in range(rows)
            bucket${ r } += below * bucket_of_best(best${ r }, half);
//%   endfor
            below *= 2u * half;
            column += half;
        }
        let at_round = P.buckets_base + (local * P.rounds + round) * P.seqlen;
//%   for r in range(rows)
        if (row${ r } < end) { buckets[at_round + row${ r }] = select(P.buckets, bucket${ r }, valid${ r }); }
//%   endfor
    }
//% endif
}
