//! GloVe (Pennington et al., 2014): vectors whose products are the logarithms of how often words
//! stand together.

use super::word2vec::floats;
use super::*;
use crate::objectives::ragged;
use std::collections::BTreeMap;

pub(crate) fn read(_: &'static Traits, config: &Config, weights: &Weights) -> Built {
    // The counts are a result, as one matrix.
    let vocab = config.size_in("vocab_size", 1..=1 << 13)?;
    let shape = [vocab, config.positive("dim")?];
    // Of words, and of words as context.
    let vectors = ["word_vectors", "context_vectors"];
    let [words, contexts] = each(vectors, |name| weights.tensor(name, &shape))?;
    let biases = ["word_bias", "context_bias"];
    let [of_word, of_context] = each(biases, |name| weights.tensor(name, &[vocab]))?;
    let window = config.positive("window")?;
    let symmetric = config.flag_or("symmetric", true)?;
    let x_max = config.number_in("x_max", 1e-9..=1e9)?;
    let alpha = config.number_or("alpha", 0.75)?;
    member(move |inputs, _, out| {
        let counts = cooccurrence(&ragged(inputs, "sentences", vocab)?, window, symmetric);
        let mut matrix = vec![0.0; vocab * vocab];
        let mut weights = Vec::with_capacity(counts.len());
        let mut loss = 0.0;
        for (&[i, j], &count) in &counts {
            matrix[i * vocab + j] = count;
            // Rare pairs count less.
            let weight = (count / x_max).powf(alpha).min(1.0);
            let biases = f64::from(of_word.data()[i]) + f64::from(of_context.data()[j]);
            let off = ops::dot(words.row(i), contexts.row(j)) + biases - count.ln();
            loss += 0.5 * weight * off * off;
            weights.push(weight);
        }
        out.put_scalar("loss", loss);
        out.put("cooccurrence", floats(&[vocab, vocab], matrix));
        out.put("weight", floats(&[weights.len()], weights));
        out.put("sum_vectors", ops::add(words.clone(), &contexts));
        Ok(())
    })
}

/// How often each word stands with each other, a distance of d counting 1/d (§4.2). The row is the
/// word, the column one to its left, and to its right too if the counts are symmetric.
fn cooccurrence(sentences: &[&[i32]], window: usize, symmetric: bool) -> BTreeMap<[usize; 2], f64> {
    let mut counts = BTreeMap::new();
    let mut count = |at: [i32; 2], distance: usize| {
        *counts.entry(at.map(|word| word as usize)).or_insert(0.0) += 1.0 / distance as f64;
    };
    for sentence in sentences {
        for (i, &word) in sentence.iter().enumerate() {
            for j in i.saturating_sub(window)..i {
                count([word, sentence[j]], i - j);
                if symmetric {
                    count([sentence[j], word], i - j);
                }
            }
        }
    }
    counts
}
