//! Transformer-XL: a segment at a time, each layer also reading what it read before.

use super::*;
use crate::attention::{Segment, relative};
use longhand::DType;
use serde_json::Value;
use std::ops::Range;

/// Rows of memory beyond which no text is worth them.
const MOST_MEMORY: usize = 1 << 20;

struct Relative {
    qkv: Linear,
    positions: Linear,
    out: Linear,
    /// For the keys and the distances.
    biases: [Tensor; 2],
}

/// Words of a band of frequencies: rarer ones may have narrower vectors.
struct Cluster {
    own: Range<usize>,
    table: Tensor,
    /// From the vectors to the states.
    into: Option<Linear>,
    /// From the states to the vectors.
    out_of: Option<Linear>,
    /// To the words; of the first cluster, then to the others too.
    out: Vec<Linear>,
}

struct TransformerXl {
    clusters: Vec<Cluster>,
    layers: Vec<Layer<Relative>>,
    place: Place,
    heads: Heads,
    width: usize,
    memory: usize,
    same_length: bool,
    clamp: Option<usize>,
}

pub(crate) fn read(traits: &'static Traits, config: &Config, weights: &Weights) -> Built {
    let sizes = Sizes::read(traits, config)?;
    let (width, heads) = (sizes.hidden, sizes.heads);
    let (shape, rows) = ([heads.count, heads.dim], heads.count * heads.dim);
    let (memory, same_length) = (config.size("mem_len")?, config.flag_or("same_length", true)?);
    let rule = "must be positive with same_length: a position sees so many";
    ensure(memory > 0 || !same_length, "config: mem_len", memory, rule)?;
    let untied = config.flag_or("untie_r", true)?;
    let body = weights.under("transformer.");
    let layer = |i: usize| -> Result<Layer<Relative>> {
        let own = body.under(&format!("layers.{i}."));
        let attention = own.under("dec_attn.");
        let biases = if untied { &attention } else { &body };
        let relative = Relative {
            qkv: Linear::bare(&attention, "qkv_net", width, 3 * rows)?,
            positions: Linear::bare(&attention, "r_net", width, rows)?,
            out: Linear::bare(&attention, "o_net", rows, width)?,
            biases: each(["r_w_bias", "r_r_bias"], |name| biases.tensor(name, &shape))?,
        };
        let norm = sizes.norm(&attention, "layer_norm", width)?;
        Ok(Layer { attention: Sublayer::of(relative, norm), feed: read_feed(&sizes, &own)? })
    };
    Ok(Box::new(TransformerXl {
        layers: (0..sizes.layers).map(layer).collect::<Result<_>>()?,
        clusters: read_clusters(&sizes, config, weights)?,
        place: if config.flag_or("pre_lnorm", false)? { Place::Pre } else { Place::Post },
        heads,
        width,
        memory,
        same_length,
        clamp: config.length("clamp_len")?,
    }))
}

impl TransformerXl {
    /// A cache of `memory` rows of zeros, which are attended to: this implementation's start.
    fn start(&self, batch: usize, memory: usize) -> Cache {
        let mut cache = Cache::new(self.layers.len(), batch);
        for (layer, kept) in self.layers.iter().zip(&mut cache.blocks) {
            let mut x = Tensor::zeros(&[batch, memory, self.width]);
            if self.place == Place::Pre {
                x = layer.attention.norm.run(x);
            }
            let [_, k, v] = self.project(&layer.attention.inner, &x);
            kept.own = Some([k, v]);
        }
        cache
    }

    /// The states of a segment. The cache then holds the last rows of what it held and the segment,
    /// as many as before.
    fn step(&self, ids: &Ints, cache: &mut Cache, device: &Device) -> Result<Vec<Tensor>> {
        let [batch, length] = ids.sizes("input_ids")?;
        let mut states = vec![self.embed(ids, device)?];
        // Padding stands before the memory of its sequence: what is in its place is memory, zeros as
        // at the start, and as many keys before that are not there.
        let padding = cache.padding.iter().map(|n| n.saturating_sub(cache.read).min(length));
        let padding: Vec<usize> = padding.collect();
        let memory = cache.blocks.first().map_or(0, |kept| kept.rows());
        let count = memory + length;
        let shape = [batch, length, self.heads.count, self.heads.dim];
        let mut problem = longhand::TransformerXl::with_memory(shape, memory, DType::F32);
        problem.window.left = (self.same_length && memory > 0).then(|| memory - 1);
        problem.clamp_len = self.clamp;
        let key_valid = generate::behind(&padding, count);
        let segment = Segment { problem, parts: None, key_valid, blocked: None };
        let there = |i: usize| i % length >= padding[i / length];
        for (layer, kept) in self.layers.iter().zip(&mut cache.blocks) {
            let mut x = states[states.len() - 1].clone();
            if segment.key_valid.is_some() {
                x = ops::keep_rows(x, there);
            }
            states.push(layer.run(self.place, &x, |own, x| {
                let [q, k, v] = self.project(own, x);
                let [k, v] = kept.joined([k, v]);
                kept.own = Some([ops::last_rows(&k, memory), ops::last_rows(&v, memory)]);
                // Projected once: it is the same for every segment.
                if kept.distances.as_ref().is_none_or(|all| all.rows() < count) {
                    let table = segment.distances(self.width)?.reshape(&[1, count, self.width]);
                    kept.distances = Some(own.positions.run(&table.on(device)));
                }
                let r = kept.distances.iter().map(|all| ops::cut(all, 1, 0..count));
                let (rows, r) = ([&q, &k, &v], r.collect::<Vec<_>>());
                let mixed = relative(device, &segment, rows, &r, &own.biases, None, None)?;
                Ok(own.out.run(&mixed))
            })?);
        }
        cache.read += length;
        Ok(states)
    }

