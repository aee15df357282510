//! word2vec (Mikolov et al., 2013): a word from its neighbours, told from words drawn at random.

use super::*;
use crate::objectives::{Draws, negatives, ragged};

pub(crate) fn read(traits: &'static Traits, config: &Config, weights: &Weights) -> Built {
    // One neighbour tells the word; else CBOW: all of them together.
    let skip_gram = traits.model_type == "word2vec_skipgram";
    let sizes = ["vocab_size", "dim", "window", "negative"];
    let [vocab, dim, window, negative] = each(sizes, |key| config.positive(key))?;
    // Of neighbours their mean, or their sum.
    let mean = config.size_in("cbow_mean", 0..=1)? == 1;
    // Vectors of words as neighbours, and as what is told.
    let [near, told_of] = each(["syn0", "syn1neg"], |name| weights.tensor(name, &[vocab, dim]))?;
    let exponent = config.number_or("ns_exponent", 0.75)?;
    let sample = config.number_in("sample", 0.0..=1.0)?;
    let domain = config.size_in("domain", 1..=i32::MAX as usize)?;
    member(move |inputs, _, out| {
        let draws = Draws::new(inputs)?;
        let counts = &inputs.ints_shaped("counts", &[vocab])?.data;
        let table = negatives::table(counts, exponent, domain as i32)?;
        let keep = negatives::keep_probabilities(counts, sample);
        let sentences = ragged(inputs, "sentences", vocab)?;
        let shape: [usize; 2] = inputs.ints("sentences")?.sizes("sentences")?;
        let uniforms = draws.uniforms("keep_uniforms", &shape)?;
        let reduced = draws.below("reduced_windows", &shape, window)?;
        let mut kept = vec![0; uniforms.len()];
        let mut all = Vec::new();
        for (r, sentence) in sentences.iter().enumerate() {
            let first = r * shape[1];
            let stays = |&(i, &w): &(usize, &i32)| uniforms[first + i] < keep[w as usize];
            let left: Vec<(usize, &i32)> = sentence.iter().enumerate().filter(stays).collect();
            left.iter().for_each(|(i, _)| kept[first + i] = 1);
            let words: Vec<usize> = left.iter().map(|&(_, &w)| w as usize).collect();
            // A window for each word that is left, as in the programs.
            let windows = reduced[first..].iter().map(|&less| window - less as usize);
            all.extend(examples(&words, windows, skip_gram));
        }
        let shape_n = [all.len(), negative];
        let drawn = draws.below("negative_draws", &shape_n, domain + 1)?;
        let drawn: Vec<usize> = drawn.iter().map(|&r| negatives::word(&table, r)).collect();

        let mut loss = 0.0;
        let mut scores = Vec::with_capacity(all.len());
        for ((inputs, target), negatives) in all.iter().zip(drawn.chunks(negative)) {
            let hidden = pooled(&near, inputs, if mean { inputs.len() } else { 1 });
            // The word itself may be drawn; then it counts as none.
            let others = negatives.iter().copied().filter(|word| word != target);
            let others: Vec<usize> = others.collect();
            let [score, own] = told(&hidden, &told_of, *target, &others);
            scores.push(score as f32);
            loss += own;
        }
        let ints = |x: Vec<usize>| x.into_iter().map(|x| x as i32).collect::<Vec<i32>>();
        let count = [all.len()];
        out.put_scalar("loss", loss);
        out.put_ints("cum_table", Ints::new(&[vocab], table));
        out.put("keep_probability", floats(&[vocab], keep));
        out.put_ints("kept", Ints::new(&shape, kept));
        out.put_ints("negative_ids", Ints::new(&shape_n, ints(drawn)));
        out.put("positive_scores", Tensor::new(&count, scores));
        let targets = all.iter().map(|(_, target)| *target).collect();
        out.put_ints("pair_target", Ints::new(&count, ints(targets)));
        if skip_gram {
            let inputs = all.iter().map(|(inputs, _)| inputs[0]).collect();
            out.put_ints("pair_input", Ints::new(&count, ints(inputs)));
        }
        Ok(())
    })
}

/// Words, and the one that they tell.
type Example = (Vec<usize>, usize);

/// Every word of a sentence that has neighbours in its window, behind those: one by one or together.
fn examples(words: &[usize], windows: impl Iterator<Item = usize>, alone: bool) -> Vec<Example> {
    let mut all = Vec::new();
    for (i, (&target, window)) in words.iter().zip(windows).enumerate() {
        let near = i.saturating_sub(window)..(i + window + 1).min(words.len());
        let inputs: Vec<usize> = near.filter(|&j| j != i).map(|j| words[j]).collect();
        let together = if alone { 1 } else { inputs.len().max(1) };
        all.extend(inputs.chunks(together).map(|inputs| (inputs.to_vec(), target)));
    }
    all
}

/// The score of a target against a vector, and the loss of telling it from others.
pub(crate) fn told(vector: &[f32], table: &Tensor, target: usize, others: &[usize]) -> [f64; 2] {
    let score = |word: usize| ops::dot(vector, table.row(word)) as f32;
    let others =
        others.iter().map(|&word| ops::binary_cross_entropy(score(word), false)).sum::<f64>();
    let own = score(target);
    [own.into(), ops::binary_cross_entropy(own, true) + others]
}

/// A table's rows together, over `count`; a row that is there twice counts twice.
pub(crate) fn pooled(table: &Tensor, rows: &[usize], count: usize) -> Vec<f32> {
    let sum = |e: usize| rows.iter().map(|&row| f64::from(table.row(row)[e])).sum::<f64>();
    (0..table.width()).map(|e| (sum(e) / count as f64) as f32).collect()
}

/// Numbers computed in f64, as a result.
pub(crate) fn floats(shape: &[usize], x: Vec<f64>) -> Tensor {
    Tensor::new(shape, x.into_iter().map(|x| x as f32).collect())
}
