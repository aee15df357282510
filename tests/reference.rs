//! The reference itself: against finite differences, against itself in other layouts, and by the
//! properties that attention has.

use longhand::full::{Bias, Buckets, Inputs, Layout, Output, Ragged};
use longhand::{DType, Full, Shape, Strides, Window};
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
    problem: Full,
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
    slopes: Option<Vec<f64>>,
    bias: Option<Vec<f64>>,
    bias_table: Option<Vec<f64>>,
    key_valid: Option<Vec<u8>>,
    cu: Option<(Vec<i32>, Vec<i32>)>,
    grad_out: Vec<f64>,
}

impl Case {
    fn new(problem: Full, seed: u64) -> Self {
        let mut random = Random(seed);
        let [q, k, v, out] = problem.spans();
        let bias_len = |b: &Bias| problem.bias_dims(b).iter().product();
        let keys = problem.shape.batch * problem.shape.seqlen_k;
        Case {
            problem,
            q: random.vec(q),
            k: random.vec(k),
            v: random.vec(v),
            slopes: problem.alibi.then(|| random.vec(problem.shape.heads_q)),
            bias: problem.bias.as_ref().map(|b| random.vec(bias_len(b))),
            bias_table: problem.buckets.map(|b| random.vec(b.num_buckets * problem.shape.heads_q)),
            key_valid: problem
                .key_padding
                .then(|| (0..keys).map(|_| u8::from(random.next() > -0.5)).collect()),
            cu: None,
            grad_out: random.vec(out),
        }
    }

    fn inputs(&self) -> Inputs<'_, f64> {
        Inputs {
            q: &self.q,
            k: &self.k,
            v: &self.v,
            alibi_slopes: self.slopes.as_deref(),
            bias: self.bias.as_deref(),
            bias_table: self.bias_table.as_deref(),
            key_valid: self.key_valid.as_deref(),
            cu_seqlens_q: self.cu.as_ref().map(|(q, _)| q.as_slice()),
            cu_seqlens_k: self.cu.as_ref().map(|(_, k)| k.as_slice()),
        }
    }

    fn forward(&self) -> Output<f64> {
        self.problem.reference(&self.inputs()).unwrap()
    }

    /// `sum(out · grad_out)`, whose gradients the backward pass gives.
    fn loss(&self) -> f64 {
        self.forward().out.iter().zip(&self.grad_out).map(|(o, g)| o * g).sum()
    }
}

fn shape(seqlen_q: usize, seqlen_k: usize) -> Shape {
    Shape { batch: 2, heads_q: 4, heads_kv: 2, seqlen_q, seqlen_k, head_dim: 8 }
}

/// Where a tensor of a case is.
type Field = fn(&mut Case) -> Option<&mut Vec<f64>>;

fn assert_gradients(case: &Case) {
    let g = case.problem.reference_backward(&case.inputs(), &case.grad_out).unwrap();
    let fields: [(&str, Option<Vec<f64>>, Field); 6] = [
        ("q", Some(g.q), |c| Some(&mut c.q)),
        ("k", Some(g.k), |c| Some(&mut c.k)),
        ("v", Some(g.v), |c| Some(&mut c.v)),
        ("bias", g.bias, |c| c.bias.as_mut()),
        ("bias_table", g.bias_table, |c| c.bias_table.as_mut()),
        ("alibi_slopes", g.alibi_slopes, |c| c.slopes.as_mut()),
    ];
    let mut random = Random(99);
    for (name, gradient, field) in fields {
        assert_eq!(gradient.is_some(), field(&mut case.clone()).is_some(), "{name}");
        let Some(gradient) = gradient else { continue };
        let largest = gradient.iter().fold(0f64, |m, x| m.max(x.abs()));
        assert!(largest > 1e-3, "{name}: nothing to see");
        for _ in 0..24 {
            let at = random.below(gradient.len());
            let h = 1e-5;
            let shifted = |by: f64| {
                let mut case = case.clone();
                field(&mut case).unwrap()[at] += by;
                case.loss()
            };
            let slope = (shifted(h) - shifted(-h)) / (2.0 * h);
            let error = (slope - gradient[at]).abs();
            assert!(error <= 1e-8 * largest.max(1.0), "{name}[{at}]: {} {slope}", gradient[at]);
        }
    }
}

