//! XLNet: tokens are predicted in any order, so that what a prediction reads lies on both sides. A
//! stream of contents sees itself; a stream of queries knows its place and not its token. Memory and
//! distances are Transformer-XL's.

use super::*;
use crate::attention::{self, StreamMask, distances};
use crate::generate::Generator;
use longhand::Window;
use longhand::transformer_xl::bits_from_mask;

/// The attention of a layer: both streams have the same parameters.
struct Relative {
    query: Linear,
    key: Linear,
    value: Linear,
    distance: Linear,
    out: Linear,
    /// For the keys, the distances, the parts.
    biases: [Tensor; 3],
    seg_embed: Tensor,
}

/// A model with two streams and a memory.
pub struct XlNet {
    words: Tensor,
    /// What a query is before it has read anything, `[1, width]`.
    query: Tensor,
    layers: Vec<Layer<Relative>>,
    head: Linear,
    heads: Heads,
    /// No position sees a later one.
    one_sided: bool,
    /// A position sees as far back as the memory is long.
    same_length: bool,
    clamp_len: Option<usize>,
    /// The second half of a batch is read backwards.
    both_directions: bool,
    remembers: bool,
    /// Positions of the memory; all, where there is no number.
    memory: Option<usize>,
    /// Positions of a segment that enter it, from its beginning.
    reused: Option<usize>,
}

/// One segment as it is read. Shapes are `[batch, seqlen]` unless said.
#[derive(Default)]
pub struct Segment {
    /// Which parts (sentences) the tokens are of.
    pub parts: Option<Vec<i32>>,
    /// 1 for a token that is there.
    pub valid: Option<Vec<u8>>,
    /// `[batch, seqlen, seqlen]`, 1 where the first position must not see the second.
    pub blocked: Option<Vec<u8>>,
    /// `[batch, count]`: positions to predict.
    pub targets: Option<Ints>,
}

impl Segment {
    /// The inputs of a segment of this shape, whose names end in `suffix`.
    fn of(inputs: &Inputs, suffix: &str, ids: &Ints) -> Result<Self> {
        let &[batch, seqlen] = &ids.shape[..] else { return Ok(Segment::default()) };
        let name = |what: &str| format!("{what}{suffix}");
        let parts = inputs.optional_ints(&name("token_type_ids"), &ids.shape)?;
        let targets = name("target_positions");
        Ok(Segment {
            parts: parts.map(|parts| parts.data.clone()),
            valid: inputs.optional_mask(&name("attention_mask"), &ids.shape)?,
            blocked: inputs.optional_mask(&name("perm_mask"), &[batch, seqlen, seqlen])?,
            targets: when(inputs.has(&targets), || inputs.ints(&targets).cloned())?,
        })
    }
}

/// The states that the head reads: of queries or, where there are none, of contents.
fn predicted([contents, queries]: &[Vec<Tensor>; 2]) -> &Tensor {
    queries.last().unwrap_or(&contents[contents.len() - 1])
}

pub(crate) fn read(traits: &'static Traits, config: &Config, weights: &Weights) -> Built {
    // The biases are in each layer's parameters whether they are one or many.
    config.ignore("untie_r use_mems_train start_n_top end_n_top mode");
    let sizes = Sizes::read(traits, config)?;
    let (width, vocab) = (sizes.hidden, config.positive("vocab_size")?);
    let body = weights.under("transformer.");
    let words = body.tensor("word_embedding.weight", &[vocab, width])?;
    let table = sizes.head(weights, "lm_loss.weight", &words)?;
    let layer = |i: usize| read_layer(&sizes, &body.under(&format!("layer.{i}.")));
    let layers = (0..sizes.layers).map(layer).collect::<Result<_>>()?;
    Ok(Box::new(XlNet {
        query: body.tensor("mask_emb", &[1, 1, width])?.reshape(&[1, width]),
        head: Linear::of(table, Some(weights.tensor("lm_loss.bias", &[vocab])?), Order::OutIn),
        words,
        layers,
        heads: sizes.heads,
        one_sided: config.is_second("attn_type", ["bi", "uni"])?,
        same_length: config.flag_or("same_length", false)?,
        clamp_len: config.length("clamp_len")?,
        both_directions: config.flag_or("bi_data", false)?,
        remembers: config.flag_or("use_mems_eval", true)?,
        memory: config.optional_size("mem_len")?.filter(|&n| n > 0),
        reused: config.optional_size("reuse_len")?.filter(|&n| n > 0),
    }))
}

