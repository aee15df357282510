//! The program from outside: exit codes, messages, and files that are whole or not there.

#[path = "../common/mod.rs"]
mod common;
#[cfg(all(feature = "cuda", target_os = "linux"))]
mod simulated;

use common::{Parts, sample, sample_path};
use longhand_cli::container::{Container, Values};
use std::path::{Path, PathBuf};
use std::process::Command;

struct Ran {
    code: i32,
    out: String,
    /// The program's own lines of stderr; graphics drivers write there too.
    complaints: Vec<String>,
    err: String,
}

fn longhand(args: &[&str]) -> Ran {
    ran(&mut program(args))
}

/// The program on a machine without a GPU: what needs one must say that there is none.
fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longhand"));
    command.args(args).env("LONGHAND_ADAPTER", "no such adapter");
    // A driver shows no device then; where there is no driver it changes nothing.
    command.env("CUDA_VISIBLE_DEVICES", "-1");
    command
}

fn ran(command: &mut Command) -> Ran {
    let output = command.output().expect("the program runs");
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    Ran {
        code: output.status.code().expect("an exit code, not a signal"),
        out: String::from_utf8(output.stdout).expect("UTF-8"),
        complaints: err
            .lines()
            .filter(|line| line.starts_with("longhand: "))
            .map(str::to_owned)
            .collect(),
        err,
    }
}

/// An empty folder for one test.
fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).expect("a folder");
    path
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> String {
    let path = folder.join(name);
    std::fs::write(&path, bytes).expect("a file");
    path.to_str().expect("UTF-8").to_owned()
}

/// The program refuses with exit code 2 and one line that holds `words`.
fn assert_refused(args: &[&str], words: &[&str]) {
    let ran = longhand(args);
    assert_eq!(ran.code, 2, "{args:?}: {}", ran.err);
    assert_eq!(ran.complaints.len(), 1, "{args:?}: {}", ran.err);
    for word in words {
        assert!(ran.complaints[0].contains(word), "{word:?} is not in {}", ran.complaints[0]);
    }
    assert!(!ran.err.contains("panicked") && !ran.err.contains("backtrace"), "{}", ran.err);
}

fn sample_arg(name: &str) -> String {
    sample_path(name).to_str().expect("UTF-8").to_owned()
}

#[test]
fn every_command_explains_itself_with_examples() {
    for command in ["run", "check", "doctor", "bench", "sources"] {
        let ran = longhand(&[command, "--help"]);
        assert_eq!(ran.code, 0);
        assert!(ran.out.contains("Examples:\n  longhand "), "{}", ran.out);
    }
    assert!(longhand(&["--help"]).out.contains("Exit codes:"));
    assert_eq!(longhand(&["--version"]).code, 0);
}

#[test]
fn wrong_usage_is_one_line_and_exit_code_2() {
    assert_refused(&["fly"], &["'fly'"]);
    assert_refused(&["check", "--device", "cpu"], &["<FILE>"]);
    assert_refused(&["check", "f", "--device", "tpu"], &["'tpu'", "webgpu"]);
    assert_refused(&["check", "f", "--device", "cpu", "--dtype", "f64"], &["f32, f16 or bf16"]);
    assert_refused(&["run", "f", "--device", "cpu"], &["--output"]);
    assert_refused(&["bench", "full", "--device", "cpu", "--lengths", "x"], &["'x'"]);
    assert_refused(&["bench", "--device", "cpu", "--heads", "3", "--heads-kv", "2"], &["multiple"]);
    assert_refused(&["bench", "transformer_xl", "--segments"], &["--segments", "has none"]);
    assert_refused(&["bench", "xlnet", "--chunk-size", "4"], &["--chunk-size", "has none"]);
    assert_refused(&["bench", "rel_pos", "--left-chunks", "4"], &["--chunk-size"]);
    assert_refused(&["bench", "rel_pos", "--chunk-size", "0"], &["chunks.size", "from 1"]);
    assert_refused(&["bench", "lsh", "--heads-kv", "2"], &["--heads-kv", "has none"]);
    assert_refused(&["bench", "--device", "cpu", "--lengths", "2147483647"], &["bytes"]);
    assert_refused(&["bench", "--device", "cpu", "--lengths", "9999999999"], &["below 2^31"]);
    assert_refused(&["sources", "full", "--head-dim", "0"], &["head_dim"]);
    assert_refused(&["sources", "full", "--ragged", "--bias"], &["not defined for ragged"]);
    assert_refused(&["sources", "fulll"], &["must be one of full"]);
}

