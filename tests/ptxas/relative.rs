//! The PTX texts of relative-position attention worth telling apart, as `sources.rs`.

use super::sources::{Source, devices};
use longhand::cuda::Caps;
use longhand::transformer_xl::cuda::config::{Config, Stage, select};
use longhand::transformer_xl::{Chunks, Memory, SinCos, Sinusoids};
use longhand::{DType, Error, Merge, Shape, TransformerXl};

fn problem(head_dim: usize, dtype: DType) -> TransformerXl {
    TransformerXl::with_memory([2, 4096, 4, head_dim], 4096, dtype)
}

/// As many options as go together.
fn together(problem: TransformerXl) -> TransformerXl {
    let problem = TransformerXl { own_position: true, ..problem.segments().perm_mask() };
    let memory = Memory { len: 4096, rows: 5000, start: 4000 };
    let chunks = Chunks { size: 64, left: Some(3) };
    problem.key_padding().chunks(chunks).softmax_scale(-1.0).heads_kv(2).memory(memory)
}

/// Problems, and whether the text for rows that begin anywhere is looked at too.
fn problems() -> Vec<(TransformerXl, bool)> {
    let mut all = vec![];
    // Head dimensions of each kernel that pad it, in whole chunks.
    for (head_dim, padded) in [(32, 24), (64, 56), (96, 72), (128, 104), (192, 136), (256, 200)] {
        // f16 differs from bf16 in the names of instructions only.
        all.push((problem(head_dim, DType::F16), false));
        for dtype in [DType::BF16, DType::F32] {
            let plain = problem(head_dim, dtype);
            all.extend([(plain, true), (together(plain), true)]);
            all.push((together(plain).targets(500), true));
            all.push((problem(padded, dtype).targets(500), true));
            all.push((problem(padded, dtype), true));
            all.push((together(problem(padded, dtype)), true));
            if head_dim == 64 {
                all.push((plain.key_padding(), false));
                all.push((plain.segments(), false));
                all.push((TransformerXl { own_position: true, ..plain.perm_mask() }, false));
                all.push((plain.perm_mask(), false));
                all.push((plain.chunks(Chunks { size: 64, left: None }), false));
                all.push((plain.memory(Memory { len: 4096, rows: 4096, start: 0 }), true));
            }
        }
    }
    all
}

fn expand(config: &Config, stage: Stage) -> Source {
    let of_stage = config.of_stage(stage);
    let kind = if config.dtype == DType::F32 { "f32" } else { "half" };
    let (m, n) = (config.tile.block_m, config.tile.block_n);
    let shape = match stage {
        Stage::Terms => format!(".{kind}"),
        Stage::Forward => format!(".{kind}.d{}.{m}x{n}x{}", config.head_dim, config.tile.rows),
    };
    Source {
        label: format!("{stage:?} of {of_stage:?}"),
        text: of_stage.source(stage),
        family: match (stage, config.targets) {
            (Stage::Forward, true) => format!("transformer_xl_targets{shape}"),
            _ => format!("{}{shape}", config.entry(stage)),
        },
        shared_bytes: config.dynamic_shared(stage),
        least_fraction: 0.0,
    }
}

fn small(what: &dyn std::fmt::Debug, sources: Result<Vec<(String, String)>, Error>) -> Vec<Source> {
    let source = |(name, text): (String, String)| Source {
        label: format!("{name} of {what:?}"),
        text,
        family: name,
        shared_bytes: 0,
        least_fraction: 0.0,
    };
    sources.expect("every dtype has one").into_iter().map(source).collect()
}

/// The kernel of the position table, and that which merges two results: by fours, one by one.
fn tables_and_merges() -> Vec<Source> {
    let of = |dtype| {
        let table = Sinusoids { first: -5, rows: 9, width: 64, order: SinCos::Halves, dtype };
        let merges = [64, 6, 256].map(|head_dim| {
            let shape = Shape { head_dim, ..problem(64, dtype).shape };
            let merge = Merge::new(shape, dtype);
            small(&merge, merge.sources_cuda(&Caps::a100()))
        });
        [small(&table, table.sources_cuda(&Caps::a100()))].into_iter().chain(merges).flatten()
    };
    [DType::F32, DType::F16, DType::BF16].into_iter().flat_map(of).collect()
}

/// All texts; some may be there twice.
pub(crate) fn all() -> Vec<Source> {
    let mut sources = tables_and_merges();
    for caps in devices() {
        for (problem, with_scalar) in problems() {
            let selected = match select(&problem, &caps) {
                Ok(config) => config,
                // Rows of a kilobyte do not fit the smallest shared memory.
                Err(Error::Declined(_))
                    if problem.shape.head_dim > 192
                        && problem.dtype == DType::F32
                        && caps != Caps::a100() =>
                {
                    continue;
                }
                Err(why) => panic!("{why}: {problem:?} on {caps:?}"),
            };
            let scalar = with_scalar.then(|| selected.with_scalar_loads());
            for config in [Some(selected), scalar].into_iter().flatten() {
                sources.extend(config.stages().into_iter().map(|stage| expand(&config, stage)));
            }
        }
    }
    sources
}

/// A memory of the segment's length, causal, in bf16, with the goal of each head dimension.
pub(crate) fn plain() -> Vec<Source> {
    let mut sources = vec![];
    for (head_dim, least) in [(64, 0.6), (128, 0.7)] {
        let config = select(&problem(head_dim, DType::BF16), &Caps::a100())
            .expect("every head dimension has one");
        sources.push(Source { least_fraction: least, ..expand(&config, Stage::Forward) });
    }
    sources
}
