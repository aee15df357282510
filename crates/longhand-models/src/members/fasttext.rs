//! fastText (Bojanowski et al., 2017): a word is the mean of its own vector and those of its
//! character n-grams, so that unknown words have vectors too.

use super::word2vec::{pooled, told};
use super::*;
use crate::objectives::fnv1a;

/// The word that ends a sentence; it has no n-grams.
const END: &str = "</s>";

pub(crate) fn read(_: &'static Traits, config: &Config, weights: &Weights) -> Built {
    let (words, queries) = (config.words("words")?, config.words("queries")?);
    let twice = |i| Error::input(format!("config: words[{i}] = {:?}: is there twice", words[i]));
    reject((0..words.len()).find(|&i| words[..i].contains(&words[i])), twice)?;
    let lengths = [config.size_or("minn", 3)?, config.size_or("maxn", 6)?];
    let bucket = config.size_or("bucket", 2_000_000)?;
    let fits = bucket > 0 || lengths[1] == 0;
    ensure(fits, "config: bucket", bucket, "must be positive for n-grams")?;
    let dim = config.positive("dim")?;
    let input = weights.tensor("input", &[words.len() + bucket, dim])?;
    let output = weights.tensor("output", &[words.len(), dim])?;
    member(move |inputs, _, out| {
        let hashes = |word: &String| -> Vec<u32> {
            let grams = if word == END { Vec::new() } else { ngrams(word, lengths) };
            grams.iter().map(|gram| fnv1a(gram.as_bytes())).collect()
        };
        // A word's own row, if it is known, and those of its n-grams.
        let rows = |(word, hashes): (&String, &Vec<u32>)| -> Vec<usize> {
            let own = words.iter().position(|known| known == word);
            let row = |&hash: &u32| words.len() + hash as usize % bucket;
            own.into_iter().chain(hashes.iter().map(row)).collect()
        };
        let all = || words.iter().chain(&queries);
        let hashes: Vec<Vec<u32>> = all().map(hashes).collect();
        let rows: Vec<Vec<usize>> = all().zip(&hashes).map(rows).collect();
        // Of no rows, zeros.
        let mean = |rows: &Vec<usize>| pooled(&input, rows, rows.len().max(1));
        let vectors = rows.iter().flat_map(mean).collect();
        let vectors = Tensor::new(&[rows.len(), dim], vectors);
        let width = rows.iter().map(Vec::len).max().unwrap_or(0);
        let padded = |rows: &Vec<usize>| {
            let row = |i| rows.get(i).map_or(-1, |&row| row as i32);
            (0..width).map(row).collect::<Vec<_>>()
        };
        let row_ids = rows.iter().flat_map(padded).collect();
        let hashes = hashes.concat();
        let half = |shift: u32| -> Ints {
            let halves = hashes.iter().map(|h| (h >> shift & 0xffff) as i32);
            Ints::new(&[hashes.len()], halves.collect())
        };
        if ["center", "target", "negatives"].iter().any(|name| inputs.has(name)) {
            out.put_scalar("loss", loss(&vectors, &output, inputs)?);
        }
        out.put_ints("row_ids", Ints::new(&[rows.len(), width], row_ids));
        out.put_ints("hashes_high16", half(16));
        out.put_ints("hashes_low16", half(0));
        out.put("vectors", vectors);
        Ok(())
    })
}

/// The n-grams of `<word>`, `[least, most]` characters long, by their start, then by length. A
/// bracket alone is none.
pub fn ngrams(word: &str, [least, most]: [usize; 2]) -> Vec<String> {
    let text = format!("<{word}>");
    let bounds: Vec<usize> = text.char_indices().map(|(i, _)| i).chain([text.len()]).collect();
    let last = bounds.len() - 1;
    let mut out = Vec::new();
    for start in 0..last {
        for length in least.max(1)..=most.min(last - start) {
            if length > 1 || start > 0 && start + 1 < last {
                out.push(text[bounds[start]..bounds[start + length]].to_owned());
            }
        }
    }
    out
}

/// Skip-gram's loss, summed: the centre with its n-grams tells the target from the negatives.
fn loss(vectors: &Tensor, output: &Tensor, inputs: &Inputs) -> Result<f64> {
    let vocab = output.rows();
    let centres = inputs.ints("center")?;
    let [count] = centres.sizes("center")?;
    let targets = inputs.ints_shaped("target", &[count])?.indices("target", vocab)?;
    let width = inputs.ints("negatives")?.shape.last().copied().unwrap_or(0);
    let negatives = inputs.ints_shaped("negatives", &[count, width])?;
    let negatives = negatives.indices("negatives", vocab)?;
    let mut loss = 0.0;
    for (i, centre) in centres.indices("center", vocab)?.into_iter().enumerate() {
        let others = &negatives[i * width..][..width];
        let [_, own] = told(vectors.row(centre), output, targets[i], others);
        loss += own;
    }
    Ok(loss)
}
