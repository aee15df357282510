//! One masked span: MASS (Song et al., 2019, §3.1), as its published data program does it.

use super::*;

/// Tokens in the span: ⌊(length − 1) · ratio⌋. The first token is never in it.
pub fn span_length(length: usize, ratio: f64) -> usize {
    (length.saturating_sub(1) as f64 * ratio) as usize
}

/// The span of `count` tokens that a draw chooses, each place equally likely.
pub fn span(length: usize, count: usize, uniform: f64) -> Range<usize> {
    let start = 1 + (uniform * (length - count) as f64) as usize;
    start..start + count
}

/// What the encoder reads: of ten tokens of the span eight are masked, one stays, one is random.
pub fn mask_span(tokens: &[i32], span: Range<usize>, actions: &Actions) -> Vec<i32> {
    let mut source = tokens.to_vec();
    for i in span {
        match actions.uniforms[i] {
            u if u < 0.8 => source[i] = actions.mask_id,
            u if u < 0.9 => {}
            _ => source[i] = actions.random_tokens[i],
        }
    }
    source
}

pub(crate) fn read(_: &'static Traits, config: &Config, _: &Weights) -> Built {
    let vocab = config.positive("vocab_size")?;
    let mask_id = token(config, "mask_id", vocab)?;
    let ratio = share(config, "mask_ratio")?;
    // The sentences of a batch are of one length.
    config.ignore("pad_id");
    rule(move |draws, out| {
        let ([count, len], rows) = batch(draws, ["tokens", "action_uniforms"], vocab, mask_id)?;
        let size = span_length(len, ratio);
        let rule = format!("a span of no tokens in sentences of {len}");
        ensure(size > 0, "config: mask_ratio", ratio, rule)?;
        let starts = draws.uniforms("start_uniforms", &[count])?;
        for ((tokens, actions), &uniform) in rows.iter().zip(&starts) {
            let span = span(len, size, uniform);
            // The decoder writes the span and reads it one place to the left.
            let before = span.start - 1..span.end - 1;
            out.add_row("source", &[len], mask_span(tokens, span.clone(), actions));
            out.add_row("target", &[size], tokens[span.clone()].iter().copied());
            out.add_row("decoder_input_ids", &[size], tokens[before.clone()].iter().copied());
            out.add_row("decoder_positions", &[size], before.map(|i| i as i32));
            out.add_row("span_start", &[], [span.start as i32]);
        }
        Ok(())
    })
}