#[test]
fn gradients_are_finite_differences_of_the_forward_pass() {
    assert_gradients(&Case::new(Full::new(shape(7, 11), DType::F32), 1));
    assert_gradients(&Case::new(Full::new(shape(7, 11), DType::F32).causal(), 2));
    let narrow = Full::new(shape(9, 9), DType::F32).window(Window::new(2, 1));
    assert_gradients(&Case::new(narrow.softmax_scale(-0.7), 3));
}

#[test]
fn gradients_pass_through_the_softcap() {
    // A low cap and a high scale, so that tanh is far from the identity.
    let problem = Full::new(shape(6, 9), DType::F32).softcap(0.8).softmax_scale(1.5);
    assert_gradients(&Case::new(problem, 4));
    assert_gradients(&Case::new(problem.causal().alibi(), 5));
}

#[test]
fn gradients_reach_alibi_slopes_and_every_broadcast_of_a_bias() {
    for (per_batch, per_head) in [(false, false), (false, true), (true, false), (true, true)] {
        let bias = Bias { per_batch, per_head };
        let problem = Full::new(shape(5, 8), DType::F32).bias(bias).alibi();
        assert_gradients(&Case::new(problem, 6));
        assert_gradients(&Case::new(problem.causal().softcap(2.0).key_padding(), 7));
    }
}

#[test]
fn gradients_reach_the_table_of_buckets() {
    for bidirectional in [false, true] {
        let buckets = Buckets { num_buckets: 8, max_distance: 6, bidirectional };
        let problem = Full::new(shape(9, 12), DType::F32).buckets(buckets);
        assert_gradients(&Case::new(problem, 11));
        assert_gradients(&Case::new(problem.causal(), 12));
    }
    let buckets = Buckets { num_buckets: 4, max_distance: 3, bidirectional: true };
    let problem = Full::new(Shape { batch: 3, ..shape(5, 7) }, DType::F32).buckets(buckets);
    assert_gradients(&ragged(problem, &[0, 3, 4, 9], &[0, 7, 9, 14], 13));
}

fn ragged(problem: Full, q: &[i32], k: &[i32], seed: u64) -> Case {
    let (total_q, total_k) = (q[q.len() - 1] as usize, k[k.len() - 1] as usize);
    let mut case = Case::new(problem.ragged(Ragged { total_q, total_k }), seed);
    case.cu = Some((q.to_vec(), k.to_vec()));
    case
}

#[test]
fn gradients_of_a_ragged_batch_are_finite_differences_too() {
    let shape = Shape { batch: 4, ..shape(5, 7) };
    let problem = Full::new(shape, DType::F32).causal().alibi();
    assert_gradients(&ragged(problem, &[0, 3, 3, 8, 9], &[0, 7, 9, 13, 13], 8));
}

