//! The PTX texts worth telling apart: every tile with nothing, with as much as goes together and,
//! on one head dimension, with each option by itself; each text once.

use longhand::cuda::Caps;
use longhand::full::cuda::config::{Config, Stage, select};
use longhand::full::{Bias, Ragged};
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

fn shape(head_dim: usize, seqlen_q: usize, seqlen_k: usize) -> Shape {
    Shape { batch: 2, heads_q: 4, heads_kv: 2, seqlen_q, seqlen_k, head_dim }
}

fn devices() -> [Caps; 2] {
    // The least shared memory of any device from sm_80 on.
    let small = Caps { compute_capability: (8, 6), max_shared_opt_in: 101_376, ..Caps::a100() };
    [Caps::a100(), small]
}

/// Enough rows to fill a GPU, few rows, few rows of many keys.
const LENGTHS: [(usize, usize); 3] = [(4096, 4096), (33, 200), (1, 8192)];

fn together(problem: Full) -> Vec<Full> {
    let s = problem.shape;
    let bias = Bias { per_batch: true, per_head: true };
    let ragged = Ragged { total_q: s.seqlen_q, total_k: s.seqlen_k };
    let near = Window::new(100, 0);
    vec![
        problem,
        problem.window(near),
        problem.softcap(30.0).alibi().bias(bias).key_padding().window(near),
        problem.softcap(30.0).alibi().ragged(ragged).window(near),
        problem.ragged(ragged),
    ]
}

fn single(problem: Full) -> Vec<Full> {
    vec![
        problem.softcap(30.0),
        problem.alibi(),
        problem.bias(Bias { per_batch: false, per_head: true }),
        problem.key_padding(),
        problem.softmax_scale(-1.0),
    ]
}

fn problems() -> Vec<Full> {
    let mut all = vec![];
    for dtype in [DType::BF16, DType::F32, DType::F16] {
        for (n, head_dim) in [32, 64, 96, 128, 192, 256].into_iter().enumerate() {
            for (seqlen_q, seqlen_k) in LENGTHS {
                let plain = Full::new(shape(head_dim, seqlen_q, seqlen_k), dtype);
                // f16 differs from bf16 in the names of instructions only.
                if dtype == DType::F16 {
                    all.push(plain);
                    continue;
                }
                all.extend(together(plain));
                // Padded: in whole chunks, and element by element.
                let least = [1, 33, 65, 97, 129, 193][n];
                for head_dim in [head_dim - 8, least] {
                    let padded = Full::new(shape(head_dim, seqlen_q, seqlen_k), dtype);
                    all.extend([padded, together(padded).swap_remove(2)]);
                }
                if matches!(head_dim, 64 | 128) {
                    all.extend(single(plain));
                }
            }
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
    Source {
        label: format!("{stage:?} of {of_stage:?}"),
        text: of_stage.source(stage),
        family: format!("{}.{kind}.d{}{tile}", config.entry(stage), config.head_dim),
        shared_bytes: if stage == Stage::Forward { config.shared_bytes() } else { 0 },
        least_fraction: 0.0,
    }
}

/// All texts, each once.
pub(crate) fn all() -> Vec<Source> {
    let (mut configs, mut texts) = (HashSet::new(), HashSet::new());
    let mut sources = vec![];
    for caps in devices() {
        for problem in problems() {
            let selected = select(&problem, &caps)
                .unwrap_or_else(|why| panic!("{why}: {problem:?} on {caps:?}"));
            // What tensors off a multiple of 16 bytes are given instead.
            let scalar = (problem.shape.head_dim == 64 || selected.padded)
                .then(|| selected.with_scalar_loads());
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
    assert!(sources.len() > 100, "only {} sources", sources.len());
    sources
}

/// Long sequences without any option, in bf16 and f16, with the goal of each head dimension.
pub(crate) fn plain() -> Vec<Source> {
    let mut sources = vec![];
    for (head_dim, least) in [(64, 0.5), (96, 0.5), (128, 0.6), (192, 0.5), (256, 0.6)] {
        for dtype in [DType::BF16, DType::F16] {
            let problem = Full::new(shape(head_dim, 4096, 4096), dtype);
            let config = select(&problem, &Caps::a100()).expect("every head dimension has one");
            sources.push(Source { least_fraction: least, ..expand(&config, Stage::Forward) });
        }
    }
    sources
}
