//! A stack of blocks, built from a row of the table.

use crate::attention::Heads;
use crate::block::{Attention, Block, FeedForward, Place, Projection, Seen, Sublayer};
use crate::cache::BlockCache;
use crate::parts::{Linear, Norm, Order};
use crate::sizes::Sizes;
use crate::traits::Side;
use crate::{Config, Result, Tensor, Weights, each, ensure, when};
use longhand::full::Buckets;
use serde_json::Value;

/// BERT's names: before a block's parameters, `{}` its number; its projections, also of attention over
/// an encoder's states; out of the heads; into the feed-forward and out of it.
pub const LAYER: &str = "encoder.layer.{}.";
/// Of queries, keys and values; the first of all three, if they are fused.
pub const PROJECTIONS: [&str; 3] =
    ["attention.self.query", "attention.self.key", "attention.self.value"];
const CROSS: [&str; 3] =
    ["crossattention.self.query", "crossattention.self.key", "crossattention.self.value"];
/// Out of the heads.
pub const OUT: &str = "attention.output.dense";
/// Into the feed-forward (with a gate, `_1` after it, and the gate's `_0`) and out of it.
pub const FEED: [&str; 2] = ["intermediate.dense", "output.dense"];

/// A stack of blocks.
pub struct Stack {
    /// The blocks that have parameters of their own.
    pub blocks: Vec<Block>,
    /// Which of them run, in turn: a shared one comes more than once. Each inner list ends in a
    /// state that counts as a layer's.
    pub order: Vec<Vec<usize>>,
    /// After the last block.
    pub final_norm: Option<Norm>,
    /// T5: a bias for each bucket of distances and head, used by every block.
    pub buckets: Option<(Buckets, Tensor)>,
}

impl Stack {
    /// Reads the blocks of a row.
    ///
    /// # Errors
    ///
    /// If a parameter is absent or misshapen, or an option has no meaning.
    pub fn read(sizes: &Sizes, config: &Config, weights: &Weights) -> Result<Self> {
        let traits = &sizes.traits;
        // An inner stack of blocks for each group; each block is one, if nothing is shared.
        let sharing = ["num_hidden_groups", "inner_group_num"];
        let shared = || each(sharing, |key| Ok(config.size_or(key, 1)?.max(1)));
        let [groups, inner] = if traits.grouped { shared()? } else { [sizes.layers, 1] };
        let block = |i: usize| {
            let name = sizes.names.of(LAYER).replacen("{}", &(i / inner).to_string(), 1);
            let own = weights.under(&name.replace("{}", &(i % inner).to_string()));
            read_block(sizes, config, &own, i)
        };
        let blocks = (0..groups * inner).map(block).collect::<Result<_>>()?;
        let of_layer = |layer: usize| {
            let group = layer * groups / sizes.layers;
            (group * inner..(group + 1) * inner).collect()
        };
        let order = (0..sizes.layers).map(of_layer).collect();
        let final_norm =
            when(traits.place == Place::Pre, || sizes.norm(weights, "encoder.ln", sizes.hidden))?;
        Ok(Stack { blocks, order, final_norm, buckets: None })
    }

