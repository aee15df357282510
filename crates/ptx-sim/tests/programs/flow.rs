//! Divergence, reconvergence and barriers of a block.

use crate::common::{Shape, Words, kernel};

const STORE: &str = "mul.wide.u32 %d3, %r1, 4; add.u64 %d3, %d2, %d3; st.global.u32 [%d3], %r10;";

fn check(block: u32, body: &str, expected: impl Fn(u32) -> u32) {
    let found = Shape::new(block).clean(&kernel(body));
    for thread in 0..block {
        assert_eq!(found.words()[thread as usize], expected(thread), "thread {thread}\n{body}");
    }
}

#[test]
fn nested_branches() {
    let body = format!(
        "mov.u32 %r10, 0; and.b32 %r11, %r1, 1; setp.eq.u32 %p1, %r11, 0; @%p1 bra EVEN;\n\
         and.b32 %r11, %r1, 2; setp.eq.u32 %p2, %r11, 0; @%p2 bra ONE;\n\
         add.u32 %r10, %r10, 3; bra INNER;\nONE: add.u32 %r10, %r10, 1;\nINNER: mul.lo.u32 %r10, %r10, 10; bra DONE;\n\
         EVEN: setp.gt.u32 %p3, %r1, 20; @!%p3 bra DONE;\nadd.u32 %r10, %r10, 7;\n\
         DONE: activemask.b32 %r12; popc.b32 %r12, %r12; add.u32 %r10, %r10, %r12; {STORE}"
    );
    // All meet again after the outer branch.
    check(40, &body, |t| {
        let lanes = if t < 32 { 32 } else { 8 };
        lanes
            + match (t % 2, t & 2) {
                (1, 0) => 10,
                (1, _) => 30,
                _ if t > 20 => 7,
                _ => 0,
            }
    });
}

#[test]
fn loops_with_divergent_exits() {
    // Trip counts differ by lane; a second exit leaves from the middle.
    let body = format!(
        "rem.u32 %r11, %r1, 9; mov.u32 %r10, 0; mov.u32 %r12, 0;\n\
         LOOP: setp.ge.u32 %p1, %r12, %r11; @%p1 bra DONE;\n\
         add.u32 %r10, %r10, %r1; setp.gt.u32 %p2, %r10, 100; @%p2 bra BIG;\n\
         add.u32 %r12, %r12, 1; bra LOOP;\n\
         BIG: add.u32 %r10, %r10, 1000;\n\
         DONE: vote.sync.ballot.b32 %r13, 1, 0xffffffff; popc.b32 %r13, %r13; mul.lo.u32 %r13, %r13, 100000; add.u32 %r10, %r10, %r13; {STORE}"
    );
    check(64, &body, |t| {
        let mut sum = 0;
        for _ in 0..t % 9 {
            sum += t;
            if sum > 100 {
                sum += 1000;
                break;
            }
        }
        sum + 3_200_000
    });
}

#[test]
fn nested_loops() {
    let body = format!(
        "and.b32 %r11, %r1, 7; mov.u32 %r10, 0; mov.u32 %r12, 0;\n\
         OUTER: setp.ge.u32 %p1, %r12, %r11; @%p1 bra DONE; mov.u32 %r13, 0;\n\
         INNER: setp.gt.u32 %p2, %r13, %r12; @%p2 bra NEXT; add.u32 %r10, %r10, %r13; add.u32 %r13, %r13, 1; bra INNER;\n\
         NEXT: add.u32 %r12, %r12, 1; bra OUTER;\n\
         DONE: bar.warp.sync 0xffffffff; {STORE}"
    );
    check(32, &body, |t| (0..t % 8).map(|i| i * (i + 1) / 2).sum());
}

#[test]
fn branches_by_index() {
    let body = format!(
        "TARGETS: .branchtargets A, B, C, A;\n\
         and.b32 %r11, %r1, 3; mov.u32 %r10, 0; setp.lt.u32 %p1, %r1, 30; @%p1 brx.idx %r11, TARGETS;\n\
         mov.u32 %r10, 99; bra DONE;\n\
         A: add.u32 %r10, %r10, 1; bra DONE;\nB: add.u32 %r10, %r10, 2;\nC: add.u32 %r10, %r10, 4;\n\
         DONE: vote.sync.ballot.b32 %r12, 1, -1; popc.b32 %r12, %r12; shl.b32 %r12, %r12, 8; or.b32 %r10, %r10, %r12; {STORE}"
    );
    check(32, &body, |t| 32 << 8 | if t >= 30 { 99 } else { [1, 6, 4, 1][t as usize % 4] });
}

