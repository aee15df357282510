//# Merges the parts of row `local_row`, of `partial_rows` in each split, into row `row`.
    var m = NEG;
    for (var split = 0u; split < P.splits; split++) {
        let at = (split * ${ partial_rows } + local_row) * (HEAD_DIM + 2u) + HEAD_DIM;
        // A split in which the row sees nothing has l = 0 and no say in the maximum. `!=` would leave
        // out a NaN too, where the compiler takes it for a comparison that NaN fails.
        if (!(partial[at + 1u] == 0.0)) { m = max(m, partial[at]); }
    }
    var sum = 0.0;
    var o = vec4<f32>();
    for (var split = 0u; split < P.splits; split++) {
        let at = (split * ${ partial_rows } + local_row) * (HEAD_DIM + 2u);
        let l = partial[at + HEAD_DIM + 1u];
        if (!(l == 0.0)) {
            let weight = exp2(partial[at + HEAD_DIM] - m);
            sum += weight * l;
            o += weight * vec4<f32>(partial[at + d], partial[at + d + 1u], partial[at + d + 2u], partial[at + d + 3u]);
        }
    }
    store_out(s.out + row * P.out_row, d, o * select(1.0 / sum, 0.0, sum == 0.0));
    if (d == 0u) {
        lse[s.lse + row] = lse_bits(m, sum);
    }
