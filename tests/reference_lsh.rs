//! The reference of LSH attention: its gradients against finite differences, and by the properties
//! that this attention has.

use longhand::full::{self, Bias};
use longhand::lsh::{Inputs, Layout, Output, Wrap};
use longhand::{DType, Full, Lsh, Shape, Strides};
use proptest::prelude::*;

/// Numbers between −1 and 1.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as f64 / (1u64 << 30) as f64 - 1.0
    }

    fn vec(&mut self, len: usize) -> Vec<f64> {
        (0..len).map(|_| self.next()).collect()
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next().abs() * n as f64) as usize % n
    }
}

/// A problem and its tensors.
#[derive(Clone)]
struct Case {
    problem: Lsh,
    qk: Vec<f64>,
    v: Vec<f64>,
    rotations: Option<Vec<f64>>,
    buckets: Option<Vec<i32>>,
    key_valid: Option<Vec<u8>>,
    grad_out: Vec<f64>,
}

impl Case {
    fn new(problem: Lsh, seed: u64) -> Case {
        problem.validate().expect("valid");
        let mut random = Random(seed);
        let positions = problem.batch * problem.seqlen;
        Case {
            qk: random.vec(problem.span(&problem.layout.qk)),
            v: random.vec(problem.span(&problem.layout.v)),
            grad_out: random.vec(problem.span(&problem.layout.out)),
            rotations: problem.is_hashed().then(|| random.vec(problem.rotations_len())),
            buckets: (problem.is_sorted() && problem.buckets_given).then(|| {
                let bucket = |_| random.below(problem.buckets()) as i32;
                (0..problem.buckets_len()).map(bucket).collect()
            }),
            key_valid: problem
                .key_padding
                .then(|| (0..positions).map(|_| u8::from(random.next() > -0.5)).collect()),
            problem,
        }
    }

    fn inputs(&self) -> Inputs<'_, f64> {
        Inputs {
            rotations: self.rotations.as_deref(),
            buckets: self.buckets.as_deref(),
            key_valid: self.key_valid.as_deref(),
            ..Inputs::new(&self.qk, &self.v)
        }
    }

    fn forward(&self) -> Output<f64> {
        self.problem.reference(&self.inputs()).expect("valid")
    }

    /// The same with the buckets of its own hash given.
    fn with_its_buckets(&self) -> Case {
        let buckets = self.forward().buckets;
        let problem = self.problem.clone().buckets_given();
        Case { rotations: None, buckets: Some(buckets), problem, ..self.clone() }
    }
}

fn assert_gradients(case: &Case) {
    let g = case.problem.reference_backward(&case.inputs(), &case.grad_out).expect("valid");
    let loss = |case: &Case| -> f64 {
        case.forward().out.iter().zip(&case.grad_out).map(|(x, g)| x * g).sum()
    };
    let step = 1e-5;
    let slope = |of: fn(&mut Case) -> &mut Vec<f64>, n: usize| {
        let moved = |by: f64| {
            let mut case = case.clone();
            of(&mut case)[n] += by;
            loss(&case)
        };
        (moved(step) - moved(-step)) / (2.0 * step)
    };
    for (n, g) in g.qk.iter().enumerate() {
        let slope = slope(|case| &mut case.qk, n);
        assert!((slope - g).abs() < 2e-8, "qk[{n}]: {slope} {g}");
    }
    for (n, g) in g.v.iter().enumerate() {
        let slope = slope(|case| &mut case.v, n);
        assert!((slope - g).abs() < 2e-8, "v[{n}]: {slope} {g}");
    }
}

#[test]
fn gradients_are_finite_differences_of_the_forward_pass() {
    let plain = Lsh::new([1, 10, 2, 3], 4, 2, DType::F32).num_buckets(&[2]).buckets_given();
    let cases = [
        plain.clone(),
        plain.clone().causal(),
        plain.clone().key_padding().chunks(1, 1),
        plain.clone().wrap(Wrap::PerRound).causal(),
        plain.clone().duplicates_once(),
        Lsh { self_mask_value: -0.5, mask_value: -2.0, ..plain.clone().causal() },
        Lsh::new([2, 4, 1, 3], 4, 2, DType::F32).causal(),
    ];
    for (seed, problem) in (1..).zip(cases) {
        assert_gradients(&Case::new(problem, seed));
    }
}

