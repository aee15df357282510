//! From sound to frames, and from frames to what tells their places apart.

use super::*;

/// The norms of the convolutions have the library's epsilon whatever the config says.
const CONV_EPS: f64 = 1e-5;

/// A convolution, what norms it, and its activation.
pub(super) struct Convolution {
    weight: Tensor,
    bias: Option<Tensor>,
    /// Its stride, padding and groups.
    steps: [usize; 3],
    norm: Option<Norm>,
    /// The norm is over each channel's time, not over each frame's channels.
    over_time: bool,
    activation: Activation,
}

/// Reads the convolutions from sound to frames.
pub(super) fn read_extractor(config: &Config, weights: &Weights) -> Result<Vec<Convolution>> {
    let widths = config.sizes("conv_dim")?;
    let [kernels, strides] = each(["conv_kernel", "conv_stride"], |name| {
        let list = config.sizes(name)?;
        let (fits, shown) = (list.len() == widths.len(), format!("{list:?}"));
        let rule = format!("must have {} entries, as conv_dim", widths.len());
        ensure(fits, format_args!("config: {name}"), shown, rule).map(|()| list)
    })?;
    config.only("num_feat_extract_layers", widths.len())?;
    let biased = config.flag_or("conv_bias", false)?;
    let activation = config.activation_or("feat_extract_activation", "gelu")?;
    let by_frame = config.is_second("feat_extract_norm", ["group", "layer"])?;
    let layer = |i: usize| -> Result<Convolution> {
        let own = weights.under(&format!("{i}."));
        let (from, to) = (if i == 0 { 1 } else { widths[i - 1] }, widths[i]);
        let norm = || Norm::read(&own, "layer_norm", to, NormKind::Layer, CONV_EPS);
        Ok(Convolution {
            weight: own.tensor("conv.weight", &[to, from, kernels[i]])?,
            bias: when(biased, || own.tensor("conv.bias", &[to]))?,
            steps: [strides[i], 0, 1],
            norm: when(by_frame || i == 0, norm)?,
            over_time: !by_frame,
            activation,
        })
    };
    (0..widths.len()).map(layer).collect()
}

impl Convolution {
    /// Positions by a convolution over neighbouring frames; its weight is stored as a length for each
    /// place of the kernel and a direction.
    pub(super) fn positional(config: &Config, weights: &Weights, hidden: usize) -> Result<Self> {
        let kernel = config.size_or("num_conv_pos_embeddings", 128)?.max(1);
        let groups = config.size_or("num_conv_pos_embedding_groups", 16)?.max(1);
        let rule = format!("must divide hidden_size = {hidden}");
        let fits = hidden.is_multiple_of(groups);
        ensure(fits, "config: num_conv_pos_embedding_groups", groups, rule)?;
        let names = match weights.has("weight_g") {
            true => ["weight_g", "weight_v"],
            false => ["parametrizations.weight.original0", "parametrizations.weight.original1"],
        };
        let lengths = weights.tensor(names[0], &[1, 1, kernel])?;
        let directions = weights.tensor(names[1], &[hidden, hidden / groups, kernel])?;
        Ok(Convolution {
            weight: ops::weight_norm(directions, lengths.data()),
            bias: Some(weights.tensor("bias", &[hidden])?),
            steps: [1, kernel / 2, groups],
            norm: None,
            over_time: false,
            activation: config.activation_or("feat_extract_activation", "gelu")?,
        })
    }

    /// How many channels it gives.
    pub(super) fn channels(&self) -> usize {
        self.weight.shape()[0]
    }

    /// Of `[batch, length, channels]`.
    pub(super) fn run(&self, x: &Tensor) -> Tensor {
        let y = ops::conv1d(x, &self.weight, self.bias.as_ref(), self.steps);
        self.activation.apply(match &self.norm {
            None => y,
            Some(norm) if self.over_time => norm.run_over_time(&y),
            Some(norm) => norm.run(y),
        })
    }
}

/// Frames that so many samples give.
fn frames(layers: &[Convolution], samples: usize) -> usize {
    layers.iter().fold(samples, |n, layer| {
        n.checked_sub(layer.weight.width()).map_or(0, |n| n / layer.steps[0] + 1)
    })
}

/// Normed frames, `[batch, frames, channels]`, and which are there if samples are padding.
pub(super) fn features(
    layers: &[Convolution],
    norm: &Norm,
    inputs: &Inputs,
    device: &Device,
) -> Result<(Tensor, Option<Vec<u8>>)> {
    let sound = inputs.floats("input_values")?;
    let [batch, samples] = sound.sizes("input_values")?;
    let count = frames(layers, samples);
    let rule = "must hold sound for at least one frame";
    require(count > 0, || Error::shape("input_values", sound.shape(), rule))?;
    let of_row = |(b, row): (usize, &[u8])| -> Result<Vec<u8>> {
        let length = row.iter().map(|&m| usize::from(m)).sum();
        let own = frames(layers, length);
        let rule = "must leave sound for at least one frame";
        ensure(own > 0, format_args!("attention_mask[{b}]"), length, rule)?;
        Ok([vec![1; own], vec![0; count - own]].concat())
    };
    let of_rows = |mask: Vec<u8>| mask.chunks_exact(samples).enumerate().map(of_row).collect();
    let mask = inputs.optional_mask("attention_mask", &[batch, samples])?;
    let there: Option<Vec<Vec<u8>>> = mask.map(of_rows).transpose()?;
    let sound = sound.on(device).reshape(&[batch, samples, 1]);
    let features = norm.run(layers.iter().fold(sound, |x, layer| layer.run(&x)));
    Ok((features, there.map(|rows| rows.concat())))
}
