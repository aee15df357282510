//! Embeddings: words, and what is added to them.

use crate::ops;
use crate::parts::{Linear, Norm};
use crate::sizes::Sizes;
use crate::traits::{Factorised, Positions};
use crate::{Device, Inputs, Result, Tensor, Weights, ensure, when};

/// The tables, what is added to them, and what follows.
pub struct Embeddings {
    /// Of words; heads are tied to it.
    pub word: Tensor,
    /// Of positions.
    pub position: Tensor,
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
    /// Reads the tables of a row, which may stand in another place than the rest: two networks can
    /// share them.
    ///
    /// # Errors
    ///
    /// If one is absent or misshapen.
    pub fn read(sizes: &Sizes, tables: &Weights, weights: &Weights) -> Result<Self> {
        let (traits, names, width) = (&sizes.traits, sizes.traits.names, sizes.embedding);
        let norm =
            when(traits.embedding_norm, || sizes.norm(weights, names.embedding_norm, width))?;
        let mapped = match traits.factorised {
            Factorised::No => false,
            Factorised::IfNarrower => width != sizes.hidden,
            Factorised::Always => true,
        };
        let map = when(mapped, || Linear::read(weights, names.embedding_map, width, sizes.hidden))?;
        let word = tables.tensor(names.word, &[sizes.vocab, width])?;
        Ok(Embeddings { map, ..Embeddings::read_beside(sizes, tables, word, norm)? })
    }

    /// Reads what is added to words of `word`, and puts a norm after the sum.
    ///
    /// # Errors
    ///
    /// If a table is absent or misshapen.
    pub fn read_beside(
        sizes: &Sizes,
        tables: &Weights,
        word: Tensor,
        norm: Option<Norm>,
    ) -> Result<Self> {
        let (names, width) = (sizes.traits.names, sizes.embedding);
        let token_type =
            when(sizes.types > 0, || tables.tensor(names.token_type, &[sizes.types, width]))?;
        Ok(Embeddings {
            word,
            position: tables.tensor(names.position, &[sizes.positions, width])?,
            token_type,
            tasks: None,
            widen: None,
            norm,
            map: None,
            positions: sizes.traits.positions,
            pad: sizes.pad,
        })
    }

    /// The same with every table changed.
    pub fn map_tables(self, f: impl Fn(&Tensor) -> Tensor) -> Self {
        Embeddings {
            word: f(&self.word),
            position: f(&self.position),
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
        let [batch, length] = ids.sizes("input_ids")?;
        let words = ids.indices("input_ids", self.word.rows())?;
        let mut x = ops::gather(&self.word.on(device), &words, &ids.shape);
        if let Some((map, trigram)) = &self.widen {
            if *trigram {
                let (next, last) = (ops::shift_rows(&x, 1), ops::shift_rows(&x, -1));
                x = ops::concat_last(&[&next, &x, &last]);
            }
            x = map.run(&x);
        }
        let rows = self.position_rows(inputs, [batch, length])?;
        x = ops::add(x, &ops::gather(&self.position.on(device), &rows, &ids.shape));
        let tables = [(&self.token_type, "token_type_ids"), (&self.tasks, "task_type_ids")];
        for (table, name) in tables {
            let Some(table) = table else { continue };
            let rows = match inputs.optional_ints(name, &ids.shape)? {
                Some(types) => types.indices(name, table.rows())?,
                None => vec![0; batch * length],
            };
            x = ops::add(x, &ops::gather(&table.on(device), &rows, &ids.shape));
        }
        if let Some(norm) = &self.norm {
            x = norm.run(x);
        }
        Ok(match &self.map {
            Some(map) => map.run(&x),
            None => x,
        })
    }

    /// The rows that `position_ids` names, or else those of the row of the table.
    fn position_rows(&self, inputs: &Inputs, [batch, length]: [usize; 2]) -> Result<Vec<usize>> {
        let ids = inputs.ints("input_ids")?;
        let end = self.position.rows();
        if let Some(rows) = inputs.optional_ints("position_ids", &ids.shape)? {
            return rows.indices("position_ids", end);
        }
        let mut rows = Vec::with_capacity(batch * length);
        for b in 0..batch {
            let mut counted = 0;
            for i in 0..length {
                rows.push(match self.positions {
                    Positions::Counted => i,
                    Positions::FromPadding if ids.data[b * length + i] as usize == self.pad => {
                        self.pad
                    }
                    Positions::FromPadding => {
                        counted += 1;
                        self.pad + counted
                    }
                });
            }
        }
        let rule = format!("the position table has {end} rows");
        ensure(rows.iter().all(|&row| row < end), "the length of input_ids", length, rule)?;
        Ok(rows)
    }
}
