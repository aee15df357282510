//! Every WGSL source worth telling apart: all tiles of all dtypes, head dimensions and device
//! tiers, with no option and with as many as go together; each option by itself, and loads of single
//! elements, on some of them.

use longhand::full::config as full;
use longhand::full::{Bias, Buckets, Ragged};
use longhand::longformer::config as longformer;
use longhand::lsh::config as lsh;
use longhand::transformer_xl::config as transformer_xl;
use longhand::transformer_xl::{Chunks, Memory, SinCos, Sinusoids};
use longhand::webgpu::Caps;
use longhand::{DType, Error, Full, Longformer, Lsh, Merge, Shape, TransformerXl};
use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;

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

/// Three sorts of head dimension meet every choice and both widths of loads: one of a GPU's usual
/// tile, the largest, and one that is padded and can't be loaded four elements at a time.
const EVERY_CHOICE: [usize; 3] = [64, 256, 33];
/// The others meet none and all of the choices.
const FEWER: [usize; 5] = [32, 96, 128, 192, 40];
const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// What `of` makes of each dtype and of each of `head_dims`.
fn each<P>(head_dims: &[usize], of: impl Fn(DType, usize) -> Vec<P>) -> Vec<P> {
    let pairs = DTYPES.iter().flat_map(|&dtype| head_dims.iter().map(move |&d| (dtype, d)));
    pairs.flat_map(|(dtype, head_dim)| of(dtype, head_dim)).collect()
}

/// Problems of [`EVERY_CHOICE`] and of [`FEWER`].
type Problems<P> = [Vec<P>; 2];

fn fulls() -> Problems<Full> {
    // Few rows, few rows of many keys, a tile's worth, its keys split, and enough to fill a GPU.
    let lengths = [(1, 64), (1, 4096), (200, 200), (33, 4096), (4096, 4096)];
    let every = each(&EVERY_CHOICE, |dtype, head_dim| {
        let of_length = |(seqlen_q, seqlen_k)| {
            let plain = Full::new(shape(head_dim, seqlen_q, seqlen_k), dtype);
            let (single, mut all) = options(plain);
            all.push(plain);
            if (head_dim, seqlen_q) == (64, 200) {
                all.extend(single);
            }
            all
        };
        lengths.into_iter().flat_map(of_length).collect()
    });
    let fewer = each(&FEWER, |dtype, head_dim| {
        let of_length = |(n, (seqlen_q, seqlen_k))| {
            let plain = Full::new(shape(head_dim, seqlen_q, seqlen_k), dtype);
            // The longest: with all options too.
            if n == 4 { vec![plain, options(plain).1[0]] } else { vec![plain] }
        };
        lengths.into_iter().enumerate().flat_map(of_length).collect()
    });
    [every, fewer]
}

/// Longformer's: nothing beside the band, globals with and without projections of their own, key
/// padding, dilation, and all of it.
fn longformers() -> Problems<Longformer> {
    let plain = |dtype, head_dim| Longformer::new([2, 4096, 2, head_dim], 64, dtype);
    let all = |p: &Longformer, globals| {
        p.clone().globals(globals).key_padding().dilation(&[1, 2]).causal()
    };
    let every = each(&EVERY_CHOICE, |dtype, head_dim| {
        let p = plain(dtype, head_dim);
        let shared = |globals| p.clone().globals(globals).shared_projections();
        let one = [p.clone().key_padding(), p.clone().dilation(&[1, 2])];
        [vec![all(&p, 4), all(&p, 100), shared(4), shared(100)], one.into(), vec![p]].concat()
    });
    let fewer = each(&FEWER, |dtype, head_dim| {
        let p = plain(dtype, head_dim);
        vec![all(&p, 100), p]
    });
    [every, fewer]
}

/// LSH attention's: one chunk and nothing to sort; hashed, and with buckets given, of one digit and
/// of two; key padding; pairs that count once; few rows.
fn lshs() -> Problems<Lsh> {
    let plain = |dtype, head_dim| Lsh::new([2, 4096, 2, head_dim], 64, 2, dtype);
    let all = |p: &Lsh| p.clone().key_padding().duplicates_once().num_buckets(&[16, 32]);
    let every = each(&EVERY_CHOICE, |dtype, head_dim| {
        let p = plain(dtype, head_dim);
        vec![
            all(&p),
            p.clone().key_padding().buckets_given().num_buckets(&[512]),
            Lsh { chunk_len: 4096, ..p.clone() }.key_padding(),
            Lsh { chunk_len: 8, ..p.clone() }.buckets_given(),
            p,
        ]
    });
    let fewer = each(&FEWER, |dtype, head_dim| {
        let p = plain(dtype, head_dim);
        vec![all(&p), p]
    });
    [every, fewer]
}

