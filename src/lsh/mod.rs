//! Reformer's attention (Kitaev, Kaiser and Levskaya, 2020): queries that are also the keys, hashed
//! so that likely pairs share a bucket, sorted by bucket, and attended chunk by chunk.
//!
//! ```text
//! C = chunk_len,  n = product of num_buckets;  in each round r = 0 … num_hashes − 1:
//! y       = qk_i · rotations[h, :, r, factor]       for each factor f of num_buckets: f/2 numbers
//! b_f     = argmax [y ; −y], the first if equal     in [0, f)
//! bucket  = b_0 + f_0·b_1 + f_0·f_1·b_2 …           an invalid position: n, the last
//! order   = positions by (bucket, position), filled up at its end to a multiple of C with nothing
//! chunk   = C items of the order; the rounds' chunks stand one after another, in one ring
//! seen(i) = the items of chunks c − chunks_before … c + chunks_after, c that of i, modulo the ring
//!
//! k̂_j     = qk_j / sqrt(mean(qk_j²) + key_norm_eps)
//! s       = softmax_scale · qk_i·k̂_j
//! s       = mask_value         if j is invalid, or causal and j > i
//! s       = self_mask_value    if j = i             (last: it replaces mask_value)
//! o_r, lse_r: softmax over seen(i) of s, times v_j, and its logsumexp
//! lse     = logsumexp_r lse_r
//! out_i   = Σ_r exp(lse_r − lse) o_r
//! ```
//!
//! A pair met in several rounds, or twice in one, counts each time, as in trax and Hugging Face;
//! with [`Lsh::duplicates_once`] its score loses ln N for the N times that row i meets it, so that
//! it counts once. With `seqlen ≤ chunk_len` nothing is hashed: every position sees every position,
//! in one round. The masks are finite, so no row is empty: one with nothing else to see gives its
//! own `v`. Queries of invalid positions are computed like any other.
//!
//! [`Wrap::AcrossRounds`] is the ring of the published checkpoints: the first chunk of a round sees
//! the last of the round before. [`Wrap::PerRound`] closes a ring in each round.
//!
//! trax subtracts its masks instead of replacing the score, which is the same in practice;
//! `reformer_pytorch` scales by 1/√d once more (another `softmax_scale` here) and counts pairs
//! otherwise.

#[cfg(feature = "webgpu")]
pub mod config;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod inputs;
mod reference;
mod rotations;
#[cfg(any(feature = "cuda", feature = "webgpu"))]
mod stages;
#[cfg(feature = "webgpu")]
pub mod webgpu;

pub use inputs::Inputs;
pub use reference::{Gradients, NearTie, Output};
#[cfg(any(feature = "cuda", feature = "webgpu"))]
pub use stages::StageTiming;

use crate::problem::product;
use crate::{DType, Error, Strides};

/// The most buckets of a round.
pub const MAX_BUCKETS: usize = 1 << 20;

/// Where the elements of the large tensors lie; all are `[batch, seqlen, heads, head_dim]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Layout {
    /// Steps of the shared queries and keys.
    pub qk: Strides,
    /// Steps of the values.
    pub v: Strides,
    /// Steps of the result.
    pub out: Strides,
}

impl Layout {
    /// The same steps for every tensor.
    pub fn of(strides: Strides) -> Self {
        Layout { qk: strides, v: strides, out: strides }
    }
}

/// What the first chunk's neighbour before it is, and the last one's after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wrap {
    /// All rounds' chunks form one ring: trax, Hugging Face and their checkpoints.
    AcrossRounds,
    /// Each round's chunks form a ring.
    PerRound,
}

/// One problem of LSH attention: plain data, no device.
#[derive(Debug, Clone, PartialEq)]
pub struct Lsh {
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
    /// Items of a chunk.
    pub chunk_len: usize,
    /// Chunks that are seen before a position's own.
    pub chunks_before: usize,
    /// Chunks that are seen after it.
    pub chunks_after: usize,
    /// Rounds of hashing.
    pub num_hashes: usize,
    /// Buckets of a round as factors, each even; their product is the number of buckets.
    pub num_buckets: Vec<usize>,
    /// See [`Wrap`].
    pub wrap: Wrap,
    /// Only `j ≤ i`.
    pub causal: bool,
    /// `key_valid` (u8, `[batch, seqlen]`, 0 or 1) is given.
    pub key_padding: bool,
    /// `buckets` are given and nothing is hashed: a reversible network's second forward pass.
    pub buckets_given: bool,
    /// A pair counts once, however often it is met.
    pub duplicates_once: bool,
    /// What is added to a key's mean square before its root.
    pub key_norm_eps: f64,
    /// What `qk_i·k̂_j` is multiplied by. Default `1/sqrt(head_dim)`.
    pub softmax_scale: f64,
    /// The score of a position with itself.
    pub self_mask_value: f64,
    /// The score of what is masked, lower than `self_mask_value`.
    pub mask_value: f64,
}

