//! The PTX texts worth telling apart: every tile with nothing, with as much as goes together and,
//! on one head dimension, with each option by itself; each text once.

use longhand::cuda::Caps;
use longhand::full::cuda::config::{Config, Stage, select};
use longhand::full::{Bias, Buckets, Ragged};
use longhand::{DType, Full, Shape, Window};
use std::collections::HashSet;

/// A text and what the host believes of it.
#[derive(Clone)]
pub(crate) struct Source {
    /// The configuration it was expanded for.
    pub(crate) label: String,
    pub(crate) text: String,
    /// Kernel, storage and head dimension: the key of its budget.
    pub(crate) family: String,
    pub(crate) shared_bytes: u32,
    /// Of the peak, what the static estimate must reach; 0 if there is no such goal.
    pub(crate) least_fraction: f64,
}

/// With as many key heads as query heads: rows are not packed.
fn apart(problem: Full) -> Full {
    Full { shape: Shape { heads_kv: 4, ..problem.shape }, ..problem }
}

fn shape(head_dim: usize, seqlen_q: usize, seqlen_k: usize) -> Shape {
    Shape { batch: 2, heads_q: 4, heads_kv: 2, seqlen_q, seqlen_k, head_dim }
}

pub(crate) fn devices() -> [Caps; 2] {
    // The least shared memory of any device from sm_80 on.
    let small = Caps { compute_capability: (8, 6), max_shared_opt_in: 101_376, ..Caps::a100() };
    [Caps::a100(), small]
}

/// Enough rows to fill a GPU, few rows, few rows of many keys.
const LENGTHS: [(usize, usize); 3] = [(4096, 4096), (33, 200), (1, 8192)];

/// T5's encoder.
const T5: Buckets = Buckets { num_buckets: 32, max_distance: 128, bidirectional: true };

fn near(problem: Full) -> Full {
    problem.window(Window::new(100, 0))
}

/// As many options as go together.
fn together(problem: Full) -> Full {
    let bias = Bias { per_batch: true, per_head: true };
    near(problem.softcap(30.0).alibi().bias(bias).key_padding())
}

fn ragged(problem: Full) -> Full {
    let s = problem.shape;
    problem.ragged(Ragged { total_q: s.seqlen_q, total_k: s.seqlen_k })
}

fn single(problem: Full) -> Vec<Full> {
    vec![
        problem.softcap(30.0),
        problem.alibi(),
        problem.bias(Bias { per_batch: false, per_head: true }),
        problem.buckets(T5),
        problem.key_padding(),
        problem.softmax_scale(-1.0),
        ragged(problem),
        ragged(near(problem.softcap(30.0).alibi())),
    ]
}

/// Whether the text for rows that begin anywhere is looked at too.
type WithScalar = bool;

fn problems() -> Vec<(Full, WithScalar)> {
    let mut all = vec![];
    // Head dimensions of each kernel that pad it, in whole chunks.
    for (head_dim, padded) in [(32, 24), (64, 56), (96, 72), (128, 104), (192, 136), (256, 200)] {
        let of = |dtype, head_dim, (q, k)| Full::new(shape(head_dim, q, k), dtype);
        let [large, few, split] = LENGTHS;
        let half = |lengths| of(DType::BF16, head_dim, lengths);
        let wide = |lengths| of(DType::F32, head_dim, lengths);
        // f16 differs from bf16 in the names of instructions only.
        all.push((of(DType::F16, head_dim, large), false));
        for plain in [half(large), half(few), wide(large)] {
            all.extend([(plain, plain == half(large)), (together(plain), false)]);
            all.push((plain.buckets(T5), false));
        }
        all.extend([(near(half(large)), false), (half(split), false), (wide(split), false)]);
        all.push((of(DType::BF16, padded, large), true));
        all.push((together(of(DType::BF16, padded, large)), true));
        all.push((together(of(DType::F32, padded, large)), true));
        if head_dim == 128 {
            all.extend(single(half(large)).into_iter().map(|p| (p, false)));
            all.extend([(ragged(half(split)), true), (together(wide(split)), true)]);
            all.extend([(apart(half(split)), true), (apart(near(half(split))), false)]);
            all.push((near(half((5, 200)).softcap(30.0).key_padding()), true));
        }
    }
    all
}

fn expand(config: &Config, stage: Stage) -> Source {
    let of_stage = config.of_stage(stage);
    let kind = if config.dtype == DType::F32 { "f32" } else { "half" };
    let (m, n) = (config.tile.block_m, config.tile.block_n);
    let tile = match stage {
        Stage::Forward => format!(".{m}x{n}x{}", config.tile.rows),
        Stage::Combine => String::new(),
    };
    let buckets = if of_stage.buckets.is_some() { ".buckets" } else { "" };
    Source {
        label: format!("{stage:?} of {of_stage:?}"),
        text: of_stage.source(stage),
        family: format!("{}.{kind}.d{}{tile}{buckets}", config.entry(stage), config.head_dim),
        shared_bytes: if stage == Stage::Forward { config.shared_bytes() } else { 0 },
        least_fraction: 0.0,
    }
}

/// The kernels of the model layer's operations: a text each.
fn of_models() -> Vec<Source> {
    macro_rules! texts {
        ($($name:literal: $bytes:literal),*) => {
            [$(($name, include_str!(concat!(
                "../../crates/longhand-models/kernels/", $name, ".sm80.ptx"
            )), $bytes)),*]
        };
    }
    let texts =
        texts!["copy": 0, "elements": 0, "gather": 0, "linear": 4608, "norm": 0, "softmax": 0];
    let source = |(name, text, shared_bytes): (&str, &str, u32)| Source {
        label: format!("model {name}"),
        text: text.to_owned(),
        family: format!("model_{name}"),
        shared_bytes,
        least_fraction: 0.0,
    };
    texts.map(source).into()
}

/// All texts, each once.
pub(crate) fn all() -> Vec<Source> {
    let (mut configs, mut texts) = (HashSet::new(), HashSet::new());
    let mut sources = vec![];
    for caps in devices() {
        for (problem, with_scalar) in problems() {
            let selected = select(&problem, &caps)
                .unwrap_or_else(|why| panic!("{why}: {problem:?} on {caps:?}"));
            // What tensors off a multiple of 16 bytes are given instead.
            let scalar = with_scalar.then(|| selected.with_scalar_loads());
            for config in [Some(selected), scalar].into_iter().flatten() {
                for stage in config.stages() {
                    if configs.insert((config.of_stage(stage), stage)) {
                        let source = expand(&config, stage);
                        if texts.insert(source.text.clone()) {
                            sources.push(source);
                        }
                    }
                }
            }
        }
    }
    let more = super::longformer::all().into_iter().chain(super::lsh::all());
    let more = more.chain(super::relative::all()).chain(of_models());
    sources.extend(more.filter(|source| texts.insert(source.text.clone())));
    assert!(sources.len() > 200, "only {} sources", sources.len());
    sources
}

/// Long sequences without any option, with the goal of each head dimension.
pub(crate) fn plain() -> Vec<Source> {
    let mut sources = vec![];
    for (head_dim, least) in [(64, 0.5), (96, 0.5), (128, 0.6), (192, 0.5), (256, 0.6)] {
        for dtype in [DType::BF16, DType::F16, DType::F32] {
            let problem = Full::new(shape(head_dim, 4096, 4096), dtype);
            let config = select(&problem, &Caps::a100()).expect("every head dimension has one");
            sources.push(Source { least_fraction: least, ..expand(&config, Stage::Forward) });
        }
    }
    sources
}
