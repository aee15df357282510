//! wav2vec 2.0: BERT over what convolutions make of sound. Masked frames are told from others by
//! which entries of a codebook they were.

mod codebooks;
mod sound;

use super::*;
use codebooks::Codebooks;
use sound::{Convolution, features, read_extractor};

pub(crate) fn read(traits: &'static Traits, config: &Config, weights: &Weights) -> Built {
    let mut sizes = Sizes::read(traits, config)?;
    let stable = config.flag_or("do_stable_layer_norm", false)?;
    sizes.traits.place = if stable { Place::Pre } else { Place::Post };
    let hidden = sizes.hidden;
    let body = sizes.names.body(weights);
    let encoder = body.under("encoder.");
    let extractor = read_extractor(config, &body.under("feature_extractor.conv_layers."))?;
    let channels = extractor.last().map_or(1, |layer| layer.channels());
    let frame_norm = sizes.norm(&body, "feature_projection.layer_norm", channels)?;
    let projection = Linear::read(&body, "feature_projection.projection", channels, hidden)?;
    // In place of a masked frame, if masks are obeyed.
    let name = "masked_spec_embed";
    let masks = config.flag_or("apply_spec_augment", true)?;
    let hole = when(body.has(name), || body.tensor(name, &[hidden]))?;
    let positional =
        Convolution::positional(config, &encoder.under("pos_conv_embed.conv."), hidden)?;
    // Before the blocks, if their norms come last.
    let norm = when(!stable, || sizes.norm(&encoder, "encoder.ln", hidden))?;
    let stack = Stack::read(&sizes, config, &encoder)?;
    let codebooks = when(weights.has_any("quantizer."), || {
        Codebooks::read(config, weights, [channels, hidden])
    })?;
    member(move |inputs, device, out| {
        let (features, there) = features(&extractor, &frame_norm, inputs, device)?;
        let there = there.as_deref();
        // The states of frames, masked ones replaced; those that are not there see nothing.
        let states = |masked: Option<&Ints>| -> Result<Vec<Tensor>> {
            let mut x = projection.run(&features);
            if let Some(masked) = masked.filter(|_| masks) {
                let absent = "mask_time_indices: the weights have no masked_spec_embed";
                let row = hole.as_ref().ok_or_else(|| Error::input(absent))?;
                x = ops::put_row(x, row.data(), |i| masked.data[i] != 0);
            }
            if let Some(there) = there {
                x = ops::keep_rows(x, |i| there[i] != 0);
            }
            // An even kernel gives a frame too many.
            x = ops::add(ops::cut(&positional.run(&x), 1, 0..x.shape()[1]), &x);
            if let Some(norm) = &norm {
                x = norm.run(x);
            }
            stack.run(x, &Seen::new(device, Mask::of(there)), None)
        };
        let masked = inputs.optional_ints("mask_time_indices", &features.shape()[..2])?;
        let all = states(masked)?;
        let contexts = &all[all.len() - 1];
        out.put_each("hidden_states", &all);
        if let Some(codebooks) = &codebooks {
            out.absorb("", codebooks.run([&features, contexts], inputs)?);
        }
        let unmasked = when(masked.is_some(), || states(None))?.map_or(contexts.clone(), last);
        out.put("unmasked.last_hidden_state", unmasked);
        out.put("extract_features", features);
        Ok(())
    })
}