fn read_layer(sizes: &Sizes, own: &Weights) -> Result<Layer<Relative>> {
    let attention = own.under("rel_attn.");
    let (width, count, dim) = (sizes.hidden, sizes.heads.count, sizes.heads.dim);
    let map = |name: &str, order: Order| -> Result<Linear> {
        let matrix = attention.tensor(name, &[width, count, dim])?;
        Ok(Linear::of(matrix.reshape(&[width, count * dim]), None, order))
    };
    let biases = ["r_w_bias", "r_r_bias", "r_s_bias"];
    let relative = Relative {
        query: map("q", Order::InOut)?,
        key: map("k", Order::InOut)?,
        value: map("v", Order::InOut)?,
        distance: map("r", Order::InOut)?,
        out: map("o", Order::OutIn)?,
        biases: each(biases, |name| attention.tensor(name, &[count, dim]))?,
        seg_embed: attention.tensor("seg_embed", &[2, count, dim])?,
    };
    Ok(Layer {
        attention: Sublayer::of(relative, sizes.norm(&attention, "layer_norm", width)?),
        feed: read_feed(sizes, own, ["ff.layer_1", "ff.layer_2"], "ff.layer_norm")?,
    })
}

impl XlNet {
    /// A memory of nothing.
    pub fn start(&self, batch: usize) -> Cache {
        Cache { memory: self.memory, ..Cache::new(self.layers.len(), batch) }
    }

    /// Reads a segment after what the cache holds, which then holds the first `kept` positions of it
    /// too. Gives the states of contents before each layer and after the last, `[batch, seqlen,
    /// width]`, and those of queries, `[batch, count, width]`, if there are targets.
    ///
    /// # Errors
    ///
    /// If an id or a position is out of range, or an input misshapen.
    pub fn step(
        &self,
        (name, ids): (&str, &Ints),
        segment: &Segment,
        (cache, kept): (&mut Cache, usize),
        device: &Device,
    ) -> Result<[Vec<Tensor>; 2]> {
        let [batch, seqlen] = ids.sizes(name)?;
        let rows = ids.indices(name, self.words.rows())?;
        let mask = self.mask(segment, ids, cache)?;
        let tables = self.distances([batch, seqlen, mask.memory])?;
        let tables: Vec<Tensor> = tables.iter().map(|table| table.on(device)).collect();
        let targets = segment.targets.as_ref().map(|t| (&t.data[..], &t.shape[..]));
        let mut contents = vec![ops::gather(&self.words.on(device), &rows, &ids.shape)];
        let mut queries: Vec<Tensor> = Vec::new();
        if let Some((at, shape)) = targets {
            queries.push(ops::gather(&self.query.on(device), &vec![0; at.len()], shape));
        }
        for (layer, block) in self.layers.iter().zip(&mut cache.blocks) {
            let x = &contents[contents.len() - 1];
            let a = &layer.attention.inner;
            let new = [a.key.run(x), a.value.run(x)];
            let [k, v] = block.joined(new.clone());
            let r: Vec<Tensor> = tables.iter().map(|table| a.distance.run(table)).collect();
            let stream = |x: &Tensor, targets: Option<&[i32]>| {
                layer.run(Place::Post, x, |a, x| {
                    let (rows, own) = ([&a.query.run(x), &k, &v], (&a.biases, &a.seg_embed));
                    let mixed =
                        attention::stream(device, &self.heads, rows, &r, own, &mask, targets)?;
                    Ok(a.out.run(&mixed))
                })
            };
            let content = stream(x, None)?;
            contents.push(content);
            if let (Some((at, _)), Some(query)) = (targets, queries.last()) {
                queries.push(stream(query, Some(at))?);
            }
            let [k, v] = block.joined(new.map(|x| ops::first_rows(&x, kept)));
            block.own = Some([newest(&k, cache.memory), newest(&v, cache.memory)]);
        }
        cache.read += kept;
        Ok([contents, queries])
    }

