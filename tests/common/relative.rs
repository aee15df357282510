//! Random problems with relative positions, and what their results must be.

use super::Random;
use super::fixtures::{Forward, fixtures_of};
use super::guard::{written, written_rows};
use longhand::transformer_xl::{Chunks, Inputs, Memory, Output, bits_from_mask};
use longhand::{DType, Strides, TransformerXl};
use longhand_cli::results::Results;
use longhand_cli::transformer_xl_file::RelativeFile;

/// The tensors of numbers, by place in [`Case::tensors`].
pub const TENSORS: [&str; 10] =
    ["q", "k", "v", "r", "bias_u", "bias_v", "k_memory", "v_memory", "bias_s", "seg_embed"];

/// A problem with tensors of its own; those that it does not use are empty.
#[derive(Clone)]
pub struct Case {
    pub problem: TransformerXl,
    pub tensors: [Vec<f32>; 10],
    pub seg_q: Vec<i32>,
    pub seg_k: Vec<i32>,
    pub perm_mask: Vec<u32>,
    pub key_valid: Vec<u8>,
    pub targets: Vec<i32>,
}

impl Case {
    /// Random tensors for `problem`: one pair in three is forbidden, one key in four is padding.
    pub fn new(problem: TransformerXl, random: &mut Random) -> Case {
        problem.validate().expect("the generator makes valid problems");
        let s = problem.shape;
        let of_heads = s.heads_q * s.head_dim;
        // Exact in 16 bits; in f32 every bit of the significand is used, so that a kernel which
        // works in parts of it is seen. Biases and segments are f32 whatever the dtype.
        let tensors = TENSORS.map(|name| {
            let (len, wide) = match name {
                "bias_u" | "bias_v" => (of_heads, true),
                "bias_s" => (if problem.segments { of_heads } else { 0 }, true),
                "seg_embed" => (if problem.segments { 2 * of_heads } else { 0 }, true),
                name => (problem.span(name), problem.dtype == DType::F32),
            };
            let mut all = random.normals(len);
            if wide {
                all.iter_mut().for_each(|x| *x *= 1.000_123_4);
            }
            all
        });
        let (rows, keys) = (s.batch * problem.segment_len(), s.batch * s.seqlen_k);
        let mut ids = |n: usize| -> Vec<i32> {
            let n = if problem.segments { n } else { 0 };
            (0..n).map(|_| random.below(3) as i32 - 1).collect()
        };
        let (seg_q, seg_k) = (ids(rows), ids(keys));
        let pairs = if problem.perm_mask { rows * s.seqlen_k } else { 0 };
        let mask: Vec<u8> = (0..pairs).map(|_| u8::from(random.below(3) == 0)).collect();
        let perm_mask = match pairs {
            0 => vec![],
            _ => bits_from_mask(&mask, s.seqlen_k).expect("whole rows"),
        };
        let key_valid = match problem.key_padding {
            true => (0..keys).map(|_| u8::from(random.below(4) != 0)).collect(),
            false => vec![],
        };
        let queries = if problem.targets.is_some() { s.batch * s.seqlen_q } else { 0 };
        let target = |_| random.below(problem.segment_len()) as i32;
        let targets = (0..queries).map(target).collect();
        Case { problem, tensors, seg_q, seg_k, perm_mask, key_valid, targets }
    }

    /// A tensor by its name.
    pub fn tensor(&self, name: &str) -> &[f32] {
        &self.tensors[place(name)]
    }

    /// The same, to be changed.
    pub fn tensor_mut(&mut self, name: &str) -> &mut Vec<f32> {
        &mut self.tensors[place(name)]
    }

