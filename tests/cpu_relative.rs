//! Relative positions on the processor: every set of instructions that this machine has, against the
//! definition.

mod common;

use common::fixtures::Forward;
use common::relative::{self, Case, MIXTURES, errors, random_problem};
use common::{Random, tolerance};
use longhand::cpu::Isa;
use longhand::transformer_xl::cpu::Args;
use longhand::transformer_xl::{Inputs, Memory, Output};
use longhand::{DType, Full, Real, Shape, TransformerXl, Window, full, merge};
use longhand_cli::results::Results;

/// As of the other devices, whose random problems have 32 elements in a row; here there are up to
/// four times as many, and roundings add up.
fn lse_bound(p: &TransformerXl) -> f64 {
    1.5e-6 * (p.shape.head_dim as f64 / 32.0).max(1.0)
}

/// By every set of instructions; the last result.
fn check(case: &Case, what: &str) -> Output<f32> {
    let (p, expected) = (&case.problem, case.reference());
    let mut last = None;
    for isa in Isa::all() {
        let plan = p.plan_cpu().unwrap().with_isa(isa).unwrap();
        let got = plan.run_inputs(&case.inputs()).unwrap();
        let (out, lse) = errors(&got, &expected);
        let within = out <= tolerance(p.dtype) && lse <= lse_bound(p);
        assert!(within, "{what}, {isa:?}: out {out:.2e}, lse {lse:.2e}: {p:?}");
        last = Some(got);
    }
    last.unwrap()
}

/// By each set of instructions: their scores may be computed in two ways.
fn each(case: &Case) -> Vec<Output<f32>> {
    let run = |isa| case.problem.plan_cpu()?.with_isa(isa)?.run_inputs(&case.inputs());
    Isa::all().into_iter().map(|isa| run(isa).unwrap()).collect()
}

#[test]
fn random_problems_that_mix_everything_agree_with_the_definition() {
    for seed in 0..108 {
        let mut random = Random(seed);
        let head_dim = [1, 3, 8, 32, 33, 64, 80, 128][random.below(8)];
        let mut problem = random_problem(&mut random, seed as usize % MIXTURES, head_dim);
        if random.below(4) == 0 {
            let count = [1, 7, 16, 40][random.below(4)];
            problem = problem.targets(count);
        }
        check(&Case::new(problem, &mut random), &format!("seed {seed}"));
    }
}

#[test]
fn fixtures_pass_the_programs_comparison_in_every_dtype() {
    for file in relative::fixtures() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let expected = Forward::of(&file.clone().into(), dtype);
            for isa in Isa::all() {
                let mut got = Results::new();
                for &stream in file.streams() {
                    let plan = file.problem(stream, dtype).plan_cpu().unwrap();
                    let plan = plan.with_isa(isa).unwrap();
                    let output = plan.run_inputs(&file.inputs.as_inputs(stream)).unwrap();
                    file.put(&mut got, stream, &output);
                }
                expected.check(&got, &format!("{}, {isa:?}, {dtype}", file.name));
            }
        }
    }
}

/// A causal problem of 300 positions over a memory of 140, 2 heads.
fn long() -> Case {
    let problem = TransformerXl::with_memory([1, 300, 2, 40], 140, DType::F32);
    Case::new(problem, &mut Random(5))
}

#[test]
fn results_do_not_depend_on_the_number_of_threads_or_the_workspace() {
    let xlnet = TransformerXl::xlnet([1, 700, 2, 24], 90, DType::F32).segments();
    same_for_any_threads(&Case::new(xlnet, &mut Random(7)));
    // One thread takes larger blocks here. Tiles shall not begin where a block's window does, and a
    // NaN after the last key of a smaller block shall change no other row.
    let window = Window { left: Some(150), right: Some(0) };
    let short = TransformerXl::with_memory([1, 1100, 2, 24], 90, DType::F32).window(window);
    let mut case = Case::new(short, &mut Random(8));
    same_for_any_threads(&case);
    case.tensor_mut("v")[350 * 2 * 24] = f32::NAN;
    same_for_any_threads(&case);
}

