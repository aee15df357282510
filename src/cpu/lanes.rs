//! Arithmetic on a vector of query rows, written as loops over an array: compiled for a set of
//! instructions, each is a few of them.

/// Query rows side by side: two registers of AVX2.
pub(crate) const LANES: usize = 16;

/// One number of each of the rows.
pub(crate) type Lanes = [f32; LANES];

/// `a · b + c`, rounded once where that is fast.
#[inline(always)]
pub(crate) fn multiply_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// 2^x, within 2 ulp for x up to 127; 0 below −126.5, and NaN of NaN.
///
/// x = i + f with f in [−½, ½]; 2^f by the polynomial of degree 6 that is nearest in relative error
/// (by Remez' exchange), 2^i by its exponent's bits.
#[inline(always)]
pub(crate) fn exp2<const FMA: bool>(x: f32) -> f32 {
    // Adding 1.5 · 2^23 leaves the nearest whole number in the lowest bits.
    const MAGIC: f32 = 12_582_912.0;
    // Comparisons that keep NaN, unlike max.
    let x = if x < -127.0 { -127.0 } else { x };
    let shifted = x + MAGIC;
    let f = x - (shifted - MAGIC);
    let power =
        f32::from_bits(shifted.to_bits().wrapping_sub(MAGIC.to_bits()).wrapping_add(127) << 23);
    let mut y = 1.534_581_2e-4;
    for c in [1.339_993_1e-3, 9.618_489e-3, 5.550_328_8e-2, 2.402_264_7e-1, 6.931_472e-1, 1.0] {
        y = multiply_add::<FMA>(y, f, c);
    }
    y * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp2_is_within_two_ulp_and_ends_in_zero() {
        let mut worst = 0f64;
        for n in 0..2_000_000 {
            let x = -126.0 + n as f32 * (253.0 / 2e6);
            for y in [exp2::<true>(x), exp2::<false>(x)] {
                let exact = f64::from(x).exp2();
                let ulp = f64::from(f32::EPSILON) * 2f64.powi(f64::from(x).floor() as i32);
                worst = worst.max((f64::from(y) - exact).abs() / ulp);
            }
        }
        assert!(worst <= 2.0, "{worst} ulp");
        assert_eq!(exp2::<true>(0.0), 1.0);
        for x in [-127.0, -1e4, -1e30, f32::NEG_INFINITY] {
            assert_eq!(exp2::<true>(x), 0.0, "{x}");
        }
        assert!(exp2::<true>(f32::NAN).is_nan());
    }
}
