//! ELMo: recurrent layers in each direction over words from characters, and a mix of them.

use super::characters::{Convolutions, highway};
use super::*;

// Characters that no byte has; ids are bytes + 1, and 0 is a masked token.
const SENTENCE: [i32; 2] = [257, 258];
const WORD: [i32; 2] = [259, 260];
const PADDING: i32 = 261;

/// An LSTM cell whose state is projected, both clipped.
struct Cell {
    input: Linear,
    state: Linear,
    projection: Linear,
    /// Of memory and state.
    clips: [f32; 2],
}

impl Cell {
    fn read(own: &Weights, [width, cell]: [usize; 2], clips: [f64; 2]) -> Result<Self> {
        Ok(Cell {
            input: Linear::bare(own, "input_linearity", width, 4 * cell)?,
            state: Linear::read(own, "state_linearity", width, 4 * cell)?,
            projection: Linear::bare(own, "state_projection", cell, width)?,
            clips: clips.map(|clip| clip as f32),
        })
    }

    /// The states over the first `lengths` positions of `x` `[batch, length, in]`, in one direction;
    /// zeros at the others.
    fn run(&self, x: &Tensor, lengths: &[usize], backward: bool, device: &Device) -> Tensor {
        let &[batch, length, _] = x.shape() else { unreachable!("made by the network") };
        // The position of a step, and the step of a position. A row that has ended goes on, and nobody
        // reads it.
        let turn = |b: usize, i: usize| if backward { lengths[b].saturating_sub(1 + i) } else { i };
        let by_step = (0..length * batch).map(|i| i % batch * length + turn(i % batch, i / batch));
        let x = ops::gather(x, &by_step.collect::<Vec<_>>(), &[length * batch]);
        let of_input = self.input.run(&x);
        let (cell, width) = (of_input.width() / 4, self.projection.weight.rows());
        let (tanh, sigmoid) = (Activation::Tanh, Activation::Sigmoid);
        let mut memory = Tensor::zeros(&[batch, cell]).on(device);
        let mut h = Tensor::zeros(&[batch, width]).on(device);
        let mut states = Vec::with_capacity(length);
        for step in 0..length {
            let own = ops::cut(&of_input, 0, step * batch..(step + 1) * batch);
            let gates = ops::add(self.state.run(&h), &own);
            let [input, forget, new, output] =
                ops::split_last(&gates, &[cell; 4]).try_into().expect("four parts");
            let new = ops::multiply(sigmoid.apply(input), &tanh.apply(new));
            let old = ops::multiply(sigmoid.apply(forget), &memory);
            memory = ops::clamp(ops::add(new, &old), self.clips[0]);
            let open = ops::multiply(sigmoid.apply(output), &tanh.apply(memory.clone()));
            h = ops::clamp(self.projection.run(&open), self.clips[1]);
            states.push(h.clone());
        }
        let by_row = (0..batch * length).map(|i| turn(i / length, i % length) * batch + i / length);
        let by_row: Vec<usize> = by_row.collect();
        let states = ops::gather(&ops::concat(&states, 0), &by_row, &[batch, length]);
        ops::keep_rows(states, |i| i % length < lengths[i / length])
    }
}

