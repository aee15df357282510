//! Rows and columns: looked up, shifted, cut, put together.

use crate::Tensor;

/// Rows of `table` by index, as `[shape…, width]`. Gradient: added to the rows that were read.
///
/// # Panics
///
/// If an index is not below the number of rows.
pub fn gather(table: &Tensor, indices: &[usize], shape: &[usize]) -> Tensor {
    let mut data = Vec::with_capacity(indices.len() * table.width());
    indices.iter().for_each(|&i| data.extend_from_slice(table.row(i)));
    Tensor::new(&[shape, &[table.width()]].concat(), data)
}

/// The rows of `x` by index, as a matrix. Gradient: as of [`gather`].
///
/// # Panics
///
/// If an index is not below the number of rows.
pub fn select_rows(x: &Tensor, indices: &[usize]) -> Tensor {
    gather(x, indices, &[indices.len()])
}

/// `x` with zeros in the rows that `keep` does not name. Gradient: the same of it.
pub fn keep_rows(mut x: Tensor, keep: impl Fn(usize) -> bool) -> Tensor {
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
pub fn put_row(mut x: Tensor, row: &[f32], which: impl Fn(usize) -> bool) -> Tensor {
    assert_eq!(x.width(), row.len(), "a row of the same width");
    let rows = x.data_mut().chunks_exact_mut(row.len().max(1)).enumerate();
    rows.filter(|(i, _)| which(*i)).for_each(|(_, to)| to.copy_from_slice(row));
    x
}

/// The first `count` rows of each sequence of `[batch, length, width]`. Gradient: zeros for the
/// others.
///
/// # Panics
///
/// If there are fewer.
pub fn first_rows(x: &Tensor, count: usize) -> Tensor {
    let (batch, rows, width) = (x.shape()[0], x.shape()[1], x.width());
    assert!(count <= rows, "{count} of {rows} rows");
    let of = |b: usize| &x.data()[b * rows * width..][..count * width];
    Tensor::new(&[batch, count, width], (0..batch).flat_map(of).copied().collect())
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
    let mut data = vec![0.0; x.data().len()];
    for b in 0..batch {
        for i in 0..length {
            if let Some(from) = i.checked_add_signed(by).filter(|&from| from < length) {
                let row = x.row(b * length + from);
                data[(b * length + i) * width..][..width].copy_from_slice(row);
            }
        }
    }
    Tensor::new(x.shape(), data)
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
    let mut data = Vec::with_capacity(a.data().len() + b.data().len());
    for i in 0..batch {
        data.extend_from_slice(&a.data()[i * rows_a * width..][..rows_a * width]);
        data.extend_from_slice(&b.data()[i * rows_b * width..][..rows_b * width]);
    }
    Tensor::new(&[batch, rows_a + rows_b, width], data)
}

/// The last `count` rows of each sequence of `[batch, length, width]`. Gradient: zeros for the
/// others.
///
/// # Panics
///
/// If there are fewer.
pub fn last_rows(x: &Tensor, count: usize) -> Tensor {
    let (batch, rows, width) = (x.shape()[0], x.shape()[1], x.width());
    let of = |b: usize| &x.data()[((b + 1) * rows - count) * width..(b + 1) * rows * width];
    Tensor::new(&[batch, count, width], (0..batch).flat_map(of).copied().collect())
}

/// Tensors of the same rows, side by side. Gradient: cut apart again.
///
/// # Panics
///
/// If they differ in anything but the last dimension.
pub fn concat_last(parts: &[&Tensor]) -> Tensor {
    let rows = parts.first().map_or(0, |x| x.rows());
    let width = parts.iter().map(|x| x.width()).sum();
    let mut data = Vec::with_capacity(rows * width);
    for i in 0..rows {
        parts.iter().for_each(|x| data.extend_from_slice(x.row(i)));
    }
    let mut shape = parts.first().map_or_else(Vec::new, |x| x.shape().to_vec());
    if let Some(last) = shape.last_mut() {
        *last = width;
    }
    Tensor::new(&shape, data)
}

/// The last dimension cut into parts of these widths. Gradient: put together again.
///
/// # Panics
///
/// If the widths do not add up.
pub fn split_last(x: &Tensor, widths: &[usize]) -> Vec<Tensor> {
    assert_eq!(widths.iter().sum::<usize>(), x.width(), "widths of the parts");
    let mut start = 0;
    let part = |&width: &usize| {
        let rows = (0..x.rows()).flat_map(|i| &x.row(i)[start..start + width]).copied().collect();
        start += width;
        let mut shape = x.shape().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = width;
        }
        Tensor::new(&shape, rows)
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
    let mut shape = x.shape().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = heads * dim;
    }
    [0, 1, 2].map(|part| {
        let mut data = Vec::with_capacity(x.rows() * heads * dim);
        for i in 0..x.rows() {
            let row = x.row(i);
            for head in 0..heads {
                let first = part * steps[0] + head * steps[1];
                data.extend((0..dim).map(|e| row[first + e * steps[2]]));
            }
        }
        Tensor::new(&shape, data)
    })
}