    /// The last states of a segment by itself: of contents, nothing predicted.
    fn alone(&self, named: (&str, &Ints), segment: Segment, device: &Device) -> Result<Tensor> {
        let segment = Segment { blocked: None, targets: None, ..segment };
        let nothing = (&mut self.start(named.1.shape[0]), 0);
        Ok(predicted(&self.step(named, &segment, nothing, device)?).clone())
    }

    /// The sinusoids of the distances; for a batch of both directions, those of the second half are
    /// turned round.
    fn distances(&self, [batch, seqlen, memory]: [usize; 3]) -> Result<Vec<Tensor>> {
        let width = self.words.width();
        let table = distances([memory, seqlen, width], self.clamp_len)?;
        if !self.both_directions {
            return Ok(vec![table]);
        }
        let rule = "must be even: with bi_data the second half is read backwards";
        ensure(batch.is_multiple_of(2), "the batch", batch, rule)?;
        // sin(−x) = −sin x, cos(−x) = cos x.
        let mut turned = table.clone();
        for row in turned.data_mut().chunks_exact_mut(width) {
            row[..width / 2].iter_mut().for_each(|sin| *sin = -*sin);
        }
        Ok(vec![table, turned])
    }

    fn mask(&self, segment: &Segment, ids: &Ints, cache: &Cache) -> Result<StreamMask> {
        let (batch, seqlen) = (ids.shape[0], ids.shape[1]);
        let memory = cache.blocks[0].rows();
        if let Some(targets) = &segment.targets {
            let [rows, _] = targets.sizes("target_positions")?;
            let rule = format!("must be {batch} rows, as of input_ids");
            ensure(rows == batch, "rows of target_positions", rows, rule)?;
            targets.indices("target_positions", seqlen)?;
        }
        let back = Window { left: self.same_length.then_some(memory), right: Some(0) };
        let window = if self.one_sided { back } else { Window::FULL };
        let seqlen_k = memory + seqlen;
        // A memory is of the first part, and all of it is seen but padding.
        let there = |valid: &Vec<u8>| {
            let mut all = behind(memory, 1, valid, seqlen);
            for (row, padding) in all.chunks_exact_mut(seqlen_k).zip(&cache.padding) {
                row[..padding.saturating_sub(cache.read - memory).min(memory)].fill(0);
            }
            all
        };
        let bits = |blocked| bits_from_mask(&behind(memory, 0, blocked, seqlen), seqlen_k);
        let parts = |x: &Vec<i32>| [x.clone(), behind(memory, 0, x, seqlen)];
        Ok(StreamMask {
            memory,
            window,
            clamp_len: self.clamp_len,
            parts: segment.parts.as_ref().map(parts),
            key_valid: segment.valid.as_ref().map(there),
            blocked: segment.blocked.as_deref().map(bits).transpose()?,
        })
    }
}

impl Member for XlNet {
    fn generator(&self) -> Option<&dyn Generator> {
        Some(self)
    }

