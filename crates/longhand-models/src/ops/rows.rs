//! Rows, looked up.

use super::*;

/// Rows of `table` by index, as `[shape…, width]`. Gradient: added to the rows that were read.
///
/// # Panics
///
/// If an index is not below the number of rows.
pub fn gather(table: &Tensor, indices: &[usize], shape: &[usize]) -> Tensor {
    let on_gpu = |gpu: &Gpu| {
        assert!(indices.iter().all(|&i| i < table.rows()), "rows of the table");
        let index: Vec<u32> = indices.iter().map(|&i| i as u32).collect();
        let index = gpu.constant(bytemuck::cast_slice(&index));
        gathered(table, &Tensor::on_gpu(shape, index), 0)
    };
    table.gpu().and_then(on_gpu).unwrap_or_else(|| {
        let mut data = Vec::with_capacity(indices.len() * table.width());
        indices.iter().for_each(|&i| data.extend_from_slice(table.row(i)));
        Tensor::new(&[shape, &[table.width()]].concat(), data)
    })
}

/// As [`gather`] on a GPU, if either lies on one; `index` holds bits of integers or, if `numbers` is 1, numbers.
fn gathered(table: &Tensor, index: &Tensor, numbers: usize) -> Option<Tensor> {
    let shape = [index.shape(), &[table.width()]].concat();
    let total = shape.iter().product::<usize>();
    let words = [total.div_ceil(BLOCK), total, table.width(), numbers];
    launch(Kernel::Gather, &[table, index], &words, &shape)
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
    add(kept, &put)
}

/// Rows of `table` by the whole numbers in `places`, as `[places…, width]`. Gradient: as of
/// [`gather`], none to the places.
///
/// # Panics
///
/// If a place on the host is not below the number of rows.
pub fn gather_at(table: &Tensor, places: &Tensor) -> Tensor {
    let indices = || places.data().iter().map(|&x| x as usize).collect::<Vec<_>>();
    let on_host = || gather(table, &indices(), places.shape());
    gathered(table, places, 1).unwrap_or_else(on_host)
}

/// For each row, the index of the largest element, as a number: exact up to 2^24. It has no gradient.
pub fn argmax_rows(x: &Tensor) -> Tensor {
    let places = || (0..x.rows()).map(|i| argmax(x.row(i)) as f32).collect();
    let on_host = || Tensor::new(&x.shape()[..x.shape().len() - 1], places());
    of_rows(x, OfRow::Place).unwrap_or_else(on_host)
}

/// The index of the largest element, the first if several are; 0 of nothing. It has no gradient.
pub fn argmax(row: &[f32]) -> usize {
    (0..row.len()).reduce(|a, b| if row[b] > row[a] { b } else { a }).unwrap_or(0)
}
