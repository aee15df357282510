//! T5's bias by distance (Raffel et al., 2020): one number per head and bucket of distances.

use crate::Error;

/// How distances fall into buckets: each of the near ones has its own, the others share buckets that
/// widen logarithmically up to `max_distance`, beyond which all share the last.
///
/// ```text
/// d = −δ, positive for a key in the future;  n buckets to a side
/// bidirectional:  n = num_buckets / 2;  base = n if d > 0 else 0;  m = |d|
/// otherwise:      n = num_buckets;      base = 0;                  m = max(−d, 0)
/// m < n/2:  base + m
/// else:     base + min(n − 1, n/2 + ⌊ln(m / (n/2)) / ln(max_distance / (n/2)) · (n − n/2)⌋)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Buckets {
    /// Rows of `bias_table`. T5: 32.
    pub num_buckets: usize,
    /// T5: 128.
    pub max_distance: usize,
    /// Keys in the future have buckets of their own: T5's encoder. Its decoder has none.
    pub bidirectional: bool,
}

impl Buckets {
    /// Buckets of one side.
    pub fn of_side(&self) -> usize {
        if self.bidirectional { self.num_buckets / 2 } else { self.num_buckets }
    }

    /// Distances, from 0, that have a bucket of their own on one side.
    pub fn near(&self) -> usize {
        self.of_side() / 2
    }

    /// The bucket of a key that lies `distance` positions in the past.
    pub fn bucket(&self, distance: i64) -> usize {
        let base = if self.bidirectional && distance < 0 { self.of_side() } else { 0 };
        let far = if self.bidirectional { distance.unsigned_abs() } else { distance.max(0) as u64 };
        base + self.of_distance(far)
    }

    fn of_distance(&self, m: u64) -> usize {
        let (n, near) = (self.of_side(), self.near());
        if m < near as u64 {
            return m as usize;
        }
        let span = (self.max_distance as f64 / near as f64).ln();
        let wide = (m as f64 / near as f64).ln() / span * (n - near) as f64;
        // Powers land on whole numbers, which the logarithm may miss by its rounding.
        (near + (wide + 1e-9) as usize).min(n - 1)
    }

    /// The least distance of each of a side's buckets after the one of distance [`near`](Self::near).
    pub fn thresholds(&self) -> Vec<usize> {
        let reaches = |bucket: usize| {
            let (mut low, mut high) = (self.near(), self.max_distance);
            while low < high {
                let middle = low + (high - low) / 2;
                match self.of_distance(middle as u64) >= bucket {
                    true => high = middle,
                    false => low = middle + 1,
                }
            }
            low
        };
        (self.near() + 1..self.of_side()).map(reaches).collect()
    }

    /// What the templates take.
    #[cfg(any(feature = "cuda", feature = "webgpu"))]
    pub(super) fn values(&self) -> minijinja::Value {
        let reach = self.reach();
        minijinja::context! {
            num_buckets => self.num_buckets,
            bidirectional => self.bidirectional,
            of_side => self.of_side(),
            near => self.near(),
            thresholds => self.thresholds(),
            reach,
            future => if self.bidirectional { reach } else { 0 },
        }
    }

    /// How many distances differ: from the farthest future that does to the farthest past.
    #[cfg(feature = "cuda")]
    pub(super) fn distances(&self) -> usize {
        (if self.bidirectional { 2 } else { 1 }) * self.reach() + 1
    }

    /// The distance from which on all share a bucket.
    #[cfg(any(feature = "cuda", feature = "webgpu"))]
    pub(super) fn reach(&self) -> usize {
        self.thresholds().last().copied().unwrap_or(self.near())
    }

    pub(super) fn validate(&self) -> Result<(), Error> {
        let least = if self.bidirectional { 4 } else { 2 };
        let rule =
            |rule: String| move |n: usize, field: &str| Error::invalid(field, n, rule.clone());
        if !(least..=1024).contains(&self.num_buckets) {
            let error = rule(format!("must be from {least} to 1024"));
            return Err(error(self.num_buckets, "buckets.num_buckets"));
        }
        if self.max_distance <= self.near() || self.max_distance > 1 << 24 {
            let error = rule(format!("must be above {} and at most {}", self.near(), 1 << 24));
            return Err(error(self.max_distance, "buckets.max_distance"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_where_the_bucket_grows() {
        for (num_buckets, max_distance, bidirectional) in [
            (32, 128, true),
            (32, 128, false),
            (8, 20, true),
            (2, 5, false),
            (5, 9, true),
            (64, 70, true),
        ] {
            let buckets = Buckets { num_buckets, max_distance, bidirectional };
            buckets.validate().expect("valid");
            let thresholds = buckets.thresholds();
            for m in 0..300i64 {
                let reached = thresholds.iter().filter(|&&t| m as usize >= t).count();
                let near = buckets.near().min(m as usize);
                assert_eq!(buckets.bucket(m), near + reached, "{buckets:?} {m}");
            }
        }
        let t5 = Buckets { num_buckets: 32, max_distance: 128, bidirectional: true };
        // Distances 16, 32 and 64 are powers of two times 8.
        assert_eq!([16, 32, 64, 128].map(|m| t5.bucket(m)), [10, 12, 14, 15]);
        assert_eq!([-1, -16, -1000].map(|m| t5.bucket(m)), [17, 26, 31]);
    }
}
