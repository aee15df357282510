//! What a position table must hold, more exactly than f64 multiplies.

use super::guard::floats_of;
use longhand::DType;
use longhand::random::split_mix;
use longhand::transformer_xl::{SinCos, Sinusoids};

/// What an element may be off before it is rounded to the table's dtype: see [`Sinusoids`].
pub const ERROR: f64 = 1.2e-7;

/// Tables with distances of every size and sign, and widths that end in half a vec4, for each order.
pub fn tables(dtype: DType) -> Vec<Sinusoids> {
    let (least, most) = (i64::from(i32::MIN), i64::from(i32::MAX));
    let mut tables = vec![];
    for order in [SinCos::Halves, SinCos::Interleaved] {
        let of = |first, rows, width| Sinusoids { first, rows, width, order, dtype };
        tables.extend([of(-20, 41, 64), of(-3, 7, 2), of(0, 5, 6), of(least, 4, 34)]);
        tables.extend([of(most - 2, 3, 36), of(-1_000_000_007, 1, 512), of(5, 0, 8), of(5, 3, 0)]);
        // Somewhere within 2^20 of distance 0.
        let at = |n| (split_mix(1, n) >> 43) as i64 - (1 << 20);
        tables.extend((0..4).map(|n| of(at(n), 5, 512)));
    }
    tables
}

/// Element `column` of the row of distance `p`.
pub fn exact(table: &Sinusoids, p: i64, column: usize) -> f64 {
    let (i, cosine) = match table.order {
        SinCos::Halves => (column % (table.width / 2), column >= table.width / 2),
        SinCos::Interleaved => (column / 2, column % 2 == 1),
    };
    let f = libm::pow(1e4, -2.0 * i as f64 / table.width as f64);
    // The angle is `high + low`, of which `low` is what the product's rounding left.
    let high = p as f64 * f;
    let low = (p as f64).mul_add(f, -high);
    let (s, c) = high.sin_cos();
    if cosine { c - s * low } else { s + c * low }
}

/// The largest error of the table that lies in `bytes`, as a part of what an element may be off.
pub fn worst(table: &Sinusoids, bytes: &[u8]) -> f64 {
    let got = floats_of(bytes, table.dtype);
    assert_eq!(got.len(), table.rows * table.width);
    let mut worst: f64 = 0.0;
    for (n, &x) in got.iter().enumerate() {
        let expected = exact(table, table.first + (n / table.width) as i64, n % table.width);
        // Half of the last place, and of the smallest numbers.
        let rounding = match table.dtype {
            DType::F32 => 0.0,
            DType::F16 => expected.abs() / 2048.0 + 2f64.powi(-25),
            DType::BF16 => expected.abs() / 256.0,
        };
        let part = (f64::from(x) - expected).abs() / (ERROR + rounding);
        // NaN is worse than everything.
        worst = if part <= worst || worst.is_nan() { worst } else { part };
    }
    worst
}
