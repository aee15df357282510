//! Numbers from a seed: the same on every machine, since nothing but integers and the pure-Rust
//! functions of `libm` is used.

/// 2^−53.
pub(crate) const UNIT: f64 = 1.0 / (1u64 << 53) as f64;

/// Output `n` of SplitMix64 (Steele, Lea and Flood, 2014) started at `seed`.
pub fn split_mix(seed: u64, n: u64) -> u64 {
    let mut x = seed.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A number in [0, 1): the upper 53 bits of output `n`.
pub fn uniform(seed: u64, n: u64) -> f64 {
    (split_mix(seed, n) >> 11) as f64 * UNIT
}

/// Gumbel noise, `−ln(−ln u)`, where u is the number of output `n` and half a step, so neither 0
/// nor 1: the largest of scores with noise is each as often as their softmax says.
pub fn gumbel(seed: u64, n: u64) -> f64 {
    -libm::log(-libm::log(uniform(seed, n) + 0.5 * UNIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_split_mix() {
        // The first outputs for the seed 1234567, as published with the generator.
        assert_eq!(split_mix(1234567, 0), 6457827717110365317);
        assert_eq!(split_mix(1234567, 1), 3203168211198807973);
        let mean = (0..10_000).map(|n| uniform(7, n)).sum::<f64>() / 1e4;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
        // The larger of scores 0 and ln 3.
        let wins = |n: &u64| gumbel(7, 2 * n) + 3f64.ln() > gumbel(7, 2 * n + 1);
        let share = (0..10_000).filter(wins).count() as f64 / 1e4;
        assert!((share - 0.75).abs() < 0.01, "{share}");
    }
}