#[test]
fn a_position_between_two_buckets_is_named_and_no_other() {
    let problem = Lsh::new([1, 24, 2, 8], 8, 2, DType::F32).num_buckets(&[4, 2]).key_padding();
    let mut case = Case::new(problem, 5);
    case.key_valid = Some((0..24).map(|i| u8::from(i != 7)).collect());
    assert_eq!(case.problem.near_ties(&case.inputs()).expect("valid"), []);
    // Head 1 of position 3 and of 7, which is padding.
    for i in [3, 7] {
        case.qk[(i * 2 + 1) * 8..][..8].fill(0.0);
    }
    let ties = case.problem.near_ties(&case.inputs()).expect("valid");
    let at: Vec<_> = ties.iter().map(|t| (t.batch, t.head, t.round, t.position)).collect();
    assert_eq!(at, [(0, 1, 0, 3), (0, 1, 1, 3)]);
    assert!(ties.iter().all(|t| t.gap == 0.0));
}

/// What shared-QK attention is in terms of full attention: normalised keys, and a bias that takes
/// each position's score with itself away.
fn shared_qk(case: &Case) -> full::Output<f64> {
    let p = &case.problem;
    let shape = Shape {
        batch: p.batch,
        heads_q: p.heads,
        heads_kv: p.heads,
        seqlen_q: p.seqlen,
        seqlen_k: p.seqlen,
        head_dim: p.head_dim,
    };
    let mut problem = Full::new(shape, DType::F32).bias(Bias { per_batch: false, per_head: false });
    problem.causal = p.causal;
    problem.key_padding = p.key_padding;
    let d = p.head_dim;
    let keys: Vec<f64> = case
        .qk
        .chunks_exact(d)
        .flat_map(|x| {
            let mean = x.iter().map(|x| x * x).sum::<f64>() / d as f64;
            x.iter().map(move |x| x / (mean + p.key_norm_eps).sqrt())
        })
        .collect();
    let n = p.seqlen;
    let bias: Vec<f64> = (0..n * n).map(|x| if x / n == x % n { -1e5 } else { 0.0 }).collect();
    let inputs = full::Inputs {
        bias: Some(&bias),
        key_valid: case.key_valid.as_deref(),
        ..full::Inputs::new(&case.qk, &keys, &case.v)
    };
    problem.reference(&inputs).expect("valid")
}

fn close(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-9 * (1.0 + b.abs()))
}

/// A problem in which everything may differ.
fn problems() -> impl Strategy<Value = (Lsh, u64)> {
    let sizes = (1usize..3, 1usize..40, 1usize..3, 1usize..6, 1usize..12, 1usize..4);
    let choices = (0usize..3, 0usize..3, any::<bool>(), any::<bool>(), any::<bool>());
    let hash = (prop_oneof![Just(vec![2]), Just(vec![6]), Just(vec![2, 4])], any::<bool>());
    (sizes, choices, hash, any::<u64>()).prop_map(|(sizes, choices, (buckets, given), seed)| {
        let (batch, seqlen, heads, head_dim, chunk_len, rounds) = sizes;
        let (before, after, causal, padding, ring) = choices;
        let shape = [batch, seqlen, heads, head_dim];
        let mut p = Lsh::new(shape, chunk_len, rounds, DType::F32)
            .num_buckets(&buckets)
            .chunks(before, after);
        (p.causal, p.key_padding, p.buckets_given) = (causal, padding, given);
        p.wrap = if ring { Wrap::PerRound } else { Wrap::AcrossRounds };
        (p, seed)
    })
}

