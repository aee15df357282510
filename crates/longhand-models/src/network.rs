//! A network of one row: embeddings, blocks, heads. Members that are nothing else are read here;
//! the others hold one or two of them.

use crate::attention::Mask;
use crate::block::Seen;
use crate::embeddings::Embeddings;
use crate::generate::{self, Begun, Generator};
use crate::heads::{TokenLogits, judged};
use crate::ops::{self, Activation};
use crate::parts::Linear;
use crate::sizes::Sizes;
use crate::stack::{Stack, last};
use crate::traits::Traits;
use crate::{
    Cache, Config, Device, Error, Inputs, Ints, Outputs, Result, Tensor, Weights, family, require,
    when,
};
use longhand::longformer::globals_from_mask;

/// A model: inputs by name in, results by name out.
pub trait Member: Send + Sync {
    /// Every result that the inputs allow: losses need labels.
    ///
    /// # Errors
    ///
    /// If an input is absent, misshapen or out of range.
    fn forward(&self, inputs: &Inputs, device: &Device) -> Result<Outputs>;

    /// What continues sequences, if the model does.
    fn generator(&self) -> Option<&dyn Generator> {
        None
    }

    /// The last states `[batch, length, hidden]` of `input_ids` under `attention_mask`, no head run.
    ///
    /// # Errors
    ///
    /// As [`forward`](Self::forward), and if the model has no such states.
    fn encode(&self, _inputs: &Inputs, _device: &Device) -> Result<Tensor> {
        Err(Error::declined("this model gives no states of tokens"))
    }
}

/// A member, read.
pub type Built = Result<Box<dyn Member>>;

/// A member that is nothing but its forward pass.
impl<F: Fn(&Inputs, &Device, &mut Outputs) -> Result<()> + Send + Sync> Member for F {
    fn forward(&self, inputs: &Inputs, device: &Device) -> Result<Outputs> {
        let mut out = Outputs::default();
        self(inputs, device, &mut out).map(|()| out)
    }
}

/// A member that puts every result by `forward` and does nothing else.
pub(crate) fn member(
    forward: impl Fn(&Inputs, &Device, &mut Outputs) -> Result<()> + Send + Sync + 'static,
) -> Built {
    Ok(Box::new(forward))
}

/// What is made of the first position's state.
pub enum Pooler {
    /// `tanh` of a map.
    Tanh(Linear),
    /// Nothing.
    First,
    /// What the map to the classes reads; no result.
    Classes(Linear, Activation),
}

/// Embeddings, blocks and the heads that the weights hold.
pub struct Network {
    /// Its row of the table, and its sizes.
    pub sizes: Sizes,
    /// Its tables.
    pub embeddings: Embeddings,
    /// Its blocks.
    pub stack: Stack,
    /// Logits over the vocabulary.
    pub head: Option<TokenLogits>,
    /// What is made of the first position.
    pub pooler: Option<Pooler>,
    /// A judgement of the pair.
    pub pair: Option<Linear>,
    /// Classes of the whole input.
    pub classifier: Option<Linear>,
    /// Real or replaced tokens.
    pub judge: Option<TokenLogits>,
}

/// Reads a member that is one network.
///
/// # Errors
///
/// If the config or the weights are not those of its row.
pub fn read(_: &'static Traits, config: &Config, weights: &Weights) -> Built {
    Ok(Box::new(Network::read(config, weights)?))
}

impl Network {
    /// Reads a network, all its options and parameters.
    ///
    /// # Errors
    ///
    /// If the config or the weights are not those of its row.
    pub fn read(config: &Config, weights: &Weights) -> Result<Self> {
        Network::sharing(config, weights, &config.parameters("parameters").body(weights))
    }

