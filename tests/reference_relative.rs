//! The reference of relative-position attention: its gradients against finite differences, and by
//! the properties that this attention has.

use longhand::transformer_xl::{Chunks, Inputs, Layout, Memory, Output, bits_from_mask};
use longhand::{DType, Full, Shape, Strides, TransformerXl, Window, full};
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

/// A problem and its tensors: those of [`TENSORS`] by number.
#[derive(Clone)]
struct Case {
    problem: TransformerXl,
    tensors: [Vec<f64>; 10],
    seg_q: Vec<i32>,
    seg_k: Vec<i32>,
    perm_mask: Vec<u32>,
    key_valid: Vec<u8>,
    targets: Vec<i32>,
    grad_out: Vec<f64>,
}

const TENSORS: [&str; 10] =
    ["q", "k", "v", "r", "bias_u", "bias_v", "k_memory", "v_memory", "bias_s", "seg_embed"];

impl Case {
    fn new(problem: TransformerXl, seed: u64) -> Case {
        problem.validate().expect("valid");
        let mut random = Random(seed);
        let s = problem.shape;
        let of_heads = s.heads_q * s.head_dim;
        let tensors = TENSORS.map(|name| {
            random.vec(match name {
                "bias_u" | "bias_v" | "bias_s" => of_heads,
                "seg_embed" => 2 * of_heads,
                name => problem.span(name),
            })
        });
        let segment = problem.segment_len();
        let mut ids = |n: usize| (0..n).map(|_| random.below(2) as i32).collect();
        let (seg_q, seg_k) = (ids(s.batch * segment), ids(s.batch * s.seqlen_k));
        let mut bytes = |n: usize, most: usize| -> Vec<u8> {
            (0..n).map(|_| u8::from(random.below(4) < most)).collect()
        };
        let perm = bytes(s.batch * segment * s.seqlen_k, 1);
        let key_valid = bytes(s.batch * s.seqlen_k, 3);
        let perm_mask = match s.seqlen_k {
            0 => vec![],
            n => bits_from_mask(&perm, n).expect("rows"),
        };
        let targets = match segment {
            0 => vec![],
            n => (0..s.batch * s.seqlen_q).map(|_| random.below(n) as i32).collect(),
        };
        let grad_out = random.vec(problem.span("out"));
        Case { problem, tensors, seg_q, seg_k, perm_mask, key_valid, targets, grad_out }
    }

    fn inputs(&self) -> Inputs<'_, f64> {
        let p = &self.problem;
        let [q, k, v, r, u, w, k_memory, v_memory, bias_s, seg_embed] =
            self.tensors.each_ref().map(Vec::as_slice);
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
            ..Inputs::new([q, k, v], r, [u, w])
        }
    }

    fn forward(&self) -> Output<f64> {
        self.problem.reference(&self.inputs()).expect("valid")
    }
}

fn assert_gradients(case: &Case) {
    let g = case.problem.reference_backward(&case.inputs(), &case.grad_out).expect("valid");
    let none = vec![];
    let optional = |x: &'_ Option<Vec<f64>>| x.clone().unwrap_or(none.clone());
    let gradients = [
        g.q,
        g.k,
        g.v,
        g.r,
        g.bias_u,
        g.bias_v,
        optional(&g.k_memory),
        optional(&g.v_memory),
        optional(&g.bias_s),
        optional(&g.seg_embed),
    ];
    let loss = |case: &Case| -> f64 {
        case.forward().out.iter().zip(&case.grad_out).map(|(x, g)| x * g).sum()
    };
    let step = 1e-5;
    for (t, (name, gradient)) in TENSORS.iter().zip(&gradients).enumerate() {
        for (n, g) in gradient.iter().enumerate() {
            let moved = |by: f64| {
                let mut case = case.clone();
                case.tensors[t][n] += by;
                loss(&case)
            };
            let slope = (moved(step) - moved(-step)) / (2.0 * step);
            assert!((slope - g).abs() < 2e-8, "{name}[{n}]: {slope} {g}");
        }
    }
}

#[test]
fn gradients_are_finite_differences_of_the_forward_pass() {
    let shape = [2, 4, 2, 3];
    let memory = Memory { len: 3, rows: 4, start: 2 };
    let cases = [
        TransformerXl::with_memory(shape, 3, DType::F32).clamp_len(2),
        TransformerXl::with_memory(shape, 3, DType::F32).memory(memory),
        TransformerXl::xlnet(shape, 2, DType::F32).segments().perm_mask().key_padding(),
        TransformerXl::xlnet(shape, 2, DType::F32).segments().perm_mask().query_stream(),
        TransformerXl::xlnet([1, 5, 1, 3], 1, DType::F32).targets(2).clamp_len(3),
        TransformerXl::conformer(shape, 2, DType::F32)
            .heads_kv(1)
            .chunks(Chunks { size: 2, left: Some(1) })
            .window(Window { left: Some(3), right: Some(1) }),
    ];
    for (seed, problem) in (1..).zip(cases) {
        assert_gradients(&Case::new(problem, seed));
    }
}

