//! Functions of one element, or of one and another that it meets.

use super::*;

/// The numbers of such functions in [`Kernel::Elements`]; those from 4 on are [`Activation`]s.
enum Of {
    Add = 0,
    Multiply = 1,
    Scale = 2,
    Keep = 3,
    Unit = 12,
    Round = 13,
    Clamp = 14,
}

/// Which of `b`'s elements meets an element of `a`.
#[derive(Clone, Copy, PartialEq)]
enum Meets {
    /// The one at its place.
    Same,
    /// The one of its column: `b` is a row.
    Row,
    /// The one of its row: `b` is a column.
    Column,
    /// The only one.
    One,
}

/// `f` of every element of `x`, in place, on the threads of the pool. Gradient: of `f`, times what
/// comes in.
pub fn map(mut x: Tensor, f: impl Fn(f32) -> f32 + Sync) -> Tensor {
    x.data_mut().par_chunks_mut(TASK).for_each(|part| part.iter_mut().for_each(|x| *x = f(*x)));
    x
}

/// The same, by the kernel's function of number `of` on a GPU.
pub(super) fn one(of: usize, x: Tensor, constant: f32, f: impl Fn(f32) -> f32 + Sync) -> Tensor {
    let words = [x.len().div_ceil(BLOCK), x.len(), of, 1, 1, constant.to_bits() as usize];
    launch(Kernel::Elements, &[&x], &words, x.shape()).unwrap_or_else(|| map(x, f))
}

/// `f(a, b)` of every element and the one that it meets.
fn two(
    of: Of,
    a: Tensor,
    (b, meets): (&Tensor, Meets),
    constant: f32,
    f: impl Fn(f32, f32) -> f32 + Sync,
) -> Tensor {
    // Element `i` meets element `i / every` of `b`, which begins again after `count`.
    let (every, count) = match meets {
        Meets::Same => (1, a.len()),
        Meets::Row => (1, a.width()),
        Meets::Column => (a.width(), a.rows()),
        Meets::One => (1, 1),
    };
    let fits = b.len() == count && (meets != Meets::Same || a.shape() == b.shape());
    assert!(fits, "{b:?} does not meet {a:?}");
    let (groups, bits) = (a.len().div_ceil(BLOCK), constant.to_bits() as usize);
    let words = [groups, a.len(), of as usize, every, count, bits];
    if let Some(y) = launch(Kernel::Elements, &[&a, b], &words, a.shape()) {
        return y;
    }
    let (b, width) = (b.data(), a.width());
    let met = if every == 1 { width.min(count) } else { 1 };
    each_row(a, |i, row| match &b[i * width / every % count..][..met] {
        [b] => row.iter_mut().for_each(|a| *a = f(*a, *b)),
        many => row.iter_mut().zip(many).for_each(|(a, b)| *a = f(*a, *b)),
    })
}

/// `a + b`, elementwise. Gradient: passes to both.
///
/// # Panics
///
/// If the shapes differ.
pub fn add(a: Tensor, b: &Tensor) -> Tensor {
    two(Of::Add, a, (b, Meets::Same), 0.0, |a, b| a + b)
}

/// `a · b`, elementwise. Gradient: to each, times the other.
///
/// # Panics
///
/// If the shapes differ.
pub fn multiply(a: Tensor, b: &Tensor) -> Tensor {
    two(Of::Multiply, a, (b, Meets::Same), 0.0, |a, b| a * b)
}

/// `c · x`. Gradient: times `c`.
pub fn scale(x: Tensor, c: f32) -> Tensor {
    one(Of::Scale as usize, x, c, |x| c * x)
}

/// `x`, at most `most` up or down. Gradient: passes where it is not clamped.
pub fn clamp(x: Tensor, most: f32) -> Tensor {
    one(Of::Clamp as usize, x, most, |x| x.clamp(-most, most))
}

/// `x + row` for every row of `x`. Gradient: passes to `x`, summed over the rows to `row`.
///
/// # Panics
///
/// If `row` is not as long as a row of `x`.
pub fn add_row(x: Tensor, row: &Tensor) -> Tensor {
    two(Of::Add, x, (row, Meets::Row), 0.0, |x, r| x + r)
}

/// `x + column[i]` for every element of row `i` of `x`. Gradient: passes to `x`, summed over the rows'
/// elements to `column`.
///
/// # Panics
///
/// If `column` has not an element for each row of `x`.
pub fn add_column(x: Tensor, column: &Tensor) -> Tensor {
    two(Of::Add, x, (column, Meets::Column), 0.0, |x, c| x + c)
}

/// `x` with zeros in the rows that `keep` does not name. Gradient: the same of it.
pub fn keep_rows(x: Tensor, keep: impl Fn(usize) -> bool) -> Tensor {
    let kept = (0..x.rows()).map(|i| f32::from(u8::from(keep(i)))).collect();
    let kept = Tensor::new(&[x.rows()], kept);
    two(Of::Keep, x, (&kept, Meets::Column), 0.0, |x, kept| if kept == 0.0 { 0.0 } else { x })
}

/// What each of `most` steps to `range` stands for, 1 if that is 0. It has no gradient.
pub fn unit(range: &Tensor, most: f32) -> Tensor {
    let unit = |range| if range > 0.0 { range / most } else { 1.0 };
    one(Of::Unit as usize, range.clone(), most, unit)
}

/// How many times `unit`, `[1]`, every element is: whole, of two as near the even one, at most `most`
/// up or down. Gradient: passes as if nothing were rounded, also where a value is clamped; the unit
/// gets none.
pub fn round(x: &Tensor, unit: &Tensor, most: f32) -> Tensor {
    let round = |x: f32, unit: f32| (x / unit).round_ties_even().clamp(-most, most);
    two(Of::Round, x.clone(), (unit, Meets::One), most, round)
}

/// Every element times the one of `unit`, `[1]`. Gradient: times it.
pub fn in_units(x: Tensor, unit: &Tensor) -> Tensor {
    two(Of::Multiply, x, (unit, Meets::One), 0.0, |x, unit| x * unit)
}
