//! Longformer's attention (Beltagy, Peters and Cohan, 2020): a sliding window, and a few global
//! positions that see everything and that everything sees.
//!
//! ```text
//! G        = global_indices[b] with key_valid = 1
//! band(i)  = { i + t · dilation[h] : −left ≤ t ≤ right }, inside the sequence
//! i ∉ G:     out_i = softmax over j ∈ (band(i) ∪ G), j valid, of  scale · q_i·k_j           times v_j
//! i ∈ G:     out_i = softmax over every valid j of  scale · q_global_i·k_global_j           times v_global_j
//! causal:    in both kinds of row only j ≤ i
//! i invalid: out = 0, lse = −inf
//! ```
//!
//! A global key that lies in the band too counts once. Local rows see global keys through `k` and
//! `v`, not through `k_global` and `v_global`. The window counts keys: with a dilation of n it
//! reaches n times as far; it ends at the ends of the sequence and is neither shifted nor wrapped.
//! There is no condition on the length. A listed position that is not valid is not global: padding
//! wins. `lse` is that of the row that gives `out`.
//!
//! Hugging Face's `LongformerSelfAttention` computes this for windows of an even size and padded
//! lengths. NeMo's dialect (globals counted twice), BigBird's blocks and
//! `sliding_chunks_no_overlap` are other functions.

#[cfg(feature = "webgpu")]
pub mod config;
mod convert;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod inputs;
mod reference;
#[cfg(feature = "webgpu")]
pub mod webgpu;

pub use convert::{globals_from_mask, masks_from_hugging_face};
pub use inputs::Inputs;
pub use reference::{Gradients, Output};

use crate::problem::product;
use crate::{DType, Error, Strides};

/// Where the elements of the large tensors lie; all are `[batch, seqlen, heads, head_dim]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Layout {
    /// Steps of the local queries.
    pub q: Strides,
    /// Steps of the local keys.
    pub k: Strides,
    /// Steps of the local values.
    pub v: Strides,
    /// Steps of the global queries.
    pub q_global: Strides,
    /// Steps of the global keys.
    pub k_global: Strides,
    /// Steps of the global values.
    pub v_global: Strides,
    /// Steps of the result.
    pub out: Strides,
}

impl Layout {
    /// The same steps for every tensor.
    pub fn of(strides: Strides) -> Self {
        Layout {
            q: strides,
            k: strides,
            v: strides,
            q_global: strides,
            k_global: strides,
            v_global: strides,
            out: strides,
        }
    }
}

/// One Longformer problem: plain data, no device.
#[derive(Debug, Clone, PartialEq)]
pub struct Longformer {
    /// Sequences; may be 0.
    pub batch: usize,
    /// Positions; may be 0.
    pub seqlen: usize,
    /// Heads.
    pub heads: usize,
    /// Elements of one row, 1 to 256.
    pub head_dim: usize,
    /// Storage of the large tensors on a device. The reference takes what it is given.
    pub dtype: DType,
    /// Where the tensors' elements lie.
    pub layout: Layout,
    /// Keys before the position.
    pub left: usize,
    /// Keys after it.
    pub right: usize,
    /// Only `j ≤ i`, for local and global rows.
    pub causal: bool,
    /// Distance of neighbouring keys of the band, per head; empty: 1 everywhere.
    pub dilation: Vec<u32>,
    /// What `q·k` is multiplied by, in local and global rows. Default `1/sqrt(head_dim)`.
    pub softmax_scale: f64,
    /// Positions that `global_indices` may list per sequence: its second dimension. 0: none, and
    /// no global tensors.
    pub max_globals: usize,
    /// The global rows use `q`, `k` and `v`; `q_global`, `k_global` and `v_global` are not given.
    pub shared_projections: bool,
    /// `key_valid` (u8, `[batch, seqlen]`, 0 or 1) is given.
    pub key_padding: bool,
}

impl Longformer {
    /// `window` keys on each side, no globals, contiguous tensors, the scale `1/sqrt(head_dim)`.
    pub fn new([batch, seqlen, heads, head_dim]: [usize; 4], window: usize, dtype: DType) -> Self {
        Longformer {
            batch,
            seqlen,
            heads,
            head_dim,
            dtype,
            layout: Layout::of(Strides::bshd(seqlen, heads, head_dim)),
            left: window,
            right: window,
            causal: false,
            dilation: Vec::new(),
            softmax_scale: 1.0 / (head_dim.max(1) as f64).sqrt(),
            max_globals: 0,
            shared_projections: false,
            key_padding: false,
        }
    }

    /// Only keys at or before the position: the autoregressive form.
    pub fn causal(self) -> Self {
        Longformer { causal: true, ..self }
    }

    /// Other numbers of keys before and after.
    pub fn window(self, left: usize, right: usize) -> Self {
        Longformer { left, right, ..self }
    }

    /// Gaps between the band's keys, per head.
    pub fn dilation(self, dilation: &[u32]) -> Self {
        Longformer { dilation: dilation.to_vec(), ..self }
    }

    /// Up to `max_globals` global positions per sequence.
    pub fn globals(self, max_globals: usize) -> Self {
        Longformer { max_globals, ..self }
    }

    /// Global rows use the local projections.
    pub fn shared_projections(self) -> Self {
        Longformer { shared_projections: true, ..self }
    }

    /// A mask of valid positions.
    pub fn key_padding(self) -> Self {
        Longformer { key_padding: true, ..self }
    }

    /// Another scale than `1/sqrt(head_dim)`.
    pub fn softmax_scale(self, softmax_scale: f64) -> Self {
        Longformer { softmax_scale, ..self }
    }

