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
