//! Rounding to integers, by units that lie where the numbers do.

use super::*;

/// The largest magnitude of all elements, `[1]`. It has no gradient.
pub fn largest(x: &Tensor) -> Tensor {
    if let Some(gpu) = place(&[x]) {
        let of_rows = launches::softmax(gpu, x, OfRow::Magnitude);
        let one_row = of_rows.reshape(&[1, x.rows()]);
        return launches::softmax(gpu, &one_row, OfRow::Magnitude);
    }
    let most = x.data().iter().fold(0.0, |most: f32, x| most.max(x.abs()));
    Tensor::new(&[1], vec![most])
}

/// What each of `most` steps to `range` stands for, 1 if that is 0. It has no gradient.
pub fn unit(range: &Tensor, most: f32) -> Tensor {
    match place(&[range]) {
        Some(gpu) => launches::elements(gpu, Of::Unit, range, None, most),
        None => map(range.clone(), |range| if range > 0.0 { range / most } else { 1.0 }),
    }
}

/// How many times `unit`, `[1]`, every element is: whole, of two as near the even one, at most `most`
/// up or down. Gradient: passes as if nothing were rounded, also where a value is clamped; the unit
/// gets none.
pub fn round(x: &Tensor, unit: &Tensor, most: f32) -> Tensor {
    if let Some(gpu) = place(&[x, unit]) {
        return launches::elements(gpu, Of::Round, x, Some((unit, Meets::Row)), most);
    }
    let unit = unit.data()[0];
    map(x.clone(), |x| (x / unit).round_ties_even().clamp(-most, most))
}

/// Every element times the one of `unit`, `[1]`. Gradient: times it.
pub fn in_units(x: Tensor, unit: &Tensor) -> Tensor {
    if let Some(gpu) = place(&[&x, unit]) {
        return launches::elements(gpu, Of::Multiply, &x, Some((unit, Meets::Row)), 0.0);
    }
    let unit = unit.data()[0];
    map(x, |x| x * unit)
}
