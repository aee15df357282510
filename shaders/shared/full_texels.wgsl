// ---- where rows lie in the textures: a power of two of them side by side

//% if q_rows_shift is defined
const Q_ROWS_SHIFT = ${ q_rows_shift }u;
//% endif
const KV_ROWS_SHIFT = ${ kv_rows_shift }u;
const VALID_SHIFT = ${ valid_shift }u;

//% if q_rows_shift is defined
fn q_texel(row: u32) -> vec2<i32> {
    return vec2<i32>(vec2<u32>((row & ((1u << Q_ROWS_SHIFT) - 1u)) * (${ head_dim }u / 4u), row >> Q_ROWS_SHIFT));
}
//% endif

fn kv_texel(row: u32) -> vec2<i32> {
    return vec2<i32>(vec2<u32>((row & ((1u << KV_ROWS_SHIFT) - 1u)) * (${ head_dim }u / 2u), row >> KV_ROWS_SHIFT));
}

fn valid_texel(key: u32) -> vec2<i32> {
    return vec2<i32>(vec2<u32>(key & ((1u << VALID_SHIFT) - 1u), key >> VALID_SHIFT));
}
