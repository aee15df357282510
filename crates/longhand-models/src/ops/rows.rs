//! Rows and columns: looked up, shifted, cut, put together.

use super::*;
use std::borrow::Borrow;

/// Rows of `table` by index, as `[shape…, width]`. Gradient: added to the rows that were read.
///
/// # Panics
///
/// If an index is not below the number of rows.
pub fn gather(table: &Tensor, indices: &[usize], shape: &[usize]) -> Tensor {
    if let Some(gpu) = place(&[table]) {
        return launches::gather(gpu, table, indices, shape);
    }
    let mut data = Vec::with_capacity(indices.len() * table.width());
    indices.iter().for_each(|&i| data.extend_from_slice(table.row(i)));
    Tensor::new(&[shape, &[table.width()]].concat(), data)
}

/// `x` with zeros in the rows that `keep` does not name. Gradient: the same of it.
pub fn keep_rows(mut x: Tensor, keep: impl Fn(usize) -> bool) -> Tensor {
    if let Some(gpu) = place(&[&x]) {
        let kept = (0..x.rows()).map(|i| f32::from(u8::from(keep(i)))).collect();
        let kept = Tensor::new(&[x.rows()], kept);
        return launches::elements(gpu, Of::Keep, &x, Some((&kept, Meets::Column)), 0.0);
    }
    let width = x.width().max(1);
    let rows = x.data_mut().chunks_exact_mut(width).enumerate();
    rows.filter(|(i, _)| !keep(*i)).for_each(|(_, row)| row.fill(0.0));
    x
}

/// `x` with `row` in the rows that `which` names. Gradient: summed over those rows to `row`, zeros
/// there to `x`.
///
/// # Panics
///
/// If `row` is not as long as a row of `x`.
pub fn put_row(x: Tensor, row: &[f32], which: impl Fn(usize) -> bool) -> Tensor {
    assert_eq!(x.width(), row.len(), "a row of the same width");
    let put: Vec<usize> = (0..x.rows()).map(|i| usize::from(which(i))).collect();
    let table = Tensor::new(&[2, row.len()], [&vec![0.0; row.len()], row].concat());
    let kept = keep_rows(x, |i| put[i] == 0);
    let put = gather(&table, &put, &kept.shape()[..kept.shape().len() - 1]);
    super::add(kept, &put)
}

/// Rows of `table` by the whole numbers in `places`, as `[places…, width]`. Gradient: as of
/// [`gather`], none to the places.
///
/// # Panics
///
/// If a place on the host is not below the number of rows.
pub fn gather_at(table: &Tensor, places: &Tensor) -> Tensor {
    if let Some(gpu) = place(&[table, places]) {
        return launches::gather_at(gpu, table, places);
    }
    let indices: Vec<usize> = places.data().iter().map(|&x| x as usize).collect();
    gather(table, &indices, places.shape())
}

/// For each row, the index of the largest element, as a number: exact up to 2^24. It has no gradient.
pub fn argmax_rows(x: &Tensor) -> Tensor {
    if let Some(gpu) = place(&[x]) {
        return launches::softmax(gpu, x, OfRow::Place);
    }
    let places = (0..x.rows()).map(|i| argmax(x.row(i)) as f32).collect();
    Tensor::new(&x.shape()[..x.shape().len() - 1], places)
}

/// The index of the largest element, the first if several are; 0 of nothing. It has no gradient.
pub fn argmax(row: &[f32]) -> usize {
    (0..row.len()).reduce(|a, b| if row[b] > row[a] { b } else { a }).unwrap_or(0)
}

/// Of `[batch, length, width]`, the row `by` places further on (negative: before), zeros beyond
/// the ends. Gradient: shifted back.
///
/// # Panics
///
/// If `x` has not three dimensions.
pub fn shift_rows(x: &Tensor, by: isize) -> Tensor {
    let &[batch, length, width] = x.shape() else { panic!("three dimensions: {:?}", x.shape()) };
    let steps = [0, length * width, width, 1];
    let shifted = Moved {
        guard: Some((by, [0, 1], length)),
        ..Moved::dense([1, batch, length, width], by * width as isize, steps)
    };
    shifted.tensor(x, x.shape())
}

/// Tensors of `[outer, own width]` one beside another, under another shape.
fn beside(parts: &[(&Tensor, usize)], outer: usize, shape: &[usize]) -> Tensor {
    if let [(x, _)] = parts {
        return (*x).clone().reshape(shape);
    }
    let row: usize = parts.iter().map(|(_, width)| width).sum();
    let mut start = 0;
    let part = |&(x, width): &(_, usize)| {
        let dense = Moved::dense([1, 1, outer, width], 0, [0, 0, width, 1]);
        start += width;
        (x, Moved { to: start - width, to_steps: [0, 0, row, 1], ..dense })
    };
    let parts: Vec<(&Tensor, Moved)> = parts.iter().map(part).collect();
    let on_gpu = parts.iter().find_map(|(x, _)| x.gpu());
    moves::together(on_gpu, &parts, shape)
}