fn same_for_any_threads(case: &Case) {
    let problem = case.problem;
    let plan = problem.plan_cpu().unwrap();
    let inputs = case.inputs();
    let run = |threads: usize, workspaces: usize| {
        let mut out = vec![f32::NAN; problem.span("out")];
        let mut lse = vec![f32::NAN; problem.lse_len()];
        let biases = [inputs.bias_u, inputs.bias_v];
        let args = Args {
            bias_s: inputs.bias_s,
            seg_embed: inputs.seg_embed,
            seg_q: inputs.seg_q,
            seg_k: inputs.seg_k,
            ..Args::new([inputs.q, inputs.k, inputs.v], inputs.r, biases, &mut out, &mut lse)
        };
        // Another's workspace, and what no thread can use.
        let mut workspace = vec![f32::NAN; plan.workspace_len(workspaces) + 7];
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| plan.run(args, &mut workspace)).unwrap();
        [out, lse].concat().into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    let one = run(1, 1);
    assert!(one == run(3, 3) && one == run(2, 5));
}

#[test]
fn nan_stays_with_the_rows_that_see_it() {
    let head_dim = 40;
    // Inside of a tile of 72 keys or of 80, their first and their last; and the row of distance 300: all
    // of the first head and the last queries.
    let of_v = [144, 215, 160, 239].map(|at| ("v", at));
    for (tensor, at) in [("k", 200), ("v", 200), ("r", 300)].into_iter().chain(of_v) {
        let mut case = long();
        case.tensor_mut(tensor)[at * 2 * head_dim] = f32::NAN;
        for got in each(&case) {
            for (i, row) in got.out.chunks_exact(2 * head_dim).enumerate() {
                let finite = row[..head_dim].iter().all(|x| x.is_finite());
                assert_eq!(finite, i + 140 < at, "{tensor} {at}, row {i}");
                assert!(row[head_dim..].iter().all(|x| x.is_finite()), "{tensor} {at}, row {i}");
            }
        }
    }
}

#[test]
fn padding_may_fill_tiles_and_hold_nan() {
    let (keys, row) = (300, 2 * 24);
    for own_position in [false, true] {
        let mut problem = TransformerXl::conformer([2, keys, 2, 24], 0, DType::F32).key_padding();
        problem.own_position = own_position;
        let mut case = Case::new(problem, &mut Random(9));
        // Of tiles of 72 or 80: the first sequence has two without padding, the second three of nothing
        // else.
        let valid = |n: usize| if n < keys { 60..245 } else { 540..541 }.contains(&n);
        case.key_valid = (0..2 * keys).map(|n| u8::from(valid(n))).collect();
        let expected = case.reference();
        check(&case, "padding");
        if !own_position {
            for n in (0..2 * keys).filter(|&n| !valid(n)) {
                case.tensor_mut("k")[n * row] = f32::NAN;
                case.tensor_mut("v")[n * row] = f32::INFINITY;
            }
            for got in each(&case) {
                let (out, lse) = errors(&got, &expected);
                assert!(out <= tolerance(DType::F32) && lse <= lse_bound(&problem), "{out} {lse}");
            }
        }
    }
}

#[test]
fn a_memory_in_a_ring_is_the_same_keys() {
    let case = long();
    let expected = each(&case);
    for (len, rows, start) in [(140, 140, 0), (140, 150, 120), (0, 1, 0), (440, 440, 7)] {
        assert!(each(&case.with_memory(Memory { len, rows, start })) == expected);
    }
}

