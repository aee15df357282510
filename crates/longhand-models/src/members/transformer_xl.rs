//! Transformer-XL: a segment at a time, each layer also reading what it read before.

use crate::attention::{self, Heads};
use crate::block::{FeedForward, Place};
use crate::family::Traits;
use crate::network::Member;
use crate::ops::{self, Activation, Matrix};
use crate::parts::{Linear, Norm, Order};
use crate::{Config, Device, Error, Inputs, Ints, Outputs, Result, Tensor, Weights};
use longhand::transformer_xl::{SinCos, sinusoids};

struct Layer {
    qkv: Linear,
    positions: Linear,
    out: Linear,
    bias_u: Tensor,
    bias_v: Tensor,
    norm: Norm,
    feed: FeedForward,
    feed_norm: Norm,
}

/// Words of a band of frequencies: rarer ones may have narrower vectors.
struct Cluster {
    table: Tensor,
    /// `[d_model, width]`, from the vectors to the states.
    into: Option<Tensor>,
    out_table: Tensor,
    out_bias: Tensor,
    /// `[d_model, width]`, from the states to the vectors.
    out_of: Option<Tensor>,
}

/// A model with relative positions and a memory.
pub struct TransformerXl {
    clusters: Vec<Cluster>,
    /// The logits of the clusters after the first, beside the first's words.
    cluster_head: Option<(Tensor, Tensor)>,
    /// Where each cluster's words end.
    ends: Vec<usize>,
    layers: Vec<Layer>,
    place: Place,
    heads: Heads,
    width: usize,
    memory: usize,
    same_length: bool,
    clamp: Option<usize>,
}

pub(crate) fn read(
    _: &'static Traits,
    config: &Config,
    weights: &Weights,
) -> Result<Box<dyn Member>> {
    Ok(Box::new(TransformerXl::read(config, weights)?))
}

impl TransformerXl {
    fn read(config: &Config, weights: &Weights) -> Result<Self> {
        config.only("attn_type", 0)?;
        config.only("adaptive", true)?;
        config.only("is_decoder", false)?;
        config.ignore(&["sample_softmax", "proj_share_all_but_first", "pad_token_id"]);
        let width = config.positive("d_model")?;
        let (count, dim) = (config.positive("n_head")?, config.positive("d_head")?);
        let heads = Heads { count, dim, scale: 1.0 / (dim as f64).sqrt() };
        let inner = config.positive("d_inner")?;
        let eps = config.number_or("layer_norm_epsilon", 1e-5)?;
        let untied = config.flag_or("untie_r", true)?;
        let body = weights.under("transformer.");
        let layer = |i: usize| -> Result<Layer> {
            let own = body.under(&format!("layers.{i}."));
            let attention = own.under("dec_attn.");
            let bare = |name: &str, from: usize, to: usize| {
                Linear::read_as(&attention, name, from, to, Order::OutIn, false)
            };
            let biases = if untied { &attention } else { &body };
            let norm = |w: &Weights| {
                Norm::read(w, "layer_norm", width, crate::parts::NormKind::Layer, eps)
            };
            let feed = own.under("pos_ff.");
            Ok(Layer {
                qkv: bare("qkv_net", width, 3 * count * dim)?,
                positions: bare("r_net", width, count * dim)?,
                out: bare("o_net", count * dim, width)?,
                bias_u: biases.tensor("r_w_bias", &[count, dim])?,
                bias_v: biases.tensor("r_r_bias", &[count, dim])?,
                norm: norm(&attention)?,
                feed: FeedForward {
                    up: Linear::read(&feed, "CoreNet.0", width, inner)?,
                    gate: None,
                    activation: Activation::Relu,
                    down: Linear::read(&feed, "CoreNet.3", inner, width)?,
                },
                feed_norm: norm(&feed)?,
            })
        };
        let layers = (0..config.size("n_layer")?).map(layer).collect::<Result<_>>()?;
        let ends = ends(config)?;
        let clusters = read_clusters(config, weights, width, &ends)?;
        let tails = ends.len() - 1;
        let first = clusters[0].table.width();
        let cluster_head = (tails > 0).then(|| {
            let weight = weights.tensor("crit.cluster_weight", &[tails, first])?;
            Ok::<_, Error>((weight, weights.tensor("crit.cluster_bias", &[tails])?))
        });
        Ok(TransformerXl {
            clusters,
            cluster_head: cluster_head.transpose()?,
            ends,
            layers,
            place: if config.flag_or("pre_lnorm", false)? { Place::Pre } else { Place::Post },
            heads,
            width,
            memory: config.size("mem_len")?,
            same_length: config.flag_or("same_length", false)?,
            clamp: config.length("clamp_len")?,
        })
    }

