//! Checks that the checks check: every change below breaks one of LSH attention's CUDA kernels as a
//! slip of the pen would, and must be noticed. As `tests/cuda_mutations.rs`.

mod common;

use common::lsh::{Case, errors};
use common::mutation::{self, Mutation};
use common::{Random, mock};
use longhand::cuda::{Caps, Context};
use longhand::{DType, Lsh};

/// Runs `case` as it is, then with every break of kernel `kernel`.
fn all_noticed(case: &Case, kernel: &str, mutations: &[Mutation]) {
    let Some(mock) = mock::install() else { return };
    let expected = case.reference();
    let sources = case.problem.sources_cuda(&Caps::a100()).expect("kernels");
    let (_, source) = sources.into_iter().find(|(name, _)| name == kernel).expect("it is there");
    let tolerance = match case.problem.dtype {
        DType::F32 => 5e-6,
        dtype => 3.0 * common::tolerance(dtype),
    };
    let run = |context: &Context| {
        let got = case.problem.run_cuda(context, &case.inputs())?;
        let same = got.order == expected.order && got.buckets == expected.buckets;
        let (out, lse) = errors(&got, &expected);
        Ok((if same { out } else { f64::INFINITY }, lse))
    };
    mutation::all_noticed(&mock, &source, (tolerance, 1.1e-6), run, mutations);
}

/// `problem` with buckets from all there are, `step` apart.
fn given(problem: Lsh, step: usize, seed: u64) -> Case {
    let mut random = Random(seed);
    let case = Case::new(problem.buckets_given(), &mut random);
    let most = case.problem.buckets().div_ceil(step);
    let buckets = (0..case.problem.buckets_len()).map(|_| (random.below(most) * step) as i32);
    case.with_buckets(&buckets.collect::<Vec<i32>>())
}

const START: &str = ".visible .entry";
const LOOP: &str = "\nLOOP:";
const FACTORS: &str = "// ---- S times";
const SELF: &str = "// ---- a position's score";
const NEXT: &str = "\nNEXT:";
const END: &str = "\nEPILOGUE:";
const PLACE: &str = "\nPLACE:";

/// Everything at once.
fn mixed() -> Lsh {
    let p = Lsh::new([2, 200, 2, 64], 72, 3, DType::F16).num_buckets(&[4, 2]);
    p.chunks(1, 1).causal().key_padding()
}

#[test]
fn scores_and_masks() {
    all_noticed(
        &given(mixed(), 1, 1),
        "lsh_forward",
        &[
            Mutation(
                "key norm dropped",
                FACTORS,
                "mul.rn.f32 %f4, %f4, %scale;",
                "mov.f32 %f4, %scale;",
            ),
            Mutation(
                "the factor of another key",
                FACTORS,
                "ld.shared.v2.f32 {%f4, %f5}, [%x8+32];",
                "ld.shared.v2.f32 {%f4, %f5}, [%x8+64];",
            ),
            Mutation(
                "a pair of keys has one factor",
                FACTORS,
                "mul.rn.f32 %s1, %s1, %f5;",
                "mul.rn.f32 %s1, %s1, %f4;",
            ),
            Mutation(
                "padding is seen",
                FACTORS,
                "setp.lt.s32 %p1, %x14, 0;",
                "setp.ne.s32 %p1, %x14, %x14;",
            ),
            Mutation(
                "causal looks at places",
                FACTORS,
                "setp.gt.or.s32 %p0, %x6, %x10, %p1;",
                "setp.gt.or.s32 %p0, %x9, %x10, %p1;",
            ),
            Mutation(
                "the future is seen",
                FACTORS,
                "setp.gt.or.s32 %p0, %x7, %x11, %p1;",
                "setp.gt.or.s32 %p0, %x7, 1000, %p1;",
            ),
            Mutation(
                "rows 8 apart have one position",
                FACTORS,
                "ld.shared.u32 %x11, [%limits+136];",
                "ld.shared.u32 %x11, [%limits+8];",
            ),
            Mutation("a position sees itself", SELF, "selp.f32 %s0, %f4, %s0, %p0;", ""),
            Mutation(
                "own chunks pass for others",
                LOOP,
                "setp.ne.and.u32 %p1, %key_chunk, %chunk, %p1;",
                "",
            ),
            Mutation(
                "places that hold nothing count",
                "// ---- places",
                "setp.ge.u32 %p0, %x6, 64;",
                "setp.ge.u32 %p0, %x6, 0;",
            ),
            Mutation(
                "a place too many",
                "// ---- places",
                "setp.le.s32 %p0, %x6, 8;",
                "setp.lt.s32 %p0, %x6, 8;",
            ),
        ],
    );
    // Almost nothing is valid: what is left to many a row is itself.
    let mut case = given(mixed(), 1, 2);
    case.key_valid = Some((0..400).map(|n| u8::from(n % 40 == 11)).collect());
    all_noticed(
        &case,
        "lsh_forward",
        &[
            Mutation(
                "self mask before causal and padding",
                SELF,
                "selp.f32 %s0, %f4, %s0, %p0;",
                "selp.f32 %s0, %f4, %s0, %p0;\n  ld.shared.b32 %x14, [%x8];\n  \
                 setp.lt.s32 %p1, %x14, 0;\n  selp.f32 %s0, %masked, %s0, %p1;",
            ),
            Mutation(
                "the mask is -inf and not lower than itself",
                START,
                "ld.param.f32 %masked, [p+288];",
                "mov.f32 %masked, 0f00000000;",
            ),
        ],
    );
}

