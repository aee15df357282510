// ---- where rows lie in the textures: a power of two of them side by side

const Q_ROWS_SHIFT = ${ q_rows_shift }u;
const KV_ROWS_SHIFT = ${ kv_rows_shift }u;
const VALID_SHIFT = ${ valid_shift }u;

fn q_texel(row: u32) -> vec2<i32> {
    return vec2<i32>(vec2<u32>((row & ((1u << Q_ROWS_SHIFT) - 1u)) * (${ head_dim }u / 4u), row >> Q_ROWS_SHIFT));
}

fn kv_texel(row: u32) -> vec2<i32> {
    return vec2<i32>(vec2<u32>((row & ((1u << KV_ROWS_SHIFT) - 1u)) * (${ head_dim }u / 2u), row >> KV_ROWS_SHIFT));
}

fn valid_texel(key: u32) -> vec2<i32> {
    return vec2<i32>(vec2<u32>(key & ((1u << VALID_SHIFT) - 1u), key >> VALID_SHIFT));
}
