//! Random problems of LSH attention, and what their results must be.

use super::Random;
use super::guard::{written, written_rows};
use longhand::full::Bias;
use longhand::lsh::{Inputs, Layout, Output, Wrap};
use longhand::{DType, Full, Lsh, Shape, Strides};

/// A problem with tensors of its own.
#[derive(Debug, Clone)]
pub struct Case {
    pub problem: Lsh,
    pub qk: Vec<f32>,
    pub v: Vec<f32>,
    pub rotations: Option<Vec<f32>>,
    pub buckets: Option<Vec<i32>>,
    pub key_valid: Option<Vec<u8>>,
}

impl Case {
    /// Random tensors for `problem`; one position in four is padding.
    pub fn new(problem: Lsh, random: &mut Random) -> Case {
        problem.validate().expect("the generator makes valid problems");
        // Exact in 16 bits; in f32 every bit of the significand is used, so that a kernel which
        // works in parts of it is seen.
        let mut tensor = |strides: &Strides| {
            let mut all = random.normals(problem.span(strides));
            if problem.dtype == DType::F32 {
                all.iter_mut().for_each(|x| *x *= 1.000_123_4);
            }
            all
        };
        let (qk, v) = (tensor(&problem.layout.qk), tensor(&problem.layout.v));
        let rotations = problem.is_hashed().then(|| problem.rotations(random.next()));
        let buckets = (problem.is_sorted() && problem.buckets_given).then(|| {
            // Spread over all, over a few, or all the same.
            let n = [problem.buckets(), 3.min(problem.buckets()), 1][random.below(3)];
            let first = random.below(problem.buckets() - n + 1);
            (0..problem.buckets_len()).map(|_| (first + random.below(n)) as i32).collect()
        });
        let positions = problem.batch * problem.seqlen;
        let key_valid = problem
            .key_padding
            .then(|| (0..positions).map(|_| u8::from(random.below(4) != 0)).collect());
        Case { qk, v, rotations, buckets, key_valid, problem }
    }

    pub fn inputs(&self) -> Inputs<'_, f32> {
        Inputs {
            rotations: self.rotations.as_deref(),
            buckets: self.buckets.as_deref(),
            key_valid: self.key_valid.as_deref(),
            ..Inputs::new(&self.qk, &self.v)
        }
    }

    /// The oracle, in f64.
    pub fn reference(&self) -> Output<f64> {
        let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
        let (qk, v, rotations) =
            (wide(&self.qk), wide(&self.v), self.rotations.as_deref().map(wide));
        let inputs = Inputs {
            rotations: rotations.as_deref(),
            buckets: self.buckets.as_deref(),
            key_valid: self.key_valid.as_deref(),
            ..Inputs::new(&qk, &v)
        };
        self.problem.reference(&inputs).expect("valid")
    }

    /// The same problem with these buckets in place of hashing.
    pub fn with_buckets(&self, buckets: &[i32]) -> Case {
        let problem = self.problem.clone().buckets_given();
        Case { problem, rotations: None, buckets: Some(buckets.to_vec()), ..self.clone() }
    }

    /// Where `got` hashed a position otherwise than the definition, the two projections must be as
    /// good as equal: the definition's best in f64, and that of the bucket which was chosen.
    pub fn check_buckets(&self, name: &str, got: &[i32], expected: &[i32]) {
        assert_eq!(got.len(), expected.len(), "{name}: buckets");
        let p = &self.problem;
        for (n, (&mine, &theirs)) in got.iter().zip(expected).enumerate() {
            if mine == theirs {
                continue;
            }
            let (i, row) = (n % p.seqlen, n / p.seqlen);
            let (r, h) = (row % p.num_hashes, row / p.num_hashes % p.heads);
            let b = row / (p.num_hashes * p.heads);
            let gap = self.gap([b, h, r, i], mine, theirs);
            assert!(
                gap <= 1e-5,
                "{name}: bucket {mine}, not {theirs}, at {n}: gap {gap:.1e}: {p:?}"
            );
        }
    }

    /// By how much the projections of two buckets differ, relative to the vectors' lengths; of a
    /// bucket that is none, infinite.
    fn gap(&self, [b, h, r, i]: [usize; 4], mine: i32, theirs: i32) -> f64 {
        let p = &self.problem;
        let l = &p.layout.qk;
        let x = &self.qk[b * l.batch + i * l.seqlen + h * l.head..][..p.head_dim];
        let rotations = self.rotations.as_ref().expect("hashed");
        let column = |c: usize| {
            let at = move |d: usize| ((h * p.head_dim + d) * p.num_hashes + r) * p.columns() + c;
            (0..p.head_dim).map(move |d| f64::from(rotations[at(d)]))
        };
        let (mut mine, mut theirs) = (mine as usize, theirs as usize);
        if mine >= p.buckets() || theirs >= p.buckets() {
            return f64::INFINITY;
        }
        let (mut worst, mut first) = (0.0f64, 0);
        for f in &p.num_buckets {
            let projection = |bucket: usize| {
                let (c, sign) = if bucket < f / 2 { (bucket, 1.0) } else { (bucket - f / 2, -1.0) };
                let dot: f64 = column(first + c).zip(x).map(|(r, &x)| r * f64::from(x)).sum();
                let lengths = column(first + c).map(|r| r * r).sum::<f64>()
                    * x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
                (sign * dot, lengths.sqrt())
            };
            let ((a, of_a), (b, of_b)) = (projection(mine % f), projection(theirs % f));
            worst = worst.max((a - b).abs() / of_a.max(of_b).max(f64::MIN_POSITIVE));
            (mine, theirs, first) = (mine / f, theirs / f, first + f / 2);
        }
        worst
    }
}

