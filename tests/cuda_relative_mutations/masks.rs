//! Breaks of what a row sees, and of the terms that are added to its scores.

use super::{
    BAND, FORWARD, KEY_TERMS, LAST_KEYS, LEFT_OUT, LIMITS, LOOP, MASK, REFILL, START, TABLE, TERMS,
    all_noticed, mixed,
};
use crate::common::mutation::Mutation;
use longhand::transformer_xl::Chunks;
use longhand::{DType, TransformerXl, Window};

#[test]
fn what_a_row_sees() {
    let p = TransformerXl::conformer([1, 200, 1, 64], 60, DType::F16).window(Window::new(70, 9));
    all_noticed(
        p,
        3,
        FORWARD,
        &[
            Mutation(
                "window edge off by one on the left",
                LIMITS,
                "sub.s32 %x4, %x0, %x1;",
                "sub.s32 %x4, %x0, %x1;\n  add.s32 %x4, %x4, 1;",
            ),
            Mutation(
                "window one too far on the left",
                LIMITS,
                "sub.s32 %x4, %x0, %x1;",
                "sub.s32 %x4, %x0, %x1;\n  sub.s32 %x4, %x4, 1;",
            ),
            Mutation("window edge off by one on the right", LIMITS, "add.s32 %x5, %x5, 1;", ""),
            Mutation(
                "window one too far on the right",
                LIMITS,
                "add.s32 %x5, %x5, 1;",
                "add.s32 %x5, %x5, 2;",
            ),
            Mutation(
                "the mask's left edge",
                MASK,
                "setp.gt.or.s32 %p0, %x7, 1, %p0;",
                "setp.ge.or.s32 %p0, %x7, 1, %p0;",
            ),
            Mutation(
                "the mask's right edge",
                MASK,
                "setp.le.s32 %p0, %x6, 9;",
                "setp.lt.s32 %p0, %x6, 9;",
            ),
            Mutation(
                "a tile's left end counts as whole",
                MASK,
                "setp.lt.s32 %p0, %kt, %all_from;",
                "setp.lt.s32 %p0, %kt, 0;",
            ),
            Mutation(
                "a tile's right end counts as whole",
                MASK,
                "setp.gt.s32 %edge, %x6, %all_to;",
                "setp.gt.s32 %edge, %x6, %seqlen_k;",
            ),
            Mutation(
                "tiles that the warp sees are skipped",
                LOOP,
                "setp.le.s32 %p0, %x6, %warp_from;",
                "setp.le.s32 %p0, %x6, %all_to;",
            ),
            Mutation(
                "rows 8 apart have one range",
                MASK,
                "ld.shared.v2.b32 {%x7, %x6}, [%limits+64];",
                "ld.shared.v2.b32 {%x7, %x6}, [%limits+0];",
            ),
            Mutation(
                "the block ends with its first row",
                LIMITS,
                "ld.shared.u32 %k_end, [%x1+4];",
                "ld.shared.u32 %k_end, [%limits+4];",
            ),
            Mutation("no barrier after the rows' ranges", "\nLIMITED:", "bar.sync 0;", ""),
            Mutation("no barrier before a buffer is refilled", LOOP, "bar.sync 0;", ""),
            Mutation("the tile has not arrived", LOOP, "cp.async.wait_group 0;", ""),
        ],
    );
}

#[test]
fn chunks() {
    let p = TransformerXl::conformer([1, 64, 1, 128], 64, DType::BF16)
        .chunks(Chunks { size: 96, left: Some(0) });
    all_noticed(
        p,
        4,
        FORWARD,
        &[
            Mutation("below the ring", BAND, "@%p0 add.s32 %band0, %band0, 128;", ""),
            Mutation(
                "a chunk ends where it begins",
                LIMITS,
                "mad.lo.s32 %x7, %x6, %x1, %x1;",
                "mul.lo.s32 %x7, %x6, %x1;",
            ),
            Mutation("all chunks before are seen", LIMITS, "max.s32 %x4, %x4, %x6;", ""),
            Mutation(
                "one chunk too few before",
                LIMITS,
                "sub.s32 %x6, %x6, %x2;",
                "sub.s32 %x6, %x6, %x2;\n  add.s32 %x6, %x6, 1;",
            ),
        ],
    );
    let mut p = TransformerXl::conformer([1, 140, 1, 64], 0, DType::F32);
    p.shape.seqlen_k = 66;
    all_noticed(
        p.heads_kv(1).chunks(Chunks { size: 200, left: None }),
        5,
        FORWARD,
        &[Mutation(
            "a row before the first key sees its chunk",
            LIMITS,
            "selp.b32 %x5, 0, %x5, %p1;",
            "",
        )],
    );
}

