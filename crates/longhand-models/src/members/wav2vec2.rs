//! wav2vec 2.0: BERT over what convolutions make of sound. Masked frames are told from others by
//! which entries of a codebook they were.

mod codebooks;
mod sound;

use super::*;
use codebooks::{Codebooks, read_codebooks};
use sound::{Convolution, Extractor, read_extractor};

struct Wav2Vec2 {
    extractor: Extractor,
    frame_norm: Norm,
    projection: Linear,
    /// In place of a masked frame.
    masked: Option<Tensor>,
    /// Masks are obeyed.
    masks: bool,
    positional: Convolution,
    /// Before the blocks, if their norms come last.
    norm: Option<Norm>,
    stack: Stack,
    codebooks: Option<Codebooks>,
}

pub(crate) fn read(traits: &'static Traits, config: &Config, weights: &Weights) -> Built {
    config.ignore_under(&["mask_", "tdnn_", "ctc_"]);
    // Of other heads and of training. The temperature is of the gradient only: the entry that is taken
    // is the same for all.
    config.ignore(
        "adapter_kernel_size adapter_stride classifier_proj_size gumbel_temperature \
         num_adapter_layers num_negatives output_hidden_size vocab_size xvector_output_dim",
    );
    let stable = config.flag_or("do_stable_layer_norm", false)?;
    let place = if stable { Place::Pre } else { Place::Post };
    let traits = Traits { place, ..*traits };
    let sizes = Sizes::read(&traits, config)?;
    let hidden = sizes.hidden;
    let body = body(&traits, weights);
    let encoder = body.under("encoder.");
    let extractor = read_extractor(config, &body.under("feature_extractor.conv_layers."))?;
    let channels = extractor.channels();
    let name = "masked_spec_embed";
    let masked = when(body.has(name), || body.tensor(name, &[hidden]))?;
    Ok(Box::new(Wav2Vec2 {
        frame_norm: sizes.norm(&body, "feature_projection.layer_norm", channels)?,
        projection: Linear::read(&body, "feature_projection.projection", channels, hidden)?,
        masked,
        masks: config.flag_or("apply_spec_augment", true)?,
        positional: Convolution::positional(
            config,
            &encoder.under("pos_conv_embed.conv."),
            hidden,
        )?,
        norm: when(place == Place::Post, || sizes.norm(&encoder, traits.names.final_norm, hidden))?,
        stack: Stack::read(&sizes, config, &encoder)?,
        codebooks: read_codebooks(config, weights, channels, hidden)?,
        extractor,
    }))
}

impl Wav2Vec2 {
    /// The states of frames, `masked` ones replaced; those that are not there see nothing.
    fn states(
        &self,
        features: &Tensor,
        masked: Option<&Ints>,
        there: Option<&[u8]>,
        device: &Device,
    ) -> Result<Vec<Tensor>> {
        let mut x = self.projection.run(features);
        if let Some(masked) = masked.filter(|_| self.masks) {
            let absent =
                || Error::input("mask_time_indices: the weights have no masked_spec_embed");
            let row = self.masked.as_ref().ok_or_else(absent)?;
            x = ops::put_row(x, row.data(), |i| masked.data[i] != 0);
        }
        if let Some(there) = there {
            x = ops::keep_rows(x, |i| there[i] != 0);
        }
        // An even kernel gives a frame too many.
        x = ops::add(ops::first_rows(&self.positional.run(&x), x.shape()[1]), &x);
        if let Some(norm) = &self.norm {
            x = norm.run(x);
        }
        self.stack.run(x, &Seen::new(device, Mask::of(there)))
    }

    /// Normed frames, `[batch, frames, channels]`, and which are there if samples are padding.
    fn features(&self, inputs: &Inputs, device: &Device) -> Result<(Tensor, Option<Vec<u8>>)> {
        let sound = inputs.floats("input_values")?;
        let [batch, samples] = sound.sizes("input_values")?;
        let frames = self.extractor.frames(samples);
        let rule = "must hold sound for at least one frame";
        require(frames > 0, || Error::shape("input_values", sound.shape(), rule))?;
        let mut there = None;
        if let Some(mask) = inputs.optional_mask("attention_mask", &[batch, samples])? {
            let mut valid = Vec::with_capacity(batch * frames);
            for (b, row) in mask.chunks_exact(samples).enumerate() {
                let length = row.iter().map(|&m| usize::from(m)).sum();
                let own = self.extractor.frames(length);
                let rule = "must leave sound for at least one frame";
                ensure(own > 0, format_args!("attention_mask[{b}]"), length, rule)?;
                valid.extend((0..frames).map(|i| u8::from(i < own)));
            }
            there = Some(valid);
        }
        Ok((self.frame_norm.run(self.extractor.run(&sound.on(device))), there))
    }
}

impl Member for Wav2Vec2 {
    fn forward(&self, inputs: &Inputs, device: &Device) -> Result<Outputs> {
        let mut out = Outputs::default();
        let (features, there) = self.features(inputs, device)?;
        let there = there.as_deref();
        let masked = inputs.optional_ints("mask_time_indices", &features.shape()[..2])?;
        let states = self.states(&features, masked, there, device)?;
        let last = &states[states.len() - 1];
        out.put_each("hidden_states", &states);
        if let Some(codebooks) = &self.codebooks {
            out.absorb("", codebooks.run(&features, last, inputs)?);
        }
        let unmasked = match masked {
            Some(_) => crate::stack::last(self.states(&features, None, there, device)?),
            None => last.clone(),
        };
        out.put("unmasked.last_hidden_state", unmasked);
        out.put("extract_features", features);
        Ok(out)
    }
}
