//# Rows kernels: adds to the scores `s0_0`, … the keys at texels `kv0`, …
//% for d in range(d4)
//%   for j in range(keys)
        let k${ j }_${ d } = textureLoad(kv_texels_of, kv${ j } + vec2<i32>(${ d }, 0));
//%   endfor
//%   for c in "xyzw"
//%     for j in range(keys)
//%       for r in range(rows)
        s${ r }_${ j } += q${ r }_${ d }.${ c } * k${ j }_${ d }.${ c };
//%       endfor
//%     endfor
//%   endfor
//% endfor
