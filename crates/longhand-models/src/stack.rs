//! Embeddings and blocks: the body that most members share, built from a row of the table.

use crate::attention::Heads;
use crate::block::{
    Adapter, Attention, Block, FeedForward, Kind, Place, Projection, Seen, Sublayer,
};
use crate::cache::BlockCache;
use crate::ops::{self, Activation};
use crate::parts::{Linear, Norm};
use crate::traits::{Factorised, Positions, Projections, Sharing, Side, Traits};
use crate::{Config, Device, Error, Inputs, Result, Tensor, Weights};

/// A model's sizes, from its config.
#[derive(Debug, Clone)]
pub struct Sizes {
    /// Width of the states.
    pub hidden: usize,
    /// Blocks.
    pub layers: usize,
    /// Heads of a block.
    pub heads: Heads,
    /// Widths that queries, keys and values are projected from.
    pub projected_from: [usize; 3],
    /// Width inside the feed-forward.
    pub inner: usize,
    /// Rows of the word table.
    pub vocab: usize,
    /// Rows of the position table.
    pub positions: usize,
    /// Rows of the table of token types.
    pub types: usize,
    /// Width of the tables.
    pub embedding: usize,
    /// Between the maps of the feed-forward.
    pub activation: Activation,
    /// The feed-forward has a gate.
    pub gated: bool,
    /// The norms' epsilon.
    pub eps: f64,
    /// The padding's id.
    pub pad: usize,
    /// The head's matrix is the word table.
    pub tied: bool,
}

impl Sizes {
    /// Reads what every row of the table has.
    ///
    /// # Errors
    ///
    /// If a size is absent or has no meaning, or an option asks for what nobody supports.
    pub fn read(traits: &Traits, config: &Config) -> Result<Self> {
        let blocks = Sizes::read_blocks(traits, config)?;
        Ok(Sizes {
            vocab: config.positive("vocab_size")?,
            positions: config.positive(traits.keys.positions)?,
            types: if traits.token_types { config.size_or("type_vocab_size", 2)? } else { 0 },
            embedding: match traits.factorised {
                Factorised::No => blocks.hidden,
                _ => config.positive("embedding_size")?,
            },
            pad: config.size_or("pad_token_id", 0)?,
            ..blocks
        })
    }