pub(crate) fn read(_: &'static Traits, config: &Config, weights: &Weights) -> Built {
    let tokens = weights.under("_elmo_lstm._token_embedder.");
    let names = ["_char_embedding_weights", "char_conv_"];
    let convolutions = Convolutions::read(config, &tokens, names)?;
    let (features, width) = (convolutions.width(), config.positive("projection_dim")?);
    let both =
        |i: usize| Linear::read(&tokens, &format!("_highways._layers.{i}"), features, 2 * features);
    let highways: Vec<Linear> = (0..config.size("n_highway")?).map(both).collect::<Result<_>>()?;
    let projection = Linear::read(&tokens, "_projection", features, width)?;
    let lstm = weights.under("_elmo_lstm._elmo_lstm.");
    let sizes = [width, config.positive("cell_dim")?];
    let count = config.positive("n_layers")?;
    let clips = [config.positive_or("cell_clip", 3.0)?, config.positive_or("proj_clip", 3.0)?];
    // Forward and backward, layer by layer.
    let layer = |i: usize| -> Result<[Cell; 2]> {
        let cell = |way| Cell::read(&lstm.under(&format!("{way}_layer_{i}.")), sizes, clips);
        Ok([cell("forward")?, cell("backward")?])
    };
    let cells: Vec<[Cell; 2]> = (0..count).map(layer).collect::<Result<_>>()?;
    // A layer adds its input.
    let skips = config.flag_or("use_skip_connections", true)?;
    let one = |i: usize| weights.tensor(&format!("scalar_mix_0.scalar_parameters.{i}"), &[1]);
    let mix: Vec<Tensor> = (0..=count).map(one).collect::<Result<_>>()?;
    let mix = ops::softmax(ops::concat(&mix, 0).reshape(&[count + 1]));
    let gamma = weights.tensor("scalar_mix_0.gamma", &[1])?.data()[0];
    let words = Linear::read(weights, "softmax", width, config.positive("vocab_size")?)?;
    member(move |inputs, device, out| {
        let (ids, lengths) = with_boundaries(inputs.ints("char_ids")?)?;
        let [batch, length, _] = ids.shape[..] else { unreachable!("just made") };
        let mut x = convolutions.run(&ids, "char_ids", device)?;
        for map in &highways {
            let both = ops::split_last(&map.run(&x), &[x.width(), x.width()]);
            let changed = Activation::Relu.apply(both[0].clone());
            x = highway(both[1].clone(), &x, &changed);
        }
        let there = |i: usize| i % length < lengths[i / length];
        let token = ops::keep_rows(projection.run(&x), there).reshape(&[batch, length, width]);
        let mut streams = [token.clone(), token.clone()];
        let mut layers = vec![ops::concat(&streams, 2)];
        for (depth, cells) in cells.iter().enumerate() {
            for ((stream, cell), backward) in streams.iter_mut().zip(cells).zip([false, true]) {
                let states = cell.run(stream, &lengths, backward, device);
                // The state that is carried on is without the addition.
                *stream = if skips && depth > 0 { ops::add(states, stream) } else { states };
            }
            layers.push(ops::concat(&streams, 2));
        }
        let mut mixed = Tensor::zeros(layers[0].shape());
        for (layer, &share) in layers.iter().zip(mix.data()) {
            mixed = ops::add(mixed, &ops::scale(layer.clone(), gamma * share));
        }
        // The end of the sentence is no word.
        let is_word = |i: usize| i % (length - 2) + 2 < lengths[i / (length - 2)];
        let elmo = ops::keep_rows(ops::cut(&mixed, 1, 1..length - 1), is_word);
        if inputs.has("word_ids") {
            let told = inputs.ints_shaped("word_ids", &[batch, length])?;
            let loss = losses(&words, &streams, told, out)?;
            // Gives the mix a gradient: a hundredth of the sum of the vectors.
            let sum: f64 = elmo.data().iter().map(|&x| f64::from(x)).sum();
            out.put_scalar("loss_with_elmo_term", loss + 0.01 * sum);
        }
        out.put("elmo", elmo);
        out.put_each("layers", &layers);
        out.put("token_embedding", token);
        out.put("scalar_weights", mix.clone());
        out.put_ints("char_ids_with_boundaries", ids);
        Ok(())
    })
}

/// The next word from the forward half, the one before from the backward half; the mean of both.
fn losses(map: &Linear, streams: &[Tensor; 2], words: &Ints, out: &mut Outputs) -> Result<f64> {
    let [_, length] = words.sizes("word_ids")?;
    let vocab = map.weight.rows();
    // The stream's position `i` predicts the word at `i + by`, where both are there (not −1).
    let mean = |stream: &Tensor, by: isize| -> Result<f64> {
        let label = |i: usize| {
            let inside = (i % length).checked_add_signed(by).is_some_and(|j| j < length);
            let word = if inside { words.data[i.wrapping_add_signed(by)] } else { -1 };
            if words.data[i] < 0 || word < 0 { -100 } else { word }
        };
        let labels = Ints::new(&words.shape, (0..words.data.len()).map(label).collect());
        let bad = |x| Error::invalid("word_ids", x, format!("must be below {vocab}"));
        reject(labels.data.iter().find(|&&x| x >= vocab as i32), bad)?;
        ops::labels_loss(&map.run(stream), &labels, "word_ids")
    };
    let (forward, backward) = (mean(&streams[0], 1)?, mean(&streams[1], -1)?);
    let loss = (forward + backward) / 2.0;
    out.put_scalar("forward_loss", forward);
    out.put_scalar("backward_loss", backward);
    out.put_scalar("loss", loss);
    Ok(loss)
}

/// A begin and an end of sentence around the words of `[batch, words, characters]`, and how many
/// positions each row then has. A word of zeros alone is padding.
fn with_boundaries(ids: &Ints) -> Result<(Ints, Vec<usize>)> {
    let [batch, words, characters] = ids.sizes("char_ids")?;
    let short = || Error::shape("char_ids", &ids.shape, "must have words of 3 characters");
    require(characters >= 3, short)?;
    let boundary = |id| [vec![WORD[0], id, WORD[1]], vec![PADDING; characters - 3]].concat();
    let mut data = Vec::with_capacity(batch * (words + 2) * characters);
    let mut lengths = Vec::with_capacity(batch);
    for row in ids.data.chunks_exact(words * characters) {
        let own = row.iter().rposition(|&c| c != 0).map_or(0, |last| last / characters + 1);
        let (there, padding) = row.split_at(own * characters);
        let [begin, end] = SENTENCE.map(boundary);
        data.extend([&begin[..], there, &end, padding].concat());
        lengths.push(own + 2);
    }
    Ok((Ints::new(&[batch, words + 2, characters], data), lengths))
}
