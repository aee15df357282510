//! Every rule of `validate` and `validate_inputs` has a case, and every error names the field and
//! the rule.

use longhand::full::{Bias, Inputs, Ragged};
use longhand::transformer_xl::{self, Chunks, Memory};
use longhand::{DType, Error, Full, Lsh, Shape, Strides, TransformerXl, Window, lsh};

fn shape() -> Shape {
    Shape { batch: 2, heads_q: 4, heads_kv: 2, seqlen_q: 3, seqlen_k: 5, head_dim: 8 }
}

fn problem() -> Full {
    Full::new(shape(), DType::F32)
}

fn sized(change: impl Fn(&mut Shape)) -> Full {
    let mut shape = shape();
    change(&mut shape);
    Full::new(shape, DType::F32)
}

fn assert_invalid<T: std::fmt::Debug>(result: Result<T, Error>, field: &str, rule: &str) {
    match result {
        Err(Error::Invalid { field: f, rule: r, value }) => {
            assert!(f == field && r.contains(rule), "{f} = {value}: {r}; wanted {field}: {rule}");
        }
        other => panic!("wanted {field}: {rule}; got {other:?}"),
    }
}

#[test]
fn the_problem_that_the_cases_break_is_valid() {
    problem().validate().unwrap();
    problem().ragged(Ragged { total_q: 6, total_k: 10 }).validate().unwrap();
    sized(|s| (s.batch, s.seqlen_q, s.seqlen_k) = (0, 0, 0)).validate().unwrap();
    problem().softmax_scale(-1.0).validate().unwrap();
}

#[test]
fn heads_must_be_positive_and_a_multiple() {
    let rule = "heads_q a multiple of heads_kv";
    assert_invalid(sized(|s| s.heads_q = 3).validate(), "shape.heads_q", rule);
    assert_invalid(sized(|s| s.heads_q = 0).validate(), "shape.heads_q", rule);
    assert_invalid(sized(|s| s.heads_kv = 0).validate(), "shape.heads_q", rule);
}

#[test]
fn head_dim_must_be_from_1_to_256() {
    assert_invalid(sized(|s| s.head_dim = 0).validate(), "shape.head_dim", "from 1 to 256");
    assert_invalid(sized(|s| s.head_dim = 257).validate(), "shape.head_dim", "from 1 to 256");
}

#[test]
fn scale_and_softcap_must_be_finite_in_f32() {
    for x in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e39] {
        assert_invalid(problem().softmax_scale(x).validate(), "softmax_scale", "finite in f32");
        assert_invalid(problem().softcap(x).validate(), "softcap", "finite");
    }
    assert_invalid(problem().softcap(-1.0).validate(), "softcap", "at least 0");
}

#[test]
fn ragged_sequences_have_no_bias_and_no_key_padding() {
    let ragged = problem().ragged(Ragged { total_q: 6, total_k: 10 });
    let bias = Bias { per_batch: false, per_head: false };
    assert_invalid(ragged.bias(bias).validate(), "bias", "not defined for ragged");
    assert_invalid(ragged.key_padding().validate(), "key_padding", "not defined for ragged");
}

#[test]
fn ragged_totals_lie_between_the_longest_and_all_longest() {
    let ragged = |total_q, total_k| problem().ragged(Ragged { total_q, total_k }).validate();
    assert_invalid(ragged(2, 10), "ragged.total_q", "between");
    assert_invalid(ragged(7, 10), "ragged.total_q", "between");
    assert_invalid(ragged(6, 4), "ragged.total_k", "between");
    assert_invalid(ragged(6, 11), "ragged.total_k", "between");
}

#[test]
fn sizes_must_be_below_2_to_the_31() {
    let big = 1usize << 31;
    assert_invalid(sized(|s| s.batch = big).validate(), "shape.batch", "below 2^31");
    assert_invalid(sized(|s| s.seqlen_q = big).validate(), "shape.seqlen_q", "below 2^31");
    assert_invalid(sized(|s| s.seqlen_k = big).validate(), "shape.seqlen_k", "below 2^31");
}