    /// As [`read`](Self::read), words, positions and token types among `tables`: two networks can
    /// share them.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn sharing(config: &Config, weights: &Weights, tables: &Weights) -> Result<Self> {
        let sizes = Sizes::read(family::row(config)?, config)?;
        let (words, body) = (sizes.words(config, tables)?, sizes.names.body(weights));
        let embeddings = Embeddings::read(&sizes, config, words, tables, &body)?;
        let stack = Stack::read(&sizes, config, &body)?;
        Network::of(sizes, embeddings, stack).with_heads(config, weights)
    }

    /// Reads the network that is the part `name` of a config and its weights, a `model_type`; words,
    /// positions and token types are those of the part `tables`.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read), and if the part is absent or has an option that nobody asks for.
    pub fn part(
        config: &Config,
        weights: &Weights,
        [name, model_type, tables]: [&str; 3],
    ) -> Result<Self> {
        let own = config.part(name)?;
        own.only("model_type", model_type)?;
        let [weights, tables] = [name, tables].map(|part| weights.under(&format!("{part}.")));
        let tables = own.parameters("parameters").body(&tables);
        let network = Network::sharing(&own, &weights, &tables)?;
        own.finish().map_err(|e| e.at(name)).map(|()| network)
    }

    /// A network without heads.
    pub fn of(sizes: Sizes, embeddings: Embeddings, stack: Stack) -> Self {
        let (head, pooler, pair, classifier, judge) = (None, None, None, None, None);
        Network { sizes, embeddings, stack, head, pooler, pair, classifier, judge }
    }

    /// Adds the heads that the weights hold.
    ///
    /// # Errors
    ///
    /// If a parameter of one is absent or misshapen.
    pub fn with_heads(mut self, config: &Config, weights: &Weights) -> Result<Self> {
        let (traits, names, hidden) = (self.sizes.traits, self.sizes.names, self.sizes.hidden);
        let body = names.body(weights);
        let to_classes = |name: &str| -> Result<Linear> {
            let classes = match config.optional_size("num_labels")? {
                Some(n) => n,
                None => weights.shape(&format!("{name}.weight"))?.first().copied().unwrap_or(0),
            };
            config.only("problem_type", "single_label_classification")?;
            Linear::read(weights, name, hidden, classes)
        };
        // Files of classes of tokens and of inputs differ in what they lack only.
        let architectures = config.words("architectures")?;
        let of_tokens = !traits.causal
            && architectures.iter().any(|name| name.ends_with("ForTokenClassification"));
        self.head = if of_tokens {
            self.sizes.traits.head.output = "logits";
            let decoder = to_classes("classifier")?;
            Some(TokenLogits { transform: None, decoder, rest: None })
        } else {
            let map = format!("{}.", names.of("cls.predictions.transform.dense"));
            // A bare head has nothing of its own if it is tied.
            when(!traits.head.transform || weights.has_any(&map), || {
                TokenLogits::read(&self.sizes, weights, &self.embeddings.word)
            })?
        };
        let name = names.of("cls.seq_relationship");
        // Its classes are two, or with the previous sentence three.
        self.pair = when(traits.pair.is_some() && weights.has_any(&format!("{name}.")), || {
            Linear::read(weights, name, hidden, config.size_or("sentence_classes", 2)?)
        })?;
        self.classifier = when(!of_tokens && weights.has_any("classifier."), || {
            let own = |_| names.of("classifier.out_proj");
            to_classes(traits.classes.map_or("classifier", own))
        })?;
        let needed = self.pair.is_some() || self.classifier.is_some();
        let name = names.of("pooler.dense");
        let needed = needed && traits.classes.is_none() || body.has_any(&format!("{name}."));
        self.pooler = when(traits.pooled && needed, || {
            Linear::read(&body, name, hidden, hidden).map(Pooler::Tanh)
        })?;
        if let (Some(activation), true) = (traits.classes, self.classifier.is_some()) {
            // In place of a pooler, which some files still hold.
            let map = Linear::read(weights, names.of("classifier.dense"), hidden, hidden)?;
            self.pooler = Some(Pooler::Classes(map, activation));
        }
        let judges = traits.judges && weights.has_any("discriminator_predictions.");
        self.judge = when(judges, || TokenLogits::read_judge(&self.sizes, weights))?;
        Ok(self)
    }

    /// All states, under the mask that `attention_mask` gives (all positions where there is none).
    ///
    /// # Errors
    ///
    /// If an input is absent, misshapen or out of range.
    pub fn states(&self, inputs: &Inputs, device: &Device) -> Result<Vec<Tensor>> {
        let valid = inputs.key_valid()?;
        let windowed = self.sizes.traits.windowed;
        let globals = when(windowed, || globals(inputs, valid.as_deref()))?.flatten();
        let seen = Seen::new(device, Mask::of(valid.as_deref()));
        self.states_under(inputs, &Seen { globals: globals.as_ref(), ..seen })
    }

    /// All states, under a given mask.
    ///
    /// # Errors
    ///
    /// If an input is absent, misshapen or out of range.
    pub fn states_under(&self, inputs: &Inputs, seen: &Seen<'_>) -> Result<Vec<Tensor>> {
        self.stack.run(self.embeddings.run(inputs, seen.device)?, seen, None)
    }

    /// What the pooler makes of the first positions, if there is one.
    pub fn pooled(&self, last: &Tensor) -> Option<Tensor> {
        let first = ops::cut(last, 1, 0..1).reshape(&[last.shape()[0], last.width()]);
        Some(match self.pooler.as_ref()? {
            Pooler::Tanh(map) => Activation::Tanh.apply(map.run(&first)),
            Pooler::First => first,
            Pooler::Classes(map, activation) => activation.apply(map.run(&first)),
        })
    }

    /// What the heads make of the states, losses too where labels are given.
    ///
    /// # Errors
    ///
    /// If labels are misshapen or out of range.
    pub fn heads(&self, states: &[Tensor], inputs: &Inputs) -> Result<Outputs> {
        let mut out = Outputs::default();
        out.put_each("hidden_states", states);
        let last = &states[states.len() - 1];
        let mut losses = Vec::new();
        if let Some(head) = &self.head {
            let logits = head.run(last);
            let loss = inputs.loss("labels", &logits, self.sizes.traits.causal)?;
            losses.extend(loss.map(|loss| ("token_loss", loss)));
            out.put(self.sizes.traits.head.output, logits);
        }
        let pooled = self.pooled(last);
        let pair = self.sizes.traits.pair.zip(self.pair.as_ref());
        let pair = pair.map(|(pair, map)| (map, pair.output, pair.labels, "sentence_loss"));
        let classes = self.classifier.as_ref().map(|map| (map, "logits", "labels", "class_loss"));
        if let Some(pooled) = pooled {
            for (map, output, name, loss) in pair.into_iter().chain(classes) {
                let logits = map.run(&pooled);
                if let Some(labels) = inputs.optional_ints(name, &logits.shape()[..1])? {
                    let message = "a loss over one class: regression is not supported";
                    require(logits.width() > 1, || Error::declined(message))?;
                    losses.push((loss, ops::labels_loss(&logits, labels, name)?));
                }
                out.put(output, logits);
            }
            if !matches!(self.pooler, Some(Pooler::Classes(..))) {
                out.put("pooler_output", pooled);
            }
        }
        if !losses.is_empty() {
            out.put_scalar("loss", losses.iter().map(|(_, loss)| loss).sum());
        }
        if let Some(judge) = &self.judge {
            let logits = judge.run(last).reshape(&last.shape()[..2]);
            if let Some(labels) = inputs.optional_ints("labels", logits.shape())? {
                out.put_scalar("loss", judged(&logits, labels, inputs)?);
            }
            out.put("logits", logits);
        }
        losses.into_iter().for_each(|(name, loss)| out.put_scalar(name, loss));
        Ok(out)
    }
}

