//! ELECTRA: a generator replaces tokens, a discriminator tells which.

use super::*;
use crate::embeddings::Embeddings;
use crate::objectives::Draws;
use crate::objectives::mlm::replace_tokens;

/// One logit a token: real or replaced.
struct Judge {
    map: Linear,
    activation: Activation,
    out: Linear,
}

impl Judge {
    fn read(weights: &Weights, sizes: &Sizes) -> Result<Self> {
        let own = weights.under("discriminator_predictions.");
        Ok(Judge {
            map: Linear::read(&own, "dense", sizes.hidden, sizes.hidden)?,
            activation: sizes.activation,
            out: Linear::read(&own, "dense_prediction", sizes.hidden, 1)?,
        })
    }

    fn run(&self, h: &Tensor) -> Tensor {
        let logits = self.out.run(&self.activation.apply(self.map.run(h)));
        logits.reshape(&h.shape()[..2])
    }
}

/// One of the two networks alone.
struct One {
    network: Network,
    judge: Option<Judge>,
}

pub(crate) fn read_one(traits: &'static Traits, config: &Config, weights: &Weights) -> Built {
    let network = Network::read(traits, config, weights)?;
    let has_judge = weights.has_any("discriminator_predictions.");
    let judge = when(has_judge, || Judge::read(weights, &network.sizes))?;
    Ok(Box::new(One { network, judge }))
}

impl Member for One {
    fn forward(&self, inputs: &Inputs, device: &Device) -> Result<Outputs> {
        let states = self.network.states(inputs, device)?;
        let Some(judge) = &self.judge else { return self.network.heads(&states, inputs) };
        let mut out = Outputs::default();
        out.put_hidden_states("", &states);
        let logits = judge.run(&states[states.len() - 1]);
        if let Some(labels) = inputs.optional_ints("labels", logits.shape())? {
            out.put_scalar("loss", judged(&logits, labels, inputs)?);
        }
        out.put("logits", logits);
        Ok(out)
    }

    fn encode(&self, inputs: &Inputs, device: &Device) -> Result<Tensor> {
        self.network.encode(inputs, device)
    }
}

/// Both networks, which share their three tables.
struct Pair {
    generator: Network,
    discriminator: Network,
    judge: Judge,
    weights: [f64; 2],
}

pub(crate) fn read_pair(traits: &'static Traits, config: &Config, weights: &Weights) -> Built {
    config.only("share_embeddings", true)?;
    let [own_g, own_d] = ["generator.", "discriminator."].map(|name| weights.under(name));
    let config_g = config.part("generator")?;
    let generator = Network::read(traits, &config_g, &own_g)?;
    config_g.only("model_type", "electra")?;
    config_g.finish()?;
    let config_d = config.part("discriminator")?;
    config_d.only("model_type", "electra")?;
    let sizes = Sizes::read(traits, &config_d)?;
    let body_d = body(traits, &own_d);
    let tables = body(traits, &own_g);
    let embeddings = Embeddings::read(&sizes, sizes.words(&tables)?, &tables, &body_d)?;
    let stack = Stack::read(&sizes, &config_d, &body_d)?;
    let judge = Judge::read(&own_d, &sizes)?;
    let discriminator = Network::with_heads(sizes, embeddings, stack, &config_d, &own_d)?;
    config_d.finish()?;
    let weights = [
        config.number_or("generator_weight", 1.0)?,
        config.number_or("discriminator_weight", 50.0)?,
    ];
    Ok(Box::new(Pair { generator, discriminator, judge, weights }))
}

impl Member for Pair {
    fn forward(&self, inputs: &Inputs, device: &Device) -> Result<Outputs> {
        let mut out = Outputs::default();
        let generated = self.generator.forward(inputs, device)?;
        let logits = generated.floats("logits")?.clone();
        let loss_g = f64::from(generated.floats("loss")?.data()[0]);
        out.absorb("generator.", generated);

        let (corrupted, replaced) = self.sample(&logits, inputs)?;
        let seen = inputs.clone().ints_of("input_ids", &corrupted.shape, corrupted.data.clone());
        let states = self.discriminator.states(&seen, device)?;
        let logits = self.judge.run(&states[states.len() - 1]);
        let loss_d = judged(&logits, &replaced, inputs)?;
        out.put_hidden_states("discriminator.", &states);
        out.put("discriminator.logits", logits);
        out.put_scalar("discriminator.loss", loss_d);
        out.put_ints("discriminator.labels", replaced);
        out.put_ints("corrupted_ids", corrupted);
        out.put_scalar("loss", self.weights[0] * loss_g + self.weights[1] * loss_d);
        Ok(out)
    }
}

impl Pair {
    /// The ids with scored positions replaced by argmax(logits + gumbel), and which of all ids are
    /// not the original ones: a token drawn by luck counts as original.
    fn sample(&self, logits: &Tensor, inputs: &Inputs) -> Result<(Ints, Ints)> {
        let shape = &logits.shape()[..2];
        let labels = inputs.ints_shaped("labels", shape)?;
        let original = inputs.ints_shaped("original_ids", shape)?;
        let gumbel = Draws::new(inputs)?.gumbel("gumbel", logits.shape())?;
        let ids = inputs.ints_shaped("input_ids", shape)?;
        let noisy = ops::add(logits.clone(), &gumbel);
        let sample = |i| ops::argmax(noisy.row(i));
        let out = replace_tokens(&ids.data, &labels.data, &original.data, sample);
        Ok((Ints::new(shape, out.input_ids), Ints::new(shape, out.labels)))
    }
}

/// The mean binary cross entropy over the positions that are not padding.
fn judged(logits: &Tensor, labels: &Ints, inputs: &Inputs) -> Result<f64> {
    let valid = inputs.optional_ints("attention_mask", logits.shape())?;
    let rows = (0..logits.data().len()).filter(|&i| valid.is_none_or(|v| v.data[i] != 0));
    let losses: Vec<f64> =
        rows.map(|i| ops::binary_cross_entropy(logits.data()[i], labels.data[i] != 0)).collect();
    Ok(losses.iter().sum::<f64>() / losses.len() as f64)
}
