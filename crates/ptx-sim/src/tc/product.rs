//! `C += A·Bᵀ` of small tiles under each accumulation model.

use super::Tc;
use crate::num::fast;

/// Columns computed together: enough independent sums for the vector units.
const LANES: usize = 8;
/// Rows computed together.
const ROWS: usize = 2;

/// `c (m×n) += a (m×k) · b (n×k)ᵀ`, all row-major, results in binary32 (NaN as instructions generate it). `b` is
/// what `mma` and `wgmma` call B, by columns. Panics on a slice shorter than its size.
pub fn product(m: usize, n: usize, k: usize, a: &[f32], b: &[f32], c: &mut [f32], tc: Tc) {
    super::wide::tile(m, n, k, a, b, c, tc);
}

#[inline(always)]
pub(super) fn to_f32(v: f64) -> f32 {
    f32::from_bits(fast::canon(v as f32))
}

/// As [`product`], with results rounded once to binary16 (and held as binary32).
pub fn product_f16(m: usize, n: usize, k: usize, a: &[f32], b: &[f32], c: &mut [f32], tc: Tc) {
    accumulate(m, n, k, a, b, c, tc, |v| fast::from_f16(fast::to16::<false, false>(v)));
}

/// `c (m×n) += a (m×k) · b (n×k)ᵀ` of bytes held as binary32; the 32-bit sum wraps, or clamps if `satfinite`.
pub fn product_int(
    m: usize,
    n: usize,
    k: usize,
    a: &[f32],
    b: &[f32],
    c: &mut [i32],
    satfinite: bool,
) {
    for i in 0..m {
        for j in 0..n {
            let (x, y) = (&a[i * k..][..k], &b[j * k..][..k]);
            // Products are at most 2^16: up to 256 of them sum exactly in binary32's 24 bits.
            let dot: f64 = x.chunks(256).zip(y.chunks(256)).map(|(x, y)| dot(x, y) as f64).sum();
            let sum = dot as i64 + c[i * n + j] as i64;
            c[i * n + j] = if satfinite {
                sum.clamp(i32::MIN as i64, i32::MAX as i64) as i32
            } else {
                sum as i32
            };
        }
    }
}

/// A dot product in eight partial sums, for the vector units; exact for what [`product_int`] passes.
fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut sum = [0f32; 8];
    let (xs, ys) = (x.chunks_exact(8), y.chunks_exact(8));
    let rest: f32 = xs.remainder().iter().zip(ys.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in xs.zip(ys) {
        for j in 0..8 {
            sum[j] += x[j] * y[j];
        }
    }
    rest + sum.iter().sum::<f32>()
}

/// Loops over rows and blocks of columns; `round` makes a result of an exact or almost exact sum.
#[allow(clippy::too_many_arguments)] // a tile's three sizes and three arrays
#[inline(always)]
pub(super) fn accumulate(
    m: usize,
    n: usize,
    k: usize,
    a: &[f32],
    b: &[f32],
    c: &mut [f32],
    tc: Tc,
    round: impl Fn(f64) -> f32,
) {
    let (mut few, mut many) = ([[0f64; LANES]; 32], Vec::new());
    let column = match k {
        0..=32 => &mut few[..k],
        _ => {
            many.resize(k, [0f64; LANES]);
            &mut many[..]
        }
    };
    let mut start = 0;
    while start < n {
        let width = LANES.min(n - start);
        // B transposed to k × LANES, so that the inner loop runs over adjacent sums. Lanes beyond `width` keep stale values
        // that are never read.
        for j in 0..width {
            for (x, col) in column.iter_mut().enumerate() {
                col[j] = b[(start + j) * k + x] as f64;
            }
        }
        for i in (0..m).step_by(ROWS) {
            let rows = ROWS.min(m - i);
            let mut acc = [[0f64; LANES]; ROWS];
            for r in 0..rows {
                for (v, o) in acc[r].iter_mut().zip(&c[(i + r) * n + start..][..width]) {
                    *v = *o as f64;
                }
            }
            match tc {
                Tc::Exact if rows == ROWS => exact(&mut acc, &a[i * k..][..ROWS * k], column),
                _ => {
                    for (r, acc) in acc.iter_mut().enumerate().take(rows) {
                        let row = &a[(i + r) * k..][..k];
                        match tc {
                            Tc::Exact => one_row(acc, row, column),
                            Tc::Truncate { block, extra } => {
                                truncate(acc, row, column, block, extra)
                            }
                            Tc::Reverse => reverse(acc, row, column),
                        }
                    }
                }
            }
            for r in 0..rows {
                // All lanes, so that the rounding is vector code.
                let mut rounded = [0f32; LANES];
                for (o, &v) in rounded.iter_mut().zip(&acc[r]) {
                    *o = round(v);
                }
                c[(i + r) * n + start..][..width].copy_from_slice(&rounded[..width]);
            }
        }
        start += width;
    }
}

