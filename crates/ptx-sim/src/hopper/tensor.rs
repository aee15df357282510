//! Tensor maps, in a form of our own: a real driver's is opaque. Sixteen 64-bit words:
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

use serde_json::Value;
use std::collections::BTreeMap;

const MAGIC: u64 = u64::from_le_bytes(*b"LHTMAP01");

/// A tensor as `cuTensorMapEncodeTiled` takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Element type, as the driver numbers them: u8 u16 u32 s32 u64 s64 f16 f32 f64 bf16 …
    pub element: u32,
    /// Global address.
    pub address: u64,
    /// Sizes, innermost first.
    pub dims: Vec<u64>,
    /// Bytes from one index to the next, from the second dimension on.
    pub strides: Vec<u64>,
    /// Box sizes, innermost first.
    pub boxes: Vec<u32>,
    /// Element strides, innermost first.
    pub element_strides: Vec<u32>,
    /// 0 none, 1 16 bytes, 2 32 bytes.
    pub interleave: u32,
    /// 0 none, 1 32 bytes, 2 64 bytes, 3 128 bytes.
    pub swizzle: u32,
    /// L2 promotion; without effect.
    pub promotion: u32,
    /// Out-of-bounds fill: 0 zero, 1 NaN.
    pub fill: u32,
    /// Begin and bytes of the allocation.
    pub allocation: (u64, u64),
}

/// The 128 bytes that kernels get.
pub type TensorMap = [u64; 16];

impl Tensor {
    /// Bytes of an element.
    pub fn element_bytes(&self) -> u64 {
        [1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4].get(self.element as usize).copied().unwrap_or(1)
    }

    /// Bytes of a box in shared memory.
    pub fn box_bytes(&self) -> u64 {
        let extent = |(b, s): (&u32, &u32)| u64::from(b.div_ceil(*s));
        self.boxes.iter().zip(&self.element_strides).map(extent).product::<u64>()
            * self.element_bytes()
    }

    /// Checks the rules of `cuTensorMapEncodeTiled` and encodes.
    ///
    /// # Errors
    ///
    /// The rule that is broken.
    pub fn encode(&self) -> Result<TensorMap, String> {
        let rule = |ok: bool, text: &str| if ok { Ok(()) } else { Err(text.to_owned()) };
        let n = self.dims.len();
        rule((1..=5).contains(&n), "the rank is 1 to 5")?;
        rule(
            self.boxes.len() == n && self.element_strides.len() == n && self.strides.len() + 1 == n,
            "boxes, element strides and strides must match the rank",
        )?;
        rule(self.element <= 12, "no such element type")?;
        rule(self.interleave <= 2 && self.swizzle <= 3 && self.fill <= 1, "no such mode")?;
        let alignment = if self.interleave == 2 { 32 } else { 16 };
        rule(
            self.address.is_multiple_of(alignment),
            "the address must be a multiple of 16 (interleave of 32 bytes: 32)",
        )?;
        rule(self.interleave == 0 || n >= 3, "interleave needs a rank of 3")?;
        rule(self.dims.iter().all(|d| (1..=1 << 32).contains(d)), "dimensions are 1 to 2^32")?;
        rule(self.boxes.iter().all(|b| (1..=256).contains(b)), "boxes are 1 to 256")?;
        rule(
            self.element_strides.iter().all(|s| (1..=8).contains(s)),
            "element strides are 1 to 8",
        )?;
        let stride = |s: &u64| s.is_multiple_of(16) && *s < 1 << 40;
        rule(self.strides.iter().all(stride), "strides are multiples of 16 bytes below 2^40")?;
        if self.interleave == 0 {
            let row = u64::from(self.boxes[0]) * self.element_bytes();
            rule(row.is_multiple_of(16), "a row of the box must be a multiple of 16 bytes")?;
            let span = [u64::MAX, 32, 64, 128][self.swizzle as usize];
            rule(row <= span, "a row of the box must fit the swizzle's 32, 64 or 128 bytes")?;
        }
        rule(self.fill == 0 || self.element >= 6, "NaN fills floats only")?;
        let mut words = [0; 16];
        words[0] = MAGIC;
        words[1] = self.address;
        words[2] = u64::from(self.element)
            | (n as u64) << 8
            | u64::from(self.interleave) << 16
            | u64::from(self.swizzle) << 24
            | u64::from(self.promotion) << 32
            | u64::from(self.fill) << 40;
        for k in 0..n {
            words[3 + k] = self.dims[k]
                | u64::from(self.boxes[k] - 1) << 40
                | u64::from(self.element_strides[k] - 1) << 52;
        }
        words[8..7 + n].copy_from_slice(&self.strides);
        (words[12], words[13]) = self.allocation;
        words[15] = hash(&words);
        Ok(words)
    }