#[test]
fn a_ragged_batch_is_its_sequences_one_by_one() {
    let shape = Shape { batch: 3, ..shape(5, 7) };
    let (cu_q, cu_k) = ([0, 3, 3, 8], [0, 7, 9, 13]);
    let case = ragged(Full::new(shape, DType::F32).causal().alibi(), &cu_q, &cu_k, 9);
    let whole = case.forward();
    for b in 0..3 {
        let [q0, q1, k0, k1] = [cu_q[b], cu_q[b + 1], cu_k[b], cu_k[b + 1]].map(|x| x as usize);
        let (rows_q, rows_k) = (4 * 8, 2 * 8);
        let one = Shape { batch: 1, seqlen_q: q1 - q0, seqlen_k: k1 - k0, ..shape };
        let part = Case {
            problem: Full::new(one, DType::F32).causal().alibi(),
            q: case.q[q0 * rows_q..q1 * rows_q].to_vec(),
            k: case.k[k0 * rows_k..k1 * rows_k].to_vec(),
            v: case.v[k0 * rows_k..k1 * rows_k].to_vec(),
            cu: None,
            ..case.clone()
        }
        .forward();
        assert_eq!(part.out, whole.out[q0 * rows_q..q1 * rows_q]);
        for head in 0..4 {
            let rows = &part.lse[head * (q1 - q0)..(head + 1) * (q1 - q0)];
            assert_eq!(rows, &whole.lse[head * 8 + q0..head * 8 + q1]);
        }
    }
}

/// Element `[b, i, h, x]` of a tensor.
fn at(s: Strides, [b, i, h, x]: [usize; 4]) -> usize {
    b * s.batch + i * s.seqlen + h * s.head + x
}

/// The tensor of `dims` in another layout; places that the other does not use hold NaN.
fn laid_out(x: &[f64], dims: [usize; 4], from: Strides, to: Strides) -> Vec<f64> {
    let [batch, seqlen, heads, d] = dims;
    let mut y = vec![f64::NAN; to.span(batch, seqlen, heads, d).unwrap()];
    for n in 0..batch * seqlen * heads * d {
        let (bih, x_at) = (n / d, n % d);
        let place = [bih / heads / seqlen, bih / heads % seqlen, bih % heads, x_at];
        y[at(to, place)] = x[at(from, place)];
    }
    y
}

/// Rows with gaps between heads and sequences.
fn gapped(seqlen: usize, heads: usize, d: usize) -> Strides {
    let (head, row) = (d + 3, heads * (d + 3) + 5);
    Strides { batch: seqlen * row + 7, seqlen: row, head }
}

#[test]
fn other_layouts_give_the_same_numbers_bit_for_bit() {
    let s = shape(6, 9);
    let problem = Full::new(s, DType::F32).causal();
    let case = Case::new(problem, 10);
    let plain = Layout::bshd(&s);
    let q = gapped(s.seqlen_q, s.heads_q, s.head_dim);
    let k = gapped(s.seqlen_k, s.heads_kv, s.head_dim);
    let mixed = Layout { k, v: Layout::bhsd(&s).v, ..plain };
    let (dims_q, dims_k) = ([2, 6, 4, 8], [2, 9, 2, 8]);
    let (output, gradients) =
        (case.forward(), problem.reference_backward(&case.inputs(), &case.grad_out).unwrap());
    for layout in [Layout::bhsd(&s), Layout { q, k, v: k, out: q }, mixed] {
        let moved = Case {
            problem: problem.layout(layout),
            q: laid_out(&case.q, dims_q, plain.q, layout.q),
            k: laid_out(&case.k, dims_k, plain.k, layout.k),
            v: laid_out(&case.v, dims_k, plain.v, layout.v),
            grad_out: laid_out(&case.grad_out, dims_q, plain.out, layout.out),
            ..case.clone()
        };
        let got = moved.forward();
        assert_eq!(laid_out(&got.out, dims_q, layout.out, plain.out), output.out);
        assert_eq!(got.lse, output.lse);
        let g = moved.problem.reference_backward(&moved.inputs(), &moved.grad_out).unwrap();
        assert_eq!(laid_out(&g.q, dims_q, layout.q, plain.q), gradients.q);
        assert_eq!(laid_out(&g.k, dims_k, layout.k, plain.k), gradients.k);
        assert_eq!(laid_out(&g.v, dims_k, layout.v, plain.v), gradients.v);
    }
}