#[test]
fn chunks_and_their_rings() {
    all_noticed(
        &given(mixed(), 1, 3),
        "lsh_forward",
        &[
            Mutation(
                "wrap within rounds, before",
                START,
                "add.u32 %key_round, %key_round, %x2;",
                "ld.param.u32 %key_round, [p+272];",
            ),
            Mutation(
                "wrap within rounds, after",
                LOOP,
                "@%p1 add.u32 %key_round, %key_round, 1;",
                "",
            ),
            Mutation(
                "the last round's end leads to itself",
                LOOP,
                "@%p1 ld.param.u32 %key_round, [p+276];",
                "@%p1 ld.param.u32 %key_round, [p+272];",
            ),
            Mutation("nothing before is seen", START, "sub.u32 %x0, %x0, %x2;\n  div", "div"),
            Mutation(
                "a chunk too few",
                START,
                "ld.param.u32 %chunks_left, [p+260];",
                "mov.u32 %chunks_left, 2;",
            ),
            Mutation(
                "a chunk too many",
                START,
                "ld.param.u32 %chunks_left, [p+260];",
                "mov.u32 %chunks_left, 4;",
            ),
            Mutation(
                "a chunk ends with its first tile",
                START,
                "add.u32 %place, %place, 64;",
                "mov.u32 %place, %chunk_end;",
            ),
            Mutation(
                "keys of another round's order",
                LOOP,
                "mul.wide.u32 %y5, %key_round, %u1;",
                "mul.wide.u32 %y5, 0, %u1;",
            ),
            Mutation(
                "rows of another round's order",
                "// ---- the position of each row",
                "ld.param.u32 %x0, [p+272];",
                "mov.u32 %x0, 0;",
            ),
            Mutation("factors stay in one buffer", NEXT, "add.u32 %factor, %factor, %x7;", ""),
            Mutation("positions stay in one buffer", NEXT, "add.u32 %pos, %pos, 256;", ""),
            Mutation("no barrier in the loop", LOOP, "bar.sync 0;", ""),
            Mutation("copies are not waited for", LOOP, "cp.async.wait_group 0;", ""),
        ],
    );
}

#[test]
fn rounds_and_their_results() {
    all_noticed(
        &given(mixed(), 1, 4),
        "lsh_forward",
        &[
            Mutation(
                "lse not per round",
                END,
                "mad.lo.u64 %lse_rounds, %y2, %y3, %lse_rounds;",
                "",
            ),
            Mutation(
                "the last round alone counts",
                END,
                "selp.f32 %weight0, 0f3F800000, %weight0, %p1;",
                "mov.f32 %weight0, 0f3F800000;",
            ),
            Mutation(
                "rounds count alike",
                END,
                "ex2.approx.ftz.f32 %f6, %f6;",
                "mov.f32 %f6, 0f3F800000;",
            ),
            Mutation(
                "lse is the last round's",
                END,
                "selp.f32 %f4, %n0, %f4, %p1;",
                "mov.f32 %f4, %n0;",
            ),
            Mutation(
                "the rounds before are not read",
                LOOP,
                "setp.ne.u32 %p0, %x5, 0;",
                "setp.ne.u32 %p0, %x5, %x5;",
            ),
            Mutation(
                "weights of rows 8 apart",
                END,
                "fma.rn.f32 %o2, %o2, %weight1, %f4;",
                "fma.rn.f32 %o2, %o2, %weight0, %f4;",
            ),
            Mutation(
                "results lie by place",
                "// ---- l over",
                "ld.shared.u32 %x7, [%x12+",
                "mov.u32 %x7, 0; //",
            ),
            Mutation("l is a thread's", "// ---- l over", "add.rn.f32 %l0, %l0, %f0;", ""),
        ],
    );
}

