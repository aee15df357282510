//! Breaks of the kernel that makes position tables.

use crate::common::mock;
use crate::common::mutation::{self, Mutation};
use crate::common::sinusoids::worst;
use longhand::DType;
use longhand::cuda::{Caps, Context};
use longhand::transformer_xl::{SinCos, Sinusoids};

const PHASE: &str = "// ---- the phase";
const NEAREST: &str = "// ---- from the nearest quarter";
const SERIES: &str = "// ---- Taylor's series";
const QUARTER: &str = "// ---- the quarter";
const STORE: &str = "// ---- store";

#[test]
fn phases_series_and_places() {
    let Some(mock) = mock::install() else { return };
    let order = SinCos::Halves;
    let table = Sinusoids { first: -140_000, rows: 3, width: 64, order, dtype: DType::F32 };
    let sources = table.sources_cuda(&Caps::a100()).expect("a kernel");
    let run = |context: &Context| {
        let got = table.run_cuda(context)?;
        Ok((worst(&table, bytemuck::cast_slice(&got)), 0.0))
    };
    mutation::all_noticed(
        &mock,
        &sources[0].1,
        (1.0, 0.0),
        run,
        &[
            Mutation(
                "negative distances are large ones",
                PHASE,
                "cvt.s64.s32 %y0, %x0;",
                "cvt.u64.u32 %y0, %x0;",
            ),
            Mutation(
                "the upper half of the product is lost",
                PHASE,
                "mul.lo.u64 %phase, %phase, %y0;",
                "cvt.u32.u64 %x1, %phase;\n  mul.wide.u32 %phase, %x1, %x0;",
            ),
            Mutation(
                "the next row's distance",
                PHASE,
                "add.s32 %x0, %x0, %row;",
                "add.s32 %x0, %x0, 1;",
            ),
            Mutation(
                "the frequency before",
                PHASE,
                "mul.wide.u32 %y1, %i, 8;",
                "mul.wide.u32 %y1, %i, 4;",
            ),
            Mutation(
                "the quarter before, not the nearest",
                NEAREST,
                "add.u64 %y0, %phase, 0x2000000000000000;",
                "add.u64 %y0, %phase, 0;",
            ),
            Mutation("an unsigned rest", NEAREST, "cvt.rn.f32.s64", "cvt.rn.f32.u64"),
            Mutation("a term of the sine has the other sign", SERIES, "0f42283C1A", "0fC2283C1A"),
            Mutation("half a term of the cosine", SERIES, "0f4270FA83", "0f41F0FA83"),
            Mutation(
                "sines and cosines change places",
                QUARTER,
                "selp.f32 %sin, %c, %s, %p1;\n  selp.f32 %cos, %s, %c, %p1;",
                "selp.f32 %cos, %c, %s, %p1;\n  selp.f32 %sin, %s, %c, %p1;",
            ),
            Mutation("sines keep their sign", QUARTER, "@%p2 neg.f32 %sin, %sin;", ""),
            Mutation(
                "cosines change sign with sines",
                QUARTER,
                "add.u32 %x0, %quarter, 1;",
                "mov.u32 %x0, %quarter;",
            ),
            Mutation(
                "cosines are stored over sines",
                STORE,
                "st.global.f32 [%cosine], %cos;",
                "st.global.f32 [%to], %cos;",
            ),
            Mutation("one row for all", STORE, "cvt.u64.u32 %y1, %row;", "mov.u64 %y1, 0;"),
        ],
    );
}
