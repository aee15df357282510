//! Checks that the checks check: every change below breaks one of Longformer's CUDA kernels as a
//! slip of the pen would, and must be noticed. As `tests/cuda_mutations.rs`.

#[path = "../common/mod.rs"]
mod common;
mod globals;

use common::longformer::Case;
use common::mutation::{self, Mutation};
use common::{Random, errors_of, mock};
use longhand::cuda::{Caps, Context};
use longhand::{DType, Longformer};

/// Runs the problem as it is, then with every break of kernel `kernel`.
fn all_noticed(problem: Longformer, seed: u64, kernel: &str, mutations: &[Mutation]) {
    let Some(mock) = mock::install() else { return };
    let mut case = Case::new(problem, &mut Random(seed));
    // What padding holds has no say: so much of it that each slip is seen.
    let (p, valid) = (case.problem.clone(), case.key_valid.clone());
    for n in (0..p.batch * p.seqlen).filter(|&n| valid.as_ref().is_some_and(|v| v[n] == 0)) {
        for tensor in [&mut case.q, &mut case.k] {
            tensor[n * p.heads * p.head_dim..][..p.heads * p.head_dim].fill(f32::NAN);
        }
    }
    let expected = case.reference();
    let sources = case.problem.sources_cuda(&Caps::a100()).expect("kernels");
    let (_, source) = sources.into_iter().find(|(name, _)| name == kernel).expect("it is there");
    let tolerance = match case.problem.dtype {
        DType::F32 => 5e-6,
        dtype => 2.0 * common::tolerance(dtype),
    };
    let run = |context: &Context| {
        let got = case.problem.run_cuda(context, &case.inputs())?;
        Ok(errors_of((&got.out, &got.lse), (&expected.out, &expected.lse)))
    };
    mutation::all_noticed(&mock, &source, (tolerance, 6e-7), run, mutations);
}

const START: &str = ".visible .entry";
const LIMITS: &str = "// ---- what each row sees";
const LOOP: &str = "\nLOOP:";
const MASK: &str = "// ---- mask";
const END: &str = "\nEPILOGUE:";

/// Everything at once but dilation.
fn mixed() -> Longformer {
    Longformer::new([2, 200, 2, 64], 20, DType::F16).globals(120).key_padding()
}

#[test]
fn which_keys_a_local_row_sees() {
    all_noticed(
        mixed(),
        1,
        "longformer_forward",
        &[
            Mutation(
                "a global is counted twice",
                START,
                "selp.b32 %test, 2, 1, %global;",
                "mov.b32 %test, 2;",
            ),
            Mutation(
                "padding is seen",
                START,
                "selp.b32 %test, 2, 1, %global;",
                "mov.b32 %test, 0;",
            ),
            Mutation(
                "a global row does not see globals",
                START,
                "selp.b32 %test, 2, 1, %global;",
                "mov.b32 %test, 1;",
            ),
            Mutation(
                "window one too far on the left",
                LIMITS,
                "sub.s32 %x4, %x0, %x1;",
                "sub.s32 %x4, %x0, %x1;\n  sub.s32 %x4, %x4, 1;",
            ),
            Mutation(
                "window one too short on the left",
                LIMITS,
                "sub.s32 %x4, %x0, %x1;",
                "sub.s32 %x4, %x0, %x1;\n  add.s32 %x4, %x4, 1;",
            ),
            Mutation("window one too short on the right", LIMITS, "add.s32 %x5, %x5, 1;", ""),
            Mutation(
                "window one too far on the right",
                LIMITS,
                "add.s32 %x5, %x5, 1;",
                "add.s32 %x5, %x5, 2;",
            ),
            Mutation(
                "the mask's left edge",
                MASK,
                "setp.gt.s32 %p0, %x7, 1;",
                "setp.ge.s32 %p0, %x7, 1;",
            ),
            Mutation(
                "the mask's right edge",
                MASK,
                "setp.le.s32 %p0, %x6, 9;",
                "setp.lt.s32 %p0, %x6, 9;",
            ),
            Mutation(
                "gathered tiles have the band's range",
                MASK,
                "selp.b32 %x6, %count, %x6, %gathered;",
                "",
            ),
            Mutation(
                "rows past the list are seen",
                MASK,
                "selp.b32 %x6, %count, %x6, %gathered;",
                "selp.b32 %x6, 1000, %x6, %gathered;",
            ),
            Mutation(
                "flags of another key",
                LOOP,
                "ld.global.nc.u8 %flag0, [%y0]",
                "ld.global.nc.u8 %flag0, [%y0+1]",
            ),
            Mutation(
                "the second word of flags is the first",
                MASK,
                "shr.u32 %x7, %left_out1, %x8;",
                "shr.u32 %x7, %left_out0, %x8;",
            ),
            Mutation("flags of another lane", MASK, "shl.b32 %x8, %t, 1;", "mov.b32 %x8, %t;"),
            Mutation(
                "globals are missing",
                START,
                "setp.gt.and.s32 %gathered, %count, 0, %gathered;",
                "setp.gt.and.s32 %gathered, %count, 1000, %gathered;",
            ),
            Mutation(
                "one tile of globals",
                LOOP,
                "setp.lt.and.s32 %gathered_next, %next, %count, %gathered;",
                "setp.lt.and.s32 %gathered_next, %next, 0, %gathered;",
            ),
            Mutation(
                "the band begins where the globals end",
                LOOP,
                "selp.b32 %next, %k_begin, %next, %p0;",
                "",
            ),
            Mutation(
                "the band ends with the list",
                LOOP,
                "selp.b32 %limit, %seqlen, %limit, %p0;",
                "",
            ),
            Mutation("keys are not gathered", LOOP, "@%p3 ld.global.nc.u32 %at0, [%y5];", ""),
            Mutation(
                "the last gathered tile is a slice, however many keys are left",
                LOOP,
                "setp.le.and.s32 %narrow, %x6, 16, %gathered;",
                "setp.le.and.s32 %narrow, %x6, 64, %gathered;",
            ),
            Mutation(
                "tiles that the warp does not see",
                LOOP,
                "setp.le.s32 %p0, %x6, %warp_from;",
                "setp.le.s32 %p0, %x6, 1000;",
            ),
        ],
    );
}

