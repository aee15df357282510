//! Branch-free forms for loops over lanes: what the optimiser turns into vector code without any target feature.
//!
//! A fused product-sum uses that a product of two binary32 is exact in binary64 and that a sum rounded to odd there
//! rounds to binary32 as the exact sum does (S. Boldo and G. Melquiond, "Emulation of FMA and correctly rounded sums:
//! proved algorithms using rounding to odd", IEEE Transactions on Computers 57(4), 2008).

/// Smallest normal binary32, as binary64.
const LEAST32: f64 = 1.1754943508222875e-38;
/// Smallest normal binary16, as binary64.
const LEAST16: f64 = 6.103515625e-5;

/// Bits of a result, NaN replaced by the one PTX generates.
#[inline(always)]
pub fn canon(r: f32) -> u32 {
    if r.is_nan() { 0x7fff_ffff } else { r.to_bits() }
}

/// Subnormal bits become a zero of their sign.
#[inline(always)]
pub fn flush(u: u32) -> u32 {
    if u & 0x7f80_0000 == 0 { u & 0x8000_0000 } else { u }
}

/// `.sat`: into [0, 1]; NaN and −0 give +0.
#[inline(always)]
pub fn saturate(u: u32) -> u32 {
    let x = f32::from_bits(u);
    let low = if x > 0.0 { x } else { 0.0 };
    (if low < 1.0 { low } else { 1.0 }).to_bits()
}

/// A binary64 result as binary32, magnitudes below the smallest normal flushed if `FTZ`.
#[inline(always)]
fn narrow<const FTZ: bool>(v: f64) -> u32 {
    let r = canon(v as f32);
    if FTZ && v.abs() < LEAST32 { (v.to_bits() >> 32) as u32 & 0x8000_0000 } else { r }
}

/// `x + y` rounded to odd: an inexact sum gets the neighbour with an odd last bit. Neither operand may be near overflow.
#[inline(always)]
pub fn sum_odd(x: f64, y: f64) -> f64 {
    let s = x + y;
    // The error of the sum, exactly (Knuth); NaN where the sum is not finite.
    let t = s - x;
    let err = (x - (s - t)) + (y - t);
    let bits = s.to_bits();
    // +1 away from zero where the error has the sum's sign, else −1.
    let step = 1u64.wrapping_sub(((err.to_bits() ^ bits) >> 63) << 1);
    let even = (bits & 1).wrapping_sub(1);
    let moved = bits.wrapping_add(step & even);
    f64::from_bits(if err.abs() > 0.0 { moved } else { bits })
}

/// A binary64 as binary32 rounded to odd, for a second rounding to a narrower format.
#[inline(always)]
pub fn odd32(v: f64) -> u32 {
    let r = v as f32;
    let bits = r.to_bits();
    let wide = r as f64;
    let step = if wide.abs() > v.abs() { u32::MAX } else { 1 };
    let even = (bits & 1).wrapping_sub(1);
    let moved = bits.wrapping_add(step & even);
    if wide == v || v.is_nan() { bits } else { moved }
}

/// binary32 sum, to nearest. A sum below the smallest normal is exact, so the result tells what to flush.
#[inline(always)]
pub fn add<const FTZ: bool>(a: u32, b: u32) -> u32 {
    if FTZ {
        flush(canon(f32::from_bits(flush(a)) + f32::from_bits(flush(b))))
    } else {
        canon(f32::from_bits(a) + f32::from_bits(b))
    }
}

/// binary32 product, to nearest.
#[inline(always)]
pub fn mul<const FTZ: bool>(a: u32, b: u32) -> u32 {
    if FTZ {
        narrow::<true>(f32::from_bits(flush(a)) as f64 * f32::from_bits(flush(b)) as f64)
    } else {
        canon(f32::from_bits(a) * f32::from_bits(b))
    }
}

