//! Full softmax attention, FlashAttention's function.
//!
//! ```text
//! s    = softmax_scale · q_i·k_j
//! s    = softcap · tanh(s / softcap)              if softcap > 0
//! s    = s − alibi_slopes[h] · |δ|                if alibi;   δ = i + seqlen_k − seqlen_q − j
//! s    = s + bias[b, h, i, j]                     if bias
//! s    = s + bias_table[bucket(δ), h]              if buckets
//! row  = { j : −right ≤ δ ≤ left;  causal ⇒ δ ≥ 0;  key_valid[b, j] }
//! out  = softmax over row of s, times v;   lse = ln Σ exp s
//! ```
//!
//! A row with nothing to attend (no key allowed, or every score −inf) has `out = 0`, `lse = −inf`
//! and passes no gradient on. Sequences of different lengths are aligned at their ends
//! (bottom-right), as in FlashAttention ≥ 2.1.

mod buckets;
mod inputs;
mod reference;

#[cfg(feature = "webgpu")]
pub mod config;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(feature = "webgpu")]
pub mod webgpu;

pub use buckets::Buckets;
pub use inputs::Inputs;
pub use reference::{Gradients, Output};

use crate::problem::product;
use crate::{DType, Error, Shape, Strides, Window};

/// The largest head dimension any kernel has.
pub const MAX_HEAD_DIM: usize = 256;

/// Where the elements of the four large tensors lie. `k` and `v` have `heads_kv` heads, `q` and
/// `out` have `heads_q`. Ragged tensors are `[total, heads, head_dim]`; their batch step is unused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Layout {
    /// Steps of the queries.
    pub q: Strides,
    /// Steps of the keys.
    pub k: Strides,
    /// Steps of the values.
    pub v: Strides,
    /// Steps of the result.
    pub out: Strides,
}

impl Layout {
    /// Contiguous `[batch, seqlen, heads, head_dim]`: the default.
    pub fn bshd(s: &Shape) -> Self {
        let q = Strides::bshd(s.seqlen_q, s.heads_q, s.head_dim);
        let k = Strides::bshd(s.seqlen_k, s.heads_kv, s.head_dim);
        Layout { q, k, v: k, out: q }
    }

    /// Contiguous `[batch, heads, seqlen, head_dim]`.
    pub fn bhsd(s: &Shape) -> Self {
        let q = Strides::bhsd(s.seqlen_q, s.heads_q, s.head_dim);
        let k = Strides::bhsd(s.seqlen_k, s.heads_kv, s.head_dim);
        Layout { q, k, v: k, out: q }
    }
}

/// An additive bias `[batch or 1, heads_q or 1, seqlen_q, seqlen_k]`, f32 and contiguous.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bias {
    /// Each sequence has its own (else the first dimension is 1).
    pub per_batch: bool,
    /// Each head has its own (else the second dimension is 1).
    pub per_head: bool,
}

/// Sequences packed one after another, `[total, heads, head_dim]`, with `cu_seqlens` (i32,
/// `[batch + 1]`, from 0, ascending) saying where each begins. `lse` is `[heads_q, total_q]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ragged {
    /// Queries of all sequences.
    pub total_q: usize,
    /// Keys of all sequences.
    pub total_k: usize,
}

/// One full-attention problem: plain data, no device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Full {
    /// Sizes. With `ragged`, the two lengths are those of the longest sequences.
    pub shape: Shape,
    /// Storage of `q`, `k`, `v`, `out` on a device. The reference takes what it is given.
    pub dtype: DType,
    /// Where the tensors' elements lie.
    pub layout: Layout,
    /// Only keys at or before the query's position, aligned at the ends.
    pub causal: bool,
    /// Only keys near the query's position.
    pub window: Window,
    /// What `q·k` is multiplied by. Default `1/sqrt(head_dim)`.
    pub softmax_scale: f64,
    /// Soft limit of the scaled scores; 0 is none.
    pub softcap: f64,
    /// `alibi_slopes` (f32, `[heads_q]`) are given.
    pub alibi: bool,
    /// `bias` is given.
    pub bias: Option<Bias>,
    /// `bias_table` (f32, `[num_buckets, heads_q]`) is given: T5's bias, never as a matrix.
    pub buckets: Option<Buckets>,
    /// `key_valid` (u8, `[batch, seqlen_k]`, 0 or 1) is given.
    pub key_padding: bool,
    /// The sequences are packed.
    pub ragged: Option<Ragged>,
}