    /// Reads an encoded map; none if it is not one or was changed.
    pub fn decode(words: &TensorMap) -> Option<Tensor> {
        if words[0] != MAGIC || words[15] != hash(words) {
            return None;
        }
        let field = |shift: u32| (words[2] >> shift & 0xff) as u32;
        let n = field(8) as usize;
        let per = |f: &dyn Fn(u64) -> u64| (0..n).map(|k| f(words[3 + k])).collect::<Vec<u64>>();
        Some(Tensor {
            element: field(0),
            address: words[1],
            dims: per(&|w| w & 0xff_ffff_ffff),
            strides: words[8..7 + n].to_vec(),
            boxes: per(&|w| (w >> 40 & 0xfff) + 1).into_iter().map(|b| b as u32).collect(),
            element_strides: per(&|w| (w >> 52) + 1).into_iter().map(|s| s as u32).collect(),
            interleave: field(16),
            swizzle: field(24),
            promotion: field(32),
            fill: field(40),
            allocation: (words[12], words[13]),
        })
    }
}

fn hash(words: &TensorMap) -> u64 {
    words[..15]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

/// A tensor map of a case, encoded.
pub(crate) fn encode_case_map(
    map: &Value,
    buffers: &BTreeMap<String, (u64, u64)>,
) -> Result<Vec<u8>, String> {
    let text = |key: &str| map.get(key).and_then(Value::as_str).unwrap_or("");
    let numbers = |key: &str| -> Vec<u64> {
        let list = map.get(key).and_then(Value::as_array);
        list.map(|l| l.iter().filter_map(Value::as_u64).collect()).unwrap_or_default()
    };
    let small = |key: &str| numbers(key).into_iter().map(|n| n as u32).collect::<Vec<u32>>();
    let number = |key: &str, names: &[&str]| {
        names
            .iter()
            .position(|n| *n == text(key))
            .map(|n| n as u32)
            .ok_or_else(|| format!("tensor map: {key} {:?}", text(key)))
    };
    let buffer = text("buffer");
    let allocation = *buffers.get(buffer).ok_or_else(|| format!("no buffer is called {buffer}"))?;
    let types = [
        "u8", "u16", "u32", "s32", "u64", "s64", "f16", "f32", "f64", "bf16", "f32ftz", "tf32",
        "tf32ftz",
    ];
    let tensor = Tensor {
        element: number("type", &types)?,
        address: allocation.0,
        dims: numbers("dim"),
        strides: numbers("stride_bytes"),
        boxes: small("box"),
        element_strides: small("elem_stride"),
        interleave: number("interleave", &["none", "16B", "32B"])?,
        swizzle: number("swizzle", &["none", "32B", "64B", "128B"])?,
        promotion: 0,
        fill: number("oob", &["zero", "nan"])?,
        allocation,
    };
    let words = tensor.encode().map_err(|rule| format!("tensor map: {rule}"))?;
    Ok(words.iter().flat_map(|w| w.to_le_bytes()).collect())
}