#[test]
fn what_is_not_here_is_declined_and_says_so() {
    let file = sample_arg("length1");
    let absent = if cfg!(feature = "cuda") { "no device" } else { "not in this build" };
    assert_refused(&["check", &file, "--device", "cuda"], &[absent]);
    assert_refused(&["sources", "flash"], &["must be one of full"]);
    assert_refused(&["bench", "flash"], &["must be one of full"]);
    let folder = folder("declined");
    let other =
        write(&folder, "x.safetensors", &Parts::of("length1").metadata("op", "xlnet").bytes());
    assert_refused(&["check", &other, "--device", "cpu"], &["x.safetensors", "op 'xlnet'"]);
}

#[test]
fn an_absent_device_is_no_panic() {
    let file = sample_arg("length1");
    assert_refused(&["check", &file, "--device", "webgpu"], &[]);
}

#[test]
fn check_passes_right_values_in_every_dtype() {
    for dtype in ["f32", "f16", "bf16"] {
        let files = [sample_arg("combined"), sample_arg("varlen_window_alibi")];
        for device in ["cpu", "reference"] {
            let ran =
                longhand(&["check", &files[0], &files[1], "--device", device, "--dtype", dtype]);
            assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
            assert!(ran.out.contains("11 passed, 0 failed, 0 declined in 2 files"), "{}", ran.out);
        }
    }
}