    /// Memories of zeros, which are attended to: this implementation's start.
    pub fn start(&self, batch: usize, memory: usize) -> Vec<Tensor> {
        self.layers.iter().map(|_| Tensor::zeros(&[batch, memory, self.width])).collect()
    }

    /// The states of a segment, and the memories after it: each layer's last inputs, as many as
    /// there were.
    ///
    /// # Errors
    ///
    /// If an id is not below the vocabulary.
    pub fn step(
        &self,
        ids: &Ints,
        memories: &[Tensor],
        device: &Device,
    ) -> Result<(Vec<Tensor>, Vec<Tensor>)> {
        let mut states = vec![self.embed(ids)?];
        let mut after = Vec::with_capacity(memories.len());
        for (layer, memory) in self.layers.iter().zip(memories) {
            let x = &states[states.len() - 1];
            after.push(tail(memory, x));
            let y = self.layer(layer, x, memory, device)?;
            states.push(y);
        }
        Ok((states, after))
    }

    fn layer(&self, layer: &Layer, x: &Tensor, memory: &Tensor, device: &Device) -> Result<Tensor> {
        let all = rows_joined(memory, x);
        let read = match self.place {
            Place::Post => all,
            Place::Pre => layer.norm.run(all),
        };
        let (seqlen_k, rows) = (read.shape()[1], memory.shape()[1]);
        let (count, dim) = (self.heads.count, self.heads.dim);
        let steps = [count * dim, dim, 1];
        let [q, k, v] = ops::split_fused(&layer.qkv.run(&read), count, dim, steps);
        let q = last_rows(&q, x.shape()[1]);
        let table = Tensor::new(
            &[seqlen_k, self.width],
            sinusoids(0, seqlen_k, self.width, SinCos::Halves)?,
        );
        let r = layer.positions.run(&table);
        let window = (self.same_length && rows > 0).then(|| rows - 1);
        let biases = [&layer.bias_u, &layer.bias_v];
        let options = (window, self.clamp);
        let mixed = attention::relative(device, &self.heads, [&q, &k, &v], &r, biases, options)?;
        let y = ops::add(layer.out.run(&mixed), x);
        Ok(match self.place {
            Place::Post => {
                let y = layer.norm.run(y);
                layer.feed_norm.run(ops::add(layer.feed.run(&y), &y))
            }
            Place::Pre => ops::add(layer.feed.run(&layer.feed_norm.run(y.clone())), &y),
        })
    }

    fn embed(&self, ids: &Ints) -> Result<Tensor> {
        ids.matrix("input_ids")?;
        let ids_of = ids.indices("input_ids", self.ends[self.ends.len() - 1])?;
        let mut data = vec![0.0; ids_of.len() * self.width];
        let mut first = 0;
        for (cluster, &end) in self.clusters.iter().zip(&self.ends) {
            let at: Vec<usize> =
                (0..ids_of.len()).filter(|&i| (first..end).contains(&ids_of[i])).collect();
            let rows: Vec<usize> = at.iter().map(|&i| ids_of[i] - first).collect();
            let mut x = ops::gather(&cluster.table, &rows, &[rows.len()]);
            if let Some(into) = &cluster.into {
                x = ops::linear(&x, whole(into).t(), None);
            }
            for (k, i) in at.into_iter().enumerate() {
                data[i * self.width..][..self.width].copy_from_slice(x.row(k));
            }
            first = end;
        }
        let x = Tensor::new(&[ids.shape[0], ids.shape[1], self.width], data);
        Ok(ops::scale(x, (self.width as f32).sqrt()))
    }