impl Full {
    /// A problem with no mask, contiguous tensors and the scale `1/sqrt(head_dim)`.
    pub fn new(shape: Shape, dtype: DType) -> Self {
        Full {
            shape,
            dtype,
            layout: Layout::bshd(&shape),
            causal: false,
            window: Window::FULL,
            softmax_scale: 1.0 / (shape.head_dim.max(1) as f64).sqrt(),
            softcap: 0.0,
            alibi: false,
            bias: None,
            buckets: None,
            key_padding: false,
            ragged: None,
        }
    }

    /// No key after the query's position.
    pub fn causal(self) -> Self {
        Full { causal: true, ..self }
    }

    /// Keys near the query only.
    pub fn window(self, window: Window) -> Self {
        Full { window, ..self }
    }

    /// Another scale than `1/sqrt(head_dim)`.
    pub fn softmax_scale(self, softmax_scale: f64) -> Self {
        Full { softmax_scale, ..self }
    }

    /// `s = softcap · tanh(s / softcap)`.
    pub fn softcap(self, softcap: f64) -> Self {
        Full { softcap, ..self }
    }

    /// Linear position bias with a slope per head.
    pub fn alibi(self) -> Self {
        Full { alibi: true, ..self }
    }

    /// An additive bias.
    pub fn bias(self, bias: Bias) -> Self {
        Full { bias: Some(bias), ..self }
    }

    /// A bias for each head and bucket of distances.
    pub fn buckets(self, buckets: Buckets) -> Self {
        Full { buckets: Some(buckets), ..self }
    }

    /// A mask of valid keys.
    pub fn key_padding(self) -> Self {
        Full { key_padding: true, ..self }
    }

    /// Packed sequences; `shape.seqlen_q` and `.seqlen_k` are the longest.
    pub fn ragged(self, ragged: Ragged) -> Self {
        Full { ragged: Some(ragged), ..self }
    }

    /// Other strides than contiguous `[batch, seqlen, heads, head_dim]`.
    pub fn layout(self, layout: Layout) -> Self {
        Full { layout, ..self }
    }

    /// The window with `causal` folded in.
    pub fn mask(&self) -> Window {
        let right = if self.causal { Some(0) } else { self.window.right };
        Window { left: self.window.left, right }
    }

    /// Rejects what has no meaning.
    pub fn validate(&self) -> Result<(), Error> {
        let s = &self.shape;
        if s.heads_kv == 0 || s.heads_q == 0 || !s.heads_q.is_multiple_of(s.heads_kv) {
            let value = format!("{} / heads_kv {}", s.heads_q, s.heads_kv);
            return Err(Error::invalid(
                "shape.heads_q",
                value,
                "both must be positive and heads_q a multiple of heads_kv",
            ));
        }
        if s.head_dim == 0 || s.head_dim > MAX_HEAD_DIM {
            let rule = format!("must be from 1 to {MAX_HEAD_DIM}");
            return Err(Error::invalid("shape.head_dim", s.head_dim, rule));
        }
        if !self.softmax_scale.is_finite() || !(self.softmax_scale as f32).is_finite() {
            return Err(Error::invalid(
                "softmax_scale",
                self.softmax_scale,
                "must be finite in f32",
            ));
        }
        if !(self.softcap as f32).is_finite() || self.softcap < 0.0 {
            return Err(Error::invalid(
                "softcap",
                self.softcap,
                "must be finite and at least 0 (0 is none)",
            ));
        }
        if let Some(buckets) = &self.buckets {
            buckets.validate()?;
        }
        if let Some(r) = &self.ragged {
            if self.bias.is_some() {
                return Err(Error::invalid("bias", "given", "not defined for ragged sequences"));
            }
            if self.key_padding {
                return Err(Error::invalid(
                    "key_padding",
                    "true",
                    "not defined for ragged sequences: leave the padding out",
                ));
            }
            for (field, longest, total) in [
                ("ragged.total_q", s.seqlen_q, r.total_q),
                ("ragged.total_k", s.seqlen_k, r.total_k),
            ] {
                let most = longest.saturating_mul(s.batch);
                if total > most || longest > total {
                    let rule = format!(
                        "must lie between the longest sequence ({longest}) and batch x longest ({most})"
                    );
                    return Err(Error::invalid(field, total, rule));
                }
            }
        }
        for (name, n) in [("batch", s.batch), ("seqlen_q", s.seqlen_q), ("seqlen_k", s.seqlen_k)] {
            if n > i32::MAX as usize {
                return Err(Error::invalid(format!("shape.{name}"), n, "must be below 2^31"));
            }
        }
        product("shape", &[s.batch, s.heads_q, s.seqlen_q])?;
        if let Some(bias) = &self.bias {
            product("bias", &self.bias_dims(bias))?;
        }
        for (name, strides, seqlen, heads) in self.tensors() {
            let (batch, seqlen) = (self.batches(), seqlen);
            let span = strides
                .span(batch, seqlen, heads, s.head_dim)
                .filter(|&n| n <= isize::MAX as usize / 8);
            if span.is_none() {
                let value = format!("{strides:?} of [{batch}, {seqlen}, {heads}, {}]", s.head_dim);
                return Err(Error::invalid(
                    format!("layout.{name}"),
                    value,
                    "the size overflows the address space",
                ));
            }
        }
        if !self.layout.out.is_injective(self.batches(), self.rows_q(), s.heads_q, s.head_dim) {
            let value = format!("{:?}", self.layout.out);
            return Err(Error::invalid(
                "layout.out",
                value,
                "elements of the result must not share a place",
            ));
        }
        Ok(())
    }