/// binary32 product-sum rounded once, to nearest.
#[inline(always)]
pub fn fma<const FTZ: bool>(a: u32, b: u32, c: u32) -> u32 {
    let (a, b, c) = if FTZ { (flush(a), flush(b), flush(c)) } else { (a, b, c) };
    let p = f32::from_bits(a) as f64 * f32::from_bits(b) as f64;
    narrow::<FTZ>(sum_odd(p, f32::from_bits(c) as f64))
}

/// binary32 quotient, to nearest. Whether it lies below the smallest normal shows in binary64, the nearest quotient to
/// that bound being 2⁻²⁴ away.
#[inline(always)]
pub fn div<const FTZ: bool>(a: u32, b: u32) -> u32 {
    if FTZ {
        let (x, y) = (f32::from_bits(flush(a)), f32::from_bits(flush(b)));
        let q = x as f64 / y as f64;
        let r = canon(x / y);
        if q.abs() < LEAST32 { r & 0x8000_0000 } else { r }
    } else {
        canon(f32::from_bits(a) / f32::from_bits(b))
    }
}

/// binary32 to bf16, to nearest.
#[inline(always)]
pub fn to_bf16(u: u32) -> u32 {
    let r = u.wrapping_add(0x7fff + (u >> 16 & 1)) >> 16;
    if u & 0x7fff_ffff > 0x7f80_0000 { 0x7fff } else { r }
}

/// binary32 to TF32 in a 32-bit register, ties away from zero.
#[inline(always)]
pub fn to_tf32_away(u: u32) -> u32 {
    // The carry out of the fraction is the next exponent's, up to infinity.
    let r = u.wrapping_add(0x1000) & !0x1fff;
    if u & 0x7fff_ffff > 0x7f80_0000 { 0x7fff_ffff } else { r }
}

/// binary32 to e4m3 (`E5M2`: e5m2), to nearest, the largest finite value beyond the range.
#[inline(always)]
pub fn to_fp8<const E5M2: bool>(u: u32) -> u32 {
    let mag = u & 0x7fff_ffff;
    let sign = u >> 24 & 0x80;
    // Places cut, distance of the biases, smallest normal, and a power of two whose unit is the subnormals'.
    let (drop, rebias, least, magic, max) = if E5M2 {
        (21, 112 << 23, 0x3880_0000, 0x4300_0000, 0x7b)
    } else {
        (20, 120 << 23, 0x3c80_0000, 0x4680_0000, 0x7e)
    };
    let half = (1u32 << (drop - 1)) - 1;
    let normal = mag.wrapping_add(half + (mag >> drop & 1)).wrapping_sub(rebias) >> drop;
    let small = (f32::from_bits(mag) + f32::from_bits(magic)).to_bits().wrapping_sub(magic);
    let r = if mag < least { small } else { normal.min(max) };
    if mag > 0x7f80_0000 { 0x7f } else { sign | r }
}

