//! Checks that the checks check: every change below breaks a CUDA kernel as a slip of the pen
//! would, and must be noticed, by the simulator or by a wrong result. The list of what each was
//! noticed by is printed: `cargo test --test cuda_mutations -- --nocapture`.
#![allow(unsafe_code)]

mod common;

use common::mutation::{self, Mutation};
use common::{Case, Random, errors, mock};
use longhand::cuda::{Caps, Context};
use longhand::full::{Bias, Buckets, Ragged};
use longhand::{DType, Full, Shape, Window};

fn shape(seqlen_q: usize, seqlen_k: usize) -> Shape {
    Shape { batch: 2, heads_q: 4, heads_kv: 2, seqlen_q, seqlen_k, head_dim: 64 }
}

/// Runs the problem as it is, then with every break. Panics with the list of those not noticed.
fn all_noticed(problem: Full, seed: u64, mutations: &[Mutation]) {
    let Some(mock) = mock::install() else { return };
    let case = Case::new(problem, &mut Random(seed));
    let expected = case.reference();
    let source: String = case
        .problem
        .sources_cuda(&Caps::a100())
        .expect("a kernel")
        .into_iter()
        .map(|(_, text)| text)
        .collect();
    let tolerance = match problem.dtype {
        DType::F32 => 5e-6,
        dtype => 2.0 * common::tolerance(dtype),
    };
    let run =
        |context: &Context| Ok(errors(&case.problem.run_cuda(context, &case.inputs())?, &expected));
    mutation::all_noticed(&mock, &source, (tolerance, 6e-7), run, mutations);
}

const START: &str = ".visible .entry";
const LOOP: &str = "\nLOOP:";

#[test]
fn the_pipeline_of_copies() {
    let problem = Full::new(shape(70, 200), DType::BF16).causal();
    all_noticed(
        problem,
        1,
        &[
            Mutation("no barrier in the loop", LOOP, "bar.sync 0;", ""),
            Mutation("no wait for the tile", LOOP, "cp.async.wait_group 0;", ""),
            Mutation(
                "waits for all but one group",
                LOOP,
                "cp.async.wait_group 0;",
                "cp.async.wait_group 1;",
            ),
            Mutation("first tile not committed", START, "cp.async.commit_group;", ""),
            Mutation("next tile not committed", LOOP, "cp.async.commit_group;", ""),
            Mutation("the buffer is not switched", LOOP, "neg.s32 %buffer, %buffer;", ""),
            Mutation("K goes to the buffer in use", LOOP, "add.u32 %put_k, %put_k, %buffer;", ""),
            Mutation("V goes to the buffer in use", LOOP, "add.u32 %put_v, %put_v, %buffer;", ""),
            Mutation("the old buffer is read", LOOP, "add.u32 %ka0, %ka0, %other;", ""),
            Mutation("the old V is read", LOOP, "add.u32 %va1, %va1, %other;", ""),
            Mutation("reading never switches back", LOOP, "neg.s32 %other, %other;", ""),
            Mutation(
                "rows beyond the end are read",
                LOOP,
                "setp.gt.s32 %p0, %rest, 48;",
                "setp.gt.s32 %p0, %rest, -100000;",
            ),
            Mutation("K does not advance", LOOP, "add.u64 %k_at, %k_at, %k_row;", ""),
            Mutation("the count of rows does not", LOOP, "sub.s32 %rest, %rest, 64;", ""),
            Mutation("half a chunk is copied", LOOP, "[%y7+0], 16, %x7", "[%y7+8], 16, %x7"),
            Mutation("4 bytes too far in shared memory", LOOP, "[%put_k+2048]", "[%put_k+2052]"),
            Mutation("Q is one row off", START, "add.u32 %x6, %q0, %x0;", "add.u32 %x6, %q0, 1;"),
        ],
    );
}

