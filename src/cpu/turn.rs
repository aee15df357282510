//! Rows in memory to lanes of vectors, and back.

use super::Isa;
use super::lanes::{LANES, Lanes};

/// Element `x` of row `n`, times `scale`, is lane `n` of `lanes[x]`; as many rows as lanes, one after
/// the other.
pub(crate) fn to_lanes(isa: Isa, rows: &[f32], scale: f32, lanes: &mut [Lanes]) {
    let d = lanes.len();
    debug_assert_eq!(rows.len(), LANES * d);
    let done = match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::Avx512 => {
            // SAFETY: a plan has these only where `Isa::all` has found AVX2.
            #[allow(unsafe_code)]
            unsafe {
                x86::to_lanes(rows, scale, lanes)
            }
        }
        _ => 0,
    };
    for (n, row) in rows.chunks_exact(d).enumerate() {
        for (lanes, x) in lanes[done..].iter_mut().zip(&row[done..]) {
            lanes[n] = x * scale;
        }
    }
}

/// The other way, each row times its own factor.
pub(crate) fn to_rows(isa: Isa, lanes: &[Lanes], factors: &Lanes, rows: &mut [f32]) {
    let d = lanes.len();
    debug_assert_eq!(rows.len(), LANES * d);
    let done = match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::Avx512 => {
            // SAFETY: as above.
            #[allow(unsafe_code)]
            unsafe {
                x86::to_rows(lanes, factors, rows)
            }
        }
        _ => 0,
    };
    for (n, row) in rows.chunks_exact_mut(d).enumerate() {
        for (x, lanes) in row[done..].iter_mut().zip(&lanes[done..]) {
            *x = lanes[n] * factors[n];
        }
    }
}

/// Squares of eight by eight: the compiler would move each number by itself.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{LANES, Lanes};
    use std::arch::x86_64::*;

    const SIDE: usize = 8;

    /// Rows to columns.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn turned(rows: [__m256; SIDE]) -> [__m256; SIDE] {
        // Of four rows, elements 0 to 3 of each half in turn.
        let four = |a, b, c, d| {
            let (ab, cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
            let (low, high) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
            [
                _mm256_shuffle_ps::<0x44>(ab, cd),
                _mm256_shuffle_ps::<0xee>(ab, cd),
                _mm256_shuffle_ps::<0x44>(low, high),
                _mm256_shuffle_ps::<0xee>(low, high),
            ]
        };
        let [a, b, c, d, e, f, g, h] = rows;
        let ([a, b, c, d], [e, f, g, h]) = (four(a, b, c, d), four(e, f, g, h));
        let low = |x, y| _mm256_permute2f128_ps::<0x20>(x, y);
        let high = |x, y| _mm256_permute2f128_ps::<0x31>(x, y);
        [low(a, e), low(b, f), low(c, g), low(d, h), high(a, e), high(b, f), high(c, g), high(d, h)]
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn load(x: &[f32]) -> __m256 {
        let mut all = [0.0; SIDE];
        all.copy_from_slice(&x[..SIDE]);
        bytemuck::cast(all)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn store(x: __m256, to: &mut [f32]) {
        to[..SIDE].copy_from_slice(&bytemuck::cast::<__m256, [f32; SIDE]>(x));
    }

    /// How many elements of each row it did.
    #[target_feature(enable = "avx2")]
    pub(super) fn to_lanes(rows: &[f32], scale: f32, lanes: &mut [Lanes]) -> usize {
        let d = lanes.len();
        let scale = _mm256_set1_ps(scale);
        let (squares, _) = lanes.as_chunks_mut::<SIDE>();
        for (n, lanes) in squares.iter_mut().enumerate() {
            for first in (0..LANES).step_by(SIDE) {
                let row = |i: usize| load(&rows[(first + i) * d + n * SIDE..]);
                let rows = [row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)];
                let columns = turned(rows);
                for (lanes, column) in lanes.iter_mut().zip(columns) {
                    store(_mm256_mul_ps(column, scale), &mut lanes[first..]);
                }
            }
        }
        squares.len() * SIDE
    }

    /// The same.
    #[target_feature(enable = "avx2")]
    pub(super) fn to_rows(lanes: &[Lanes], factors: &Lanes, rows: &mut [f32]) -> usize {
        let pitch = lanes.len();
        let (squares, _) = lanes.as_chunks::<SIDE>();
        for first in (0..LANES).step_by(SIDE) {
            let factors = load(&factors[first..]);
            for (n, lanes) in squares.iter().enumerate() {
                let column = |lanes: &Lanes| _mm256_mul_ps(load(&lanes[first..]), factors);
                let [a, b, c, d, e, f, g, h] = lanes;
                let columns = [
                    column(a),
                    column(b),
                    column(c),
                    column(d),
                    column(e),
                    column(f),
                    column(g),
                    column(h),
                ];
                for (row, x) in turned(columns).into_iter().enumerate() {
                    store(x, &mut rows[(first + row) * pitch + n * SIDE..]);
                }
            }
        }
        squares.len() * SIDE
    }
}

#[test]
fn rows_become_lanes_and_lanes_rows() {
    for isa in Isa::all() {
        for d in [1, 5, 8, 20, 64, 255] {
            let rows: Vec<f32> = (0..LANES * d).map(|n| n as f32).collect();
            let mut lanes = vec![[f32::NAN; LANES]; d];
            to_lanes(isa, &rows, 0.5, &mut lanes);
            for (x, lanes) in lanes.iter().enumerate() {
                for (n, y) in lanes.iter().enumerate() {
                    assert_eq!(*y, rows[n * d + x] * 0.5, "{isa:?}, {d}: element {x} of row {n}");
                }
            }
            let factors: Lanes = std::array::from_fn(|n| (n + 1) as f32);
            let mut back = vec![f32::NAN; LANES * d];
            to_rows(isa, &lanes, &factors, &mut back);
            for (at, (back, x)) in back.iter().zip(&rows).enumerate() {
                let expected = x * 0.5 * (at / d + 1) as f32;
                assert_eq!(*back, expected, "{isa:?}, {d}: element {} of row {}", at % d, at / d);
            }
        }
    }
}
