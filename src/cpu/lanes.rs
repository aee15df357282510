//! Arithmetic on a vector of query rows, written as loops over an array: compiled for a set of
//! instructions, each is a few of them.

/// Query rows side by side: two registers of AVX2.
pub(crate) const LANES: usize = 16;

/// One number of each of the rows.
pub(crate) type Lanes = [f32; LANES];

/// Without the elements before a line of the cache, fewer than [`LANES`]: vectors that cross lines are
/// loaded twice.
pub(crate) fn from_line(all: &mut [f32]) -> &mut [f32] {
    let before = all.as_ptr().align_offset(size_of::<Lanes>());
    &mut all[before..]
}

/// `a · b + c`, rounded once where that is fast.
#[inline(always)]
pub(crate) fn multiply_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Keeps the compiler from computing eight keys at a time, of a loop over keys whose lanes it has
/// unrolled: rows of S are vectors as they lie, and it would turn them, and back. No instruction.
#[inline(always)]
pub(crate) fn key_by_key() {
    std::hint::black_box(());
}

/// `a` where `all` is all ones, `b` where it is 0: a register's choice, where of `if` the compiler
/// may make a partial store.
#[inline(always)]
pub(crate) fn select(all: u32, a: u32, b: u32) -> u32 {
    b ^ ((a ^ b) & all)
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

/// tanh of each, within 2 ulp (1.71 with a multiply-add, of all f32 from 2^−12 on); odd, ±1 from 10
/// on, and NaN of NaN.
///
/// 1 − 2 / (e^2x + 1), and where that loses digits, near 0, an odd polynomial.
#[inline(always)]
pub(crate) fn tanh<const FMA: bool, const N: usize>(x: &mut [f32; N]) {
    const NEAR: f32 = 0.85;
    let mut power = [0f32; N];
    for (x, power) in x.iter().zip(&mut power) {
        let size = x.abs();
        // A comparison that keeps NaN, unlike min.
        *power = if size > 10.0 { 10.0 } else { size } * (2.0 * std::f32::consts::LOG2_E);
    }
    exp2::<FMA, N>(&mut power);
    // (tanh(x) / x − 1) / x² in x², the nearest in units in the last place as in `exp2`.
    const COEFFICIENTS: [f32; 6] = [
        1.452_582_7e-3,
        -7.170_071_4e-3,
        2.114_332e-2,
        -5.380_468_4e-2,
        1.333_161_4e-1,
        -3.333_327_5e-1,
    ];
    let mut y = [COEFFICIENTS[0]; N];
    for c in &COEFFICIENTS[1..] {
        for (y, x) in y.iter_mut().zip(&*x) {
            *y = multiply_add::<FMA>(*y, x * x, *c);
        }
    }
    for ((x, y), power) in x.iter_mut().zip(y).zip(power) {
        let size = x.abs();
        let near = multiply_add::<FMA>(size * size * y, size, size).to_bits();
        let far = (1.0 - 2.0 / (power + 1.0)).to_bits();
        let all = u32::from(size < NEAR).wrapping_neg();
        *x = f32::from_bits(near & all | far & !all).copysign(*x);
    }
}

/// log2 of each, within 2^−34, if it is at least 2^−1022 and finite; NaN of ∞ and NaN.
///
/// x = 2^e · y with y in [√½, √2); ln y = 2 artanh((y − 1) / (y + 1)), a series in the square of that.
#[inline(always)]
pub(crate) fn log2_wide<const N: usize>(x: &mut [f64; N]) {
    const ROOT: u64 = std::f64::consts::FRAC_1_SQRT_2.to_bits();
    // A number whose lowest bits are those of a whole number, and what it is without them.
    const MAGIC: f64 = 4_503_599_627_370_496.0;
    let (mut power, mut z) = ([0f64; N], [0f64; N]);
    for ((x, power), z) in x.iter_mut().zip(&mut power).zip(&mut z) {
        let bits = x.to_bits().wrapping_add(1f64.to_bits() - ROOT);
        *power = f64::from_bits(bits >> 52 | MAGIC.to_bits()) - (MAGIC + 1023.0);
        // 0, or NaN.
        let no_number = *x * 0.0;
        let y = f64::from_bits((bits & ((1 << 52) - 1)) + ROOT);
        *z = (y - 1.0) / (y + 1.0) + no_number;
    }
    let mut sum = [0f64; N];
    for odd in [11u32, 9, 7, 5, 3, 1] {
        let c = 2.0 / f64::from(odd) * std::f64::consts::LOG2_E;
        for (sum, z) in sum.iter_mut().zip(&z) {
            *sum = *sum * (*z * *z) + c;
        }
    }
    for (((x, sum), z), power) in x.iter_mut().zip(sum).zip(z).zip(power) {
        *x = sum * z + power;
    }
}

/// 2^x of each, within 2^−36 of it, for x from −1000 to 0; less below, and NaN of NaN.
#[inline(always)]
pub(crate) fn exp2_wide<const N: usize>(x: &mut [f64; N]) {
    // As in `exp2`.
    const MAGIC: f64 = 6_755_399_441_055_744.0 + 1023.0;
    let mut power = [0f64; N];
    for (f, power) in x.iter_mut().zip(&mut power) {
        *f = if *f < -1000.0 { -1000.0 } else { *f };
        *power = *f + MAGIC;
        *f -= *power - MAGIC;
        *power = f64::from_bits(power.to_bits() << 52);
    }
    // Taylor's series of e^(f ln 2).
    let mut sum = [1f64; N];
    for n in (1..=9u32).rev() {
        let c = std::f64::consts::LN_2 / f64::from(n);
        for (sum, f) in sum.iter_mut().zip(&*x) {
            *sum = *sum * (*f * c) + 1.0;
        }
    }
    for ((x, sum), power) in x.iter_mut().zip(sum).zip(power) {
        *x = sum * power;
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

    #[test]
    fn tanh_is_within_two_ulp_over_all_exponents() {
        let mut worst = 0f64;
        // About 4000 numbers of each exponent, subnormal ones too.
        for bits in (0..f32::INFINITY.to_bits()).step_by(2039) {
            let x = f32::from_bits(bits);
            let exact = f64::from(x).tanh();
            let ulp = 2f64.powi(exact.log2().floor().max(-126.0) as i32 - 23);
            for y in [x, -x].map(|x| [tanh_of::<true>(x), tanh_of::<false>(x)]).as_flattened() {
                worst = worst.max((f64::from(y.abs()) - exact).abs() / ulp);
                assert!(y.abs() <= 1.0, "{x:e}: {y}");
            }
            assert_eq!(tanh_of::<true>(x), -tanh_of::<true>(-x), "{x:e}");
        }
        assert!(worst <= 2.0, "{worst} ulp");
        assert_eq!(tanh_of::<true>(-0.0).to_bits(), (-0f32).to_bits());
        assert_eq!(tanh_of::<true>(f32::NEG_INFINITY), -1.0);
        assert!(tanh_of::<true>(f32::NAN).is_nan());
    }

    #[test]
    fn logarithms_and_powers_in_f64_are_better_than_f32_can_tell() {
        for n in 0..1_000_000 {
            let mut x = [1e-30 * 1.000_15f64.powi(n)];
            let exact = x[0].log2();
            log2_wide(&mut x);
            assert!((x[0] - exact).abs() < 2f64.powi(-34), "log2 of number {n}: {}", x[0]);
            let mut x = [f64::from(n) * -1e-3];
            let exact = x[0].exp2();
            exp2_wide(&mut x);
            let allowed = exact * 2f64.powi(-36) + 1e-300;
            assert!((x[0] - exact).abs() <= allowed, "2 to number {n}: {}", x[0]);
        }
        for no_number in [f64::NAN, f64::INFINITY] {
            let mut x = [no_number];
            log2_wide(&mut x);
            assert!(x[0].is_nan());
        }
        let mut x = [f64::NAN];
        exp2_wide(&mut x);
        assert!(x[0].is_nan());
        let mut x = [1.0, 2.0, 0.25];
        log2_wide(&mut x);
        assert_eq!(x, [0.0, 1.0, -2.0]);
    }

    fn tanh_of<const FMA: bool>(x: f32) -> f32 {
        let mut x = [x];
        tanh::<FMA, 1>(&mut x);
        x[0]
    }
}
