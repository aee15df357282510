//# Rows kernels: adds to the scores `s0_0`, … the keys at texels `kv0`, …; with `positions` to each
//# key the row `t0`, … of the table that stands at its distance.
//% for d in range(d4)
//%   for j in range(keys)
        let k${ j }_${ d } = textureLoad(kv_texels_of, kv${ j } + vec2<i32>(${ d }, 0));
//%   endfor
//%   for c in "xyzw"
//%     for j in range(keys)
//%       for r in range(rows)
//%         if positions is defined
        s${ r }_${ j } += q${ r }_${ d }.${ c } * (k${ j }_${ d }.${ c } + t${ r - j + keys - 1 }_${ d }.${ c });
//%         else
        s${ r }_${ j } += q${ r }_${ d }.${ c } * k${ j }_${ d }.${ c };
//%         endif
//%       endfor
//%     endfor
//%   endfor
//% endfor
