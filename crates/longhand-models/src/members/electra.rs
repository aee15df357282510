//! ELECTRA: a generator replaces tokens, a discriminator tells which.

use super::*;
use crate::objectives::Draws;
use crate::objectives::mlm::replace_tokens;

pub(crate) fn read(_: &'static Traits, config: &Config, weights: &Weights) -> Built {
    let parts = ["generator", "discriminator"].map(|name| [name, "electra", "generator"]);
    let [generator, discriminator] = each(parts, |part| Network::part(config, weights, part))?;
    weights.shape("discriminator.discriminator_predictions.dense.weight")?;
    let weights = [("generator_weight", 1.0), ("discriminator_weight", 50.0)];
    let [weight_g, weight_d] = each(weights, |(key, default)| config.number_or(key, default))?;
    member(move |inputs, device, out| {
        let generated = generator.forward(inputs, device)?;
        let logits = generated.floats("logits")?;
        let loss_g = generated.number("loss")?;
        let (corrupted, replaced) = sample(logits, inputs)?;
        out.absorb("generator.", generated);

        let seen = inputs.clone().ints_of("input_ids", &corrupted.shape, corrupted.data.clone());
        let seen = seen.ints_of("labels", &replaced.shape, replaced.data.clone());
        let judged = discriminator.forward(&seen, device)?;
        let loss_d = judged.number("loss")?;
        out.absorb("discriminator.", judged);
        out.put_ints("discriminator.labels", replaced);
        out.put_ints("corrupted_ids", corrupted);
        out.put_scalar("loss", weight_g * loss_g + weight_d * loss_d);
        Ok(())
    })
}

/// The ids with scored positions replaced by argmax(logits + gumbel), and which of all ids are not
/// the original ones: a token drawn by luck counts as original.
fn sample(logits: &Tensor, inputs: &Inputs) -> Result<(Ints, Ints)> {
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
