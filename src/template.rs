//! Turns a template of `shaders/` or `kernels/` into the source that runs.
//!
//! The language is minijinja with line statements that are comments of the host language
//! (`//% for i in range(8)`), `${ }` for values and `<% %>` for inline blocks, so that an editor
//! still sees WGSL or PTX. An undefined name is an error.

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior, Value};
use std::sync::OnceLock;

/// Templates by the name they are included under.
type Templates = &'static [(&'static str, &'static str)];

#[cfg(feature = "webgpu")]
const SHADERS: Templates = &[
    ("full_combine.wgsl", include_str!("../shaders/full_combine.wgsl")),
    ("full_forward_tile.wgsl", include_str!("../shaders/full_forward_tile.wgsl")),
    ("full_forward_rows.wgsl", include_str!("../shaders/full_forward_rows.wgsl")),
    ("full_pack.wgsl", include_str!("../shaders/full_pack.wgsl")),
    ("longformer_combine.wgsl", include_str!("../shaders/longformer_combine.wgsl")),
    ("longformer_forward_tile.wgsl", include_str!("../shaders/longformer_forward_tile.wgsl")),
    ("longformer_forward_rows.wgsl", include_str!("../shaders/longformer_forward_rows.wgsl")),
    ("longformer_pack.wgsl", include_str!("../shaders/longformer_pack.wgsl")),
    ("longformer_prepare.wgsl", include_str!("../shaders/longformer_prepare.wgsl")),
    ("lsh_count.wgsl", include_str!("../shaders/lsh_count.wgsl")),
    ("lsh_forward_rows.wgsl", include_str!("../shaders/lsh_forward_rows.wgsl")),
    ("lsh_forward_tile.wgsl", include_str!("../shaders/lsh_forward_tile.wgsl")),
    ("lsh_hash_rows.wgsl", include_str!("../shaders/lsh_hash_rows.wgsl")),
    ("lsh_hash_tile.wgsl", include_str!("../shaders/lsh_hash_tile.wgsl")),
    ("lsh_gather.wgsl", include_str!("../shaders/lsh_gather.wgsl")),
    ("lsh_index.wgsl", include_str!("../shaders/lsh_index.wgsl")),
    ("lsh_pack.wgsl", include_str!("../shaders/lsh_pack.wgsl")),
    ("lsh_scan.wgsl", include_str!("../shaders/lsh_scan.wgsl")),
    ("lsh_scatter.wgsl", include_str!("../shaders/lsh_scatter.wgsl")),
    ("merge_results.wgsl", include_str!("../shaders/merge_results.wgsl")),
    ("transformer_xl_combine.wgsl", include_str!("../shaders/transformer_xl_combine.wgsl")),
    (
        "transformer_xl_forward_rows.wgsl",
        include_str!("../shaders/transformer_xl_forward_rows.wgsl"),
    ),
    (
        "transformer_xl_forward_tile.wgsl",
        include_str!("../shaders/transformer_xl_forward_tile.wgsl"),
    ),
    ("transformer_xl_mark.wgsl", include_str!("../shaders/transformer_xl_mark.wgsl")),
    ("transformer_xl_pack.wgsl", include_str!("../shaders/transformer_xl_pack.wgsl")),
    ("transformer_xl_prepare.wgsl", include_str!("../shaders/transformer_xl_prepare.wgsl")),
    ("transformer_xl_sinusoids.wgsl", include_str!("../shaders/transformer_xl_sinusoids.wgsl")),
    ("shared/full_texels.wgsl", include_str!("../shaders/shared/full_texels.wgsl")),
    ("shared/numbers.wgsl", include_str!("../shaders/shared/numbers.wgsl")),
    ("shared/full_bindings.wgsl", include_str!("../shaders/shared/full_bindings.wgsl")),
    ("shared/full_buckets.wgsl", include_str!("../shaders/shared/full_buckets.wgsl")),
    ("shared/full_sequence.wgsl", include_str!("../shaders/shared/full_sequence.wgsl")),
    ("shared/longformer_bindings.wgsl", include_str!("../shaders/shared/longformer_bindings.wgsl")),
    ("shared/longformer_sequence.wgsl", include_str!("../shaders/shared/longformer_sequence.wgsl")),
    ("shared/lsh_best.wgsl", include_str!("../shaders/shared/lsh_best.wgsl")),
    ("shared/lsh_bindings.wgsl", include_str!("../shaders/shared/lsh_bindings.wgsl")),
    ("shared/lsh_key.wgsl", include_str!("../shaders/shared/lsh_key.wgsl")),
    ("shared/lsh_merged_store.wgsl", include_str!("../shaders/shared/lsh_merged_store.wgsl")),
    ("shared/lsh_rounds.wgsl", include_str!("../shaders/shared/lsh_rounds.wgsl")),
    ("shared/merge.wgsl", include_str!("../shaders/shared/merge.wgsl")),
    ("shared/rows_block.wgsl", include_str!("../shaders/shared/rows_block.wgsl")),
    ("shared/rows_scores.wgsl", include_str!("../shaders/shared/rows_scores.wgsl")),
    ("shared/rows_store.wgsl", include_str!("../shaders/shared/rows_store.wgsl")),
    ("shared/rows_update.wgsl", include_str!("../shaders/shared/rows_update.wgsl")),
    ("shared/tile_memory.wgsl", include_str!("../shaders/shared/tile_memory.wgsl")),
    ("shared/tile_reduce.wgsl", include_str!("../shaders/shared/tile_reduce.wgsl")),
    ("shared/tile_scores.wgsl", include_str!("../shaders/shared/tile_scores.wgsl")),
    ("shared/tile_softmax.wgsl", include_str!("../shaders/shared/tile_softmax.wgsl")),
    ("shared/tile_store.wgsl", include_str!("../shaders/shared/tile_store.wgsl")),
    ("shared/tile_values.wgsl", include_str!("../shaders/shared/tile_values.wgsl")),
    ("shared/tensor.wgsl", include_str!("../shaders/shared/tensor.wgsl")),
    ("shared/two_results.wgsl", include_str!("../shaders/shared/two_results.wgsl")),
    (
        "shared/transformer_xl_bindings.wgsl",
        include_str!("../shaders/shared/transformer_xl_bindings.wgsl"),
    ),
    (
        "shared/transformer_xl_sequence.wgsl",
        include_str!("../shaders/shared/transformer_xl_sequence.wgsl"),
    ),
];
#[cfg(not(feature = "webgpu"))]
const SHADERS: Templates = &[];

