//! Kernels that break no rule, each beside one that does.

use crate::common::{Shape, kernel};

const OUT: &str = "mul.wide.u32 %d3, %r1, 4; add.u64 %d3, %d2, %d3; st.global.u32 [%d3], %r10;";

/// Bytes and halves of one word by neighbouring lanes and warps, read back as words after a barrier.
#[test]
fn neighbours_share_words() {
    for (ty, bytes) in [("u8", 1), ("u16", 2)] {
        for space in ["shared", "global"] {
            let at = if space == "shared" { "%r9" } else { "%d5" };
            let body = format!(
                "mul.lo.u32 %r9, %r1, {bytes}; mul.wide.u32 %d5, %r1, {bytes}; add.u64 %d5, %d5, %d2; add.u32 %r9, %r9, %r4; cvt.u16.u32 %h1, %r1; st.{space}.{ty} [{at}], %h1;\n\
                 BARRIER\n xor.b32 %r11, %r1, 33; mul.lo.u32 %r9, %r11, {bytes}; mul.wide.u32 %d5, %r11, {bytes}; add.u64 %d5, %d5, %d2; add.u32 %r9, %r9, %r4; ld.{space}.{ty} %r10, [{at}];\n\
                 bar.sync 0; add.u64 %d2, %d2, 1024; {OUT}"
            );
            let shape = Shape::new(64);
            let done = shape.clean(&kernel(&body.replace("BARRIER", "bar.sync 0;")));
            for t in 0..64u32 {
                assert_eq!(done.words()[256 + t as usize], t ^ 33);
            }
            let code = if space == "shared" { "RACE-SHARED" } else { "RACE-GLOBAL" };
            shape.notices(code, &kernel(&body.replace("BARRIER", "bar.warp.sync -1;")));
        }
    }
}

/// One word is written bytewise, then whole, then bytewise again.
#[test]
fn words_split_and_join() {
    let body = format!(
        "and.b32 %r9, %r1, 3; add.u32 %r9, %r9, %r4; setp.lt.u32 %p1, %r1, 4; setp.eq.u32 %p2, %r1, 40; cvt.u16.u32 %h1, %r1;\n\
         @%p1 st.shared.u8 [%r9], %h1; bar.sync 0; @%p2 st.shared.u32 [%r4], 0x11121314; bar.sync 0; ld.shared.u8 %r10, [%r9]; bar.sync 0;\n\
         @%p1 st.shared.u8 [%r9], %h1; bar.sync 0; ld.shared.u32 %r11, [%r4]; and.b32 %r11, %r11, 0xff00; add.u32 %r10, %r10, %r11; {OUT}"
    );
    let done = Shape::new(64).clean(&kernel(&body));
    for t in 0..64 {
        assert_eq!(done.words()[t], 0x14 - (t as u32 & 3) + 0x100);
    }
    Shape::new(64).notices("RACE-SHARED", &kernel(&body.replacen("bar.sync 0;", "", 1)));
}

/// The same value stored by all lanes, of one warp.
#[test]
fn lanes_store_the_same() {
    let body = "st.global.u32 [%d2], 7; st.shared.u32 [%r4], %r3;";
    Shape::new(32).clean(&kernel(body));
    Shape::new(32).reports(&["RACE-WARP"], &kernel("st.global.u32 [%d2], %r1;"));
    Shape::new(64).notices("RACE-GLOBAL", &kernel(body));
}

