//! `longhand model` from outside: what it writes, and what it refuses.

use longhand_cli::container::{Container, Tensor, Values, encode};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../longhand-models/tests/data").join(name)
}

fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longhand"));
    command.arg("model").args(args);
    command
}

fn model(args: &[&str]) -> Output {
    command(args).output().expect("the program runs")
}

/// `model run` of a folder with another's inputs.
fn run_command(folder: &Path, input: &Path, output: &Path, device: &str) -> Command {
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let (folder, input, output) = (text(folder), text(input), text(output));
    command(&["run", &folder, "--input", &input, "--output", &output, "--device", device])
}

fn run(folder: &Path, input: &Path, output: &Path, device: &str) -> Output {
    run_command(folder, input, output, device).output().expect("the program runs")
}

/// Whether this build has a device, and so has this machine, unless one is required.
fn has(device: &str, ran: &Output) -> bool {
    let err = String::from_utf8_lossy(&ran.stderr);
    let absent = err.contains("no WebGPU adapter") || err.contains("this build");
    let required = std::env::var("LONGHAND_REQUIRE").unwrap_or_default();
    if absent && !required.contains(device) {
        eprintln!("SKIPPED: {err}");
        return false;
    }
    true
}

fn assert_refused(ran: &Output, words: &[&str]) {
    let err = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(2), "{err}");
    assert_eq!(err.lines().count(), 1, "{err}");
    for word in words {
        assert!(err.contains(word), "{word:?} is not in {err}");
    }
}

#[test]
fn run_writes_every_result_and_the_same_on_every_device() {
    let folder = fixture("bert");
    let mut losses = Vec::new();
    for device in ["cpu", "reference", "webgpu"] {
        let output = scratch(&format!("model_{device}.safetensors"));
        let ran = run(&folder, &folder.join("input.safetensors"), &output, device);
        if !has(device, &ran) {
            continue;
        }
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let out = String::from_utf8(ran.stdout).expect("UTF-8");
        assert!(out.contains("prediction_logits [3, 13, 120]\n"), "{out}");
        let bytes = std::fs::read(&output).expect("the output");
        let file = Container::parse(&bytes).expect("a safetensors file");
        assert_eq!(file.metadata["device"], device);
        let expected = std::fs::read(folder.join("expected.safetensors")).expect("a file");
        for name in Container::parse(&expected).expect("a safetensors file").names() {
            assert!(file.info(&name).is_some(), "{name} is not in the output");
        }
        let Values::F32(loss) = file.tensor("loss").expect("a loss").values else { panic!() };
        losses.push(loss[0]);
    }
    assert!(losses.iter().all(|l| (l - losses[0]).abs() <= 1e-5 * losses[0].abs()), "{losses:?}");
}

#[test]
fn rules_run_from_given_draws_or_from_a_seed_and_refuse_what_does_not_fit() {
    let (mlm, t5) = (fixture("rule_mlm_masking"), fixture("rule_t5_span_corruption"));
    let output = scratch("rule.safetensors");
    let ran = run(&mlm, &mlm.join("input.safetensors"), &output, "cpu");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let out = String::from_utf8(ran.stdout).expect("UTF-8");
    assert!(out.contains("whole_word.labels [3, 40]\n"), "{out}");

    let ints = |shape: &[usize], data: Vec<i32>| Tensor {
        shape: shape.to_vec(),
        values: Values::I32(data),
    };
    let tokens = ("tokens".to_owned(), ints(&[20], (50..70).collect()));
    let input = scratch("rule_input.safetensors");
    let write = |tensors: &[(String, Tensor)]| {
        let bytes = encode(&BTreeMap::new(), &tensors.iter().cloned().collect());
        std::fs::write(&input, bytes).expect("a file");
    };
    std::fs::write(&output, "kept").expect("a file");
    write(std::slice::from_ref(&tokens));
    assert_refused(&run(&t5, &input, &output, "cpu"), &["keep_shuffle", "absent"]);
    let short = ("keep_shuffle".to_owned(), ints(&[3], vec![0, 1, 1]));
    write(&[tokens.clone(), short]);
    assert_refused(&run(&t5, &input, &output, "cpu"), &["keep_shuffle", "permutation"]);
    assert_eq!(std::fs::read(&output).expect("a file"), b"kept");
    write(&[tokens, ("seed".to_owned(), ints(&[1], vec![5]))]);
    let ran = run(&t5, &input, &output, "cpu");
    assert!(String::from_utf8_lossy(&ran.stdout).contains("noise_mask [20]\n"));
}

