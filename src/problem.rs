//! What all kinds of attention share: shapes, strides, element types, windows.

use crate::Error;

/// How a device stores `q`, `k`, `v` and `out`. Accumulation is in f32 whatever the storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32.
    BF16,
}

impl DType {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
        }
    }

    /// `f32`, `f16` or `bf16`.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
        }
    }

    /// `x` as it is after storage in this type (round to nearest even).
    pub fn round(self, x: f64) -> f64 {
        match self {
            DType::F32 => f64::from(x as f32),
            DType::F16 => half::f16::from_f64(x).to_f64(),
            DType::BF16 => half::bf16::from_f64(x).to_f64(),
        }
    }

    /// `values` as they are stored.
    #[cfg(any(feature = "cuda", feature = "webgpu"))]
    pub(crate) fn encode(self, values: &[f32]) -> Vec<u8> {
        let values = values.iter().copied();
        match self {
            DType::F32 => values.flat_map(f32::to_le_bytes).collect(),
            DType::F16 => values.flat_map(|x| half::f16::from_f32(x).to_le_bytes()).collect(),
            DType::BF16 => values.flat_map(|x| half::bf16::from_f32(x).to_le_bytes()).collect(),
        }
    }

    /// The values that `bytes` store.
    #[cfg(any(feature = "cuda", feature = "webgpu"))]
    pub(crate) fn decode(self, bytes: &[u8]) -> Vec<f32> {
        let pairs = || bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
        match self {
            DType::F32 => {
                let words = bytes.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]);
                words.map(f32::from_le_bytes).collect()
            }
            DType::F16 => pairs().map(|b| half::f16::from_le_bytes(b).to_f32()).collect(),
            DType::BF16 => pairs().map(|b| half::bf16::from_le_bytes(b).to_f32()).collect(),
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for DType {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self, Error> {
        match s {
            "f32" => Ok(DType::F32),
            "f16" => Ok(DType::F16),
            "bf16" => Ok(DType::BF16),
            _ => Err(Error::invalid("dtype", s, "must be f32, f16 or bf16")),
        }
    }
}

/// Sizes of one attention problem. Any of `batch`, `seqlen_q` and `seqlen_k` may be 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Sequences.
    pub batch: usize,
    /// Query heads; a multiple of `heads_kv`.
    pub heads_q: usize,
    /// Key/value heads. Query head `h` reads key/value head `h / (heads_q / heads_kv)`.
    pub heads_kv: usize,
    /// Queries per sequence (ragged: of the longest).
    pub seqlen_q: usize,
    /// Keys per sequence (ragged: of the longest).
    pub seqlen_k: usize,
    /// Elements of one row, 1 to 256.
    pub head_dim: usize,
}

/// Steps between neighbours, in elements; `head_dim` is always contiguous. An input may repeat
/// itself with a step of 0. A ragged tensor has no batch step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Strides {
    /// From one sequence to the next.
    pub batch: usize,
    /// From one position to the next.
    pub seqlen: usize,
    /// From one head to the next.
    pub head: usize,
}

impl Strides {
    /// `[batch, seqlen, heads, head_dim]`, contiguous.
    pub fn bshd(seqlen: usize, heads: usize, head_dim: usize) -> Self {
        Strides {
            batch: seqlen.saturating_mul(heads).saturating_mul(head_dim),
            seqlen: heads.saturating_mul(head_dim),
            head: head_dim,
        }
    }

    /// `[batch, heads, seqlen, head_dim]`, contiguous.
    pub fn bhsd(seqlen: usize, heads: usize, head_dim: usize) -> Self {
        Strides {
            batch: seqlen.saturating_mul(heads).saturating_mul(head_dim),
            seqlen: head_dim,
            head: seqlen.saturating_mul(head_dim),
        }
    }

    /// Elements from the first to one past the last of a `[batch, seqlen, heads, head_dim]`
    /// tensor, or `None` if that overflows.
    pub fn span(
        &self,
        batch: usize,
        seqlen: usize,
        heads: usize,
        head_dim: usize,
    ) -> Option<usize> {
        if batch == 0 || seqlen == 0 || heads == 0 || head_dim == 0 {
            return Some(0);
        }
        let b = (batch - 1).checked_mul(self.batch)?;
        let s = (seqlen - 1).checked_mul(self.seqlen)?;
        let h = (heads - 1).checked_mul(self.head)?;
        b.checked_add(s)?.checked_add(h)?.checked_add(head_dim)
    }

    /// Whether no two elements of a tensor of these sizes share a place.
    pub(crate) fn is_injective(
        &self,
        batch: usize,
        seqlen: usize,
        heads: usize,
        head_dim: usize,
    ) -> bool {
        if batch == 0 || seqlen == 0 || heads == 0 {
            return true;
        }
        let mut axes = [(self.batch, batch), (self.seqlen, seqlen), (self.head, heads)];
        if axes.iter().any(|&(_, len)| len == 0) {
            return true;
        }
        axes.sort_unstable();
        let mut extent = head_dim;
        for (step, len) in axes {
            if len <= 1 {
                continue;
            }
            if step < extent {
                return false;
            }
            extent = (len - 1).saturating_mul(step).saturating_add(extent);
        }
        true
    }
}

