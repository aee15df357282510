//! Operations across the lanes of a warp.

use std::collections::BTreeMap;

use crate::common::{Shape, Words, kernel};
use ptx_sim::Options;

/// Stores `%r10` of every thread in buffer b.
const STORE: &str = "mul.wide.u32 %d3, %r1, 4; add.u64 %d3, %d2, %d3; st.global.u32 [%d3], %r10;";

#[test]
fn shuffles_follow_the_vectors() {
    let all: BTreeMap<String, Vec<serde_json::Value>> =
        serde_json::from_str(include_str!("../data/units.json")).unwrap();
    let mut done = 0;
    for (op, vectors) in all.iter().filter(|(op, _)| op.starts_with("shfl.")) {
        let mode = op.trim_start_matches("shfl.");
        for vector in vectors {
            let hex = |i: usize| u32::from_str_radix(vector[0][i].as_str().unwrap(), 16).unwrap();
            let text = kernel(&format!(
                "add.u32 %r11, %r2, 100; shfl.sync.{mode}.b32 %r10|%p1, %r11, {}, {}, -1;\n\
                 selp.u32 %r12, 1000, 0, %p1; add.u32 %r10, %r10, %r12; {STORE}",
                hex(0),
                hex(1)
            ));
            let found = Shape::new(32).run(&text, Options::default());
            assert!(found.report.diags.is_empty(), "{}", found.report);
            for (lane, expected) in vector[1].as_array().unwrap().iter().enumerate() {
                let value =
                    100 + expected[0].as_u64().unwrap() + 1000 * expected[1].as_u64().unwrap();
                assert_eq!(
                    u64::from(found.words()[lane]),
                    value,
                    "{op} {} {} lane {lane}",
                    hex(0),
                    hex(1)
                );
            }
            done += 1;
        }
    }
    assert_eq!(done, 4 * 28);
}

/// What a lane holds: a small value that several share.
fn value(thread: u32) -> u32 {
    (thread * 5 / 3) % 7
}

const VALUE: &str = "mul.lo.u32 %r11, %r1, 5; div.u32 %r11, %r11, 3; rem.u32 %r11, %r11, 7;";

/// Runs `body` in one warp and compares `%r10` by lane, with all lanes and with those of `mask` only.
fn check(body: &str, expected: impl Fn(&[u32], u32) -> u32) {
    for mask in [u32::MAX, 0x0000_ffff, 0x8000_0001, 0x1234_5678, 1] {
        let body = body.replace("MASK", &format!("{mask:#x}"));
        let text = kernel(&format!(
            "{VALUE} mov.u32 %r10, 77; mov.u32 %r20, 1; shl.b32 %r20, %r20, %r2; and.b32 %r20, %r20, {mask:#x};\n\
             setp.eq.u32 %p9, %r20, 0; @%p9 bra SKIP;\n{body}\nSKIP:\n{STORE}"
        ));
        let found = Shape::new(32).clean(&text);
        let lanes: Vec<u32> = (0..32).filter(|l| mask >> l & 1 == 1).collect();
        for lane in 0..32 {
            let wanted = if lanes.contains(&lane) { expected(&lanes, lane) } else { 77 };
            assert_eq!(found.words()[lane as usize], wanted, "lane {lane} of {mask:#x}: {body}");
        }
    }
}

#[test]
fn votes() {
    let odd = |l: &u32| value(*l) % 2 == 1;
    let setup = "and.b32 %r12, %r11, 1; setp.ne.u32 %p1, %r12, 0;";
    let to_word = "selp.u32 %r10, 1, 0, %p2;";
    check(&format!("{setup} vote.sync.all.pred %p2, %p1, MASK; {to_word}"), |lanes, _| {
        u32::from(lanes.iter().all(odd))
    });
    check(&format!("{setup} vote.sync.any.pred %p2, !%p1, MASK; {to_word}"), |lanes, _| {
        u32::from(lanes.iter().any(|l| !odd(l)))
    });
    check(&format!("{setup} vote.sync.uni.pred %p2, %p1, MASK; {to_word}"), |lanes, _| {
        u32::from(lanes.iter().all(odd) || !lanes.iter().any(odd))
    });
    check(&format!("{setup} vote.sync.ballot.b32 %r10, %p1, MASK;"), |lanes, _| {
        lanes.iter().filter(|l| odd(l)).fold(0, |m, l| m | 1 << l)
    });
    check("activemask.b32 %r10;", |lanes, _| lanes.iter().fold(0, |m, l| m | 1 << l));
}