    /// Log-probabilities of every word: the first cluster's and the other clusters' by one softmax,
    /// then the words of each of those by one of their own.
    pub fn log_probs(&self, h: &Tensor) -> Tensor {
        let logits = |cluster: &Cluster, more: Option<&(Tensor, Tensor)>| {
            let h = match &cluster.out_of {
                Some(out_of) => ops::linear(h, whole(out_of), None),
                None => h.clone(),
            };
            let words = &cluster.out_table;
            let own = ops::linear(&h, whole(words).t(), Some(cluster.out_bias.data()));
            match more {
                Some((w, b)) => {
                    ops::concat_last(&[&own, &ops::linear(&h, whole(w).t(), Some(b.data()))])
                }
                None => own,
            }
        };
        let head = ops::log_softmax(logits(&self.clusters[0], self.cluster_head.as_ref()));
        if self.clusters.len() == 1 {
            return head;
        }
        let tails = self.clusters.len() - 1;
        let mut parts = ops::split_last(&head, &[self.ends[0], tails]);
        let of_cluster = parts.pop().unwrap_or_else(|| head.clone());
        for (i, cluster) in self.clusters[1..].iter().enumerate() {
            let mut own = ops::log_softmax(logits(cluster, None));
            let width = own.width();
            for (row, values) in own.data_mut().chunks_exact_mut(width).enumerate() {
                let share = of_cluster.row(row)[i];
                values.iter_mut().for_each(|x| *x += share);
            }
            parts.push(own);
        }
        ops::concat_last(&parts.iter().collect::<Vec<_>>())
    }
}

impl Member for TransformerXl {
    /// Segments `input_ids.0`, `input_ids.1`, … one after another.
    fn forward(&self, inputs: &Inputs, device: &Device) -> Result<Outputs> {
        let mut out = Outputs::default();
        let first = inputs.ints("input_ids.0")?;
        let batch = first.matrix("input_ids.0")?[0];
        let mut memories = self.start(batch, self.memory);
        let names = (0..).map(|s| (s, format!("input_ids.{s}")));
        for (s, name) in names.take_while(|(_, name)| inputs.has(name)) {
            let ids = inputs.ints(&name)?;
            if ids.matrix(&name)?[0] != batch {
                let rule = format!("must have {batch} rows, as the first segment");
                return Err(Error::invalid(name, format!("{:?}", ids.shape), rule));
            }
            let (states, after) = self.step(ids, &memories, device)?;
            memories = after;
            let log_probs = self.log_probs(&states[states.len() - 1]);
            let name = format!("labels.{s}");
            if let Some(labels) = inputs.optional_ints(&name, &ids.shape)? {
                let (losses, mean) = next_losses(&log_probs, labels, &name)?;
                out.put_scalar(format!("segment.{s}.loss"), mean);
                out.put(format!("segment.{s}.losses"), losses);
            }
            out.put_hidden_states(&format!("segment.{s}."), &states);
            out.put(format!("segment.{s}.log_probs"), log_probs);
            for (i, memory) in memories.iter().enumerate() {
                out.put(format!("segment.{s}.mems.{i}"), memory.clone());
            }
        }
        Ok(out)
    }
}

/// `[batch, length − 1]`: −log p of the next word inside the segment, 0 where it is not scored, and
/// the mean of those that are.
fn next_losses(log_probs: &Tensor, labels: &Ints, name: &str) -> Result<(Tensor, f64)> {
    let [batch, length] = labels.matrix(name)?;
    let scored = ops::scored_rows(log_probs, labels, name)?;
    // The first position's word is not predicted by any in the segment.
    let next: Vec<(usize, usize)> = scored.into_iter().filter(|(i, _)| i % length > 0).collect();
    let mut losses = vec![0.0; batch * (length - 1)];
    for &(i, word) in &next {
        losses[i / length * (length - 1) + i % length - 1] = -log_probs.row(i - 1)[word];
    }
    let sum: f64 = losses.iter().map(|&x| f64::from(x)).sum();
    Ok((Tensor::new(&[batch, length - 1], losses), sum / next.len() as f64))
}

