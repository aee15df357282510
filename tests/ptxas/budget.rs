//! `kernels/gate.toml`: what each family of kernels may use. Sections and `name = number` are all
//! of TOML that it takes.

use super::sources::Source;

/// Upper limits of one kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    pub(crate) registers: u32,
    /// Bytes of shared memory, static and dynamic together.
    pub(crate) shared: u32,
}

const GATE: &str = include_str!("../../kernels/gate.toml");

/// The budget of `source`'s family.
pub(crate) fn of(source: &Source) -> Budget {
    parse(GATE)
        .into_iter()
        .find(|(family, _)| *family == source.family)
        .map(|(_, budget)| budget)
        .unwrap_or_else(|| panic!("kernels/gate.toml has no section [{}]", source.family))
}

fn parse(text: &str) -> Vec<(String, Budget)> {
    let mut found: Vec<(String, Budget)> = vec![];
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            found.push((name.trim_matches('"').to_owned(), Budget { registers: 0, shared: 0 }));
        } else if let Some((name, value)) = line.split_once('=') {
            let value = value.trim().parse().unwrap_or_else(|_| panic!("not a number: {line}"));
            let (_, budget) = found.last_mut().expect("a section first");
            match name.trim() {
                "registers" => budget.registers = value,
                "shared" => budget.shared = value,
                other => panic!("{other}: neither `registers` nor `shared`"),
            }
        }
    }
    found
}

#[test]
fn every_section_is_of_a_kernel_that_is_selected() {
    let families: std::collections::HashSet<String> =
        super::sources::all().into_iter().map(|s| s.family).collect();
    for (family, _) in parse(GATE) {
        assert!(families.contains(&family), "[{family}] is of no kernel");
    }
}