#[test]
fn sizes_must_not_overflow() {
    let most = i32::MAX as usize;
    let rule = "overflows the address space";
    let wide = sized(|s| (s.batch, s.seqlen_q) = (most, most));
    assert_invalid(wide.validate(), "shape", rule);
    let bias = Bias { per_batch: true, per_head: true };
    let square = sized(|s| (s.seqlen_q, s.seqlen_k) = (most, most)).bias(bias);
    assert_invalid(square.validate(), "bias", rule);
    let keys = sized(|s| (s.batch, s.seqlen_k, s.head_dim) = (most, most, 256));
    assert_invalid(keys.validate(), "layout.k", rule);
    for (name, change) in layouts() {
        let mut far = problem();
        change(&mut far, Strides { batch: usize::MAX, seqlen: 32, head: 8 });
        assert_invalid(far.validate(), name, rule);
    }
}

type Change = fn(&mut Full, Strides);

fn layouts() -> [(&'static str, Change); 4] {
    [
        ("layout.q", |p, s| p.layout.q = s),
        ("layout.k", |p, s| p.layout.k = s),
        ("layout.v", |p, s| p.layout.v = s),
        ("layout.out", |p, s| p.layout.out = s),
    ]
}

#[test]
fn elements_of_the_result_must_not_share_a_place_but_inputs_may() {
    for (name, change) in layouts() {
        let mut broadcast = problem();
        change(&mut broadcast, Strides { batch: 0, seqlen: 32, head: 8 });
        match name {
            "layout.out" => assert_invalid(broadcast.validate(), name, "must not share a place"),
            _ => broadcast.validate().unwrap(),
        }
    }
}

static Q: [f32; 2 * 3 * 4 * 8] = [0.5; 192];
static KV: [f32; 2 * 5 * 2 * 8] = [0.5; 160];

/// Tensors that fit `problem()`, to be broken one at a time.
fn tensors<'a>() -> Inputs<'a, f32> {
    Inputs::new(&Q, &KV, &KV)
}

#[test]
fn tensors_must_have_the_elements_that_the_strides_need() {
    problem().validate_inputs(&tensors()).unwrap();
    let short = [0.5; 2 * 5 * 2 * 8 - 1];
    let rule = "need 160 elements";
    let q = &[0.5; 191][..];
    let run = |i| problem().reference(&i);
    assert_invalid(run(Inputs { q, ..tensors() }), "q.len", "need 192");
    assert_invalid(run(Inputs { k: &short, ..tensors() }), "k.len", rule);
    assert_invalid(run(Inputs { v: &short, ..tensors() }), "v.len", rule);
    let gradients = problem().reference_backward(&tensors(), q);
    assert_invalid(gradients, "grad_out.len", "need 192");
}

const GIVEN: &str = "there is none";
const ABSENT: &str = "says that it is given";

#[test]
fn alibi_slopes_must_be_given_exactly_when_the_problem_says_so() {
    let slopes = [0.5; 4];
    let with = |n: usize| Inputs { alibi_slopes: Some(&slopes[..n]), ..tensors() };
    assert_invalid(problem().validate_inputs(&with(4)), "alibi_slopes", GIVEN);
    let problem = problem().alibi();
    problem.validate_inputs(&with(4)).unwrap();
    assert_invalid(problem.validate_inputs(&tensors()), "alibi_slopes", ABSENT);
    assert_invalid(problem.validate_inputs(&with(3)), "alibi_slopes.len", "needs 4 elements");
}

#[test]
fn bias_must_be_given_exactly_when_the_problem_says_so() {
    let bias = [0.5; 4 * 3 * 5];
    let with = Inputs { bias: Some(&bias), ..tensors() };
    assert_invalid(problem().validate_inputs(&with), "bias", GIVEN);
    let per_head = problem().bias(Bias { per_batch: false, per_head: true });
    per_head.validate_inputs(&with).unwrap();
    assert_invalid(per_head.validate_inputs(&tensors()), "bias", ABSENT);
    let shared = problem().bias(Bias { per_batch: false, per_head: false });
    assert_invalid(shared.validate_inputs(&with), "bias.len", "needs 15 elements");
}

#[test]
fn key_valid_must_be_given_exactly_when_the_problem_says_so_and_hold_0_or_1() {
    let valid = [1, 1, 1, 1, 1, 0, 0, 0, 0, 2u8];
    let with = |from: usize, n: usize| Inputs { key_valid: Some(&valid[from..n]), ..tensors() };
    let ones = Inputs { key_valid: Some(&[1; 10]), ..tensors() };
    assert_invalid(problem().validate_inputs(&ones), "key_valid", GIVEN);
    let problem = problem().key_padding();
    problem.validate_inputs(&ones).unwrap();
    assert_invalid(problem.validate_inputs(&tensors()), "key_valid", ABSENT);
    assert_invalid(problem.validate_inputs(&with(0, 9)), "key_valid.len", "needs 10 elements");
    assert_invalid(problem.validate_inputs(&with(0, 10)), "key_valid", "must hold 0 or 1");
}

fn ragged_with(q: Option<&[i32]>, k: Option<&[i32]>) -> Result<(), Error> {
    let problem = problem().ragged(Ragged { total_q: 4, total_k: 6 });
    problem.validate_inputs(&Inputs { cu_seqlens_q: q, cu_seqlens_k: k, ..tensors() })
}

#[test]
fn cu_seqlens_must_ascend_from_0_to_the_total() {
    let (q, k) = (Some(&[0, 1, 4][..]), Some(&[0, 5, 6][..]));
    ragged_with(q, k).unwrap();
    ragged_with(Some(&[0, 3, 4]), Some(&[0, 1, 6])).unwrap();
    assert_invalid(ragged_with(None, k), "cu_seqlens_q", "says that it is given");
    assert_invalid(ragged_with(q, None), "cu_seqlens_k", "says that it is given");
    let padded = problem().validate_inputs(&Inputs { cu_seqlens_q: q, ..tensors() });
    assert_invalid(padded, "cu_seqlens_q", "there is none");
    assert_invalid(ragged_with(Some(&[0, 4]), k), "cu_seqlens_q.len", "needs 3 elements");
    assert_invalid(ragged_with(Some(&[1, 2, 4]), k), "cu_seqlens_q[0]", "must be 0");
    assert_invalid(ragged_with(Some(&[0, 2, 1]), k), "cu_seqlens_q[2]", "must not descend");
    assert_invalid(ragged_with(Some(&[0, -1, 4]), k), "cu_seqlens_q[1]", "must not descend");
    assert_invalid(ragged_with(Some(&[0, 0, 4]), k), "cu_seqlens_q[2]", "at most 3");
    assert_invalid(ragged_with(Some(&[0, 1, 3]), k), "cu_seqlens_q[2]", "must be the total, 4");
    assert_invalid(ragged_with(q, Some(&[0, 6, 6])), "cu_seqlens_k[1]", "at most 5");
    assert_invalid(ragged_with(q, Some(&[0, i32::MIN, 6])), "cu_seqlens_k[1]", "descend");
}

#[test]
fn a_dtype_has_one_of_three_names() {
    assert_invalid("f64".parse::<DType>(), "dtype", "f32, f16 or bf16");
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        assert_eq!(dtype.name().parse::<DType>().unwrap(), dtype);
    }
}