fn ends(config: &Config) -> Result<Vec<usize>> {
    let vocab = config.positive("vocab_size")?;
    let bad = || Error::input("config: cutoffs: must be a list that ascends below vocab_size");
    let mut ends = Vec::new();
    for cutoff in config.get("cutoffs").and_then(|c| c.as_array()).ok_or_else(bad)? {
        let end = cutoff.as_u64().map_or(0, |n| n as usize);
        if end <= ends.last().copied().unwrap_or(0) || end >= vocab {
            return Err(bad());
        }
        ends.push(end);
    }
    ends.push(vocab);
    Ok(ends)
}

fn read_clusters(
    config: &Config,
    weights: &Weights,
    width: usize,
    ends: &[usize],
) -> Result<Vec<Cluster>> {
    let embed = config.size_or("d_embed", width)?;
    let divisor = config.positive("div_val")?;
    let tied = config.flag_or("tie_word_embeddings", true)?;
    let ties = config.get("tie_projs").and_then(|t| t.as_array()).cloned().unwrap_or_default();
    let words = weights.under("transformer.word_emb.");
    let mut clusters = Vec::new();
    let mut first = 0;
    for (i, &end) in ends.iter().enumerate() {
        // One table for all clusters, or one for each.
        let (k, rows, from) =
            if divisor == 1 { (0, ends[ends.len() - 1], first) } else { (i, end - first, 0) };
        let own = (divisor as u64).checked_pow(i as u32).map_or(0, |n| embed / n as usize);
        if own == 0 {
            return Err(Error::invalid("config: div_val", divisor, "leaves a cluster no width"));
        }
        let cut = |t: Tensor| -> Tensor {
            let w = t.width();
            let shape: &[usize] =
                if t.shape().len() == 1 { &[end - first] } else { &[end - first, w] };
            let step = if t.shape().len() == 1 { 1 } else { w };
            Tensor::new(shape, t.data()[from * step..][..(end - first) * step].to_vec())
        };
        let projected = divisor > 1 || embed != width;
        let shape = [width, own];
        let into = || words.tensor(&format!("emb_projs.{k}"), &shape);
        let into = projected.then(into).transpose()?;
        let table = words.tensor(&format!("emb_layers.{k}.weight"), &[rows, own])?;
        let head = weights.under("crit.");
        let out_table = match tied {
            true => table.clone(),
            false => head.tensor(&format!("out_layers.{k}.weight"), &[rows, own])?,
        };
        let out_of = match ties.get(i).and_then(|t| t.as_bool()).unwrap_or(false) {
            true => into.clone(),
            false if projected => Some(head.tensor(&format!("out_projs.{i}"), &shape)?),
            false => None,
        };
        let out_bias = head.tensor(&format!("out_layers.{k}.bias"), &[rows])?;
        clusters.push(Cluster {
            table: cut(table),
            into,
            out_table: cut(out_table),
            out_bias: cut(out_bias),
            out_of,
        });
        first = end;
    }
    Ok(clusters)
}

fn whole(x: &Tensor) -> Matrix<'_> {
    Matrix::new(x.data(), x.rows(), x.width())
}

/// The rows of two `[batch, …, width]`, one after the other.
fn rows_joined(a: &Tensor, b: &Tensor) -> Tensor {
    let (batch, width) = (b.shape()[0], b.width());
    let (rows_a, rows_b) = (a.shape()[1], b.shape()[1]);
    let mut data = Vec::with_capacity(a.data().len() + b.data().len());
    for i in 0..batch {
        data.extend_from_slice(&a.data()[i * rows_a * width..][..rows_a * width]);
        data.extend_from_slice(&b.data()[i * rows_b * width..][..rows_b * width]);
    }
    Tensor::new(&[batch, rows_a + rows_b, width], data)
}

/// The last `count` rows of each sequence.
fn last_rows(x: &Tensor, count: usize) -> Tensor {
    let (batch, rows, width) = (x.shape()[0], x.shape()[1], x.width());
    let of = |b: usize| &x.data()[((b + 1) * rows - count) * width..(b + 1) * rows * width];
    Tensor::new(&[batch, count, width], (0..batch).flat_map(of).copied().collect())
}

/// The last rows of memory and segment, as many as the memory has.
fn tail(memory: &Tensor, x: &Tensor) -> Tensor {
    last_rows(&rows_joined(memory, x), memory.shape()[1])
}
