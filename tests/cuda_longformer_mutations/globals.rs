//! Breaks of global rows and keys: their list, their projections, what warps and splits share out.

use super::{END, LIMITS, LOOP, MASK, START, all_noticed, mixed};
use crate::common::mutation::Mutation;
use longhand::{DType, Longformer};

/// Fewer global keys than a slice has, and few enough global rows that their keys are shared out.
#[test]
fn few_globals() {
    let problem =
        |globals| Longformer::new([1, 1100, 2, 64], 20, DType::F16).globals(globals).key_padding();
    all_noticed(
        problem(30),
        11,
        "longformer_forward",
        &[
            Mutation(
                "flags of the first slice",
                "\nNARROW:",
                "add.u32 %x6, %kn, %lane;",
                "add.u32 %x6, %kt, %lane;",
            ),
            Mutation(
                "the second 16 rows are left out",
                START,
                "setp.le.and.s32 %p1, %x0, 16, %p0;",
                "setp.le.and.s32 %p1, %x0, 32, %p0;",
            ),
        ],
    );
    all_noticed(
        problem(60),
        12,
        "longformer_forward",
        &[Mutation(
            "more rows than a warp has",
            START,
            "setp.le.and.s32 %p0, %x0, 32, %global;",
            "setp.le.and.s32 %p0, %x0, 64, %global;",
        )],
    );
    all_noticed(
        problem(13),
        10,
        "longformer_forward",
        &[
            Mutation(
                "every warp takes the first slice",
                START,
                "mul.lo.u32 %slice, %warp, 16;",
                "mov.u32 %slice, 0;",
            ),
            Mutation("warps keep rows apart", START, "selp.b32 %warp, 0, %warp, %p0;", ""),
            Mutation("K of the first slice", START, "add.u32 %ka0, %ka0, %x0;", ""),
            Mutation("V of the first slice", START, "add.u32 %va0, %va0, %x0;", ""),
            Mutation(
                "flags of the first slice",
                "\nSIXTEEN:",
                "add.u32 %x6, %kn, %lane;",
                "add.u32 %x6, %kt, %lane;",
            ),
            Mutation(
                "rows past the list are seen",
                "\nNARROW:",
                "selp.b32 %x6, %count, %x6, %gathered;",
                "selp.b32 %x6, 1000, %x6, %gathered;",
            ),
            Mutation("no barrier before the slices' results", "\nPART:", "bar.sync 0;", ""),
            Mutation("no barrier after the slices' results", "\nWRITTEN:", "bar.sync 0;", ""),
            Mutation(
                "a slice less",
                "\nSLICES:",
                "setp.lt.u32 %p1, %x5, 4;",
                "setp.lt.u32 %p1, %x5, 3;",
            ),
            Mutation("m without the scale", "\nSLICES:", "mul.rn.f32 %s2, %s2, %scale;", ""),
            Mutation("l of a slice alone", "\nSLICES:", "fma.rn.f32 %l0, %f2, %f0, %l0;", ""),
            Mutation("O keeps its maximum", "\nSLICES:", "mul.rn.f32 %o0, %o0, %n0;", ""),
            Mutation(
                "O of row 8 by row 0's",
                "\nSLICES:",
                "fma.rn.f32 %o2, %s2, %f1, %o2;",
                "fma.rn.f32 %o2, %s2, %f0, %o2;",
            ),
            Mutation("the first tile is not gathered", START, "@%p3 mov.u32 %at0, %early0;", ""),
            Mutation(
                "the band's first tile is copied twice",
                LOOP,
                "setp.eq.and.s32 %p0, %kt, 0, %p0;",
                "setp.eq.and.s32 %p0, %kt, 1, %p0;",
            ),
            Mutation(
                "the band's first tile is not copied",
                START,
                "setp.le.and.s32 %p0, %count, 64, %gathered;",
                "setp.le.and.s32 %p0, %count, 0, %gathered;",
            ),
        ],
    );
}