impl Lsh {
    /// `num_hashes` rounds over chunks of `chunk_len` that see themselves and the chunk before, as
    /// many buckets as [`buckets_for`] says, contiguous tensors, the scale `1/sqrt(head_dim)`, the
    /// masks of the published models.
    pub fn new(
        [batch, seqlen, heads, head_dim]: [usize; 4],
        chunk_len: usize,
        num_hashes: usize,
        dtype: DType,
    ) -> Self {
        Lsh {
            batch,
            seqlen,
            heads,
            head_dim,
            dtype,
            layout: Layout::of(Strides::bshd(seqlen, heads, head_dim)),
            chunk_len,
            chunks_before: 1,
            chunks_after: 0,
            num_hashes,
            num_buckets: buckets_for(seqlen, chunk_len),
            wrap: Wrap::AcrossRounds,
            causal: false,
            key_padding: false,
            buckets_given: false,
            duplicates_once: false,
            key_norm_eps: 1e-6,
            softmax_scale: 1.0 / (head_dim.max(1) as f64).sqrt(),
            self_mask_value: -1e5,
            mask_value: -1e9,
        }
    }

    /// Only keys at or before the position: the autoregressive form.
    pub fn causal(self) -> Self {
        Lsh { causal: true, ..self }
    }

    /// A mask of valid positions.
    pub fn key_padding(self) -> Self {
        Lsh { key_padding: true, ..self }
    }

    /// Other factors of the number of buckets.
    pub fn num_buckets(self, factors: &[usize]) -> Self {
        Lsh { num_buckets: factors.to_vec(), ..self }
    }

    /// Other numbers of chunks that are seen before and after a position's own.
    pub fn chunks(self, before: usize, after: usize) -> Self {
        Lsh { chunks_before: before, chunks_after: after, ..self }
    }

    /// Another ring than the published checkpoints'.
    pub fn wrap(self, wrap: Wrap) -> Self {
        Lsh { wrap, ..self }
    }

    /// Buckets from an earlier pass in place of hashing.
    pub fn buckets_given(self) -> Self {
        Lsh { buckets_given: true, ..self }
    }

    /// A pair counts once, however often it is met.
    pub fn duplicates_once(self) -> Self {
        Lsh { duplicates_once: true, ..self }
    }

    /// Another scale than `1/sqrt(head_dim)`.
    pub fn softmax_scale(self, softmax_scale: f64) -> Self {
        Lsh { softmax_scale, ..self }
    }

    /// Other strides than contiguous `[batch, seqlen, heads, head_dim]`.
    pub fn layout(self, layout: Layout) -> Self {
        Lsh { layout, ..self }
    }

    /// Whether there is anything to sort: one chunk holds everything otherwise.
    pub fn is_sorted(&self) -> bool {
        self.seqlen > self.chunk_len
    }

    /// Whether `rotations` are needed.
    pub fn is_hashed(&self) -> bool {
        self.is_sorted() && !self.buckets_given
    }

    /// Rounds that are computed: one if nothing is sorted.
    pub fn rounds(&self) -> usize {
        if self.is_sorted() { self.num_hashes } else { 1 }
    }

    /// Buckets of a round, without that of invalid positions.
    pub fn buckets(&self) -> usize {
        self.num_buckets.iter().product()
    }

    /// Chunks of a round.
    pub fn chunks_of_round(&self) -> usize {
        self.seqlen.div_ceil(self.chunk_len)
    }

    /// Chunks of the ring that a chunk is in.
    pub fn ring(&self) -> usize {
        match self.wrap {
            Wrap::AcrossRounds => self.rounds() * self.chunks_of_round(),
            Wrap::PerRound => self.chunks_of_round(),
        }
    }

    /// Chunks that are seen before and after a position's own; none if nothing is sorted.
    pub fn seen_chunks(&self) -> (usize, usize) {
        if self.is_sorted() { (self.chunks_before, self.chunks_after) } else { (0, 0) }
    }