#[test]
fn a_step_of_zero_repeats_an_input_and_sums_its_gradient() {
    let s = shape(4, 6);
    let plain = Layout::bshd(&s);
    // One key sequence and one head of values for everybody.
    let k = Strides { batch: 0, ..plain.k };
    let v = Strides { batch: 0, seqlen: 8, head: 0 };
    let few = Case::new(Full::new(s, DType::F32).layout(Layout { k, v, ..plain }), 11);
    assert_eq!((few.k.len(), few.v.len()), (6 * 2 * 8, 6 * 8));
    let dims = [2, 6, 2, 8];
    let many = Case {
        problem: Full::new(s, DType::F32),
        k: laid_out(&few.k, dims, k, plain.k),
        v: laid_out(&few.v, dims, v, plain.v),
        ..few.clone()
    };
    assert_eq!(few.forward(), many.forward());
    assert_gradients(&few);
}

#[test]
fn empty_sequences_give_empty_or_zero_results() {
    let no_keys = Case::new(Full::new(shape(3, 0), DType::F32), 12);
    let output = no_keys.forward();
    assert!(output.out.len() == 192 && output.out.iter().all(|&x| x == 0.0));
    assert!(output.lse.len() == 24 && output.lse.iter().all(|&x| x == f64::NEG_INFINITY));
    let g = no_keys.problem.reference_backward(&no_keys.inputs(), &no_keys.grad_out).unwrap();
    assert!(g.q.iter().all(|&x| x == 0.0) && g.k.is_empty());

    let no_queries = Case::new(Full::new(shape(0, 3), DType::F32), 13);
    let output = no_queries.forward();
    assert!(output.out.is_empty() && output.lse.is_empty());
    let g = no_queries.problem.reference_backward(&no_queries.inputs(), &[]).unwrap();
    assert!(g.q.is_empty() && g.k.iter().all(|&x| x == 0.0) && g.k.len() == 2 * 3 * 2 * 8);

    let no_batch = Shape { batch: 0, ..shape(3, 3) };
    assert!(Case::new(Full::new(no_batch, DType::F32), 14).forward().out.is_empty());
}

#[test]
fn nothing_is_computed_for_billions_of_sequences_or_heads_without_queries() {
    let (most, none) = (i32::MAX as usize, shape(0, 0));
    let many = Shape { batch: most, ..none };
    assert!(Case::new(Full::new(many, DType::F32), 15).forward().out.is_empty());
    let heads = Shape { heads_q: most, heads_kv: most, ..none };
    let case = Case::new(Full::new(heads, DType::F32), 16);
    assert!(case.forward().lse.is_empty());
    assert!(case.problem.reference_backward(&case.inputs(), &[]).unwrap().k.is_empty());
}

#[test]
fn a_single_key_is_copied_whatever_its_score() {
    let case = Case::new(Full::new(shape(1, 1), DType::F32), 17);
    let output = case.forward();
    let scale = case.problem.softmax_scale;
    for b in 0..2 {
        for h in 0..4 {
            let q = &case.q[(b * 4 + h) * 8..][..8];
            let at_kv = (b * 2 + h / 2) * 8;
            assert_eq!(output.out[(b * 4 + h) * 8..][..8], case.v[at_kv..at_kv + 8]);
            let score: f64 = q.iter().zip(&case.k[at_kv..]).map(|(x, y)| x * y).sum();
            assert!((output.lse[b * 4 + h] - scale * score).abs() < 1e-14);
        }
    }
}