    /// The states before the first block and after each one, the last after the final norm; with
    /// caches, one for each block, of positions after those that the blocks have read before.
    ///
    /// # Errors
    ///
    /// If the mask does not fit.
    pub fn run(
        &self,
        embedded: Tensor,
        seen: &Seen<'_>,
        mut caches: Option<&mut Vec<BlockCache>>,
    ) -> Result<Vec<Tensor>> {
        let mut seen = *seen;
        seen.mask.buckets = self.buckets.as_ref().map(|(buckets, table)| (*buckets, table));
        let mut states = vec![embedded];
        for layer in &self.order {
            let mut x = states[states.len() - 1].clone();
            for &block in layer {
                let cache = caches.as_mut().map(|caches| &mut caches[block]);
                x = self.blocks[block].run(&x, &seen, cache)?;
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
fn read_block(sizes: &Sizes, config: &Config, own: &Weights, layer: usize) -> Result<Block> {
    let (traits, hidden) = (&sizes.traits, sizes.hidden);
    let map = |name: &str, from: usize, to: usize| sizes.map(own, name, from, to);
    let norm = |name: &str| sizes.norm(own, name, hidden);
    let mut heads = sizes.heads;
    let width = heads.count * heads.dim;
    // GPT-1 has no such options.
    if traits.fused && traits.place == Place::Pre {
        if !config.flag_or("scale_attn_weights", true)? {
            heads.scale = 1.0;
        }
        if config.flag_or("scale_attn_by_inverse_layer_idx", false)? {
            heads.scale /= (layer + 1) as f64;
        }
    }
    let separate = |names: [&str; 3], from: [usize; 3]| {
        each([0, 1, 2], |i| map(names[i], from[i], width)).map(Projection::Separate)
    };
    let fused = |steps| Ok(Projection::Fused(map(PROJECTIONS[0], hidden, 3 * width)?, steps));
    let projection = match traits.fused {
        false => separate(PROJECTIONS, sizes.projected_from)?,
        true => fused_steps(traits.order, config, &heads).and_then(fused)?,
    };
    let window = when(traits.windowed, || {
        let read = |name: &str| map(&format!("{name}_global"), hidden, width);
        Ok((window(config, sizes, layer)? / 2, Box::new(each(PROJECTIONS, read)?)))
    })?;
    let cross = when(traits.side == Side::Decoder, || {
        let projection = separate(CROSS, [hidden; 3])?;
        let out = map("crossattention.output.dense", width, hidden)?;
        let inner = Attention { projection, out, heads, causal: false, window: None };
        Ok(Sublayer::of(inner, norm("crossattention.output.LayerNorm")?))
    })?;
    let out = map(OUT, width, hidden)?;
    Ok(Block {
        place: traits.place,
        attention: Sublayer {
            inner: Attention { projection, out, heads, causal: traits.causal, window },
            norm: norm("attention.output.LayerNorm")?,
            adapter: read_adapter(&own.under("attention.output."), config, hidden)?,
        },
        cross,
        feed: vec![Sublayer {
            adapter: read_adapter(&own.under("output."), config, hidden)?,
            ..read_feed(sizes, own)?
        }],
        bottleneck: None,
    })
}

/// A feed-forward sublayer of a row's sizes.
///
/// # Errors
///
/// If one is absent or misshapen.
pub fn read_feed(sizes: &Sizes, own: &Weights) -> Result<Sublayer<FeedForward>> {
    let (hidden, inner, [up, down]) = (sizes.hidden, sizes.inner, FEED);
    let map = |name: &str, from: usize, to: usize| sizes.map(own, name, from, to);
    let (up, gated) = (sizes.names.of(up), sizes.gated);
    let feed = FeedForward {
        up: map(&format!("{up}{}", if gated { "_1" } else { "" }), hidden, inner)?,
        gate: when(gated, || map(&format!("{up}_0"), hidden, inner))?,
        activation: sizes.activation,
        down: map(down, inner, hidden)?,
    };
    Ok(Sublayer::of(feed, sizes.norm(own, "output.LayerNorm", hidden)?))
}

/// The window of a layer, both sides together: one for all, or one for each.
fn window(config: &Config, sizes: &Sizes, layer: usize) -> Result<usize> {
    let own = |v: &Value| match v {
        Value::Array(list) => list.get(layer).filter(|_| list.len() == sizes.layers)?.as_u64(),
        one => one.as_u64(),
    };
    let even = |v: &Value| own(v).filter(|&n| n > 0 && n % 2 == 0 && n < 1 << 30);
    let rule = "must be even and positive, one number or one for each layer";
    Ok(config.optional("attention_window", rule, even)?.map_or(512, |n| n as usize))
}

/// The order of a fused projection's columns: GPT's is [q|k|v]; Megatron's checkpoints, whose
/// matrices are stored the other way, have changed theirs twice.
fn fused_steps(order: Order, config: &Config, heads: &Heads) -> Result<[usize; 3]> {
    let (count, dim) = (heads.count, heads.dim);
    let version = match order {
        Order::InOut => 0.0,
        Order::OutIn => config.number_or("megatron_checkpoint_version", 0.0)?,
    };
    Ok(match version {
        2.0.. => [dim, 3 * dim, 1],
        1.0.. => [1, 3 * dim, 3],
        _ => [count * dim, dim, 1],
    })
}

/// An adapter, if the config names one.
fn read_adapter(weights: &Weights, config: &Config, hidden: usize) -> Result<Option<FeedForward>> {
    when(config.has("adapter_name"), || {
        let name = config.text_or("adapter_name", "")?;
        let factor = config.number_or("adapter_reduction_factor", 16.0)?;
        let width = hidden as f64 / factor;
        let rule = format!("must be from 1 to the hidden size {hidden}");
        let fits = width >= 1.0 && width <= hidden as f64;
        ensure(fits, "config: adapter_reduction_factor", factor, rule)?;
        let own = weights.under(&format!("adapters.{name}."));
        Ok(FeedForward {
            up: Linear::read(&own, "adapter_down.0", hidden, width as usize)?,
            gate: None,
            activation: config.activation_or("adapter_non_linearity", "swish")?,
            down: Linear::read(&own, "adapter_up", width as usize, hidden)?,
        })
    })
}
