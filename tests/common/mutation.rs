//! Breaks of CUDA kernels, each of which must be noticed.

use super::mock::Mock;
use longhand::Error;
use longhand::cuda::Context;

/// A break: where in the text (after this), what, and what instead.
pub struct Mutation(pub &'static str, pub &'static str, pub &'static str, pub &'static str);

/// Computes by `run` (which gives the errors of out and lse, held to `tolerance`) as the kernels of
/// `source` are, then with every break. Panics with the list of those not noticed.
pub fn all_noticed(
    mock: &Mock,
    source: &str,
    tolerance: (f64, f64),
    run: impl Fn(&Context) -> Result<(f64, f64), Error>,
    mutations: &[Mutation],
) {
    // What is noticed: codes of the simulator, an error, a wrong result.
    let notice = || -> Vec<String> {
        let context = Context::open(0).expect("the stand-in");
        let got = run(&context);
        let report = mock.report();
        let mut found: Vec<String> = report
            .match_indices("error[")
            .filter_map(|(at, _)| report[at + 6..].split(']').next())
            .map(str::to_owned)
            .collect();
        found.sort();
        found.dedup();
        match got {
            Err(e) if found.is_empty() => found.push(e.to_string()),
            Err(_) => {}
            Ok((out, lse)) => {
                if !(out <= tolerance.0 && lse <= tolerance.1) {
                    found.push(format!("out {out:.1e}, lse {lse:.1e}"));
                }
            }
        }
        found
    };
    assert_eq!(notice(), Vec::<String>::new(), "the unbroken kernel");
    let mut missed = Vec::new();
    for Mutation(name, after, find, replace) in mutations {
        // The text between is kept: the stand-in replaces what it finds first.
        let from = source.find(after).unwrap_or_else(|| panic!("{name}: no `{after}`"));
        let at = source[from..].find(find).unwrap_or_else(|| panic!("{name}: no `{find}`"));
        let context = &source[from..from + at];
        mock.set("patch", &format!("{context}{find}\u{1f}{context}{replace}"));
        let found = notice();
        println!("{name}: {}", if found.is_empty() { "MISSED".into() } else { found.join(", ") });
        if found.is_empty() {
            missed.push(*name);
        }
        mock.reset();
    }
    assert!(missed.is_empty(), "not noticed: {missed:?}");
}