#[test]
fn a_bias_of_minus_infinity_empties_a_row_and_only_that() {
    let problem = Full::new(shape(5, 7), DType::F32)
        .bias(Bias { per_batch: false, per_head: true })
        .softcap(3.0);
    let case = Case::new(problem, 18);
    let mut emptied = case.clone();
    let (head, row) = (1, 2);
    emptied.bias.as_mut().unwrap()[(head * 5 + row) * 7..][..7].fill(f64::NEG_INFINITY);
    let (full, got) = (case.forward(), emptied.forward());
    let g = problem.reference_backward(&emptied.inputs(), &emptied.grad_out).unwrap();
    for n in 0..2 * 5 * 4 {
        let (b, i, h) = (n / 20, n / 4 % 5, n % 4);
        let out = &got.out[n * 8..][..8];
        let lse = got.lse[(b * 4 + h) * 5 + i];
        if (i, h) == (row, head) {
            assert!(lse == f64::NEG_INFINITY && out.iter().all(|&x| x == 0.0));
            assert!(g.q[n * 8..][..8].iter().all(|&x| x == 0.0));
        } else {
            assert!(lse == full.lse[(b * 4 + h) * 5 + i] && out == &full.out[n * 8..][..8]);
        }
    }
    let all = [&g.q, &g.k, &g.v, g.bias.as_ref().unwrap()];
    assert!(all.iter().all(|x| x.iter().all(|x| x.is_finite())));
    assert!(g.bias.unwrap()[(head * 5 + row) * 7..][..7].iter().all(|&x| x == 0.0));
}

#[test]
fn scores_of_any_size_overflow_nothing() {
    let case = Case::new(Full::new(shape(4, 4), DType::F32).softmax_scale(1e30), 19);
    let [q, k, v] = [&case.q, &case.k, &case.v].map(|x| x.iter().map(|&x| x as f32).collect());
    let (q, k, v): (Vec<f32>, Vec<f32>, Vec<f32>) = (q, k, v);
    let output = case.problem.reference(&Inputs::new(&q, &k, &v)).unwrap();
    assert!(output.out.iter().chain(&output.lse).all(|x| x.is_finite()));
}

#[test]
fn a_sequence_of_4096_is_averaged_exactly() {
    let n = 4096;
    let shape = Shape { batch: 1, heads_q: 1, heads_kv: 1, seqlen_q: n, seqlen_k: n, head_dim: 2 };
    let problem = Full::new(shape, DType::F32).causal();
    let case = Case { k: vec![0.0; 2 * n], ..Case::new(problem, 20) };
    let output = case.forward();
    let mut sum = [0.0; 2];
    for i in 0..n {
        let count = (i + 1) as f64;
        assert!((output.lse[i] - count.ln()).abs() < 1e-12);
        for (x, sum) in sum.iter_mut().enumerate() {
            *sum += case.v[2 * i + x];
            assert!((output.out[2 * i + x] - *sum / count).abs() < 1e-12);
        }
    }
}

fn windows() -> impl Strategy<Value = Window> {
    let side = || prop_oneof![Just(None), (0usize..6).prop_map(Some)];
    (side(), side()).prop_map(|(left, right)| Window { left, right })
}