#[test]
fn matches() {
    let same = |lanes: &[u32], lane: u32| {
        lanes.iter().filter(|l| value(**l) == value(lane)).fold(0, |m, l| m | 1 << l)
    };
    check("match.any.sync.b32 %r10, %r11, MASK;", same);
    check("cvt.u64.u32 %d5, %r11; shl.b64 %d5, %d5, 33; match.any.sync.b64 %r10, %d5, MASK;", same);
    let all =
        |lanes: &[u32], lane: u32| lanes.iter().fold(0u32, |m, l| m | 1 << l) == same(lanes, lane);
    check(
        "match.all.sync.b32 %r10|%p2, %r11, MASK; selp.u32 %r12, 1, 0, %p2; popc.b32 %r13, %r10; add.u32 %r10, %r12, %r13;",
        |lanes, lane| if all(lanes, lane) { 1 + lanes.len() as u32 } else { 0 },
    );
    check("match.all.sync.b32 %r10|%p2, 5, MASK;", |lanes, _| {
        lanes.iter().fold(0, |m, l| m | 1 << l)
    });
}

#[test]
fn reductions() {
    let signed = |l: &u32| value(*l) as i32 - 3;
    let setup = "sub.u32 %r12, %r11, 3;";
    let reduce = |op: &str| format!("{setup} redux.sync.{op} %r10, %r12, MASK;");
    check(&reduce("add.s32"), |lanes, _| lanes.iter().map(signed).sum::<i32>() as u32);
    check(&reduce("add.u32"), |lanes, _| lanes.iter().map(signed).sum::<i32>() as u32);
    check(&reduce("min.s32"), |lanes, _| lanes.iter().map(signed).min().unwrap() as u32);
    check(&reduce("max.s32"), |lanes, _| lanes.iter().map(signed).max().unwrap() as u32);
    check(&reduce("min.u32"), |lanes, _| lanes.iter().map(|l| signed(l) as u32).min().unwrap());
    check(&reduce("max.u32"), |lanes, _| lanes.iter().map(|l| signed(l) as u32).max().unwrap());
    check(&reduce("and.b32"), |lanes, _| lanes.iter().fold(u32::MAX, |m, l| m & signed(l) as u32));
    check(&reduce("or.b32"), |lanes, _| lanes.iter().fold(0, |m, l| m | signed(l) as u32));
    check(&reduce("xor.b32"), |lanes, _| lanes.iter().fold(0, |m, l| m ^ signed(l) as u32));
}

/// Both halves of a warp shuffle at once, each with its own mask.
#[test]
fn halves_shuffle_apart() {
    let text = kernel(&format!(
        "setp.lt.u32 %p1, %r2, 16; @%p1 bra LOW;\n\
         shfl.sync.bfly.b32 %r10, %r1, 1, 0x1f, 0xffff0000; bra DONE;\n\
         LOW: shfl.sync.down.b32 %r10, %r1, 2, 0x1f, 0x0000ffff;\n\
         DONE: bar.warp.sync 0xffffffff; {STORE}"
    ));
    // Lanes 14 and 15 read 16 and 17, which do not take part.
    Shape::new(32).reports(&["SHFL-INACTIVE"], &text);
    let text = text.replace("down.b32 %r10, %r1, 2, 0x1f", "down.b32 %r10, %r1, 2, 0x100f");
    let found = Shape::new(32).clean(&text);
    for lane in 0..32u32 {
        let wanted = match lane {
            0..14 => lane + 2,
            14..16 => lane,
            _ => lane ^ 1,
        };
        assert_eq!(found.words()[lane as usize], wanted);
    }
}

/// Random masks for each of the segments of a butterfly sum.
#[test]
fn butterfly_sums() {
    let mut words = Words(3);
    for width in [2u32, 4, 8, 16, 32] {
        let mut shape = Shape::new(64);
        shape.a = (0..256).flat_map(|_| (words.below(1000) as u32).to_le_bytes()).collect();
        let mut body =
            "mul.wide.u32 %d3, %r1, 4; add.u64 %d4, %d1, %d3; ld.global.u32 %r10, [%d4];\n"
                .to_owned();
        let mut step = width / 2;
        while step > 0 {
            body += &format!(
                "shfl.sync.bfly.b32 %r12, %r10, {step}, 0x1f, 0xffffffff; add.u32 %r10, %r10, %r12;\n"
            );
            step /= 2;
        }
        let found = shape.clean(&kernel(&format!("{body}{STORE}")));
        let input: Vec<u32> =
            shape.a.chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect();
        for thread in 0..64u32 {
            let first = thread / width * width;
            let sum: u32 = (first..first + width).map(|t| input[t as usize]).sum();
            assert_eq!(found.words()[thread as usize], sum);
        }
    }
}
