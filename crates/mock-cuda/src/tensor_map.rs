//! Tensor maps, in a form of our own: a real driver's is opaque, and only the simulator reads
//! these. Sixteen 64-bit words:
//!
//! | word | holds |
//! | --- | --- |
//! | 0 | `LHTMAP01` |
//! | 1 | global address |
//! | 2 | element type, rank « 8, interleave « 16, swizzle « 24, L2 promotion « 32, fill « 40 |
//! | 3–7 | dimension, (box − 1) « 40, (element stride − 1) « 52 |
//! | 8–11 | strides in bytes, from the second dimension on |
//! | 12, 13 | begin and bytes of the allocation |
//! | 14 | 0 |
//! | 15 | FNV-1a of the words before |

use crate::abi::{code, entries};
use crate::state::with;
use std::ffi::c_uint;

const MAGIC: u64 = u64::from_le_bytes(*b"LHTMAP01");

/// A tensor as the host describes it.
struct Tensor<'a> {
    element: u32,
    address: u64,
    dims: &'a [u64],
    strides: &'a [u64],
    boxes: &'a [u32],
    element_strides: &'a [u32],
    interleave: u32,
    swizzle: u32,
    fill: u32,
}

entries! {
    fn cuTensorMapEncodeTiled(
        map: *mut [u64; 16], element: c_uint, rank: c_uint, address: u64, dims: *const u64,
        strides: *const u64, boxes: *const u32, element_strides: *const u32, interleave: c_uint,
        swizzle: c_uint, promotion: c_uint, fill: c_uint,
    ) {
        if !(1..=5).contains(&rank) || map.is_null() || !(map as usize).is_multiple_of(64) {
            return refuse("the map must lie on 64 bytes, the rank be 1 to 5");
        }
        let n = rank as usize;
        let tensor = Tensor {
            element,
            address,
            dims: std::slice::from_raw_parts(dims, n),
            strides: if n > 1 { std::slice::from_raw_parts(strides, n - 1) } else { &[] },
            boxes: std::slice::from_raw_parts(boxes, n),
            element_strides: std::slice::from_raw_parts(element_strides, n),
            interleave,
            swizzle,
            fill,
        };
        if let Err(rule) = check(&tensor) {
            return refuse(&rule);
        }
        let mut words = [0u64; 16];
        words[0] = MAGIC;
        words[1] = address;
        words[2] = u64::from(element)
            | u64::from(rank) << 8
            | u64::from(interleave) << 16
            | u64::from(swizzle) << 24
            | u64::from(promotion) << 32
            | u64::from(fill) << 40;
        for k in 0..n {
            words[3 + k] = tensor.dims[k]
                | u64::from(tensor.boxes[k] - 1) << 40
                | u64::from(tensor.element_strides[k] - 1) << 52;
        }
        words[8..7 + n].copy_from_slice(tensor.strides);
        seal(&mut words)?;
        map.write(words);
        Ok(())
    }

    fn cuTensorMapReplaceAddress(map: *mut [u64; 16], address: u64) {
        let words = map.as_mut().ok_or(code::INVALID_VALUE)?;
        if words[0] != MAGIC || !address.is_multiple_of(16) {
            return refuse("not a map, or an address that is not a multiple of 16");
        }
        words[1] = address;
        seal(words)
    }
}

fn refuse(rule: &str) -> Result<(), u32> {
    with(|s| s.report(format!("error[TMA-ENCODE] cuTensorMapEncodeTiled: {rule}")));
    Err(code::INVALID_VALUE)
}

/// Bytes of an element, and whether it is a float.
fn element(of: u32) -> Option<(u64, bool)> {
    // u8 u16 u32 s32 u64 s64 f16 f32 f64 bf16 f32ftz tf32 tf32ftz
    let bytes = [1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4];
    bytes.get(of as usize).map(|&bytes| (bytes, of >= 6))
}

fn check(tensor: &Tensor<'_>) -> Result<(), String> {
    let rule = |ok: bool, text: &str| if ok { Ok(()) } else { Err(text.to_owned()) };
    let (bytes, float) = element(tensor.element).ok_or("no such element type")?;
    rule(tensor.interleave <= 2 && tensor.swizzle <= 3 && tensor.fill <= 1, "no such mode")?;
    let alignment = if tensor.interleave == 2 { 32 } else { 16 };
    rule(
        tensor.address.is_multiple_of(alignment),
        "the address must be a multiple of 16 (interleave of 32 bytes: 32)",
    )?;
    rule(tensor.interleave == 0 || tensor.dims.len() >= 3, "interleave needs a rank of 3")?;
    rule(tensor.dims.iter().all(|&d| (1..=1 << 32).contains(&d)), "dimensions are 1 to 2^32")?;
    rule(tensor.boxes.iter().all(|&b| (1..=256).contains(&b)), "boxes are 1 to 256")?;
    rule(
        tensor.element_strides.iter().all(|&s| (1..=8).contains(&s)),
        "element strides are 1 to 8",
    )?;
    let strides = |&s: &u64| s.is_multiple_of(16) && s < 1 << 40;
    rule(tensor.strides.iter().all(strides), "strides are multiples of 16 bytes below 2^40")?;
    let row = u64::from(tensor.boxes[0]) * bytes;
    if tensor.interleave == 0 {
        rule(row.is_multiple_of(16), "a row of the box must be a multiple of 16 bytes")?;
        let span = [u64::MAX, 32, 64, 128][tensor.swizzle as usize];
        rule(row <= span, "a row of the box must fit the swizzle's 32, 64 or 128 bytes")?;
    }
    rule(tensor.fill == 0 || float, "NaN fills floats only")
}

/// Writes what follows from the other words.
fn seal(words: &mut [u64; 16]) -> Result<(), u32> {
    let found = with(|s| s.allocation(words[1]).map(|(begin, a)| (begin, a.bytes)));
    let Some((begin, bytes)) = found else {
        return refuse("the address is in no allocation");
    };
    (words[12], words[13], words[14]) = (begin, bytes, 0);
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for byte in words[..15].iter().flat_map(|word| word.to_le_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    words[15] = hash;
    Ok(())
}
