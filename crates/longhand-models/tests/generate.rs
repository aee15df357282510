//! Continuing sequences: what is kept of the positions read must change nothing.

mod common;

use common::{data, set_options};
use longhand_models::{Device, Generation, Inputs, Ints, Model, Outputs, Rules, TextModel, ops};
use std::path::Path;

const TOKENS: usize = 12;

/// The valid ids of each row of a fixture's input.
fn rows(name: &str) -> Vec<Vec<i32>> {
    let inputs = Inputs::read(&data(name).join("input.safetensors")).unwrap();
    let (ids, mask) = (inputs.ints("input_ids").unwrap(), inputs.ints("attention_mask").unwrap());
    let width = ids.shape[1];
    let row = |(ids, mask): (&[i32], &[i32])| {
        ids.iter().zip(mask).filter(|&(_, &there)| there == 1).map(|(&id, _)| id).collect()
    };
    ids.data.chunks_exact(width).zip(mask.data.chunks_exact(width)).map(row).collect()
}

fn likeliest(out: &Outputs, name: &str) -> i32 {
    let logits = out.floats(name).unwrap();
    ops::argmax(logits.row(logits.rows() - 1)) as i32
}

fn greedy(model: &Model, prompts: &[&[i32]], options: &Generation) -> Vec<Vec<i32>> {
    model.generate(prompts, options, &Device::Cpu, &mut |_| ()).unwrap()
}

/// The logits of what comes next, from reading everything anew.
fn anew(model: &Model, prompt: &[i32], ids: &[i32], decodes: bool) -> Vec<f32> {
    let mut inputs = Inputs::new().ints_of("input_ids", &[1, prompt.len()], prompt.to_vec());
    let read = if decodes { "decoder_input_ids" } else { "input_ids" };
    inputs = inputs.ints_of(read, &[1, ids.len()], ids.to_vec());
    let out = common::run(model, &inputs);
    let logits = out.floats("logits").unwrap();
    logits.row(logits.rows() - 1).to_vec()
}

/// The same tokens as from reading everything anew for each, and in a batch as alone.
fn agrees(name: &str, start: Option<i32>) {
    let model = Model::open(&data(name)).unwrap();
    let options = Generation { tokens: TOKENS, ..Generation::default() };
    let rows = rows(name);
    let prompts: Vec<&[i32]> = rows.iter().map(Vec::as_slice).collect();
    assert!(prompts.iter().any(|row| row.len() != prompts[0].len()), "prompts of other lengths");
    let together = greedy(&model, &prompts, &options);
    for (prompt, together) in prompts.iter().zip(&together) {
        assert_eq!(&greedy(&model, &[prompt], &options)[0], together);
        let mut ids = start.map_or_else(|| prompt.to_vec(), |start| vec![start]);
        let first = ids.len();
        for _ in 0..TOKENS {
            ids.push(ops::argmax(&anew(&model, prompt, &ids, start.is_some())) as i32);
        }
        assert_eq!(&ids[first..], together, "{name}");
    }
}

/// Given tokens in place of the likeliest, which in models of noise repeat themselves.
fn agrees_on_given_tokens(name: &str, start: Option<i32>) {
    let model = Model::open(&data(name)).unwrap();
    let prompt = &rows(name)[0][..5];
    let mut ids = start.map_or_else(|| prompt.to_vec(), |start| vec![start]);
    let (mut cache, mut next) = model.begin(&[prompt], None, &Device::Cpu).unwrap();
    for token in common::ids(3, TOKENS, 100) {
        let states = model.advance(&next, &mut cache, &Device::Cpu).unwrap();
        let logits = model.predict(&ops::last_rows(&states, 1)).unwrap();
        common::near(logits.data(), &anew(&model, prompt, &ids, start.is_some()), name);
        ids.push(token);
        next = Ints::new(&[1, 1], vec![token]);
    }
}

#[test]
fn decoders() {
    agrees("gpt", None);
    agrees("turing_nlg", None);
    agrees("megatron_gpt", None);
    agrees_on_given_tokens("gpt", None);
    agrees_on_given_tokens("turing_nlg", None);
}

#[test]
fn decoders_that_look_at_an_encoder() {
    agrees("t5", Some(0));
    agrees("bart", Some(2));
    agrees_on_given_tokens("t5", Some(0));
    agrees_on_given_tokens("bart", Some(2));
    agrees_on_given_tokens("mass", Some(2));
}

