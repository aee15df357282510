//! The program's device `cuda`, on the stand-in for NVIDIA's driver.

use super::*;

fn simulated(args: &[&str]) -> Ran {
    let program_of_test = std::env::current_exe().expect("a path");
    let beside = program_of_test.parent().expect("a folder");
    let mut command = program(args);
    command.env("LD_PRELOAD", beside.join("liblonghand_mock_cuda.so"));
    command.env_remove("CUDA_VISIBLE_DEVICES");
    ran(&mut command)
}

#[test]
fn doctor_says_that_the_device_is_simulated() {
    let ran = simulated(&["doctor"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let line = ran.out.lines().find(|line| line.starts_with("cuda")).expect("a line");
    assert!(line.contains("PTX-SIM sm_80 (not a GPU)"), "{line}");
    assert!(line.contains("simulated"), "{line}");
}

#[test]
fn doctor_says_what_runs_for_every_dialect_of_relative_positions() {
    let out = simulated(&["doctor"]).out;
    for kind in ["transformer_xl", "xlnet", "rel_pos"] {
        for dtype in ["f32", "f16"] {
            let name = format!("{kind} {dtype} head_dim 64 seqlen 2048 after");
            let line = out.lines().find(|line| line.contains(&name));
            let line = line.unwrap_or_else(|| panic!("no {name} in {out}"));
            assert!(line.contains("sm_80 tile 64x"), "{line}");
            assert_eq!(line.contains(", segments, targets"), kind == "xlnet", "{line}");
        }
    }
}

#[test]
fn samples_agree_in_every_dtype() {
    for dtype in ["f32", "f16", "bf16"] {
        let files = [sample_arg("length1"), sample_arg("varlen_window_alibi")];
        let ran = simulated(&["check", &files[0], &files[1], "--device", "cuda", "--dtype", dtype]);
        assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
        assert!(ran.out.contains(" 0 failed"), "{}", ran.out);
    }
}

#[test]
fn queries_stand_where_a_files_targets_say() {
    let files = samples_at_targets(&folder("simulated_targets"));
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let ran = simulated(&[&["check", "--device", "cuda", "--dtype", "f16"], &files[..]].concat());
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("16 passed, 0 failed"), "{}", ran.out);
}

#[test]
fn longformers_samples_agree_and_its_kernels_are_printed_and_named() {
    for dtype in ["f32", "f16", "bf16"] {
        let files = [sample_arg("globals_scattered_w4"), sample_arg("dilation_1_2_3")];
        let ran = simulated(&["check", &files[0], &files[1], "--device", "cuda", "--dtype", dtype]);
        assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
        assert!(ran.out.contains(" 0 failed"), "{}", ran.out);
    }
    let ran = longhand(&["sources", "longformer", "--target", "sm80", "--dtype", "bf16"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    for kernel in ["index", "forward", "combine"] {
        let entry = format!(".visible .entry longformer_{kernel}(");
        assert!(ran.out.contains(&entry), "no {entry}");
    }
    assert_refused(&["sources", "longformer", "--bias"], &["--bias"]);
    let ran = simulated(&["doctor"]);
    let line =
        ran.out.lines().find(|line| line.contains("longformer f16") && line.contains("sm_80"));
    assert!(line.is_some(), "{}", ran.out);
}

#[test]
fn run_writes_the_same_bytes_each_time() {
    let folder = folder("simulated");
    let input = sample_arg("gqa_h4_kv2_causal");
    let outputs = ["a", "b"].map(|name| {
        let path = folder.join(name);
        let output = path.to_str().expect("UTF-8");
        let args = ["run", &input, "--device", "cuda", "--dtype", "bf16", "--output", output];
        let ran = simulated(&args);
        assert_eq!(ran.code, 0, "{}", ran.err);
        std::fs::read(path).expect("a result")
    });
    assert!(outputs[0] == outputs[1], "the bytes differ");
}

#[test]
fn a_simulators_times_are_not_recorded() {
    let folder = folder("simulated_bench");
    let json = folder.join("bench.json");
    let args = ["bench", "full", "--device", "cuda", "--lengths", "64", "--json"];
    let ran = simulated(&[&args[..], &[json.to_str().expect("UTF-8")]].concat());
    assert_eq!(ran.code, 2, "{}", ran.out);
    assert!(ran.complaints[0].contains("simulator"), "{}", ran.err);
    assert!(!json.exists());
}