    pub fn inputs(&self) -> Inputs<'_, f32> {
        self.inputs_of(&self.tensors)
    }

    fn inputs_of<'a, T>(&'a self, tensors: &'a [Vec<T>; 10]) -> Inputs<'a, T> {
        let p = &self.problem;
        let [q, k, v, r, bias_u, bias_v, k_memory, v_memory, bias_s, seg_embed] =
            tensors.each_ref().map(Vec::as_slice);
        Inputs {
            k_memory: p.memory.map(|_| k_memory),
            v_memory: p.memory.map(|_| v_memory),
            bias_s: p.segments.then_some(bias_s),
            seg_embed: p.segments.then_some(seg_embed),
            seg_q: p.segments.then_some(&self.seg_q),
            seg_k: p.segments.then_some(&self.seg_k),
            perm_mask: p.perm_mask.then_some(&self.perm_mask),
            key_valid: p.key_padding.then_some(&self.key_valid),
            targets: p.targets.map(|_| self.targets.as_slice()),
            ..Inputs::new([q, k, v], r, [bias_u, bias_v])
        }
    }

    /// The oracle, in f64.
    pub fn reference(&self) -> Output<f64> {
        let wide = |x: &Vec<f32>| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
        let tensors = self.tensors.each_ref().map(wide);
        self.problem.reference(&self.inputs_of(&tensors)).expect("valid")
    }

    /// How far `out` may be off, by the fixtures' measure. In a 16-bit dtype the result is rounded
    /// once, and so are the probabilities before the product with v: each by half a unit in its
    /// last place, so that the latter moves a row by that much of the sum of p·|v|.
    pub fn bound(&self, expected: &Output<f64>) -> f64 {
        let unit = match self.problem.dtype {
            DType::F32 => return super::tolerance(DType::F32),
            DType::F16 => 1.0 / 2048.0,
            DType::BF16 => 1.0 / 256.0,
        };
        let mut absolute = self.clone();
        for name in ["v", "v_memory"] {
            absolute.tensor_mut(name).iter_mut().for_each(|x| *x = x.abs());
        }
        let sums = absolute.reference().out;
        let largest = |of: &[f64], least: f64| of.iter().fold(least, |m, x| m.max(x.abs()));
        super::tolerance(DType::F32)
            + unit * (1.0 + largest(&sums, 0.0) / largest(&expected.out, 0.1))
    }

    /// The same problem with the first `len` keys, of contiguous tensors, in a ring of `rows` that
    /// begins at row `start`.
    pub fn with_memory(&self, memory: Memory) -> Case {
        let mut apart = self.clone();
        apart.problem = self.problem.memory(memory);
        let s = &self.problem.shape;
        let row = s.heads_kv * s.head_dim;
        for (from, to) in [("k", "k_memory"), ("v", "v_memory")] {
            let mut ring = vec![f32::NAN; s.batch * memory.rows * row];
            let mut now = vec![];
            for (n, x) in self.tensor(from).chunks_exact(row).enumerate() {
                let (b, j) = (n / s.seqlen_k, n % s.seqlen_k);
                if j < memory.len {
                    let at = b * memory.rows + (memory.start + j) % memory.rows;
                    ring[at * row..][..row].copy_from_slice(x);
                } else {
                    now.extend_from_slice(x);
                }
            }
            *apart.tensor_mut(from) = now;
            *apart.tensor_mut(to) = ring;
        }
        apart
    }
}

fn place(name: &str) -> usize {
    TENSORS.iter().position(|n| *n == name).expect("one of the tensors")
}

/// Rows with gaps between them, and between heads and sequences.
pub fn odd([rows, heads, head_dim]: [usize; 3], gap: usize) -> Strides {
    let head = head_dim + gap;
    let row = heads * head + 2 * gap;
    Strides { batch: rows * row + 5 * gap, seqlen: row, head }
}

/// Kinds of [`random_problem`].
pub const MIXTURES: usize = 9;