/// Matrices of one width, one below another. Gradient: cut apart again.
///
/// # Panics
///
/// If they differ in width.
pub fn stacked(parts: &[impl Borrow<Tensor>]) -> Tensor {
    let parts: Vec<&Tensor> = parts.iter().map(Borrow::borrow).collect();
    let width = parts.first().map_or(0, |x| x.width());
    assert!(parts.iter().all(|x| x.width() == width), "of one width");
    let shape = [parts.iter().map(|x| x.rows()).sum(), width];
    let parts: Vec<(&Tensor, usize)> = parts.into_iter().map(|x| (x, x.len())).collect();
    beside(&parts, 1, &shape)
}

/// Tensors of the same rows, side by side. Gradient: cut apart again.
///
/// # Panics
///
/// If they differ in anything but the last dimension.
pub fn concat_last(parts: &[impl Borrow<Tensor>]) -> Tensor {
    let parts: Vec<&Tensor> = parts.iter().map(Borrow::borrow).collect();
    let rows = parts.first().map_or(0, |x| x.rows());
    let width = parts.iter().map(|x| x.width()).sum();
    let shape = with_width(parts.first().map_or(&[][..], |x| x.shape()), width);
    let parts: Vec<(&Tensor, usize)> = parts.into_iter().map(|x| (x, x.width())).collect();
    beside(&parts, rows, &shape)
}

/// The first `count` rows of each sequence of `[batch, length, width]`. Gradient: zeros for the
/// others.
///
/// # Panics
///
/// If there are fewer.
pub fn first_rows(x: &Tensor, count: usize) -> Tensor {
    rows_from(x, 0, count)
}

/// The last `count` rows of each sequence of `[batch, length, width]`. Gradient: zeros for the
/// others.
///
/// # Panics
///
/// If there are fewer.
pub fn last_rows(x: &Tensor, count: usize) -> Tensor {
    rows_from(x, x.shape()[1].saturating_sub(count), count)
}

/// `count` rows from `start` on, of each sequence of `[batch, length, width]`. Gradient: zeros for the
/// others.
///
/// # Panics
///
/// If there are fewer.
pub fn rows_from(x: &Tensor, start: usize, count: usize) -> Tensor {
    let &[batch, rows, width] = x.shape() else { panic!("three dimensions: {:?}", x.shape()) };
    assert!(start + count <= rows, "{count} of {rows} rows");
    let steps = [0, rows * width, width, 1];
    let moved = Moved::dense([1, batch, count, width], (start * width) as isize, steps);
    moved.tensor(x, &[batch, count, width])
}

/// The rows of two `[batch, …, width]`, one after the other. Gradient: cut apart again.
///
/// # Panics
///
/// If they differ in batch or width.
pub fn join_rows(a: &Tensor, b: &Tensor) -> Tensor {
    let (batch, width) = (b.shape()[0], b.width());
    assert_eq!((a.shape()[0], a.width()), (batch, width), "rows of the same batch and width");
    let (rows_a, rows_b) = (a.shape()[1], b.shape()[1]);
    let parts = [(a, rows_a * width), (b, rows_b * width)];
    beside(&parts, batch, &[batch, rows_a + rows_b, width])
}

/// The last dimension cut into parts of these widths. Gradient: put together again.
///
/// # Panics
///
/// If the widths do not add up.
pub fn split_last(x: &Tensor, widths: &[usize]) -> Vec<Tensor> {
    assert_eq!(widths.iter().sum::<usize>(), x.width(), "widths of the parts");
    let (rows, whole) = (x.rows(), x.width());
    let mut start = 0;
    let part = |&width: &usize| {
        let first = start;
        start += width;
        let moved = Moved::dense([1, 1, rows, width], first as isize, [0, 0, whole, 1]);
        moved.tensor(x, &with_width(x.shape(), width))
    };
    widths.iter().map(part).collect()
}

/// Columns of a fused projection, sorted into queries, keys and values of `heads · dim` each:
/// column `part · steps[0] + head · steps[1] + element · steps[2]`. Gradient: sorted back.
///
/// # Panics
///
/// If a column is not below the width.
pub fn split_fused(x: &Tensor, heads: usize, dim: usize, steps: [usize; 3]) -> [Tensor; 3] {
    let shape = with_width(x.shape(), heads * dim);
    let (rows, width) = (x.rows(), x.width());
    [0, 1, 2].map(|part| {
        let first = (part * steps[0]) as isize;
        let moved = Moved::dense([1, rows, heads, dim], first, [0, width, steps[1], steps[2]]);
        moved.tensor(x, &shape)
    })
}