/// A problem that mixes options. Most have their buckets given, so that a hash next to a tie plays
/// no role.
pub fn random_problem(random: &mut Random, dtype: DType, head_dim: usize) -> Lsh {
    let shape = [1 + random.below(2), 1 + random.below(230), 1 + random.below(3), head_dim];
    let [batch, seqlen, heads, _] = shape;
    let chunk_len = [1, 5, 16, 32, 47, 64, 100][random.below(7)];
    let mut p = Lsh::new(shape, chunk_len, 1 + random.below(4), dtype)
        .chunks(random.below(3), random.below(2));
    let factors: [&[usize]; 6] = [&[2], &[16], &[4, 6], &[254], &[300], &[2, 40, 2]];
    p = p.num_buckets(factors[random.below(6)]);
    match random.below(4) {
        // More chunks than there are.
        0 => p = p.chunks(random.below(9), random.below(9)),
        // Masked keys count.
        1 => (p.softmax_scale, p.self_mask_value, p.mask_value) = (0.1, -2.0, -3.0),
        _ => {}
    }
    p.wrap = [Wrap::AcrossRounds, Wrap::PerRound][random.below(2)];
    p.causal = random.below(2) == 0;
    p.key_padding = random.below(2) == 0;
    p.duplicates_once = random.below(4) == 0;
    p.buckets_given = random.below(4) != 0;
    let gap = 4 * random.below(3);
    let row = heads * (head_dim + gap) + 8;
    let odd = Strides { batch: seqlen * row + 4, seqlen: row, head: head_dim + gap };
    p.layout = match random.below(3) {
        0 => Layout::of(Strides::bhsd(seqlen, heads, head_dim)),
        1 => Layout { v: odd, out: odd, ..p.layout },
        _ => p.layout,
    };
    debug_assert!(batch > 0);
    p
}

/// Errors of `got` by the fixtures' measure: (out, lse), the latter over rounds and all.
pub fn errors(got: &Output<f32>, expected: &Output<f64>) -> (f64, f64) {
    let (out, lse) = super::errors_of((&got.out, &got.lse), (&expected.out, &expected.lse));
    let (_, rounds) = super::errors_of((&[], &got.lse_rounds), (&[], &expected.lse_rounds));
    (out, if rounds.is_nan() || rounds > lse { rounds } else { lse })
}

