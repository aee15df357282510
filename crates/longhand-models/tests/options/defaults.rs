//! What a config leaves out is what the public configuration class (transformers 4.57.6) takes.
//! `defaults.json` holds what those classes say when they are made of nothing, for a fixture or a
//! part of one.

use super::*;
use longhand_models::{Generation, Value};
use serde_json::{Map, Value as Json};

const CLASSES: &str = include_str!("defaults.json");

/// All that a folder of this config says: its results and rules, or its error.
fn outcome(name: &str, config: &Json) -> String {
    let folder = copy("defaults", name);
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let model = match Model::open(&folder) {
        Ok(model) => model,
        Err(error) => return error.to_string(),
    };
    let out = match model.forward(&given(name), &Device::Cpu) {
        Ok(out) => out,
        Err(error) => return error.to_string(),
    };
    let bits = |value: &Value| match value {
        Value::Floats(x) => x.data().iter().map(|x| x.to_bits()).collect(),
        Value::Ints(x) => x.data.iter().map(|&x| x as u32).collect::<Vec<u32>>(),
    };
    let values: Vec<_> = out.values.iter().map(|(name, value)| (name, bits(value))).collect();
    format!("{:?} {values:?}", model.completed(&Generation::default()))
}

#[test]
fn what_a_config_leaves_out() {
    let classes: Map<String, Json> = serde_json::from_str(CLASSES).unwrap();
    for (place, options) in &classes {
        let (name, part) = place.split_once('/').unwrap_or((place, ""));
        let text = std::fs::read_to_string(data(name).join("config.json")).unwrap();
        let config: Json = serde_json::from_str(&text).unwrap();
        for (key, value) in options.as_object().unwrap() {
            let with = |value: Option<&Json>| {
                let mut config = config.clone();
                let own = if part.is_empty() { &mut config } else { &mut config[part] };
                own.as_object_mut().unwrap().remove(key);
                value.inspect(|&value| own[key] = value.clone());
                outcome(name, &config)
            };
            let (absent, stated) = (with(None), with(Some(value)));
            let short = |text: &str| text.chars().take(200).collect::<String>();
            assert!(
                absent == stated,
                "{place}: {key} absent: {}\n{value}: {}",
                short(&absent),
                short(&stated)
            );
        }
    }
}
