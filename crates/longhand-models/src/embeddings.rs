//! Embeddings: words, and what is added to them.

use crate::ops;
use crate::parts::{Linear, Norm};
use crate::sizes::Sizes;
use crate::traits::{Factorised, Positions};
use crate::{Cache, Config, Device, Inputs, Ints, Result, Tensor, Weights, ensure, when};

/// The tables, what is added to them, and what follows.
pub struct Embeddings {
    /// The inputs of ids and, if they are given, of positions.
    pub inputs: [&'static str; 2],
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
    pub fn read(
        sizes: &Sizes,
        config: &Config,
        word: Tensor,
        tables: &Weights,
        weights: &Weights,
    ) -> Result<Self> {
        let (traits, hidden) = (&sizes.traits, sizes.hidden);
        let width = sizes.width_of_tables(&word);
        let mapped = width != hidden || traits.factorised == Factorised::Always;
        let table = |name: &str, rows: usize| {
            let name = format!("embeddings.{name}_embeddings.weight");
            tables.tensor(sizes.names.of(&name), &[rows, width])
        };
        let position = || {
            let count = config.positive("max_position_embeddings")?;
            table("position", count + traits.positions.first())
        };
        let types = if traits.token_types { config.size_or("type_vocab_size", 2)? } else { 0 };
        let tasked = traits.task_types && config.flag_or("use_task_id", false)?;
        let map = || Linear::read(weights, sizes.names.of("embeddings_project"), width, hidden);
        Ok(Embeddings {
            inputs: ["input_ids", "position_ids"],
            word,
            scale: 1.0,
            position: when(traits.positions != Positions::None, position)?,
            token_type: when(types > 0, || table("token_type", types))?,
            tasks: when(tasked, || table("task_type", config.size_or("task_type_vocab_size", 3)?))?,
            widen: None,
            norm: when(traits.embedding_norm, || {
                sizes.norm(weights, "embeddings.LayerNorm", width)
            })?,
            map: when(mapped, map)?,
            positions: traits.positions,
            pad: config.size_or("pad_token_id", 0)?,
        })
    }

    /// The vectors of the ids in the first of [`inputs`](Self::inputs), at the positions in the second
    /// (counted where there are none), with `token_type_ids` (all 0 where there are none), on `device`.
    ///
    /// # Errors
    ///
    /// If an id is outside its table, or the sequence longer than the positions.
    pub fn run(&self, inputs: &Inputs, device: &Device) -> Result<Tensor> {
        let [name, place] = self.inputs;
        let ids = inputs.ints(name)?;
        ids.sizes::<2>(name)?;
        let look_up =
            |table: &Tensor, rows: &[usize]| ops::gather(&table.on(device), rows, &ids.shape);
        let mut x = look_up(&self.word, &ids.indices(name, self.word.rows())?);
        if self.scale != 1.0 {
            x = ops::scale(x, self.scale);
        }
        if let Some((map, trigram)) = &self.widen {
            if *trigram {
                let padded = ops::padded(&x, 1);
                let from = |start| ops::cut(&padded, 1, start..start + ids.shape[1]);
                x = ops::concat(&[from(2), x, from(0)], 2);
            }
            x = map.run(&x);
        }
        let first = self.positions.first();
        let tables = [
            (&self.position, place, first),
            (&self.token_type, "token_type_ids", 0),
            (&self.tasks, "task_type_ids", 0),
        ];
        for (table, rows_of, first) in tables {
            let Some(table) = table else { continue };
            let rows = match inputs.optional_ints(rows_of, &ids.shape)? {
                Some(given) => given.indices(rows_of, table.rows() - first)?,
                None if rows_of == place => self.counted(name, ids)?,
                None => vec![0; ids.data.len()],
            };
            let rows: Vec<usize> = rows.into_iter().map(|row| row + first).collect();
            x = ops::add(x, &look_up(table, &rows));
        }
        if let Some(norm) = &self.norm {
            x = norm.run(x);
        }
        Ok(self.map.as_ref().map_or_else(|| x.clone(), |map| map.run(&x)))
    }

    /// How many positions there are.
    pub fn most(&self) -> usize {
        self.position.as_ref().map_or(usize::MAX, |table| table.rows() - self.positions.first())
    }

    /// The inputs of ids that follow what a cache has read, which then has read them too.
    ///
    /// # Errors
    ///
    /// If there are more positions than the table has.
    pub fn continued(&self, ids: &Ints, cache: &mut Cache) -> Result<Inputs> {
        let [name, place] = self.inputs;
        let [_, length] = ids.sizes(name)?;
        let (all, most) = (cache.read + length, self.most());
        let rule = format!("the position table has {most} rows");
        ensure(all <= most, "the length of prompt and continuation", all, rule)?;
        let of_row = |&pad: &usize| (cache.read..all).map(move |i| i.saturating_sub(pad) as i32);
        let positions = cache.padding.iter().flat_map(of_row).collect();
        cache.read = all;
        let inputs = Inputs::new().ints_of(name, &ids.shape, ids.data.clone());
        Ok(inputs.ints_of(place, &ids.shape, positions))
    }

    /// The positions of ids where none are given.
    fn counted(&self, name: &str, ids: &Ints) -> Result<Vec<usize>> {
        let [batch, length] = ids.sizes(name)?;
        let mut rows = Vec::with_capacity(batch * length);
        for row in ids.data.chunks_exact(length) {
            let mut counted = 0;
            rows.extend(row.iter().enumerate().map(|(i, &id)| match self.positions {
                Positions::FromPadding if id as usize == self.pad => self.pad,
                Positions::FromPadding => {
                    counted += 1;
                    self.pad + counted
                }
                _ => i,
            }));
        }
        let end = self.most();
        let rule = format!("the position table has {end} rows");
        let field = format_args!("the length of {name}");
        ensure(rows.iter().all(|&row| row < end), field, length, rule)?;
        Ok(rows)
    }
}