    /// Rejects what has no meaning.
    pub fn validate(&self) -> Result<(), Error> {
        let positive = [
            ("heads", self.heads),
            ("chunk_len", self.chunk_len),
            ("num_hashes", self.num_hashes),
            ("num_buckets.len", self.num_buckets.len()),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, n)| *n == 0) {
            return Err(Error::invalid(*name, 0, "must be positive"));
        }
        if self.head_dim == 0 || self.head_dim > crate::full::MAX_HEAD_DIM {
            let rule = format!("must be from 1 to {}", crate::full::MAX_HEAD_DIM);
            return Err(Error::invalid("head_dim", self.head_dim, rule));
        }
        for (name, n) in [
            ("batch", self.batch),
            ("seqlen", self.seqlen),
            ("chunk_len", self.chunk_len),
            ("num_hashes", self.num_hashes),
            ("chunks_before", self.chunks_before),
            ("chunks_after", self.chunks_after),
        ] {
            if n > i32::MAX as usize {
                return Err(Error::invalid(name, n, "must be below 2^31"));
            }
        }
        let odd = |n: &usize| *n == 0 || !n.is_multiple_of(2);
        if let Some((f, n)) = self.num_buckets.iter().enumerate().find(|(_, n)| odd(n)) {
            return Err(Error::invalid(
                format!("num_buckets[{f}]"),
                n,
                "must be even and positive: a projection and its negative are two buckets",
            ));
        }
        let all = self.num_buckets.iter().try_fold(1usize, |n, &f| n.checked_mul(f));
        if all.is_none_or(|n| n > MAX_BUCKETS) {
            let value = format!("{:?}", self.num_buckets);
            let rule = format!("the product must be at most {MAX_BUCKETS}");
            return Err(Error::invalid("num_buckets", value, rule));
        }
        for (name, x) in [
            ("softmax_scale", self.softmax_scale),
            ("key_norm_eps", self.key_norm_eps),
            ("self_mask_value", self.self_mask_value),
            ("mask_value", self.mask_value),
        ] {
            if !(x as f32).is_finite() {
                return Err(Error::invalid(name, x, "must be finite in f32"));
            }
        }
        if self.key_norm_eps as f32 <= 0.0 {
            let rule = "must be positive in f32: a key may be zero";
            return Err(Error::invalid("key_norm_eps", self.key_norm_eps, rule));
        }
        product("lse_rounds", &[self.batch, self.heads, self.num_hashes, self.seqlen])?;
        product("rotations", &[self.heads, self.head_dim, self.num_hashes, self.columns()])?;
        let chunks = self.chunks_before + self.chunks_after + 1;
        product("chunks_before + 1 + chunks_after", &[chunks, self.chunk_len])?;
        for (name, strides) in self.tensors() {
            let span = strides
                .span(self.batch, self.seqlen, self.heads, self.head_dim)
                .filter(|&n| n <= isize::MAX as usize / 8);
            if span.is_none() {
                return Err(Error::invalid(
                    format!("layout.{name}"),
                    format!("{strides:?}"),
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

    /// Columns of `rotations`: half of each factor, one after another.
    pub fn columns(&self) -> usize {
        self.num_buckets.iter().map(|n| n / 2).sum()
    }

    /// Elements of `rotations`.
    pub fn rotations_len(&self) -> usize {
        self.heads * self.head_dim * self.num_hashes * self.columns()
    }

    /// Items of a chunk that may be there at all.
    pub(crate) fn items_of_chunk(&self) -> usize {
        self.chunk_len.min(self.seqlen)
    }

    /// Elements of `lse`.
    pub fn lse_len(&self) -> usize {
        self.batch * self.heads * self.seqlen
    }

    /// Elements of `lse_rounds`.
    pub fn lse_rounds_len(&self) -> usize {
        self.lse_len() * self.rounds()
    }

    /// Elements of `buckets`; 0 if nothing is sorted.
    pub fn buckets_len(&self) -> usize {
        if self.is_sorted() { self.lse_len() * self.num_hashes } else { 0 }
    }

    /// Floating-point operations of the forward pass, two per multiply-add: the products with keys
    /// and values, and with the rotations. Masks, which are data, are not looked at.
    pub fn flops(&self) -> f64 {
        let (before, after) = self.seen_chunks();
        let keys = match self.is_sorted() {
            true => ((before + 1 + after) * self.chunk_len) as f64,
            false => self.seqlen as f64,
        };
        let columns = if self.is_hashed() { self.columns() as f64 } else { 0.0 };
        self.lse_rounds_len() as f64 * self.head_dim as f64 * (4.0 * keys + 2.0 * columns)
    }

    /// Bytes of the inputs and results: what a forward pass must at least move.
    pub fn bytes(&self) -> f64 {
        let rows = self.lse_len() * (3 * self.head_dim * self.dtype.bytes() + 4);
        (rows + 4 * (self.lse_rounds_len() + self.buckets_len())) as f64
    }

    pub(crate) fn tensors(&self) -> [(&'static str, Strides); 3] {
        let l = &self.layout;
        [("qk", l.qk), ("v", l.v), ("out", l.out)]
    }
}

/// As many buckets as Hugging Face's models choose for a sequence: the power of two at or below
/// two buckets to a chunk; from some number on, two factors.
pub fn buckets_for(seqlen: usize, chunk_len: usize) -> Vec<usize> {
    let chunks = seqlen / chunk_len.max(1);
    let bits = (2 * chunks).checked_ilog2().unwrap_or(1).clamp(1, MAX_BUCKETS.ilog2());
    let limit = 2 * chunks.isqrt().max(chunk_len);
    match 1 << bits {
        all if all > limit && bits > 1 => vec![1 << (bits / 2), 1 << (bits - bits / 2)],
        all => vec![all],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_chosen_as_hugging_face_does() {
        assert_eq!(buckets_for(1024, 64), [32]);
        assert_eq!(buckets_for(4096, 64), [128]);
        assert_eq!(buckets_for(16384, 64), [16, 32]);
        assert_eq!(buckets_for(0, 64), [2]);
        assert_eq!(buckets_for(100, 64), [2]);
        assert_eq!(buckets_for(100, 0), [8, 16]);
    }
}
