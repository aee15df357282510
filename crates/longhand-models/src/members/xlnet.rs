//! XLNet: tokens are predicted in any order, so that what a prediction reads lies on both sides. A
//! stream of contents sees itself; a stream of queries knows its place and not its token. Memory and
//! distances are Transformer-XL's.

use super::*;
use crate::attention::{Segment, relative};
use longhand::transformer_xl::bits_from_mask;
use longhand::{DType, TransformerXl, Window};

/// The attention of a layer: both streams have the same parameters.
struct Relative {
    /// Of queries, keys, values.
    projections: [Linear; 3],
    distance: Linear,
    out: Linear,
    /// For the keys, the distances, the parts.
    biases: [Tensor; 3],
    seg_embed: Tensor,
}

struct XlNet {
    words: Tensor,
    /// What a query is before it has read anything, `[1, width]`.
    query: Tensor,
    layers: Vec<Layer<Relative>>,
    head: TokenLogits,
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

/// The states that the head reads: of queries or, where there are none, of contents.
fn predicted([contents, queries]: &[Vec<Tensor>; 2]) -> &Tensor {
    queries.last().unwrap_or(&contents[contents.len() - 1])
}

pub(crate) fn read(traits: &'static Traits, config: &Config, weights: &Weights) -> Built {
    let sizes = Sizes::read(traits, config)?;
    let (width, body) = (sizes.hidden, weights.under("transformer."));
    let words = sizes.words(config, &body)?;
    let layer = |i: usize| read_layer(&sizes, &body.under(&format!("layer.{i}.")));
    let layers = (0..config.positive("num_hidden_layers")?).map(layer).collect::<Result<_>>()?;
    Ok(Box::new(XlNet {
        query: body.tensor("mask_emb", &[1, 1, width])?.reshape(&[1, width]),
        head: TokenLogits::read(&sizes, weights, &words)?,
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
        projections: each(["q", "k", "v"], |name| map(name, Order::InOut))?,
        distance: map("r", Order::InOut)?,
        out: map("o", Order::OutIn)?,
        biases: each(biases, |name| attention.tensor(name, &[count, dim]))?,
        seg_embed: attention.tensor("seg_embed", &[2, count, dim])?,
    };
    let norm = sizes.norm(&attention, "layer_norm", width)?;
    Ok(Layer { attention: Sublayer::of(relative, norm), feed: read_feed(sizes, own)? })
}

impl XlNet {
    /// A memory of nothing.
    fn start(&self, batch: usize) -> Cache {
        Cache { memory: self.memory, ..Cache::new(self.layers.len(), batch) }
    }

    /// Reads the segment whose inputs' names end in `suffix` after what the cache holds, which then
    /// holds the first `kept` positions of it too; without a number of those it is read by itself, and
    /// nothing is predicted. Gives the states of contents before each layer and after the last, `[batch,
    /// seqlen, width]`, and those of queries, `[batch, count, width]`, if there are targets.
    fn step(
        &self,
        inputs: &Inputs,
        suffix: &str,
        (cache, kept): (&mut Cache, Option<usize>),
        device: &Device,
    ) -> Result<[Vec<Tensor>; 2]> {
        let [name, at] = ["input_ids", "target_positions"].map(|name| format!("{name}{suffix}"));
        let ids = inputs.ints(&name)?;
        let shape = ids.sizes(&name)?;
        let rows = ids.indices(&name, self.words.rows())?;
        let mut segment = self.segment(inputs, suffix, cache)?;
        let targets = when(kept.is_some() && inputs.has(&at), || targets(inputs, &at, shape))?;
        segment.blocked = segment.blocked.filter(|_| kept.is_some());
        let (kept, most) = (kept.unwrap_or(0), cache.memory.unwrap_or(usize::MAX));
        let mut tables = vec![segment.distances(self.words.width())?.on(device)];
        if self.both_directions {
            let rule = "must be even: with bi_data the second half is read backwards";
            ensure(shape[0].is_multiple_of(2), "the batch", shape[0], rule)?;
            tables.push(turned_round(&tables[0]));
        }
        let mut contents = vec![ops::gather(&self.words.on(device), &rows, &ids.shape)];
        let unread =
            |at: &Ints| ops::gather(&self.query.on(device), &vec![0; at.data.len()], &at.shape);
        let mut queries: Vec<Tensor> = targets.map(unread).into_iter().collect();
        for (layer, block) in self.layers.iter().zip(&mut cache.blocks) {
            let x = &contents[contents.len() - 1];
            let a = &layer.attention.inner;
            let [to_q, to_k, to_v] = &a.projections;
            let new = [to_k.run(x), to_v.run(x)];
            let [k, v] = block.joined(new.clone());
            let r: Vec<Tensor> = tables.iter().map(|table| a.distance.run(table)).collect();
            let stream = |x: &Tensor, targets: Option<&[i32]>| {
                layer.run(Place::Post, x, |a, x| {
                    let (rows, parts) = ([&to_q.run(x), &k, &v], Some(&a.seg_embed));
                    let mixed = relative(device, &segment, rows, &r, &a.biases, parts, targets)?;
                    Ok(a.out.run(&mixed))
                })
            };
            let content = stream(x, None)?;
            contents.push(content);
            if let (Some(at), Some(query)) = (targets, queries.last()) {
                queries.push(stream(query, Some(&at.data))?);
            }
            let all = block.joined(new.map(|x| ops::cut(&x, 1, 0..kept)));
            block.own = Some(all.map(|x| ops::last_rows(&x, most)));
        }
        cache.read += kept;
        Ok([contents, queries])
    }

    /// The last states of a segment by itself: of contents, nothing predicted.
    fn alone(&self, inputs: &Inputs, suffix: &str, device: &Device) -> Result<Tensor> {
        let name = format!("input_ids{suffix}");
        let [batch, _] = inputs.ints(&name)?.sizes(&name)?;
        let nothing = (&mut self.start(batch), None);
        Ok(predicted(&self.step(inputs, suffix, nothing, device)?).clone())
    }

    /// What the positions of a segment see after what the cache holds.
    fn segment(&self, inputs: &Inputs, suffix: &str, cache: &Cache) -> Result<Segment> {
        let name = |what: &str| format!("{what}{suffix}");
        let [batch, seqlen] = inputs.ints(&name("input_ids"))?.sizes(&name("input_ids"))?;
        let memory = cache.blocks[0].rows();
        let shape = [batch, seqlen, self.heads.count, self.heads.dim];
        let problem = TransformerXl::xlnet(shape, memory, DType::F32);
        let mut problem = self.clamp_len.map_or(problem, |most| problem.clamp_len(most));
        if self.one_sided {
            problem.window = Window { left: self.same_length.then_some(memory), right: Some(0) };
        }
        let seqlen_k = memory + seqlen;
        // A memory is of the first part, and all of it is seen but padding.
        let there = |valid: Vec<u8>| {
            let mut all = behind(memory, 1, &valid, seqlen);
            for (row, padding) in all.chunks_exact_mut(seqlen_k).zip(&cache.padding) {
                row[..padding.saturating_sub(cache.read - memory).min(memory)].fill(0);
            }
            all
        };
        let bits = |hidden: Vec<u8>| bits_from_mask(&behind(memory, 0, &hidden, seqlen), seqlen_k);
        let parts = |x: &Ints| [x.data.clone(), behind(memory, 0, &x.data, seqlen)];
        let valid = inputs.optional_mask(&name("attention_mask"), &[batch, seqlen])?;
        let hidden = inputs.optional_mask(&name("perm_mask"), &[batch, seqlen, seqlen])?;
        Ok(Segment {
            problem,
            parts: inputs.optional_ints(&name("token_type_ids"), &[batch, seqlen])?.map(parts),
            key_valid: valid.map(there),
            blocked: hidden.map(bits).transpose()?,
        })
    }
}

/// The positions to predict, `[batch, count]`.
fn targets<'a>(inputs: &'a Inputs, name: &str, shape: [usize; 2]) -> Result<&'a Ints> {
    let [_, count] = inputs.ints(name)?.sizes(name)?;
    let targets = inputs.ints_shaped(name, &[shape[0], count])?;
    targets.indices(name, shape[1]).map(|_| targets)
}

/// The sinusoids of the distances turned round: sin(−x) = −sin x, cos(−x) = cos x.
fn turned_round(table: &Tensor) -> Tensor {
    let halves = ops::split_last(table, &[table.width() / 2; 2]);
    ops::concat(&[ops::scale(halves[0].clone(), -1.0), halves[1].clone()], 1)
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
        let mut memories = vec![Tensor::zeros(&[batch, 0, self.words.width()]); self.layers.len()];
        let last = format!(".{}", segments.len() - 1);
        for (s, (_, ids)) in segments.into_iter().enumerate() {
            let kept = self.reused.unwrap_or(usize::MAX).min(ids.shape[1]);
            let read = self.step(inputs, &format!(".{s}"), (&mut cache, Some(kept)), device);
            let read = read.map_err(|e| e.at(format!("segment {s}")))?;
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
                continue;
            }
            for (memory, states) in memories.iter_mut().zip(contents) {
                let all = ops::concat(&[&*memory, &ops::cut(states, 1, 0..kept)], 1);
                *memory = ops::last_rows(&all, self.memory.unwrap_or(usize::MAX));
            }
            out.put_each(format_args!("segment.{s}.mems"), &memories);
        }
        out.put("single_stream.last_hidden_state", self.alone(inputs, &last, device)?);
        Ok(out)
    }

    fn encode(&self, inputs: &Inputs, device: &Device) -> Result<Tensor> {
        self.alone(inputs, "", device)
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
        let there = |n: usize| i32::from(cache.read + n % seqlen >= cache.padding[n / seqlen]);
        let later = |n: usize| i32::from(n % seqlen >= n / seqlen % seqlen);
        let targets = (0..batch).flat_map(|_| 1..seqlen as i32).collect();
        let shape = [batch, seqlen, seqlen];
        let inputs = Inputs::new()
            .ints_of("input_ids", &shape[..2], rows)
            .ints_of("attention_mask", &shape[..2], (0..batch * seqlen).map(there).collect())
            .ints_of("perm_mask", &shape, (0..batch * seqlen * seqlen).map(later).collect())
            .ints_of("target_positions", &[batch, length], targets);
        Ok(predicted(&self.step(&inputs, "", (cache, Some(length)), device)?).clone())
    }

    fn predict(&self, states: &Tensor) -> Tensor {
        self.head.run(states)
    }
}

/// Rows of `seqlen`, each behind `memory` times `value`.
fn behind<T: Copy>(memory: usize, value: T, rows: &[T], seqlen: usize) -> Vec<T> {
    rows.chunks_exact(seqlen).flat_map(|row| [&vec![value; memory], row].concat()).collect()
}
