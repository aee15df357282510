//! How far a result is from what is expected, and how far it may be.
//!
//! The error is relative to the tensor, with a floor, because some expected tensors are exactly
//! zero. The tolerance is flash-attention's rule: twice (gradients: three times) the error of a
//! naive evaluation in the same dtype, plus twice what adding and subtracting 0.3 in that dtype
//! loses. Nothing is tuned to a kernel. The naive error is taken against the reference in f64, not
//! against what a file expects: a file that expects nonsense must not widen its own tolerance.

use longhand::DType;

/// How the error of a result is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// `out` and gradients: `max |got − expected| / max(max |expected|, 0.1)`.
    Tensor,
    /// `lse`: the largest `|got − expected| / max(|expected|, 1)`; −inf must meet −inf.
    Lse,
    /// `buckets`: how many differ.
    Equal,
}

impl Measure {
    /// The measure of the result called `name`.
    pub fn of(name: &str) -> Self {
        match name {
            "lse" | "lse_g" | "lse_rounds" => Measure::Lse,
            "buckets" | "bucket_table" => Measure::Equal,
            _ => Measure::Tensor,
        }
    }
}

/// The distance of two tensors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// The largest absolute difference; NaN if anything is NaN.
    pub max_abs: f64,
    /// The error by the measure; NaN if anything is NaN.
    pub error: f64,
}

/// Measures `got` against `expected`. Tensors of different lengths are infinitely far apart.
pub fn difference(measure: Measure, got: &[f64], expected: &[f64]) -> Difference {
    if got.len() != expected.len() {
        return Difference { max_abs: f64::INFINITY, error: f64::INFINITY };
    }
    let mut worst = Difference { max_abs: 0.0, error: 0.0 };
    let mut largest = 0.1f64;
    for (&g, &e) in got.iter().zip(expected) {
        // Only of `lse` is an infinity a value; two equal ones are no distance apart.
        let both_empty = measure == Measure::Lse && g == f64::NEG_INFINITY && e == g;
        let abs = if both_empty { 0.0 } else { (g - e).abs() };
        worst.max_abs = max_or_nan(worst.max_abs, abs);
        match measure {
            Measure::Tensor => largest = max_or_nan(largest, e.abs()),
            Measure::Lse if abs == 0.0 => {}
            // One infinity against a number is an infinite error, whichever of them it is.
            Measure::Lse if abs == f64::INFINITY => worst.error = max_or_nan(worst.error, abs),
            Measure::Lse => worst.error = max_or_nan(worst.error, abs / e.abs().max(1.0)),
            Measure::Equal if g == e => {}
            Measure::Equal => worst.error += 1.0,
        }
    }
    if measure == Measure::Tensor {
        worst.error = match worst.max_abs {
            0.0 => 0.0,
            // An expected infinity is no yardstick: inf / inf is NaN, which never passes.
            abs => abs / largest,
        };
    }
    worst
}

/// `f64::max`, except that NaN wins: a NaN in a result must not pass unseen.
fn max_or_nan(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

/// The largest error that the result `name` may have, given what a naive evaluation in `dtype`
/// and the reference in f64 give.
pub fn tolerance(name: &str, dtype: DType, naive: &[f64], reference: &[f64]) -> f64 {
    let measure = Measure::of(name);
    if measure == Measure::Equal {
        return 0.0;
    }
    let factor = if name.starts_with("grad.") { 3.0 } else { 2.0 };
    let naive = difference(measure, naive, reference).error;
    // A naive evaluation that overflows the dtype measures nothing, so it allows nothing.
    let naive = if naive.is_finite() { naive } else { 0.0 };
    let allowed = factor * naive + rounding_floor(measure, dtype, reference);
    match dtype {
        DType::F32 => allowed.max(f32_bound(measure)),
        DType::F16 | DType::BF16 => allowed,
    }
}

/// Flash-attention's `2 · max |(x + 0.3 − 0.3) − x|`, in the measure's terms.
fn rounding_floor(measure: Measure, dtype: DType, expected: &[f64]) -> f64 {
    let x: Vec<f64> = expected.iter().map(|&x| dtype.round(x)).collect();
    let shaken: Vec<f64> = x.iter().map(|&x| dtype.round(dtype.round(x + 0.3) - 0.3)).collect();
    let floor = 2.0 * difference(measure, &shaken, &x).error;
    if floor.is_finite() { floor } else { 0.0 }
}

/// What a plain float32 evaluation of the formulas stays below on every fixture.
fn f32_bound(measure: Measure) -> f64 {
    match measure {
        Measure::Tensor => 5e-6,
        Measure::Lse => 3e-7,
        Measure::Equal => 0.0,
    }
}

/// One result held against what is expected.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// `out`, `lse`, `grad.q`, …
    pub name: String,
    /// What was measured.
    pub difference: Difference,
    /// The largest error that passes.
    pub tolerance: f64,
}