#[test]
fn the_sort() {
    let p = Lsh::new([2, 300, 2, 8], 100, 3, DType::F16).num_buckets(&[2000]).key_padding();
    let mut case = given(p, 20, 5);
    // What is given for padding is its place in no order.
    let (valid, buckets) = (case.key_valid.clone().unwrap(), case.buckets.as_mut().unwrap());
    for (n, bucket) in buckets.iter_mut().enumerate() {
        if valid[n / (2 * 3 * 300) * 300 + n % 300] == 0 {
            *bucket = 7;
        }
    }
    all_noticed(
        &case,
        "lsh_scatter",
        &[
            Mutation(
                "unstable sort",
                PLACE,
                "popc.b32 %x8, %x8;",
                "popc.b32 %x8, %x8;\n  popc.b32 %x9, %same;\n  sub.u32 %x8, %x9, %x8;\n  \
                 sub.u32 %x8, %x8, 1;",
            ),
            Mutation(
                "the second digit forgets the first",
                PLACE,
                "@%p0 ld.global.nc.u32 %position, [%y0];",
                "",
            ),
            Mutation(
                "warps begin at one place",
                "// ---- where each warp's",
                "add.u32 %x9, %x9, %x8;",
                "",
            ),
            Mutation(
                "sums of the warps before",
                "\nADDED:",
                "@%p1 add.u32 %x9, %x9, %x8;\n  ld.shared",
                "ld.shared",
            ),
            Mutation(
                "an invalid position keeps its bucket",
                PLACE,
                "selp.b32 %digit, %all, %digit, %p0;",
                "",
            ),
            Mutation("a lane reads after the first wrote", PLACE, "bar.warp.sync -1;", ""),
            Mutation("the first lane does not add", PLACE, "@%p1 st.shared.u32 [%x7], %x9;", ""),
            Mutation("no barrier before the counts", "\nCOUNTED:", "bar.sync 0;", ""),
        ],
    );
    all_noticed(
        &case,
        "lsh_count",
        &[
            Mutation(
                "equal digits count once",
                "\nCOUNT:",
                "popc.b32 %x7, %x7;",
                "mov.u32 %x7, 1;",
            ),
            Mutation("the first places alone", "\nCOUNT:", "@%more bra COUNT;", ""),
            Mutation("no barrier before counting", START, "bar.sync 0;", ""),
        ],
    );
    let long = Lsh::new([1, 4500, 1, 8], 1500, 1, DType::F16).num_buckets(&[4]).chunks(0, 0);
    all_noticed(
        &given(long, 1, 6),
        "lsh_scatter",
        &[Mutation(
            "tiles begin at one place",
            "\nADD:",
            "selp.b32 %before_it, %all_of, %before_it, %p1;",
            "",
        )],
    );
}

#[test]
fn the_hash() {
    let mut case = Case::new(mixed(), &mut Random(7));
    // All products of zeros are equal.
    for n in (0..400).step_by(9) {
        case.qk[n * 128..][..128].fill(0.0);
    }
    all_noticed(
        &case,
        "lsh_hash",
        &[
            Mutation(
                "the last of equals",
                "\nPRODUCTS:",
                "setp.gt.f32 %p0, %f0, %best;",
                "setp.ge.f32 %p0, %f0, %best;",
            ),
            Mutation(
                "-y wins ties",
                "// The factor ends",
                "setp.gt.f32 %p0, %least, %best;",
                "setp.ge.f32 %p0, %least, %best;",
            ),
            Mutation(
                "y and -y are one bucket",
                "// The factor ends",
                "add.u32 %least_at, %least_at, %half;",
                "",
            ),
            Mutation("factors overlap", "// The factor ends", "shl.b32 %below, %below, 1;", ""),
            Mutation(
                "the second factor is as long as the first",
                "// The factor ends",
                "selp.b32 %half, 1, %half, %p0;",
                "",
            ),
            Mutation(
                "the best stays from factor to factor",
                "// The factor ends",
                "mov.f32 %best, 0fFF800000;",
                "",
            ),
            Mutation(
                "padding has a bucket of its own",
                "// The round ends",
                "selp.b32 %bucket, %bucket, %x0, %valid_row;",
                "",
            ),
            Mutation(
                "rounds write one place",
                "// The round ends",
                "add.u64 %buckets, %buckets, %y0;",
                "",
            ),
            Mutation(
                "every head has the first's rotations",
                "// ---- where the head's",
                "add.u64 %rotations, %rotations, %y0;",
                "",
            ),
            Mutation("no barrier before rows are staged", "\nDEPTH:", "bar.sync 0;", ""),
            Mutation(
                "no barrier before products are read",
                "// ---- the products",
                "bar.sync 0;\n  mov",
                "mov",
            ),
            Mutation(
                "half of the row",
                "\nDEPTH:",
                "setp.lt.u32 %more, %k, %head_dim;",
                "setp.lt.u32 %more, %k, 32;",
            ),
            Mutation("no epsilon", "// ---- the factor", "add.rn.f32 %sum, %sum, %f0;", ""),
            Mutation(
                "the sum of squares, not their mean",
                "// ---- the factor",
                "div.rn.f32 %sum, %sum, %f0;",
                "",
            ),
            Mutation(
                "padding is valid",
                "// ---- the factor",
                "selp.b32 %x0, %x0, %x1, %valid_row;",
                "",
            ),
        ],
    );
}
