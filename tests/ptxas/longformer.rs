//! Longformer's PTX texts worth telling apart, as `sources.rs`.

use super::sources::{Source, devices};
use longhand::cuda::Caps;
use longhand::longformer::cuda::config::{Config, Stage, select};
use longhand::{DType, Longformer};

fn problem(head_dim: usize, seqlen: usize, dtype: DType) -> Longformer {
    Longformer::new([2, seqlen, 4, head_dim], 256, dtype)
}

/// As many options as go together.
fn together(problem: Longformer) -> Longformer {
    problem.globals(16).key_padding().causal().softmax_scale(-1.0).dilation(&[1, 2, 3, 4])
}

/// Problems, and whether the text for rows that begin anywhere is looked at too.
fn problems() -> Vec<(Longformer, bool)> {
    let mut all = vec![];
    // Head dimensions of each kernel that pad it, in whole chunks.
    for (head_dim, padded) in [(32, 24), (64, 56), (96, 72), (128, 104), (192, 136), (256, 200)] {
        let half = |seqlen| problem(head_dim, seqlen, DType::BF16);
        // f16 differs from bf16 in the names of instructions only.
        all.push((problem(head_dim, 4096, DType::F16).globals(16), false));
        for plain in [half(4096), half(50), problem(head_dim, 4096, DType::F32)] {
            let with_scalar = plain == half(4096);
            all.push((plain.clone().globals(16).key_padding(), with_scalar));
            all.extend([(together(plain.clone()), false), (plain, with_scalar)]);
        }
        all.push((together(problem(padded, 4096, DType::BF16)), true));
        all.push((together(problem(padded, 4096, DType::F32)), true));
        if head_dim == 64 {
            let plain = half(4096);
            all.push((plain.clone().globals(16).causal(), false));
            all.push((plain.clone().key_padding(), false));
            all.push((plain.dilation(&[1, 1, 2, 2]), false));
        }
    }
    all
}

fn expand(config: &Config, stage: Stage) -> Source {
    let of_stage = config.of_stage(stage);
    let kind = if config.dtype == DType::F32 { "f32" } else { "half" };
    let (m, n) = (config.tile.block_m, config.tile.block_n);
    let shape = match stage {
        Stage::Index => String::new(),
        Stage::Forward => format!(".{kind}.d{}.{m}x{n}x{}", config.head_dim, config.tile.rows),
        Stage::Combine => format!(".{kind}.d{}", config.head_dim),
    };
    Source {
        label: format!("{stage:?} of {of_stage:?}"),
        text: of_stage.source(stage),
        family: format!("{}{shape}", config.entry(stage)),
        shared_bytes: config.dynamic_shared(stage),
        least_fraction: 0.0,
    }
}

/// All texts; some may be there twice.
pub(crate) fn all() -> Vec<Source> {
    let mut sources = vec![];
    for caps in devices() {
        for (problem, with_scalar) in problems() {
            let selected = select(&problem, &caps)
                .unwrap_or_else(|why| panic!("{why}: {problem:?} on {caps:?}"));
            let scalar = with_scalar.then(|| selected.with_scalar_loads());
            for config in [Some(selected), scalar].into_iter().flatten() {
                sources.extend(config.stages().into_iter().map(|stage| expand(&config, stage)));
            }
        }
    }
    sources
}

/// Long sequences with some globals, in bf16, with the goal of each head dimension.
pub(crate) fn plain() -> Vec<Source> {
    let mut sources = vec![];
    for (head_dim, least) in [(64, 0.5), (96, 0.5), (128, 0.6), (192, 0.5), (256, 0.6)] {
        let config = select(&problem(head_dim, 4096, DType::BF16).globals(16), &Caps::a100())
            .expect("every head dimension has one");
        sources.push(Source { least_fraction: least, ..expand(&config, Stage::Forward) });
    }
    sources
}