#[test]
fn tiles_and_fragments() {
    let problem = Full::new(shape(70, 200), DType::BF16).causal();
    all_noticed(
        problem,
        2,
        &[
            Mutation("halves of P swapped", LOOP, "%pf0, %s1, %s0;", "%pf0, %s0, %s1;"),
            Mutation("B fragments swapped", LOOP, "{%kf0, %kf1}, {%zero", "{%kf1, %kf0}, {%zero"),
            Mutation(
                "P's rows swapped",
                "// ---- O += P V",
                "{%pf0, %pf1, %pf2, %pf3}",
                "{%pf1, %pf0, %pf3, %pf2}",
            ),
            Mutation(
                "an accumulator is not carried",
                "// ---- O += P V",
                "{%kf0, %kf1}, {%o0,",
                "{%kf0, %kf1}, {%zero,",
            ),
            Mutation("V is not transposed", "// ---- O += P V", ".x4.trans.shared", ".x4.shared"),
            Mutation(
                "K is transposed",
                LOOP,
                "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%kf0",
                "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%kf0",
            ),
            Mutation(
                "copies are not swizzled",
                START,
                "xor.b32 %x3, %x1, %x2;",
                "mov.b32 %x3, %x1;",
            ),
            Mutation(
                "reads of K are swizzled by another row",
                START,
                "shl.b32 %x1, %x1, 3;",
                "shl.b32 %x1, %x1, 2;",
            ),
            Mutation("K rows of the second half", LOOP, "[%ka0+2048]", "[%ka0+1024]"),
            Mutation("ldmatrix is misaligned", LOOP, "[%ka1+0]", "[%ka1+8]"),
            Mutation("ldmatrix beyond the block", LOOP, "[%ka1+0]", "[%ka1+1000000]"),
            Mutation("a register is never written", START, "mov.f32 %o5, %zero;", ""),
            Mutation(
                "a lane skips the product",
                LOOP,
                "  ldmatrix.sync",
                "  setp.ne.u32 %p7, %lane, 3;\n  @%p7 ldmatrix.sync",
            ),
            Mutation(
                "lanes miss in a shuffle's mask",
                LOOP,
                "%n0, 1, 31, -1;",
                "%n0, 1, 31, 0x7fffffff;",
            ),
        ],
    );
}

#[test]
fn the_online_softmax() {
    // Steep scores, so that maxima move.
    let mut problem = Full::new(shape(70, 200), DType::F16).causal();
    problem.softmax_scale = 6.0;
    all_noticed(
        problem,
        3,
        &[
            Mutation("O is not rescaled", "// alpha", "mul.rn.f32 %o0, %o0, %f0;", ""),
            Mutation("l is not rescaled", "// alpha", "mul.rn.f32 %l0, %l0, %f0;", ""),
            Mutation("the maximum is not kept", "// alpha", "mov.f32 %m0, %n0;", ""),
            Mutation(
                "never rescaled",
                LOOP,
                "vote.sync.any.pred %p0, %p0, -1;",
                "setp.ne.u32 %p0, 0, 0;",
            ),
            Mutation("the maximum of a thread, not of the row", LOOP, "max.f32 %n1, %n1, %f1;", ""),
            Mutation("a key has no say in the maximum", LOOP, "max.f32 %n0, %n0, %s4;", ""),
            Mutation("a key is not summed", LOOP, "add.rn.f32 %l0, %l0, %s5;", ""),
            Mutation(
                "the sum of a thread, not of the row",
                "// ---- l over",
                "add.rn.f32 %l1, %l1, %f1;",
                "",
            ),
            Mutation("lse without m", "// ---- l over", "add.rn.f32 %n0, %n0, %m0;", ""),
            Mutation(
                "lse in units of log2",
                "// ---- l over",
                "mul.rn.f32 %n0, %n0, 0f3F317218;",
                "",
            ),
            Mutation(
                "O is not divided",
                "// ---- l over",
                "mul.rn.f32 %o7, %o7, ",
                "mul.rn.f32 %o7, 0f3F800000, ",
            ),
            Mutation(
                "the wrong row's sum divides",
                "// ---- l over",
                "mul.rn.f32 %o0, %o0, %f0;",
                "mul.rn.f32 %o0, %o0, %f1;",
            ),
        ],
    );
}