#[test]
fn check_fails_a_wrong_value_by_name_and_exits_1() {
    let folder = folder("wrong");
    let mut parts = Parts::of("gqa_h4_kv2_causal");
    let Some(Values::F64(x)) = parts.tensors.get_mut("expected.grad.k").map(|t| &mut t.values)
    else {
        panic!("expected.grad.k");
    };
    x[5] += 1e-3;
    let wrong = write(&folder, "wrong.safetensors", &parts.bytes());
    let ran = longhand(&["check", &wrong, "--device", "cpu"]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    let failed: Vec<&str> = ran.out.lines().filter(|l| l.contains("FAILED")).collect();
    assert!(failed.len() == 1 && failed[0].contains("grad.k"), "{}", ran.out);
    assert!(ran.out.contains("4 passed, 1 failed"), "{}", ran.out);

    let cut = write(&folder, "cut.safetensors", &sample("length1")[..4000]);
    let ran = longhand(&["check", &cut, &wrong, "--device", "cpu"]);
    assert_eq!((ran.code, ran.complaints.len()), (1, 1), "a failure outranks a bad file");
}

#[test]
fn a_bad_file_is_named_and_the_others_are_still_checked() {
    let folder = folder("bad");
    let cut = write(&folder, "cut.safetensors", &sample("length1")[..4000]);
    let good = sample_arg("length1");
    let ran = longhand(&["check", &cut, &good, "--device", "cpu"]);
    assert_eq!(ran.code, 2);
    assert_eq!(ran.complaints.len(), 1);
    assert!(ran.complaints[0].contains("cut.safetensors") && ran.complaints[0].contains("cut"));
    assert!(
        ran.out.contains("5 passed") && ran.out.contains("1 files not computed"),
        "{}",
        ran.out
    );
    assert_refused(&["check", "nowhere.safetensors", "--device", "cpu"], &["nowhere.safetensors"]);
    let folder = folder.to_str().expect("UTF-8");
    assert_refused(&["check", folder, "--device", "cpu"], &["not a regular file"]);
}

/// Samples whose queries stand at positions of their own: all of them in another order, so that what
/// the files say of every gradient stays true; and some of them, one twice, with results of their
/// own only.
fn samples_at_targets(folder: &Path) -> Vec<String> {
    let mut files = vec![];
    let samples = [
        ("bi_two_streams_mem", "_g", 18),
        ("same_length", "", 20),
        ("cached_keys_6_chunk_4", "", 9),
    ];
    for (name, suffix, segment_len) in samples {
        let order: Vec<i32> = (0..segment_len).map(|n| n * 7 % segment_len).collect();
        let all = Parts::of(name).at_targets(suffix, &order);
        files.push(write(folder, &format!("{name}_all.safetensors"), &all.bytes()));
        let mut some = Parts::of(name).at_targets(suffix, &[segment_len - 1, 2, 2, 0]);
        let own = format!("expected.grad.q{suffix}");
        some.tensors.retain(|name, _| !name.starts_with("expected.grad.") || *name == own);
        files.push(write(folder, &format!("{name}_some.safetensors"), &some.bytes()));
    }
    files
}

#[test]
fn queries_stand_where_a_files_targets_say() {
    let folder = folder("targets");
    let files = samples_at_targets(&folder);
    for (device, dtype) in [("reference", "f32"), ("cpu", "f32"), ("cpu", "bf16")] {
        let common = ["check", "--device", device, "--dtype", dtype];
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        let ran = longhand(&[&common[..], &files[..]].concat());
        assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
        assert!(ran.out.contains("40 passed, 0 failed, 0 declined in 6 files"), "{}", ran.out);
    }
    // Two queries change places, and the file does not say so.
    let mut parts = Parts::of("bi_two_streams_mem").at_targets("_g", &[4, 9, 13]);
    parts.tensors.retain(|name, _| !name.starts_with("expected.grad."));
    let moved = parts.tensor("targets", &[1, 3], Values::I32(vec![4, 13, 9]));
    let moved = write(&folder, "moved.safetensors", &moved.bytes());
    let ran = longhand(&["check", &moved, "--device", "cpu"]);
    assert_eq!(ran.code, 1, "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("2 passed, 2 failed"), "{}", ran.out);

    let output = folder.join("result.safetensors");
    let args = ["run", &moved, "--device", "cpu", "--output", output.to_str().expect("UTF-8")];
    assert_eq!(longhand(&args).code, 0);
    let result = std::fs::read(&output).expect("a result");
    let result = Container::parse(&result).expect("a container");
    assert_eq!(result.info("out_g"), Some(("F32".to_owned(), vec![1, 3, 1, 16])));
    assert_eq!(result.info("out"), Some(("F32".to_owned(), vec![1, 18, 1, 16])));
}

#[test]
fn check_without_expectations_checks_nothing_and_says_so() {
    let folder = folder("nothing");
    let mut parts = Parts::of("length1");
    parts.tensors.retain(|name, _| !name.starts_with("expected."));
    let file = write(&folder, "f.safetensors", &parts.bytes());
    assert_refused(&["check", &file, "--device", "cpu"], &["nothing to check"]);
}

#[test]
fn check_speaks_json() {
    let file = sample_arg("softcap_causal");
    let ran = longhand(&["check", &file, "nowhere", "--device", "cpu", "--json"]);
    assert_eq!(ran.code, 2);
    let report: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(report["summary"]["passed"], 5);
    assert_eq!(report["files"][0]["results"][0]["name"], "out");
    assert_eq!(report["files"][0]["results"][0]["verdict"], "passed");
    assert!(report["files"][0]["results"][0]["tolerance"].as_f64().expect("a number") > 0.0);
    assert!(report["files"][1]["error"].as_str().expect("text").contains("nowhere"));
}

#[test]
fn run_writes_every_result_as_f32_and_the_same_bytes_each_time() {
    let folder = folder("run");
    let input = sample_arg("combined");
    let output = folder.join("result.safetensors");
    let path = output.to_str().expect("UTF-8");
    let args = ["run", &input, "--device", "cpu", "--dtype", "f16", "--output", path];
    assert_eq!(longhand(&args).code, 0);
    let forward = std::fs::read(&output).expect("a result");
    let file = Container::parse(&forward).expect("a container");
    assert_eq!(file.names(), ["lse", "out"]);
    assert_eq!(file.info("out"), Some(("F32".to_owned(), vec![1, 15, 4, 16])));
    assert_eq!(file.info("lse"), Some(("F32".to_owned(), vec![1, 4, 15])));
    assert_eq!(file.metadata["dtype"], "f16");

    let args = ["run", &input, "--device", "cpu", "--backward", "--output", path];
    assert_eq!(longhand(&args).code, 0);
    let first = std::fs::read(&output).expect("a result");
    let file = Container::parse(&first).expect("a container");
    assert_eq!(file.names(), ["grad.bias", "grad.k", "grad.q", "grad.v", "lse", "out"]);
    let (Some(Values::F32(got)), Some(Values::F64(want))) = (
        file.tensor("grad.bias").map(|t| t.values),
        Parts::of("combined").tensors.remove("expected.grad.bias").map(|t| t.values),
    ) else {
        panic!("grad.bias");
    };
    assert!(got.iter().zip(&want).all(|(&g, &w)| g == w as f32));
    assert_eq!(longhand(&args).code, 0);
    assert_eq!(std::fs::read(&output).expect("a result"), first);
    assert_eq!(std::fs::read_dir(&folder).expect("the folder").count(), 1, "only the result");
}

#[test]
fn run_ignores_what_a_file_expects() {
    let folder = folder("ignores");
    let parts = Parts::of("length1").tensor("expected.nonsense", &[1], Values::U8(vec![7]));
    let input = write(&folder, "f.safetensors", &parts.bytes());
    let output = write(&folder, "out.safetensors", b"old");
    assert_eq!(longhand(&["run", &input, "--device", "cpu", "--output", &output]).code, 0);
}

#[test]
fn a_failed_run_leaves_an_existing_output_alone_and_nothing_behind() {
    let folder = folder("alone");
    let output = write(&folder, "out.safetensors", b"precious");
    let cut = write(&folder, "cut.safetensors", &sample("length1")[..4000]);
    let mut parts = Parts::of("length1");
    parts.tensors.retain(|name, _| !name.contains("grad"));
    let forward = write(&folder, "forward.safetensors", &parts.bytes());
    let entries = || std::fs::read_dir(&folder).expect("the folder").count();
    let before = entries();
    assert_refused(&["run", &cut, "--device", "cpu", "--output", &output], &["cut.safetensors"]);
    let args = ["run", &forward, "--device", "cpu", "--backward", "--output", &output];
    assert_refused(&args, &["forward.safetensors", "grad.out", "--backward"]);
    let input = sample_arg("length1");
    assert_refused(&["run", &input, "--device", "webgpu", "--output", &output], &[]);
    assert_refused(&["run", &input, "--device", "cuda", "--output", &output], &[]);
    assert_eq!(std::fs::read(&output).expect("the output"), b"precious");

    let nowhere = folder.join("no/such/folder/out.safetensors");
    let nowhere = nowhere.to_str().expect("UTF-8");
    assert_refused(&["run", &input, "--device", "cpu", "--output", nowhere], &["out.safetensors"]);
    let itself = folder.to_str().expect("UTF-8");
    assert_refused(&["run", &input, "--device", "cpu", "--output", itself], &["is a folder"]);
    assert_eq!(entries(), before);
}

#[test]
fn bench_measures_and_writes_json_and_svg() {
    let folder = folder("bench");
    let (json, svg) = (folder.join("b.json"), folder.join("b.svg"));
    let ran = longhand(&[
        "bench",
        "full",
        "--device",
        "reference",
        "--lengths",
        "16,32",
        "--heads",
        "2",
        "--causal",
        "--json",
        json.to_str().expect("UTF-8"),
        "--svg",
        svg.to_str().expect("UTF-8"),
    ]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.lines().count() == 4 && ran.out.contains("TFLOP/s"), "{}", ran.out);
    assert!(ran.out.contains("time ~ length^"), "{}", ran.out);
    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&json).expect("JSON")).expect("JSON");
    assert_eq!(report["rows"][1]["seqlen"], 32);
    assert_eq!(report["rows"][1]["dense_bytes"], 4 * 2 * 32 * 32);
    assert!(std::fs::read_to_string(&svg).expect("SVG").contains("<polyline"));

    // Relative positions in chunks, with shared keys.
    let chunks = ["--chunk-size", "4", "--left-chunks", "1", "--heads", "4", "--heads-kv", "2"];
    let common = ["bench", "rel_pos", "--device", "cpu", "--lengths", "16", "--repeats", "1"];
    let ran = longhand(&[&common[..], &chunks[..]].concat());
    assert_eq!(ran.code, 0, "{}", ran.err);

    // Another kind beside what was written.
    let [json, svg] = [&json, &svg].map(|path| path.to_str().expect("UTF-8"));
    let common = ["bench", "longformer", "--device", "reference", "--lengths", "16", "--svg", svg];
    let ran = longhand(&[&common[..], &["--with", json]].concat());
    assert_eq!(ran.code, 0, "{}", ran.err);
    let text = std::fs::read_to_string(svg).expect("SVG");
    for name in ["longformer, window 256+1+256, 16 globals", "full, causal, heads_q 2"] {
        assert_eq!(text.matches(name).count(), 2, "{text}");
    }
    let relative = ["bench", "transformer_xl", "--device", "cpu", "--lengths", "16,32"];
    let ran = longhand(&[&relative[..], &["--memory", "same", "--svg", svg]].concat());
    assert_eq!(ran.code, 0, "{}", ran.err);
    let text = std::fs::read_to_string(svg).expect("SVG");
    assert!(text.contains("transformer_xl, memory as long as the segment"), "{text}");
    assert_refused(&["bench", "transformer_xl", "--memory", "x"], &["--memory", "'same'"]);

    assert_refused(&[&common[..], &["--with", svg]].concat(), &["b.svg"]);
    std::fs::write(json, "{}").expect("a file");
    assert_refused(&[&common[..], &["--with", json]].concat(), &["b.json", "--json"]);
}

