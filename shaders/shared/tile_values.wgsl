//# Tile kernels: one tile of the sum over V, of the rows `v_row`.
        // ---- O += P V, VR rows of V at a time
        for (var r0 = 0u; r0 < BLOCK_N; r0 += VR) {
            workgroupBarrier();
            for (var n = lane; n < VR * D4; n += TR * TC) {
                let row = ${ v_row };
//% if positions is defined
                let x = load_value(s, row, (n % D4) * 4u);
//% else
                let x = load_v(s.v + u32(row) * P.v_row, (n % D4) * 4u);
//% endif
                if (edge && any((bitcast<vec4<u32>>(x) & vec4<u32>(0x7f800000u)) == vec4<u32>(0x7f800000u))) {
                    atomicStore(&not_finite, 1u);
                }
                sh[VBASE + n] = Staged(x);
            }
            workgroupBarrier();
            // Bounds of two loops rather than a branch: a CPU adapter skips a loop with no lane in it,
            // but runs both sides of a branch.
            let finite_rows = select(0u, VR, atomicLoad(&not_finite) == 0u);
            for (var r = 0u; r < finite_rows; r += 4u) {
                var p = array<vec4<f32>, MR>();
                for (var i = 0u; i < MR; i++) { p[i] = ps[(tr * MR + i) * LP + (r0 + r) / 4u]; }
                for (var c = 0u; c < OC; c++) {
                    let at = VBASE + r * D4 + c * TC + tc;
                    let v0 = vec4<f32>(sh[at]);
                    let v1 = vec4<f32>(sh[at + D4]);
                    let v2 = vec4<f32>(sh[at + 2u * D4]);
                    let v3 = vec4<f32>(sh[at + 3u * D4]);
                    for (var i = 0u; i < MR; i++) {
                        acc[i][c] += p[i].x * v0 + p[i].y * v1 + p[i].z * v2 + p[i].w * v3;
                    }
                }
            }
            // The same, but a masked key adds nothing even where its value is inf or NaN.
            for (var r = finite_rows; r < VR; r++) {
                for (var c = 0u; c < OC; c++) {
                    let v0 = vec4<f32>(sh[VBASE + r * D4 + c * TC + tc]);
                    for (var i = 0u; i < MR; i++) {
                        let p = ps[(tr * MR + i) * LP + (r0 + r) / 4u][r % 4u];
                        acc[i][c] += select(p * v0, vec4<f32>(), vec4<bool>(p == 0.0));
                    }
                }
            }
        }
