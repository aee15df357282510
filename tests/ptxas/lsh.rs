//! LSH attention's PTX texts worth telling apart, as `sources.rs`.

use super::sources::{Source, devices};
use longhand::cuda::Caps;
use longhand::lsh::Wrap;
use longhand::lsh::cuda::config::{Config, Stage, select};
use longhand::{DType, Lsh};

fn problem(head_dim: usize, chunk_len: usize, dtype: DType) -> Lsh {
    Lsh::new([2, 4096, 4, head_dim], chunk_len, 4, dtype)
}

/// As many options as go together.
fn together(problem: Lsh) -> Lsh {
    problem.causal().key_padding().num_buckets(&[4, 8, 16])
}

/// Problems, and whether the text for rows that begin anywhere is looked at too.
fn problems() -> Vec<(Lsh, bool)> {
    let mut all = vec![];
    // Head dimensions of each kernel that pad it, in whole chunks.
    for (head_dim, padded) in [(32, 24), (64, 56), (96, 72), (128, 104), (192, 136), (256, 200)] {
        let half = |chunk_len| problem(head_dim, chunk_len, DType::BF16);
        let wide = |chunk_len| problem(head_dim, chunk_len, DType::F32);
        // f16 differs from bf16 in the names of instructions only.
        all.push((problem(head_dim, 64, DType::F16), false));
        for plain in [half(64), half(128), half(16), wide(64), wide(16)] {
            let with_scalar = plain == half(64);
            all.extend([(together(plain.clone()), false), (plain, with_scalar)]);
        }
        for plain in [half(64), wide(64)] {
            all.push((together(plain).duplicates_once(), false));
        }
        all.push((together(problem(padded, 64, DType::BF16)), true));
        all.push((together(problem(padded, 64, DType::F32)), true));
        if head_dim == 64 {
            // One chunk; given buckets; few and many columns of rotations.
            all.extend([(half(4096).causal(), true), (together(wide(5000)), false)]);
            all.push((half(64).buckets_given(), true));
            all.push((half(64).num_buckets(&[8]), true));
            all.push((wide(64).num_buckets(&[1 << 10, 1 << 10]), false));
            all.push((half(64).wrap(Wrap::PerRound).duplicates_once(), true));
        }
    }
    all
}

fn expand(config: &Config, stage: Stage) -> Source {
    let of_stage = config.of_stage(stage);
    let kind = if config.dtype == DType::F32 { "f32" } else { "half" };
    let (m, n) = (config.tile.block_m, config.tile.block_n);
    let shape = match stage {
        Stage::Hash if !config.hashed => format!(".{kind}.given"),
        Stage::Hash => format!(".{kind}.{}", config.hash_columns),
        Stage::Count | Stage::Scatter => String::new(),
        Stage::Forward => format!(".{kind}.d{}.{m}x{n}x{}", config.head_dim, config.tile.rows),
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

/// Causal, in bf16: the published models' options, with the goal of each head dimension.
pub(crate) fn plain() -> Vec<Source> {
    let mut sources = vec![];
    for (head_dim, least) in [(64, 0.5), (128, 0.55)] {
        let config = select(&problem(head_dim, 64, DType::BF16).causal(), &Caps::a100())
            .expect("every head dimension has one");
        sources.push(Source { least_fraction: least, ..expand(&config, Stage::Forward) });
    }
    sources
}
