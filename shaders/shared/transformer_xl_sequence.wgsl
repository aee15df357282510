// ---- where a sequence's rows lie, and what they see

// One sequence and head: the element at which row 0 begins.
struct Sequence {
    q: u32,
    k: u32,
    v: u32,
    k_memory: u32,
    v_memory: u32,
    table: u32,
    out: u32,
    lse: u32,
}

fn sequence_of(batch: u32, head: u32) -> Sequence {
    let head_kv = head / P.group;
    var s = Sequence();
    s.q = P.q_base + batch * P.q_batch + head * P.q_head;
    s.k = P.k_base + batch * P.k_batch + head_kv * P.k_head;
    s.v = P.v_base + batch * P.v_batch + head_kv * P.v_head;
    s.k_memory = P.k_memory_base + batch * P.k_memory_batch + head_kv * P.k_memory_head;
    s.v_memory = P.v_memory_base + batch * P.v_memory_batch + head_kv * P.v_memory_head;
    s.table = P.table_base + head * P.table_head;
    s.out = P.out_base + batch * P.out_batch + head * P.out_head;
    s.lse = P.lse_base + (batch * P.heads + head) * P.seqlen_q;
    return s;
}

// Keys that window and chunks leave a row at `position`: x to y - 1.
fn visible(position: i32) -> vec2<i32> {
    let seqlen_k = i32(P.seqlen_k);
    var lo = position - P.window_left;
    var hi = position + P.window_right + 1;
//% if chunked
    // Chunks count from the first key, which may lie after the first query.
    let chunk = select(position, position - P.chunk_size + 1, position < 0) / P.chunk_size * P.chunk_size;
    lo = max(lo, chunk - P.chunk_reach);
    hi = min(hi, chunk + P.chunk_size);
//% endif
    lo = clamp(lo, 0, seqlen_k);
    return vec2<i32>(lo, clamp(hi, lo, seqlen_k));
}

// The row of the table for a distance; of one that is masked, some row.
fn row_of(distance: i32) -> u32 {
    return u32(clamp(distance + P.distance_offset, P.row_first, P.row_last));
}
//% if targets and not stores_words

// Where a row, of [batch, head, query], stands among the keys.
fn position_of(row: u32) -> i32 {
    return i32(load_word(P.records_at + 4u * row + 3u));
}
//% endif
//% if blocked

// The word of `blocked` with a key's bit.
fn blocked_at(batch: u32, row: u32, key: u32) -> u32 {
    let words = (P.seqlen_k + 31u) / 32u;
//%   if perm_mask
    return P.blocked_at + (batch * P.seqlen_q + row) * words + key / 32u;
//%   else
    return P.blocked_at + batch * words + key / 32u;
//%   endif
}
//% endif
//% if slot.k is defined

// Elements d to d + 3 of a key.
fn load_key(s: Sequence, key: i32, d: u32) -> vec4<f32> {
//%   if slot.k_memory is defined
    if (key < P.memory_len) { return load_k_memory(s.k_memory + ring(key) * P.k_memory_row, d); }
//%   endif
    return load_k(s.k + u32(key - P.memory_len) * P.k_row, d);
}

// The same of its value.
fn load_value(s: Sequence, key: i32, d: u32) -> vec4<f32> {
//%   if slot.k_memory is defined
    if (key < P.memory_len) { return load_v_memory(s.v_memory + ring(key) * P.v_memory_row, d); }
//%   endif
    return load_v(s.v + u32(key - P.memory_len) * P.v_row, d);
}
//%   if slot.k_memory is defined

// The memory's row that holds a key of it.
fn ring(key: i32) -> u32 {
    let row = P.memory_start + key;
    return u32(select(row, row - P.memory_rows, row >= P.memory_rows));
}
//%   endif
//% endif
