//! Every WGSL source worth telling apart: all tiles of all dtypes, head dimensions and device
//! tiers, with no option and with as many as go together; each option by itself on one of them.

use longhand::full::config::{Config, Stage, select};
use longhand::full::{Bias, Buckets, Ragged};
use longhand::longformer::config as longformer;
use longhand::lsh::config as lsh;
use longhand::transformer_xl::config as transformer_xl;
use longhand::transformer_xl::{Chunks, Memory};
use longhand::webgpu::Caps;
use longhand::{DType, Full, Longformer, Lsh, Shape, TransformerXl};
use std::collections::HashSet;

/// A source and what the host believes of it.
pub(crate) struct Source {
    /// The configuration it was expanded for.
    pub(crate) label: String,
    pub(crate) text: String,
    /// The least capable device it is meant for.
    pub(crate) caps: Caps,
    pub(crate) workgroup_bytes: u32,
    /// Storage buffers and the uniform block.
    pub(crate) bindings: usize,
}

/// From the least capable on, so that a source is held to the first tier that selects it.
fn devices() -> Vec<Caps> {
    let baseline = Caps::baseline();
    let cpu = Caps { cpu: true, ..baseline };
    let best =
        Caps { max_workgroup_storage: 32768, f16: true, subgroup_size: Some(32), ..baseline };
    vec![
        baseline,
        Caps { f16: true, ..baseline },
        Caps { subgroup_size: Some(8), ..baseline },
        Caps { max_workgroup_storage: 16384, ..best },
        best,
        cpu,
        Caps { f16: true, subgroup_size: Some(8), ..cpu },
    ]
}

fn shape(head_dim: usize, seqlen_q: usize, seqlen_k: usize) -> Shape {
    Shape { batch: 2, heads_q: 4, heads_kv: 2, seqlen_q, seqlen_k, head_dim }
}

/// T5's encoder.
const T5: Buckets = Buckets { num_buckets: 32, max_distance: 128, bidirectional: true };

/// Each option by itself, and then as many together as go together.
fn options(problem: Full) -> (Vec<Full>, Vec<Full>) {
    let bias = Bias { per_batch: true, per_head: true };
    let s = problem.shape;
    let ragged = Ragged { total_q: s.seqlen_q, total_k: s.seqlen_k };
    let single = vec![
        problem.softcap(30.0),
        problem.alibi(),
        problem.bias(bias),
        problem.buckets(T5),
        problem.softcap(30.0).buckets(T5).ragged(ragged),
        problem.key_padding(),
        problem.ragged(ragged),
    ];
    let together = vec![
        problem.softcap(30.0).alibi().bias(bias).key_padding(),
        problem.softcap(30.0).alibi().ragged(ragged),
    ];
    (single, together)
}

fn problems() -> Vec<Full> {
    // Few rows, few rows of many keys, a tile's worth, its keys split, and enough to fill a GPU.
    let lengths = [(1, 64), (1, 4096), (200, 200), (33, 4096), (4096, 4096)];
    // The last two are padded: one can still be loaded four elements at a time.
    let head_dims = [32, 64, 96, 128, 192, 256, 40, 33];
    let mut all = vec![];
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for head_dim in head_dims {
            for (seqlen_q, seqlen_k) in lengths {
                let plain = Full::new(shape(head_dim, seqlen_q, seqlen_k), dtype);
                let (single, together) = options(plain);
                all.push(plain);
                all.extend(together);
                if (head_dim, seqlen_q) == (64, 200) {
                    all.extend(single);
                }
            }
        }
    }
    all
}

/// Longformer's: nothing beside the band, globals with and without projections of their own, key
/// padding, dilation, and all of it.
fn longformers() -> Vec<Longformer> {
    let mut all = vec![];
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for head_dim in [32, 64, 96, 128, 192, 256, 40, 33] {
            let plain = Longformer::new([2, 4096, 2, head_dim], 64, dtype);
            all.push(plain.clone());
            for globals in [4, 100] {
                let some = plain.clone().globals(globals);
                all.push(some.clone().shared_projections());
                all.push(some.key_padding().dilation(&[1, 2]).causal());
            }
            all.push(plain.clone().key_padding());
            all.push(plain.dilation(&[1, 2]));
        }
    }
    all
}

fn expand_longformer(config: &longformer::Config, caps: Caps) -> Vec<Source> {
    let stage = |stage| Source {
        label: format!("{stage:?} of {config:?}"),
        text: config.source(stage),
        caps,
        workgroup_bytes: config.workgroup_bytes(stage),
        bindings: config.slots(stage).len(),
    };
    config.stages().into_iter().map(stage).collect()
}

