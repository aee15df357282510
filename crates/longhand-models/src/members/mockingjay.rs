//! Mockingjay: BERT over frames of sound instead of words; masked frames are rebuilt.

use super::*;
use longhand::transformer_xl::{SinCos, sinusoids};

pub(crate) fn read(traits: &'static Traits, config: &Config, weights: &Weights) -> Built {
    let frame = config.positive("input_dim")?;
    let mut sizes = Sizes::read(traits, config)?;
    let hidden = sizes.hidden;
    let body = weights.under("Transformer.");
    // One block's parameters, and every layer runs it: a single group.
    sizes.traits.grouped = config.flag_or("share_layer", false)?;
    let stack = Stack::read(&sizes, config, &body)?;
    let input = Linear::read(&body, "input_representations.spec_transform", frame, hidden)?;
    let input_norm = sizes.norm(&body, "input_representations.LayerNorm", hidden)?;
    let map = Linear::read(weights, "SpecHead.dense", hidden, hidden)?;
    let norm = sizes.norm(weights, "SpecHead.LayerNorm", hidden)?;
    let head = TokenLogits {
        transform: Some((map, Activation::Gelu, Some(norm))),
        decoder: Linear::read(weights, "SpecHead.output", hidden, frame)?,
        rest: None,
    };
    let squares = config.is_second("loss", ["L1", "MSE"])?;
    member(move |inputs, device, out| {
        let frames = inputs.floats("spec_masked")?;
        let [batch, length, width] = frames.sizes("spec_masked")?;
        let rule = format!("must be [batch, frames, {frame}]");
        require(width == frame, || Error::shape("spec_masked", frames.shape(), rule))?;
        let valid = inputs.optional_mask("attention_mask", &[batch, length])?;
        let positions = sinusoids(0, length, hidden, SinCos::Interleaved)?;
        let of_all = Tensor::new(&[batch, length, hidden], positions.repeat(batch));
        let x = ops::add(input.run(frames), &of_all);
        let mask = Mask::of(valid.as_deref());
        let states = stack.run(input_norm.run(x), &Seen::new(device, mask), None)?;
        let predicted = head.run(&states[states.len() - 1]);

        out.put_each("hidden_states", &states);
        if inputs.has("spec_target") {
            out.put_scalar("loss", loss(&predicted, inputs, squares)?);
        }
        out.put("position_encoding", Tensor::new(&[length, hidden], positions));
        out.put("predicted", predicted);
        Ok(())
    })
}

/// The mean over the entries that `mask_label` marks, of squares or of distances.
fn loss(predicted: &Tensor, inputs: &Inputs, squares: bool) -> Result<f64> {
    let target = inputs.floats_shaped("spec_target", predicted.shape())?;
    let marked = inputs.ints_shaped("mask_label", predicted.shape())?;
    let rows: Vec<usize> = (0..marked.data.len()).filter(|&i| marked.data[i] != 0).collect();
    let pick = |x: &Tensor| Tensor::new(&[rows.len()], rows.iter().map(|&i| x.data()[i]).collect());
    let (got, want) = (pick(predicted), pick(target));
    Ok(if squares { ops::mse(&got, &want) } else { ops::l1(&got, &want) })
}