#[test]
fn lanes_that_leave_early() {
    // The lanes that are left still meet, and are all that a mask may name.
    let body = format!(
        "mov.u32 %r10, 5; {STORE} setp.lt.u32 %p1, %r2, 10; @%p1 exit;\n\
         and.b32 %r11, %r1, 1; setp.eq.u32 %p2, %r11, 0; @%p2 bra EVEN; add.u32 %r10, %r10, 1; setp.lt.u32 %p3, %r2, 16; @%p3 ret; bra DONE;\n\
         EVEN: add.u32 %r10, %r10, 2;\n\
         DONE: activemask.b32 %r12; shfl.sync.idx.b32 %r13, %r10, 30, 31, 0xffff5400; add.u32 %r10, %r12, %r13; {STORE}"
    );
    check(64, &body, |t| match t % 32 {
        0..10 => 5,
        l if l < 16 && l % 2 == 1 => 5,
        _ => 0xffff_5400 + 7,
    });
}

/// A side of a branch that spins on what the other side writes: independent thread scheduling.
#[test]
fn a_spinning_side_does_not_starve_the_other() {
    let body = format!(
        "mov.u32 %r10, 0; setp.eq.u32 %p1, %r2, 5; setp.eq.u32 %p2, %r2, 0; @%p2 st.volatile.shared.u32 [%r4], 0; bar.sync 0;\n\
         @%p1 bra WRITE;\n\
         SPIN: ld.volatile.shared.u32 %r10, [%r4]; setp.eq.u32 %p3, %r10, 0; @%p3 bra SPIN; bra DONE;\n\
         WRITE: st.volatile.shared.u32 [%r4], 42; mov.u32 %r10, 1;\n\
         DONE: {STORE}"
    );
    check(32, &body, |t| if t == 5 { 1 } else { 42 });
}

#[test]
fn barriers_without_the_warps_that_left() {
    let body = format!(
        "setp.eq.u32 %p1, %r3, 2; @%p1 ret;\n\
         shl.b32 %r11, %r1, 2; add.u32 %r11, %r11, %r4; st.shared.u32 [%r11], %r1; bar.sync 0;\n\
         xor.b32 %r12, %r1, 32; shl.b32 %r12, %r12, 2; add.u32 %r12, %r12, %r4; mov.u32 %r10, 7;\n\
         setp.lt.u32 %p2, %r3, 2; @%p2 ld.shared.u32 %r10, [%r12]; {STORE}"
    );
    let found = Shape::new(128).clean(&kernel(&body));
    for t in (0..64).chain(96..128) {
        assert_eq!(found.words()[t as usize], if t < 64 { t ^ 32 } else { 7 });
    }
}

/// Warps 0 and 1 produce, 2 and 3 consume, through two named barriers.
#[test]
fn producers_and_consumers_at_named_barriers() {
    let body = format!(
        "and.b32 %r20, %r1, 63; shl.b32 %r11, %r20, 2; add.u32 %r11, %r11, %r4; mov.u32 %r12, 0; mov.u32 %r10, 0;\n\
         setp.ge.u32 %p1, %r3, 2; @%p1 bra CONSUME;\n\
         PRODUCE: add.u32 %r13, %r12, %r20; st.shared.u32 [%r11], %r13; bar.arrive 1, 128; bar.sync 2, 128;\n\
         add.u32 %r12, %r12, 1; setp.lt.u32 %p2, %r12, 5; @%p2 bra PRODUCE; bra DONE;\n\
         CONSUME: bar.sync 1, 128; xor.b32 %r14, %r11, 128; ld.shared.u32 %r13, [%r14]; add.u32 %r10, %r10, %r13; bar.arrive 2, 128;\n\
         add.u32 %r12, %r12, 1; setp.lt.u32 %p2, %r12, 5; @%p2 bra CONSUME;\n\
         DONE: {STORE}"
    );
    check(128, &body, |t| if t < 64 { 0 } else { 10 + 5 * ((t % 64) ^ 32) });
    // Without the second barrier the producer overwrites what is still read.
    let broken = body.replace("bar.sync 2, 128;", "").replace("bar.arrive 2, 128;", "");
    let done = Shape::new(128).run(&kernel(&broken), ptx_sim::Options::default());
    assert!(!done.codes().is_empty());
}

