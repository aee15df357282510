//! An encoder, and a decoder that also looks at the encoder's states: BART, MASS and T5.

use super::*;
use crate::cache::BlockCache;
use crate::embeddings::Embeddings;
use crate::generate::Generator;
use crate::names;
use crate::traits;
use longhand::full::Buckets;

/// What each side reads: ids, and positions if they are given.
const SOURCE: [&str; 2] = ["input_ids", "position_ids"];
const TARGET: [&str; 2] = ["decoder_input_ids", "decoder_positions"];

/// The head's matrix, if it is not the table of words.
const HEAD: &str = "lm_head.weight";

/// One side: what stands before the blocks, and the blocks.
struct Side {
    embeddings: Embeddings,
    stack: Stack,
    /// T5: a bias for each bucket of distances and head, used by every block.
    buckets: Option<(Buckets, Tensor)>,
}

struct Seq2Seq {
    encoder: Side,
    decoder: Side,
    head: Linear,
    /// What states are multiplied by before the head.
    head_scale: f32,
    start: i32,
    pad: i32,
}

pub(crate) fn read_bart(traits: &'static Traits, config: &Config, weights: &Weights) -> Built {
    config.ignore("num_hidden_layers");
    let scaled = config.flag_or("scale_embedding", false)?;
    let sizes = Sizes::read(traits, config)?;
    let own = body(traits, weights);
    let words = sizes.words(&own)?;
    let side = |name: &str, sizes: &Sizes| -> Result<Side> {
        let mut side = Side::read(sizes, config, &own.under(name), &words)?;
        side.embeddings.scale = if scaled { (sizes.hidden as f32).sqrt() } else { 1.0 };
        Ok(side)
    };
    let decoder = Traits { keys: &names::BART_DECODER_KEYS, ..decoder(traits) };
    // A file of the body alone has none.
    let bias = when(traits.head.bias && weights.has_any(traits.names.prefix), || {
        let bias = weights.tensor("final_logits_bias", &[1, sizes.vocab])?;
        Ok(bias.reshape(&[sizes.vocab]))
    })?;
    Ok(Box::new(Seq2Seq {
        encoder: side("encoder.", &sizes)?,
        decoder: side("decoder.", &Sizes::read(&decoder, config)?)?,
        head: Linear::of(sizes.head(weights, HEAD, &words)?, bias, Order::OutIn),
        head_scale: 1.0,
        start: config.size_or("decoder_start_token_id", 2)? as i32,
        pad: config.size_or("pad_token_id", 1)? as i32,
    }))
}

pub(crate) fn read_t5(traits: &'static Traits, config: &Config, weights: &Weights) -> Built {
    // There is no table of positions.
    config.ignore("n_positions");
    let feed = config.text_or("feed_forward_proj", "relu")?;
    let (gated, name) = feed.strip_prefix("gated-").map_or((false, &feed[..]), |rest| (true, rest));
    // In this family's configs the gate's gelu is the tanh form.
    let name = if gated && name == "gelu" { "gelu_new" } else { name };
    let unknown =
        || Error::invalid("config: feed_forward_proj", &feed, "its activation is not supported");
    let activation = Activation::named(name).ok_or_else(unknown)?;
    config.only("is_gated_act", gated)?;
    config.only("dense_act_fn", name)?;
    let num_buckets = config.positive("relative_attention_num_buckets")?;
    let max_distance = config.size_or("relative_attention_max_distance", 128)?;
    let sizes = |traits: &Traits| -> Result<Sizes> {
        let vocab = config.positive("vocab_size")?;
        Ok(Sizes { vocab, activation, gated, ..Sizes::read_blocks(traits, config)? })
    };
    let encoder = sizes(traits)?;
    let words = encoder.words(weights)?;
    let side = |name: &str, sizes: &Sizes| -> Result<Side> {
        let own = weights.under(name);
        let table = "block.0.layer.0.SelfAttention.relative_attention_bias.weight";
        let table = own.tensor(table, &[num_buckets, sizes.heads.count])?;
        let buckets = Buckets { num_buckets, max_distance, bidirectional: !sizes.traits.causal };
        Ok(Side { buckets: Some((buckets, table)), ..Side::read(sizes, config, &own, &words)? })
    };
    let own = config.has(names::T5_DECODER_KEYS.layers);
    let keys = if own { &names::T5_DECODER_KEYS } else { traits.keys };
    let decoder = Traits { keys, names: &names::T5_DECODER_NAMES, ..decoder(traits) };
    let pad = config.size_or("pad_token_id", 0)?;
    Ok(Box::new(Seq2Seq {
        head: Linear::of(encoder.head(weights, HEAD, &words)?, None, Order::OutIn),
        head_scale: if encoder.tied { (encoder.hidden as f32).powf(-0.5) } else { 1.0 },
        encoder: side("encoder.", &encoder)?,
        decoder: side("decoder.", &sizes(&decoder)?)?,
        start: config.size_or("decoder_start_token_id", pad)? as i32,
        pad: pad as i32,
    }))
}

/// The decoder's row, from the encoder's.
fn decoder(traits: &Traits) -> Traits {
    Traits { side: traits::Side::Decoder, causal: true, ..*traits }
}