/// How far a query at position `i` sees: keys `i - left ..= i + right`, positions aligned at the
/// sequences' ends. `None` is no limit on that side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Window {
    /// Keys before the query's own position.
    pub left: Option<usize>,
    /// Keys after it.
    pub right: Option<usize>,
}

impl Window {
    /// No limit.
    pub const FULL: Window = Window { left: None, right: None };

    /// `left` keys before the query, none forbidden after it.
    pub fn left(left: usize) -> Self {
        Window { left: Some(left), right: None }
    }

    /// `left` keys before and `right` after.
    pub fn new(left: usize, right: usize) -> Self {
        Window { left: Some(left), right: Some(right) }
    }

    /// The keys that query `i` of `seqlen_q` may see among `seqlen_k`, as a range (empty:
    /// `start == end`). Query `i` stands at position `i + seqlen_k - seqlen_q`.
    pub fn keys(&self, i: usize, seqlen_q: usize, seqlen_k: usize) -> std::ops::Range<usize> {
        let position = i as i128 + seqlen_k as i128 - seqlen_q as i128;
        let clamp = |x: i128| x.clamp(0, seqlen_k as i128) as usize;
        let start = self.left.map_or(0, |l| clamp(position - l as i128));
        let end = self.right.map_or(seqlen_k, |r| clamp(position + r as i128 + 1));
        start..end.max(start)
    }
}

/// The product of `factors`, or the error that `field` is too large to address.
pub(crate) fn product(field: &str, factors: &[usize]) -> Result<usize, Error> {
    factors
        .iter()
        .try_fold(1usize, |n, &f| n.checked_mul(f))
        .filter(|&n| n <= isize::MAX as usize / 8)
        .ok_or_else(|| {
            let value: Vec<String> = factors.iter().map(usize::to_string).collect();
            Error::invalid(field, value.join(" x "), "the size overflows the address space")
        })
}

/// Declines more elements than the small kernels' indices count.
#[cfg(any(feature = "cuda", feature = "webgpu"))]
pub(crate) fn counted(elements: usize) -> Result<(), Error> {
    if elements > i32::MAX as usize {
        let reason = format!("{elements} elements, the kernel's indices need fewer than 2^31");
        return Err(crate::Declined::new(reason).into());
    }
    Ok(())
}

/// The tensor `name` has the elements that its shape and strides need.
pub(crate) fn at_least(name: &str, got: usize, needed: usize) -> Result<(), Error> {
    if got < needed {
        return Err(Error::invalid(
            format!("{name}.len"),
            got,
            format!("the shape and strides need {needed} elements"),
        ));
    }
    Ok(())
}

/// The tensor `name` is given if and only if the problem says so, and has the size it says.
pub(crate) fn exactly(name: &str, got: Option<usize>, needed: Option<usize>) -> Result<(), Error> {
    match (got, needed) {
        (None, None) => Ok(()),
        (Some(got), Some(needed)) if got == needed => Ok(()),
        (Some(got), Some(needed)) => Err(Error::invalid(
            format!("{name}.len"),
            got,
            format!("the problem needs {needed} elements"),
        )),
        (None, Some(_)) => Err(Error::invalid(name, "absent", "the problem says that it is given")),
        (Some(_), None) => {
            Err(Error::invalid(name, "given", "the problem says that there is none"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_aligned_at_the_ends_and_never_inverted() {
        let causal = Window { left: None, right: Some(0) };
        assert_eq!(causal.keys(0, 4, 4), 0..1);
        assert_eq!(causal.keys(0, 2, 5), 0..4);
        assert_eq!(causal.keys(0, 5, 2), 0..0);
        assert_eq!(Window::new(1, 1).keys(3, 8, 8), 2..5);
        assert_eq!(Window::new(1, 0).keys(0, 9, 2), 0..0);
        assert_eq!(Window::left(0).keys(1, 4, 4), 1..4);
        assert_eq!(Window::new(usize::MAX, usize::MAX).keys(3, 4, 4), 0..4);
    }

    #[test]
    fn overlapping_strides_are_seen() {
        let s = Strides::bshd(3, 2, 8);
        assert!(s.is_injective(2, 3, 2, 8));
        assert!(Strides::bhsd(3, 2, 8).is_injective(2, 3, 2, 8));
        assert!(!Strides { head: 4, ..s }.is_injective(2, 3, 2, 8));
        assert!(!Strides { batch: 0, ..s }.is_injective(2, 3, 2, 8));
        assert!(Strides { batch: 0, ..s }.is_injective(1, 3, 2, 8));
        assert!(Strides::bshd(0, 2, 8).is_injective(2, 0, 2, 8), "nothing shares nothing");
    }
}