/// A flag with release and acquire in all their spellings.
#[test]
fn flags() {
    let body = |write: &str, read: &str| {
        format!(
            "mov.u32 %r10, 0; mov.u32 %r11, %ctaid.x; setp.ne.u32 %p1, %r2, 0; @%p1 ret; setp.eq.u32 %p1, %r11, 0; @!%p1 bra READ;\n\
             st.global.u32 [%d2+256], 42; {write} ret;\n\
             READ: {read} setp.eq.u32 %p2, %r12, 0; @%p2 bra READ; AFTER: ld.global.u32 %r10, [%d2+256]; st.global.u32 [%d2+512], %r10;"
        )
    };
    let mut shape = Shape::new(32);
    shape.grid = 2;
    shape.b = Some(vec![0; 1024]);
    shape.b_bytes = 1024;
    let read = "ld.acquire.gpu.global.u32 %r12, [%d2];";
    for write in [
        "st.release.gpu.global.u32 [%d2], 1;",
        "fence.acq_rel.gpu; st.relaxed.gpu.global.u32 [%d2], 1;",
        "membar.gl; st.volatile.global.u32 [%d2], 1;",
        "membar.gl; red.relaxed.gpu.global.add.u32 [%d2], 1;",
        "atom.release.gpu.global.exch.b32 %r13, [%d2], 1;",
        "atom.acq_rel.sys.global.add.u32 %r13, [%d2], 1;",
        "fence.sc.sys; atom.global.or.b32 %r13, [%d2], 1;",
    ] {
        assert_eq!(shape.clean(&kernel(&body(write, read))).words()[128], 42, "{write}");
    }
    let write = "st.release.gpu.global.u32 [%d2], 1;";
    for read in [
        "ld.relaxed.gpu.global.u32 %r12, [%d2]; fence.acq_rel.gpu;",
        "ld.volatile.global.u32 %r12, [%d2]; membar.gl;",
        "atom.acquire.gpu.global.add.u32 %r12, [%d2], 0;",
        "atom.relaxed.gpu.global.or.b32 %r12, [%d2], 0; fence.acq_rel.gpu;",
    ] {
        assert_eq!(shape.clean(&kernel(&body(write, read))).words()[128], 42, "{read}");
    }
    for (write, read) in [
        ("st.relaxed.gpu.global.u32 [%d2], 1;", read),
        ("st.relaxed.gpu.global.u32 [%d2], 1; fence.acq_rel.gpu;", read),
        ("fence.acq_rel.cta; st.relaxed.gpu.global.u32 [%d2], 1;", read),
        ("st.release.cta.global.u32 [%d2], 1;", read),
        (write, "ld.relaxed.gpu.global.u32 %r12, [%d2];"),
        (write, "ld.acquire.cta.global.u32 %r12, [%d2];"),
        (write, "fence.acq_rel.gpu; ld.relaxed.gpu.global.u32 %r12, [%d2];"),
    ] {
        shape.notices("RACE-GLOBAL", &kernel(&body(write, read)));
    }
    // Plain accesses to the flag race themselves.
    shape
        .notices("RACE-GLOBAL", &kernel(&body("fence.acq_rel.gpu; st.global.u32 [%d2], 1;", read)));
}

/// The last block sums what all have written.
#[test]
fn the_last_block_sums() {
    let body = "mov.u32 %r11, %ctaid.x; mad.lo.u32 %r12, %r11, 64, %r1; mul.wide.u32 %d3, %r12, 4; add.u64 %d3, %d3, %d2; st.global.u32 [%d3+1024], %r12;\n\
        EARLY bar.sync 0; setp.ne.u32 %p1, %r1, 0; @%p1 bra WAIT; FENCE atom.relaxed.gpu.global.add.u32 %r13, [%d2], 1; st.shared.u32 [%r4], %r13; SECOND\n\
        WAIT: bar.sync 0; ld.shared.u32 %r13, [%r4]; setp.ne.u32 %p2, %r13, 4; @%p2 ret; THIRD\n\
        mov.u32 %r14, 0; mov.u32 %r15, 0; mul.wide.u32 %d4, %r1, 4; add.u64 %d4, %d4, %d2;\n\
        SUM: ld.global.u32 %r16, [%d4+1024]; add.u32 %r14, %r14, %r16; add.u64 %d4, %d4, 256; add.u32 %r15, %r15, 1; setp.lt.u32 %p3, %r15, 5; @%p3 bra SUM;\n\
        mul.wide.u32 %d3, %r1, 4; add.u64 %d3, %d3, %d2; st.global.u32 [%d3+256], %r14;";
    let with = |texts: [&str; 4]| {
        let names = ["EARLY", "FENCE", "SECOND", "THIRD"];
        kernel(
            &names.iter().zip(texts).fold(body.to_owned(), |b, (name, text)| b.replace(name, text)),
        )
    };
    let mut shape = Shape::new(64);
    shape.grid = 5;
    shape.b = Some(vec![0; 4]);
    let fence = "fence.acq_rel.gpu;";
    let done = shape.clean(&with(["", fence, fence, ""]));
    for t in 0..64u32 {
        assert_eq!(done.words()[64 + t as usize], 5 * t + 640);
    }
    // A fence orders what the thread that counts has observed: not before the barrier, not after the next.
    for texts in
        [["", "", fence, ""], ["", fence, "", ""], [fence, "", fence, ""], ["", fence, "", fence]]
    {
        shape.notices("RACE-GLOBAL", &with(texts));
    }
}

