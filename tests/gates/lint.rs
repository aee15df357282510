//! Rules that both compilers let pass and that have gone wrong in a browser.

use std::collections::HashSet;

/// A word, number or single character of the code, with its line.
type Token<'a> = (usize, &'a str);

/// The tokens of `source` without its comments (`//` only: the shaders use no other).
fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut found = vec![];
    for (n, line) in source.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
        let mut rest = code.trim_start();
        while let Some(c) = rest.chars().next() {
            let len = match is_word(c) {
                true => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
                false => c.len_utf8(),
            };
            found.push((n + 1, &rest[..len]));
            rest = rest[len..].trim_start();
        }
    }
    found
}

/// The index after `<…>`, if that begins at `at`.
fn after_angle(tokens: &[Token<'_>], at: usize) -> usize {
    match tokens.get(at) {
        Some((_, "<")) => {
            let close = tokens[at..].iter().position(|(_, t)| *t == ">");
            close.map_or(tokens.len(), |n| at + n + 1)
        }
        _ => at,
    }
}

/// What `source` does that it should not, with the line.
pub(crate) fn lint(source: &str) -> Vec<String> {
    let tokens = tokens(source);
    let text = |n: usize| tokens.get(n).map_or("", |(_, t)| *t);
    let (mut module, mut locals) = (HashSet::new(), vec![]);
    let (mut depth, mut header) = (0, false);
    let mut found = vec![];
    for n in 0..tokens.len() {
        let line = tokens[n].0;
        let mut report = |why: String| found.push(format!("line {line}: {why}"));
        match text(n) {
            "{" => (depth, header) = (depth + 1, false),
            "}" => depth -= 1,
            "fn" => {
                module.insert(text(n + 1));
                header = true;
            }
            "alias" | "struct" => {
                module.insert(text(n + 1));
            }
            word @ ("const" | "override" | "let" | "var") => {
                let at = after_angle(&tokens, n + 1);
                if depth == 0 {
                    module.insert(text(at));
                    continue;
                }
                locals.push((line, text(at)));
                let ends = tokens[at..].iter().find(|(_, t)| matches!(*t, "=" | ";"));
                if word == "var" && ends.is_some_and(|(_, t)| *t == ";") {
                    report(format!(
                        "`var {}` without a value: in a loop, Chromium does not reset it",
                        text(at)
                    ));
                }
            }
            // Of a function's header: a parameter.
            ":" if header => locals.push((line, text(n - 1))),
            "enable" if text(n + 1) == "subgroups" => {
                report("`enable subgroups`: naga rejects it".into());
            }
            "/" if matches!(text(n + 1), "0.0" | "0." | "0.0f") => report("division by 0".into()),
            "bitcast" if text(n + 2) == "f32" && text(n + 5).starts_with("0x") => {
                report("bitcast of a literal: tint rejects it if it is infinity or NaN".into());
            }
            _ => {}
        }
    }
    let shadows = locals.into_iter().filter(|(_, name)| module.contains(name));
    found
        .extend(shadows.map(|(line, name)| format!("line {line}: `{name}` hides a module's name")));
    found
}

#[test]
fn each_rule_finds_its_fault_and_nothing_else() {
    let body = |code: &str| format!("const N = 4u; // var x: f32;\nfn f(a: u32) {{\n{code}\n}}");
    let faults = [
        "for (;;) { var s: array<vec4<f32>, 4>; }",
        "let N = 3u;",
        "var<function> f = 1.0;",
        "let x = 1.0 / 0.0;",
        "let x = bitcast<f32>(0xff800000u);",
    ];
    for code in faults {
        assert_eq!(lint(&body(code)).len(), 1, "{code}: {:?}", lint(&body(code)));
    }
    assert_eq!(lint("const a = 1u; fn g(a: u32) {}").len(), 1);
    assert_eq!(lint("enable subgroups;").len(), 1);
    let sound = "var s = array<vec4<f32>, 4>(); var t: f32 = s[0].x / 2.0; let n = N;";
    assert_eq!(lint(&body(sound)), Vec::<String>::new());
}
