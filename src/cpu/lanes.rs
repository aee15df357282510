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

/// A score, or −∞ where it is not `open`. By bits, and with 0 added, which makes it a new number for
/// the compiler: of a choice it makes a branch for each lane, or stores some lanes and not others,
/// both slow.
#[inline(always)]
pub(crate) fn keep_open(score: f32, open: bool) -> f32 {
    let all = u32::from(open).wrapping_neg();
    f32::from_bits((score + 0.0).to_bits() & all | f32::NEG_INFINITY.to_bits() & !all)
}

/// 2^x of each, within 2 ulp for x up to 127; 0 below −126.5, and NaN of NaN.
///
/// x = i + f with f in [−½, ½]; 2^f by a polynomial, 2^i by its exponent's bits. Each step is done for
/// all numbers before the next: the chains of several registers overlap.
#[inline(always)]
pub(crate) fn exp2<const FMA: bool, const N: usize>(x: &mut [f32; N]) {
    // Adding 1.5 · 2^23 leaves the nearest whole number in the lowest bits, here with the exponent's
    // bias.
    const MAGIC: f32 = 12_582_912.0 + 127.0;
    let mut power = [0f32; N];
    for (x, power) in x.iter_mut().zip(&mut power) {
        // A comparison that keeps NaN, unlike max.
        *x = if *x < -127.0 { -127.0 } else { *x };
        *power = *x + MAGIC;
    }
    for (f, power) in x.iter_mut().zip(&mut power) {
        *f -= *power - MAGIC;
        *power = f32::from_bits(power.to_bits() << 23);
    }
    // The nearest in units in the last place that is 1 at 0, by repeated weighted least squares; one
    // degree more where every product is rounded.
    let coefficients: &[f32] = match FMA {
        true => &[1.322_570_7e-3, 9.671_763e-3, 5.550_891_5e-2, 2.402_223_6e-1, 6.931_468e-1, 1.0],
        false => &[
            1.534_581_2e-4,
            1.339_993_1e-3,
            9.618_489e-3,
            5.550_328_8e-2,
            2.402_264_7e-1,
            6.931_472e-1,
            1.0,
        ],
    };
    let mut y = [coefficients[0]; N];
    for &c in &coefficients[1..] {
        for (y, f) in y.iter_mut().zip(&*x) {
            *y = multiply_add::<FMA>(*y, *f, c);
        }
    }
    for ((x, y), power) in x.iter_mut().zip(y).zip(power) {
        *x = y * power;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one<const FMA: bool>(x: f32) -> f32 {
        let mut x = [x];
        exp2::<FMA, 1>(&mut x);
        x[0]
    }

    #[test]
    fn exp2_is_within_two_ulp_and_ends_in_zero() {
        let mut worst = 0f64;
        for n in 0..2_000_000 {
            let x = -126.0 + n as f32 * (253.0 / 2e6);
            for y in [one::<true>(x), one::<false>(x)] {
                let exact = f64::from(x).exp2();
                let ulp = f64::from(f32::EPSILON) * 2f64.powi(f64::from(x).floor() as i32);
                worst = worst.max((f64::from(y) - exact).abs() / ulp);
            }
        }
        assert!(worst <= 2.0, "{worst} ulp");
        assert_eq!(one::<true>(0.0), 1.0);
        for x in [-127.0, -1e4, -1e30, f32::NEG_INFINITY] {
            assert_eq!(one::<true>(x), 0.0, "{x}");
        }
        assert!(one::<true>(f32::NAN).is_nan());
    }
}