impl Generator for Network {
    fn begin(&self, prompts: &[&[i32]], memory: Option<usize>, _: &Device) -> Begun {
        generate::keeps_all(memory)?;
        let (ids, padding) = generate::padded_before(prompts, 0);
        let cache = Cache { padding, ..Cache::new(self.stack.blocks.len(), prompts.len()) };
        Ok((cache, ids))
    }

    fn advance(&self, ids: &Ints, cache: &mut Cache, device: &Device) -> Result<Tensor> {
        let inputs = self.embeddings.continued(ids, cache)?;
        let valid = generate::behind(&cache.padding, cache.read);
        let memory = cache.encoded.as_ref().map(|(states, there)| (states, Mask::of(Some(there))));
        let seen = Seen { memory, ..Seen::new(device, Mask::of(valid.as_deref())) };
        let embedded = self.embeddings.run(&inputs, device)?;
        Ok(last(self.stack.run(embedded, &seen, Some(&mut cache.blocks))?))
    }

    fn predict(&self, states: &Tensor) -> Tensor {
        self.head.as_ref().map_or_else(|| states.clone(), |head| head.run(states))
    }
}

impl Member for Network {
    fn generator(&self) -> Option<&dyn Generator> {
        (self.sizes.traits.causal && self.head.is_some()).then_some(self)
    }

    fn forward(&self, inputs: &Inputs, device: &Device) -> Result<Outputs> {
        self.heads(&self.states(inputs, device)?, inputs)
    }

    fn encode(&self, inputs: &Inputs, device: &Device) -> Result<Tensor> {
        Ok(last(self.states(inputs, device)?))
    }
}

/// `global_attention_mask` as a list of positions, if any is global. Padding wins.
fn globals(inputs: &Inputs, valid: Option<&[u8]>) -> Result<Option<Ints>> {
    let shape = &inputs.ints("input_ids")?.shape;
    let Some(mask) = inputs.optional_ints("global_attention_mask", shape)? else { return Ok(None) };
    let is_global = |(i, &m): (usize, &i32)| m != 0 && valid.is_none_or(|v| v[i] != 0);
    let mask: Vec<bool> = mask.data.iter().enumerate().map(is_global).collect();
    let (indices, count) = globals_from_mask(&mask, shape[1])?;
    Ok((count > 0).then(|| Ints::new(&[shape[0], count], indices)))
}
