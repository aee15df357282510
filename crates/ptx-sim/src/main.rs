//! `ptx-sim run CASE.json`, `ptx-sim lint FILE.ptx`.

use ptx_sim::case::Case;
use ptx_sim::{Module, Options};
use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "\
Runs and checks PTX without a GPU.

Usage:
  ptx-sim run CASE.json... [--ptx FILE] [--options LIST] [--mutations] [--counters]
  ptx-sim lint FILE.ptx...

run        runs the kernel beside each case (CASE.ptx, or --ptx) and compares memory afterwards
           --options    how, for instance sched=greedy,async=late,seed=7,approx=plus,tc=trunc
           --mutations  applies every change that the case lists; each must be noticed
           --counters   prints the exact counters as JSON
lint       parses and decodes: errors have line and column, kernels and opcodes are listed

Examples:
  ptx-sim run tests/cases/c01_axpy.json
  ptx-sim run c03.json --options sched=pct:1:3,async=early
  ptx-sim lint kernel.ptx
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.first().map(String::as_str) {
        Some("run") => run(&arguments[1..]),
        Some("lint") => lint(&arguments[1..]),
        Some("--help" | "-h" | "help") => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Some(other) => Err(format!("unknown command {other}\n\n{USAGE}")),
        None => Err(USAGE.to_owned()),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}

fn read(path: &str) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))
}

fn run(arguments: &[String]) -> Result<bool, String> {
    let mut cases = Vec::new();
    let (mut ptx, mut options) = (None, Options::default());
    let (mut mutations, mut counters) = (false, false);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--ptx" => ptx = Some(value()?.clone()),
            "--options" => options = value()?.parse()?,
            "--mutations" => mutations = true,
            "--counters" => counters = true,
            flag if flag.starts_with("--") => {
                return Err(format!("unknown option {flag}\n\n{USAGE}"));
            }
            case => cases.push(case.to_owned()),
        }
    }
    if cases.is_empty() {
        return Err(format!("run needs a case\n\n{USAGE}"));
    }
    let mut good = true;
    for path in cases {
        let case = Case::from_json(&read(&path)?).map_err(|e| format!("{path}: {e}"))?;
        let beside = Path::new(&path).with_extension("ptx").to_string_lossy().into_owned();
        let text = read(ptx.as_deref().unwrap_or(&beside))?;
        let outcome = case.run(&text, options).map_err(|e| format!("{path}: {e}"))?;
        for diag in &outcome.diags {
            println!("{diag}");
        }
        if let Some(mismatch) = &outcome.mismatch {
            println!("{}: wrong result: {mismatch}", case.case);
        }
        println!("{}: {}", case.case, if outcome.is_clean() { "ok" } else { "FAILED" });
        good &= outcome.is_clean();
        if counters {
            let json =
                serde_json::to_string_pretty(&outcome.counters).map_err(|e| e.to_string())?;
            println!("{json}");
        }
        for mutation in case.mutations.iter().filter(|_| mutations) {
            let changed = text.replacen(&mutation.find, &mutation.replace, 1);
            let outcome = case.run(&changed, options).map_err(|e| format!("{path}: {e}"))?;
            let codes: Vec<&str> = outcome.diags.iter().map(|d| d.code).collect();
            let noticed = match mutation.wrong_result {
                true => outcome.mismatch.is_some() || !codes.is_empty(),
                false => codes.iter().any(|c| mutation.any_of.iter().any(|m| m == c)),
            };
            let how = if noticed { "noticed" } else { "MISSED" };
            let result = if outcome.mismatch.is_some() { "wrong result" } else { "right result" };
            println!("  {} {how}: {result}, {codes:?}", mutation.id);
            good &= noticed;
        }
    }
    Ok(good)
}

fn lint(files: &[String]) -> Result<bool, String> {
    if files.is_empty() {
        return Err(format!("lint needs a file\n\n{USAGE}"));
    }
    let mut good = true;
    for file in files {
        match Module::parse(&read(file)?, file) {
            Ok(module) => {
                for entry in module.entries() {
                    println!(
                        "{file}: kernel {}: {} bytes of parameters, {} bytes of static shared memory, about {} registers",
                        entry.name, entry.param_bytes, entry.static_smem, entry.regs
                    );
                }
                for (opcode, n) in module.opcodes() {
                    println!("{n:6} {opcode}");
                }
            }
            Err(diag) => {
                println!("{diag}");
                good = false;
            }
        }
    }
    Ok(good)
}