#[test]
fn masks_and_edges() {
    let mut problem = Full::new(shape(70, 130), DType::F16).window(Window::new(40, 3));
    problem.softcap = 2.0;
    problem = problem.alibi().key_padding();
    all_noticed(
        problem,
        4,
        &[
            Mutation(
                "one key too few on the right",
                LOOP,
                "setp.le.s32 %p0, %x6, 1;",
                "setp.lt.s32 %p0, %x6, 2;\n  setp.le.s32 %p0, %x6, 2;",
            ),
            Mutation(
                "one key too many on the right",
                LOOP,
                "setp.le.s32 %p0, %x6, 0;",
                "setp.lt.s32 %p0, %x6, 0;",
            ),
            Mutation(
                "one key too few on the left",
                LOOP,
                "sub.s32 %x7, %position, %x7;",
                "sub.s32 %x7, %position, %x7;\n  add.s32 %x7, %x7, 1;",
            ),
            Mutation(
                "rows 8 apart have one mask",
                LOOP,
                "add.s32 %x6, %x6, 8;",
                "add.s32 %x6, %x6, 0;",
            ),
            Mutation(
                "padding is inverted",
                LOOP,
                "setp.eq.u32 %p0, %x7, 0;",
                "setp.ne.u32 %p0, %x7, 0;",
            ),
            Mutation(
                "padding is read beyond the end",
                LOOP,
                "@%p0 ld.global.nc.u8",
                "ld.global.nc.u8",
            ),
            Mutation(
                "the next key's padding",
                LOOP,
                "ld.global.nc.u8 %x7, [%y0+0]",
                "ld.global.nc.u8 %x7, [%y0+1]",
            ),
            Mutation("distances have a sign", LOOP, "abs.f32 %dist1, %dist1;", ""),
            Mutation(
                "distance off by one",
                LOOP,
                "cvt.rn.f32.s32 %dist0, %x6;",
                "add.s32 %x6, %x6, 1;\n  cvt.rn.f32.s32 %dist0, %x6;",
            ),
            Mutation("softcap's series", LOOP, "0f3E088889", "0f3E888889"),
            Mutation(
                "softcap's scale",
                LOOP,
                "mul.rn.f32 %s3, %f0, %softcap;",
                "mov.f32 %s3, %f0;",
            ),
            Mutation(
                "tiles seen by nobody count",
                LOOP,
                "setp.ge.s32 %skip, %kt, %warp_to;",
                "setp.ge.s32 %skip, %kt, 0;",
            ),
        ],
    );
}