#[test]
fn doctor_reports_every_device_and_why_one_is_absent() {
    let ran = longhand(&["doctor", "--json"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let report: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
    let devices = report["devices"].as_array().expect("devices");
    let names: Vec<_> = devices.iter().map(|d| d["name"].as_str().expect("a name")).collect();
    assert_eq!(names, ["reference", "cpu", "webgpu", "cuda"]);
    assert!(devices.iter().all(|d| !d["what"].as_str().expect("text").is_empty()));
    assert_eq!(devices[2]["available"], false, "no adapter has that name");
    let text = longhand(&["doctor"]).out;
    assert!(
        text.contains("cuda       NOT AVAILABLE") && text.contains("forward by kernels, gradients")
    );
}

#[cfg(feature = "webgpu")]
#[test]
fn sources_prints_what_would_run() {
    let ran = longhand(&["sources", "full", "--causal", "--head-dim", "128"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains("@compute"), "{}", ran.out);
    assert_eq!(ran.out, longhand(&["sources", "full", "--causal", "--head-dim", "128"]).out);
}

#[cfg(feature = "cuda")]
#[test]
fn sources_prints_ptx_on_a_machine_without_a_gpu() {
    for target in ["sm80", "sm90a"] {
        let ran = longhand(&["sources", "full", "--target", target, "--dtype", "bf16"]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert!(ran.out.contains(".visible .entry full_forward"), "{}", ran.out);
    }
    assert_refused(&["sources", "full", "--target", "sm80", "--this-gpu"], &["no device"]);
    let ran = longhand(&["sources", "sinusoids", "--target", "sm80", "--dtype", "f16"]);
    assert!(ran.out.contains(".visible .entry transformer_xl_sinusoids"), "{}", ran.err);
    assert_refused(&["sources", "sinusoids", "--target", "sm80", "--head-dim", "7"], &["width"]);
    let ran = longhand(&["sources", "merge", "--target", "sm80", "--dtype", "bf16"]);
    assert!(ran.out.contains(".visible .entry merge_results"), "{}", ran.err);
    let ran = longhand(&["sources", "merge", "--head-dim", "6"]);
    assert!(ran.out.contains("merge(parts.x, parts.y)"), "{}", ran.err);
    assert_refused(&["sources", "merge", "--interleaved"], &["--interleaved", "merge"]);
    assert_refused(&["sources", "lsh", "--interleaved"], &["--interleaved: lsh has none"]);
}

#[test]
fn without_arguments_the_samples_run_on_every_device_there_is() {
    let ran = longhand(&[]);
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("webgpu   not available"), "{}", ran.out);
    assert!(ran.out.contains("69 results, 0 disagree"), "{}", ran.out);
}
