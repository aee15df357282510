//! Guard bands and sentinels: what shows a write outside a result, and an element left out.

use super::Case;
use longhand::full::Output;
use longhand::{DType, Strides};

/// Bytes on both sides of every tensor; not a multiple of 256, so that offsets are odd ones.
pub const GUARD: usize = 256 + 48;

/// Written where nobody may write, and before a launch where everybody must.
pub const SENTINEL: u32 = 0x7fc0_dead;

pub fn bytes_of(values: &[f32], dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        DType::F16 => values.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect(),
        DType::BF16 => values.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect(),
    }
}

pub fn floats_of(bytes: &[u8], dtype: DType) -> Vec<f32> {
    let pair = |b: &[u8]| [b[0], b[1]];
    match dtype {
        DType::F32 => {
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
        }
        DType::F16 => {
            bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes(pair(b)).to_f32()).collect()
        }
        DType::BF16 => {
            bytes.chunks_exact(2).map(|b| half::bf16::from_le_bytes(pair(b)).to_f32()).collect()
        }
    }
}

/// So many bytes of the sentinel.
pub fn sentinel(bytes: usize) -> Vec<u8> {
    SENTINEL.to_le_bytes().into_iter().cycle().take(bytes).collect()
}

/// The results of a launch into sentinels, from the bytes of `out` and `lse`: every element is
/// written, and what lies between rows is not.
pub fn checked(case: &Case, out: &[u8], lse: &[u8], plan: &str) -> Output<f32> {
    let p = &case.problem;
    let unwritten = |bytes: &[u8]| bytes.chunks_exact(4).any(|b| b == SENTINEL.to_le_bytes());
    assert!(!unwritten(lse), "lse: an element was not written ({plan}): {p:?}");
    // Gaps between rows must be left alone; the reference has zeros there.
    let mut values = floats_of(out, p.dtype);
    let untouched = sentinel(out.len());
    let e = p.dtype.bytes();
    for (n, (value, owned)) in values.iter_mut().zip(owned_elements(case)).enumerate() {
        if owned {
            continue;
        }
        let same = out[n * e..][..e] == untouched[n * e..][..e];
        assert!(same, "out: the gap at element {n} was written");
        *value = 0.0;
    }
    Output { out: values, lse: floats_of(lse, DType::F32) }
}

/// Which elements of `out`'s span are its own.
fn owned_elements(case: &Case) -> Vec<bool> {
    let p = &case.problem;
    let (s, l) = (&p.shape, &p.layout.out);
    let mut owned = vec![false; p.spans()[3]];
    for batch in 0..p.batches() {
        for row in 0..p.rows_q() {
            for head in 0..s.heads_q {
                let at = batch * l.batch + row * l.seqlen + head * l.head;
                owned[at..at + s.head_dim].fill(true);
            }
        }
    }
    owned
}

/// The values of a result of `[batch, seqlen, heads, head_dim]` written into sentinels: what lies
/// between rows is not written, and is 0 here.
pub fn written_rows(
    out: &[u8],
    l: &Strides,
    [batch, seqlen, heads, head_dim]: [usize; 4],
    dtype: DType,
) -> Vec<f32> {
    let e = dtype.bytes();
    let mut owned = vec![false; out.len() / e];
    for b in 0..batch {
        for (row, head) in (0..seqlen).flat_map(|i| (0..heads).map(move |h| (i, h))) {
            let at = b * l.batch + row * l.seqlen + head * l.head;
            owned[at..at + head_dim].fill(true);
        }
    }
    let (mut values, untouched) = (floats_of(out, dtype), sentinel(out.len()));
    for (n, value) in values.iter_mut().enumerate().filter(|(n, _)| !owned[*n]) {
        let same = out[n * e..][..e] == untouched[n * e..][..e];
        assert!(same, "out: the gap at element {n} was written");
        *value = 0.0;
    }
    values
}

/// The f32 of a result that has no gaps: each was written.
pub fn written(name: &str, bytes: &[u8]) -> Vec<f32> {
    let sentinel = SENTINEL.to_le_bytes();
    let unwritten = bytes.chunks_exact(4).position(|b| b == sentinel);
    assert_eq!(unwritten, None, "{name}: an element was not written");
    floats_of(bytes, DType::F32)
}
