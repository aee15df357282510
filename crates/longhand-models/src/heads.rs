//! What stands on the last states: logits over the vocabulary, judgements of the whole input.

use crate::ops::{self, Activation};
use crate::parts::{Linear, Norm, NormKind, Order};
use crate::sizes::Sizes;
use crate::{Inputs, Ints, Result, Tensor, Weights, when};

/// Logits of every position: over the vocabulary, or one.
pub struct TokenLogits {
    /// A map, an activation and mostly a norm, if the head has them.
    pub transform: Option<(Linear, Activation, Option<Norm>)>,
    /// To the logits.
    pub decoder: Linear,
    /// MobileBERT: the tied table is narrower than the states; this reads the rest of them.
    pub rest: Option<Linear>,
}

impl TokenLogits {
    /// Reads the head of a row, tied to `table` or not.
    ///
    /// # Errors
    ///
    /// If a parameter is absent or misshapen.
    pub fn read(sizes: &Sizes, weights: &Weights, table: &Tensor) -> Result<Self> {
        let (traits, names, width) = (&sizes.traits, &sizes.names, sizes.width_of_tables(table));
        let transform = when(traits.head.transform, || {
            let map = names.of("cls.predictions.transform.dense");
            let map = Linear::read(weights, map, sizes.hidden, width)?;
            // A true norm even where the blocks have none.
            let norm = names.of("cls.predictions.transform.LayerNorm");
            let norm = Norm::read(weights, norm, width, NormKind::Layer, sizes.eps)?;
            Ok((map, traits.head.activation.unwrap_or(sizes.activation), Some(norm)))
        })?;
        let bias = names.of("cls.predictions.bias");
        let bias = when(traits.head.bias, || weights.tensor(bias, &[table.rows()]))?;
        let name = format!("{}.weight", names.of("cls.predictions.decoder"));
        let table = sizes.head(weights, &name, table)?;
        let decoder = Linear::of(table, bias, Order::OutIn);
        Ok(TokenLogits { transform, decoder, rest: None })
    }

    /// Reads ELECTRA's, one logit a token: real or replaced.
    ///
    /// # Errors
    ///
    /// If a parameter is absent or misshapen.
    pub fn read_judge(sizes: &Sizes, weights: &Weights) -> Result<Self> {
        let own = weights.under("discriminator_predictions.");
        let map = Linear::read(&own, "dense", sizes.hidden, sizes.hidden)?;
        let decoder = Linear::read(&own, "dense_prediction", sizes.hidden, 1)?;
        Ok(TokenLogits { transform: Some((map, sizes.activation, None)), decoder, rest: None })
    }

    /// The logits of every row of `h`.
    pub fn run(&self, h: &Tensor) -> Tensor {
        let h = match &self.transform {
            Some((map, activation, norm)) => {
                let h = activation.apply(map.run(h));
                if let Some(norm) = norm { norm.run(h) } else { h }
            }
            None => h.clone(),
        };
        let Some(rest) = &self.rest else { return self.decoder.run(&h) };
        let tied = self.decoder.weight.width();
        let halves = ops::split_last(&h, &[tied, h.width() - tied]);
        ops::add(self.decoder.run(&halves[0]), &rest.run(&halves[1]))
    }
}

/// The mean binary cross entropy of a judge's logits over the positions that are not padding.
///
/// # Errors
///
/// If the mask is misshapen.
pub fn judged(logits: &Tensor, labels: &Ints, inputs: &Inputs) -> Result<f64> {
    let valid = inputs.optional_ints("attention_mask", logits.shape())?;
    let rows = (0..logits.data().len()).filter(|&i| valid.is_none_or(|v| v.data[i] != 0));
    let losses: Vec<f64> =
        rows.map(|i| ops::binary_cross_entropy(logits.data()[i], labels.data[i] != 0)).collect();
    Ok(losses.iter().sum::<f64>() / losses.len() as f64)
}
