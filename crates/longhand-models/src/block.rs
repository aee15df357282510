//! The transformer block. There is one; what a model does otherwise is data in it.

use crate::attention::{self, Heads, Mask};
use crate::cache::{BlockCache, KeysValues};
use crate::ops::{self, Activation};
use crate::parts::{Linear, Norm};
use crate::{Device, Ints, Result, Tensor};

/// Where a sublayer's norm stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// `norm(x + f(x))`, as in BERT.
    Post,
    /// `x + f(norm(x))`, with one more norm after the last block.
    Pre,
}

/// A sublayer: what it computes, its norm, and an adapter after it if there is one.
pub struct Sublayer<T> {
    /// What it computes.
    pub inner: T,
    /// Its norm.
    pub norm: Norm,
    /// A bottleneck of its own, added to what it reads and trained while the rest stands still.
    pub adapter: Option<FeedForward>,
}

impl<T> Sublayer<T> {
    /// Without an adapter.
    pub fn of(inner: T, norm: Norm) -> Self {
        Sublayer { inner, norm, adapter: None }
    }

    /// The sublayer on `x`; `f` runs [`inner`](Self::inner).
    pub(crate) fn run(
        &self,
        place: Place,
        x: &Tensor,
        f: impl FnOnce(&T, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let mut h = match place {
            Place::Post => f(&self.inner, x)?,
            Place::Pre => f(&self.inner, &self.norm.run(x.clone()))?,
        };
        if let Some(adapter) = &self.adapter {
            h = ops::add(adapter.run(&h), &h);
        }
        let y = ops::add(h, x);
        Ok(if place == Place::Post { self.norm.run(y) } else { y })
    }
}

/// Where queries, keys and values come from.
pub enum Projection {
    /// Three maps.
    Separate([Linear; 3]),
    /// One map; see [`ops::split_fused`] for the steps.
    Fused(Linear, [usize; 3]),
}

/// Attention with its projections.
pub struct Attention {
    /// Into heads.
    pub projection: Projection,
    /// Out of them.
    pub out: Linear,
    /// Heads.
    pub heads: Heads,
    /// No position sees a later one.
    pub causal: bool,
    /// A position sees so many on each side, and the global ones, which have projections of their own.
    pub window: Option<(usize, Box<[Linear; 3]>)>,
}

impl Attention {
    /// Queries of `q`, keys of `k`, values of `v`.
    pub fn project(&self, [q, k, v]: [&Tensor; 3]) -> [Tensor; 3] {
        match &self.projection {
            Projection::Separate([to_q, to_k, to_v]) => [to_q.run(q), to_k.run(k), to_v.run(v)],
            Projection::Fused(map, steps) => {
                ops::split_fused(&map.run(q), self.heads.count, self.heads.dim, *steps)
            }
        }
    }

    /// Queries of `x`, keys and values of `memory`, which are made once.
    fn over(&self, x: &Tensor, memory: &Tensor, kept: Option<&mut KeysValues>) -> [Tensor; 3] {
        let Projection::Separate([to_q, to_k, to_v]) = &self.projection else {
            return self.project([x, memory, memory]);
        };
        let make = || [to_k.run(memory), to_v.run(memory)];
        let [k, v] = kept.map_or_else(make, |kept| kept.get_or_insert_with(make).clone());
        [to_q.run(x), k, v]
    }

