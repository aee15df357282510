//! Fixture models with more positions than they were made with: their own rows again and again.

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use std::path::{Path, PathBuf};

/// A copy of a fixture's folder with a changed config, and the rows of some tensors repeated up to
/// a number. A row is the last dimension.
fn copy(
    from: &str,
    folder: PathBuf,
    config: impl Fn(&mut serde_json::Value),
    rows: &[(&str, usize)],
) -> PathBuf {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(from);
    std::fs::create_dir_all(&folder).unwrap();
    let text = std::fs::read_to_string(data.join("config.json")).unwrap();
    let mut options = serde_json::from_str(&text).unwrap();
    config(&mut options);
    std::fs::write(folder.join("config.json"), options.to_string()).unwrap();
    let file = std::fs::read(data.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let mut all = Vec::new();
    for (name, view) in tensors.tensors() {
        let (mut shape, mut bytes) = (view.shape().to_vec(), view.data().to_vec());
        if let Some((_, count)) = rows.iter().find(|(suffix, _)| name.ends_with(suffix)) {
            // The dimension of the rows is the one that is not 1.
            let rows = shape.iter().rposition(|&n| n > 1).map_or(0, |last| {
                shape[..last].iter().rposition(|&n| n > 1).unwrap_or(last.saturating_sub(1))
            });
            let row = bytes.len() / shape[rows];
            bytes = bytes.iter().copied().cycle().take(count * row).collect();
            shape[rows] = *count;
        }
        all.push((name, view.dtype(), shape, bytes));
    }
    let views = all.iter().map(|(name, dtype, shape, bytes)| {
        (&name[..], TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
    folder
}

/// Longformer of this length, with these windows in its two layers.
pub(crate) fn longformer(folder: PathBuf, length: usize, windows: [usize; 2]) -> PathBuf {
    // Two rows are not positions.
    let positions = length + 2;
    let config = |options: &mut serde_json::Value| {
        options["max_position_embeddings"] = positions.into();
        options["attention_window"] = windows.to_vec().into();
    };
    copy("longformer", folder, config, &[("position_embeddings.weight", positions)])
}

/// Reformer of this length, a multiple of 64, with buckets chosen by the length.
pub(crate) fn reformer(folder: PathBuf, length: usize) -> PathBuf {
    let shape = [length / 64, 64];
    let config = |options: &mut serde_json::Value| {
        options["max_position_embeddings"] = length.into();
        options["axial_pos_shape"] = shape.to_vec().into();
        options["num_buckets"] = serde_json::Value::Null;
        for kind in ["lsh", "local"] {
            options[format!("{kind}_attn_chunk_length")] = 64.into();
        }
    };
    let tables =
        [("position_embeddings.weights.0", shape[0]), ("position_embeddings.weights.1", shape[1])];
    copy("reformer", folder, config, &tables)
}