/// With relative positions: few rows, few rows of many keys, and enough to fill a GPU; of the last,
/// each option by itself and all of them.
fn relatives() -> Problems<TransformerXl> {
    let memory = |len| Memory { len, rows: len, start: 0 };
    let chunks = Chunks { size: 64, left: Some(1) };
    let of = |dtype, head_dim, seqlen, before| {
        TransformerXl::xlnet([2, seqlen, 4, head_dim], before, dtype)
    };
    let all = |p: &TransformerXl| p.memory(memory(64)).chunks(chunks).segments().key_padding();
    let every = each(&EVERY_CHOICE, |dtype, head_dim| {
        let plain = of(dtype, head_dim, 1024, 64);
        let few = of(dtype, head_dim, 33, 4000).memory(memory(4000));
        let mut problems = vec![plain, of(dtype, head_dim, 1, 63), few, all(&plain).perm_mask()];
        if head_dim == 64 {
            problems.extend([plain.memory(memory(64)), plain.chunks(chunks), plain.segments()]);
            problems.extend([plain.perm_mask(), plain.key_padding(), all(&plain)]);
            problems.push(of(dtype, head_dim, 1, 4095));
            problems.push(all(&plain).perm_mask().query_stream());
            problems.extend([plain.targets(80), of(dtype, head_dim, 33, 4000).targets(20)]);
            problems.push(all(&plain).perm_mask().targets(80));
        }
        problems
    });
    let fewer = each(&FEWER, |dtype, head_dim| {
        let plain = of(dtype, head_dim, 1024, 64);
        vec![plain, all(&plain).perm_mask()]
    });
    [every, fewer]
}

/// The sources of one kind, each once. `with_scalar_loads` is what a tensor off a multiple of four
/// elements is given instead.
fn expand<P: Debug, C: Copy + Eq + Hash>(
    [every, fewer]: &Problems<P>,
    select: fn(&P, &Caps) -> Result<C, Error>,
    with_scalar_loads: fn(C) -> C,
    expand: fn(&C, Caps) -> Vec<Source>,
) -> Vec<Source> {
    let (mut configs, mut texts) = (HashSet::new(), HashSet::new());
    let mut sources = vec![];
    for caps in devices() {
        let select = |problem| {
            select(problem, &caps).unwrap_or_else(|why| panic!("{why}: {problem:?} on {caps:?}"))
        };
        let every = every.iter().map(select);
        let every = every.flat_map(|config| [config, with_scalar_loads(config)]);
        for config in every.chain(fewer.iter().map(select)) {
            if configs.insert(config) {
                let new = expand(&config, caps);
                sources.extend(new.into_iter().filter(|s| texts.insert(s.text.clone())));
            }
        }
    }
    sources
}

/// Of each stage of a configuration, a [`Source`].
macro_rules! stages {
    () => {
        |config, caps| {
            let stage = |stage| Source {
                label: format!("{stage:?} of {config:?}"),
                text: config.source(stage),
                caps,
                workgroup_bytes: config.workgroup_bytes(stage),
                bindings: config.slots(stage).len(),
            };
            config.stages().into_iter().map(stage).collect()
        }
    };
}

/// The kernels that need no attention: a text of each dtype, for rows that are loaded four elements at
/// a time and one by one.
macro_rules! small {
    ($problems:expr, $workgroup_bytes:expr, $bindings:expr) => {{
        let (mut texts, mut sources) = (HashSet::new(), vec![]);
        for caps in devices() {
            for problem in &$problems {
                let expanded = problem.sources_webgpu(&caps).unwrap_or_else(|why| panic!("{why}"));
                sources.extend(expanded.into_iter().filter_map(|(name, text)| {
                    texts.insert(text.clone()).then(|| Source {
                        label: format!("{name} of {problem:?}"),
                        text,
                        caps,
                        workgroup_bytes: $workgroup_bytes,
                        bindings: $bindings,
                    })
                }));
            }
        }
        sources
    }};
}

fn sinusoids() -> Vec<Source> {
    let tables = each(&[64, 6], |dtype, width| {
        let of = |order| Sinusoids { first: -5, rows: 9, width, order, dtype };
        vec![of(SinCos::Halves), of(SinCos::Interleaved)]
    });
    small!(tables, 0, 3)
}

fn merges() -> Vec<Source> {
    let merges = each(&[64, 6], |dtype, head_dim| {
        let shape = Shape { batch: 1, heads_q: 2, heads_kv: 2, seqlen_q: 9, seqlen_k: 9, head_dim };
        vec![Merge::new(shape, dtype)]
    });
    small!(merges, 128, 5)
}

/// The kernels of the model layer's operations: a text each, for any device.
fn of_models() -> Vec<Source> {
    macro_rules! texts {
        ($($name:literal: $bytes:literal),*) => {
            [$(($name, include_str!(concat!(
                "../../crates/longhand-models/shaders/", $name, ".wgsl"
            )), $bytes)),*]
        };
    }
    let texts =
        texts!["copy": 0, "elements": 0, "gather": 0, "linear": 4096, "norm": 256, "softmax": 256];
    let source = |(name, text, workgroup_bytes): (&str, &str, u32)| Source {
        label: format!("model {name}"),
        text: text.to_owned(),
        caps: Caps::baseline(),
        workgroup_bytes,
        bindings: 5,
    };
    texts.map(source).into()
}

/// All sources.
pub(crate) fn all() -> Vec<Source> {
    let sources: Vec<Source> = [
        expand(&fulls(), full::select, full::Config::with_scalar_loads, stages!()),
        expand(
            &longformers(),
            longformer::select,
            longformer::Config::with_scalar_loads,
            stages!(),
        ),
        expand(&lshs(), lsh::select, lsh::Config::with_scalar_loads, stages!()),
        expand(
            &relatives(),
            transformer_xl::select,
            transformer_xl::Config::with_scalar_loads,
            stages!(),
        ),
        sinusoids(),
        merges(),
        of_models(),
    ]
    .into_iter()
    .flatten()
    .collect();
    assert!(sources.len() > 100, "only {} sources", sources.len());
    sources
}