    /// Other strides than contiguous `[batch, seqlen, heads, head_dim]`.
    pub fn layout(self, layout: Layout) -> Self {
        Longformer { layout, ..self }
    }

    /// Distance of neighbouring keys of head `h`'s band.
    pub fn dilation_of(&self, h: usize) -> usize {
        self.dilation.get(h).map_or(1, |&n| n as usize)
    }

    /// Keys after the position that a row may see: none if causal.
    pub fn right_of_band(&self) -> usize {
        if self.causal { 0 } else { self.right }
    }

    /// Whether there are tensors of their own for global rows.
    pub fn has_global_tensors(&self) -> bool {
        self.max_globals > 0 && !self.shared_projections
    }

    /// The band of row `i` of head `h`: its first key, the step and how many.
    pub fn band(&self, i: usize, h: usize) -> (usize, usize, usize) {
        let step = self.dilation_of(h);
        let before = self.left.min(i / step);
        let after = self.right_of_band().min((self.seqlen - 1 - i) / step);
        (i - before * step, step, before + 1 + after)
    }

    /// Rejects what has no meaning.
    pub fn validate(&self) -> Result<(), Error> {
        if self.heads == 0 {
            return Err(Error::invalid("heads", 0, "must be positive"));
        }
        if self.head_dim == 0 || self.head_dim > crate::full::MAX_HEAD_DIM {
            let rule = format!("must be from 1 to {}", crate::full::MAX_HEAD_DIM);
            return Err(Error::invalid("head_dim", self.head_dim, rule));
        }
        if !(self.softmax_scale as f32).is_finite() {
            return Err(Error::invalid(
                "softmax_scale",
                self.softmax_scale,
                "must be finite in f32",
            ));
        }
        for (name, n) in [
            ("batch", self.batch),
            ("seqlen", self.seqlen),
            ("left", self.left),
            ("right", self.right),
        ] {
            if n > i32::MAX as usize {
                return Err(Error::invalid(name, n, "must be below 2^31"));
            }
        }
        if !self.dilation.is_empty() && self.dilation.len() != self.heads {
            let rule = format!("must have one entry per head, {}, or none", self.heads);
            return Err(Error::invalid("dilation.len", self.dilation.len(), rule));
        }
        if let Some((h, n)) =
            self.dilation.iter().enumerate().find(|(_, n)| !(1..1 << 31).contains(*n))
        {
            return Err(Error::invalid(
                format!("dilation[{h}]"),
                n,
                "must be from 1 to 2147483647",
            ));
        }
        if self.max_globals > self.seqlen {
            let rule = format!("there are {} positions", self.seqlen);
            return Err(Error::invalid("max_globals", self.max_globals, rule));
        }
        product("lse", &[self.batch, self.heads, self.seqlen])?;
        product("global_indices", &[self.batch, self.max_globals])?;
        for (name, strides) in self.tensors() {
            let span = strides
                .span(self.batch, self.seqlen, self.heads, self.head_dim)
                .filter(|&n| n <= isize::MAX as usize / 8);
            if span.is_none() {
                let value = format!("{strides:?}");
                return Err(Error::invalid(
                    format!("layout.{name}"),
                    value,
                    "the size overflows the address space",
                ));
            }
        }
        if !self.layout.out.is_injective(self.batch, self.seqlen, self.heads, self.head_dim) {
            return Err(Error::invalid(
                "layout.out",
                format!("{:?}", self.layout.out),
                "elements of the result must not share a place",
            ));
        }
        Ok(())
    }

    /// Elements spanned by a tensor with these strides. The problem must be valid.
    pub fn span(&self, strides: &Strides) -> usize {
        strides.span(self.batch, self.seqlen, self.heads, self.head_dim).unwrap_or(usize::MAX)
    }

    /// Elements of `lse`.
    pub fn lse_len(&self) -> usize {
        self.batch * self.heads * self.seqlen
    }

    /// Floating-point operations of the forward pass with `globals` positions per sequence: two per
    /// multiply-add, two products. Padding, which is data, is not looked at.
    pub fn flops(&self, globals: usize) -> f64 {
        let (n, g) = (self.seqlen, globals.min(self.seqlen) as f64);
        let mut pairs = 0.0;
        for h in 0..self.heads {
            let band: f64 = (0..n).map(|i| self.band(i, h).2 as f64).sum();
            // Spread evenly, a share g/n of the band is global and a share g/n of the rows.
            let seen = if self.causal { 0.5 } else { 1.0 };
            let local = band * (1.0 - g / n.max(1) as f64) + g * n as f64 * seen;
            pairs += local * (1.0 - g / n.max(1) as f64) + g * n as f64 * seen;
        }
        4.0 * pairs * (self.batch * self.head_dim) as f64
    }

    /// Bytes of the local tensors, `out` and `lse`: what a forward pass must at least move.
    pub fn bytes(&self) -> f64 {
        let rows = (self.batch * self.seqlen * self.heads) as f64;
        rows * (4 * self.head_dim * self.dtype.bytes() + 4) as f64
    }

    pub(crate) fn tensors(&self) -> Vec<(&'static str, Strides)> {
        let l = &self.layout;
        let mut all = vec![("q", l.q), ("k", l.k), ("v", l.v), ("out", l.out)];
        if self.has_global_tensors() {
            all.extend([
                ("q_global", l.q_global),
                ("k_global", l.k_global),
                ("v_global", l.v_global),
            ]);
        }
        all
    }
}