/// What a kernel is expanded for, as few mixtures as have each option and most pairs of them:
/// [memory, chunks, segments, perm_mask, key_padding, own_position].
const OPTIONS: [[bool; 6]; MIXTURES] = [
    [false, false, false, false, false, false],
    [true, false, false, false, false, false],
    [false, true, false, false, true, false],
    [false, false, true, true, false, true],
    [true, false, false, true, false, false],
    [true, false, true, false, false, false],
    [true, true, false, true, true, false],
    [false, false, false, false, true, true],
    [true, true, true, true, true, true],
];

/// A problem with the options of a mixture, of which there are few because each compiles kernels of
/// its own, and every other choice that a problem has on a device at random.
pub fn random_problem(random: &mut Random, mixture: usize, head_dim: usize) -> TransformerXl {
    fn one(random: &mut Random, of: &[usize]) -> usize {
        of[random.below(of.len())]
    }
    let [memory, chunks, segments, perm_mask, key_padding, own_position] = OPTIONS[mixture];
    let dtype = [DType::F32, DType::F16, DType::BF16][mixture % 3];
    let seqlen = one(random, &[1, 2, 7, 8, 9, 31, 33, 64, 65, 100, 127, 129, 150, 200]);
    let before = one(random, &[0, 0, 1, 5, 32, 33, 70, 150]);
    let heads_kv = 1 + random.below(2);
    let heads = heads_kv * (1 + random.below(2));
    let shape = [1 + random.below(2), seqlen, heads, head_dim];
    let mut p = match random.below(3) {
        0 => TransformerXl::with_memory(shape, before, dtype),
        1 => TransformerXl::xlnet(shape, before, dtype),
        _ => TransformerXl::conformer(shape, before, dtype),
    };
    (p.segments, p.perm_mask) = (segments, perm_mask);
    (p.key_padding, p.own_position) = (key_padding, own_position);
    // Fewer keys than queries: the first queries stand before every key.
    if !own_position && before == 0 && random.below(6) == 0 {
        p.shape.seqlen_k = one(random, &[0, 1, seqlen / 2, seqlen - seqlen / 3]);
    }
    p = p.heads_kv(heads_kv);
    let windows = [0, 1, 2, 5, 16, 33, 64, 90, 400];
    if random.below(3) == 0 {
        p.window.left = Some(one(random, &windows));
    }
    if random.below(3) == 0 {
        p.window.right = Some(p.window.right.unwrap_or(400).min(one(random, &windows)));
    }
    if chunks {
        let left = [None, Some(0), Some(1), Some(3)][random.below(4)];
        p.chunks = Some(Chunks { size: one(random, &[1, 3, 16, 40, 500]), left });
    }
    if random.below(3) == 0 {
        p = p.clamp_len(one(random, &[0, 1, 10, 50, 600]));
    }
    if random.below(3) == 0 {
        let (more, before) = (random.below(9), random.below(5));
        (p.rows, p.distance_offset) = (p.rows + more + before, p.distance_offset + before);
    }
    if memory {
        let len = one(random, &[0, before, p.shape.seqlen_k / 2, p.shape.seqlen_k]);
        let rows = len + random.below(4);
        p = p.memory(Memory { len, rows, start: random.below(rows.max(1)) });
    }
    let (s, rows) = (p.shape, p.memory.map_or(0, |m| m.rows));
    match random.below(3) {
        0 => {
            p.layout.q = Strides::bhsd(s.seqlen_q, s.heads_q, head_dim);
            p.layout.k = Strides::bhsd(p.rows_k(), s.heads_kv, head_dim);
            p.layout.r = Strides { batch: 0, ..Strides::bhsd(p.rows, s.heads_q, head_dim) };
            p.layout.out = p.layout.q;
        }
        1 => {
            p.layout.k = odd([p.rows_k(), s.heads_kv, head_dim], 8);
            p.layout.v_memory = odd([rows, s.heads_kv, head_dim], 12);
            p.layout.r = odd([p.rows, s.heads_q, head_dim], 4);
            p.layout.out = odd([s.seqlen_q, s.heads_q, head_dim], 24);
        }
        _ => {}
    }
    p
}