    fn mix(&self, x: [&Tensor; 3], [q, k, v]: [Tensor; 3], seen: &Seen<'_>) -> Result<Tensor> {
        let local = [&q, &k, &v];
        let mixed = match &self.window {
            None => {
                let mask = Mask { causal: self.causal, ..seen.mask };
                attention::full(seen.device, &self.heads, local, &mask)?
            }
            Some((side, global)) => {
                let valid = seen.mask.key_valid;
                let own = seen.globals.map(|_| [0, 1, 2].map(|i| global[i].run(x[i])));
                let own = seen.globals.zip(own.as_ref().map(|own| own.each_ref()));
                attention::windowed(seen.device, &self.heads, *side, local, own, valid)?
            }
        };
        Ok(self.out.run(&mixed))
    }
}

/// `down(act(up(x)))`, or with a gate `down(act(gate(x)) · up(x))`.
pub struct FeedForward {
    /// To the inner width.
    pub up: Linear,
    /// Beside it.
    pub gate: Option<Linear>,
    /// Between.
    pub activation: Activation,
    /// Back.
    pub down: Linear,
}

impl FeedForward {
    /// Of every row of `x`.
    pub fn run(&self, x: &Tensor) -> Tensor {
        let inside = match &self.gate {
            Some(gate) => ops::multiply(self.activation.apply(gate.run(x)), &self.up.run(x)),
            None => self.activation.apply(self.up.run(x)),
        };
        self.down.run(&inside)
    }
}

/// A layer of an attention of its own kind and a feed-forward.
pub struct Layer<A> {
    /// What mixes positions.
    pub attention: Sublayer<A>,
    /// What does not.
    pub feed: Sublayer<FeedForward>,
}

impl<A> Layer<A> {
    /// The layer on `x`; `f` runs the attention.
    pub(crate) fn run(
        &self,
        place: Place,
        x: &Tensor,
        f: impl FnOnce(&A, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let y = self.attention.run(place, x, f)?;
        self.feed.run(place, &y, |feed, y| Ok(feed.run(y)))
    }
}

/// MobileBERT: the block works in a narrower width than the states between blocks.
pub struct Bottleneck {
    /// Into the block's width.
    pub input: (Linear, Norm),
    /// Into the width of queries and keys, if they share one map that is not `input`.
    pub shared: Option<(Linear, Norm)>,
    /// Whether queries, keys and values all read the narrow input.
    pub attends_narrow: bool,
    /// Back to the width of the states, and the norm after the residual.
    pub output: (Linear, Norm),
}

/// One block.
pub struct Block {
    /// Where its norms stand.
    pub place: Place,
    /// Attention over its own input.
    pub attention: Sublayer<Attention>,
    /// Attention over an encoder's states.
    pub cross: Option<Sublayer<Attention>>,
    /// One feed-forward sublayer, or more in a row.
    pub feed: Vec<Sublayer<FeedForward>>,
    /// A narrower width inside.
    pub bottleneck: Option<Bottleneck>,
}

/// What the blocks of one forward pass see.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    /// Where attention runs.
    pub device: &'a Device,
    /// Of the input's positions.
    pub mask: Mask<'a>,
    /// An encoder's states, and which of them are there.
    pub memory: Option<(&'a Tensor, Mask<'a>)>,
    /// Positions that see and are seen from everywhere, `[batch, count]`, filled up with −1.
    pub globals: Option<&'a Ints>,
}

impl<'a> Seen<'a> {
    /// A mask and nothing else.
    pub fn new(device: &'a Device, mask: Mask<'a>) -> Self {
        Seen { device, mask, memory: None, globals: None }
    }
}

impl Block {
    /// The block on `[batch, seqlen, hidden]`, after what the cache holds if there is one.
    ///
    /// # Errors
    ///
    /// If the mask does not fit.
    pub fn run(
        &self,
        x: &Tensor,
        seen: &Seen<'_>,
        mut cache: Option<&mut BlockCache>,
    ) -> Result<Tensor> {
        let narrow = |(map, norm): &(Linear, Norm)| norm.run(map.run(x));
        let bottleneck = self.bottleneck.as_ref();
        let input = bottleneck.map_or_else(|| x.clone(), |inside| narrow(&inside.input));
        let wide = bottleneck.filter(|inside| !inside.attends_narrow);
        let shared = wide.and_then(|inside| inside.shared.as_ref()).map(narrow);
        let mut a = self.attention.run(self.place, &input, |attention, h| {
            let shared = shared.as_ref().unwrap_or(x);
            let from = if wide.is_some() { [shared, shared, x] } else { [h, h, h] };
            let [q, mut k, mut v] = attention.project(from);
            if let Some(cache) = &mut cache {
                [k, v] = cache.joined([k, v]);
                cache.own = Some([k.clone(), v.clone()]);
            }
            attention.mix(from, [q, k, v], seen)
        })?;
        if let (Some(cross), Some((memory, mask))) = (&self.cross, &seen.memory) {
            let seen = Seen::new(seen.device, *mask);
            let kept = cache.map(|cache| &mut cache.cross);
            a = cross.run(self.place, &a, |attention, h| {
                let rows = attention.over(h, memory, kept);
                attention.mix([h, memory, memory], rows, &seen)
            })?;
        }
        for feed in &self.feed {
            a = feed.run(self.place, &a, |feed, h| Ok(feed.run(h)))?;
        }
        let Some(Bottleneck { output: (map, norm), .. }) = bottleneck else { return Ok(a) };
        Ok(norm.run(ops::add(map.run(&a), x)))
    }
}