impl Comparison {
    /// Whether the result is close enough. NaN is not.
    pub fn passed(&self) -> bool {
        self.difference.error <= self.tolerance
    }
}

/// Compares the result `name` with `expected`.
pub fn compare(name: &str, got: &[f64], expected: &[f64], tolerance: f64) -> Comparison {
    Comparison {
        name: name.to_owned(),
        difference: difference(Measure::of(name), got, expected),
        tolerance,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: f64 = f64::NEG_INFINITY;

    fn error(measure: Measure, got: &[f64], expected: &[f64]) -> f64 {
        difference(measure, got, expected).error
    }

    #[test]
    fn a_tensor_is_measured_against_its_largest_element_or_a_tenth() {
        assert_eq!(error(Measure::Tensor, &[2.0, 4.5], &[2.0, 4.0]), 0.125);
        assert_eq!(error(Measure::Tensor, &[0.05], &[0.0]), 0.5);
        assert_eq!(error(Measure::Tensor, &[], &[]), 0.0);
    }

    #[test]
    fn lse_is_measured_element_by_element_and_empty_must_meet_empty() {
        assert_eq!(error(Measure::Lse, &[0.5, 8.0], &[0.0, 10.0]), 0.5);
        assert_eq!(error(Measure::Lse, &[EMPTY, 1.0], &[EMPTY, 1.0]), 0.0);
        assert_eq!(error(Measure::Lse, &[0.0], &[EMPTY]), f64::INFINITY);
        assert_eq!(error(Measure::Lse, &[EMPTY], &[0.0]), f64::INFINITY);
        assert!(error(Measure::Lse, &[f64::INFINITY], &[EMPTY]) > 1.0);
    }

    #[test]
    fn nan_and_infinity_never_pass() {
        for measure in [Measure::Tensor, Measure::Lse] {
            for bad in [f64::NAN, f64::INFINITY] {
                for got in [[bad, 1.0], [1.0, bad]] {
                    let difference = difference(measure, &got, &[1.0, 1.0]);
                    let c = Comparison { name: String::new(), difference, tolerance: 1e300 };
                    assert!(!c.passed(), "{measure:?} {got:?}");
                }
            }
        }
        assert!(error(Measure::Tensor, &[f64::INFINITY], &[f64::INFINITY]).is_nan());
    }

    #[test]
    fn tensors_of_different_lengths_never_pass() {
        assert_eq!(error(Measure::Tensor, &[], &[1.0]), f64::INFINITY);
    }

    #[test]
    fn the_tolerance_follows_the_naive_error_and_has_the_dtype_as_its_floor() {
        let expected = [0.5, 1.0];
        let exact = tolerance("out", DType::BF16, &expected, &expected);
        assert!((0.001..0.02).contains(&exact), "{exact}");
        let rough = tolerance("out", DType::BF16, &[0.5, 1.25], &expected);
        assert!((rough - exact - 0.5).abs() < 1e-12);
        let gradient = tolerance("grad.q", DType::BF16, &[0.5, 1.25], &expected);
        assert!((gradient - exact - 0.75).abs() < 1e-12);
        assert_eq!(tolerance("out", DType::F32, &[0.0], &[0.0]), 5e-6);
        let overflowed = tolerance("out", DType::F16, &[f64::NAN, 1.0], &expected);
        assert!(overflowed < exact);
    }
}
