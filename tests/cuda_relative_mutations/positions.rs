//! Breaks of the position term: distances, the band, the shear, queries at positions of their own.

use super::{
    BAND, CARRIED, FORWARD, KEY_TERMS, LANES, LEFT_OUT, LIMITS, REFILL, SHEAR, START, TABLE,
    all_noticed, causal,
};
use crate::common::mutation::Mutation;
use longhand::{DType, TransformerXl, Window};

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
