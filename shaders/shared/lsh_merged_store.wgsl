//# Tile kernel: a row of this round, merged with the rounds before it.
            let own = lse_of(m[i], sum);
            let of_rounds = merge_rounds(lse_before[i], own);
            let inverse = of_rounds.z / sum;
            for (var c = 0u; c < OC; c++) {
                let d = (c * TC + tc) * 4u;
                let at = s.out + u32(position[i]) * P.out_row;
                var before = vec4<f32>();
                if (P.round > 0u) { before = weighted(of_rounds.y, load_out(at, d)); }
                store_out(at, d, weighted(inverse, acc[i][c]) + before);
            }
            if (tc == 0u) {
                lse[at_lse + u32(position[i])] = bitcast<u32>(of_rounds.x);
//% if slot.lse_rounds is defined
                lse_rounds[P.lse_rounds_base + items_q + u32(position[i])] = bitcast<u32>(own);
//% endif
            }
