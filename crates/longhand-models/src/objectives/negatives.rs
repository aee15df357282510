//! Words that were not there, and words that are left out: word2vec (Mikolov et al., 2013b, §2.2,
//! §2.3).

use super::*;

/// The table that negative words are drawn from, by `count^exponent`: its last element is `domain`.
///
/// # Errors
///
/// If a count is not positive, or the sum of the powers is no number.
pub fn table(counts: &[i32], exponent: f64, domain: i32) -> Result<Vec<i32>> {
    let bad = |i| Error::invalid(format!("counts[{i}]"), counts[i], "must be positive");
    reject(counts.iter().position(|&n| n < 1), bad)?;
    let powers: Vec<f64> = counts.iter().map(|&n| f64::from(n).powf(exponent)).collect();
    let total: f64 = powers.iter().sum();
    let rule = "the powers of counts have no finite sum above 0";
    ensure(total.is_normal(), "config: ns_exponent", exponent, rule)?;
    let mut sum = 0.0;
    let entry = |power: &f64| {
        sum += power;
        (sum / total * f64::from(domain)).round_ties_even() as i32
    };
    Ok(powers.iter().map(entry).collect())
}

/// The word of a draw from 0 to the table's last element.
pub fn word(table: &[i32], draw: i32) -> usize {
    table.partition_point(|&end| end < draw).min(table.len() - 1)
}

/// With which probability each word stays in its sentence: frequent ones are left out, more of
/// them the smaller `sample` is; 0 keeps all.
pub fn keep_probabilities(counts: &[i32], sample: f64) -> Vec<f64> {
    let total: f64 = counts.iter().map(|&n| f64::from(n)).sum();
    let threshold = sample * total;
    let keep = |&n: &i32| ((f64::from(n) / threshold).sqrt() + 1.0) * threshold / f64::from(n);
    match sample > 0.0 {
        true => counts.iter().map(|n| keep(n).min(1.0)).collect(),
        false => vec![1.0; counts.len()],
    }
}
