//! Reformer: long texts in little memory. Attention is by hashing in some layers and by chunks of
//! neighbours in others; positions are two narrow tables; and a layer's inputs can be computed from
//! its outputs, so that training need not keep them.

mod positions;

use super::*;
use crate::attention::{Ring, chunked, hashed};
use longhand::{DType, Lsh};

struct Layer {
    norm: Norm,
    query: Linear,
    /// Of a layer that attends by chunks; one that hashes has queries that are also the keys.
    key: Option<Linear>,
    value: Linear,
    out: Linear,
    feed: Sublayer<FeedForward>,
}

/// Rounds, and chunks on one side, that are more than any model has.
const MOST: usize = 1024;

struct Reformer {
    words: Tensor,
    /// Of positions.
    axes: Vec<Tensor>,
    layers: Vec<Layer>,
    norm: Norm,
    head: Linear,
    heads: Heads,
    /// What layers see that hash, and those that do not.
    hashed: Ring,
    local: Ring,
    /// Factors of the number of buckets; chosen by the length where there are none.
    buckets: Option<Vec<usize>>,
    rounds: usize,
    /// Of rotations that are not given; each layer's number where there is none.
    seed: Option<usize>,
    /// Positions that a feed-forward takes at a time; all at once if 0.
    feed_chunk: usize,
    pad: usize,
    /// Of the configuration: how many positions there may be.
    most: usize,
}

/// What a pass gives.
struct Pass {
    /// The second stream before each layer and after the last.
    states: Vec<Tensor>,
    logits: Tensor,
    /// By layer; as the bits of integers.
    buckets: Vec<(usize, Tensor)>,
    /// How many there are in a round.
    of_round: usize,
}

pub(crate) fn read(traits: &'static Traits, config: &Config, weights: &Weights) -> Built {
    // The head reads both streams: it is twice as wide as the table.
    config.only("tie_word_embeddings", false)?;
    let sizes = Sizes::read(traits, config)?;
    let (hidden, vocab) = (sizes.hidden, config.positive("vocab_size")?);
    let rule = "must be a list of \"local\" and \"lsh\"";
    // Whether each layer hashes.
    let hashed = config.list("attn_layers", rule, |kind| {
        Some(kind == "lsh").filter(|&hashes| hashes || kind == "local")
    })?;
    ensure(!hashed.is_empty(), "config: attn_layers", "[]", rule)?;
    // As many as `attn_layers` lists, if there is a number.
    if sizes.layers > 0 {
        config.only("num_hidden_layers", hashed.len())?;
    }
    let body = weights.under("reformer.");
    let layer = |(i, hashed): (usize, &bool)| {
        read_layer(&sizes, &body.under(&format!("encoder.layers.{i}.")), *hashed)
    };
    let causal = config.flag_or("is_decoder", false)?;
    let few = |name: &str, default: usize| -> Result<usize> {
        let n = config.size_or(name, default)?;
        let rule = format!("must be at most {MOST}");
        ensure(n <= MOST, format_args!("config: {name}"), n, rule).map(|()| n)
    };
    let ring = |name: &str| -> Result<Ring> {
        Ok(Ring {
            chunk_len: config.size_or(&format!("{name}_attn_chunk_length"), 64)?.max(1),
            before: few(&format!("{name}_num_chunks_before"), 1)?,
            after: few(&format!("{name}_num_chunks_after"), 0)?,
            causal,
        })
    };
    let head = weights.tensor("lm_head.decoder.weight", &[vocab, 2 * hidden])?;
    let pad = config.size_or("pad_token_id", 0)?;
    let rule = format!("must be below vocab_size = {vocab}");
    ensure(pad < vocab, "config: pad_token_id", pad, rule)?;
    let most = config.size_or("max_position_embeddings", 4096)?;
    Ok(Box::new(Reformer {
        words: body.tensor("embeddings.word_embeddings.weight", &[vocab, hidden])?,
        axes: positions::read_axes(config, &body, hidden)?,
        layers: hashed.iter().enumerate().map(layer).collect::<Result<_>>()?,
        norm: sizes.norm(&body, "encoder.layer_norm", 2 * hidden)?,
        head: Linear::of(head, Some(weights.tensor("lm_head.bias", &[vocab])?), Order::OutIn),
        heads: sizes.heads,
        hashed: ring("lsh")?,
        local: ring("local")?,
        buckets: buckets(config)?,
        rounds: few("num_hashes", 1)?.max(1),
        seed: config.optional_size("hash_seed")?,
        feed_chunk: config.size_or("chunk_size_feed_forward", 0)?,
        pad,
        most,
    }))
}

