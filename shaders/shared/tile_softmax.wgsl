//# Tile kernels: one step of the online softmax.
        // ---- online softmax
//% if not subgroups
        for (var i = 0u; i < MR; i++) {
            let x = score[i];
            red[(tr * MR + i) * TC + tc] = max(max(x.x, x.y), max(x.z, x.w));
        }
        workgroupBarrier();
//% endif
        for (var i = 0u; i < MR; i++) {
            let x = score[i];
//% if subgroups
            let m_new = max(m[i], row_max(max(max(x.x, x.y), max(x.z, x.w))));
//% else
            var m_new = m[i];
            for (var t = 0u; t < TC; t++) { m_new = max(m_new, red[(tr * MR + i) * TC + t]); }
//% endif
            let alpha = exp2(m[i] - m_new);
            // Not p = 2^(NEG − m): m is NEG too while nothing was seen.
            let p = select(exp2(x - m_new)<% if shares is defined %> * share[i]<% endif %>, vec4<f32>(), x <= vec4<f32>(NEG));
            l[i] = l[i] * alpha + (p.x + p.y + p.z + p.w);
            m[i] = m_new;
            ps[(tr * MR + i) * LP + tc] = p;
            for (var c = 0u; c < OC; c++) { acc[i][c] *= alpha; }
        }
