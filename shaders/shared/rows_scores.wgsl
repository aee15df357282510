//# Rows kernels: adds to the scores `s0_0`, … the keys at texels `kv0`, …; with `positions` to each
//# key the row `t0`, … of the table that stands at its distance. Then eight products are summed by
//# themselves, and those sums before what the score begins with: a chain of rounded sums loses digits
//# with its length, and k + r has lost some already.
//% for d in range(d4)
//%   for j in range(keys)
        let k${ j }_${ d } = textureLoad(kv_texels_of, kv${ j } + vec2<i32>(${ d }, 0));
//%   endfor
//%   for c in "xyzw"
//%     for j in range(keys)
//%       for r in range(rows)
//%         if positions is defined
//%           set product = "q" ~ r ~ "_" ~ d ~ "." ~ c ~ " * (k" ~ j ~ "_" ~ d ~ "." ~ c ~ " + t" ~ (r - j + keys - 1) ~ "_" ~ d ~ "." ~ c ~ ")"
//%           if d % 2 == 0 and c == "x"
        var p${ r }_${ j }_${ d // 2 } = ${ product };
//%           else
        p${ r }_${ j }_${ d // 2 } += ${ product };
//%           endif
//%         else
        s${ r }_${ j } += q${ r }_${ d }.${ c } * k${ j }_${ d }.${ c };
//%         endif
//%       endfor
//%     endfor
//%   endfor
//%   if positions is defined and d > 2 and d % 2 == 1
//%     for j in range(keys)
//%       for r in range(rows)
        p${ r }_${ j }_0 += p${ r }_${ j }_${ d // 2 };
//%       endfor
//%     endfor
//%   endif
//% endfor
//% if positions is defined
//%   for j in range(keys)
//%     for r in range(rows)
        s${ r }_${ j } += p${ r }_${ j }_0;
//%     endfor
//%   endfor
//% endif
