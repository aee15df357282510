//! Losses: numbers, summed in f64.

use super::*;

/// The label of a row that is not scored.
const IGNORED: i32 = -100;

/// The rows that a loss counts, each with its label.
///
/// # Errors
///
/// If there are not as many labels as rows, or one is neither −100 nor below the width.
pub fn scored_rows(logits: &Tensor, labels: &Ints, name: &str) -> Result<Vec<(usize, usize)>> {
    let rule = format!("must hold {} labels", logits.rows());
    require(labels.data.len() == logits.rows(), || Error::shape(name, &labels.shape, rule))?;
    let scored = labels.data.iter().enumerate().filter(|&(_, &label)| label != IGNORED);
    let rule = format!("must be -100 or below {}", logits.width());
    let label = |(row, &label): (usize, &i32)| {
        let fits = usize::try_from(label).ok().filter(|&label| label < logits.width());
        let bad = || Error::invalid(format!("{name}[{row}]"), label, &rule);
        fits.map(|label| (row, label)).ok_or_else(bad)
    };
    scored.map(label).collect()
}

/// Labels for what foretells the next token: each position's is the one after it, and the last has
/// none.
pub fn next_labels(labels: &Ints) -> Ints {
    let mut next = labels.clone();
    for row in next.data.chunks_mut(labels.shape.last().copied().unwrap_or(1).max(1)) {
        row.rotate_left(1);
        row.iter_mut().last().into_iter().for_each(|last| *last = IGNORED);
    }
    next
}

/// `−log softmax(logits)[label]` of one row. Gradient: `softmax − one-hot`.
///
/// # Panics
///
/// If the label is not below the width.
pub fn nll(row: &[f32], label: usize) -> f64 {
    log_sum_exp(row) - f64::from(row[label])
}

/// The mean of `−log softmax(logits)[label]` over the rows whose labels are not −100; NaN if there is
/// none, as the reference has it. Gradient to the logits: `(softmax − one-hot) / scored`.
///
/// # Errors
///
/// As [`scored_rows`].
pub fn labels_loss(logits: &Tensor, labels: &Ints, name: &str) -> Result<f64> {
    let scored = scored_rows(logits, labels, name)?;
    let nll = |&(row, label): &(usize, usize)| nll(logits.row(row), label);
    Ok(scored.iter().map(nll).sum::<f64>() / scored.len() as f64)
}

/// `Σ −softmax(target/T) · log softmax(logits/T)` of each of `rows`, summed. Gradient to the logits:
/// `(softmax(logits/T) − softmax(target/T)) / T`.
pub fn soft_cross_entropy(
    logits: &Tensor,
    target: &Tensor,
    temperature: f64,
    rows: impl Iterator<Item = usize>,
) -> f64 {
    let log_probs = |x: &[f32]| -> Vec<f64> {
        let scaled: Vec<f32> = x.iter().map(|&x| (f64::from(x) / temperature) as f32).collect();
        let lse = log_sum_exp(&scaled);
        scaled.iter().map(|&x| f64::from(x) - lse).collect()
    };
    let of_row = |row| {
        let (student, teacher) = (log_probs(logits.row(row)), log_probs(target.row(row)));
        student.iter().zip(&teacher).map(|(s, t)| -t.exp() * s).sum::<f64>()
    };
    rows.map(of_row).sum()
}

/// `−y log σ(x) − (1 − y) log σ(−x)`. Gradient: `σ(x) − y`.
pub fn binary_cross_entropy(logit: f32, label: bool) -> f64 {
    let x = f64::from(logit);
    x.max(0.0) - if label { x } else { 0.0 } + (-x.abs()).exp().ln_1p()
}

/// The mean of `(a − b)²`. Gradient to `a`: `2(a − b)/n`.
pub fn mse(a: &Tensor, b: &Tensor) -> f64 {
    mean(a, b, |d| d * d)
}

/// The mean of `|a − b|`. Gradient to `a`: `sign(a − b)/n`.
pub fn l1(a: &Tensor, b: &Tensor) -> f64 {
    mean(a, b, f64::abs)
}

fn mean(a: &Tensor, b: &Tensor, f: impl Fn(f64) -> f64) -> f64 {
    assert_eq!(a.shape(), b.shape(), "elementwise");
    let pairs = a.data().iter().zip(b.data());
    pairs.map(|(&a, &b)| f(f64::from(a) - f64::from(b))).sum::<f64>() / a.data().len() as f64
}

/// `a·b / (|a| |b|)`. Gradient to `a`: `(b/|b| − cos · a/|a|) / |a|`.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    dot(a, b) / (dot(a, a).sqrt() * dot(b, b).sqrt()).max(1e-8)
}

/// `a·b`. Gradient to each: the other.
pub fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}
