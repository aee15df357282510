//! The table that position tables are projected from.

use crate::Error;

/// Where a row of [`sinusoids`] has its sines and its cosines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SinCos {
    /// All sines, then all cosines: Transformer-XL, XLNet.
    Halves,
    /// Sines at even places, cosines at odd ones: the Conformer's implementations.
    Interleaved,
}

/// `[rows, width]`: row `n` is the encoding of distance `first + n`, `sin(p·f_i)` and `cos(p·f_i)`
/// with `f_i = 10000^(−2i / width)` (Vaswani et al., 2017), evaluated in f64: in half precision
/// distances past 2048 are not exact.
///
/// # Errors
///
/// If `width` is odd.
pub fn sinusoids(first: i64, rows: usize, width: usize, order: SinCos) -> Result<Vec<f32>, Error> {
    if !width.is_multiple_of(2) {
        return Err(Error::invalid(
            "width",
            width,
            "must be even: sines and cosines come in pairs",
        ));
    }
    let mut table = vec![0.0; crate::problem::product("sinusoids", &[rows, width])?];
    for (n, row) in table.chunks_exact_mut(width.max(1)).enumerate() {
        for i in 0..width / 2 {
            let angle = (first + n as i64) as f64 * libm::pow(1e4, -2.0 * i as f64 / width as f64);
            let (sin, cos) = match order {
                SinCos::Halves => (i, width / 2 + i),
                SinCos::Interleaved => (2 * i, 2 * i + 1),
            };
            row[sin] = libm::sin(angle) as f32;
            row[cos] = libm::cos(angle) as f32;
        }
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sines_and_cosines_stand_where_their_order_says() {
        let halves = sinusoids(-1, 3, 4, SinCos::Halves).expect("even");
        let interleaved = sinusoids(-1, 3, 4, SinCos::Interleaved).expect("even");
        assert_eq!(halves[4..8], [0.0, 0.0, 1.0, 1.0]);
        assert_eq!(interleaved[4..8], [0.0, 1.0, 0.0, 1.0]);
        let (s, c) = (1f64.sin() as f32, 1f64.cos() as f32);
        let (s2, c2) = (0.01f64.sin() as f32, 0.01f64.cos() as f32);
        assert_eq!(halves[8..], [s, s2, c, c2]);
        assert_eq!(interleaved[..4], [-s, c, -s2, c2]);
        assert!(sinusoids(0, 1, 3, SinCos::Halves).is_err());
        assert!(sinusoids(0, usize::MAX, 4, SinCos::Halves).is_err());
    }
}