fn lsh() -> Lsh {
    Lsh::new([2, 6, 2, 4], 2, 2, DType::F32).num_buckets(&[2, 4])
}

#[test]
fn lsh_sizes_must_be_positive_where_there_is_no_meaning_otherwise() {
    lsh().validate().unwrap();
    Lsh { batch: 0, seqlen: 0, ..lsh() }.validate().unwrap();
    Lsh { chunks_before: 0, chunks_after: 9, ..lsh() }.validate().unwrap();
    let rule = "must be positive";
    assert_invalid(Lsh { heads: 0, ..lsh() }.validate(), "heads", rule);
    assert_invalid(Lsh { chunk_len: 0, ..lsh() }.validate(), "chunk_len", rule);
    assert_invalid(Lsh { num_hashes: 0, ..lsh() }.validate(), "num_hashes", rule);
    assert_invalid(lsh().num_buckets(&[]).validate(), "num_buckets.len", rule);
    assert_invalid(Lsh { head_dim: 0, ..lsh() }.validate(), "head_dim", "from 1 to 256");
    assert_invalid(Lsh { head_dim: 257, ..lsh() }.validate(), "head_dim", "from 1 to 256");
}

#[test]
fn lsh_sizes_must_be_below_2_to_the_31_and_not_overflow() {
    let (big, rule) = (1usize << 31, "below 2^31");
    assert_invalid(Lsh { batch: big, ..lsh() }.validate(), "batch", rule);
    assert_invalid(Lsh { seqlen: big, ..lsh() }.validate(), "seqlen", rule);
    assert_invalid(Lsh { chunk_len: big, ..lsh() }.validate(), "chunk_len", rule);
    assert_invalid(Lsh { num_hashes: big, ..lsh() }.validate(), "num_hashes", rule);
    assert_invalid(lsh().chunks(big, 0).validate(), "chunks_before", rule);
    assert_invalid(lsh().chunks(0, big).validate(), "chunks_after", rule);
    let (most, rule) = (i32::MAX as usize, "overflows the address space");
    let wide = Lsh { batch: most, num_hashes: most, ..lsh() };
    assert_invalid(wide.validate(), "lse_rounds", rule);
    let rotations = Lsh { heads: most, num_hashes: most, batch: 0, ..lsh() };
    assert_invalid(rotations.num_buckets(&[1 << 20]).validate(), "rotations", rule);
    let seen = Lsh { chunk_len: most, ..lsh().chunks(most, most) };
    assert_invalid(seen.validate(), "chunks_before + 1 + chunks_after", rule);
    let far = Strides { batch: usize::MAX, seqlen: 8, head: 4 };
    let l = lsh().layout;
    for (name, layout) in [
        ("layout.qk", lsh::Layout { qk: far, ..l }),
        ("layout.v", lsh::Layout { v: far, ..l }),
        ("layout.out", lsh::Layout { out: far, ..l }),
    ] {
        assert_invalid(lsh().layout(layout).validate(), name, rule);
    }
}

