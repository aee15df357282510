//! Rotations from a seed.

use super::Lsh;
use crate::random::{UNIT, uniform};

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
                let u = uniform(seed, 2 * n) + UNIT;
                let w = uniform(seed, 2 * n + 1);
                let radius = (-2.0 * libm::log(u)).sqrt();
                (radius * libm::cos(std::f64::consts::TAU * w)) as f32
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;

    #[test]
    fn the_numbers_are_normal() {
        let x = Lsh::new([1, 4096, 4, 64], 64, 4, DType::F32).rotations(7);
        let n = x.len() as f64;
        let moment = |k: i32| x.iter().map(|&x| f64::from(x).powi(k)).sum::<f64>() / n;
        assert!(moment(1).abs() < 0.02 && (moment(2) - 1.0).abs() < 0.03, "{}", moment(2));
        assert!((moment(4) - 3.0).abs() < 0.2, "{}", moment(4));
        let other = Lsh::new([1, 4096, 4, 64], 64, 4, DType::F32).rotations(8);
        assert_ne!(x, other);
    }
}