#[test]
fn the_ends_of_a_band() {
    let problem = Longformer::new([1, 500, 1, 64], 150, DType::BF16);
    all_noticed(
        problem,
        7,
        "longformer_forward",
        &[
            Mutation(
                "a tile's left end counts as whole",
                MASK,
                "setp.lt.s32 %p2, %kt, %all_from;",
                "setp.lt.s32 %p2, %kt, 0;",
            ),
            Mutation(
                "a tile's right end counts as whole",
                MASK,
                "setp.gt.s32 %p3, %x6, %all_to;",
                "setp.gt.s32 %p3, %x6, %seqlen;",
            ),
            Mutation(
                "the last row's beginning is the first's",
                START,
                "ld.shared.v2.b32 {%all_from, %warp_to}, [%x3];",
                "ld.shared.v2.b32 {%all_from, %warp_to}, [%x3];\n  mov.u32 %all_from, %warp_from;",
            ),
            Mutation(
                "the block ends with its first row",
                START,
                "ld.shared.u32 %k_end, [%x1+4];",
                "ld.shared.u32 %k_end, [%limits+4];",
            ),
            Mutation(
                "rows 8 apart have one range",
                MASK,
                "ld.shared.u32 %x7, [%limits+128];",
                "ld.shared.u32 %x7, [%limits+0];",
            ),
        ],
    );
}

#[test]
fn dilated_heads() {
    let problem = Longformer::new([2, 200, 2, 64], 20, DType::BF16).globals(9).dilation(&[3, 7]);
    all_noticed(
        problem,
        6,
        "longformer_forward",
        &[
            Mutation("dilation is ignored", START, "selp.b32 %dilation, 7, %dilation, %p0;", ""),
            Mutation(
                "of another head",
                START,
                "setp.eq.u32 %p0, %head, 1;",
                "setp.eq.u32 %p0, %head, 0;",
            ),
            Mutation(
                "the mask ignores classes on the left",
                LIMITS,
                "max.s32 %x4, %x4, %x7;",
                "max.s32 %x4, %x4, 0;",
            ),
            Mutation(
                "the mask ignores classes on the right",
                LIMITS,
                "min.s32 %x5, %x5, %x8;",
                "min.s32 %x5, %x5, %seqlen;",
            ),
            Mutation(
                "keys by rank, not position",
                LOOP,
                "mad.lo.u32 %at0, %u3, %dilation, %u2;",
                "mov.u32 %at0, %u4;",
            ),
            Mutation(
                "queries by rank, not position",
                "// ---- a thread copies",
                "mad.lo.u32 %at0, %u3, %dilation, %u2;",
                "mov.u32 %at0, %u4;",
            ),
            Mutation(
                "flags by rank, not position",
                "\nCOPIED:",
                "mad.lo.u32 %x7, %u3, %dilation, %u2;",
                "mov.u32 %x7, %x6;",
            ),
            Mutation("all classes are short", LOOP, "selp.b32 %u1, 1, 0, %p2;", "mov.u32 %u1, 0;"),
            Mutation(
                "short classes begin too early",
                LOOP,
                "selp.b32 %u0, 0, %long_classes, %p2;",
                "mov.u32 %u0, 0;",
            ),
            Mutation(
                "results lie by rank",
                "// ---- l over",
                "ld.shared.u32 %x7, [%x12+",
                "mov.u32 %x7, 0; //",
            ),
            Mutation(
                "lse lies by rank",
                "// ---- l over",
                "mul.wide.u32 %y0, %x0, 4;",
                "mul.wide.u32 %y0, %row0, 4;",
            ),
        ],
    );
    let problem = Longformer::new([1, 200, 2, 64], 20, DType::F32).globals(9).dilation(&[3, 7]);
    all_noticed(
        problem.causal(),
        8,
        "longformer_forward",
        &[Mutation("of global rows too", START, "selp.b32 %dilation, 1, %dilation, %global;", "")],
    );
}