    /// Segments `input_ids.0`, `input_ids.1`, … one after another; then the last one once more by
    /// itself, as for fine-tuning.
    fn forward(&self, inputs: &Inputs, device: &Device) -> Result<Outputs> {
        let mut out = Outputs::default();
        let segments = inputs.segments()?;
        let batch = segments[0].1.shape[0];
        let mut cache = self.start(batch);
        let empty = Tensor::zeros(&[batch, 0, self.words.width()]);
        let mut memories = vec![empty; self.layers.len()];
        let last = segments.len() - 1;
        for (s, (name, ids)) in segments.into_iter().enumerate() {
            let at = |e: Error| e.at(format!("segment {s}"));
            let segment = Segment::of(inputs, &format!(".{s}"), ids).map_err(at)?;
            let kept = self.reused.unwrap_or(usize::MAX).min(ids.shape[1]);
            let read = self.step((&name, ids), &segment, (&mut cache, kept), device).map_err(at)?;
            let [contents, queries] = &read;
            let logits = self.head.run(predicted(&read));
            if let Some(loss) = inputs.loss(&format!("labels.{s}"), &logits, false)? {
                out.put_scalar(format!("segment.{s}.loss"), loss);
            }
            out.put(format!("segment.{s}.logits"), logits);
            out.put_each(format_args!("segment.{s}.hidden_states_h"), contents);
            out.put_each(format_args!("segment.{s}.hidden_states_g"), queries);
            if !self.remembers {
                cache = self.start(batch);
            } else {
                for (memory, states) in memories.iter_mut().zip(contents) {
                    let all = ops::join_rows(memory, &ops::first_rows(states, kept));
                    *memory = newest(&all, self.memory);
                }
                out.put_each(format_args!("segment.{s}.mems"), &memories);
            }
            if s == last {
                let alone = self.alone((&name, ids), segment, device)?;
                out.put("single_stream.last_hidden_state", alone);
            }
        }
        Ok(out)
    }

    fn encode(&self, inputs: &Inputs, device: &Device) -> Result<Tensor> {
        let ids = inputs.ints("input_ids")?;
        ids.sizes::<2>("input_ids")?;
        self.alone(("input_ids", ids), Segment::of(inputs, "", ids)?, device)
    }
}

impl Generator for XlNet {
    fn begin(&self, prompts: &[&[i32]], memory: Option<usize>, _: &Device) -> Begun {
        let message = "bi_data reads half of a batch backwards: nothing follows its end";
        require(!self.both_directions, || Error::declined(message))?;
        let (ids, padding) = generate::padded_before(prompts, 0);
        let start = self.start(prompts.len());
        Ok((Cache { padding, memory: memory.or(self.memory), ..start }, ids))
    }

    /// Tokens are read in their order: each sees those up to itself, and a query at the place after
    /// it sees the same.
    fn advance(&self, ids: &Ints, cache: &mut Cache, device: &Device) -> Result<Tensor> {
        let [batch, length] = ids.sizes("input_ids")?;
        // One position more, the last query's place: what stands there is seen by nobody.
        let seqlen = length + 1;
        let rows = ids.data.chunks_exact(length).flat_map(|row| [row, &[0]].concat()).collect();
        let there = |n: usize| u8::from(cache.read + n % seqlen >= cache.padding[n / seqlen]);
        let later = |n: usize| u8::from(n % seqlen >= n / seqlen % seqlen);
        let targets = (0..batch).flat_map(|_| 1..seqlen as i32).collect();
        let segment = Segment {
            parts: None,
            valid: Some((0..batch * seqlen).map(there).collect()),
            blocked: Some((0..batch * seqlen * seqlen).map(later).collect()),
            targets: Some(Ints::new(&[batch, length], targets)),
        };
        let ids = Ints::new(&[batch, seqlen], rows);
        let read = self.step(("input_ids", &ids), &segment, (cache, length), device)?;
        Ok(predicted(&read).clone())
    }

    fn predict(&self, states: &Tensor) -> Tensor {
        self.head.run(states)
    }
}

/// Rows of `seqlen`, each behind `memory` times `value`.
fn behind<T: Copy>(memory: usize, value: T, rows: &[T], seqlen: usize) -> Vec<T> {
    rows.chunks_exact(seqlen).flat_map(|row| [&vec![value; memory], row].concat()).collect()
}

/// The last rows, as many as are kept at most.
fn newest(x: &Tensor, most: Option<usize>) -> Tensor {
    let rows = x.shape()[1];
    ops::last_rows(x, most.unwrap_or(rows).min(rows))
}