    /// Queries, keys and values of states: each row's of itself alone, so that a memory keeps keys
    /// and values in place of states.
    fn project(&self, own: &Relative, x: &Tensor) -> [Tensor; 3] {
        let (count, dim) = (self.heads.count, self.heads.dim);
        ops::split_fused(&own.qkv.run(x), count, dim, [count * dim, dim, 1])
    }

    fn embed(&self, ids: &Ints, device: &Device) -> Result<Tensor> {
        let words = ids.indices("input_ids", self.clusters[self.clusters.len() - 1].own.end)?;
        let read = |cluster: &Cluster| {
            let own = &cluster.own;
            // Words of other clusters are read as this one's first, then left out.
            let row = |word: &usize| if own.contains(word) { word - own.start } else { 0 };
            let rows: Vec<usize> = words.iter().map(row).collect();
            let x = ops::gather(&cluster.table.on(device), &rows, &ids.shape);
            let x = cluster.into.as_ref().map_or_else(|| x.clone(), |map| map.run(&x));
            ops::keep_rows(x, |i| own.contains(&words[i]))
        };
        let is_met = |cluster: &&Cluster| words.iter().any(|word| cluster.own.contains(word));
        let all = self.clusters.iter().filter(is_met).map(read).reduce(|a, b| ops::add(a, &b));
        let all = all.ok_or_else(|| Error::input("input_ids: no words"))?;
        Ok(ops::scale(all, (self.width as f32).sqrt()))
    }
}

impl Member for TransformerXl {
    fn generator(&self) -> Option<&dyn Generator> {
        Some(self)
    }

    /// Segments `input_ids.0`, `input_ids.1`, … one after another.
    fn forward(&self, inputs: &Inputs, device: &Device) -> Result<Outputs> {
        let mut out = Outputs::default();
        let segments = inputs.segments()?;
        let batch = segments[0].1.shape[0];
        let mut cache = self.start(batch, self.memory);
        let mut memories =
            vec![Tensor::zeros(&[batch, self.memory, self.width]); self.layers.len()];
        for (s, (_, ids)) in segments.into_iter().enumerate() {
            let states = self.step(ids, &mut cache, device)?;
            for (memory, state) in memories.iter_mut().zip(&states) {
                *memory = ops::last_rows(&ops::concat(&[&*memory, state], 1), self.memory);
            }
            let log_probs = self.predict(&states[states.len() - 1]);
            let name = format!("labels.{s}");
            if let Some(labels) = inputs.optional_ints(&name, &ids.shape)? {
                let (losses, mean) = next_losses(&log_probs, labels, &name)?;
                out.put_scalar(format!("segment.{s}.loss"), mean);
                out.put(format!("segment.{s}.losses"), losses);
            }
            out.put_each(format_args!("segment.{s}.hidden_states"), &states);
            out.put(format!("segment.{s}.log_probs"), log_probs);
            out.put_each(format_args!("segment.{s}.mems"), &memories);
        }
        Ok(out)
    }
}

impl Generator for TransformerXl {
    fn begin(&self, prompts: &[&[i32]], memory: Option<usize>, _: &Device) -> Begun {
        let (ids, padding) = generate::padded_before(prompts, 0);
        let memory = memory.unwrap_or(self.memory);
        let rule = format!("must be at most {MOST_MEMORY}");
        ensure(memory <= MOST_MEMORY, "memory", memory, rule)?;
        Ok((Cache { padding, ..self.start(prompts.len(), memory) }, ids))
    }

    fn advance(&self, ids: &Ints, cache: &mut Cache, device: &Device) -> Result<Tensor> {
        Ok(last(self.step(ids, cache, device)?))
    }

    fn memory(&self) -> Option<usize> {
        Some(self.memory)
    }

