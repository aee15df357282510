const LOG2E = 1.4426950408889634;
const LN2 = 0.6931471805599453;
// Stands for -inf, which WGSL may assume away; a score at or below it belongs to no key.
const NEG = -1e30;
const MINUS_INF_BITS = 0xff800000u;

// The natural logarithm of a positive x; NaN and inf stay. WGSL allows log2 an error of 2^-21 near 1,
// and software drivers make use of it.
fn ln(x: f32) -> f32 {
    let bits = bitcast<u32>(x);
    // x = 2^e · y with y from sqrt(1/2) to sqrt(2);  ln y = 2 artanh(t),  t = (y - 1) / (y + 1)
    let e = (i32(bits) - 0x3f3504f3) >> 23u;
    let y = bitcast<f32>(i32(bits) - e * 0x800000);
    let t = (y - 1.0) / (y + 1.0);
    let z = t * t;
    let series = 2.0 * t + 2.0 * t * z * (1.0 / 3.0 + z * (1.0 / 5.0 + z * (1.0 / 7.0 + z * (1.0 / 9.0))));
    return select(f32(e) * LN2 + series, x, bits >= 0x7f800000u);
}

// The lse of a row whose largest score is m, in units of log2, and whose sum of exponentials is l.
fn lse_bits(m: f32, l: f32) -> u32 {
    return select(bitcast<u32>(m * LN2 + ln(l)), MINUS_INF_BITS, l == 0.0);
}
