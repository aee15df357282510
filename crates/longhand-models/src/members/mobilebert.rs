//! MobileBERT: trigram embeddings and blocks in a bottleneck.

use crate::attention::Heads;
use crate::block::{Attention, Block, Bottleneck, FeedForward, Kind, Projection, Sublayer};
use crate::network::{Member, Network, body};
use crate::parts::{Linear, Norm, NormKind, Order};
use crate::stack::{Embeddings, Sizes, Stack};
use crate::traits::Traits;
use crate::{Config, Error, Result, Weights};

/// What a config says of the bottleneck.
struct Options {
    /// Width inside the blocks.
    narrow: usize,
    kind: NormKind,
    /// Feed-forward sublayers.
    feeds: usize,
    uses_bottleneck: bool,
    attends_narrow: bool,
    shares_query_key: bool,
}

/// Two of the norms take the library's epsilon whatever the config says; it shows only where norms
/// have statistics.
const DEFAULT_EPS: f64 = 1e-5;

pub(crate) fn read(
    traits: &'static Traits,
    config: &Config,
    weights: &Weights,
) -> Result<Box<dyn Member>> {
    let sizes = Sizes::read(traits, config)?;
    let options = Options::read(config, &sizes)?;
    let body = body(traits, weights);
    let embeddings = read_embeddings(traits, &sizes, &options, config, &body)?;
    let block =
        |i: usize| read_block(&sizes, &options, &body.under(&format!("encoder.layer.{i}.")));
    let stack = Stack {
        blocks: (0..sizes.layers).map(block).collect::<Result<_>>()?,
        order: (0..sizes.layers).map(|i| vec![i]).collect(),
        final_norm: None,
    };
    let (hidden, vocab) = (sizes.hidden, sizes.vocab);
    let table = embeddings.word().clone();
    let mut network = Network::with_heads(traits, sizes, embeddings, stack, config, weights)?;
    if let Some(head) = &mut network.head
        && table.width() < hidden
    {
        let rest = hidden - table.width();
        let name = "cls.predictions.dense";
        head.rest = Some(Linear::read_as(weights, name, rest, vocab, Order::InOut, false)?);
    }
    Ok(Box::new(network))
}

impl Options {
    fn read(config: &Config, sizes: &Sizes) -> Result<Self> {
        let uses_bottleneck = config.flag_or("use_bottleneck", true)?;
        let intra = config.size_or("intra_bottleneck_size", 128)?;
        let narrow = if uses_bottleneck { intra } else { sizes.hidden };
        config.only("true_hidden_size", narrow)?;
        if narrow == 0 || !narrow.is_multiple_of(sizes.heads) {
            let rule = format!("must be a multiple of num_attention_heads = {}", sizes.heads);
            return Err(Error::invalid("config: intra_bottleneck_size", narrow, rule));
        }
        let kind = match config.text_or("normalization_type", "no_norm")?.as_str() {
            "no_norm" => NormKind::Affine,
            "layer_norm" => NormKind::Layer,
            other => {
                let rule = "must be no_norm or layer_norm";
                return Err(Error::invalid("config: normalization_type", other, rule));
            }
        };
        let feeds = config.size_or("num_feedforward_networks", 4)?.max(1);
        Ok(Options {
            narrow,
            kind,
            feeds,
            uses_bottleneck,
            attends_narrow: config.flag_or("use_bottleneck_attention", false)?,
            shares_query_key: config.flag_or("key_query_shared_bottleneck", true)?,
        })
    }
}

fn read_embeddings(
    traits: &'static Traits,
    sizes: &Sizes,
    options: &Options,
    config: &Config,
    body: &Weights,
) -> Result<Embeddings> {
    let width = config.size_or("embedding_size", 128)?;
    let trigram = config.flag_or("trigram_input", true)?;
    let (names, hidden) = (traits.names, sizes.hidden);
    let word = body.tensor(names.word, &[sizes.vocab, width])?;
    let eps = DEFAULT_EPS;
    let norm = Norm::read(body, names.embedding_norm, hidden, options.kind, eps)?;
    let tables = Embeddings::read_beside(traits, sizes, body, word, Some(norm))?;
    if !trigram && width == hidden {
        return Ok(tables);
    }
    let wide = if trigram { 3 * width } else { width };
    let map = Linear::read(body, "embeddings.embedding_transformation", wide, hidden)?;
    Ok(tables.with_widening(map, trigram))
}

fn read_block(sizes: &Sizes, options: &Options, own: &Weights) -> Result<Block> {
    let (hidden, narrow) = (sizes.hidden, options.narrow);
    let norm = |name: &str, width: usize, eps: f64| Norm::read(own, name, width, options.kind, eps);
    let pair = |name: &str| -> Result<(Linear, Norm)> {
        let map = Linear::read(own, &format!("{name}.dense"), hidden, narrow)?;
        Ok((map, norm(&format!("{name}.LayerNorm"), narrow, sizes.eps)?))
    };
    let feed = |name: &str, eps: f64| -> Result<Sublayer<FeedForward>> {
        let inner = FeedForward {
            up: Linear::read(own, &format!("{name}intermediate.dense"), narrow, sizes.inner)?,
            gate: None,
            activation: sizes.activation,
            down: Linear::read(own, &format!("{name}output.dense"), sizes.inner, narrow)?,
        };
        let norm = norm(&format!("{name}output.LayerNorm"), narrow, eps)?;
        Ok(Sublayer { inner, norm, adapter: None })
    };
    // Without a shared bottleneck, queries, keys and values all read the wide states.
    let from_narrow = options.attends_narrow || options.shares_query_key;
    let query_from = if from_narrow || !options.uses_bottleneck { narrow } else { hidden };
    let value_from = if options.attends_narrow { narrow } else { hidden };
    let shared = options.uses_bottleneck && options.shares_query_key && !options.attends_narrow;
    let map = |name: &str, from: usize| {
        Linear::read(own, &format!("attention.self.{name}"), from, narrow)
    };
    let projection = Projection::Separate([
        map("query", query_from)?,
        map("key", query_from)?,
        map("value", value_from)?,
    ]);
    let attention = Attention {
        projection,
        out: Linear::read(own, "attention.output.dense", narrow, narrow)?,
        heads: Heads::of_width(sizes.heads, narrow),
        kind: Kind::Full,
    };
    let mut feeds = Vec::new();
    for i in 0..options.feeds - 1 {
        feeds.push(feed(&format!("ffn.{i}."), sizes.eps)?);
    }
    feeds.push(feed("", DEFAULT_EPS)?);
    let bottleneck = || -> Result<Bottleneck> {
        let out = Linear::read(own, "output.bottleneck.dense", narrow, hidden)?;
        Ok(Bottleneck {
            input: pair("bottleneck.input")?,
            shared: shared.then(|| pair("bottleneck.attention")).transpose()?,
            attends_narrow: options.attends_narrow,
            output: (out, norm("output.bottleneck.LayerNorm", hidden, sizes.eps)?),
        })
    };
    Ok(Block {
        place: crate::block::Place::Post,
        attention: Sublayer {
            inner: attention,
            norm: norm("attention.output.LayerNorm", narrow, sizes.eps)?,
            adapter: None,
        },
        cross: None,
        feed: feeds,
        bottleneck: options.uses_bottleneck.then(bottleneck).transpose()?,
    })
}
