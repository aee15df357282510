//! Random problems of LSH attention, and what their results must be.

use super::Random;
use super::guard::{SENTINEL, floats_of, sentinel};
use longhand::lsh::{Inputs, Layout, Output, Wrap};
use longhand::{DType, Lsh, Strides};

/// A problem with tensors of its own.
#[derive(Clone)]
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
        let given = problem.is_sorted() && problem.buckets_given;
        let most = problem.buckets();
        let buckets =
            given.then(|| (0..problem.buckets_len()).map(|_| random.below(most) as i32).collect());
        let rotations = problem.is_hashed().then(|| problem.rotations(random.next()));
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

    /// The given buckets as a result has them: of an invalid position, the last.
    pub fn buckets_of_positions(&self) -> Vec<i32> {
        let p = &self.problem;
        let of_sequence = (p.heads * p.num_hashes * p.seqlen).max(1);
        let valid = |n: usize| {
            let at = n / of_sequence * p.seqlen + n % p.seqlen.max(1);
            self.key_valid.as_ref().is_none_or(|valid| valid[at] != 0)
        };
        let given = self.buckets.iter().flatten().enumerate();
        given.map(|(n, &b)| if valid(n) { b } else { p.buckets() as i32 }).collect()
    }

    /// The oracle, in f64.
    pub fn reference(&self) -> Output<f64> {
        self.reference_with(&self.v)
    }

    fn reference_with(&self, v: &[f32]) -> Output<f64> {
        let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
        let (qk, v, rotations) = (wide(&self.qk), wide(v), self.rotations.as_deref().map(wide));
        let inputs = Inputs {
            rotations: rotations.as_deref(),
            buckets: self.buckets.as_deref(),
            key_valid: self.key_valid.as_deref(),
            ..Inputs::new(&qk, &v)
        };
        self.problem.reference(&inputs).expect("valid")
    }

    /// How far `out` may be off, by the fixtures' measure. In a 16-bit dtype the result is rounded
    /// in each round, and so are the probabilities before the product with v: each by half a unit in
    /// its last place, so that the latter moves a row by that much of the sum of p·|v|. A rounding
    /// of an earlier round has the weight of the rounds before the next: of equal rounds those of
    /// all together have half as much as there are rounds.
    pub fn bound(&self, expected: &Output<f64>) -> f64 {
        let unit = match self.problem.dtype {
            DType::F32 => return super::tolerance(DType::F32),
            DType::F16 => 1.0 / 2048.0,
            DType::BF16 => 1.0 / 256.0,
        };
        let absolute: Vec<f32> = self.v.iter().map(|x| x.abs()).collect();
        let sums = self.reference_with(&absolute).out;
        let largest = |of: &[f64], least: f64| of.iter().fold(least, |m, x| m.max(x.abs()));
        let rounds = (self.problem.rounds() as f64 + 1.0) / 2.0;
        super::tolerance(DType::F32)
            + unit * (rounds + largest(&sums, 0.0) / largest(&expected.out, 0.1))
    }
}

/// Rows with gaps between them, and between heads and sequences.
pub fn odd(p: &Lsh, gap: usize) -> Strides {
    let head = p.head_dim + gap;
    let row = p.heads * head + 2 * gap;
    Strides { batch: p.seqlen * row + 5 * gap, seqlen: row, head }
}

/// Every choice that a problem has, at random; mostly with given buckets, since a near tie of the
/// hash is decided by rounding.
pub fn random_problem(random: &mut Random, dtype: DType, head_dim: usize) -> Lsh {
    let lengths = [1, 2, 7, 31, 33, 64, 65, 100, 127, 129, 150, 200, 260, 300];
    let chunks = [1, 3, 4, 16, 20, 32, 33, 50, 64, 64, 65, 100, 128, 200];
    let factors: [&[usize]; 6] = [&[2], &[4], &[16], &[2, 4], &[4, 2, 6], &[300]];
    let seqlen = lengths[random.below(lengths.len())];
    let heads = 1 + random.below(3);
    let chunk_len = chunks[random.below(chunks.len())];
    let mut p = Lsh::new(
        [1 + random.below(2), seqlen, heads, head_dim],
        chunk_len,
        1 + random.below(4),
        dtype,
    )
    .num_buckets(factors[random.below(factors.len())])
    .chunks(random.below(3), random.below(3));
    if random.below(6) == 0 {
        p = p.chunks(7, 2); // more than the ring has, often
    }
    p.causal = random.below(2) == 0;
    p.key_padding = random.below(3) == 0;
    p.buckets_given = random.below(4) != 0;
    p.wrap = if random.below(3) == 0 { Wrap::PerRound } else { Wrap::AcrossRounds };
    p.duplicates_once = random.below(4) == 0;
    if random.below(6) == 0 {
        p.softmax_scale = -0.2;
    }
    p.layout = match random.below(3) {
        0 => Layout::of(Strides::bhsd(seqlen, heads, head_dim)),
        1 => Layout { v: odd(&p, 8), out: odd(&p, 24), ..p.layout },
        _ => p.layout,
    };
    p
}

/// Errors of `got` by the fixtures' measure: (out, lse).
pub fn errors(got: &Output<f32>, expected: &Output<f64>) -> (f64, f64) {
    let (out, lse) = super::errors_of((&got.out, &got.lse), (&expected.out, &expected.lse));
    let rounds = (&got.lse_rounds[..], &expected.lse_rounds[..]);
    let (_, of_rounds) = super::errors_of((&[], rounds.0), (&[], rounds.1));
    (out, lse.max(of_rounds))
}

/// The results of a launch into sentinels: every element is written, and what lies between rows is
/// not.
pub fn checked_out(p: &Lsh, out: &[u8]) -> Vec<f32> {
    let l = &p.layout.out;
    let mut owned = vec![false; p.span(l)];
    for batch in 0..p.batch {
        for (row, head) in (0..p.seqlen).flat_map(|i| (0..p.heads).map(move |h| (i, h))) {
            let at = batch * l.batch + row * l.seqlen + head * l.head;
            owned[at..at + p.head_dim].fill(true);
        }
    }
    let (mut values, untouched) = (floats_of(out, p.dtype), sentinel(out.len()));
    let e = p.dtype.bytes();
    for (n, value) in values.iter_mut().enumerate().filter(|(n, _)| !owned[*n]) {
        let same = out[n * e..][..e] == untouched[n * e..][..e];
        assert!(same, "out: the gap at element {n} was written");
        *value = 0.0;
    }
    values
}

/// The words of a result of which every one must have been written.
pub fn written(name: &str, bytes: &[u8]) -> Vec<[u8; 4]> {
    let words: Vec<[u8; 4]> = bytes.as_chunks().0.to_vec();
    let left = words.iter().position(|&word| word == SENTINEL.to_le_bytes());
    assert!(left.is_none(), "{name}: element {left:?} was not written");
    words
}
