//! Rotations from a seed.

use super::Lsh;

impl Lsh {
    /// `rotations` (`[heads, head_dim, num_hashes, columns]`) from `seed`: the same numbers on every
    /// machine and for every device, since nothing but integers and the pure-Rust functions of
    /// `libm` is used.
    ///
    /// Element `n` is `sqrt(−2 ln u) · cos(2π w)` (Box and Muller, 1958) in f64, rounded to f32,
    /// where `u` is in (0, 1] and `w` in [0, 1): the upper 53 bits, for `u` plus one, of outputs
    /// `2n` and `2n + 1` of SplitMix64 (Steele, Lea and Flood, 2014) started at `seed`.
    pub fn rotations(&self, seed: u64) -> Vec<f32> {
        (0..self.rotations_len() as u64)
            .map(|n| {
                let u = ((split_mix(seed, 2 * n) >> 11) + 1) as f64 * UNIT;
                let w = (split_mix(seed, 2 * n + 1) >> 11) as f64 * UNIT;
                let radius = (-2.0 * libm::log(u)).sqrt();
                (radius * libm::cos(std::f64::consts::TAU * w)) as f32
            })
            .collect()
    }
}

/// 2^−53.
const UNIT: f64 = 1.0 / (1u64 << 53) as f64;

/// Output `n` of the generator started at `seed`.
fn split_mix(seed: u64, n: u64) -> u64 {
    let mut x = seed.wrapping_add((n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;

    #[test]
    fn the_generator_is_split_mix_and_its_numbers_are_normal() {
        // The first outputs for the seed 1234567, as published with the generator.
        assert_eq!(split_mix(1234567, 0), 6457827717110365317);
        assert_eq!(split_mix(1234567, 1), 3203168211198807973);
        let x = Lsh::new([1, 4096, 4, 64], 64, 4, DType::F32).rotations(7);
        let n = x.len() as f64;
        let moment = |k: i32| x.iter().map(|&x| f64::from(x).powi(k)).sum::<f64>() / n;
        assert!(moment(1).abs() < 0.02 && (moment(2) - 1.0).abs() < 0.03, "{}", moment(2));
        assert!((moment(4) - 3.0).abs() < 0.2, "{}", moment(4));
        let other = Lsh::new([1, 4096, 4, 64], 64, 4, DType::F32).rotations(8);
        assert_ne!(x, other);
    }
}