    /// Floating-point operations of the forward pass that the mask leaves: two per multiply-add,
    /// two products. Key padding and ragged lengths, which are data, are not looked at.
    pub fn flops(&self) -> f64 {
        let s = &self.shape;
        let mask = self.mask();
        let pairs: f64 =
            (0..s.seqlen_q).map(|i| mask.keys(i, s.seqlen_q, s.seqlen_k).len() as f64).sum();
        4.0 * pairs * (s.batch * s.heads_q * s.head_dim) as f64
    }

    /// Bytes of `q`, `k`, `v`, `out` and `lse`: what a forward pass must at least move.
    pub fn bytes(&self) -> f64 {
        let s = &self.shape;
        let (rows_q, rows_k) =
            ((self.batches() * self.rows_q()) as f64, (self.batches() * self.rows_k()) as f64);
        let elements = 2.0 * rows_q * (s.heads_q * s.head_dim) as f64
            + 2.0 * rows_k * (s.heads_kv * s.head_dim) as f64;
        elements * self.dtype.bytes() as f64 + 4.0 * rows_q * s.heads_q as f64
    }

    /// The first dimension of the tensors: the batch, or 1 if ragged.
    pub fn batches(&self) -> usize {
        if self.ragged.is_some() { 1 } else { self.shape.batch }
    }

    /// Positions in `q` and `out` per [`batches`](Self::batches).
    pub fn rows_q(&self) -> usize {
        self.ragged.map_or(self.shape.seqlen_q, |r| r.total_q)
    }

    /// Positions in `k` and `v` per [`batches`](Self::batches).
    pub fn rows_k(&self) -> usize {
        self.ragged.map_or(self.shape.seqlen_k, |r| r.total_k)
    }

    /// Elements of `lse`.
    pub fn lse_len(&self) -> usize {
        self.batches() * self.shape.heads_q * self.rows_q()
    }

    /// Elements spanned by each of `q`, `k`, `v`, `out`. The problem must be valid.
    pub fn spans(&self) -> [usize; 4] {
        self.tensors().map(|(_, strides, seqlen, heads)| {
            strides.span(self.batches(), seqlen, heads, self.shape.head_dim).unwrap_or(usize::MAX)
        })
    }

    /// Dimensions of the bias.
    pub fn bias_dims(&self, bias: &Bias) -> [usize; 4] {
        let s = &self.shape;
        let batch = if bias.per_batch { s.batch } else { 1 };
        let heads = if bias.per_head { s.heads_q } else { 1 };
        [batch, heads, s.seqlen_q, s.seqlen_k]
    }

    fn tensors(&self) -> [(&'static str, Strides, usize, usize); 4] {
        let (s, l) = (&self.shape, &self.layout);
        [
            ("q", l.q, self.rows_q(), s.heads_q),
            ("k", l.k, self.rows_k(), s.heads_kv),
            ("v", l.v, self.rows_k(), s.heads_kv),
            ("out", l.out, self.rows_q(), s.heads_q),
        ]
    }
}