#[cfg(feature = "cuda")]
const KERNELS: Templates = &[
    ("full_combine.sm80.ptx", include_str!("../kernels/full_combine.sm80.ptx")),
    ("full_forward.sm80.ptx", include_str!("../kernels/full_forward.sm80.ptx")),
    ("longformer_combine.sm80.ptx", include_str!("../kernels/longformer_combine.sm80.ptx")),
    ("longformer_forward.sm80.ptx", include_str!("../kernels/longformer_forward.sm80.ptx")),
    ("longformer_index.sm80.ptx", include_str!("../kernels/longformer_index.sm80.ptx")),
    ("lsh_count.sm80.ptx", include_str!("../kernels/lsh_count.sm80.ptx")),
    ("lsh_forward.sm80.ptx", include_str!("../kernels/lsh_forward.sm80.ptx")),
    ("lsh_hash.sm80.ptx", include_str!("../kernels/lsh_hash.sm80.ptx")),
    ("lsh_scatter.sm80.ptx", include_str!("../kernels/lsh_scatter.sm80.ptx")),
    ("merge_results.sm80.ptx", include_str!("../kernels/merge_results.sm80.ptx")),
    ("shared/full_copy.ptx", include_str!("../kernels/shared/full_copy.ptx")),
    ("shared/full_options.ptx", include_str!("../kernels/shared/full_options.ptx")),
    ("shared/full_params.ptx", include_str!("../kernels/shared/full_params.ptx")),
    ("shared/full_scores.ptx", include_str!("../kernels/shared/full_scores.ptx")),
    ("shared/longformer_mask.ptx", include_str!("../kernels/shared/longformer_mask.ptx")),
    ("shared/longformer_params.ptx", include_str!("../kernels/shared/longformer_params.ptx")),
    ("shared/longformer_rows.ptx", include_str!("../kernels/shared/longformer_rows.ptx")),
    ("shared/longformer_tile.ptx", include_str!("../kernels/shared/longformer_tile.ptx")),
    ("shared/lsh_chunks.ptx", include_str!("../kernels/shared/lsh_chunks.ptx")),
    ("shared/lsh_digit.ptx", include_str!("../kernels/shared/lsh_digit.ptx")),
    ("shared/lsh_mask.ptx", include_str!("../kernels/shared/lsh_mask.ptx")),
    ("shared/lsh_merge.ptx", include_str!("../kernels/shared/lsh_merge.ptx")),
    ("shared/lsh_once.ptx", include_str!("../kernels/shared/lsh_once.ptx")),
    ("shared/lsh_params.ptx", include_str!("../kernels/shared/lsh_params.ptx")),
    ("shared/tile_chunks.ptx", include_str!("../kernels/shared/tile_chunks.ptx")),
    ("shared/tile_copy_chunks.ptx", include_str!("../kernels/shared/tile_copy_chunks.ptx")),
    ("shared/tile_copy_elements.ptx", include_str!("../kernels/shared/tile_copy_elements.ptx")),
    ("shared/tile_fragments.ptx", include_str!("../kernels/shared/tile_fragments.ptx")),
    ("shared/tile_gather.ptx", include_str!("../kernels/shared/tile_gather.ptx")),
    ("shared/tile_merge.ptx", include_str!("../kernels/shared/tile_merge.ptx")),
    ("shared/tile_merged_store.ptx", include_str!("../kernels/shared/tile_merged_store.ptx")),
    ("shared/tile_parts.ptx", include_str!("../kernels/shared/tile_parts.ptx")),
    ("shared/tile_product.ptx", include_str!("../kernels/shared/tile_product.ptx")),
    ("shared/tile_query.ptx", include_str!("../kernels/shared/tile_query.ptx")),
    ("shared/tile_range.ptx", include_str!("../kernels/shared/tile_range.ptx")),
    ("shared/tile_sequence.ptx", include_str!("../kernels/shared/tile_sequence.ptx")),
    ("shared/tile_slices.ptx", include_str!("../kernels/shared/tile_slices.ptx")),
    ("shared/tile_softmax.ptx", include_str!("../kernels/shared/tile_softmax.ptx")),
    ("shared/tile_store.ptx", include_str!("../kernels/shared/tile_store.ptx")),
    ("shared/tile_values.ptx", include_str!("../kernels/shared/tile_values.ptx")),
    ("shared/transformer_xl_band.ptx", include_str!("../kernels/shared/transformer_xl_band.ptx")),
    ("shared/transformer_xl_mask.ptx", include_str!("../kernels/shared/transformer_xl_mask.ptx")),
    (
        "shared/transformer_xl_params.ptx",
        include_str!("../kernels/shared/transformer_xl_params.ptx"),
    ),
    ("shared/transformer_xl_rows.ptx", include_str!("../kernels/shared/transformer_xl_rows.ptx")),
    (
        "shared/transformer_xl_targets.ptx",
        include_str!("../kernels/shared/transformer_xl_targets.ptx"),
    ),
    ("shared/transformer_xl_shear.ptx", include_str!("../kernels/shared/transformer_xl_shear.ptx")),
    ("transformer_xl_forward.sm80.ptx", include_str!("../kernels/transformer_xl_forward.sm80.ptx")),
    (
        "transformer_xl_sinusoids.sm80.ptx",
        include_str!("../kernels/transformer_xl_sinusoids.sm80.ptx"),
    ),
    ("transformer_xl_terms.sm80.ptx", include_str!("../kernels/transformer_xl_terms.sm80.ptx")),
];
#[cfg(not(feature = "cuda"))]
const KERNELS: Templates = &[];

