//! Machine code as nvdisasm prints it: opcodes, the main loop, and what the loop's issue slots say
//! of its speed. An estimate ranks variants and shows regressions; it is not a measurement.

use std::collections::BTreeMap;

/// Instructions of one warp in one pass of the main loop, without the parts that it branches over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MainLoop {
    /// Tensor-core products.
    pub products: usize,
    /// Issue slots of everything.
    pub issued: usize,
    /// Cycles that the tensor core of a quarter of an sm_80 SM takes.
    pub tensor_cycles: usize,
    /// Cycles of the busiest other unit.
    pub other_cycles: usize,
}

impl MainLoop {
    /// Of the dense peak: one warp per tensor core, nothing overlapping.
    pub fn alone(&self) -> f64 {
        self.tensor_cycles as f64 / (self.tensor_cycles + self.other_cycles) as f64
    }

    /// Of the dense peak: enough warps that the busiest unit is never idle.
    pub fn overlapped(&self) -> f64 {
        self.tensor_cycles as f64 / self.tensor_cycles.max(self.other_cycles) as f64
    }
}

impl std::fmt::Display for MainLoop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} products, {:.2} issue slots each; {:.2} of the peak alone, {:.2} overlapped",
            self.products,
            self.issued as f64 / self.products as f64,
            self.alone(),
            self.overlapped()
        )
    }
}

/// Labels and instructions alone, one a line.
pub fn compact(code: &str) -> String {
    let mut text = String::new();
    for line in code.lines() {
        let line = line.trim();
        if line.starts_with(".L_") && line.ends_with(':') {
            text += line;
            text.push('\n');
        } else if let Some((_, rest)) = line.strip_prefix("/*").and_then(|l| l.split_once("*/"))
            && let Some((instruction, _)) = rest.split_once(';')
        {
            text += instruction.trim();
            text.push('\n');
        }
    }
    text
}

/// The opcode of an instruction, without predicate and modifiers.
fn opcode(instruction: &str) -> &str {
    let word = instruction.split_whitespace().find(|w| !w.starts_with('@')).unwrap_or_default();
    word.split('.').next().unwrap_or_default()
}

/// How often each opcode stands in the code.
pub fn opcodes(code: &str) -> BTreeMap<String, usize> {
    let mut count = BTreeMap::new();
    for line in code.lines().filter(|line| !line.ends_with(':')) {
        *count.entry(opcode(line).to_owned()).or_default() += 1;
    }
    count
}

fn target(instruction: &str) -> Option<&str> {
    instruction.split_once("`(")?.1.split_once(')').map(|(label, _)| label)
}

/// The loop with the most products.
pub fn main_loop(code: &str) -> Option<MainLoop> {
    let mut labels = BTreeMap::new();
    let mut instructions = vec![];
    for line in code.lines() {
        match line.strip_suffix(':') {
            Some(label) => {
                labels.insert(label, instructions.len());
            }
            None => instructions.push(line),
        }
    }
    let to = |n: usize| {
        let is_branch = opcode(instructions[n]) == "BRA";
        is_branch.then(|| target(instructions[n])).flatten().and_then(|l| labels.get(l).copied())
    };
    let products = |from: usize, end: usize| {
        instructions[from..end].iter().filter(|i| opcode(i) == "HMMA").count()
    };
    let (from, end) = (0..instructions.len())
        .filter_map(|n| to(n).filter(|&from| from <= n).map(|from| (from, n + 1)))
        .max_by_key(|&(from, end)| (products(from, end), from))?;
    // Forward branches over parts without products are those for tiles at a mask's boundary and
    // for rows that have outgrown their maximum: rare. The branch over the copies is not taken.
    let mut usual = vec![];
    let mut n = from;
    while n < end {
        usual.push(instructions[n]);
        let skipped = to(n).filter(|&to| to > n && to <= end);
        let rare = |to: usize| {
            let part = &instructions[n..to];
            part.iter().all(|i| !matches!(opcode(i), "HMMA" | "LDGSTS" | "LDG"))
        };
        n = match skipped {
            Some(to) if instructions[n].starts_with('@') && rare(to) => to,
            _ => n + 1,
        };
    }
    let products = usual.iter().filter(|i| opcode(i) == "HMMA").count();
    (products > 0).then(|| estimate(&usual))
}

/// By the rates of an sm_80 SM's quarter: 512 16-bit operations of the tensor core per cycle, 32
/// lanes of simple arithmetic, 16 of integers and comparisons, 4 of special functions, 8 of
/// shuffles, and its share of 128 bytes of shared memory per cycle.
fn estimate(usual: &[&str]) -> MainLoop {
    let (mut tensor, mut fma, mut alu, mut special, mut memory) = (0, 0, 0, 0, 0);
    for instruction in usual {
        match opcode(instruction) {
            "HMMA" => tensor += 8,
            "MUFU" | "I2F" | "F2I" => special += 8,
            "FFMA" | "FMUL" | "FADD" | "IMAD" => fma += 1,
            "LDSM" => memory += 16,
            "LDS" | "STS" | "SHFL" => memory += 4,
            "LDGSTS" => memory += 16,
            name if name.starts_with('U') || matches!(name, "BRA" | "BAR" | "DEPBAR") => {}
            _ => alu += 2,
        }
    }
    MainLoop {
        products: usual.iter().filter(|i| opcode(i) == "HMMA").count(),
        issued: usual.len(),
        tensor_cycles: tensor,
        other_cycles: usual.len().max(special).max(fma + alu).max(memory),
    }
}

#[test]
fn the_estimate_leaves_out_what_is_branched_over() {
    let code = ".L_x_1:\nHMMA.16816.F32 R0, R4, R8, R0\n@P0 BRA `(.L_x_2)\nFSEL R0, R0, R1, P0\n\
                FSEL R2, R2, R1, P0\n.L_x_2:\n@P1 MUFU.EX2 R3, R3\nBRA `(.L_x_1)\nEXIT\n";
    let found = main_loop(code).expect("a loop");
    assert_eq!((found.products, found.issued), (1, 4));
    assert_eq!((found.tensor_cycles, found.other_cycles), (8, 8));
    assert_eq!(opcodes(code)["FSEL"], 2);
}
