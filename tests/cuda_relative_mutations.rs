//! Checks that the checks check: every change below breaks one of the CUDA kernels of
//! relative-position attention as a slip of the pen would, and must be noticed. As
//! `tests/cuda_mutations.rs`.

mod common;

use common::mutation::{self, Mutation};
use common::relative::{Case, errors};
use common::{Random, mock};
use longhand::cuda::{Caps, Context};
use longhand::transformer_xl::{Chunks, Memory};
use longhand::{DType, TransformerXl, Window};

/// Runs the problem as it is, then with every break of kernel `kernel`.
fn all_noticed(problem: TransformerXl, seed: u64, kernel: &str, mutations: &[Mutation]) {
    let Some(mock) = mock::install() else { return };
    let case = Case::new(problem, &mut Random(seed));
    let expected = case.reference();
    let sources = problem.sources_cuda(&Caps::a100()).expect("kernels");
    let (_, source) = sources.into_iter().find(|(name, _)| name == kernel).expect("it is there");
    let tolerance = match problem.dtype {
        DType::F32 => 5e-6,
        dtype => 2.0 * common::tolerance(dtype),
    };
    let run = |context: &Context| {
        let got = problem.run_cuda(context, &case.inputs())?;
        Ok(errors(&got, &expected))
    };
    mutation::all_noticed(&mock, &source, (tolerance, 2e-6), run, mutations);
}

const FORWARD: &str = "transformer_xl_forward";
const TERMS: &str = "transformer_xl_terms";

const START: &str = ".visible .entry";
const LIMITS: &str = "// ---- what each row sees";
const TABLE: &str = "// The table: distances";
const LANES: &str = "// The shear's lanes";
/// A thread's last key of the first tile: those from 48 on.
const LAST_KEYS: &str = "add.u32 %u3, %x5, 48;";
const LOOP: &str = "\nLOOP:";
const REFILL: &str = "// The table's next rows";
const LEFT_OUT: &str = "// ---- keys left out";
const BAND: &str = "// ---- the band";
const CARRIED: &str = "\nCARRIED:";
const SHEAR: &str = "// ---- shear";
const KEY_TERMS: &str = "// ---- the keys' terms";
const MASK: &str = "// ---- mask";

/// Tiles of 64 queries and 64 keys, several of each.
fn causal() -> TransformerXl {
    TransformerXl::with_memory([1, 150, 2, 64], 200, DType::BF16)
}

#[test]
fn distances_and_the_band() {
    all_noticed(
        causal(),
        1,
        FORWARD,
        &[
            Mutation(
                "distance off by one",
                TABLE,
                "add.s32 %rest, %rest, 63;",
                "add.s32 %rest, %rest, 64;",
            ),
            Mutation(
                "distance off by one from the second tile on",
                REFILL,
                "sub.s32 %rest, %rest, 1;",
                "",
            ),
            Mutation("distances ascend", REFILL, "sub.s32 %u3, %x5, 16;", "add.s32 %u3, %x5, 16;"),
            Mutation(
                "the offset is another row",
                REFILL,
                "add.s32 %u0, %u0, %u1;",
                "add.s32 %u0, %u0, %u1;\n  max.s32 %u0, %u0, 1;",
            ),
            Mutation(
                "terms of another distance",
                TABLE,
                "sub.s32 %x5, %rest, %thread;",
                "sub.s32 %x5, %rest, %thread;\n  sub.s32 %x5, %x5, 1;",
            ),
            Mutation(
                "terms in another place of the ring",
                REFILL,
                "add.u32 %put, %fill, %thread;",
                "mov.u32 %put, %thread;",
            ),
            Mutation(
                "the neighbour tile's columns are reused wrongly",
                SHEAR,
                "mov.f32 %b2, %b34;",
                "mov.f32 %b2, %b26;",
            ),
            Mutation("no column is reused", SHEAR, "mov.f32 %b5, %b37;", ""),
            Mutation(
                "the first tile has a neighbour",
                START,
                "setp.ne.u32 %carried, %lane, %lane;",
                "setp.eq.u32 %carried, %lane, %lane;",
            ),
            Mutation(
                "the first columns are the next ones",
                BAND,
                "sub.s32 %band0, %band_row, 16;",
                "mov.u32 %band0, %band_row;",
            ),
            Mutation(
                "every warp has the last one's band",
                START,
                "sub.u32 %band_row, 64, %row0;",
                "mov.u32 %band_row, 16;",
            ),
            Mutation(
                "the ring is not read around",
                CARRIED,
                "@%p0 sub.u32 %band3, %band3, 192;",
                "",
            ),
            Mutation(
                "the ring is not refilled around",
                REFILL,
                "setp.eq.u32 %p0, %fill, 192;",
                "setp.eq.u32 %p0, %fill, 1920;",
            ),
            Mutation("the band stands still", "\nNEXT:", "add.u32 %band_row, %band_row, 64;", ""),
            Mutation(
                "v r of another group",
                CARRIED,
                "mad.lo.u32 %x6, %band1, 4, %row_terms_at;",
                "mad.lo.u32 %x6, %band0, 4, %row_terms_at;",
            ),
            Mutation(
                "u k of the other buffer",
                KEY_TERMS,
                "add.u32 %x6, %key_terms_at, %phase;",
                "mov.u32 %x6, %key_terms_at;",
            ),
            Mutation("u k is left out", KEY_TERMS, "add.rn.f32 %s6, %s6, %f0;", ""),
            Mutation(
                "the band is left out",
                "// ---- S = Q K^T",
                "{%kf0, %kf1}, {%s0, %s1, %s2, %s3};",
                "{%kf0, %kf1}, {%zero, %zero, %zero, %zero};",
            ),
        ],
    );
}