/// A random problem whose queries stand at some positions of their segment, and its tensors: in any
/// order, or, every third time, in ascending order.
pub fn random_targets(seed: u64, mixture: usize, head_dim: usize) -> Case {
    let mut random = Random(seed);
    let problem = loop {
        // Its strides are those of as many queries as positions.
        let p = random_problem(&mut random, mixture, head_dim);
        let out = Strides::bshd(p.shape.seqlen_q, p.shape.heads_q, head_dim);
        if p.layout.q == out && p.layout.out == out {
            break p.targets([1, 5, 16, 33, 70, 150][random.below(6)]);
        }
    };
    let mut case = Case::new(problem, &mut random);
    if seed.is_multiple_of(3) {
        case.targets.chunks_mut(problem.shape.seqlen_q).for_each(<[i32]>::sort_unstable);
    }
    case
}

/// What the files of op `xlnet` say, asked for by queries in another order, by `run`.
pub fn check_reordered_fixtures(
    what: &str,
    dtype: DType,
    run: impl Fn(&TransformerXl, &Inputs<'_, f32>) -> Output<f32>,
) {
    for file in fixtures_of("xlnet", 10) {
        let expected = Forward::of(&file, dtype);
        let file = file.into_relative().expect("relative positions");
        let s = file.problem.shape;
        // Even positions backwards, then odd ones.
        let even = (0..s.seqlen_q).rev().filter(|i| i % 2 == 0);
        let order: Vec<usize> = even.chain((0..s.seqlen_q).filter(|i| i % 2 == 1)).collect();
        let targets: Vec<i32> =
            (0..s.batch).flat_map(|_| order.iter().map(|&i| i as i32)).collect();
        let row = s.heads_q * s.head_dim;
        let at = |b: usize, i: usize| (b * s.seqlen_q + i) * row;
        let mut got = Results::new();
        for &stream in file.streams() {
            let inputs = file.inputs.as_inputs(stream);
            let rows = (0..s.batch).flat_map(|b| order.iter().map(move |&i| (b, i)));
            let q: Vec<f32> =
                rows.flat_map(|(b, i)| inputs.q[at(b, i)..][..row].to_vec()).collect();
            let p = file.problem(stream, dtype).targets(s.seqlen_q);
            let moved = run(&p, &Inputs { q: &q, targets: Some(&targets), ..inputs });
            let mut back = moved.clone();
            for (t, &i) in order.iter().enumerate() {
                for b in 0..s.batch {
                    back.out[at(b, i)..][..row].copy_from_slice(&moved.out[at(b, t)..][..row]);
                }
                for heads in 0..s.batch * s.heads_q {
                    back.lse[heads * s.seqlen_q + i] = moved.lse[heads * s.seqlen_q + t];
                }
            }
            file.put(&mut got, stream, &back);
        }
        expected.check(&got, &format!("{what}, {}, {dtype}", file.name));
    }
}

/// Errors of `got` by the fixtures' measure: (out, lse).
pub fn errors(got: &Output<f32>, expected: &Output<f64>) -> (f64, f64) {
    super::errors_of((&got.out, &got.lse), (&expected.out, &expected.lse))
}

/// The results of a launch into sentinels: every element is written, and what lies between rows is
/// not.
pub fn checked(p: &TransformerXl, out: &[u8], lse: &[u8]) -> Output<f32> {
    let s = &p.shape;
    let shape = [s.batch, s.seqlen_q, s.heads_q, s.head_dim];
    Output { out: written_rows(out, &p.layout.out, shape, p.dtype), lse: written("lse", lse) }
}

/// The fixtures of the three ops.
pub fn fixtures() -> Vec<RelativeFile> {
    let ops = [("transformer_xl", 11), ("xlnet", 10), ("rel_pos", 11)];
    let files = ops.into_iter().flat_map(|(op, count)| fixtures_of(op, count));
    files.map(|file| file.into_relative().expect("relative positions")).collect()
}