/// Two buffers by turns: one barrier a round is enough.
#[test]
fn two_buffers_by_turns() {
    let body = |barriers: &str| {
        format!(
            "mov.u32 %r10, %r1; mov.u32 %r12, 0; mov.u32 %r13, 0;\n\
             LOOP: shl.b32 %r9, %r1, 2; add.u32 %r9, %r9, %r4; add.u32 %r9, %r9, %r13; st.shared.u32 [%r9], %r10; {barriers}\n\
             add.u32 %r14, %r1, 1; and.b32 %r14, %r14, 63; shl.b32 %r14, %r14, 2; add.u32 %r14, %r14, %r4; add.u32 %r14, %r14, %r13; ld.shared.u32 %r15, [%r14]; add.u32 %r10, %r10, %r15;\n\
             xor.b32 %r13, %r13, SIZE; add.u32 %r12, %r12, 1; setp.lt.u32 %p1, %r12, 6; @%p1 bra LOOP; {OUT}"
        )
    };
    let shape = Shape::new(64);
    shape.clean(&kernel(&body("bar.sync 0;").replace("SIZE", "256")));
    shape.notices("RACE-SHARED", &kernel(&body("bar.sync 0;").replace("SIZE", "0")));
}

/// Lanes exchange through shared memory with only warp barriers.
#[test]
fn warp_barriers() {
    let body = |sync: &str| {
        format!(
            "shl.b32 %r9, %r1, 2; add.u32 %r9, %r9, %r4; st.shared.u32 [%r9], %r1; {sync} xor.b32 %r11, %r9, 12; ld.shared.u32 %r10, [%r11]; {sync}\n\
             st.shared.u32 [%r9], %r10; {sync} ld.shared.u32 %r10, [%r11]; {OUT}"
        )
    };
    let shape = Shape::new(64);
    let done = shape.clean(&kernel(&body("bar.warp.sync 0xffffffff;")));
    assert_eq!(done.words()[5], 5);
    shape.reports(&["RACE-WARP"], &kernel(&body("")));
    // A shuffle brings lanes together and orders no memory.
    shape.reports(&["RACE-WARP"], &kernel(&body("shfl.sync.idx.b32 %r20, %r1, 0, 31, -1;")));
}

/// Strong accesses to one place do not race; a weak one among them does, even before a strong one of its own warp.
#[test]
fn strong_and_weak_accesses() {
    let mut shape = Shape::new(64);
    shape.b = Some(vec![0; 64]);
    shape.b_bytes = 64;
    let body = |first: &str| {
        format!(
            "setp.ne.u32 %p1, %r2, 0; @%p1 ret; setp.eq.u32 %p2, %r3, 0; @%p2 {first} atom.relaxed.gpu.global.add.u32 %r11, [%d2], 1; ld.relaxed.gpu.global.u32 %r12, [%d2];"
        )
    };
    for strong in ["st.relaxed.gpu.global.u32 [%d2], 0;", "ld.volatile.global.u32 %r13, [%d2];"] {
        for options in ptx_sim::Options::matrix() {
            let done = shape.run(&kernel(&body(strong)), options);
            assert!(done.report.diags.is_empty(), "{}", done.report);
        }
    }
    for weak in ["st.global.u32 [%d2], 0;", "ld.global.u32 %r13, [%d2];"] {
        shape.notices("RACE-GLOBAL", &kernel(&body(weak)));
    }
    // Of the block's scope only: enough within it, not between blocks.
    let cta = kernel(&body("mov.u32 %r14, 0;").replace(".gpu", ".cta"));
    for options in ptx_sim::Options::matrix() {
        assert!(shape.run(&cta, options).report.diags.is_empty());
    }
    shape.grid = 2;
    shape.notices("RACE-GLOBAL", &cta);
}