#[test]
fn lsh_buckets_come_in_pairs_and_are_not_too_many() {
    for (factors, field) in
        [(&[3][..], "num_buckets[0]"), (&[2, 0], "num_buckets[1]"), (&[2, 2, 5], "num_buckets[2]")]
    {
        assert_invalid(lsh().num_buckets(factors).validate(), field, "even and positive");
    }
    lsh().num_buckets(&[lsh::MAX_BUCKETS]).validate().unwrap();
    let rule = "the product must be at most 1048576";
    for factors in [&[lsh::MAX_BUCKETS + 2][..], &[1 << 10, 1 << 11], &[1 << 40, 1 << 40]] {
        assert_invalid(lsh().num_buckets(factors).validate(), "num_buckets", rule);
    }
}

#[test]
fn lsh_numbers_must_be_finite_in_f32_and_the_epsilon_positive() {
    for x in [f64::NAN, f64::NEG_INFINITY, -1e39] {
        let rule = "finite in f32";
        assert_invalid(lsh().softmax_scale(x).validate(), "softmax_scale", rule);
        assert_invalid(Lsh { mask_value: x, ..lsh() }.validate(), "mask_value", rule);
        let own = Lsh { self_mask_value: x, ..lsh() };
        assert_invalid(own.validate(), "self_mask_value", rule);
        assert_invalid(Lsh { key_norm_eps: x, ..lsh() }.validate(), "key_norm_eps", rule);
    }
    for x in [0.0, -1e-6, 1e-60] {
        let eps = Lsh { key_norm_eps: x, ..lsh() };
        assert_invalid(eps.validate(), "key_norm_eps", "positive in f32");
    }
}