/// Rows at a time: each value of B is loaded once for all of them.
#[inline(always)]
fn exact(acc: &mut [[f64; LANES]; ROWS], rows: &[f32], column: &[[f64; LANES]]) {
    let k = column.len();
    let (first, second) = rows.split_at(k);
    let mut sum = [[0f64; LANES]; ROWS];
    for ((&x, &y), col) in first.iter().zip(second).zip(column) {
        let (x, y) = (x as f64, y as f64);
        for j in 0..LANES {
            sum[0][j] += x * col[j];
            sum[1][j] += y * col[j];
        }
    }
    for r in 0..ROWS {
        for j in 0..LANES {
            acc[r][j] += sum[r][j];
        }
    }
}

#[inline(always)]
fn one_row(acc: &mut [f64; LANES], row: &[f32], column: &[[f64; LANES]]) {
    let mut sum = [0f64; LANES];
    for (&x, col) in row.iter().zip(column) {
        for j in 0..LANES {
            sum[j] += x as f64 * col[j];
        }
    }
    for j in 0..LANES {
        acc[j] += sum[j];
    }
}

#[inline(always)]
fn reverse(acc: &mut [f64; LANES], row: &[f32], column: &[[f64; LANES]]) {
    for (&x, col) in row.iter().zip(column).rev() {
        let x = x as f64;
        for j in 0..LANES {
            // Rounded to odd first: one rounding to binary32 in effect.
            acc[j] = fast::sum_odd(x * col[j], acc[j]) as f32 as f64;
        }
    }
}

#[inline(always)]
fn truncate(acc: &mut [f64; LANES], row: &[f32], column: &[[f64; LANES]], block: u32, extra: i32) {
    let block = block.max(1) as usize;
    for (row, column) in row.chunks(block).zip(column.chunks(block)) {
        aligned(acc, row, column, extra);
    }
}

/// Integer part of a magnitude below 2⁵¹, without a conversion, for the vector units.
#[inline(always)]
fn integer_part(v: f64) -> f64 {
    const MAGIC: f64 = 4_503_599_627_370_496.0; // 2⁵²: adding it rounds to an integer
    let m = v.abs();
    let near = (m + MAGIC) - MAGIC;
    (if near > m { near - 1.0 } else { near }).copysign(v)
}

/// Sums of addends cut to `24 + extra` bits of the largest one's binade, cut to binary32. Each pass computes the products
/// again, which is cheaper than keeping them.
#[inline(always)]
fn aligned(acc: &mut [f64; LANES], row: &[f32], column: &[[f64; LANES]], extra: i32) {
    let mut plain = *acc;
    let mut top = acc.map(f64::abs);
    for (&x, col) in row.iter().zip(column) {
        for j in 0..LANES {
            let p = x as f64 * col[j];
            plain[j] += p;
            top[j] = if p.abs() > top[j] { p.abs() } else { top[j] };
        }
    }
    // A power of two within binary64's normal range, so that multiplying is exact: a product of binary32 lies in 2^±298.
    let scale = top.map(|t| {
        let unit = (t.to_bits() >> 52) as i32 - 1023 - 23 - extra.min(20);
        f64::from_bits((1023 - unit.clamp(-1000, 1000)) as u64 * (1 << 52))
    });
    let mut sum = [0f64; LANES];
    for j in 0..LANES {
        sum[j] = integer_part(acc[j] * scale[j]);
    }
    for (&x, col) in row.iter().zip(column) {
        for j in 0..LANES {
            sum[j] += integer_part(x as f64 * col[j] * scale[j]);
        }
    }
    for j in 0..LANES {
        // Infinities and NaN give what adding them gives, zeros the sum's sign.
        acc[j] =
            if plain[j].is_finite() && top[j] > 0.0 { cut(sum[j] / scale[j]) } else { plain[j] };
    }
}

/// The binary32 next to zero from `v`; a sum beyond the range becomes infinite.
#[inline(always)]
fn cut(v: f64) -> f64 {
    let near = v as f32;
    let over = v.abs() < (u128::MAX as f64) && (near as f64).abs() > v.abs();
    f32::from_bits(near.to_bits() - over as u32) as f64
}
