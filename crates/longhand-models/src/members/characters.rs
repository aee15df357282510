//! Words from characters: convolutions of several widths, the largest of each filter, highways.
//! Kim et al.'s network is this and nothing else; ELMo's begins with it.

use super::*;

/// Character vectors, convolved, the largest over the word.
pub(crate) struct Convolutions {
    table: Tensor,
    filters: Vec<(Tensor, Tensor)>,
    activation: Activation,
    /// The activation comes before the largest is taken, not after.
    first: bool,
}

impl Convolutions {
    /// Reads filters `<name>i`, of the widths and counts in the config.
    pub(crate) fn read(config: &Config, weights: &Weights, names: [&str; 2]) -> Result<Self> {
        let [table, filter] = names;
        let width = config.positive("char_dim")?;
        let table = weights.tensor(table, &[config.positive("n_chars")?, width])?;
        let activation = config.activation_or("conv_activation", "tanh")?;
        let rule = "must be a list of [width, count]";
        let filters = config.list("filters", rule, |pair| {
            let [width, count] = serde_json::from_value(pair.clone()).ok()?;
            let fits = (1..1_000).contains(&width) && (1..1_000_000).contains(&count);
            fits.then_some([width, count])
        })?;
        let read = |(i, &[of, count]): (usize, &[usize; 2])| {
            let weight = weights.tensor(&format!("{filter}{i}.weight"), &[count, width, of])?;
            Ok((weight, weights.tensor(&format!("{filter}{i}.bias"), &[count])?))
        };
        let filters = filters.iter().enumerate().map(read).collect::<Result<_>>()?;
        Ok(Convolutions { table, filters, activation, first: false })
    }

    /// Filters of all widths.
    pub(crate) fn width(&self) -> usize {
        self.filters.iter().map(|(_, bias)| bias.width()).sum()
    }

    /// The features of each word of `[…, characters]`, one a row.
    pub(crate) fn run(&self, ids: &Ints, name: &str, device: &Device) -> Result<Tensor> {
        let length = ids.shape.last().copied().unwrap_or(0);
        let widest = self.filters.iter().map(|(w, _)| w.width()).max().unwrap_or(1);
        let rule = format!("the widest filter needs {widest} characters a word");
        let fits = length >= widest && !ids.data.is_empty();
        require(fits, || Error::shape(name, &ids.shape, rule))?;
        let rows = ids.indices(name, self.table.rows())?;
        let words = rows.len() / length;
        let x = ops::gather(&self.table.on(device), &rows, &[words, length]);
        let feature = |(weight, bias): &(Tensor, Tensor)| {
            let y = ops::conv1d(&x, weight, Some(bias), [1, 0, 1]);
            match self.first {
                true => ops::max_over_length(&self.activation.apply(y)),
                false => self.activation.apply(ops::max_over_length(&y)),
            }
        };
        Ok(ops::concat(&self.filters.iter().map(feature).collect::<Vec<_>>(), 1))
    }
}

/// `gate · a + (1 − gate) · b`, with `gate` before its sigmoid. Gradients: by the product rule.
pub(crate) fn highway(gate: Tensor, a: &Tensor, b: &Tensor) -> Tensor {
    let apart = ops::add(ops::scale(b.clone(), -1.0), a);
    ops::add(ops::multiply(Activation::Sigmoid.apply(gate), &apart), b)
}

pub(crate) fn read(_: &'static Traits, config: &Config, weights: &Weights) -> Built {
    let names = ["char_embeddings.weight", "conv."];
    let convolutions = Convolutions { first: true, ..Convolutions::read(config, weights, names)? };
    let width = convolutions.width();
    // Transform and gate.
    let maps = |i: usize| {
        let own = weights.under(&format!("highway.{i}."));
        each(["transform", "gate"], |name| Linear::read(&own, name, width, width))
    };
    let count = config.size("n_highway")?;
    let highways: Vec<[Linear; 2]> = (0..count).map(maps).collect::<Result<_>>()?;
    let activation = config.activation_or("highway_activation", "relu")?;
    member(move |inputs, device, out| {
        let ids = inputs.ints("char_ids")?;
        let features = convolutions.run(ids, "char_ids", device)?;
        let mut x = features.clone();
        for [transform, gate] in &highways {
            let changed = activation.apply(transform.run(&x));
            x = highway(gate.run(&x), &changed, &x);
        }
        let shape = [&ids.shape[..ids.shape.len() - 1], &[x.width()]].concat();
        if inputs.has("cotangent") {
            let cotangent = inputs.floats_shaped("cotangent", &shape)?;
            out.put_scalar("loss", ops::dot(x.data(), cotangent.data()));
        }
        out.put("conv_features", features.reshape(&shape));
        out.put("embeddings", x.reshape(&shape));
        Ok(())
    })
}
