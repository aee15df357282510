//! Every kind of PTX text that selection can lead to goes through three versions of NVIDIA's
//! assembler: no warning, no spill, no more registers than `kernels/gate.toml` allows, and in the
//! machine code as many tensor-core products, shared-memory loads and asynchronous copies as were
//! written. `./check --setup` installs the tools; results are kept by content under target/.

mod budget;
mod longformer;
mod lsh;
mod relative;
mod sources;
mod tools;

use longhand_cli::ptxas::{Assembled, Assembler};
use longhand_cli::sass::{main_loop, opcodes};
use sources::Source;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use tools::Tools;

/// What is wrong with one source under one assembler.
fn faults(source: &Source, version: &str, assembled: &Assembled) -> Vec<String> {
    let mut found = vec![];
    let mut say = |what: String| found.push(format!("ptxas {version}: {what}"));
    if !assembled.accepted {
        say(assembled.said.clone());
        return found;
    }
    for line in assembled.said.lines().filter(|line| is_complaint(line)) {
        say(line.to_owned());
    }
    let budget = budget::of(source);
    let usage = assembled.usage();
    if usage.registers == 0 || usage.registers > budget.registers {
        say(format!("{} registers, the gate allows {}", usage.registers, budget.registers));
    }
    if usage.spilled > 0 || usage.stack > 0 {
        say(format!("{} bytes spilled, {} of stack", usage.spilled, usage.stack));
    }
    if usage.static_shared > 0 || source.shared_bytes > budget.shared {
        let (fixed, dynamic) = (usage.static_shared, source.shared_bytes);
        say(format!(
            "{fixed} + {dynamic} bytes of shared memory, the gate allows {}",
            budget.shared
        ));
    }
    let opcodes = opcodes(&assembled.code);
    let count = |opcode: &str| opcodes.get(opcode).copied().unwrap_or(0);
    for (written, opcode) in [("mma.sync", "HMMA"), ("ldmatrix", "LDSM"), ("cp.async.cg", "LDGSTS")]
    {
        let written_times = statements(&source.text, written);
        // A copy may be assembled twice where the branches around it are, but none may be lost.
        let agrees = match opcode {
            "LDGSTS" => count(opcode) >= written_times,
            _ => count(opcode) == written_times,
        };
        if !agrees {
            say(format!("{} {opcode} for {written_times} {written}", count(opcode)));
        }
    }
    for opcode in ["LDL", "STL"] {
        if count(opcode) > 0 {
            say(format!("{} {opcode}", count(opcode)));
        }
    }
    found
}

/// Lines that ptxas prints beside the usage.
fn is_complaint(line: &str) -> bool {
    line.contains("(C7")
        || line.contains("Potential Performance Loss")
        || line.to_lowercase().contains("warning")
}

/// How often an instruction stands in a text.
fn statements(text: &str, instruction: &str) -> usize {
    let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    code.map(|line| line.matches(instruction).count()).sum()
}

/// Calls `visit` with every source and what each assembler makes of it, on all cores.
fn on_all_cores(
    tools: &Tools,
    sources: &[Source],
    visit: impl Fn(&Source, &Assembler, &Assembled) + Sync,
) {
    let pieces: Vec<_> = (sources.chunks(32))
        .flat_map(|piece| tools.assemblers.iter().map(move |assembler| (assembler, piece)))
        .collect();
    let next = AtomicUsize::new(0);
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some((assembler, piece)) =
                    pieces.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let texts: Vec<&str> = piece.iter().map(|s| s.text.as_str()).collect();
                    let assembled = tools.assemble_all(assembler, &texts);
                    piece.iter().zip(&assembled).for_each(|(s, a)| visit(s, assembler, a));
                }
            });
        }
    });
}

#[test]
fn every_assembler_takes_every_kernel_within_its_budget() {
    let Some(tools) = Tools::find() else { return };
    let sources = sources::all();
    println!("{} sources", sources.len());
    if std::env::var_os("LONGHAND_GATE").is_some_and(|v| v == "print") {
        return print_budgets(&tools, &sources);
    }
    let failures = Mutex::new(vec![]);
    on_all_cores(&tools, &sources, |source, assembler, assembled| {
        let faults = faults(source, &assembler.version, assembled);
        if !faults.is_empty() {
            failures.lock().unwrap().push(format!("{}\n{}", source.label, faults.join("\n")));
        }
    });
    let failures = failures.into_inner().unwrap();
    let first = failures.iter().take(40).cloned().collect::<Vec<_>>().join("\n\n");
    assert!(failures.is_empty(), "{} failures; the first:\n\n{first}", failures.len());
}

/// What the kernels use now, as kernels/gate.toml: `LONGHAND_GATE=print`.
fn print_budgets(tools: &Tools, sources: &[Source]) {
    let used = Mutex::new(std::collections::BTreeMap::<String, (u32, u32)>::new());
    on_all_cores(tools, sources, |source, _, assembled| {
        let mut used = used.lock().unwrap();
        let most = used.entry(source.family.clone()).or_default();
        *most = (most.0.max(assembled.usage().registers), most.1.max(source.shared_bytes));
    });
    for (family, (registers, shared)) in used.into_inner().unwrap() {
        println!("\n[{family}]\nregisters = {registers}\nshared = {shared}");
    }
}

/// The goal for the kernels that most calls take: what the tensor cores could do if nothing else
/// of the main loop overlapped with them.
#[test]
fn the_main_loop_leaves_the_tensor_cores_enough_time() {
    let Some(tools) = Tools::find() else { return };
    let plain = sources::plain().into_iter().chain(longformer::plain());
    for source in plain.chain(lsh::plain()).chain(relative::plain()) {
        for assembler in &tools.assemblers {
            let code = tools.assemble(assembler, &source.text).code;
            let estimate = main_loop(&code).expect("every forward kernel has one");
            println!("{} ({}): {estimate}", source.label, assembler.version);
            assert!(estimate.overlapped() >= source.least_fraction, "{}: {estimate}", source.label);
        }
    }
}

/// `text` with its last `instruction` commented out.
fn without_the_last(text: &str, instruction: &str) -> String {
    let at = text.rfind(instruction).expect("it is there");
    format!("{}// {}", &text[..at], &text[at..])
}

#[test]
fn the_gate_does_reject() {
    let Some(tools) = Tools::find() else { return };
    let sources = sources::plain();
    let source = &sources[0];
    let broken = [
        ("a lost product", without_the_last(&source.text, "mma.sync"), "HMMA for"),
        (
            "too few registers",
            source.text.replacen(".maxntid", ".maxnreg 64 .maxntid", 1),
            "spilled",
        ),
        ("no PTX", source.text.replacen("ldmatrix.sync", "loadmatrix.sync", 1), "error"),
    ];
    for (what, text, expected) in broken {
        let broken = Source { text, ..source.clone() };
        for assembler in &tools.assemblers {
            let version = &assembler.version;
            // Beside the sound text: what is found belongs to the broken one.
            let both = tools.assemble_all(assembler, &[&source.text, &broken.text]);
            let [sound, assembled] = both.try_into().expect("one for each");
            assert_eq!(faults(source, version, &sound), [""; 0], "{what} on {version}");
            // A lost product is one that the whole text has.
            let compared = if what == "a lost product" { source } else { &broken };
            let found = faults(compared, version, &assembled).join("\n");
            assert!(found.contains(expected), "{what} on {version}: {found}");
        }
    }
}