#[test]
fn lsh_results_must_not_share_a_place_but_inputs_may() {
    let (l, same) = (lsh().layout, Strides { batch: 0, seqlen: 8, head: 4 });
    lsh().layout(lsh::Layout { qk: same, v: same, ..l }).validate().unwrap();
    let shared = lsh().layout(lsh::Layout { out: same, ..l });
    assert_invalid(shared.validate(), "layout.out", "must not share a place");
}

#[test]
fn lsh_tensors_must_be_given_exactly_where_the_problem_has_them() {
    let (x, rotations) = ([0.5f32; 2 * 6 * 2 * 4], [0.5; 2 * 4 * 2 * 3]);
    let hashed = lsh::Inputs { rotations: Some(&rotations), ..lsh::Inputs::new(&x, &x) };
    let check = |p: &Lsh, i: lsh::Inputs<'_, f32>| p.validate_inputs(&i);
    check(&lsh(), hashed).unwrap();
    let short = &x[1..];
    assert_invalid(check(&lsh(), lsh::Inputs { qk: short, ..hashed }), "qk.len", "need 96");
    assert_invalid(check(&lsh(), lsh::Inputs { v: short, ..hashed }), "v.len", "need 96");
    let less = lsh::Inputs { rotations: Some(&rotations[1..]), ..hashed };
    assert_invalid(check(&lsh(), less), "rotations.len", "needs 48 elements");
    let none = lsh::Inputs { rotations: None, ..hashed };
    assert_invalid(check(&lsh(), none), "rotations", ABSENT);
    // Nothing to sort, nothing to hash.
    let one = Lsh { chunk_len: 6, ..lsh() };
    check(&one, none).unwrap();
    assert_invalid(check(&one, hashed), "rotations", GIVEN);

    let mut buckets = [7; 2 * 2 * 2 * 6];
    let given = lsh().buckets_given();
    assert_invalid(check(&given, none), "buckets", ABSENT);
    assert_invalid(check(&given, hashed), "rotations", GIVEN);
    let with = lsh::Inputs { buckets: Some(&buckets), ..none };
    check(&given, with).unwrap();
    assert_invalid(
        check(&lsh(), lsh::Inputs { buckets: Some(&buckets), ..hashed }),
        "buckets",
        GIVEN,
    );
    let less = lsh::Inputs { buckets: Some(&buckets[1..]), ..none };
    assert_invalid(check(&given, less), "buckets.len", "needs 48 elements");
    for bad in [-1, 8] {
        // Sequence 1, head 0, round 1, position 2.
        buckets[24 + 6 + 2] = bad;
        let with = lsh::Inputs { buckets: Some(&buckets), ..none };
        assert_invalid(check(&given, with), "buckets[1][0][1][2]", "below 8");
        // Of an invalid position, whatever.
        let mut valid = [1; 12];
        valid[6 + 2] = 0;
        let with = lsh::Inputs { key_valid: Some(&valid), ..with };
        check(&given.clone().key_padding(), with).unwrap();
    }
}

#[test]
fn lsh_key_valid_must_be_given_exactly_when_the_problem_says_so_and_hold_0_or_1() {
    let (x, rotations) = ([0.5f32; 96], [0.5; 48]);
    let none = lsh::Inputs { rotations: Some(&rotations), ..lsh::Inputs::new(&x, &x) };
    let with =
        |valid: &[u8], p: &Lsh| p.validate_inputs(&lsh::Inputs { key_valid: Some(valid), ..none });
    assert_invalid(with(&[1; 12], &lsh()), "key_valid", GIVEN);
    let padded = lsh().key_padding();
    with(&[1; 12], &padded).unwrap();
    assert_invalid(padded.validate_inputs(&none), "key_valid", ABSENT);
    assert_invalid(with(&[1; 11], &padded), "key_valid.len", "needs 12 elements");
    assert_invalid(with(&[2; 12], &padded), "key_valid", "must hold 0 or 1");
}

