//! MobileBERT: trigram embeddings and blocks in a bottleneck.

use super::*;
use crate::block::Bottleneck;

/// Two of the norms take the library's epsilon whatever the config says; it shows only where norms
/// have statistics.
const DEFAULT_EPS: f64 = 1e-5;

pub(crate) fn read(traits: &'static Traits, config: &Config, weights: &Weights) -> Built {
    let mut sizes = Sizes::read(traits, config)?;
    // Else the first position is left as it is.
    let is_pooled = config.flag_or("classifier_activation", true)?;
    sizes.traits.pooled = is_pooled;
    let normed = config.is_second("normalization_type", ["no_norm", "layer_norm"])?;
    sizes.traits.norm = if normed { NormKind::Layer } else { NormKind::Affine };
    let (body, hidden) = (sizes.names.body(weights), sizes.hidden);
    let (width, vocab) = (config.size_or("embedding_size", 128)?, config.positive("vocab_size")?);
    let words = body.tensor("embeddings.word_embeddings.weight", &[vocab, width])?;
    let mut embeddings = Embeddings::read(&sizes, config, words, &body, &body)?;
    embeddings.norm.iter_mut().for_each(|norm| norm.eps = DEFAULT_EPS);
    let trigram = config.flag_or("trigram_input", true)?;
    let wide = if trigram { 3 * width } else { width };
    // Files hold it even where there is nothing to widen.
    let map = Linear::read(&body, "embeddings.embedding_transformation", wide, hidden)?;
    embeddings.widen = (trigram || width != hidden).then_some((map, trigram));
    let stack = read_stack(&sizes, config, &body)?;
    let mut network = Network::of(sizes, embeddings, stack).with_heads(config, weights)?;
    if !is_pooled {
        network.pooler = Some(Pooler::First);
    }
    let name = "cls.predictions.dense";
    if let (Some(head), Some(rest)) = (&mut network.head, hidden.checked_sub(width))
        && (rest > 0 || weights.has_any(name))
    {
        let map = Linear::read_as(weights, name, rest, vocab, Order::InOut, false)?;
        // Files hold it even where the table is as wide as the states and nothing is left.
        head.rest = (rest > 0).then_some(map);
    }
    Ok(Box::new(network))
}

/// Blocks of the narrow width, with more feed-forwards and the bottleneck around them.
fn read_stack(sizes: &Sizes, config: &Config, body: &Weights) -> Result<Stack> {
    let (hidden, count) = (sizes.hidden, sizes.heads.count);
    let uses_bottleneck = config.flag_or("use_bottleneck", true)?;
    let intra = config.size_or("intra_bottleneck_size", 128)?;
    let narrow = if uses_bottleneck { intra } else { hidden };
    config.only("true_hidden_size", narrow)?;
    let rule = format!("must be a multiple of num_attention_heads = {count}");
    let fits = narrow > 0 && narrow.is_multiple_of(count);
    ensure(fits, "config: intra_bottleneck_size", narrow, rule)?;
    let feeds = config.size_or("num_feedforward_networks", 4)?.max(1);
    let attends_narrow = config.flag_or("use_bottleneck_attention", false)?;
    let shares_query_key = config.flag_or("key_query_shared_bottleneck", true)?;
    // Without a shared bottleneck, queries, keys and values all read the wide states.
    let query_from = if attends_narrow || shares_query_key { narrow } else { hidden };
    let value_from = if attends_narrow { narrow } else { hidden };
    let inside = Sizes {
        hidden: narrow,
        heads: Heads::new(count, narrow / count),
        projected_from: [query_from, query_from, value_from],
        ..sizes.clone()
    };
    let mut stack = Stack::read(&inside, config, body)?;
    for (i, block) in stack.blocks.iter_mut().enumerate() {
        let own = body.under(&LAYER.replace("{}", &i.to_string()));
        block.feed.iter_mut().for_each(|last| last.norm.eps = DEFAULT_EPS);
        for n in 0..feeds - 1 {
            let own = own.under(&format!("ffn.{n}."));
            block.feed.insert(n, read_feed(&inside, &own)?);
        }
        let pair = |name: &str, from: usize, to: usize| -> Result<(Linear, Norm)> {
            let own = own.under(name);
            Ok((Linear::read(&own, "dense", from, to)?, sizes.norm(&own, "LayerNorm", to)?))
        };
        block.bottleneck = when(uses_bottleneck, || {
            Ok(Bottleneck {
                input: pair("bottleneck.input.", hidden, narrow)?,
                // It is there even if attention reads the narrow input.
                shared: when(shares_query_key, || pair("bottleneck.attention.", hidden, narrow))?,
                attends_narrow,
                output: pair("output.bottleneck.", narrow, hidden)?,
            })
        })?;
    }
    Ok(stack)
}
