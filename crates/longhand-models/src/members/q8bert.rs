//! Q8BERT: a BERT classifier whose maps and tables are 8-bit.

use super::*;
use crate::block::{Attention, Projection};
use crate::quant::{self, Quantiser, State};
use crate::stack::{FEED, OUT, PROJECTIONS};
use std::sync::{Arc, Mutex};

pub(crate) fn read(_: &'static Traits, config: &Config, weights: &Weights) -> Built {
    let decay = config.number_or("ema_decay", 0.9)?;
    let tables_too = config.flag_or("quantize_embeddings", true)?;
    // The maps whose outputs are quantised too.
    let requantised = config.words("requantize_output")?;
    let mut network = Network::read(config, weights)?;
    weights.shape("classifier.weight")?;
    // By the names of their modules; and of tables, by those of the parameters.
    let (mut quantisers, mut integers) = (Vec::new(), Vec::new());
    if tables_too {
        let Embeddings { word, position, token_type, .. } = &mut network.embeddings;
        let tables = [Some(word), position.as_mut(), token_type.as_mut()];
        let names = ["word", "position", "token_type"];
        for (name, table) in names.iter().zip(tables.into_iter().flatten()) {
            let of_table;
            (*table, of_table) = quant::quantised(table);
            integers.push((format!("bert.embeddings.{name}_embeddings.weight"), of_table));
        }
    }
    for (name, map) in maps(&mut network) {
        let last = name.rsplit('.').next().unwrap_or_default();
        let requantises = requantised.iter().any(|r| r == last);
        let quantiser = Arc::new(Quantiser::new(&map.weight, decay, requantises));
        quantisers.push((format!("bert.{name}"), quantiser.clone()));
        map.quantiser = Some(quantiser);
    }
    // One forward pass at a time: ranges are a state.
    let turn = Mutex::new(());
    // Training steps `step0.`, `step1.`, … set and update the ranges, `eval.` computes with them.
    member(move |inputs, device, out| {
        let _turn = crate::lock(&turn);
        quantisers.iter().for_each(|(_, q)| *crate::lock(&q.state) = State::default());
        let message = "input \"step0.input_ids\" is absent: ranges come from training steps";
        require(inputs.has("step0.input_ids"), || Error::input(message))?;
        let steps = (0..).map(|i| format!("step{i}."));
        for step in steps.take_while(|s| inputs.has(&format!("{s}input_ids"))) {
            out.absorb(&step, network.forward(&inputs.under(&step), device)?);
        }
        if inputs.has("eval.input_ids") {
            quantisers.iter().for_each(|(_, q)| crate::lock(&q.state).infers = true);
            out.absorb("eval.", network.forward(&inputs.under("eval."), device)?);
        }
        for (name, quantiser) in &quantisers {
            let State { ranges, .. } = &*crate::lock(&quantiser.state);
            for (range, end) in ranges.iter().zip(["input", "output"]) {
                if let Some(range) = range {
                    out.put(format!("range.{name}.{end}_thresh"), range.clone());
                }
            }
            out.put_ints(format!("int8.{name}.weight"), quantiser.integers());
        }
        integers.iter().for_each(|(name, x)| out.put_ints(format!("int8.{name}"), x.clone()));
        Ok(())
    })
}

/// Every map but the classifier, by its name.
fn maps(network: &mut Network) -> Vec<(String, &mut Linear)> {
    let mut all = Vec::new();
    for (i, block) in network.stack.blocks.iter_mut().enumerate() {
        let layer = LAYER.replace("{}", &i.to_string());
        let mut put = |name: &str, map| all.push((format!("{layer}{name}"), map));
        let Attention { projection, out, .. } = &mut block.attention.inner;
        if let Projection::Separate(maps) = projection {
            maps.iter_mut().zip(PROJECTIONS).for_each(|(map, name)| put(name, map));
        }
        put(OUT, out);
        for feed in &mut block.feed {
            put(FEED[0], &mut feed.inner.up);
            put(FEED[1], &mut feed.inner.down);
        }
    }
    if let Some(Pooler::Tanh(pooler)) = &mut network.pooler {
        all.push(("pooler.dense".to_owned(), pooler));
    }
    all
}
