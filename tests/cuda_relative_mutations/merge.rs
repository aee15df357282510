//! Breaks of the kernel that merges two results.

use crate::common::merge::cases;
use crate::common::mock;
use crate::common::mutation::{self, Mutation};
use longhand::DType;
use longhand::cuda::{Caps, Context};

const ROWS: &str = "// ---- a warp, 8 rows";
const LSE: &str = "// ---- a lane, a row";
const WEIGHTS: &str = "// ---- weights";
const ELEMENTS: &str = "// ---- elements";

#[test]
fn rows_weights_and_elements() {
    let Some(mock) = mock::install() else { return };
    // A lane of a warp has one access in all.
    let case = &cases(DType::F32)[1];
    let parts = case.parts.each_ref().map(|(out, lse)| (&out[..], &lse[..]));
    let sources = case.merge.sources_cuda(&Caps::a100()).expect("a kernel");
    let run = |context: &Context| {
        let (out, lse) = case.merge.run_cuda(context, parts)?;
        Ok(case.worst(&out, &lse))
    };
    mutation::all_noticed(
        &mock,
        &sources[0].1,
        (1.0, 1.0),
        run,
        &[
            Mutation(
                "a row past the end",
                ROWS,
                "sub.u32 %left, %x1, %first;",
                "mov.u32 %left, 8;",
            ),
            Mutation(
                "the last row is left out",
                ROWS,
                "setp.ge.u32 %p0, %first",
                "setp.gt.u32 %p0, %left",
            ),
            Mutation(
                "lse lies as the elements do",
                LSE,
                "mad.lo.u32 %x0, %n, %x1, %x0;",
                "add.u32 %x0, %first, %lane;\n  mov.u32 %x3, 1;\n  mov.u32 %x2, 0;",
            ),
            Mutation("the first sequence's lse for all", LSE, "mad.lo.u32 %x0, %n, %x1, %x0;", ""),
            Mutation(
                "rows without keys weigh something",
                WEIGHTS,
                "selp.f32 %w_p, 0f00000000, %w_p, %p0;",
                "",
            ),
            Mutation(
                "the smaller lse is taken from both",
                WEIGHTS,
                "max.f32 %most",
                "min.f32 %most",
            ),
            Mutation("weights in units of log2", WEIGHTS, "mul.rn.f32 %w, %w, 0f3FB8AA3B;", ""),
            Mutation("weights do not add up to one", WEIGHTS, "mul.rn.f32 %w_p, %w_p, %sum;", ""),
            Mutation(
                "lse in units of log2",
                WEIGHTS,
                "fma.rn.f32 %own, %own, 0f3F317218, %most;",
                "add.rn.f32 %own, %own, %most;",
            ),
            Mutation(
                "the next row's weight",
                ELEMENTS,
                "and.b32 %x1, %x1, 31;",
                "add.u32 %x1, %x1, 1;",
            ),
            Mutation(
                "NaN of a part without keys leaks",
                ELEMENTS,
                "setp.neu.and.f32 %second0, %weight_p0, 0f00000000, %in0;",
                "mov.pred %second0, %in0;",
            ),
            Mutation(
                "NaN of a result without keys leaks",
                ELEMENTS,
                "setp.neu.and.f32 %both0, %weight0, 0f00000000, %second0;",
                "mov.pred %both0, %second0;",
            ),
            Mutation(
                "rows without keys stay",
                ELEMENTS,
                "setp.equ.or.f32 %stores0, %weight0, 0f00000000, %second0;",
                "mov.pred %stores0, %second0;",
            ),
            Mutation("the part goes elsewhere", ELEMENTS, "add.u64 %part, %part, %y0;", ""),
        ],
    );
}