    /// Log-probabilities of every word: the first cluster's and the other clusters' by one softmax,
    /// then the words of each of those by one of their own.
    fn predict(&self, h: &Tensor) -> Tensor {
        let of = |cluster: &Cluster| {
            let h = cluster.out_of.as_ref().map_or_else(|| h.clone(), |map| map.run(h));
            let logits: Vec<Tensor> = cluster.out.iter().map(|map| map.run(&h)).collect();
            ops::log_softmax(ops::concat(&logits, 2))
        };
        let mut widths = vec![self.clusters[0].own.end];
        widths.resize(self.clusters.len(), 1);
        let mut parts = ops::split_last(&of(&self.clusters[0]), &widths);
        let shares = parts.split_off(1);
        let others = self.clusters[1..].iter().zip(&shares);
        parts.extend(others.map(|(cluster, share)| ops::add_column(of(cluster), share)));
        ops::concat(&parts, 2)
    }
}

/// `[batch, length − 1]`: −log p of the next word inside the segment, 0 where it is not scored, and
/// the mean of those that are.
fn next_losses(log_probs: &Tensor, labels: &Ints, name: &str) -> Result<(Tensor, f64)> {
    let [batch, length] = labels.sizes(name)?;
    let scored = ops::scored_rows(log_probs, labels, name)?;
    let (mut losses, mut count) = (vec![0.0; batch * (length - 1)], 0.0);
    // The first position's word is not predicted by any in the segment.
    for (i, word) in scored.into_iter().filter(|(i, _)| i % length > 0) {
        losses[i / length * (length - 1) + i % length - 1] = -log_probs.row(i - 1)[word];
        count += 1.0;
    }
    let sum: f64 = losses.iter().map(|&x| f64::from(x)).sum();
    Ok((Tensor::new(&[batch, length - 1], losses), sum / count))
}

fn read_clusters(sizes: &Sizes, config: &Config, weights: &Weights) -> Result<Vec<Cluster>> {
    let (width, vocab) = (sizes.hidden, config.positive("vocab_size")?);
    let rule = "must be a list that ascends below vocab_size";
    let mut ends = config.list("cutoffs", rule, |end| end.as_u64().map(|n| n as usize))?;
    ends.push(vocab);
    let fits = ends[0] > 0 && ends.is_sorted_by(|a, b| a < b);
    ensure(fits, "config: cutoffs", format_args!("{ends:?}"), rule)?;
    let embed = config.size("d_embed")?;
    let divisor = config.positive("div_val")?;
    let shared = config.flag_or("proj_share_all_but_first", true)?;
    let ties = match config.get("tie_projs") {
        Some(_) => config.list("tie_projs", "must be a list of true and false", Value::as_bool)?,
        None => (0..ends.len()).map(|i| shared && i > 0).collect(),
    };
    let (words, head) = (weights.under("transformer.word_emb."), weights.under("crit."));
    let cluster = |i: usize| {
        let own = if i > 0 { ends[i - 1] } else { 0 }..ends[i];
        // One table for all clusters, or one for each.
        let (k, all) = if divisor == 1 { (0, 0..vocab) } else { (i, own.clone()) };
        let dim = (divisor as u64).checked_pow(i as u32).map_or(0, |n| embed / n as usize);
        ensure(dim > 0, "config: div_val", divisor, "leaves a cluster no width")?;
        // All of it is left where it lies.
        let cut = |t: Tensor| if own == all { t } else { ops::cut(&t, 0, own.clone()) };
        let projected = divisor > 1 || embed != width;
        let shape = [width, dim];
        let into = when(projected, || words.tensor(&format!("emb_projs.{k}"), &shape))?;
        let table = words.tensor(&format!("emb_layers.{k}.weight"), &[all.len(), dim])?;
        let out_table = sizes.head(&head, &format!("out_layers.{k}.weight"), &table)?;
        let out_of = match ties.get(i).copied().unwrap_or(false) {
            true => into.clone(),
            false => when(projected, || head.tensor(&format!("out_projs.{i}"), &shape))?,
        };
        let out_bias = head.tensor(&format!("out_layers.{k}.bias"), &[all.len()])?;
        let of = |matrix: Option<Tensor>, order| matrix.map(|x| Linear::of(x, None, order));
        let mut out = vec![Linear::of(cut(out_table), Some(cut(out_bias)), Order::OutIn)];
        if i == 0 && ends.len() > 1 {
            let others = ends.len() - 1;
            let weight = head.tensor("cluster_weight", &[others, dim])?;
            let bias = head.tensor("cluster_bias", &[others])?;
            out.push(Linear::of(weight, Some(bias), Order::OutIn));
        }
        let (into, out_of) = (of(into, Order::OutIn), of(out_of, Order::InOut));
        Ok(Cluster { table: cut(table), into, out_of, out, own })
    };
    (0..ends.len()).map(cluster).collect()
}
