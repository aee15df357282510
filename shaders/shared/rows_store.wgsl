//# Rows kernels: O / l and lse of the rows `row0`, … up to `q_last`, to the place in `out` that
//# `place_of_row` says of a `row`.
    // ---- O / l and lse<% if not vec4 %>, the long list of stores through workgroup memory<% endif %>
//% for r in range(rows)
    let inverse${ r } = select(1.0 / l${ r }, 0.0, l${ r } == 0.0);
//%   if not vec4
//%     for d in range(d4)
    o[lane * ROWS * D4 + ${ r * d4 + d }u] = o${ r }_${ d } * inverse${ r };
//%     endfor
//%   endif
    if (row${ r } <= q_last) {
        let row = row${ r };
        let place = ${ place_of_row };
        lse[s.lse + place] = lse_bits(m${ r }, l${ r });
//%   if vec4
        let to = s.out + place * P.out_row;
//%     for d in range(d4)
        store_out(to, ${ d * 4 }u, o${ r }_${ d } * inverse${ r });
//%     endfor
//%   endif
    }
//% endfor
//% if not vec4
    for (var i = 0u; i < ROWS * D4; i++) {
        let x = o[lane * ROWS * D4 + i];
        let row = q0 + i32(lane + i / D4 * LANES);
        if (row <= q_last) { store_out(s.out + ${ place_of_row } * P.out_row, i % D4 * 4u, x); }
    }
//% endif
