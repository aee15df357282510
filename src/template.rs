//! Turns a template of `shaders/` into the source that runs.
//!
//! The language is minijinja with line statements that are comments of the host language
//! (`//% for i in range(8)`), `${ }` for values and `<% %>` for inline blocks, so that an editor
//! still sees WGSL. An undefined name is an error.

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior, Value};

/// Every template, by the name it is included under.
const TEMPLATES: &[(&str, &str)] = &[
    ("full_combine.wgsl", include_str!("../shaders/full_combine.wgsl")),
    ("full_forward_tile.wgsl", include_str!("../shaders/full_forward_tile.wgsl")),
    ("full_forward_rows.wgsl", include_str!("../shaders/full_forward_rows.wgsl")),
    ("full_pack.wgsl", include_str!("../shaders/full_pack.wgsl")),
    ("shared/full_texels.wgsl", include_str!("../shaders/shared/full_texels.wgsl")),
    ("shared/full_bindings.wgsl", include_str!("../shaders/shared/full_bindings.wgsl")),
    ("shared/full_sequence.wgsl", include_str!("../shaders/shared/full_sequence.wgsl")),
    ("shared/tensor.wgsl", include_str!("../shaders/shared/tensor.wgsl")),
];

/// The source of template `name` with `values` filled in.
///
/// # Panics
///
/// If the template itself is wrong; the snapshot tests expand each.
pub(crate) fn expand(name: &str, values: Value) -> String {
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
    for (name, text) in TEMPLATES {
        env.add_template(name, text).unwrap_or_else(|e| panic!("template {name}: {e:#}"));
    }
    env.get_template(name)
        .and_then(|template| template.render(values))
        .unwrap_or_else(|e| panic!("template {name}: {e:#}"))
}