#[test]
fn the_shear() {
    all_noticed(
        causal(),
        2,
        FORWARD,
        &[
            Mutation(
                "a lane wraps too early",
                LANES,
                "setp.lt.u32 %wraps0, %t, %x3;",
                "setp.le.u32 %wraps0, %t, %x3;",
            ),
            Mutation(
                "odd columns go as far as even ones",
                LANES,
                "add.u32 %x3, %x0, 1;",
                "add.u32 %x3, %x0, 0;",
            ),
            Mutation(
                "all shifts are odd",
                LANES,
                "setp.ne.u32 %odd, %x1, 0;",
                "setp.ne.u32 %odd, %x1, 2;",
            ),
            Mutation(
                "a shift is a row's, not 7 less",
                LANES,
                "sub.u32 %x0, 7, %g;",
                "mov.u32 %x0, %g;",
            ),
            Mutation(
                "rows 8 apart have one shift",
                SHEAR,
                "selp.f32 %s2, %b6, %b2, %wraps0;",
                "selp.f32 %s2, %b10, %b6, %wraps0;",
            ),
            Mutation(
                "a tile too far",
                SHEAR,
                "selp.f32 %s28, %b36, %b32, %wraps0;",
                "selp.f32 %s28, %b36, %b28, %wraps0;",
            ),
        ],
    );
}

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

/// Both streams' options, a memory in a ring, shared rows of the table.
fn mixed() -> TransformerXl {
    let p = TransformerXl::xlnet([2, 100, 2, 64], 60, DType::F16).clamp_len(40).heads_kv(1);
    let p = p.memory(Memory { len: 60, rows: 64, start: 30 });
    p.segments().perm_mask().key_padding()
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

/// Queries anywhere in their segment, behind a window, in blocks of 64.
#[test]
fn queries_at_positions_of_their_own() {
    const ROW_TERMS: &str = "// v r of the thread's four";
    const PUT: &str = "// Of row r, distance d";
    let problem = TransformerXl::xlnet([1, 150, 2, 64], 100, DType::BF16)
        .window(Window::new(90, 40))
        .targets(70);
    // Where a mask hides a key, each tile is masked.
    let seen_by_all = Mutation(
        "a tile that one row sees is seen by all",
        LIMITS,
        "redux.sync.max.s32 %all_from",
        "redux.sync.min.s32 %all_from",
    );
    all_noticed(problem, 8, FORWARD, &[seen_by_all]);
    all_noticed(
        problem.segments().perm_mask(),
        8,
        FORWARD,
        &[
            Mutation(
                "the query's number is its position",
                LIMITS,
                "ld.global.nc.u32 %x7, [%y0];",
                "mov.u32 %x7, %x0;",
            ),
            Mutation(
                "positions begin at the first key",
                LIMITS,
                "add.s32 %x0, %x0, %x7;",
                "mov.u32 %x0, %x7;",
            ),
            Mutation("the segment of the query's number", LIMITS, "%y3, %first;", "%y3, %x0;"),
            Mutation(
                "keys of the lane's rows only",
                LIMITS,
                "redux.sync.max.s32 %k_end, %k_end, -1;",
                "",
            ),
            Mutation(
                "a tile that one row does not see is left out",
                LIMITS,
                "redux.sync.max.s32 %warp_to",
                "redux.sync.min.s32 %warp_to",
            ),
            Mutation(
                "the mask of the block's first query",
                LEFT_OUT,
                "mad.lo.u32 %x9, %x8, 4, %x9;",
                "",
            ),
            Mutation(
                "the distances of a tile begin one late",
                LEFT_OUT,
                "sub.s32 %x10, %x8, 63;",
                "sub.s32 %x10, %x8, 62;",
            ),
            Mutation(
                "distance off by one",
                ROW_TERMS,
                "sub.s32 %x10, %x8, %d;",
                "sub.s32 %x10, %x8, %d;\n  add.s32 %x10, %x10, 1;",
            ),
            Mutation(
                "a row has the distances of another",
                PUT,
                "sub.s32 %x10, %x9, %d;",
                "sub.s32 %x10, %x8, %d;",
            ),
            Mutation("v r of another distance", ROW_TERMS, "add.s32 %u3, %u3, %x14;", ""),
            Mutation(
                "another row of the table",
                "// Rows of the table: n = g",
                "add.s32 %u3, %u3, %g;",
                "add.s32 %u3, %u3, %t;",
            ),
            Mutation(
                "the tile's last key is left out",
                PUT,
                "setp.lt.u32 %p0, %x12, 64;",
                "setp.lt.u32 %p0, %x12, 63;",
            ),
            Mutation(
                "distances are passed over",
                PUT,
                "add.s32 %d, %d, 16;",
                "add.s32 %d, %d, 24;",
            ),
            Mutation("scores are read before they are put", PUT, "bar.warp.sync -1;", ""),
        ],
    );
}