#[test]
fn rows_their_projections_and_results() {
    all_noticed(
        mixed(),
        2,
        "longformer_forward",
        &[
            Mutation(
                "a global row's query is local",
                START,
                "@%global ld.param.u64 %q, [p+24];",
                "",
            ),
            Mutation(
                "a global row's keys are local",
                START,
                "@%global ld.param.u64 %k, ",
                "@!%global ld.param.u64 %k, ",
            ),
            Mutation(
                "a global row's values are local",
                START,
                "@%global ld.param.u64 %v, [p+40];",
                "",
            ),
            Mutation(
                "queries are not gathered",
                "// ---- a thread copies",
                "@%p3 ld.global.nc.u32 %at0, [%y5];",
                "",
            ),
            Mutation(
                "every sequence has the first's list",
                START,
                "mad.lo.u64 %list, %y2, %y0, %list;",
                "",
            ),
            Mutation(
                "every sequence has the first's flags",
                START,
                "mad.lo.u64 %flags, %y2, %y0, %flags;",
                "",
            ),
            Mutation(
                "a row of padding keeps its result",
                END,
                "setp.eq.u32 %p0, %x0, 3;",
                "setp.eq.u32 %p0, %x0, 7;",
            ),
            Mutation("padding has a sum", END, "selp.f32 %l1, %zero, %l1, %p1;", ""),
            Mutation("global rows end as local ones", END, "@%global bra PART;", ""),
            Mutation("no barrier after the rows' ranges", "\nKEPT:", "bar.sync 0;", ""),
            Mutation(
                "blocks overlap",
                START,
                "mul.lo.u32 %q0, %block, ",
                "mul.lo.u32 %q0, %block, 64; //",
            ),
            Mutation(
                "all parts are the first split's",
                START,
                "mul.lo.u32 %k_begin, %split, %x2;",
                "mov.u32 %k_begin, 64;",
            ),
        ],
    );
    all_noticed(
        mixed(),
        3,
        "longformer_index",
        &[
            Mutation(
                "padding loses to global",
                "// ---- globals",
                "setp.ne.u32 %p0, %x2, 3;",
                "setp.ne.u32 %p0, %x2, 4;",
            ),
            Mutation(
                "padding is inverted",
                "\nMARK:",
                "setp.ne.u32 %p0, %x1, 0;",
                "setp.eq.u32 %p0, %x1, 0;",
            ),
            Mutation("no barrier before the list is entered", "\nMARKED:", "bar.sync 0;", ""),
            Mutation("no barrier before ranks are counted", "\nENTERED:", "bar.sync 0;", ""),
            Mutation("no barrier between sums and their reading", "\nRANKS:", "bar.sync 0;", ""),
            Mutation("a place too far", "\nRANKS:", "sub.u32 %before, %before, %own;", ""),
            Mutation(
                "padded globals are listed",
                "\nRANKS:",
                "not.b32 %x0, %x0;",
                "mov.b32 %x0, 0xffffffff;",
            ),
            Mutation("the count of the last chunk", "\nRANKS:", "add.u32 %base, %base, %x5;", ""),
            Mutation(
                "-1 is a position",
                "\nLISTED:",
                "setp.lt.u32 %p0, %x1, %seqlen;",
                "setp.lt.s32 %p0, %x1, %seqlen;",
            ),
        ],
    );
    all_noticed(
        Longformer::new([1, 600, 1, 32], 1, DType::F16).globals(50),
        9,
        "longformer_index",
        &[Mutation("ranks of a warp alone", "\nRANKS:", "@%p1 add.u32 %before, %before, %x5;", "")],
    );
    all_noticed(
        mixed(),
        4,
        "longformer_combine",
        &[
            Mutation("results lie in the list's order", START, "ld.global.nc.u32 %row, [%y0];", ""),
            Mutation(
                "rows past the list are written",
                START,
                "setp.ge.u32 %p0, %row, %x1;",
                "setp.ge.u32 %p0, %row, 1000;",
            ),
            Mutation("l is a lane's", START, "add.rn.f32 %l, %l, %f0;", ""),
        ],
    );
}

#[test]
fn causal_rows_and_gathered_keys() {
    let problem = Longformer::new([2, 200, 2, 64], 20, DType::F16).globals(70).causal();
    all_noticed(
        problem,
        5,
        "longformer_forward",
        &[
            Mutation(
                "a gathered key after the row",
                "// A gathered key comes",
                "setp.gt.s32 %p0, %x7, %x8;",
                "setp.gt.s32 %p0, %x7, 1000;",
            ),
            Mutation(
                "a gathered key just after the row",
                "// A gathered key comes",
                "setp.gt.s32 %p0, %x7, %x9;",
                "sub.s32 %x7, %x7, 1;\n  setp.gt.s32 %p0, %x7, %x9;",
            ),
            Mutation("gathered tiles are whole", MASK, "or.pred %edge, %edge, %gathered;", ""),
            Mutation(
                "a global row sees what follows",
                LIMITS,
                "selp.b32 %x5, %x7, %x5, %global;",
                "selp.b32 %x5, %seqlen, %x5, %global;",
            ),
            Mutation(
                "a global row does not see itself",
                LIMITS,
                "add.s32 %x7, %x6, 1;",
                "mov.s32 %x7, %x6;",
            ),
            Mutation(
                "positions beyond the list are read",
                "\nNARROW:",
                "@%p0 ld.global.nc.u32 %x7",
                "ld.global.nc.u32 %x7",
            ),
        ],
    );
}