/// Of two sequences, 3 queries over 5 keys, 2 heads.
fn relative() -> TransformerXl {
    TransformerXl::xlnet([2, 3, 2, 4], 2, DType::F32)
}

#[test]
fn relative_positions_have_the_rules_of_shapes() {
    relative().validate().unwrap();
    TransformerXl::conformer([0, 0, 2, 4], 0, DType::F32).validate().unwrap();
    let changed = |change: fn(&mut TransformerXl)| {
        let mut problem = relative();
        change(&mut problem);
        problem.validate()
    };
    let rule = "heads_q a multiple of heads_kv";
    assert_invalid(changed(|p| p.shape.heads_kv = 0), "shape.heads_q", rule);
    assert_invalid(changed(|p| p.shape.heads_q = 3), "shape.heads_q", rule);
    assert_invalid(changed(|p| p.shape.head_dim = 0), "shape.head_dim", "from 1 to 256");
    assert_invalid(changed(|p| p.shape.head_dim = 257), "shape.head_dim", "from 1 to 256");
    assert_invalid(changed(|p| p.softmax_scale = 1e39), "softmax_scale", "finite in f32");
    let below = "below 2^31";
    assert_invalid(changed(|p| p.shape.batch = 1 << 31), "shape.batch", below);
    assert_invalid(changed(|p| p.shape.seqlen_q = 1 << 31), "shape.seqlen_q", below);
    assert_invalid(changed(|p| p.shape.seqlen_k = 1 << 31), "shape.seqlen_k", below);
    assert_invalid(changed(|p| p.rows = 1 << 31), "rows", below);
    assert_invalid(changed(|p| p.distance_offset = 1 << 31), "distance_offset", below);
    assert_invalid(changed(|p| p.targets = Some(1 << 31)), "targets", below);
    assert_invalid(changed(|p| p.clamp_len = Some(1 << 31)), "clamp_len", below);
    let overflows = "overflows the address space";
    assert_invalid(changed(|p| p.layout.r.seqlen = usize::MAX / 2), "layout.r", overflows);
    let shared = "must not share a place";
    assert_invalid(changed(|p| p.layout.out.seqlen = 1), "layout.out", shared);
}

#[test]
fn memory_chunks_and_own_position_must_fit_the_keys() {
    let with = |len, rows, start| relative().memory(Memory { len, rows, start }).validate();
    with(2, 2, 1).unwrap();
    with(0, 0, 0).unwrap();
    assert_invalid(with(3, 2, 0), "memory.len", "at most rows, 2");
    assert_invalid(with(6, 7, 0), "memory.len", "seqlen_k, 5");
    assert_invalid(with(2, 4, 4), "memory.start", "must be below 4");
    assert_invalid(with(0, 0, 1), "memory.start", "must be below 0");
    for size in [0, 1 << 31] {
        let chunked = relative().chunks(Chunks { size, left: None });
        assert_invalid(chunked.validate(), "chunks.size", "from 1 to 2147483647");
    }
    let mut few = relative();
    few.shape.seqlen_k = 2;
    assert_invalid(few.validate(), "shape.seqlen_k", "a key for each of the 3 positions");
    few.query_stream().validate().unwrap();
}

#[test]
fn every_distance_must_have_a_row() {
    let table = |rows, distance_offset| TransformerXl { rows, distance_offset, ..relative() };
    table(7, 2).validate().unwrap();
    assert_invalid(table(6, 2).validate(), "rows", "at least 7 rows");
    assert_invalid(table(8, 1).validate(), "distance_offset", "distances begin at -2");
    let clamped = |n: usize| TransformerXl { clamp_len: Some(n), ..table(3, 1) };
    clamped(1).validate().unwrap();
    assert_invalid(clamped(2).validate(), "distance_offset", "distances begin at -2");
    let window = |left| table(3, 0).window(Window { left: Some(left), right: Some(0) });
    window(2).validate().unwrap();
    assert_invalid(window(3).validate(), "rows", "at least 4 rows");
}