/// What `out` may be off by. A round is merged into a result that is stored already, so that each
/// but the first rounds once more, on a part of it.
pub fn tolerance(p: &Lsh) -> f64 {
    let plain = super::tolerance(DType::F32);
    plain + (super::tolerance(p.dtype) - plain) * merges(p)
}

fn merges(p: &Lsh) -> f64 {
    (p.rounds() as f64 + 1.0) / 2.0
}

/// What lse may be off by: twice what a plain f32 evaluation of the fixtures stays below. Where masked
/// keys count, equal terms are summed: all are rounded the same way, and the errors add up. Each round that is merged rounds once more.
pub fn lse_tolerance(p: &Lsh) -> f64 {
    let plain = if p.mask_value > -100.0 { 2.4e-6 } else { 6e-7 };
    plain * merges(p)
}

/// The results of a launch into sentinels, as bytes: every element is written, and what lies between
/// rows is not. Buckets and order are whatever the launch left.
pub fn checked(p: &Lsh, out: &[u8], lse: &[u8], lse_rounds: Option<&[u8]>) -> Output<f32> {
    let shape = [p.batch, p.seqlen, p.heads, p.head_dim];
    let lse = written("lse", lse);
    Output {
        out: written_rows(out, &p.layout.out, shape, p.dtype),
        lse_rounds: lse_rounds.map_or_else(|| lse.clone(), |x| written("lse_rounds", x)),
        lse,
        buckets: vec![],
        order: vec![],
    }
}

/// The i32 in `bytes`.
pub fn words_of(bytes: &[u8]) -> Vec<i32> {
    bytes.chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Row `i` of the only head, straight from the order, each chunk seeing itself and the one before in
/// the ring of all rounds: its result, and lse.
pub fn row_by_order(case: &Case, order: &[i32], i: usize) -> (Vec<f64>, f64) {
    let p = &case.problem;
    let (n, d, c) = (p.seqlen, p.head_dim, p.chunk_len);
    let row =
        |x: &[f32], i: usize| x[i * d..][..d].iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let q = row(&case.qk, i);
    let (mut out, mut sum) = (vec![0.0; d], 0.0);
    for r in 0..p.num_hashes {
        let place = order[r * n..][..n].iter().position(|&x| x as usize == i).unwrap();
        let chunk = r * n / c + place / c;
        for chunk in [(chunk + p.num_hashes * n / c - 1) % (p.num_hashes * n / c), chunk] {
            for &j in &order[chunk * c..][..c] {
                let j = j as usize;
                let k = row(&case.qk, j);
                let norm = (dot(&k, &k) / d as f64 + p.key_norm_eps).sqrt();
                let s = if i == j { -1e5 } else { p.softmax_scale * dot(&q, &k) / norm };
                sum += s.exp();
                out.iter_mut().zip(row(&case.v, j)).for_each(|(o, v)| *o += s.exp() * v);
            }
        }
    }
    (out.iter().map(|x| x / sum).collect(), sum.ln())
}

/// The problem of full attention that one bucket whose chunks see everything is, its keys, made unit
/// vectors, and its bias, −1e5 on the diagonal.
pub fn shared_qk_full(case: &Case) -> (Full, Vec<f32>, Vec<f32>) {
    let p = &case.problem;
    let (n, d) = (p.seqlen, p.head_dim);
    let norm = |x: &[f32]| {
        let square: f64 = x.iter().map(|&x| f64::from(x).powi(2)).sum();
        (square / d as f64 + p.key_norm_eps).sqrt()
    };
    let key = |x: &[f32]| x.iter().map(|&y| (f64::from(y) / norm(x)) as f32).collect::<Vec<f32>>();
    let keys = case.qk.chunks_exact(d).flat_map(key).collect();
    let bias = (0..n * n).map(|at| if at / n == at % n { -1e5 } else { 0.0 }).collect();
    let shape = Shape {
        batch: p.batch,
        heads_q: p.heads,
        heads_kv: p.heads,
        seqlen_q: n,
        seqlen_k: n,
        head_dim: d,
    };
    let mut full = Full::new(shape, p.dtype).bias(Bias { per_batch: false, per_head: false });
    full.causal = p.causal;
    (full, keys, bias)
}
