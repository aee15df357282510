//# Rows kernels: one step of the online softmax and of the sum over V.
//% for r in range(rows)
        let m${ r }_new = <% for j in range(keys) %>max(s${ r }_${ j }, <% endfor %>m${ r }<% for j in range(keys) %>)<% endfor %>;
        let alpha${ r } = exp2(m${ r } - m${ r }_new);
//%   for j in range(keys)
        let p${ r }_${ j } = select(exp2(s${ r }_${ j } - m${ r }_new)<% if shares is defined %> * share${ r }_${ j }<% endif %>, 0.0, s${ r }_${ j } <= NEG);
        // Of a masked key not even the value: 0 · v would be NaN where v is inf or NaN.
//%     if adds_nothing is defined
        let keep${ r }_${ j } = vec4<u32>(select(0xffffffffu, 0u, p${ r }_${ j } == 0.0));
//%     else
        let keep${ r }_${ j } = vec4<u32>(select(0xffffffffu, 0u, s${ r }_${ j } <= NEG));
//%     endif
//%   endfor
        l${ r } = l${ r } * alpha${ r } + (p${ r }_0<% for j in range(1, keys) %> + p${ r }_${ j }<% endfor %>);
        m${ r } = m${ r }_new;
//% endfor
        // ---- O += P V
//% for d in range(d4)
//%   for j in range(keys)
        let v${ j }_${ d } = bitcast<vec4<u32>>(textureLoad(kv_texels_of, kv${ j } + vec2<i32>(${ d4 + d }, 0)));
//%   endfor
//%   for r in range(rows)
        o${ r }_${ d } = o${ r }_${ d } * alpha${ r }<% for j in range(keys) %> + p${ r }_${ j } * bitcast<vec4<f32>>(v${ j }_${ d } & keep${ r }_${ j })<% endfor %>;
//%   endfor
//% endfor