fn buckets(config: &Config) -> Result<Option<Vec<usize>>> {
    let Some(value) = config.get("num_buckets") else { return Ok(None) };
    let factors = match value.is_array() {
        true => config.sizes("num_buckets")?,
        false => vec![config.size("num_buckets")?],
    };
    let rule = "must be even and positive, or a list of such factors";
    let fits = factors.iter().all(|n| *n > 0 && n.is_multiple_of(2));
    ensure(fits, "config: num_buckets", value, rule)?;
    Ok(Some(factors))
}

fn read_layer(sizes: &Sizes, own: &Weights, hashed: bool) -> Result<Layer> {
    let (hidden, width) = (sizes.hidden, sizes.heads.count * sizes.heads.dim);
    let attention = own.under("attention.self_attention.");
    let into = |name: &str| Linear::bare(&attention, name, hidden, width);
    Ok(Layer {
        norm: sizes.norm(own, "attention.layer_norm", hidden)?,
        query: into(if hashed { "query_key" } else { "query" })?,
        key: when(!hashed, || into("key"))?,
        value: into("value")?,
        out: Linear::bare(own, "attention.output.dense", width, hidden)?,
        feed: read_feed(sizes, own)?,
    })
}

impl Reformer {
    /// The length that chunks fill: a common multiple of theirs, unless the shortest holds all.
    fn padded(&self, length: usize) -> usize {
        let ring = |layer: &Layer| if layer.key.is_none() { self.hashed } else { self.local };
        let chunks = self.layers.iter().map(|layer| ring(layer).chunk_len);
        match chunks.clone().any(|chunk| length > chunk) {
            true => length.next_multiple_of(chunks.fold(1, |all, n| all / gcd(all, n) * n)),
            false => length,
        }
    }

    /// The factors of the number of buckets for this length.
    fn buckets(&self, length: usize) -> Vec<usize> {
        if let Some(buckets) = &self.buckets {
            return buckets.clone();
        }
        // Two buckets to a chunk, or the power of two below; two factors where they are many.
        let chunk = self.hashed.chunk_len;
        let bits = (2 * (length / chunk)).checked_ilog2().unwrap_or(1).max(1);
        let limit = 2 * (self.most / chunk).isqrt().max(chunk);
        match 1 << bits {
            all if all > limit => vec![1 << (bits / 2), 1 << (bits - bits / 2)],
            all => vec![all],
        }
    }

    /// Over the ids in an input; `attention_mask` is `input_ids`'.
    fn pass(&self, name: &str, inputs: &Inputs, device: &Device) -> Result<Pass> {
        let valid = when(name == "input_ids", || inputs.key_valid())?.flatten();
        let ids = inputs.ints(name)?;
        let [batch, given] = ids.sizes(name)?;
        let length = self.padded(given);
        let places = positions::count(&self.axes);
        let rule = format!("in whole chunks that is {length}, and there are {places} positions");
        ensure(length <= places, format_args!("the length of {name}"), given, rule)?;
        // Where a position of whole chunks is among those given.
        let place = |n: usize| (n % length < given).then(|| n / length * given + n % length);
        let ids = ids.indices(name, self.words.rows())?;
        let words: Vec<usize> =
            (0..batch * length).map(|n| place(n).map_or(self.pad, |i| ids[i])).collect();
        let words = ops::gather(&self.words.on(device), &words, &[batch, length]);
        let embedded = ops::add(words, &positions::run(&self.axes, batch, length, device));
        let there = |i: usize| valid.as_ref().is_none_or(|valid| valid[i] != 0);
        let valid: Vec<u8> =
            (0..batch * length).map(|n| u8::from(place(n).is_some_and(there))).collect();
        // Where everything is there, nothing needs a bucket of its own.
        let valid = valid.contains(&0).then_some(&valid[..]);
        let problem = self.problem(batch, length);
        let mut states = vec![embedded.clone()];
        let (mut x1, mut x2) = (embedded.clone(), embedded);
        let mut buckets = Vec::new();
        for (i, layer) in self.layers.iter().enumerate() {
            let x = layer.norm.run(x2);
            let (q, v) = (layer.query.run(&x), layer.value.run(&x));
            let mixed = match &layer.key {
                Some(key) => {
                    let rows = [&q, &key.run(&x), &v];
                    chunked(device, &self.heads, &self.local, rows, valid)?
                }
                None => {
                    let rotations = self.rotations(i, &problem, inputs)?;
                    let (mixed, own) =
                        hashed(device, &problem, [&q, &v], rotations.as_ref(), valid)?;
                    buckets.extend(own.map(|own| (i, own)));
                    mixed
                }
            };
            // x1 = y1 − attention(norm(x2)) and x2 = y2 − feed(norm(y1)) lead back.
            x1 = ops::add(layer.out.run(&mixed), &x1);
            let Sublayer { norm, inner, .. } = &layer.feed;
            let fed = in_chunks(&x1, self.feed_chunk, |rows| inner.run(&norm.run(rows)));
            x2 = ops::add(fed, &states[i]);
            states.push(x2.clone());
        }
        let cut = |x: &Tensor| ops::cut(x, 1, 0..given);
        let last = self.norm.run(ops::concat(&[&cut(&x1), &cut(&x2)], 2));
        let logits = self.head.run(&last);
        let states = states.iter().map(cut).collect();
        // Positions that are not there have a bucket of their own.
        let of_round = problem.num_buckets.iter().product::<usize>() + usize::from(valid.is_some());
        Ok(Pass { states, logits, buckets, of_round })
    }

