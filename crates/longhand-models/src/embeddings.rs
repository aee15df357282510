//! Embeddings: words, and what is added to them.

use crate::ops;
use crate::parts::{Linear, Norm};
use crate::sizes::Sizes;
use crate::traits::{Factorised, Positions};
use crate::{Device, Inputs, Ints, Result, Tensor, Weights, ensure, when};

/// The tables, what is added to them, and what follows.
pub struct Embeddings {
    /// Of words; heads are tied to it.
    pub word: Tensor,
    /// What its vectors are multiplied by.
    pub scale: f32,
    /// Of positions.
    pub position: Option<Tensor>,
    /// Of token types, looked up by `token_type_ids` (all 0 where there are none).
    pub token_type: Option<Tensor>,
    /// Of tasks, looked up by `task_type_ids` (all 0 where there are none).
    pub tasks: Option<Tensor>,
    /// A map that widens words, each one alone or, if true, with its two neighbours.
    pub widen: Option<(Linear, bool)>,
    /// After the sum.
    pub norm: Option<Norm>,
    /// From the width of the tables to that of the states.
    pub map: Option<Linear>,
    /// Which rows of the table of positions.
    pub positions: Positions,
    /// The padding's id.
    pub pad: usize,
}

impl Embeddings {
    /// Reads what is added to `word` ([`Sizes::words`]) from `tables`, and what follows from
    /// `weights`: two networks can share tables.
    ///
    /// # Errors
    ///
    /// If a parameter is absent or misshapen.
    pub fn read(sizes: &Sizes, word: Tensor, tables: &Weights, weights: &Weights) -> Result<Self> {
        let (traits, names, width) = (&sizes.traits, sizes.traits.names, sizes.embedding);
        let mapped = match traits.factorised {
            Factorised::No => false,
            Factorised::IfNarrower => width != sizes.hidden,
            Factorised::Always => true,
        };
        let table = |name: &str, rows: usize| tables.tensor(name, &[rows, width]);
        let positions = sizes.positions + traits.positions.first();
        Ok(Embeddings {
            word,
            scale: 1.0,
            position: when(sizes.positions > 0, || table(names.position, positions))?,
            token_type: when(sizes.types > 0, || table(names.token_type, sizes.types))?,
            tasks: None,
            widen: None,
            norm: when(traits.embedding_norm, || sizes.norm(weights, names.embedding_norm, width))?,
            map: when(mapped, || Linear::read(weights, names.embedding_map, width, sizes.hidden))?,
            positions: traits.positions,
            pad: sizes.pad,
        })
    }

    /// The same with every table changed.
    pub fn map_tables(self, f: impl Fn(&Tensor) -> Tensor) -> Self {
        Embeddings {
            word: f(&self.word),
            position: self.position.as_ref().map(&f),
            token_type: self.token_type.as_ref().map(f),
            ..self
        }
    }

    /// The vectors of `input_ids`, with `token_type_ids` (all 0 where there are none), on `device`.
    ///
    /// # Errors
    ///
    /// If an id is outside its table, or the sequence longer than the positions.
    pub fn run(&self, inputs: &Inputs, device: &Device) -> Result<Tensor> {
        let ids = inputs.ints("input_ids")?;
        let given = inputs.optional_ints("position_ids", &ids.shape)?;
        let mut x = self.placed(("input_ids", ids), ("position_ids", given), device)?;
        let tables = [(&self.token_type, "token_type_ids"), (&self.tasks, "task_type_ids")];
        for (table, name) in tables {
            let Some(table) = table else { continue };
            let rows = match inputs.optional_ints(name, &ids.shape)? {
                Some(types) => types.indices(name, table.rows())?,
                None => vec![0; ids.data.len()],
            };
            x = ops::add(x, &ops::gather(&table.on(device), &rows, &ids.shape));
        }
        Ok(self.finish(x))
    }

    /// The vectors of `ids` with those of their positions, given or counted.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run); the names are what an error calls ids and positions.
    pub fn placed(
        &self,
        (name, ids): (&str, &Ints),
        positions: (&str, Option<&Ints>),
        device: &Device,
    ) -> Result<Tensor> {
        ids.sizes::<2>(name)?;
        let words = ids.indices(name, self.word.rows())?;
        let mut x = ops::gather(&self.word.on(device), &words, &ids.shape);
        if self.scale != 1.0 {
            x = ops::scale(x, self.scale);
        }
        if let Some((map, trigram)) = &self.widen {
            if *trigram {
                let (next, last) = (ops::shift_rows(&x, 1), ops::shift_rows(&x, -1));
                x = ops::concat_last(&[&next, &x, &last]);
            }
            x = map.run(&x);
        }
        let Some(table) = &self.position else { return Ok(x) };
        let rows = self.position_rows((name, ids), positions, table.rows())?;
        Ok(ops::add(x, &ops::gather(&table.on(device), &rows, &ids.shape)))
    }

    /// The norm and the map after the sum.
    pub fn finish(&self, mut x: Tensor) -> Tensor {
        if let Some(norm) = &self.norm {
            x = norm.run(x);
        }
        match &self.map {
            Some(map) => map.run(&x),
            None => x,
        }
    }

    /// How many positions there are.
    pub fn most(&self) -> usize {
        self.position.as_ref().map_or(usize::MAX, |table| table.rows() - self.positions.first())
    }

    /// The rows of the table at the positions that are given, or else those of the row of the family.
    fn position_rows(
        &self,
        (name, ids): (&str, &Ints),
        (place, given): (&str, Option<&Ints>),
        end: usize,
    ) -> Result<Vec<usize>> {
        let [batch, length] = ids.sizes(name)?;
        let first = self.positions.first();
        if let Some(given) = given {
            let rows = given.indices(place, end - first)?;
            return Ok(rows.into_iter().map(|row| row + first).collect());
        }
        let mut rows = Vec::with_capacity(batch * length);
        for row in ids.data.chunks_exact(length) {
            let mut counted = 0;
            rows.extend(row.iter().enumerate().map(|(i, &id)| match self.positions {
                Positions::FromPadding if id as usize == self.pad => self.pad,
                Positions::FromPadding => {
                    counted += 1;
                    self.pad + counted
                }
                _ => i + first,
            }));
        }
        let rule = format!("the position table has {} rows", end - first);
        let field = format_args!("the length of {name}");
        ensure(rows.iter().all(|&row| row < end), field, length, rule)?;
        Ok(rows)
    }
}
