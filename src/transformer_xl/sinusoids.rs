//! The table that position tables are projected from: on the host, or by a small kernel.

#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(feature = "webgpu")]
pub mod webgpu;

use super::TransformerXl;
use crate::{DType, Error};

/// Where a row of [`sinusoids`](sinusoids()) has its sines and its cosines.
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
    even(width)?;
    let mut table = vec![0.0; crate::problem::product("sinusoids", &[rows, width])?];
    for (n, row) in table.chunks_exact_mut(width.max(1)).enumerate() {
        for i in 0..width / 2 {
            let angle = first.saturating_add(n as i64) as f64 * frequency(i, width);
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

fn even(width: usize) -> Result<(), Error> {
    match width.is_multiple_of(2) {
        true => Ok(()),
        false => {
            let rule = "must be even: sines and cosines come in pairs";
            Err(Error::invalid("width", width, rule))
        }
    }
}

fn frequency(i: usize, width: usize) -> f64 {
    libm::pow(1e4, -2.0 * i as f64 / width as f64)
}

/// That table, made on a device and stored there: `table`, `[rows, width]`, contiguous. Row `n` is of
/// distance `first + n`. The other tensor is [`frequencies`](Self::frequencies), which is put on the
/// device once for all tables of a width.
///
/// Sines and cosines are computed in f32 from a phase that is exact at every distance, and are within
/// 1.2e-7 before they are rounded to `dtype`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sinusoids {
    /// Distance of the first row, negative for one in the future.
    pub first: i64,
    /// Distances.
    pub rows: usize,
    /// Elements of a row, an even number.
    pub width: usize,
    /// Where a row's sines and cosines are.
    pub order: SinCos,
    /// Storage of the table.
    pub dtype: DType,
}

impl TransformerXl {
    /// The sinusoids of the distances that `r` has rows for, stored as the problem's tensors; their
    /// projection is `r`.
    pub fn sinusoids(&self, width: usize, order: SinCos) -> Sinusoids {
        let first = -(self.distance_offset as i64);
        Sinusoids { first, rows: self.rows, width, order, dtype: self.dtype }
    }
}

impl Sinusoids {
    /// Rejects what has no meaning: an odd width, distances that 32 bits do not hold.
    pub fn validate(&self) -> Result<(), Error> {
        even(self.width)?;
        let (least, most) = (i64::from(i32::MIN), i64::from(i32::MAX));
        if !(least..=most).contains(&self.first) {
            return Err(Error::invalid("first", self.first, "must be from -2^31 to 2^31 - 1"));
        }
        if i64::try_from(self.rows).is_ok_and(|n| n <= most - self.first + 1) {
            crate::problem::product("table", &[self.rows, self.width]).map(|_| ())
        } else {
            let rule = format!("distances from {} on must be below 2^31", self.first);
            Err(Error::invalid("rows", self.rows, rule))
        }
    }

    /// The steps of the phases from one distance to the next, `[width / 2]`: fractions of a turn in
    /// units of 2^-64. A distance times one of them, modulo 2^64, is where the distance's angle lies on
    /// the circle, since whole turns overflow.
    pub fn frequencies(&self) -> Vec<u64> {
        (0..self.width / 2).map(|i| turns(frequency(i, self.width))).collect()
    }

    /// The table on the host, before it is rounded to `dtype`: [`sinusoids`](sinusoids()).
    pub fn reference(&self) -> Result<Vec<f32>, Error> {
        self.validate()?;
        sinusoids(self.first, self.rows, self.width, self.order)
    }

    #[cfg(any(feature = "cuda", feature = "webgpu"))]
    fn elements(&self) -> usize {
        self.rows * self.width
    }

    #[cfg(any(feature = "cuda", feature = "webgpu"))]
    fn indices_fit(&self) -> Result<(), Error> {
        crate::problem::counted(self.elements())
    }
}

/// `x / 2π` of an `x` from 2^-60 to 1, in units of 2^-64, to nearest.
fn turns(x: f64) -> u64 {
    // 1 / 2π in units of 2^-128.
    const HIGH: u128 = 0x28be_60db_9391_054a;
    const LOW: u128 = 0x7f09_d5f4_7d4d_3770;
    // x = mantissa / 2^shift
    let mantissa = u128::from(x.to_bits() & ((1 << 52) - 1) | 1 << 52);
    let shift = 1075 - (x.to_bits() >> 52);
    let product = mantissa * HIGH + ((mantissa * LOW) >> 64);
    (((product >> (shift - 1)) + 1) >> 1) as u64
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

    #[test]
    fn frequencies_are_fractions_of_a_turn() {
        let table =
            Sinusoids { first: 0, rows: 1, width: 512, order: SinCos::Halves, dtype: DType::F32 };
        let frequencies = table.frequencies();
        assert_eq!(frequencies.len(), 256);
        assert_eq!(frequencies[0], 0x28be_60db_9391_054a);
        for (i, &f) in frequencies.iter().enumerate() {
            let radians = f as f64 * (std::f64::consts::TAU / 2f64.powi(64));
            let expected = frequency(i, 512);
            // Half a unit, and the roundings of this test.
            let bound = std::f64::consts::TAU / 2f64.powi(65) + 5e-16 * expected;
            assert!((radians - expected).abs() < bound, "{i}: {radians} for {expected}");
        }
        // 10^-4 / 2π · 2^64, by numbers of 60 digits: f64's own would end five bits earlier.
        assert_eq!(turns(1e-4), 293_589_050_328_200);
    }

    #[test]
    fn distances_are_numbers_of_32_bits() {
        let table = |first: i64, rows| Sinusoids {
            first,
            rows,
            width: 2,
            order: SinCos::Halves,
            dtype: DType::F32,
        };
        let field = |table: Sinusoids| match table.validate() {
            Err(Error::Invalid { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        let (least, most) = (i64::from(i32::MIN), i64::from(i32::MAX));
        for (first, rows) in [(least, 1 << 32), (most, 1), (0, 1 << 31), (most, 0)] {
            table(first, rows).validate().expect("distances of 32 bits");
        }
        for (first, rows) in [(least, (1 << 32) + 1), (most, 2), (1, 1 << 31), (0, usize::MAX)] {
            assert_eq!(field(table(first, rows)), "rows");
        }
        for first in [least - 1, most + 1, i64::MIN, i64::MAX] {
            assert_eq!(field(table(first, 1)), "first");
        }
        let odd = Sinusoids { width: 7, ..table(0, 1) };
        assert_eq!(field(odd), "width");
        assert_eq!(field(Sinusoids { width: usize::MAX - 1, ..table(0, 9) }), "table");
    }

    #[test]
    fn a_problems_table_has_its_rows() {
        let problem = TransformerXl::conformer([1, 5, 1, 4], 3, DType::F16);
        let table = problem.sinusoids(6, SinCos::Interleaved);
        assert_eq!((table.first, table.rows, table.dtype), (-4, 12, DType::F16));
        let rows = table.reference().expect("even");
        assert_eq!(rows[4 * 6..5 * 6], [0.0, 1.0, 0.0, 1.0, 0.0, 1.0], "distance 0");
    }
}
