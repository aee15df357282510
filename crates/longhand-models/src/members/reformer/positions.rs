//! Positions of one axis, or of several: where the text of a novel has half a million places, two
//! tables of some hundred rows tell them apart.

use super::*;

/// What tells positions apart: a table for each axis, with a row for each step along it. A position's
/// vector is made of one row of each; of one axis each position has a row of its own.
pub(super) struct Positions(Vec<Tensor>);

impl Positions {
    /// Reads what the options name, `hidden` wide.
    ///
    /// # Errors
    ///
    /// If the axes' widths do not fit, or a table is absent or misshapen.
    pub(super) fn read(
        config: &Config,
        body: &Weights,
        hidden: usize,
        most: usize,
    ) -> Result<Positions> {
        let tables = body.under("embeddings.position_embeddings.");
        if !config.flag_or("axial_pos_embds", true)? {
            return Ok(Positions(vec![tables.tensor("embedding.weight", &[most, hidden])?]));
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
        Ok(Positions((0..steps.len()).map(table).collect::<Result<_>>()?))
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.iter().fold(1, |n, table| n.saturating_mul(table.rows()))
    }

    /// The first `length` of them for each sequence, `[batch, length, hidden]`.
    pub(super) fn run(&self, batch: usize, length: usize, device: &Device) -> Tensor {
        let mut step = self.count();
        let axis = |table: &Tensor| {
            step /= table.rows();
            let row = |p: usize| p / step % table.rows();
            let rows: Vec<usize> = (0..batch).flat_map(|_| 0..length).map(row).collect();
            ops::gather(&table.on(device), &rows, &[batch, length])
        };
        ops::concat_last(&self.0.iter().map(axis).collect::<Vec<_>>())
    }
}