    /// The attention of a layer that hashes.
    fn problem(&self, batch: usize, length: usize) -> Lsh {
        let Ring { chunk_len, before, after, causal } = self.hashed;
        let shape = [batch, length, self.heads.count, self.heads.dim];
        let problem = Lsh::new(shape, chunk_len, self.rounds, DType::F32).chunks(before, after);
        Lsh { causal, num_buckets: self.buckets(length), ..problem }
    }

    /// The rotations of layer `i`, if it hashes: `rotations.<i>` where they are given.
    fn rotations(&self, i: usize, problem: &Lsh, inputs: &Inputs) -> Result<Option<Tensor>> {
        problem.validate()?;
        let name = format!("rotations.{i}");
        let columns = problem.num_buckets.iter().map(|n| n / 2).sum::<usize>();
        let shape = [self.heads.count, self.heads.dim, self.rounds, columns];
        let given = when(inputs.has(&name), || inputs.floats_shaped(&name, &shape))?.cloned();
        let draw = || Tensor::new(&shape, problem.rotations(self.seed.unwrap_or(i) as u64));
        Ok(problem.is_hashed().then(|| given.unwrap_or_else(draw)))
    }
}

impl Member for Reformer {
    /// `input_ids`, and `train_input_ids` as training would see them: nothing padded.
    fn forward(&self, inputs: &Inputs, device: &Device) -> Result<Outputs> {
        let mut out = Outputs::default();
        let names = [("", "input_ids", "labels"), ("train.", "train_input_ids", "train_labels")];
        let asked = |(prefix, name, _): &(&str, &str, &str)| prefix.is_empty() || inputs.has(name);
        for (prefix, name, labels) in names.into_iter().filter(asked) {
            let pass = self.pass(name, inputs, device)?;
            if let Some(loss) = inputs.loss(labels, &pass.logits, self.hashed.causal)? {
                out.put_scalar(format!("{prefix}loss"), loss);
            }
            for (layer, buckets) in pass.buckets {
                let mut numbers = Ints::of_bits(&buckets);
                // Each round's after the last one's.
                for (i, number) in numbers.data.iter_mut().enumerate() {
                    *number += (i / buckets.width() % self.rounds * pass.of_round) as i32;
                }
                out.put_ints(format!("{prefix}buckets.{layer}"), numbers);
            }
            if prefix.is_empty() {
                out.put_each("hidden_states", &pass.states);
            }
            out.put(format!("{prefix}logits"), pass.logits);
        }
        Ok(out)
    }

    fn encode(&self, inputs: &Inputs, device: &Device) -> Result<Tensor> {
        Ok(last(self.pass("input_ids", inputs, device)?.states))
    }
}

/// `f` of so many positions at a time: what it needs in between stays small.
fn in_chunks(x: &Tensor, chunk: usize, f: impl Fn(Tensor) -> Tensor) -> Tensor {
    if chunk == 0 {
        return f(x.clone());
    }
    let length = x.shape()[1];
    let part = |start| f(ops::cut(x, 1, start..length.min(start + chunk)));
    ops::concat(&(0..length).step_by(chunk).map(part).collect::<Vec<_>>(), 1)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
