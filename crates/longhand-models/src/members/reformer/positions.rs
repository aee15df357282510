//! Positions of one axis, or of several: where the text of a novel has half a million places, two
//! tables of some hundred rows tell them apart.

use super::*;

/// What tells positions apart: a table for each axis, with a row for each step along it. A position's
/// vector is made of one row of each; of one axis each position has a row of its own.
pub(super) fn read_axes(config: &Config, body: &Weights, hidden: usize) -> Result<Vec<Tensor>> {
    let tables = body.under("embeddings.position_embeddings.");
    if !config.flag_or("axial_pos_embds", true)? {
        let most = config.size_or("max_position_embeddings", 4096)?;
        return Ok(vec![tables.tensor("embedding.weight", &[most, hidden])?]);
    }
    let steps = config.sizes("axial_pos_shape")?;
    let widths = config.sizes("axial_pos_embds_dim")?;
    let rule = format!("must be {} widths whose sum is hidden_size = {hidden}", steps.len());
    let fits = widths.len() == steps.len() && widths.iter().sum::<usize>() == hidden;
    ensure(fits, "config: axial_pos_embds_dim", format_args!("{widths:?}"), rule)?;
    let table = |axis: usize| {
        let mut shape = vec![1; steps.len()];
        shape[axis] = steps[axis];
        shape.push(widths[axis]);
        let table = tables.tensor(&format!("weights.{axis}"), &shape)?;
        Ok(table.reshape(&[steps[axis], widths[axis]]))
    };
    (0..steps.len()).map(table).collect()
}

/// How many positions the axes have.
pub(super) fn count(axes: &[Tensor]) -> usize {
    axes.iter().fold(1, |n, table| n.saturating_mul(table.rows()))
}

/// The first `length` of them for each sequence, `[batch, length, hidden]`.
pub(super) fn run(axes: &[Tensor], batch: usize, length: usize, device: &Device) -> Tensor {
    let mut step = count(axes);
    let axis = |table: &Tensor| {
        step /= table.rows();
        let row = |p: usize| p / step % table.rows();
        let rows: Vec<usize> = (0..batch).flat_map(|_| 0..length).map(row).collect();
        ops::gather(&table.on(device), &rows, &[batch, length])
    };
    ops::concat(&axes.iter().map(axis).collect::<Vec<_>>(), 2)
}