#[test]
fn grids_heads_and_sequences() {
    let mut problem = Full::new(shape(150, 100), DType::BF16);
    problem.ragged = Some(Ragged { total_q: 0, total_k: 0 });
    all_noticed(
        problem,
        5,
        &[
            Mutation(
                "blocks overlap",
                START,
                "mul.lo.u32 %q0, %block, ",
                "mul.lo.u32 %q0, %block, 32; //",
            ),
            Mutation("a block too many", START, "sub.u32 %block, %block, 1;", ""),
            Mutation(
                "every head has its own key head",
                START,
                "div.u32 %x5, %head, %x4;",
                "mov.u32 %x5, %head;",
            ),
            Mutation(
                "lengths begin one sequence late",
                START,
                "ld.global.nc.u32 %x0, [%y0];",
                "ld.global.nc.u32 %x0, [%y0+4];",
            ),
            Mutation("keys of the whole batch", START, "min.s32 %seqlen_k, %x3, %seqlen_k;", ""),
            Mutation("rows of the whole batch", START, "min.s32 %seqlen_q, %x1, %seqlen_q;", ""),
            Mutation(
                "rows beyond the sequence are stored",
                "// ---- l over",
                "setp.gt.s32 %p0, %x0, 0;",
                "setp.gt.s32 %p0, %x0, -100000;",
            ),
            Mutation(
                "lse beyond the sequence",
                "// ---- l over",
                "setp.lt.s32 %p0, %x0, %seqlen_q;",
                "setp.ge.s32 %p0, %x0, -100000;",
            ),
            Mutation(
                "no barrier between a warp's stores and loads",
                "// ---- l over",
                "bar.warp.sync -1;\n  // A lane",
                "// A lane",
            ),
        ],
    );
    let buckets = Buckets { num_buckets: 8, max_distance: 20, bidirectional: true };
    all_noticed(
        Full::new(shape(300, 150), DType::BF16).buckets(buckets),
        9,
        &[
            Mutation(
                "every distance off by one",
                LOOP,
                "sub.s32 %x6, %position, %key0;",
                "sub.s32 %x6, %position, %key0;\n  add.s32 %x6, %x6, 1;",
            ),
            Mutation(
                "far keys begin a tile early",
                LOOP,
                "setp.ge.s32 %p0, %x6, 70;",
                "setp.ge.s32 %p0, %x6, 15;",
            ),
            Mutation(
                "a far key in the future for one in the past",
                LOOP,
                "mov.u32 %x7, -28;",
                "mov.u32 %x7, 28;",
            ),
            Mutation(
                "the future has the past's buckets",
                START,
                "selp.u32 %x4, 4, 0, %p0;",
                "selp.u32 %x4, 0, 0, %p0;",
            ),
            Mutation(
                "a threshold is late",
                START,
                "setp.ge.s32 %p0, %x2, 7;",
                "setp.ge.s32 %p0, %x2, 8;",
            ),
            Mutation(
                "the table's last row is not filled",
                START,
                "setp.le.u32 %p0, %x0, 14;",
                "setp.lt.u32 %p0, %x0, 14;",
            ),
        ],
    );
    let mut problem = Full::new(shape(70, 130), DType::BF16);
    problem.bias = Some(Bias { per_batch: false, per_head: true });
    all_noticed(
        problem,
        8,
        &[
            Mutation("bias in the wrong base", LOOP, "0f3FB8AA3B", "0f3F800000"),
            Mutation(
                "bias beyond the row",
                LOOP,
                "setp.gt.s32 %p1, %x6, 57;",
                "setp.gt.s32 %p1, %x6, -100000;",
            ),
        ],
    );
}

#[test]
fn three_products_of_f32_and_the_combine() {
    let problem = Full::new(shape(70, 150), DType::F32).causal();
    all_noticed(
        problem,
        6,
        &[
            Mutation(
                "a low part of Q is lost",
                LOOP,
                "sub.rn.f32 %ql0, %qf0, %pf0;",
                "mov.f32 %ql0, %zero;",
            ),
            Mutation(
                "low parts of K are lost",
                LOOP,
                "sub.rn.f32 %kl1, %kf1, %x6;",
                "mov.f32 %kl1, %zero;",
            ),
            Mutation(
                "a part of K is so far off that the other cannot hold the rest",
                LOOP,
                "add.u32 %x6, %kf0, 0x1000;",
                "add.u32 %x6, %kf0, 0x1000000;",
            ),
        ],
    );
    let problem = Full::new(shape(3, 1100), DType::BF16);
    all_noticed(
        problem,
        7,
        &[
            Mutation("splits overlap", START, "mul.lo.u32 %x1, %split, %x0;", "mov.u32 %x1, 0;"),
            Mutation("a split reads on", START, "min.s32 %k_end, %k_end, %x1;", ""),
            Mutation(
                "parts lie on each other",
                "// Row of the workspace",
                "mul.lo.u64 %y2, %y2, %y3;",
                "mov.u64 %y2, 0;",
            ),
            Mutation(
                "weights are not relative",
                "SPLITS:",
                "sub.rn.f32 %w, %m_own, %m;",
                "mov.f32 %w, %m_own;",
            ),
            Mutation(
                "l is not weighted",
                "SPLITS:",
                "fma.rn.f32 %l, %w, %l_own, %l;",
                "add.rn.f32 %l, %l_own, %l;",
            ),
            Mutation(
                "the part of another split",
                "FOUR:",
                "shfl.sync.idx.b32 %weight1, %w, %x1, 31, -1;",
                "shfl.sync.idx.b32 %weight1, %w, %inner, 31, -1;",
            ),
        ],
    );
}