#[test]
fn relative_tensors_must_be_given_exactly_when_the_problem_says_so() {
    let zeros = [0.0f32; 80];
    let ids = [0i32; 10];
    let words = [0u32; 6];
    let ones = [1u8; 10];
    let plain = transformer_xl::Inputs::new(
        [&zeros[..48], &zeros, &zeros],
        &zeros[..64],
        [&zeros[..8], &zeros[..8]],
    );
    relative().validate_inputs(&plain).unwrap();
    let short = transformer_xl::Inputs { r: &zeros[..63], ..plain };
    assert_invalid(relative().validate_inputs(&short), "r.len", "need 64 elements");
    for (name, inputs) in [
        ("bias_u.len", transformer_xl::Inputs { bias_u: &zeros[..7], ..plain }),
        ("bias_v.len", transformer_xl::Inputs { bias_v: &zeros[..9], ..plain }),
    ] {
        assert_invalid(relative().validate_inputs(&inputs), name, "needs 8 elements");
    }
    let apart = relative().memory(Memory { len: 2, rows: 2, start: 0 });
    assert_invalid(apart.validate_inputs(&plain), "k_memory", ABSENT);
    let given = transformer_xl::Inputs { v_memory: Some(&zeros), ..plain };
    assert_invalid(relative().validate_inputs(&given), "v_memory", GIVEN);

    let with = transformer_xl::Inputs {
        bias_s: Some(&zeros[..8]),
        seg_embed: Some(&zeros[..16]),
        seg_q: Some(&ids[..6]),
        seg_k: Some(&ids),
        ..plain
    };
    assert_invalid(relative().validate_inputs(&with), "bias_s", GIVEN);
    let segments = relative().segments();
    segments.validate_inputs(&with).unwrap();
    assert_invalid(segments.validate_inputs(&plain), "bias_s", ABSENT);
    let few = transformer_xl::Inputs { seg_k: Some(&ids[..9]), ..with };
    assert_invalid(segments.validate_inputs(&few), "seg_k.len", "needs 10 elements");

    let with = transformer_xl::Inputs { perm_mask: Some(&words), ..plain };
    assert_invalid(relative().validate_inputs(&with), "perm_mask", GIVEN);
    relative().perm_mask().validate_inputs(&with).unwrap();
    let few = transformer_xl::Inputs { perm_mask: Some(&words[..5]), ..plain };
    let problem = relative().perm_mask();
    assert_invalid(problem.validate_inputs(&few), "perm_mask.len", "needs 6 elements");

    let with = transformer_xl::Inputs { key_valid: Some(&ones), ..plain };
    assert_invalid(relative().validate_inputs(&with), "key_valid", GIVEN);
    relative().key_padding().validate_inputs(&with).unwrap();
    let two = [2u8; 10];
    let bad = transformer_xl::Inputs { key_valid: Some(&two), ..plain };
    let problem = relative().key_padding();
    assert_invalid(problem.validate_inputs(&bad), "key_valid", "must hold 0 or 1");

    let targets = relative().targets(2);
    let at = |all: &[i32]| {
        let q = &zeros[..32];
        targets.validate_inputs(&transformer_xl::Inputs { q, targets: Some(all), ..plain })
    };
    at(&[0, 2, 1, 1]).unwrap();
    assert_invalid(at(&[0, 2, 1, 3]), "targets[1][1]", "a position below 3");
    assert_invalid(at(&[0, -1, 1, 2]), "targets[0][1]", "a position below 3");
    assert_invalid(at(&[0, 1]), "targets.len", "needs 4 elements");
}