impl Side {
    fn read(sizes: &Sizes, config: &Config, own: &Weights, words: &Tensor) -> Result<Self> {
        let embeddings = Embeddings::read(sizes, words.clone(), own, own)?;
        Ok(Side { embeddings, stack: Stack::read(sizes, config, own)?, buckets: None })
    }

    /// The states of the ids and positions in these inputs, after what the blocks have read before.
    fn run<'a>(
        &'a self,
        inputs: &Inputs,
        names: [&str; 2],
        mut seen: Seen<'a>,
        caches: Option<&mut Vec<BlockCache>>,
    ) -> Result<Vec<Tensor>> {
        let x = self.embeddings.run(inputs, names, seen.device)?;
        seen.mask.buckets = self.buckets.as_ref().map(|(buckets, table)| (*buckets, table));
        self.stack.read_on(x, &seen, caches)
    }

    /// `[heads, length, length]`: what the buckets add to the scores.
    fn position_bias(&self, length: usize) -> Option<Tensor> {
        let (buckets, table) = self.buckets.as_ref()?;
        let shape = [table.width(), length, length];
        let bias = |n: usize| {
            let (head, i, j) = (n / length / length, n / length % length, n % length);
            table.row(buckets.bucket(i as i64 - j as i64))[head]
        };
        Some(Tensor::new(&shape, (0..shape.iter().product()).map(bias).collect()))
    }
}

impl Generator for Seq2Seq {
    /// Prompts are what the encoder reads; the decoder begins with its start token.
    fn begin(&self, prompts: &[&[i32]], memory: Option<usize>, device: &Device) -> Begun {
        generate::keeps_all(memory)?;
        let (ids, valid) = generate::padded_after(prompts, self.pad);
        let seen = Seen::new(device, Mask::of(Some(&valid)));
        let inputs = Inputs::new().ints_of("input_ids", &ids.shape, ids.data);
        let encoded = last(self.encoder.run(&inputs, SOURCE, seen, None)?);
        let mut cache = Cache::new(self.decoder.stack.blocks.len(), prompts.len());
        cache.encoded = Some((encoded, valid));
        Ok((cache, Ints::new(&[prompts.len(), 1], vec![self.start; prompts.len()])))
    }

    fn advance(&self, ids: &Ints, cache: &mut Cache, device: &Device) -> Result<Tensor> {
        let inputs = self.decoder.embeddings.continued(TARGET, ids, cache)?;
        let memory = cache.encoded.as_ref().map(|(states, valid)| (states, Mask::of(Some(valid))));
        let seen = Seen { memory, ..Seen::new(device, Mask::default()) };
        Ok(last(self.decoder.run(&inputs, TARGET, seen, Some(&mut cache.blocks))?))
    }

    fn predict(&self, states: &Tensor) -> Tensor {
        self.head.run(&ops::scale(states.clone(), self.head_scale))
    }
}

impl Member for Seq2Seq {
    fn generator(&self) -> Option<&dyn Generator> {
        Some(self)
    }

    fn forward(&self, inputs: &Inputs, device: &Device) -> Result<Outputs> {
        let source = inputs.ints("input_ids")?;
        let valid = inputs.key_valid()?;
        let mask = Mask::of(valid.as_deref());
        let seen = Seen::new(device, mask);
        let encoded = self.encoder.run(inputs, SOURCE, seen, None)?;
        let mut out = Outputs::default();
        out.put_each("encoder.hidden_states", &encoded);

        let inputs = &match inputs.has("decoder_input_ids") {
            true => inputs.clone(),
            false => self.shifted(inputs)?,
        };
        let target = inputs.ints("decoder_input_ids")?;
        let [batch, length] = target.sizes("decoder_input_ids")?;
        let rule = format!("must be as many rows as input_ids, {}", source.shape[0]);
        let misshapen = || Error::shape("decoder_input_ids", &target.shape, rule);
        require(batch == source.shape[0], misshapen)?;
        let memory = Some((&encoded[encoded.len() - 1], mask));
        let seen = Seen { memory, ..Seen::new(device, Mask::default()) };
        let decoded = self.decoder.run(inputs, TARGET, seen, None)?;
        let logits = self.predict(&decoded[decoded.len() - 1]);
        if let Some(loss) = inputs.loss("labels", &logits, false)? {
            out.put_scalar("loss", loss);
        }
        out.put_each("decoder.hidden_states", &decoded);
        out.put("logits", logits);
        let sides =
            [("encoder", &self.encoder, source.shape[1]), ("decoder", &self.decoder, length)];
        for (name, side, length) in sides {
            if let Some(bias) = side.position_bias(length) {
                out.put(format!("{name}.position_bias"), bias);
            }
        }
        Ok(out)
    }
}

impl Seq2Seq {
    /// With the labels one place later, after the start, for the decoder; what is not scored is padding.
    fn shifted(&self, inputs: &Inputs) -> Result<Inputs> {
        let labels = inputs.ints("labels")?;
        let [_, length] = labels.sizes("labels")?;
        let mut data = labels.data.clone();
        for row in data.chunks_exact_mut(length) {
            row.rotate_right(1);
            row[0] = self.start;
            row.iter_mut().filter(|id| **id == -100).for_each(|id| *id = self.pad);
        }
        Ok(inputs.clone().ints_of("decoder_input_ids", &labels.shape, data))
    }
}
