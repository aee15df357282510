//! UniLM: one BERT, and the mask decides what it is.

use super::*;

pub(crate) fn read(_: &'static Traits, config: &Config, weights: &Weights) -> Built {
    let network = Network::read(config, weights)?;
    member(move |inputs, device, out| {
        let allowed = allowed(inputs)?;
        let hidden = |&a: &i32| if a == 1 { 0.0 } else { f32::NEG_INFINITY };
        let [batch, length, _] = allowed.shape[..] else { unreachable!("made just above") };
        let bias = allowed.data.iter().map(hidden).collect();
        let bias = Tensor::new(&[batch, 1, length, length], bias);
        let seen = Seen::new(device, Mask { bias: Some(&bias), ..Mask::default() });
        let states = network.states_under(inputs, &seen)?;
        out.absorb("", network.heads(&states, inputs)?);
        out.put_ints("attention_mask", allowed);
        Ok(())
    })
}

/// `[batch, query, key]`, 1 where the key is seen, from each row's `mode`, length and source length.
fn allowed(inputs: &Inputs) -> Result<Ints> {
    let [batch, length] = inputs.ints("input_ids")?.sizes("input_ids")?;
    let of_rows = |name, end| inputs.ints_shaped(name, &[batch])?.indices(name, end);
    let modes = of_rows("mode", 4)?;
    let [lengths, sources] = each(["lengths", "source_lengths"], |name| of_rows(name, length + 1))?;
    let seen = |n: usize| {
        let (b, i, j) = (n / length / length, n / length % length, n % length);
        let seen = match modes[b] {
            0 => true,
            1 => j <= i,
            2 => j >= i,
            _ if i < sources[b] => j < sources[b],
            _ => j <= i,
        };
        i32::from(seen && i < lengths[b] && j < lengths[b])
    };
    Ok(Ints::new(&[batch, length, length], (0..batch * length * length).map(seen).collect()))
}