/// Read in order, every token sees those before it, and a query at the next place the same.
#[test]
fn xlnet_in_order() {
    let model = Model::open(&data("xlnet")).unwrap();
    let inputs = Inputs::read(&data("xlnet").join("input.safetensors")).unwrap();
    let prompt = &inputs.ints("input_ids.0").unwrap().data[..5];
    let options = Generation { tokens: TOKENS, memory: Some(64), ..Generation::default() };
    let made = greedy(&model, &[prompt], &options);
    let mut ids = prompt.to_vec();
    for _ in 0..TOKENS {
        let (seqlen, next) = (ids.len() + 1, ids.len() as i32);
        let later = (0..seqlen * seqlen).map(|i| i32::from(i % seqlen >= i / seqlen));
        // Whatever stands at the place of the query.
        let inputs = Inputs::new()
            .ints_of("input_ids.0", &[1, seqlen], [&ids[..], &[7]].concat())
            .ints_of("perm_mask.0", &[1, seqlen, seqlen], later.collect())
            .ints_of("target_positions.0", &[1, 1], vec![next]);
        let out = model.forward(&inputs, &Device::Cpu).unwrap();
        ids.push(likeliest(&out, "segment.0.logits"));
    }
    assert_eq!(made, [&ids[prompt.len()..]]);
    // A memory that is too short to hold the prompt is another model.
    let short = Generation { memory: Some(2), ..options };
    assert_eq!(greedy(&model, &[prompt, prompt], &short).len(), 2);
}

/// Transformer-XL's shorter prompts stand behind places that nothing sees, whatever is remembered.
#[test]
fn transformer_xl_of_unequal_prompts() {
    let folder = common::copy("unequal", "transfo_xl");
    let ids: Vec<i32> = (0..11).map(|i| (i * 7 + 3) % 60).collect();
    let prompts = [&ids[..7], &ids[2..4], &ids[1..10], &ids[5..6]];
    for change in [
        serde_json::json!({ "same_length": false }),
        serde_json::json!({ "pre_lnorm": true }),
        serde_json::json!({ "pre_lnorm": false, "same_length": true, "clamp_len": 4 }),
    ] {
        set_options(&folder, change);
        let model = Model::open(&folder).unwrap();
        for memory in [0, 3, 20] {
            let read = |prompts: &[&[i32]]| {
                let (mut cache, ids) = model.begin(prompts, Some(memory), &Device::Cpu).unwrap();
                let first = model.advance(&ids, &mut cache, &Device::Cpu).unwrap();
                let next = Ints::new(&[prompts.len(), 1], vec![9; prompts.len()]);
                let second = model.advance(&next, &mut cache, &Device::Cpu).unwrap();
                [ops::last_rows(&first, 1), second]
            };
            let together = read(&prompts);
            for (row, prompt) in prompts.iter().enumerate() {
                for (got, want) in together.iter().zip(read(&[prompt])) {
                    let off = got.row(row).iter().zip(want.row(0)).map(|(g, w)| (g - w).abs());
                    let off = off.fold(0.0, f32::max);
                    assert!(off < 2e-6, "prompt {row}, memory {memory}: {off:e} off");
                }
            }
        }
    }
}

/// Where each position sees the last `mem_len` only, a memory that slides is the same as one
/// segment of everything.
#[test]
fn a_memory_that_slides() {
    const MEMORY: usize = 8;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("slides");
    std::fs::create_dir_all(&folder).unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(data("../../book").join(file), folder.join(file)).unwrap();
    }
    set_options(&folder, serde_json::json!({ "mem_len": MEMORY, "same_length": true }));
    let model = Model::open(&folder).unwrap();
    let prompt: Vec<i32> = "Ownership is".bytes().map(i32::from).collect();
    let options = Generation { tokens: 3 * MEMORY, ..Generation::default() };
    let made = greedy(&model, &[&prompt], &options);
    let mut ids = prompt.clone();
    for _ in 0..options.tokens {
        let inputs = Inputs::new().ints_of("input_ids.0", &[1, ids.len()], ids.clone());
        let out = model.forward(&inputs, &Device::Cpu).unwrap();
        ids.push(likeliest(&out, "segment.0.log_probs"));
    }
    assert_eq!(made, [&ids[prompt.len()..]]);
}

/// XLNet's next token after segments read in order, by its forward pass: the last one gets a place
/// more, which nothing sees.
fn after_segments(model: &Model, segments: &[Vec<i32>]) -> i32 {
    let mut inputs = Inputs::new();
    for (s, segment) in segments.iter().enumerate() {
        let mut ids = segment.clone();
        if s + 1 == segments.len() {
            let at = vec![ids.len() as i32];
            inputs = inputs.ints_of(&format!("target_positions.{s}"), &[1, 1], at);
            ids.push(7);
        }
        let length = ids.len();
        let later = (0..length * length).map(|n| i32::from(n % length >= n / length)).collect();
        inputs = inputs.ints_of(&format!("perm_mask.{s}"), &[1, length, length], later).ints_of(
            &format!("input_ids.{s}"),
            &[1, length],
            ids,
        );
    }
    let out = model.forward(&inputs, &Device::Cpu).unwrap();
    likeliest(&out, &format!("segment.{}.logits", segments.len() - 1))
}