#[test]
fn masks_segments_memory_and_clamped_distances() {
    all_noticed(
        mixed(),
        6,
        FORWARD,
        &[
            Mutation(
                "clamp ignored in the future",
                REFILL,
                "max.s32 %u0, %u3, %u1;",
                "mov.s32 %u0, %u3;",
            ),
            Mutation("clamp ignored in the past", TABLE, "min.s32 %u0, %u0, %u1;", ""),
            Mutation("a mask's second word", LEFT_OUT, "or.b32 %out1, %out1, %x10;", ""),
            Mutation("no mask of the row 8 further", LEFT_OUT, "or.b32 %out2, %out2, %x10;", ""),
            Mutation(
                "one mask for all rows",
                LEFT_OUT,
                "mad.lo.u64 %y1, %y1, %y0, %perm;",
                "mov.u64 %y1, %perm;",
            ),
            Mutation(
                "every sequence has the first's mask",
                START,
                "mad.lo.u64 %perm, %y0, %y1, %perm;",
                "",
            ),
            Mutation("a masked own position", LEFT_OUT, "and.b32 %out0, %out0, %x10;", ""),
            Mutation(
                "another's position for one's own",
                LEFT_OUT,
                "add.s32 %x8, %x8, %position;",
                "add.s32 %x8, %x8, %position;\n  add.s32 %x8, %x8, 1;",
            ),
            Mutation(
                "padding is inverted",
                LEFT_OUT,
                "setp.eq.u32 %p0, %x7, 0;",
                "setp.ne.u32 %p0, %x7, 0;",
            ),
            Mutation(
                "every sequence has the first's padding",
                START,
                "add.u64 %key_valid, %key_valid, %y0;",
                "",
            ),
            Mutation("bits of another lane", MASK, "shl.b32 %x8, %t, 1;", "mov.b32 %x8, %t;"),
            Mutation(
                "the same segment is another",
                KEY_TERMS,
                "setp.eq.s32 %p0, %u0, %x8;",
                "setp.ne.s32 %p0, %u0, %x8;",
            ),
            Mutation("the segment of another row", KEY_TERMS, "[%seg_q+128];", "[%seg_q+112];"),
            Mutation(
                "segments of the other buffer",
                KEY_TERMS,
                "add.u32 %x7, %seg_k_at, %phase;",
                "mov.u32 %x7, %seg_k_at;",
            ),
            Mutation("the memory is no ring", LAST_KEYS, "@%p3 sub.u32 %u0, %u0, %u1;", ""),
            Mutation(
                "the memory begins at its first row",
                "// K and V: the first",
                "add.u32 %u0, %u3, %u1;",
                "mov.u32 %u0, %u3;",
            ),
            Mutation(
                "the memory is one key longer",
                LAST_KEYS,
                "setp.lt.s32 %p2, %u3, %u2;",
                "setp.le.s32 %p2, %u3, %u2;",
            ),
            Mutation(
                "keys count from the memory's on",
                LOOP,
                "sub.u32 %u2, %u3, %u2;",
                "mov.u32 %u2, %u3;",
            ),
            Mutation(
                "values lie where keys do",
                "// K and V: the first",
                "selp.b64 %y5, %v_memory, %v, %p2;",
                "selp.b64 %y5, %k_memory, %k, %p2;",
            ),
        ],
    );
}

#[test]
fn the_terms() {
    all_noticed(
        mixed(),
        7,
        TERMS,
        &[
            Mutation(
                "u and v swapped",
                START,
                "ld.param.u64 %bias, [p+64];",
                "ld.param.u64 %bias, [p+72];",
            ),
            Mutation(
                "v and u swapped",
                "\nTABLE:",
                "ld.param.u64 %bias, [p+72];",
                "ld.param.u64 %bias, [p+64];",
            ),
            Mutation(
                "the first head's bias",
                "\nSUM:",
                "mul.lo.u32 %x1, %head, %head_dim;",
                "mov.u32 %x1, 0;",
            ),
            Mutation(
                "each head has keys",
                START,
                "div.u32 %x1, %head, %x1;",
                "mov.u32 %x1, %head;",
            ),
            Mutation("the memory is no ring", START, "@%p3 sub.u32 %u0, %u0, %u1;", ""),
            Mutation("rows of another head", "\nTABLE:", "mad.lo.u64 %from, %y3, %y2, %from;", ""),
            Mutation(
                "no bias of segments",
                "\nSUM:",
                "add.rn.f32 %f2, %f0, %f1;",
                "mov.f32 %f2, %f0;",
            ),
            Mutation(
                "one segment only",
                "\nSUM:",
                "@%p1 ld.global.nc.f32 %f3, [%y1+0];",
                "@%p1 ld.global.nc.f32 %f3, [%embed+0];",
            ),
            Mutation(
                "half the row",
                "\nSUM:",
                "shfl.sync.bfly.b32 %f0, %sum0, 16, 31, -1;",
                "mov.f32 %f0, 0f00000000;",
            ),
            Mutation(
                "the last queries are left out",
                "\nQUERIES:",
                "setp.ge.u32 %p0, %number, %count;",
                "setp.ge.u32 %p0, %number, 128;",
            ),
        ],
    );
}
