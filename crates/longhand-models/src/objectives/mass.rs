//! One masked span: MASS (Song et al., 2019, §3.1), as its published data program does it.

use super::*;
use crate::objectives::mlm::Actions;
use std::ops::Range;

/// A sentence, its span taken from the encoder and given to the decoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Masked {
    /// What the encoder reads, `[length]`.
    pub source: Vec<i32>,
    /// What the decoder reads: the span one place to the left, `[span]`.
    pub decoder_input_ids: Vec<i32>,
    /// Where that stood, `[span]`.
    pub decoder_positions: Vec<i32>,
    /// What it writes, `[span]`.
    pub target: Vec<i32>,
}

/// Tokens in the span: ⌊(length − 1) · ratio⌋. The first token is never in it.
pub fn span_length(length: usize, ratio: f64) -> usize {
    (length.saturating_sub(1) as f64 * ratio) as usize
}

/// The span of `count` tokens that a draw chooses, each place equally likely.
pub fn span(length: usize, count: usize, uniform: f64) -> Range<usize> {
    let start = 1 + (uniform * (length - count) as f64) as usize;
    start..start + count
}

/// Masks the span for the encoder: of ten tokens eight are masked, one stays, one is random.
pub fn mask_span(tokens: &[i32], span: Range<usize>, mask_id: i32, actions: Actions<'_>) -> Masked {
    let mut source = tokens.to_vec();
    for i in span.clone() {
        match actions.uniforms[i] {
            u if u < 0.8 => source[i] = mask_id,
            u if u < 0.9 => {}
            _ => source[i] = actions.random_tokens[i],
        }
    }
    let before = span.start - 1..span.end - 1;
    Masked {
        source,
        decoder_input_ids: tokens[before.clone()].to_vec(),
        decoder_positions: before.map(|i| i as i32).collect(),
        target: tokens[span].to_vec(),
    }
}

pub(crate) fn read(_: &'static Traits, config: &Config, _: &Weights) -> Built {
    let vocab = config.positive("vocab_size")?;
    let mask_id = token(config, "mask_id", vocab)?;
    let ratio = share(config, "mask_ratio")?;
    // The sentences of a batch are of one length.
    config.ignore("pad_id");
    rule(move |draws, out| {
        let batch = Batch::read(draws, ["tokens", "action_uniforms"], vocab)?;
        let [rows, len] = batch.shape;
        let count = span_length(len, ratio);
        let rule = format!("a span of no tokens in sentences of {len}");
        ensure(count > 0, "config: mask_ratio", ratio, rule)?;
        let starts = draws.uniforms("start_uniforms", &[rows])?;
        let spans: Vec<_> = starts.iter().map(|&u| span(len, count, u)).collect();
        let masked = batch.rows().zip(&spans);
        let all: Vec<Masked> = masked
            .map(|((ids, actions), span)| mask_span(ids, span.clone(), mask_id, actions))
            .collect();
        let mut put = |name: &str, width, of: fn(&Masked) -> &Vec<i32>| {
            let data = all.iter().flat_map(of).copied().collect();
            out.put_ints(name, Ints::new(&[rows, width], data));
        };
        put("source", len, |m| &m.source);
        put("target", count, |m| &m.target);
        put("decoder_input_ids", count, |m| &m.decoder_input_ids);
        put("decoder_positions", count, |m| &m.decoder_positions);
        let starts = spans.iter().map(|span| span.start as i32).collect();
        out.put_ints("span_start", Ints::new(&[rows], starts));
        Ok(())
    })
}