proptest! {
    #[test]
    fn one_chunk_is_shared_qk_attention((problem, seed) in problems()) {
        let p = Lsh { chunk_len: problem.seqlen, ..problem };
        let case = Case::new(p, seed);
        // Where nothing is valid but the position itself, full attention has nothing to attend.
        let (got, expected) = (case.forward(), shared_qk(&case));
        for (n, lse) in expected.lse.iter().enumerate() {
            if lse.is_finite() && *lse > -1e3 {
                prop_assert!((got.lse[n] - lse).abs() < 1e-9, "{} {lse}", got.lse[n]);
            }
        }
        if case.key_valid.is_none() {
            prop_assert!(close(&got.out, &expected.out));
        }
    }

    #[test]
    fn in_one_bucket_with_all_chunks_seen_once_it_is_too((problem, seed) in problems()) {
        let chunks = problem.chunks_of_round();
        let p = Lsh { wrap: Wrap::PerRound, key_padding: false, ..problem }
            .num_buckets(&[2]).buckets_given().chunks(chunks - 1, 0);
        let mut case = Case::new(p, seed);
        if let Some(buckets) = &mut case.buckets {
            buckets.fill(1);
        }
        prop_assert!(close(&case.forward().out, &shared_qk(&case).out));
    }

    #[test]
    fn duplicates_that_count_once_make_rounds_of_one_bucket_one_round((problem, seed) in problems()) {
        let p = Lsh { key_padding: false, ..problem }.num_buckets(&[2]).buckets_given();
        let mut case = Case::new(p, seed);
        if let Some(buckets) = &mut case.buckets {
            buckets.fill(0);
        }
        let seen = case.problem.seen_chunks();
        case.problem = case.problem.duplicates_once().chunks(seen.0, seen.1).wrap(Wrap::PerRound);
        let one = Case {
            problem: Lsh { num_hashes: 1, ..case.problem.clone() },
            buckets: case.buckets.clone().map(|_| vec![0; case.problem.lse_len()]),
            ..case.clone()
        };
        prop_assert!(close(&case.forward().out, &one.forward().out));
    }

    #[test]
    fn the_order_is_by_bucket_and_then_by_position((problem, seed) in problems()) {
        let case = Case::new(problem, seed);
        let (p, result) = (&case.problem, case.forward());
        for (buckets, order) in
            result.buckets.chunks_exact(p.seqlen).zip(result.order.chunks_exact(p.seqlen))
        {
            let keys: Vec<(i32, i32)> = order.iter().map(|&i| (buckets[i as usize], i)).collect();
            prop_assert!(keys.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }

    #[test]
    fn the_order_of_the_rounds_matters_to_no_ring_of_its_own((problem, seed) in problems()) {
        let p = Lsh { wrap: Wrap::PerRound, ..problem }.buckets_given();
        let case = Case::new(p, seed);
        let Some(buckets) = &case.buckets else { return Ok(()) };
        let rounds: Vec<&[i32]> = buckets.chunks_exact(case.problem.seqlen).collect();
        let turned = rounds
            .chunks_exact(case.problem.num_hashes)
            .flat_map(|rounds| rounds.iter().rev().flat_map(|round| round.iter().copied()));
        let other = Case { buckets: Some(turned.collect()), ..case.clone() };
        let (one, other) = (case.forward(), other.forward());
        prop_assert!(close(&one.out, &other.out) && close(&one.lse, &other.lse));
    }

    #[test]
    fn causal_rows_do_not_depend_on_what_comes_after((problem, seed) in problems(), at in 0usize..40) {
        let case = Case::new(problem.causal().buckets_given(), seed);
        let (p, mut other) = (&case.problem, case.clone());
        let row = p.heads * p.head_dim;
        let from = at % p.seqlen + 1;
        for b in 0..p.batch {
            let later = (b * p.seqlen + from) * row..(b + 1) * p.seqlen * row;
            other.qk[later.clone()].iter_mut().for_each(|x| *x = 3.0 - *x);
            other.v[later].iter_mut().for_each(|x| *x = 3.0 - *x);
        }
        let (one, other) = (case.forward().out, other.forward().out);
        for b in 0..p.batch {
            let before = b * p.seqlen * row..(b * p.seqlen + from) * row;
            prop_assert!(one[before.clone()] == other[before]);
        }
    }

    #[test]
    fn given_buckets_and_other_layouts_change_no_bit((problem, seed) in problems()) {
        let case = Case::new(problem, seed);
        let p = &case.problem;
        let expected = case.forward();
        if p.is_hashed() {
            prop_assert!(case.with_its_buckets().forward() == expected);
        }
        let strides = Strides::bhsd(p.seqlen, p.heads, p.head_dim);
        let moved = |x: &[f64]| {
            let mut to = vec![0.0; x.len()];
            for (n, row) in x.chunks_exact(p.head_dim).enumerate() {
                let (b, i, h) = (n / (p.seqlen * p.heads), n / p.heads % p.seqlen, n % p.heads);
                let at = b * strides.batch + i * strides.seqlen + h * strides.head;
                to[at..at + p.head_dim].copy_from_slice(row);
            }
            to
        };
        let other = Case {
            problem: p.clone().layout(Layout::of(strides)),
            qk: moved(&case.qk),
            v: moved(&case.v),
            ..case.clone()
        };
        let got = other.forward();
        prop_assert!(got.out == moved(&expected.out) && got.lse == expected.lse);
    }
}