fn close(a: &[f64], b: &[f64]) -> bool {
    let same = |(a, b): (&f64, &f64)| a == b || (a - b).abs() <= 1e-9 * (1.0 + b.abs());
    a.len() == b.len() && a.iter().zip(b).all(same)
}

/// A problem in which everything may differ.
fn problems() -> impl Strategy<Value = (TransformerXl, u64)> {
    let sizes = (1usize..3, 1usize..9, 1usize..3, 1usize..5, 0usize..9, 0usize..3);
    let masks = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let window = (prop::option::of(0usize..12), prop::option::of(0usize..12), 0usize..5);
    (sizes, masks, window, any::<u64>()).prop_map(|(sizes, masks, window, seed)| {
        let (batch, seqlen, heads, head_dim, memory, dialect) = sizes;
        let shape = [batch, seqlen, heads, head_dim];
        let mut p = match dialect {
            0 => TransformerXl::with_memory(shape, memory, DType::F32),
            1 => TransformerXl::xlnet(shape, memory, DType::F32),
            _ => TransformerXl::conformer(shape, memory, DType::F32),
        };
        let (left, right, chunk) = window;
        p.window.left = left;
        p.window.right = p.window.right.or(right);
        p.chunks = (chunk > 0).then_some(Chunks { size: chunk, left });
        (p.segments, p.perm_mask, p.key_padding) = (masks.0, masks.1, masks.2);
        p.own_position &= masks.3;
        (if masks.4 { p.heads_kv(1) } else { p }, seed)
    })
}

/// Full attention's reference on the case's q, k and v.
fn full(p: &TransformerXl, case: &Case) -> full::Output<f64> {
    let mut full = Full::new(p.shape, DType::F32).window(p.window).softmax_scale(p.softmax_scale);
    full.key_padding = p.key_padding;
    let inputs = full::Inputs {
        key_valid: p.key_padding.then_some(&case.key_valid),
        ..full::Inputs::new(&case.tensors[0], &case.tensors[1], &case.tensors[2])
    };
    full.reference(&inputs).expect("valid")
}