#[test]
fn xlnets_memory_is_that_of_its_segments_and_a_batch_is_padded() {
    let prompts: [&[i32]; 2] = [&[60, 5, 17, 99, 3, 41], &[8, 110, 23]];
    for memory in [None, Some(4)] {
        let options = serde_json::json!({"mem_len": memory, "reuse_len": null});
        let forward = common::model(&format!("xlnet_{memory:?}"), "xlnet", options);
        // The memory by an option, or by the config.
        let options = serde_json::json!({"mem_len": null});
        let model = common::model("xlnet_all", "xlnet", options);
        let options = Generation { tokens: TOKENS, memory, ..Generation::default() };
        let together = greedy(&model, &prompts, &options);
        for (prompt, together) in prompts.iter().zip(&together) {
            assert_eq!(&greedy(&model, &[prompt], &options)[0], together, "alone, {memory:?}");
            let mut segments = vec![prompt.to_vec()];
            for _ in 0..TOKENS {
                segments.push(vec![after_segments(&forward, &segments)]);
            }
            assert_eq!(segments[1..].concat(), *together, "by segments, {memory:?}");
        }
        // Likeliest tokens forgive much: the states after two more.
        let states = |prompts: &[&[i32]]| {
            let (mut cache, first) = model.begin(prompts, memory, &Device::Cpu).unwrap();
            model.advance(&first, &mut cache, &Device::Cpu).unwrap();
            let step = Ints::new(&[prompts.len(), 2], [33, 71].repeat(prompts.len()));
            model.advance(&step, &mut cache, &Device::Cpu).unwrap()
        };
        let together = states(&prompts);
        for (prompt, together) in prompts.iter().zip(together.data().chunks_exact(64)) {
            common::near(states(&[prompt]).data(), together, "states in a batch");
        }
    }
}

#[test]
fn a_step_reads_its_own_token_and_nothing_else() {
    for (name, start) in [("turing_nlg", None), ("t5", Some(0))] {
        let model = Model::open(&data(name)).unwrap();
        let prompt = &rows(name)[0];
        let (mut cache, first) = model.begin(&[prompt], None, &Device::Cpu).unwrap();
        assert_eq!(first.data, start.map_or_else(|| prompt.clone(), |start| vec![start]));
        model.advance(&first, &mut cache, &Device::Cpu).unwrap();
        let (read, bytes) = (cache.read, cache.bytes());
        let step = Ints::new(&[1, 1], vec![5]);
        let states = model.advance(&step, &mut cache, &Device::Cpu).unwrap();
        assert_eq!(states.shape()[..2], [1, 1]);
        assert_eq!(cache.read, read + 1);
        let one = cache.bytes() - bytes;
        model.advance(&step, &mut cache, &Device::Cpu).unwrap();
        assert_eq!(cache.bytes() - bytes, 2 * one);
    }
}

#[test]
fn a_token_that_stops() {
    let model = Model::open(&data("turing_nlg")).unwrap();
    let prompt = &rows("turing_nlg")[0];
    let options = Generation { tokens: TOKENS, ..Generation::default() };
    let all = greedy(&model, &[prompt], &options).remove(0);
    let stop = all[4];
    let end = all.iter().position(|&id| id == stop).unwrap();
    let rules = Rules { stop: vec![stop], ..Rules::default() };
    let options = Generation { rules, ..options };
    assert_eq!(greedy(&model, &[prompt], &options), [&all[..end]]);
    assert_eq!(model.completed(&Generation::default()).unwrap().rules.stop, [0]);
    assert_eq!(model.completed(&options).unwrap().rules.stop, [0, stop]);
}

#[test]
fn what_does_not_generate_or_does_not_fit() {
    let fails = |name: &str, prompt: &[i32], options: &Generation, words: &str| {
        let model = Model::open(&data(name)).unwrap();
        common::fails(model.generate(&[prompt], options, &Device::Cpu, &mut |_| ()), &[words]);
    };
    let options = Generation { tokens: TOKENS, ..Generation::default() };
    fails("bert", &[1], &options, "model of type bert does not generate");
    fails("gpt", &[120], &options, "must be below 120");
    fails("gpt", &[-1], &options, "input_ids[0] = -1");
    fails("t5", &[120], &options, "must be below 120");
    fails("gpt", &[1; 33], &options, "the position table has 32 rows");
    fails("gpt", &[1; 30], &options, "the position table has 32 rows");
    fails("bart", &[1; 33], &options, "the position table has 32 rows");
    fails("bart", &[1; 3], &Generation { tokens: 99, ..options.clone() }, "position table");
    fails("xlnet", &[120], &options, "must be below 120");
    let backwards = common::model("backwards", "xlnet", serde_json::json!({"bi_data": true}));
    let made = backwards.generate(&[&[1], &[2]], &options, &Device::Cpu, &mut |_| ());
    common::fails(made, &["declined", "bi_data"]);
    fails("gpt", &[1], &Generation { memory: Some(4), ..options }, "memory = 4");
}