/// binary32 to binary16, to nearest.
#[inline(always)]
pub fn to_f16(u: u32) -> u32 {
    let mag = u & 0x7fff_ffff;
    let sign = u >> 16 & 0x8000;
    let normal = mag.wrapping_add(0xfff + (mag >> 13 & 1)).wrapping_sub(112 << 23) >> 13;
    // Adding ½ leaves multiples of 2⁻²⁴, the subnormals' unit, rounded by the addition itself.
    let small = (f32::from_bits(mag) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
    let finite = if mag < 0x3880_0000 { small } else { normal };
    let large = if mag > 0x7f80_0000 { 0x7fff } else { 0x7c00 };
    if mag > 0x7f80_0000 { 0x7fff } else { sign | if mag >= 0x4780_0000 { large } else { finite } }
}

/// binary16 to binary32, exact; NaN is not canonicalised.
#[inline(always)]
pub fn from_f16(h: u32) -> f32 {
    let mag = (h & 0x7fff) << 13;
    let r = (f32::from_bits(mag) * f32::from_bits(0x7780_0000)).to_bits();
    let r = if mag >= 0x0f80_0000 { mag | 0x7f80_0000 } else { r };
    f32::from_bits(r | (h & 0x8000) << 16)
}

/// e4m3 to binary32, exact.
#[inline(always)]
pub fn from_e4m3(b: u32) -> f32 {
    let mag = b & 0x7f;
    let r = f32::from_bits(mag << 20) * f32::from_bits(0x7b80_0000);
    let r = if mag == 0x7f { 0x7fff_ffff } else { r.to_bits() };
    f32::from_bits(r | (b & 0x80) << 24)
}

/// bf16 to binary32, exact; NaN is not canonicalised.
#[inline(always)]
pub fn from_bf16(h: u32) -> f32 {
    f32::from_bits(h << 16)
}

/// A 16-bit number as binary32: bf16 if `BF`, else binary16.
#[inline(always)]
pub fn from16<const BF: bool>(h: u32) -> f32 {
    if BF { from_bf16(h) } else { from_f16(h & 0xffff) }
}

/// A binary64 rounded once to a 16-bit format.
#[inline(always)]
pub fn to16<const BF: bool, const FTZ: bool>(v: f64) -> u32 {
    let o = odd32(v);
    let r = if BF { to_bf16(o) } else { to_f16(o) };
    let least = if BF { LEAST32 } else { LEAST16 };
    if FTZ && v.abs() < least { (v.to_bits() >> 48) as u32 & 0x8000 } else { r }
}

/// Subnormal bits of a 16-bit format become a zero of their sign.
#[inline(always)]
pub fn flush16<const BF: bool>(h: u32) -> u32 {
    let exponent = if BF { 0x7f80 } else { 0x7c00 };
    if h & exponent == 0 { h & 0x8000 } else { h & 0xffff }
}

/// Product-sum of a 16-bit format rounded once, to nearest.
#[inline(always)]
pub fn fma16<const BF: bool, const FTZ: bool>(a: u32, b: u32, c: u32) -> u32 {
    let f = |h| from16::<BF>(if FTZ { flush16::<BF>(h) } else { h & 0xffff }) as f64;
    to16::<BF, FTZ>(sum_odd(f(a) * f(b), f(c)))
}

/// Sum of a 16-bit format, to nearest.
#[inline(always)]
pub fn add16<const BF: bool, const FTZ: bool>(a: u32, b: u32) -> u32 {
    let f = |h| from16::<BF>(if FTZ { flush16::<BF>(h) } else { h & 0xffff }) as f64;
    to16::<BF, FTZ>(sum_odd(f(a), f(b)))
}

/// Product of a 16-bit format, to nearest.
#[inline(always)]
pub fn mul16<const BF: bool, const FTZ: bool>(a: u32, b: u32) -> u32 {
    let f = |h| from16::<BF>(if FTZ { flush16::<BF>(h) } else { h & 0xffff }) as f64;
    to16::<BF, FTZ>(f(a) * f(b))
}

/// Minimum (`MAX`: maximum) of two encodings `width` bits wide, −0 below +0. One NaN gives the other operand (`NAN`: the
/// format's NaN), two give the NaN. `inf` and `nan` are the format's codes.
#[inline(always)]
pub fn extreme<const MAX: bool, const NAN: bool>(
    a: u32,
    b: u32,
    width: u32,
    inf: u32,
    nan: u32,
) -> u32 {
    let sign = 1u32 << (width - 1);
    // Monotone in the value as a signed integer: negative magnitudes reversed.
    let key = |u: u32| {
        let k = u & (sign - 1);
        if u & sign != 0 { !k as i32 } else { k as i32 }
    };
    let (an, bn) = (a & (sign - 1) > inf, b & (sign - 1) > inf);
    let less = key(a) < key(b);
    let r = if less != MAX { a } else { b };
    let r = if an { b } else { r };
    let r = if bn { a } else { r };
    if if NAN { an | bn } else { an & bn } { nan } else { r }
}
