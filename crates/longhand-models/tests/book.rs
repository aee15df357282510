//! Trained weights on a real text: the Transformer-XL of the folder `book`, against what its public
//! implementation (transformers 4.57.6) computed in f64.

use longhand_models::{Device, Error, Generation, Reading, Result, TextModel};
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

/// The largest error of outputs in f32 that the guide to the fixtures allows.
const TOLERANCE: f64 = 1e-5;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn book() -> TextModel {
    TextModel::open(&folder("book")).unwrap()
}

/// What the model makes of a text: the whole, and −log p of each byte but the first.
fn read(text: &[u8], segment: usize, memory: usize) -> Result<(Reading, Vec<f64>)> {
    read_on(&Device::Cpu, text, segment, memory)
}

fn read_on(
    device: &Device,
    text: &[u8],
    segment: usize,
    memory: usize,
) -> Result<(Reading, Vec<f64>)> {
    let mut nlls = Vec::new();
    let reading = book().read(&mut &text[..], segment, Some(memory), device, &mut |part| {
        nlls.extend_from_slice(part);
        Ok(())
    })?;
    Ok((reading, nlls))
}

/// Every segment and memory length against the public implementation.
fn agrees(segment: usize, memory: usize) {
    agrees_on(&Device::Cpu, segment, memory, usize::MAX);
}

/// The same of the text's first bytes.
fn agrees_on(device: &Device, segment: usize, memory: usize, bytes: usize) {
    let mut text = std::fs::read(folder("book/text.txt")).unwrap();
    text.truncate(bytes);
    let (reading, got) = read_on(device, &text, segment, memory).unwrap();
    let bytes = std::fs::read(folder("tests/book/expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let want = expected.tensor(&format!("nll.segment{segment}.memory{memory}")).unwrap();
    let want = want.data().as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b));
    let want: Vec<f64> = want.take(text.len() - 1).collect();
    assert_eq!((got.len(), want.len()), (text.len() - 1, text.len() - 1));
    let off = got.iter().zip(&want).map(|(g, w)| (g - w).abs()).fold(0.0, f64::max);
    let most = want.iter().fold(1.0, |most: f64, x| most.max(x.abs()));
    assert!(off / most <= TOLERANCE, "off by {:.2e}", off / most);
    let mean = want.iter().sum::<f64>() / want.len() as f64 / std::f64::consts::LN_2;
    assert!((reading.bits_per_byte() - mean).abs() <= TOLERANCE);
}

#[test]
fn the_beginning_on_webgpu() {
    match Device::named("webgpu") {
        Ok(device) => agrees_on(&device, 96, 96, 3 * 96),
        Err(why) => {
            let required = std::env::var("LONGHAND_REQUIRE").unwrap_or_default();
            assert!(!required.contains("webgpu"), "LONGHAND_REQUIRE={required}, but {why}");
            eprintln!("SKIPPED: {why}");
        }
    }
}

#[test]
fn without_memory() {
    agrees(96, 0);
}

#[test]
fn with_a_memory_of_a_segment() {
    agrees(96, 96);
}

#[test]
fn with_a_memory_of_four_segments() {
    agrees(96, 384);
}

#[test]
fn with_segments_that_do_not_divide_the_memory() {
    agrees(33, 96);
}

#[test]
fn the_likeliest_continuation_is_the_published_one() {
    let text = std::fs::read_to_string(folder("tests/book/generate.json")).unwrap();
    let published: serde_json::Value = serde_json::from_str(&text).unwrap();
    let prompt = published["prompt"].as_str().unwrap();
    let memory = published["memory"].as_u64().map(|n| n as usize);
    let greedy = published["greedy"].as_str().unwrap();
    let options = Generation { tokens: greedy.len(), memory, ..Generation::default() };
    let added = book().generate(&[prompt], &options, &Device::Cpu, &mut |_| ()).unwrap();
    assert_eq!(added, [greedy]);
}

#[test]
fn draws_are_the_seeds_own() {
    let model = book();
    let draw = |prompts: &[&str], seed: u64| {
        let options =
            Generation { tokens: 24, temperature: 0.8, top_p: 0.9, seed, ..Generation::default() };
        model.generate(prompts, &options, &Device::Cpu, &mut |_| ()).unwrap()
    };
    let one = draw(&["The String type"], 1);
    assert_eq!(draw(&["The String type"], 1), one);
    assert_ne!(draw(&["The String type"], 2), one);
    // In a batch, each sequence draws for itself.
    let two = draw(&["The String type", "The String type"], 1);
    assert_eq!(two[0], one[0]);
    assert_ne!(two[1], two[0]);
}

#[test]
fn what_is_kept_does_not_grow_with_the_text() {
    let text = std::fs::read(folder("book/text.txt")).unwrap();
    let kept = |bytes: usize| read(&text[..bytes], 32, 64).unwrap().0.memory_bytes;
    // Keys and values of 64 positions, and a table of 96 distances, in 4 layers of width 96.
    assert_eq!(kept(96), 4 * (2 * 64 + 96) * 96 * 4);
    assert_eq!(kept(960), kept(96));
}

#[test]
fn texts_that_are_none() {
    let fails = |text: &[u8], segment: usize, words: &str| {
        let error = read(text, segment, 0).expect_err("an error").to_string();
        assert!(error.contains(words), "{error}");
    };
    fails(b"", 8, "at least two bytes");
    fails(b"a", 8, "at least two bytes");
    fails(b"ab", 0, "segment = 0");
    fails(b"caf\xe9 au lait", 8, "not UTF-8 at byte 3");
    fails(b"caf\xc3", 8, "not UTF-8 at byte 3");
    // A character over the end of a part that is read at once: no fault.
    let text = format!("{}é!", "a".repeat(4095));
    assert_eq!(read(text.as_bytes(), 2048, 0).unwrap().1.len(), text.len() - 1);
    let bad = Error::input("no more");
    let stopped =
        book().read(&mut &b"some text"[..], 4, None, &Device::Cpu, &mut |_| Err(bad.clone()));
    assert_eq!(stopped.err(), Some(bad));
}

#[test]
fn prompts_that_are_none() {
    let fails = |prompts: &[&str], options: Generation, words: &str| {
        let error = book().generate(prompts, &options, &Device::Cpu, &mut |_| ());
        let error = error.expect_err("an error").to_string();
        assert!(error.contains(words), "{error}");
    };
    let plain = Generation::default();
    fails(&[], plain.clone(), "at least one");
    fails(&["a", ""], plain.clone(), "prompt 1: must not be empty");
    fails(&["a"], Generation { memory: Some(1 << 40), ..plain.clone() }, "memory");
    fails(&["a"], Generation { temperature: -1.0, ..plain.clone() }, "temperature = -1");
    fails(&["a"], Generation { temperature: f64::NAN, ..plain.clone() }, "temperature");
    fails(&["a"], Generation { top_p: 0.0, ..plain.clone() }, "top_p = 0");
    fails(&["a"], Generation { top_p: 1.5, ..plain }, "top_p = 1.5");
}