proptest! {
    #[test]
    fn without_positions_it_is_full_attention((problem, seed) in problems()) {
        let p = TransformerXl {
            chunks: None, segments: false, perm_mask: false, own_position: false, ..problem
        };
        let mut case = Case::new(p, seed);
        case.tensors[3..6].iter_mut().for_each(|x| x.fill(0.0));
        let (got, expected) = (case.forward(), full(&p, &case));
        prop_assert!(close(&got.out, &expected.out) && close(&got.lse, &expected.lse));
    }

    #[test]
    fn window_and_chunks_together_are_a_mask_of_pairs((p, seed) in problems()) {
        let case = Case::new(p, seed);
        let (s, chunks) = (p.shape, p.chunks);
        let mut hidden = vec![];
        for (b, i, j) in (0..s.batch * s.seqlen_q * s.seqlen_k)
            .map(|n| (n / s.seqlen_k / s.seqlen_q, n / s.seqlen_k % s.seqlen_q, n % s.seqlen_k))
        {
            let position = (i + s.seqlen_k - s.seqlen_q) as i64;
            let distance = position - j as i64;
            let beyond = |side: Option<usize>, n: i64| side.is_some_and(|side| n > side as i64);
            let other_chunk = chunks.is_some_and(|chunks| {
                let between = position / chunks.size as i64 - (j / chunks.size) as i64;
                between < 0 || beyond(chunks.left, between)
            });
            let word = case.perm_mask[(b * s.seqlen_q + i) * p.perm_words() + j / 32];
            let given = p.perm_mask && word >> (j % 32) & 1 == 1;
            let outside = beyond(p.window.left, distance) || beyond(p.window.right, -distance);
            hidden.push(u8::from(given || outside || other_chunk));
        }
        // A table without rows for the future needs its bound all the same.
        let right = (p.distance_offset + 1 < s.seqlen_q).then_some(0);
        let mut masked = case.clone();
        masked.perm_mask = bits_from_mask(&hidden, s.seqlen_k).expect("rows");
        masked.problem =
            TransformerXl { window: Window { left: None, right }, chunks: None, perm_mask: true, ..p };
        prop_assert!(masked.forward() == case.forward());
    }

    #[test]
    fn a_memory_of_its_own_or_in_a_ring_is_the_same_keys((problem, seed) in problems(), extra in 0usize..4, turn in 0usize..20) {
        let whole = Case::new(problem, seed);
        let s = problem.shape;
        let len = s.seqlen_k - s.seqlen_q;
        let rows = len + extra;
        let memory = Memory { len, rows, start: if rows == 0 { 0 } else { turn % rows } };
        let mut apart = whole.clone();
        apart.problem = problem.memory(memory);
        let row = s.heads_kv * s.head_dim;
        for (from, to) in [(1, 6), (2, 7)] {
            let all = whole.tensors[from].chunks_exact(row);
            let mut ring = vec![f64::NAN; s.batch * rows * row];
            let mut now = vec![];
            for (n, x) in all.enumerate() {
                let (b, j) = (n / s.seqlen_k, n % s.seqlen_k);
                if j < len {
                    let at = (b * rows + (memory.start + j) % rows) * row;
                    ring[at..at + row].copy_from_slice(x);
                } else {
                    now.extend_from_slice(x);
                }
            }
            (apart.tensors[from], apart.tensors[to]) = (now, ring);
        }
        prop_assert!(apart.forward() == whole.forward());
    }

    #[test]
    fn a_segment_after_its_memory_is_the_end_of_the_long_sequence((problem, seed) in problems()) {
        let s = problem.shape;
        let before = s.seqlen_k - s.seqlen_q;
        let p = TransformerXl { segments: false, perm_mask: false, ..problem };
        let case = Case::new(p, seed);
        // All positions as queries, each distance of the long sequence in the table.
        let long_shape = Shape { seqlen_q: s.seqlen_k, ..s };
        let rows = 2 * s.seqlen_k;
        let mut long = Case::new(
            TransformerXl {
                shape: long_shape,
                rows,
                distance_offset: s.seqlen_k,
                layout: Layout {
                    q: Strides::bshd(s.seqlen_k, s.heads_q, s.head_dim),
                    out: Strides::bshd(s.seqlen_k, s.heads_q, s.head_dim),
                    ..p.layout
                },
                ..p
            },
            seed + 1,
        );
        let row = s.heads_q * s.head_dim;
        for (n, q) in case.tensors[0].chunks_exact(row).enumerate() {
            let (b, i) = (n / s.seqlen_q, n % s.seqlen_q);
            long.tensors[0][(b * s.seqlen_k + before + i) * row..][..row].copy_from_slice(q);
        }
        for (n, r) in case.tensors[3].chunks_exact(row).enumerate() {
            let at = n + s.seqlen_k - p.distance_offset;
            if at < rows {
                long.tensors[3][at * row..][..row].copy_from_slice(r);
            }
        }
        for t in [1, 2, 4, 5] {
            long.tensors[t] = case.tensors[t].clone();
        }
        long.key_valid = case.key_valid.clone();
        let (got, all) = (case.forward().out, long.forward().out);
        for b in 0..s.batch {
            let end = &all[(b * s.seqlen_k + before) * row..][..s.seqlen_q * row];
            prop_assert!(got[b * s.seqlen_q * row..][..s.seqlen_q * row] == *end);
        }
    }

    #[test]
    fn targets_are_the_rows_of_their_positions((problem, seed) in problems(), count in 1usize..6) {
        let all = Case::new(problem, seed);
        let s = problem.shape;
        let targets = problem.targets(count);
        let mut few = Case { problem: targets, ..Case::new(targets, seed) };
        let row = s.heads_q * s.head_dim;
        let at = |b: usize, t: usize| few.targets[b * count + t] as usize;
        let picked = |x: &[f64]| -> Vec<f64> {
            let rows = (0..s.batch).flat_map(|b| (0..count).map(move |t| (b, t)));
            rows.flat_map(|(b, t)| x[(b * s.seqlen_q + at(b, t)) * row..][..row].to_vec()).collect()
        };
        let (q, expected) = (picked(&all.tensors[0]), picked(&all.forward().out));
        few.tensors = all.tensors.clone();
        few.tensors[0] = q;
        (few.seg_q, few.seg_k) = (all.seg_q.clone(), all.seg_k.clone());
        (few.perm_mask, few.key_valid) = (all.perm_mask.clone(), all.key_valid.clone());
        prop_assert!(few.forward().out == expected);
    }

    #[test]
    fn rows_before_and_after_those_of_the_table_change_nothing((problem, seed) in problems(), before in 0usize..4, after in 0usize..4) {
        let case = Case::new(problem, seed);
        let row = problem.shape.heads_q * problem.shape.head_dim;
        let mut moved = case.clone();
        moved.problem.rows += before + after;
        moved.problem.distance_offset += before;
        let other = |n: usize| vec![f64::NAN; n * row];
        moved.tensors[3] = [other(before), case.tensors[3].clone(), other(after)].concat();
        prop_assert!(moved.forward() == case.forward());
    }
}