    /// The sizes of a stack without tables: what has no words.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn read_blocks(traits: &Traits, config: &Config) -> Result<Self> {
        let keys = traits.keys;
        let hidden = config.positive(keys.hidden)?;
        let count = config.positive(keys.heads)?;
        let dim = match keys.head_dim {
            Some(key) => config.positive(key)?,
            None if hidden.is_multiple_of(count) => hidden / count,
            None => {
                let rule = format!("must be a multiple of {} = {count}", keys.heads);
                return Err(Error::invalid(format!("config: {}", keys.hidden), hidden, rule));
            }
        };
        config.only("is_decoder", false)?;
        config.only("is_encoder_decoder", traits.side != Side::Alone)?;
        config.only("add_cross_attention", false)?;
        config.only("position_embedding_type", "absolute")?;
        config.only("chunk_size_feed_forward", 0)?;
        config.only("pruned_heads", serde_json::json!({}))?;
        let (activation, default) = keys.activation;
        Ok(Sizes {
            hidden,
            heads: if traits.scaled {
                Heads::new(count, dim)
            } else {
                Heads { count, dim, scale: 1.0 }
            },
            layers: config.size(keys.layers)?,
            projected_from: [hidden; 3],
            inner: match config.optional_size(keys.inner)? {
                Some(n) => n,
                None => 4 * hidden,
            },
            vocab: 0,
            positions: 0,
            types: 0,
            embedding: hidden,
            activation: match config.activation_or(activation, default)? {
                Activation::Gelu if keys.gelu_is_tanh => Activation::GeluTanh,
                other => other,
            },
            gated: false,
            eps: config.number_or(keys.eps.0, keys.eps.1)?,
            pad: 0,
            tied: config.flag_or("tie_word_embeddings", true)?,
        })
    }
}

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
    pub fn read(
        traits: &Traits,
        sizes: &Sizes,
        tables: &Weights,
        weights: &Weights,
    ) -> Result<Self> {
        let (names, width) = (traits.names, sizes.embedding);
        let norm = || Norm::read(weights, names.embedding_norm, width, traits.norm, sizes.eps);
        let norm = traits.embedding_norm.then(norm).transpose()?;
        let mapped = match traits.factorised {
            Factorised::No => false,
            Factorised::IfNarrower => width != sizes.hidden,
            Factorised::Always => true,
        };
        let map = || Linear::read(weights, names.embedding_map, width, sizes.hidden);
        let map = mapped.then(map).transpose()?;
        let word = tables.tensor(names.word, &[sizes.vocab, width])?;
        Ok(Embeddings { map, ..Embeddings::read_beside(traits, sizes, tables, word, norm)? })
    }

    /// Reads what is added to words of `word`, and puts a norm after the sum.
    ///
    /// # Errors
    ///
    /// If a table is absent or misshapen.
    pub fn read_beside(
        traits: &Traits,
        sizes: &Sizes,
        tables: &Weights,
        word: Tensor,
        norm: Option<Norm>,
    ) -> Result<Self> {
        let (names, width) = (traits.names, sizes.embedding);
        let token_type = || tables.tensor(names.token_type, &[sizes.types, width]);
        Ok(Embeddings {
            word,
            position: tables.tensor(names.position, &[sizes.positions, width])?,
            token_type: (sizes.types > 0).then(token_type).transpose()?,
            tasks: None,
            widen: None,
            norm,
            map: None,
            positions: traits.positions,
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
        if rows.iter().any(|&row| row >= end) {
            let rule = format!("the position table has {end} rows");
            return Err(Error::invalid("the length of input_ids", length, rule));
        }
        Ok(rows)
    }
}

/// A stack of blocks.
pub struct Stack {
    /// The blocks that have parameters of their own.
    pub blocks: Vec<Block>,
    /// Which of them run, in turn: a shared one comes more than once. Each inner list ends in a
    /// state that counts as a layer's.
    pub order: Vec<Vec<usize>>,
    /// After the last block.
    pub final_norm: Option<Norm>,
}

impl Stack {
    /// Reads the blocks of a row.
    ///
    /// # Errors
    ///
    /// If a parameter is absent or misshapen, or an option has no meaning.
    pub fn read(
        traits: &Traits,
        sizes: &Sizes,
        config: &Config,
        weights: &Weights,
    ) -> Result<Self> {
        let mut blocks = Vec::new();
        let mut order = Vec::new();
        // An inner stack of blocks for each group; each block is one, if nothing is shared.
        let (groups, inner) = match traits.sharing {
            Sharing::Own => (sizes.layers, 1),
            Sharing::Groups => (
                config.size_or("num_hidden_groups", 1)?.max(1),
                config.size_or("inner_group_num", 1)?.max(1),
            ),
        };
        for i in 0..groups * inner {
            let name = traits.names.layer.replacen("{}", &(i / inner).to_string(), 1);
            let own = weights.under(&name.replace("{}", &(i % inner).to_string()));
            blocks.push(read_block(traits, sizes, config, &own, i)?);
        }
        for layer in 0..sizes.layers {
            let group = layer * groups / sizes.layers;
            order.push((group * inner..(group + 1) * inner).collect());
        }
        let final_norm =
            || Norm::read(weights, traits.names.final_norm, sizes.hidden, traits.norm, sizes.eps);
        let final_norm = (traits.place == Place::Pre).then(final_norm).transpose()?;
        Ok(Stack { blocks, order, final_norm })
    }

    /// The states before the first block and after each one; the last is after the final norm.
    ///
    /// # Errors
    ///
    /// If the mask does not fit.
    pub fn run(&self, embedded: Tensor, seen: &Seen<'_>) -> Result<Vec<Tensor>> {
        self.read_on(embedded, seen, None)
    }

    /// As [`run`](Self::run), after what the blocks have read before: a cache for each block.
    ///
    /// # Errors
    ///
    /// If the mask does not fit.
    pub fn read_on(
        &self,
        embedded: Tensor,
        seen: &Seen<'_>,
        mut caches: Option<&mut Vec<BlockCache>>,
    ) -> Result<Vec<Tensor>> {
        let mut states = vec![embedded];
        for layer in &self.order {
            let mut x = states[states.len() - 1].clone();
            for &block in layer {
                let cache = caches.as_mut().map(|caches| &mut caches[block]);
                x = self.blocks[block].run(&x, seen, cache)?;
            }
            states.push(x);
        }
        if let (Some(norm), Some(last)) = (&self.final_norm, states.last_mut()) {
            *last = norm.run(last.clone());
        }
        Ok(states)
    }
}

/// The last of a stack's states.
pub fn last(mut states: Vec<Tensor>) -> Tensor {
    // There is one before the first block.
    states.swap_remove(states.len() - 1)
}

/// A block of a row, from the parameters under its name.
fn read_block(
    traits: &Traits,
    sizes: &Sizes,
    config: &Config,
    own: &Weights,
    layer: usize,
) -> Result<Block> {
    let (names, hidden) = (traits.names, sizes.hidden);
    let map = |name: &str, from: usize, to: usize| {
        Linear::read_as(own, name, from, to, traits.order, traits.biased)
    };
    let norm = |name: &str| Norm::read(own, name, hidden, traits.norm, sizes.eps);
    let mut heads = sizes.heads;
    let width = heads.count * heads.dim;
    if traits.projections == Projections::Fused {
        if !config.flag_or("scale_attn_weights", true)? {
            heads.scale = 1.0;
        }
        if config.flag_or("scale_attn_by_inverse_layer_idx", false)? {
            heads.scale /= (layer + 1) as f64;
        }
        // More bits on the way to the same numbers.
        config.ignore(&["reorder_and_upcast_attn"]);
    }
    let separate = |[q, k, v]: [&str; 3], from: [usize; 3]| -> Result<Projection> {
        let maps = [map(q, from[0], width)?, map(k, from[1], width)?, map(v, from[2], width)?];
        Ok(Projection::Separate(maps))
    };
    let projection = match traits.projections {
        Projections::Separate => {
            separate([names.query, names.key, names.value], sizes.projected_from)?
        }
        Projections::Fused => {
            let steps = fused_steps(config, &heads)?;
            Projection::Fused(map(names.query, hidden, 3 * hidden)?, steps)
        }
    };
    let kind = match traits.windowed {
        true => {
            let read = |name: &str| map(&format!("{name}_global"), hidden, hidden);
            let global = [read(names.query)?, read(names.key)?, read(names.value)?];
            let side = window(config, sizes, layer)? / 2;
            Kind::Windowed { side, global: Box::new(global) }
        }
        false if traits.causal => Kind::Causal,
        false => Kind::Full,
    };
    let cross = || -> Result<Sublayer<Attention>> {
        let [own, cross] = names.cross;
        let [q, k, v, out] =
            [names.query, names.key, names.value, names.out].map(|name| name.replace(own, cross));
        let (projection, out) = (separate([&q, &k, &v], [hidden; 3])?, map(&out, width, hidden)?);
        let inner = Attention { projection, out, heads, kind: Kind::Full };
        Ok(Sublayer::of(inner, norm(names.cross_norm)?))
    };
    let up = if sizes.gated { &format!("{}_1", names.up) } else { names.up };
    let gate = || map(&format!("{}_0", names.up), hidden, sizes.inner);
    let feed = FeedForward {
        up: map(up, hidden, sizes.inner)?,
        gate: sizes.gated.then(gate).transpose()?,
        activation: sizes.activation,
        down: map(names.down, sizes.inner, hidden)?,
    };
    Ok(Block {
        place: traits.place,
        attention: Sublayer {
            inner: Attention { projection, out: map(names.out, width, hidden)?, heads, kind },
            norm: norm(names.attention_norm)?,
            adapter: read_adapter(&own.under("attention.output."), config, hidden)?,
        },
        cross: (traits.side == Side::Decoder).then(cross).transpose()?,
        feed: vec![Sublayer {
            inner: feed,
            norm: norm(names.feed_norm)?,
            adapter: read_adapter(&own.under("output."), config, hidden)?,
        }],
        bottleneck: None,
    })
}

/// The window of a layer, both sides together: one for all, or one for each.
fn window(config: &Config, sizes: &Sizes, layer: usize) -> Result<usize> {
    use serde_json::Value;
    let option = config.get("attention_window");
    let own = match option {
        Some(Value::Array(list)) if list.len() == sizes.layers => list[layer].as_u64(),
        Some(one) => one.as_u64(),
        None => Some(512),
    };
    let even = own.filter(|&n| n > 0 && n % 2 == 0 && n < 1 << 30);
    even.map(|n| n as usize).ok_or_else(|| {
        let value = option.map_or_else(String::new, Value::to_string);
        let rule = "must be even and positive, one number or one for each layer";
        Error::invalid("config: attention_window", value, rule)
    })
}

/// The order of a fused projection's columns: GPT's is [q|k|v]; Megatron's checkpoints have changed
/// theirs twice.
fn fused_steps(config: &Config, heads: &Heads) -> Result<[usize; 3]> {
    let (count, dim) = (heads.count, heads.dim);
    let version = config.number_or("megatron_checkpoint_version", 0.0)?;
    Ok(if version >= 2.0 {
        [dim, 3 * dim, 1]
    } else if version >= 1.0 {
        [1, 3 * dim, 3]
    } else {
        [count * dim, dim, 1]
    })
}

/// An adapter, if the config names one.
fn read_adapter(weights: &Weights, config: &Config, hidden: usize) -> Result<Option<Adapter>> {
    if !config.has("adapter_name") {
        return Ok(None);
    }
    let name = config.text_or("adapter_name", "")?;
    config.ignore(&["adapter_layer_norm_trained"]);
    let factor = config.number_or("adapter_reduction_factor", 16.0)?;
    let width = hidden as f64 / factor;
    if !(width >= 1.0 && width <= hidden as f64) {
        let rule = format!("must be from 1 to the hidden size {hidden}");
        return Err(Error::invalid("config: adapter_reduction_factor", factor, rule));
    }
    let width = width as usize;
    let own = weights.under(&format!("adapters.{name}."));
    Ok(Some(Adapter {
        down: Linear::read(&own, "adapter_down.0", hidden, width)?,
        activation: config.activation_or("adapter_non_linearity", "swish")?,
        up: Linear::read(&own, "adapter_up", width, hidden)?,
    }))
}