#[test]
fn reductions_at_barriers() {
    let body = format!(
        "rem.u32 %r11, %r1, 3; setp.eq.u32 %p1, %r11, 0;\n\
         bar.red.popc.u32 %r10, 0, %p1; bar.red.and.pred %p2, 1, 96, %p1; bar.red.or.pred %p3, 2, !%p1;\n\
         selp.u32 %r12, 1000, 0, %p2; add.u32 %r10, %r10, %r12; selp.u32 %r12, 2000, 0, %p3; add.u32 %r10, %r10, %r12; {STORE}"
    );
    check(96, &body, |_| 32 + 2000);
    let all = body.replace("rem.u32 %r11, %r1, 3", "mov.u32 %r11, 0");
    check(96, &all, |_| 96 + 1000);
}

/// A barrier that is not aligned lets the sides of a branch arrive on their own.
#[test]
fn barriers_that_need_no_convergence() {
    for block in [32, 64, 40] {
        let body = format!(
            "mov.u32 %r10, 1; and.b32 %r11, %r1, 1; setp.eq.u32 %p1, %r11, 0; shl.b32 %r12, %r1, 2; add.u32 %r12, %r12, %r4; st.shared.u32 [%r12], %r1; @%p1 bra EVEN;\n\
             barrier.sync 0; bra DONE;\n\
             EVEN: barrier.sync 0; xor.b32 %r12, %r12, 4; ld.shared.u32 %r10, [%r12];\n\
             DONE: {STORE}"
        );
        check(block, &body, |t| if t % 2 == 0 { t + 1 } else { 1 });
    }
}

/// Random structured programs, against an interpreter of one thread at a time.
#[test]
fn random_programs() {
    let mut words = Words(11);
    for _ in 0..150 {
        let mut labels = 0;
        let tree = Block::random(&mut words, 3);
        let mut body = "mov.u32 %r10, %r1;\n".to_owned();
        tree.emit(&mut body, &mut labels, 20);
        let found = Shape::new(48).clean(&kernel(&format!("{body}{STORE}")));
        for t in 0..48 {
            let mut value = t;
            tree.run(&mut value);
            assert_eq!(found.words()[t as usize], value, "thread {t}\n{body}");
        }
    }
}

enum Block {
    Add(u32),
    Mul(u32),
    /// On a bit of the value.
    If(u32, Vec<Block>, Vec<Block>),
    /// Value modulo so many times.
    Loop(u32, Vec<Block>),
}

impl Block {
    fn random(words: &mut Words, depth: u32) -> Vec<Block> {
        (0..1 + words.below(3))
            .map(|_| match words.below(if depth == 0 { 2 } else { 4 }) {
                0 => Block::Add(words.below(1000) as u32),
                1 => Block::Mul(2 * words.below(50) as u32 + 1),
                2 => Block::If(
                    words.below(8) as u32,
                    Self::random(words, depth - 1),
                    Self::random(words, depth - 1),
                ),
                _ => Block::Loop(1 + words.below(4) as u32, Self::random(words, depth - 1)),
            })
            .collect()
    }
}

trait Run {
    fn run(&self, value: &mut u32);
    fn emit(&self, text: &mut String, labels: &mut u32, counter: u32);
}

impl Run for Vec<Block> {
    fn run(&self, value: &mut u32) {
        for block in self {
            match block {
                Block::Add(n) => *value = value.wrapping_add(*n),
                Block::Mul(n) => *value = value.wrapping_mul(*n),
                Block::If(bit, then, other) => match *value >> bit & 1 {
                    1 => then.run(value),
                    _ => other.run(value),
                },
                Block::Loop(n, body) => {
                    for _ in 0..*value % n {
                        body.run(value);
                    }
                }
            }
        }
    }

    fn emit(&self, text: &mut String, labels: &mut u32, counter: u32) {
        for block in self {
            *labels += 1;
            let l = *labels;
            match block {
                Block::Add(n) => *text += &format!("add.u32 %r10, %r10, {n};\n"),
                Block::Mul(n) => *text += &format!("mul.lo.u32 %r10, %r10, {n};\n"),
                Block::If(bit, then, other) => {
                    *text += &format!(
                        "bfe.u32 %r11, %r10, {bit}, 1; setp.ne.u32 %p1, %r11, 0; @!%p1 bra ELSE{l};\n"
                    );
                    then.emit(text, labels, counter);
                    *text += &format!("bra END{l};\nELSE{l}:\n");
                    other.emit(text, labels, counter);
                    *text += &format!("END{l}:\n");
                }
                Block::Loop(n, body) => {
                    *text += &format!(
                        "rem.u32 %r{counter}, %r10, {n};\nLOOP{l}: setp.eq.u32 %p1, %r{counter}, 0; @%p1 bra END{l};\n\
                         sub.u32 %r{counter}, %r{counter}, 1;\n"
                    );
                    body.emit(text, labels, counter + 1);
                    *text += &format!("bra LOOP{l};\nEND{l}:\n");
                }
            }
        }
    }
}