/// LSH attention's: one chunk and nothing to sort; hashed, and with buckets given, of one digit and
/// of two; key padding; pairs that count once; few rows.
fn lshs() -> Vec<Lsh> {
    let mut all = vec![];
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for head_dim in [32, 64, 96, 128, 192, 256, 40, 33] {
            let plain = Lsh::new([2, 4096, 2, head_dim], 64, 2, dtype);
            all.push(plain.clone());
            all.push(plain.clone().key_padding().duplicates_once().num_buckets(&[16, 32]));
            all.push(plain.clone().key_padding().buckets_given().num_buckets(&[512]));
            all.push(Lsh { chunk_len: 4096, ..plain.clone() }.key_padding());
            all.push(Lsh { chunk_len: 8, ..plain }.buckets_given());
        }
    }
    all
}

fn expand_lsh(config: &lsh::Config, caps: Caps) -> Vec<Source> {
    let stage = |stage| Source {
        label: format!("{stage:?} of {config:?}"),
        text: config.source(stage),
        caps,
        workgroup_bytes: config.workgroup_bytes(stage),
        bindings: config.slots(stage).len(),
    };
    config.stages().into_iter().map(stage).collect()
}

/// With relative positions: few rows, few rows of many keys, and enough to fill a GPU; of the last,
/// each option by itself and all of them.
fn relatives() -> Vec<TransformerXl> {
    let mut all = vec![];
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for head_dim in [32, 64, 96, 128, 192, 256, 40, 33] {
            let of = |seqlen, before| TransformerXl::xlnet([2, seqlen, 4, head_dim], before, dtype);
            let memory = |len| Memory { len, rows: len, start: 0 };
            let plain = of(1024, 64);
            let chunks = Chunks { size: 64, left: Some(1) };
            let together = plain.memory(memory(64)).chunks(chunks).segments().key_padding();
            all.extend([plain, of(1, 63), of(33, 4000).memory(memory(4000)), together.perm_mask()]);
            if head_dim == 64 {
                all.extend([plain.memory(memory(64)), plain.chunks(chunks), plain.segments()]);
                all.extend([plain.perm_mask(), plain.key_padding(), of(1, 4095), together]);
                all.push(together.perm_mask().query_stream());
            }
        }
    }
    all
}

fn expand_relative(config: &transformer_xl::Config, caps: Caps) -> Vec<Source> {
    let stage = |stage| Source {
        label: format!("{stage:?} of {config:?}"),
        text: config.source(stage),
        caps,
        workgroup_bytes: config.workgroup_bytes(stage),
        bindings: config.slots(stage).len(),
    };
    config.stages().into_iter().map(stage).collect()
}

/// All sources, each once.
pub(crate) fn all() -> Vec<Source> {
    let (mut configs, mut texts) = (HashSet::new(), HashSet::new());
    let mut sources = vec![];
    for caps in devices() {
        for problem in problems() {
            let selected = select(&problem, &caps)
                .unwrap_or_else(|why| panic!("{why}: {problem:?} on {caps:?}"));
            // What a tensor off a multiple of four elements is given instead.
            for config in [selected, selected.with_scalar_loads()] {
                if !configs.insert(config) {
                    continue;
                }
                let new =
                    expand(&config, caps).into_iter().filter(|s| texts.insert(s.text.clone()));
                sources.extend(new);
            }
        }
    }
    let mut configs = HashSet::new();
    for caps in devices() {
        for problem in longformers() {
            let selected = longformer::select(&problem, &caps)
                .unwrap_or_else(|why| panic!("{why}: {problem:?} on {caps:?}"));
            for config in [selected, selected.with_scalar_loads()] {
                if configs.insert(config) {
                    let new = expand_longformer(&config, caps);
                    sources.extend(new.into_iter().filter(|s| texts.insert(s.text.clone())));
                }
            }
        }
    }
    let mut configs = HashSet::new();
    for caps in devices() {
        for problem in lshs() {
            let selected = lsh::select(&problem, &caps)
                .unwrap_or_else(|why| panic!("{why}: {problem:?} on {caps:?}"));
            for config in [selected, selected.with_scalar_loads()] {
                if configs.insert(config) {
                    let new = expand_lsh(&config, caps);
                    sources.extend(new.into_iter().filter(|s| texts.insert(s.text.clone())));
                }
            }
        }
    }
    let mut configs = HashSet::new();
    for caps in devices() {
        for problem in relatives() {
            let selected = transformer_xl::select(&problem, &caps)
                .unwrap_or_else(|why| panic!("{why}: {problem:?} on {caps:?}"));
            for config in [selected, selected.with_scalar_loads()] {
                if configs.insert(config) {
                    let new = expand_relative(&config, caps);
                    sources.extend(new.into_iter().filter(|s| texts.insert(s.text.clone())));
                }
            }
        }
    }
    assert!(sources.len() > 100, "only {} sources", sources.len());
    sources
}

fn expand(config: &Config, caps: Caps) -> Vec<Source> {
    let stage = |stage: Stage| Source {
        label: format!("{stage:?} of {config:?}"),
        text: config.source(stage),
        caps,
        workgroup_bytes: match stage {
            Stage::Forward => config.workgroup_bytes(),
            Stage::Pack | Stage::Combine => 0,
        },
        bindings: config.slots(stage).len(),
    };
    config.stages().into_iter().map(stage).collect()
}
