//# Rows kernels: adds to the scores `s0_0`, … the keys at texels `kv0`, …; with `positions` to each
//# key the row `t0`, … of the table that stands at its distance. Eight products are summed by
//# themselves, and those sums before what the score begins with: a chain of rounded sums loses digits
//# with its length, and k + r has lost some already.
//% for d in range(d4)
//%   for j in range(keys)
        let k${ j }_${ d } = textureLoad(kv_texels_of, kv${ j } + vec2<i32>(${ d }, 0));
//%   endfor
//%   for c in "xyzw"
//%     for j in range(keys)
//%       for r in range(rows)
//%         set key = "k" ~ j ~ "_" ~ d ~ "." ~ c
//%         if positions is defined
//%           set key = "(" ~ key ~ " + t" ~ (r - j + keys - 1) ~ "_" ~ d ~ "." ~ c ~ ")"
//%         endif
        <% if d % 2 == 0 and c == "x" %>var p${ r }_${ j }_${ d // 2 } =<% else %>p${ r }_${ j }_${ d // 2 } +=<% endif %> q${ r }_${ d }.${ c } * ${ key };
//%       endfor
//%     endfor
//%   endfor
//%   if d > 2 and d % 2 == 1
//%     for j in range(keys)
//%       for r in range(rows)
        p${ r }_${ j }_0 += p${ r }_${ j }_${ d // 2 };
//%       endfor
//%     endfor
//%   endif
//% endfor
//% for j in range(keys)
//%   for r in range(rows)
        s${ r }_${ j } += p${ r }_${ j }_0;
//%   endfor
//% endfor
