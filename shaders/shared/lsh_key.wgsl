// ---- what is sorted by

// The bucket of a position. Given ones are not to be trusted: none is above that of invalid positions.
fn bucket_of(segment: u32, position: u32) -> u32 {
//% if slot.key_valid is defined
    if (!is_valid(segment / (P.rounds * P.heads), position)) { return P.buckets; }
//% endif
    return min(buckets[P.buckets_base + segment * P.seqlen + position], P.buckets);
}

fn digit_of(segment: u32, position: u32) -> u32 {
    return (bucket_of(segment, position) >> P.digit_shift) & (P.digits - 1u);
}

// Where the numbers of one segment and block of items lie, P.sort_blocks apart from digit to digit.
fn histogram_at(segment: u32, block: u32) -> u32 {
    return segment * P.digits * P.sort_blocks + block;
}