#[test]
fn a_table_and_biases_of_zeros_leave_full_attention() {
    let mut case = long();
    for name in ["r", "bias_u", "bias_v"] {
        case.tensor_mut(name).fill(0.0);
    }
    let full = Full::new(case.problem.shape, DType::F32).causal();
    let inputs = case.inputs();
    let inputs_of_full = longhand::full::Inputs::new(inputs.q, inputs.k, inputs.v);
    for (isa, got) in Isa::all().into_iter().zip(each(&case)) {
        let plan = full.plan_cpu().unwrap().with_isa(isa).unwrap();
        let expected = plan.run_inputs(&inputs_of_full).unwrap();
        let own = case.problem.plan_cpu().unwrap().with_isa(isa).unwrap().describe();
        let tile = |said: &str| said.rsplit('x').next().map(str::to_owned);
        if tile(&own) == tile(&plan.describe()) {
            assert!(got.out == expected.out && got.lse == expected.lse, "{isa:?}");
        } else {
            // Of scores by one product elements are summed in another order, and by other tiles.
            let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
            assert!(near(&got.out, &expected.out) && near(&got.lse, &expected.lse), "{isa:?}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let problem = TransformerXl::xlnet([1, 20, 2, 8], 4, DType::F32);
    let case = Case::new(problem, &mut Random(5));
    let plan = problem.plan_cpu().unwrap();
    let x = case.inputs();
    let biases = [x.bias_u, x.bias_v];
    let (mut out, mut lse) = (vec![0f32; 320], vec![0.0; 40]);
    let mut workspace = vec![0.0; plan.workspace_len(1)];
    let refused = |plan: &longhand::transformer_xl::cpu::Plan,
                   args: Args<'_, f32>,
                   workspace: &mut [f32],
                   said: &str| {
        let why = plan.run(args, workspace).unwrap_err().to_string();
        assert!(why.contains(said), "{why}");
    };
    let all = [x.q, x.k, x.v];
    let args = Args::new(all, x.r, biases, &mut out[1..], &mut lse);
    refused(&plan, args, &mut workspace, "out.len");
    let args = Args::new(all, x.r, biases, &mut out, &mut lse[1..]);
    refused(&plan, args, &mut workspace, "lse.len");
    let args = Args::new([x.q, &x.k[1..], x.v], x.r, biases, &mut out, &mut lse);
    refused(&plan, args, &mut workspace, "k.len");
    let args = Args::new(all, &x.r[1..], biases, &mut out, &mut lse);
    refused(&plan, args, &mut workspace, "r.len");
    let args = Args::new(all, x.r, [&x.bias_u[1..], x.bias_v], &mut out, &mut lse);
    refused(&plan, args, &mut workspace, "bias_u.len");
    let args = Args::new(all, x.r, biases, &mut out, &mut lse);
    refused(&plan, args, &mut [], "workspace.len");
    let args = Args { targets: Some(&[0]), ..Args::new(all, x.r, biases, &mut out, &mut lse) };
    refused(&plan, args, &mut workspace, "targets");
    for (problem, name) in [
        (problem.segments(), "bias_s"),
        (problem.perm_mask(), "perm_mask"),
        (problem.key_padding(), "key_valid"),
        (problem.memory(Memory { len: 4, rows: 4, start: 0 }), "k_memory"),
    ] {
        let args = Args::new(all, x.r, biases, &mut out, &mut lse);
        refused(&problem.plan_cpu().unwrap(), args, &mut workspace, name);
    }
    let few = problem.targets(2);
    let plan_of_few = few.plan_cpu().unwrap();
    let args = Args { targets: Some(&[3, 20]), ..Args::new(all, x.r, biases, &mut out, &mut lse) };
    let mut workspace = vec![0.0; plan_of_few.workspace_len(1).max(workspace.len())];
    refused(&plan_of_few, args, &mut workspace, "targets[0][1] = 20");
    let half = vec![half::f16::ZERO; 1000];
    let mut out = vec![half::f16::ZERO; 320];
    let args = Args::new([&half[..], &half, &half], &half, biases, &mut out, &mut lse);
    let why = plan.run(args, &mut workspace).unwrap_err().to_string();
    assert!(why.contains("dtype = f16"), "{why}");
}

/// NeMo's Conformer with global tokens (`RelPositionMultiHeadAttentionLongformer`), of one layer's
/// projections: a local row attends its window with positions and every global key without, by the
/// global projections but with the local values, whether a key is padding or in the window already; a
/// global row attends all valid keys by the global projections.
struct Nemo {
    /// Local q, k and v, then the global ones: `[batch, frames, heads, head_dim]`.
    tensors: [Vec<f64>; 6],
    r: Vec<f64>,
    biases: [Vec<f64>; 2],
    valid: Vec<u8>,
}

const BATCH: usize = 2;
const FRAMES: usize = 23;
const HEADS: usize = 2;
const HEAD_DIM: usize = 8;
const GLOBALS: [usize; 3] = [0, 4, 8];
const LEFT: usize = 5;
const RIGHT: usize = 3;

impl Nemo {
    fn new() -> Nemo {
        let mut random = Random(11);
        let mut numbers =
            |len: usize| -> Vec<f64> { random.normals(len).into_iter().map(f64::from).collect() };
        // Key 8 is global and padding.
        let padding = |n: usize| n == FRAMES + 8 || n > 2 * FRAMES - 5;
        Nemo {
            tensors: std::array::from_fn(|_| numbers(BATCH * FRAMES * HEADS * HEAD_DIM)),
            r: numbers((2 * FRAMES - 1) * HEADS * HEAD_DIM),
            biases: std::array::from_fn(|_| numbers(HEADS * HEAD_DIM)),
            valid: (0..BATCH * FRAMES).map(|n| u8::from(!padding(n))).collect(),
        }
    }

    /// The row of a head of one tensor.
    fn row(&self, tensor: usize, b: usize, i: usize, h: usize) -> &[f64] {
        &self.tensors[tensor][((b * FRAMES + i) * HEADS + h) * HEAD_DIM..][..HEAD_DIM]
    }

    /// A row of the result from the formula; without the double count if `once`.
    fn dense(&self, b: usize, i: usize, h: usize, once: bool) -> Vec<f64> {
        let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
        let scale = 1.0 / (HEAD_DIM as f64).sqrt();
        let valid = |j: usize| self.valid[b * FRAMES + j] == 1;
        let global = |j: usize| scale * dot(self.row(3, b, i, h), self.row(4, b, j, h));
        let mut terms: Vec<(f64, &[f64])> = vec![];
        if GLOBALS.contains(&i) {
            let keys = (0..FRAMES).filter(|&j| valid(j));
            terms.extend(keys.map(|j| (global(j), self.row(5, b, j, h))));
        } else if valid(i) {
            for j in i.saturating_sub(LEFT)..(i + RIGHT + 1).min(FRAMES) {
                let with = |bias: &[f64]| -> Vec<f64> {
                    let bias = &bias[h * HEAD_DIM..];
                    self.row(0, b, i, h).iter().zip(bias).map(|(q, bias)| q + bias).collect()
                };
                let r = &self.r[((i + FRAMES - 1 - j) * HEADS + h) * HEAD_DIM..][..HEAD_DIM];
                let [u, v] = [&self.biases[0], &self.biases[1]].map(|bias| with(bias));
                if valid(j) && !(once && GLOBALS.contains(&j)) {
                    let score = scale * (dot(&u, self.row(1, b, j, h)) + dot(&v, r));
                    terms.push((score, self.row(2, b, j, h)));
                }
            }
            terms.extend(GLOBALS.map(|j| (global(j), self.row(2, b, j, h))));
        }
        let sum: f64 = terms.iter().map(|(s, _)| s.exp()).sum();
        let of = |d: usize| terms.iter().map(|(s, v)| s.exp() / sum * v[d]).sum();
        (0..HEAD_DIM).map(of).collect()
    }

    /// The same from [`TransformerXl`] and [`Full`] by a device.
    fn composed<T: Real>(
        &self,
        relative: impl Fn(&TransformerXl, &Inputs<'_, T>) -> [Vec<T>; 2],
        full: impl Fn(&Full, &full::Inputs<'_, T>) -> [Vec<T>; 2],
    ) -> Vec<T> {
        let stored = |x: &Vec<f64>| -> Vec<T> { x.iter().map(|&x| T::of(x)).collect() };
        let [q, k, v, q_global, k_global, v_global] = self.tensors.each_ref().map(stored);
        let (r, [u, v_bias]) = (stored(&self.r), self.biases.each_ref().map(stored));
        let row = HEADS * HEAD_DIM;
        let gathered = |x: &[T]| -> Vec<T> {
            let rows = (0..BATCH).flat_map(|b| GLOBALS.map(|j| b * FRAMES + j));
            rows.flat_map(|n| x[n * row..][..row].to_vec()).collect()
        };

        let window = Window::new(LEFT, RIGHT);
        let local = TransformerXl::conformer([BATCH, FRAMES, HEADS, HEAD_DIM], 0, DType::F32);
        let inputs = Inputs::new([&q, &k, &v], &r, [&u, &v_bias]);
        let inputs = Inputs { key_valid: Some(&self.valid), ..inputs };
        let [out, lse] = relative(&local.window(window).key_padding(), &inputs);
        let shape = Shape { seqlen_k: GLOBALS.len(), ..local.shape };
        let (keys, values) = (gathered(&k_global), gathered(&v));
        let to_globals = full::Inputs::new(&q_global, &keys, &values);
        let [out_global, lse_global] = full(&Full::new(shape, DType::F32), &to_globals);
        let parts = [(&out[..], &lse[..]), (&out_global[..], &lse_global[..])];
        let (mut out, _) = merge(&shape, parts).unwrap();

        let from = Shape { seqlen_q: GLOBALS.len(), ..local.shape };
        let queries = gathered(&q_global);
        let inputs = full::Inputs::new(&queries, &k_global, &v_global);
        let inputs = full::Inputs { key_valid: Some(&self.valid), ..inputs };
        let [from_globals, _] = full(&Full::new(from, DType::F32).key_padding(), &inputs);
        for (n, row) in out.chunks_exact_mut(row).enumerate() {
            match GLOBALS.iter().position(|&j| j == n % FRAMES) {
                Some(g) => {
                    let at = (n / FRAMES * GLOBALS.len() + g) * row.len();
                    row.copy_from_slice(&from_globals[at..][..row.len()]);
                }
                None if self.valid[n] == 0 => row.fill(T::zero()),
                None => {}
            }
        }
        out
    }
}

#[test]
fn nemos_global_tokens_are_composed_of_two_kinds() {
    let nemo = Nemo::new();
    let dense = |once: bool| -> Vec<f64> {
        let rows = (0..BATCH * FRAMES * HEADS)
            .map(|n| (n / HEADS / FRAMES, n / HEADS % FRAMES, n % HEADS));
        rows.flat_map(|(b, i, h)| nemo.dense(b, i, h, once)).collect()
    };
    let (expected, once) = (dense(false), dense(true));
    let error =
        |got: &[f64]| got.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(error(&once) > 0.01, "whether a key counts twice is not seen");

    let got = nemo.composed::<f64>(
        |p, x| p.reference(x).map(|y| [y.out, y.lse]).unwrap(),
        |p, x| p.reference(x).map(|y| [y.out, y.lse]).unwrap(),
    );
    assert!(error(&got) < 1e-13, "reference: {:.1e}", error(&got));
    let got = nemo.composed::<f32>(
        |p, x| p.run_cpu(x).map(|y| [y.out, y.lse]).unwrap(),
        |p, x| p.run_cpu(x).map(|y| [y.out, y.lse]).unwrap(),
    );
    let got: Vec<f64> = got.into_iter().map(f64::from).collect();
    assert!(error(&got) < 5e-6, "processor: {:.1e}", error(&got));
}
