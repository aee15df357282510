//! The common products compiled for wider vectors, chosen when they run. Not one bit depends on the choice: nothing is
//! fused, and the order of sums is the same.

#![allow(unsafe_code)]

use super::Tc;
use super::product::{accumulate, to_f32};
use crate::alu::L32;
use crate::num::fast;

/// `d = a·b + c` of 16-bit fragments with binary32 sums: m16n8k8 or k16, exact.
pub(super) fn fragments<const BF: bool>(d: &mut [L32], a: &[L32], b: &[L32], c: &[L32]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        #[target_feature(enable = "avx2")]
        fn wide<const BF: bool>(d: &mut [L32], a: &[L32], b: &[L32], c: &[L32]) {
            exact::<BF>(d, a, b, c);
        }
        // SAFETY: the processor has AVX2.
        return unsafe { wide::<BF>(d, a, b, c) };
    }
    exact::<BF>(d, a, b, c);
}

/// [`super::product`].
#[allow(clippy::too_many_arguments)] // a tile's three sizes and three arrays
pub(super) fn tile(m: usize, n: usize, k: usize, a: &[f32], b: &[f32], c: &mut [f32], tc: Tc) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        #[target_feature(enable = "avx2")]
        fn wide(m: usize, n: usize, k: usize, a: &[f32], b: &[f32], c: &mut [f32], tc: Tc) {
            accumulate(m, n, k, a, b, c, tc, to_f32);
        }
        // SAFETY: the processor has AVX2.
        return unsafe { wide(m, n, k, a, b, c, tc) };
    }
    accumulate(m, n, k, a, b, c, tc, to_f32);
}

#[inline(always)]
fn exact<const BF: bool>(d: &mut [L32], a: &[L32], b: &[L32], c: &[L32]) {
    let value = |half: u32| f64::from(fast::from16::<BF>(half));
    // Register j of lane l holds two neighbours in k from 8 (j / 2) + 2 (l % 4) of A, 8 j + 2 (l % 4) of B.
    let k = 8 * b.len();
    let mut rows = [[0f64; 16]; 16];
    for (j, reg) in a.iter().enumerate() {
        let (down, right) = (8 * (j & 1), 8 * (j >> 1));
        let (low, high) = (reg.map(value), reg.map(|w| value(w >> 16)));
        for l in 0..32 {
            rows[l / 4 + down][right + 2 * (l % 4)] = low[l];
            rows[l / 4 + down][right + 2 * (l % 4) + 1] = high[l];
        }
    }
    let mut columns = [[0f64; 8]; 16];
    for (j, reg) in b.iter().enumerate() {
        let (low, high) = (reg.map(value), reg.map(|w| value(w >> 16)));
        for l in 0..32 {
            columns[8 * j + 2 * (l % 4)][l / 4] = low[l];
            columns[8 * j + 2 * (l % 4) + 1][l / 4] = high[l];
        }
    }
    for g in 0..8 {
        let mut sums = [[0f64; 8]; 2];
        for x in 0..k {
            let (upper, lower) = (rows[g][x], rows[g + 8][x]);
            for j in 0..8 {
                sums[0][j] += upper * columns[x][j];
                sums[1][j] += lower * columns[x][j];
            }
        }
        for half in 0..2 {
            let mut with = [0f64; 8];
            for t in 0..4 {
                with[2 * t] = f64::from(f32::from_bits(c[2 * half][4 * g + t]));
                with[2 * t + 1] = f64::from(f32::from_bits(c[2 * half + 1][4 * g + t]));
            }
            for j in 0..8 {
                with[j] += sums[half][j];
            }
            let bits = with.map(|v| to_f32(v).to_bits());
            for t in 0..4 {
                d[2 * half][4 * g + t] = bits[2 * t];
                d[2 * half + 1][4 * g + t] = bits[2 * t + 1];
            }
        }
    }
}
