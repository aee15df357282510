//# Tile kernels: the rows that are `stored` go to `out_row`, or as a part to `partial_row`.
    // ---- l over the row's invocations
//% if not subgroups
    workgroupBarrier();
    for (var i = 0u; i < MR; i++) { red[(tr * MR + i) * TC + tc] = l[i]; }
    workgroupBarrier();
//% endif
    for (var i = 0u; i < MR; i++) {
//% if subgroups
        let sum = row_sum(l[i]);
//% else
        var sum = 0.0;
        for (var t = 0u; t < TC; t++) { sum += red[(tr * MR + i) * TC + t]; }
//% endif
        let row = q0 + i32(tr * MR + i);
        if (${ stored }) {
//% if split
            let at = (${ partial_row }) * (HEAD_DIM + 2u);
            for (var c = 0u; c < OC; c++) {
                let d = (c * TC + tc) * 4u;
                partial[at + d] = acc[i][c].x;
                partial[at + d + 1u] = acc[i][c].y;
                partial[at + d + 2u] = acc[i][c].z;
                partial[at + d + 3u] = acc[i][c].w;
            }
            if (tc == 0u) {
                partial[at + HEAD_DIM] = m[i];
                partial[at + HEAD_DIM + 1u] = sum;
            }
//% elif merged is defined
//%   include merged
//% else
            let inverse = select(1.0 / sum, 0.0, sum == 0.0);
            for (var c = 0u; c < OC; c++) {
                store_out(s.out + u32(${ out_row }) * P.out_row, (c * TC + tc) * 4u, acc[i][c] * inverse);
            }
            if (tc == 0u) {
                lse[s.lse + u32(${ out_row })] = lse_bits(m[i], sum);
            }
//% endif
        }
    }
