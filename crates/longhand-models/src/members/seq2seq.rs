//! An encoder, and a decoder that also looks at the encoder's states: BART, MASS and T5.

use super::*;
use crate::sizes::heads;
use crate::traits::Side;
use longhand::full::Buckets;

struct Seq2Seq {
    encoder: Network,
    decoder: Network,
    /// What states are multiplied by before the head.
    head_scale: f32,
    start: i32,
}

pub(crate) fn read_bart(traits: &'static Traits, config: &Config, weights: &Weights) -> Built {
    let mut encoder = Sizes::read(traits, config)?;
    // Its bias has a shape of its own, and a file of the body alone has none.
    encoder.traits.head.bias = false;
    let is_biased = traits.head.bias && weights.has_any(encoder.names.of("bert."));
    let decoder = Sizes {
        layers: config.size("decoder_layers")?,
        heads: heads(traits, config, encoder.hidden, "decoder_attention_heads")?,
        inner: config.positive("decoder_ffn_dim")?,
        ..encoder.clone()
    };
    let scaled = config.flag_or("scale_embedding", false)?;
    let scale = if scaled { (encoder.hidden as f32).sqrt() } else { 1.0 };
    let mut model = read([encoder, decoder], config, weights, |side, _| {
        side.embeddings.scale = scale;
        Ok(())
    })?;
    if let (Some(head), true) = (&mut model.decoder.head, is_biased) {
        let vocab = head.decoder.weight.rows();
        let bias = weights.tensor("final_logits_bias", &[1, vocab])?;
        head.decoder.bias = Some(bias.reshape(&[vocab]));
    }
    Ok(Box::new(model))
}

pub(crate) fn read_t5(traits: &'static Traits, config: &Config, weights: &Weights) -> Built {
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
    let encoder = Sizes { activation, gated, ..Sizes::read(traits, config)? };
    let decoder = Sizes {
        layers: config.size_or("num_decoder_layers", encoder.layers)?,
        names: config.parameters("decoder"),
        ..encoder.clone()
    };
    let head_scale = if encoder.tied { (encoder.hidden as f32).powf(-0.5) } else { 1.0 };
    let model = read([encoder, decoder], config, weights, |side, own| {
        let (heads, bidirectional) = (side.sizes.heads.count, !side.sizes.traits.causal);
        let table = "block.0.layer.0.SelfAttention.relative_attention_bias.weight";
        let table = own.tensor(table, &[num_buckets, heads])?;
        side.stack.buckets = Some((Buckets { num_buckets, max_distance, bidirectional }, table));
        Ok(())
    })?;
    Ok(Box::new(Seq2Seq { head_scale, ..model }))
}

/// Both sides over the same words, each as `finish` completes it, and the head.
fn read(
    [encoder, mut decoder]: [Sizes; 2],
    config: &Config,
    weights: &Weights,
    finish: impl Fn(&mut Network, &Weights) -> Result<()>,
) -> Result<Seq2Seq> {
    decoder.traits = Traits { side: Side::Decoder, causal: true, ..decoder.traits };
    let body = encoder.names.body(weights);
    let words = encoder.words(config, &body)?;
    let head = TokenLogits::read(&encoder, weights, &words)?;
    let [encoder, mut decoder] = each([encoder, decoder], |sizes| {
        let own = body.under(if sizes.traits.causal { "decoder." } else { "encoder." });
        let embeddings = Embeddings::read(&sizes, config, words.clone(), &own, &own)?;
        let stack = Stack::read(&sizes, config, &own)?;
        let mut side = Network::of(sizes, embeddings, stack);
        finish(&mut side, &own).map(|()| side)
    })?;
    decoder.embeddings.inputs = ["decoder_input_ids", "decoder_positions"];
    decoder.head = Some(head);
    let start = config.size_or("decoder_start_token_id", encoder.embeddings.pad)? as i32;
    Ok(Seq2Seq { encoder, decoder, head_scale: 1.0, start })
}

impl Generator for Seq2Seq {
    /// Prompts are what the encoder reads; the decoder begins with its start token.
    fn begin(&self, prompts: &[&[i32]], memory: Option<usize>, device: &Device) -> Begun {
        generate::keeps_all(memory)?;
        let (ids, valid) = generate::padded_after(prompts, self.encoder.embeddings.pad as i32);
        let seen = Seen::new(device, Mask::of(Some(&valid)));
        let inputs = Inputs::new().ints_of("input_ids", &ids.shape, ids.data);
        let encoded = last(self.encoder.states_under(&inputs, &seen)?);
        let mut cache = Cache::new(self.decoder.stack.blocks.len(), prompts.len());
        cache.encoded = Some((encoded, valid));
        Ok((cache, Ints::new(&[prompts.len(), 1], vec![self.start; prompts.len()])))
    }

    fn advance(&self, ids: &Ints, cache: &mut Cache, device: &Device) -> Result<Tensor> {
        self.decoder.advance(ids, cache, device)
    }

    fn predict(&self, states: &Tensor) -> Tensor {
        self.decoder.predict(&ops::scale(states.clone(), self.head_scale))
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
        let encoded = self.encoder.states_under(inputs, &Seen::new(device, mask))?;
        let mut out = Outputs::default();
        out.put_each("encoder.hidden_states", &encoded);

        let inputs = &match inputs.has("decoder_input_ids") {
            true => inputs.clone(),
            false => shifted(inputs, self.start, self.encoder.embeddings.pad as i32)?,
        };
        let [_, length] = inputs.ints("decoder_input_ids")?.sizes("decoder_input_ids")?;
        inputs.ints_shaped("decoder_input_ids", &[source.shape[0], length])?;
        let memory = Some((&encoded[encoded.len() - 1], mask));
        let seen = Seen { memory, ..Seen::new(device, Mask::default()) };
        let decoded = self.decoder.states_under(inputs, &seen)?;
        let logits = self.predict(&decoded[decoded.len() - 1]);
        if let Some(loss) = inputs.loss("labels", &logits, false)? {
            out.put_scalar("loss", loss);
        }
        out.put_each("decoder.hidden_states", &decoded);
        out.put("logits", logits);
        let sides =
            [("encoder", &self.encoder, source.shape[1]), ("decoder", &self.decoder, length)];
        for (name, side, length) in sides {
            let Some((buckets, table)) = &side.stack.buckets else { continue };
            // `[heads, length, length]`: what they add to the scores.
            let shape = [table.width(), length, length];
            let bias = |n: usize| {
                let distance = (n / length % length) as i64 - (n % length) as i64;
                table.row(buckets.bucket(distance))[n / length / length]
            };
            let bias = Tensor::new(&shape, (0..shape.iter().product()).map(bias).collect());
            out.put(format!("{name}.position_bias"), bias);
        }
        Ok(out)
    }
}

/// With the labels one place later, after the start, for the decoder; what is not scored is padding.
fn shifted(inputs: &Inputs, start: i32, pad: i32) -> Result<Inputs> {
    let labels = inputs.ints("labels")?;
    let [_, length] = labels.sizes("labels")?;
    let mut data = labels.data.clone();
    for row in data.chunks_exact_mut(length) {
        row.rotate_right(1);
        row[0] = start;
    }
    data.iter_mut().filter(|id| **id == -100).for_each(|id| *id = pad);
    Ok(inputs.clone().ints_of("decoder_input_ids", &labels.shape, data))
}