#[test]
fn what_is_no_model_or_no_input_is_refused_and_leaves_the_output_alone() {
    let (bert, gpt) = (fixture("bert"), fixture("gpt"));
    let (input, output) = (bert.join("input.safetensors"), scratch("model_kept.safetensors"));
    std::fs::write(&output, "kept").expect("a file");
    assert_refused(&run(&scratch("no_model"), &input, &output, "cpu"), &["no_model", "folder"]);
    assert_refused(&run(&bert, &bert.join("config.json"), &output, "cpu"), &["config.json"]);
    assert_refused(&run(&bert, &scratch("none"), &output, "cpu"), &["none"]);
    let mut absent = run_command(&bert, &input, &output, "webgpu");
    let ran = absent.env("LONGHAND_ADAPTER", "no such adapter").output().expect("it runs");
    assert_refused(&ran, if cfg!(feature = "webgpu") { &["adapter"] } else { &["declined"] });
    // Its sequences are not those of a model of words.
    let other = fixture("mockingjay").join("input.safetensors");
    assert_refused(&run(&gpt, &other, &output, "cpu"), &["input_ids", "absent"]);
    assert_eq!(std::fs::read(&output).expect("a file"), b"kept");
    let text = scratch("lines.txt");
    std::fs::write(&text, b"tea\nmilk\ncaf\xe9\n").expect("a file");
    let text = text.to_str().expect("UTF-8");
    let folder = bert.to_str().expect("UTF-8");
    let words = ["lines.txt", "UTF-8", "line 3"];
    assert_refused(&model(&["nearest", folder, "--text", text, "--query", "x"]), &words);
    let absent = scratch("no text");
    let none = absent.to_str().expect("UTF-8");
    assert_refused(&model(&["nearest", folder, "--text", none, "--query", "x"]), &["no text"]);
    std::fs::write(text, "coffee\n").expect("a file");
    assert_refused(&model(&["nearest", folder, "--text", text, "--query", "x"]), &["modules.json"]);
}

fn book() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../longhand-models/book")
}

#[test]
fn perplexity_writes_a_number_for_every_byte_but_the_first() {
    let (folder, text) = (book(), scratch("beginning.txt"));
    let whole = std::fs::read(folder.join("text.txt")).expect("a text");
    std::fs::write(&text, &whole[..1000]).expect("a file");
    let output = scratch("nll.safetensors");
    let [folder, text, to] = [&folder, &text, &output].map(|p| p.to_str().expect("UTF-8"));
    let limits = ["--segment", "64", "--memory", "32"];
    let args = [&["perplexity", folder, "--text", text, "--output", to][..], &limits].concat();
    let ran = model(&args);
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let bytes = std::fs::read(&output).expect("the output");
    let file = Container::parse(&bytes).expect("a safetensors file");
    assert_eq!(file.metadata["device"], "cpu");
    let nll = file.tensor("nll").expect("a tensor");
    assert_eq!((file.names(), nll.shape), (vec!["nll".to_owned()], vec![999]));
    let Values::F64(nll) = nll.values else { panic!("not F64") };
    let bits = nll.iter().sum::<f64>() / 999.0 / std::f64::consts::LN_2;
    let out = String::from_utf8(ran.stdout).expect("UTF-8");
    assert!(out.starts_with(&format!("{bits:.4} bits per byte over 999 bytes")), "{out}");
}

#[test]
fn a_text_that_is_none_leaves_no_file_behind() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no_text");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder");
    let (text, output) = (folder.join("text.txt"), folder.join("nll.safetensors"));
    // Numbers of the first segments are written before the fault is met.
    std::fs::write(&text, [&[b'a'; 9000][..], b"caf\xe9"].concat()).expect("a file");
    let [text, to] = [&text, &output].map(|p| p.to_str().expect("UTF-8"));
    let book = book();
    let book = book.to_str().expect("UTF-8");
    let refused = |folder: &str, text: &str, words: &[&str]| {
        assert_refused(&model(&["perplexity", folder, "--text", text, "--output", to]), words);
    };
    refused(book, text, &["text.txt", "not UTF-8 at byte 9003"]);
    refused(book, "none.txt", &["none.txt"]);
    refused(book, book, &["not a regular file"]);
    refused(fixture("bert").to_str().expect("UTF-8"), text, &["tokenizer.json"]);
    let left: Vec<_> = std::fs::read_dir(&folder).expect("a folder").collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn generate_prints_what_it_adds() {
    let folder = book();
    let folder = folder.to_str().expect("UTF-8");
    let args = ["generate", folder, "--prompt", "Ownership is", "--memory", "384"];
    let ran = model(&[&args[..], &["--tokens", "16"]].concat());
    assert_eq!(String::from_utf8_lossy(&ran.stdout), " a second to\nthe\n");
    let drawn = ["--tokens", "16", "--temperature", "0.8", "--top-p", "0.9", "--seed", "7"];
    let [one, two] = [0, 1].map(|_| model(&[&args[..], &drawn].concat()).stdout);
    assert!(one == two && one.len() > 16, "{}", String::from_utf8_lossy(&one));
    assert_refused(&model(&[&args[..], &["--top-p", "2"]].concat()), &["top_p = 2"]);
    assert_refused(&model(&["generate", folder, "--prompt", ""]), &["prompt 0", "empty"]);
}