/// Texts that transformers 4.57.6 wrote (`generate(do_sample=False)`, in f64, then `decode` without
/// special tokens and the token that ended it) with the fixtures' weights and small tokenizers that
/// its companion `tokenizers` trained: bytes in pairs for GPT-2 and BART, pieces for T5. `rules` is
/// the folder's `generation_config.json`.
const TEXTS: &str = include_str!("texts/generate.json");

#[test]
fn texts_of_the_public_implementation() {
    let all: serde_json::Value = serde_json::from_str(TEXTS).unwrap();
    for (name, set) in all.as_object().unwrap() {
        let folder = common::copy(&format!("texts_{name}"), name);
        std::fs::write(folder.join("tokenizer.json"), set["tokenizer"].to_string()).unwrap();
        for case in set["cases"].as_array().unwrap() {
            let rules = folder.join("generation_config.json");
            match &case["rules"] {
                serde_json::Value::Null => drop(std::fs::remove_file(rules)),
                said => std::fs::write(rules, said.to_string()).unwrap(),
            }
            let model = TextModel::open(&folder).unwrap();
            let tokens = case["tokens"].as_u64().unwrap() as usize;
            let options = Generation { tokens, ..Generation::default() };
            let prompt = case["prompt"].as_str().unwrap();
            let made = model.generate(&[prompt], &options, &Device::Cpu, &mut |_| ()).unwrap();
            assert_eq!(made, [case["text"].as_str().unwrap()], "{name}: {case}");
        }
    }
}

#[test]
fn what_a_folder_says_that_is_not_supported() {
    let folder = common::copy("rules_refused", "bart");
    let refused = |words: &[&str]| {
        // It opens and computes: only continuing is refused.
        let model = Model::open(&folder).unwrap();
        common::fails(model.completed(&Generation::default()), words);
    };
    for (rules, words) in [
        (r#"{"num_beams": 4}"#, ["num_beams = 4", "only 1"]),
        (r#"{"num_return_sequences": 2}"#, ["num_return_sequences", "only 1"]),
        (r#"{"guidance_scale": 1.5}"#, ["guidance_scale", "no such option"]),
        (r#"{"bad_words_ids": [[5]]}"#, ["bad_words_ids", "no such option"]),
        (r#"{"encoder_no_repeat_ngram_size": 3}"#, ["encoder_no_repeat_ngram_size", "only 0"]),
        (r#"{"eos_token_id": [2, "x"]}"#, ["eos_token_id", "must be ids"]),
        (r#"{"eos_token_id": [2, -1]}"#, ["eos_token_id = [2,-1]", "from 0 to 2^31 - 1"]),
        (r#"{"eos_token_id": [4294967298]}"#, ["[4294967298]", "from 0 to 2^31 - 1"]),
        (r#"{"eos_token_id": 4294967298}"#, ["eos_token_id = 4294967298", "from 0 to 2^31 - 1"]),
        (r#"{"forced_bos_token_id": 2147483648}"#, ["= 2147483648", "from 0 to 2^31 - 1"]),
        (
            r#"{"decoder_start_token_id": -1}"#,
            ["decoder_start_token_id = -1", "from 0 to 2^31 - 1"],
        ),
        (r#"{"forced_eos_token_id": [2, 3]}"#, ["forced_eos_token_id", "whole number"]),
        (r#"{"repetition_penalty": 0}"#, ["repetition_penalty", "positive"]),
    ] {
        std::fs::write(folder.join("generation_config.json"), rules).unwrap();
        refused(&[&["generation_config.json"], &words[..]].concat());
    }
    std::fs::remove_file(folder.join("generation_config.json")).unwrap();
    set_options(&folder, serde_json::json!({"num_beams": 4}));
    refused(&["config.json", "num_beams = 4"]);
    let legacy = serde_json::json!({"num_beams": 1, "force_bos_token_to_be_generated": true});
    set_options(&folder, legacy);
    let rules = Model::open(&folder).unwrap().completed(&Generation::default()).unwrap().rules;
    assert_eq!((rules.second, rules.last, rules.start), (Some(0), Some(2), Some(2)));
}
