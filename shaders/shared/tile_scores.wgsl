//# Tile kernels: the scores of one tile, of the rows `q_row` and the keys `k_row`; with `positions`
//# also of the rows `table_row` of the table, the tile's BAND distances.
        // ---- S = Q Kᵀ, DC elements of the head dimension at a time
        var score = array<vec4<f32>, MR>();
//% if positions is defined and targets
        // Where the table's rows for the invocation's pairs begin.
        var near = array<vec4<u32>, MR>();
        for (var i = 0u; i < MR; i++) {
            let d = place[i] - i32(kt + tc * 4u);
            let rows = vec4<u32>(row_of(d), row_of(d - 1), row_of(d - 2), row_of(d - 3));
            near[i] = vec4<u32>(s.table) + rows * P.table_row;
        }
//% endif
        for (var c = 0u; c < CHUNKS; c++) {
            workgroupBarrier();
//% if chunks == 1
            if (${ first_tile }) {
//% else
            {
//% endif
                for (var n = lane; n < BLOCK_M * DC4; n += TR * TC) {
                    let row = ${ q_row };
                    let x = load_${ q_tensor | default("q") }(s.q + u32(row) * P.${ q_tensor | default("q") }_row, (c * DC4 + n % DC4) * 4u);
                    sh[(n / DC4) * LD + n % DC4] = Staged(x);
                }
            }
            // Key r lies at slot (r % 4) TC + r / 4, so that neighbours tc read neighbouring rows.
            for (var n = lane; n < BLOCK_N * DC4; n += TR * TC) {
                let r = n / DC4;
                let row = ${ k_row };
//% if positions is defined
                let x = load_key(s, row, (c * DC4 + n % DC4) * 4u);
//% else
                let x = load_${ k_tensor | default("k") }(s.k + u32(row) * P.${ k_tensor | default("k") }_row, (c * DC4 + n % DC4) * 4u);
//% endif
                sh[(BLOCK_M + (r % 4u) * TC + r / 4u) * LD + n % DC4] = Staged(x);
            }
//% if positions is defined and not targets
            // The band's rows likewise; its last place is free for the difference of the biases.
            for (var n = lane; n < BAND * DC4; n += TR * TC) {
                let r = n / DC4;
                let d = (c * DC4 + n % DC4) * 4u;
                var x = vec4<f32>();
                if (r == BAND - 1u) {
                    x = load_q(P.differences_at + head * HEAD_DIM, d);
                } else {
                    x = load_table(s.table + ${ table_row } * P.table_row, d);
                }
                sh[band_slot(r) * LD + n % DC4] = Staged(x);
            }
//% endif
            workgroupBarrier();
            for (var d = 0u; d < DC4; d++) {
                let k0 = vec4<f32>(sh[(BLOCK_M + tc) * LD + d]);
                let k1 = vec4<f32>(sh[(BLOCK_M + TC + tc) * LD + d]);
                let k2 = vec4<f32>(sh[(BLOCK_M + 2u * TC + tc) * LD + d]);
                let k3 = vec4<f32>(sh[(BLOCK_M + 3u * TC + tc) * LD + d]);
                for (var i = 0u; i < MR; i++) {
                    let q4 = vec4<f32>(sh[(tr * MR + i) * LD + d]);
                    score[i] += vec4<f32>(dot(q4, k0), dot(q4, k1), dot(q4, k2), dot(q4, k3));
                }
//% if positions is defined and targets
                let at = (c * DC4 + d) * 4u;
                let difference = load_q(P.differences_at + head * HEAD_DIM, at);
                for (var i = 0u; i < MR; i++) {
                    let q4 = vec4<f32>(sh[(tr * MR + i) * LD + d]) + difference;
                    score[i] += vec4<f32>(
                        dot(q4, load_table(near[i].x, at)), dot(q4, load_table(near[i].y, at)),
                        dot(q4, load_table(near[i].z, at)), dot(q4, load_table(near[i].w, at)));
                }
//% elif positions is defined
                // Four keys of MR rows meet MR + 3 distances.
                let difference = vec4<f32>(sh[band_slot(BAND - 1u) * LD + d]);
                var r = array<vec4<f32>, MR + 3u>();
                for (var n = 0u; n < MR + 3u; n++) { r[n] = vec4<f32>(sh[band_slot(nearest + n) * LD + d]); }
                for (var i = 0u; i < MR; i++) {
                    let q4 = vec4<f32>(sh[(tr * MR + i) * LD + d]) + difference;
                    score[i] += vec4<f32>(dot(q4, r[i + 3u]), dot(q4, r[i + 2u]), dot(q4, r[i + 1u]), dot(q4, r[i]));
                }
//% endif
            }
        }
