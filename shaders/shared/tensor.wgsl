//% macro element(name, type)
//%   if type == "f32"
fn ${ name }_element(i: u32) -> f32 { return ${ name }[i]; }
//%   elif type == "f16"
fn ${ name }_element(i: u32) -> f32 { return unpack2x16float(${ name }[i >> 1u] >> (16u * (i & 1u))).x; }
//%   else
fn ${ name }_element(i: u32) -> f32 {
    return bitcast<f32>((${ name }[i >> 1u] >> (16u * (i & 1u))) << 16u);
}
//%   endif
//% endmacro
//% macro reader(name, slot)
//%   if not vec4
//%     if dtype == "f32"
@group(0) @binding(${ slot }) var<storage, read> ${ name }: array<f32>;
//%     else
@group(0) @binding(${ slot }) var<storage, read> ${ name }: array<u32>;
//%     endif
${ element(name, dtype) }
// Elements d to d + 3 of the row that begins at element `row`; 0 past its end.
fn load_${ name }(row: u32, d: u32) -> vec4<f32> {
    var x = vec4<f32>();
    if (d < P.head_dim) { x.x = ${ name }_element(row + d); }
    if (d + 1u < P.head_dim) { x.y = ${ name }_element(row + d + 1u); }
    if (d + 2u < P.head_dim) { x.z = ${ name }_element(row + d + 2u); }
    if (d + 3u < P.head_dim) { x.w = ${ name }_element(row + d + 3u); }
    return x;
}
//%   else
//%     if dtype == "f32"
@group(0) @binding(${ slot }) var<storage, read> ${ name }: array<vec4<f32>>;
//%     elif dtype == "f16" and f16
@group(0) @binding(${ slot }) var<storage, read> ${ name }: array<vec4<f16>>;
//%     else
@group(0) @binding(${ slot }) var<storage, read> ${ name }: array<vec2<u32>>;
//%     endif
// Elements d to d + 3 of the row that begins at element `row`<% if padded %>; 0 past its end<% endif %>.
fn load_${ name }(row: u32, d: u32) -> vec4<f32> {
//%     if padded
    if (d >= P.head_dim) { return vec4<f32>(); }
//%     endif
//%     if dtype == "f32"
    return ${ name }[(row + d) >> 2u];
//%     elif dtype == "f16" and f16
    return vec4<f32>(${ name }[(row + d) >> 2u]);
//%     elif dtype == "f16"
    let x = ${ name }[(row + d) >> 2u];
    return vec4<f32>(unpack2x16float(x.x), unpack2x16float(x.y));
//%     else
    let x = ${ name }[(row + d) >> 2u];
    return bitcast<vec4<f32>>(vec4<u32>(x.x << 16u, x.x & 0xffff0000u, x.y << 16u, x.y & 0xffff0000u));
//%     endif
}
//%   endif
//% endmacro
//% macro writer(name, slot)
//%   if dtype == "bf16"
// The upper halves of four f32, to nearest even; NaN stays NaN.
fn round_bf16(x: vec4<f32>) -> vec4<u32> {
    let bits = bitcast<vec4<u32>>(x);
    let rounded = (bits + 0x7fffu + ((bits >> vec4<u32>(16u)) & vec4<u32>(1u))) >> vec4<u32>(16u);
    let nan = (bits & vec4<u32>(0x7fffffffu)) > vec4<u32>(0x7f800000u);
    return select(rounded, vec4<u32>(0x7fc0u), nan);
}
//%   endif
//%   if vec4
//%     if dtype == "f32"
@group(0) @binding(${ slot }) var<storage, read_write> ${ name }: array<vec4<f32>>;
//%     elif dtype == "f16" and f16
@group(0) @binding(${ slot }) var<storage, read_write> ${ name }: array<vec4<f16>>;
//%     else
@group(0) @binding(${ slot }) var<storage, read_write> ${ name }: array<vec2<u32>>;
//%     endif
// Stores elements d to d + 3 of a row<% if padded %>, if they belong to it<% endif %>.
fn store_${ name }(row: u32, d: u32, x: vec4<f32>) {
//%     if padded
    if (d >= P.head_dim) { return; }
//%     endif
//%     if dtype == "f32"
    ${ name }[(row + d) >> 2u] = x;
//%     elif dtype == "f16" and f16
    ${ name }[(row + d) >> 2u] = vec4<f16>(x);
//%     elif dtype == "f16"
    ${ name }[(row + d) >> 2u] = vec2<u32>(pack2x16float(x.xy), pack2x16float(x.zw));
//%     else
    let h = round_bf16(x);
    ${ name }[(row + d) >> 2u] = vec2<u32>(h.x | (h.y << 16u), h.z | (h.w << 16u));
//%     endif
}
//%   else
//%     if dtype == "f32"
@group(0) @binding(${ slot }) var<storage, read_write> ${ name }: array<f32>;
fn store_${ name }(row: u32, d: u32, x: vec4<f32>) {
    if (d < P.head_dim) { ${ name }[row + d] = x.x; }
    if (d + 1u < P.head_dim) { ${ name }[row + d + 1u] = x.y; }
    if (d + 2u < P.head_dim) { ${ name }[row + d + 2u] = x.z; }
    if (d + 3u < P.head_dim) { ${ name }[row + d + 3u] = x.w; }
}
//%     else
// Two rows may share a word here, so its halves are written by atomics: each touches its own bits.
@group(0) @binding(${ slot }) var<storage, read_write> ${ name }: array<atomic<u32>>;
fn store_${ name }_half(i: u32, bits: u32) {
    let shift = 16u * (i & 1u);
    atomicAnd(&${ name }[i >> 1u], ~(0xffffu << shift));
    atomicOr(&${ name }[i >> 1u], (bits & 0xffffu) << shift);
}
fn store_${ name }(row: u32, d: u32, x: vec4<f32>) {
//%       if dtype == "f16"
    let h = vec4<u32>(pack2x16float(x.xy), pack2x16float(x.xy) >> 16u, pack2x16float(x.zw), pack2x16float(x.zw) >> 16u);
//%       else
    let h = round_bf16(x);
//%       endif
    if (d < P.head_dim) { store_${ name }_half(row + d, h.x); }
    if (d + 1u < P.head_dim) { store_${ name }_half(row + d + 1u, h.y); }
    if (d + 2u < P.head_dim) { store_${ name }_half(row + d + 2u, h.z); }
    if (d + 3u < P.head_dim) { store_${ name }_half(row + d + 3u, h.w); }
}
//%     endif
//%   endif
//% endmacro
//% macro rereader(name)
// Elements d to d + 3 of a row that was stored; whatever past its end.
fn load_${ name }(row: u32, d: u32) -> vec4<f32> {
//%   if vec4
//%     if dtype == "f32"
    return ${ name }[(row + d) >> 2u];
//%     elif dtype == "f16" and f16
    return vec4<f32>(${ name }[(row + d) >> 2u]);
//%     elif dtype == "f16"
    let x = ${ name }[(row + d) >> 2u];
    return vec4<f32>(unpack2x16float(x.x), unpack2x16float(x.y));
//%     else
    let x = ${ name }[(row + d) >> 2u];
    return bitcast<vec4<f32>>(vec4<u32>(x.x << 16u, x.x & 0xffff0000u, x.y << 16u, x.y & 0xffff0000u));
//%     endif
//%   elif dtype == "f32"
    return vec4<f32>(${ name }[row + d], ${ name }[row + d + 1u], ${ name }[row + d + 2u], ${ name }[row + d + 3u]);
//%   else
    let at = vec4<u32>(row + d) + vec4<u32>(0u, 1u, 2u, 3u);
    let words = vec4<u32>(atomicLoad(&${ name }[at.x >> 1u]), atomicLoad(&${ name }[at.y >> 1u]), atomicLoad(&${ name }[at.z >> 1u]), atomicLoad(&${ name }[at.w >> 1u]));
    let half = words >> (16u * (at & vec4<u32>(1u)));
//%     if dtype == "f16"
    return vec4<f32>(unpack2x16float(half.x).x, unpack2x16float(half.y).x, unpack2x16float(half.z).x, unpack2x16float(half.w).x);
//%     else
    return bitcast<vec4<f32>>(half << vec4<u32>(16u));
//%     endif
//%   endif
}
//% endmacro