/// The templates, parsed once.
fn environment() -> &'static Environment<'static> {
    static ENVIRONMENT: OnceLock<Environment<'static>> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| {
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder()
            .line_statement_prefix("//%")
            .line_comment_prefix("//#")
            .variable_delimiters("${", "}")
            .block_delimiters("<%", "%>")
            .comment_delimiters("<#", "#>")
            .build()
            .expect("the delimiters differ");
        env.set_syntax(syntax);
        env.set_undefined_behavior(UndefinedBehavior::Strict);
        env.set_keep_trailing_newline(true);
        for (name, text) in SHADERS.iter().chain(KERNELS) {
            env.add_template(name, text).unwrap_or_else(|e| panic!("template {name}: {e:#}"));
        }
        env
    })
}

/// The source of template `name` with `values` filled in.
///
/// # Panics
///
/// If the template itself is wrong; the snapshot tests expand each.
pub(crate) fn expand(name: &str, values: Value) -> String {
    environment()
        .get_template(name)
        .and_then(|template| template.render(values))
        .unwrap_or_else(|e| panic!("template {name}: {}", chain(&e)))
}

/// An error and what it is due to: a fault in an included template is two errors deep.
fn chain(error: &dyn std::error::Error) -> String {
    let cause = error.source().map(|cause| format!("; {}", chain(cause))).unwrap_or_default();
    format!("{error}{cause}")
}
