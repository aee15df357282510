//! Random programs of a few warps against all their interleavings: what can differ must be reported, and nothing else.
//!
//! The programs have one lane per warp, words of shared memory, barriers, and flags that are published with
//! release and read with acquire. Two conflicting accesses race if some interleaving has them side by side.

use std::collections::{BTreeSet, HashSet};

use crate::common::{Shape, Words, kernel};
use ptx_sim::{Options, Schedule};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Op {
    Read(u32),
    Write(u32),
    /// Relaxed add to a word.
    Add(u32),
    /// A barrier of all warps.
    Barrier,
    /// Sets flag of this warp, with release.
    Publish(u32),
    /// Waits for a warp's flag, with acquire.
    Wait(u32),
}

/// All warps get the same number of barriers; a wait is for a flag that someone sets before any wait of his own.
fn program(words: &mut Words) -> Vec<Vec<Op>> {
    let warps = 2 + words.below(2) as u32;
    let barriers = words.below(2);
    (0..warps)
        .map(|w| {
            let mut ops: Vec<Op> = (0..1 + words.below(3))
                .map(|_| {
                    let word = words.below(2) as u32;
                    match words.below(8) {
                        0..3 => Op::Read(word),
                        3..5 => Op::Write(word),
                        5 => Op::Add(word),
                        6 => Op::Publish(w),
                        // Waits go towards lower warps only: no cycles.
                        _ if w > 0 => Op::Wait(words.below(u64::from(w)) as u32),
                        _ => Op::Write(word),
                    }
                })
                .collect();
            for _ in 0..barriers {
                let at = words.below(ops.len() as u64 + 1) as usize;
                ops.insert(at, Op::Barrier);
            }
            ops
        })
        .collect()
}

fn conflict(a: Op, b: Op) -> bool {
    match (a, b) {
        (Op::Read(x), Op::Write(y) | Op::Add(y)) | (Op::Write(x) | Op::Add(x), Op::Read(y)) => {
            x == y
        }
        (Op::Write(x), Op::Write(y) | Op::Add(y)) | (Op::Add(x), Op::Write(y)) => x == y,
        _ => false,
    }
}

/// Whether an interleaving gets to a state where two conflicting accesses are both next; none if one gets stuck.
fn races(program: &[Vec<Op>]) -> Option<bool> {
    let mut seen = HashSet::new();
    let mut stack = vec![(vec![0usize; program.len()], BTreeSet::new())];
    let mut found = false;
    while let Some((at, flags)) = stack.pop() {
        if !seen.insert((at.clone(), flags.clone())) {
            continue;
        }
        let next = |w: usize| program[w].get(at[w]).copied();
        let mut moved = false;
        for w in 0..program.len() {
            let Some(op) = next(w) else { continue };
            for v in 0..w {
                found |= next(v).is_some_and(|other| conflict(op, other));
            }
            let mut flags = flags.clone();
            match op {
                // All at once, when everyone who has not left is there.
                Op::Barrier => continue,
                Op::Wait(flag) if !flags.contains(&flag) => continue,
                Op::Publish(flag) => {
                    flags.insert(flag);
                }
                _ => {}
            }
            moved = true;
            let mut at = at.clone();
            at[w] += 1;
            stack.push((at, flags));
        }
        let live: Vec<usize> = (0..program.len()).filter(|&w| next(w).is_some()).collect();
        if !live.is_empty() && live.iter().all(|&w| next(w) == Some(Op::Barrier)) {
            let mut at = at.clone();
            live.iter().for_each(|&w| at[w] += 1);
            stack.push((at, flags));
        } else if !moved && !live.is_empty() {
            return None;
        }
    }
    Some(found)
}

fn text(program: &[Vec<Op>]) -> String {
    // One lane of each warp; the words begin as 0, and flags behind them.
    let mut body = "setp.lt.u32 %p1, %r1, 16; shl.b32 %r9, %r1, 2; add.u32 %r9, %r9, %r4; @%p1 st.shared.u32 [%r9], 0; bar.sync 0;\n\
        setp.ne.u32 %p1, %r2, 0; @%p1 ret;\n"
        .to_owned();
    for (w, ops) in program.iter().enumerate() {
        body += &format!("setp.eq.u32 %p2, %r3, {w}; @!%p2 bra NEXT{w};\n");
        for (i, op) in ops.iter().enumerate() {
            body += &match op {
                Op::Read(x) => format!("ld.shared.u32 %r10, [%r4+{}];\n", 4 * x),
                Op::Write(x) => format!("st.shared.u32 [%r4+{}], {};\n", 4 * x, 10 * w + i + 1),
                Op::Add(x) => format!(
                    "red.relaxed.cta.shared.add.u32 [%r4+{}], {};\n",
                    4 * x,
                    100 * w + i + 1
                ),
                Op::Barrier => "barrier.sync 0;\n".to_owned(),
                Op::Publish(f) => format!("st.release.cta.shared.u32 [%r4+{}], 1;\n", 32 + 4 * f),
                Op::Wait(f) => format!(
                    "WAIT{w}_{i}: ld.acquire.cta.shared.u32 %r11, [%r4+{}]; setp.eq.u32 %p3, %r11, 0; @%p3 bra WAIT{w}_{i};\n",
                    32 + 4 * f
                ),
            };
        }
        body += &format!("ret;\nNEXT{w}:\n");
    }
    kernel(&body)
}

#[test]
fn against_all_interleavings() {
    let mut words = Words(2024);
    let (mut racy, mut clean) = (0, 0);
    while racy + clean < 1500 {
        let program = program(&mut words);
        let Some(expected) = races(&program) else { continue };
        let text = text(&program);
        let schedules = [
            Schedule::RoundRobin(1),
            Schedule::Greedy,
            Schedule::GreedyDescending,
            Schedule::Random(7),
        ];
        for schedule in schedules {
            let options = Options { schedule, ..Options::default() };
            let done = Shape::new(32 * program.len() as u32).run(&text, options);
            let found = done.codes();
            let wanted: &[&str] = if expected { &["RACE-SHARED"] } else { &[] };
            assert_eq!(found, wanted, "{schedule:?} {program:?}\n{}", done.report);
        }
        racy += usize::from(expected);
        clean += usize::from(!expected);
    }
    println!("{racy} with races, {clean} without");
    assert!(racy > 300 && clean > 300);
}
