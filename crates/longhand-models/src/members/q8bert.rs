//! Q8BERT: a BERT classifier whose maps and tables are 8-bit.

use super::*;
use crate::block::{Attention, Projection};
use crate::embeddings::Embeddings;
use crate::lock;
use crate::network::Pooler;
use crate::quant::{self, Quantiser, State};
use std::sync::{Arc, Mutex};

struct Q8Bert {
    network: Network,
    /// By the name of their module.
    quantisers: Vec<(String, Arc<Quantiser>)>,
    /// Of tables, by the name of the parameter.
    integers: Vec<(String, Ints)>,
    /// One forward pass at a time: ranges are a state.
    turn: Mutex<()>,
}

pub(crate) fn read(traits: &'static Traits, config: &Config, weights: &Weights) -> Built {
    for key in ["activation_bits", "weight_bits"] {
        config.only(key, 8)?;
    }
    config.only("quantize_classifier", false)?;
    let decay = config.number_or("ema_decay", 0.9)?;
    let tables_too = config.flag_or("quantize_embeddings", true)?;
    // The maps whose outputs are quantised too.
    let requantised = config.words("requantize_output")?;
    let mut network = Network::read(traits, config, weights)?;
    let absent = || Error::input("tensor \"classifier.weight\" is absent from the weights");
    require(network.classifier.is_some(), absent)?;
    let (mut quantisers, mut integers) = (Vec::new(), Vec::new());
    let prefix = traits.names.prefix;
    if tables_too {
        let Embeddings { word, position, token_type, .. } = &mut network.embeddings;
        let names = [traits.names.word, traits.names.position, traits.names.token_type];
        let tables = [Some(word), position.as_mut(), token_type.as_mut()];
        for (name, table) in names.iter().zip(tables.into_iter().flatten()) {
            let of_table;
            (*table, of_table) = quant::quantised(table);
            integers.push((format!("{prefix}{name}"), of_table));
        }
    }
    for (name, map) in maps(&mut network) {
        let last = name.rsplit('.').next().unwrap_or_default();
        let requantises = requantised.iter().any(|r| r == last);
        let quantiser = Arc::new(Quantiser::new(&map.weight, decay, requantises));
        quantisers.push((format!("{prefix}{name}"), quantiser.clone()));
        map.quantiser = Some(quantiser);
    }
    Ok(Box::new(Q8Bert { network, quantisers, integers, turn: Mutex::default() }))
}

/// Every map but the classifier, by its name.
fn maps(network: &mut Network) -> Vec<(String, &mut Linear)> {
    let names = network.sizes.traits.names;
    let mut all = Vec::new();
    for (i, block) in network.stack.blocks.iter_mut().enumerate() {
        let layer = names.layer.replace("{}", &i.to_string());
        let mut put = |name: &str, map| all.push((format!("{layer}{name}"), map));
        let Attention { projection, out, .. } = &mut block.attention.inner;
        if let Projection::Separate(maps) = projection {
            maps.iter_mut().zip(names.projections).for_each(|(map, name)| put(name, map));
        }
        put(names.out, out);
        for feed in &mut block.feed {
            put(names.feed[0], &mut feed.inner.up);
            put(names.feed[1], &mut feed.inner.down);
        }
    }
    if let Some(Pooler::Tanh(pooler)) = &mut network.pooler {
        all.push(("pooler.dense".to_owned(), pooler));
    }
    all
}

impl Member for Q8Bert {
    /// Training steps `step0.`, `step1.`, … set and update the ranges, `eval.` computes with them.
    fn forward(&self, inputs: &Inputs, device: &Device) -> Result<Outputs> {
        let _turn = lock(&self.turn);
        self.quantisers.iter().for_each(|(_, q)| *lock(&q.state) = State::default());
        let message = "input \"step0.input_ids\" is absent: ranges come from training steps";
        require(inputs.has("step0.input_ids"), || Error::input(message))?;
        let mut out = Outputs::default();
        let steps = (0..).map(|i| format!("step{i}."));
        for step in steps.take_while(|s| inputs.has(&format!("{s}input_ids"))) {
            out.absorb(&step, self.network.forward(&inputs.under(&step), device)?);
        }
        if inputs.has("eval.input_ids") {
            self.quantisers.iter().for_each(|(_, q)| lock(&q.state).infers = true);
            out.absorb("eval.", self.network.forward(&inputs.under("eval."), device)?);
        }
        for (name, quantiser) in &self.quantisers {
            for (range, end) in lock(&quantiser.state).ranges.iter().zip(["input", "output"]) {
                if let Some(range) = range {
                    out.put(format!("range.{name}.{end}_thresh"), range.clone());
                }
            }
            out.put_ints(format!("int8.{name}.weight"), quantiser.integers());
        }
        self.integers.iter().for_each(|(name, x)| out.put_ints(format!("int8.{name}"), x.clone()));
        Ok(out)
    }
}