fn close(a: &[f64], b: &[f64]) -> bool {
    let near = |(&a, &b): (&f64, &f64)| a == b || (a - b).abs() <= 1e-12 * b.abs().max(1.0);
    a.len() == b.len() && a.iter().zip(b).all(near)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn a_nan_reaches_only_the_rows_that_attend_it(
        (lq, lk) in (1usize..9, 1usize..9),
        window in windows(),
        causal: bool,
        seed: u64,
        which in 0usize..3,
        place: prop::sample::Index,
    ) {
        let mut problem = Full::new(shape(lq, lk), DType::F32).window(window);
        problem.causal = causal;
        let clean = Case::new(problem.key_padding(), seed);
        let mut poisoned = clean.clone();
        // A whole row of q, k or v of sequence 0, all heads.
        let (tensor, width, rows) = match which {
            0 => (&mut poisoned.q, 4 * 8, lq),
            1 => (&mut poisoned.k, 2 * 8, lk),
            _ => (&mut poisoned.v, 2 * 8, lk),
        };
        let at = place.index(rows);
        tensor[at * width..(at + 1) * width].fill(f64::NAN);
        let (want, got) = (clean.forward(), poisoned.forward());
        let valid = clean.key_valid.as_ref().unwrap();
        for n in 0..2 * lq * 4 {
            let (b, i, h) = (n / (4 * lq), n / 4 % lq, n % 4);
            let keys = problem.mask().keys(i, lq, lk).filter(|&j| valid[b * lk + j] != 0);
            let keys: Vec<usize> = keys.collect();
            let touched = b == 0 && match which {
                0 => i == at && !keys.is_empty(),
                _ => keys.contains(&at),
            };
            let (out, lse) = (&got.out[n * 8..][..8], got.lse[(b * 4 + h) * lq + i]);
            if touched {
                prop_assert!(out.iter().all(|x| x.is_nan()));
                prop_assert_eq!(lse.is_nan(), which != 2);
            } else {
                prop_assert_eq!(out, &want.out[n * 8..][..8]);
                prop_assert_eq!(lse, want.lse[(b * 4 + h) * lq + i]);
            }
        }
    }

    #[test]
    fn parts_of_the_keys_merged_by_their_lse_are_the_whole(
        (lq, lk) in (1usize..6, 2usize..12),
        cut: prop::sample::Index,
        seed: u64,
    ) {
        let whole = Case::new(Full::new(shape(lq, lk), DType::F32).key_padding(), seed);
        let cut = 1 + cut.index(lk - 1);
        let part = |from: usize, to: usize| {
            let rows = |x: &[f64]| -> Vec<f64> {
                x.chunks(lk * 16).flat_map(|s| s[from * 16..to * 16].to_vec()).collect()
            };
            let valid = whole.key_valid.as_ref().unwrap();
            Case {
                problem: Full::new(shape(lq, to - from), DType::F32).key_padding(),
                k: rows(&whole.k),
                v: rows(&whole.v),
                key_valid: Some(valid.chunks(lk).flat_map(|s| s[from..to].to_vec()).collect()),
                ..whole.clone()
            }
            .forward()
        };
        let (a, b, want) = (part(0, cut), part(cut, lk), whole.forward());
        for n in 0..2 * lq * 4 {
            let row = (n / (4 * lq) * 4 + n % 4) * lq + n / 4 % lq;
            let most = a.lse[row].max(b.lse[row]);
            if most == f64::NEG_INFINITY {
                prop_assert_eq!(want.lse[row], most);
                prop_assert!(want.out[n * 8..][..8].iter().all(|&x| x == 0.0));
                continue;
            }
            let [wa, wb] = [&a, &b].map(|part| (part.lse[row] - most).exp());
            let merged: Vec<f64> = (n * 8..n * 8 + 8)
                .map(|x| (wa * a.out[x] + wb * b.out[x]) / (wa + wb))
                .collect();
            prop_assert!(close(&merged, &want.out[n * 8..][..8]));
            prop_assert!(close(&[most + (wa + wb).ln()], &[want.lse[row]]));
        }
    }

    #[test]
    fn a_shift_of_all_scores_shifts_lse_alone(lq in 1usize..6, lk in 1usize..9, seed: u64, by in -50.0..50.0) {
        let problem = Full::new(shape(lq, lk), DType::F32)
            .causal()
            .bias(Bias { per_batch: true, per_head: false });
        let case = Case::new(problem, seed);
        let mut shifted = case.clone();
        shifted.bias.as_mut().unwrap().iter_mut().for_each(|x| *x += by);
        let (want, got) = (case.forward(), shifted.forward());
        prop_assert!(close(&got.out, &want.out));
        let lse: Vec<f64> = want.lse.iter().map(|x| x + by).collect();
        prop_assert!(close(&got.lse, &lse));
    }

    #[test]
    fn a_window_as_wide_as_the_sequence_is_no_window(lq in 1usize..9, lk in 1usize..9, seed: u64) {
        let case = Case::new(Full::new(shape(lq, lk), DType::F32), seed);
        let reach = lq.max(lk);
        let wide = Case { problem: case.problem.window(Window::new(reach, reach)), ..case.clone() };
        prop_assert_eq!(wide.forward(), case.forward());
    }
}
