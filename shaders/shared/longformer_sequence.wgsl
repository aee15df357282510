// ---- where a sequence's rows lie, and what they see

// One sequence and head: the element at which row 0 begins.
struct Sequence {
    q: u32,
    k: u32,
    v: u32,
    out: u32,
    lse: u32,
}

fn sequence_of(batch: u32, head: u32) -> Sequence {
    var s = Sequence();
    s.q = P.q_base + batch * P.q_batch + head * P.q_head;
    s.k = P.k_base + batch * P.k_batch + head * P.k_head;
    s.v = P.v_base + batch * P.v_batch + head * P.v_head;
    s.out = P.out_base + batch * P.out_batch + head * P.out_head;
    s.lse = P.lse_base + (batch * P.heads + head) * P.seqlen;
    return s;
}

//% if global_rows
// The position of a global row.
fn position_of(batch: u32, row: i32) -> i32 {
//%   if slot.mark_texels is defined
    return i32(load_texel(list_texel(batch, 1u + u32(row))));
//%   else
    return i32(marks[list_at(batch) + 1u + u32(row)]);
//%   endif
}

//% endif
// Positions that a row at `position` sees where no window limits it: those below this.
fn sees(position: i32) -> i32 {
    return select(i32(P.seqlen), position + 1, P.causal != 0u);
}
//% if not global_rows

fn dilation_of(head: u32) -> i32 {
//%   if slot.dilation is defined
    return i32(dilations[head]);
//%   else
    return 1;
//%   endif
}

// Positions origin, origin + gap, … of the sequence.
fn class_len(origin: i32, gap: i32) -> i32 {
    return (i32(P.seqlen) - origin + gap - 1) / gap;
}

// The band of number `row` of a class of so many: x to y - 1.
fn band(row: i32, rows: i32) -> vec2<i32> {
    return vec2<i32>(max(row - P.window_left, 0), min(row + P.window_right + 1, rows));
}
//% endif
