//! Attention with relative positions over a memory: Transformer-XL (Dai et al., 2019), XLNet's two
//! streams (Yang et al., 2019) and the Conformer's encoder (Gulati et al., 2020).
//!
//! ```text
//! δ    = i + seqlen_k − seqlen_q − j          how far key j lies in the past of query i
//! δ'   = δ clamped to ±clamp_len
//! s    = softmax_scale · ( (q_i + bias_u)·k_j + (q_i + bias_v)·r[δ' + distance_offset]
//!                          + (q_i + bias_s)·seg_embed[x] )       x = 0 in the same segment, else 1
//! row  = { j : −right ≤ δ ≤ left;  chunks;  perm_mask[b, i, j] = 0;  key_valid[b, j] = 1 }
//!        and, if own_position, the key at δ = 0 whatever the rest says
//! out  = softmax over row of s, times v;   lse = ln Σ exp s
//! ```
//!
//! The table `r` is **indexed by distance, ascending**: row `distance_offset` is distance 0, the row
//! after it one position into the past. (Published code mostly keeps it descending.) It is the
//! projected table; [`sinusoids`](sinusoids()) makes what is projected on the host, and
//! [`TransformerXl::sinusoids`] on a device.
//!
//! | dialect | window | rows of `r` | the rest |
//! | --- | --- | --- | --- |
//! | Transformer-XL ([`TransformerXl::with_memory`]) | right 0; `same_length`: left `mem_len − 1` | `seqlen_k`, offset 0 | `clamp_len` |
//! | XLNet ([`TransformerXl::xlnet`]) | none; `uni`: right 0; `same_length`: left `mlen` | `seqlen_k + seqlen_q`, offset `seqlen_q − 1` | segments, `perm_mask`; content stream: `own_position` |
//! | Conformer ([`TransformerXl::conformer`]) | as its context | `seqlen_k + seqlen_q − 1`, offset `seqlen_q − 1` | chunks, key padding |
//!
//! XLNet's two streams are two problems over the same `k`, `v` and `r`: the content stream with
//! `own_position`, the query stream without it and with the queries of another tensor, of all
//! positions or only of the predicted ones ([`TransformerXl::targets`]). A row with nothing to
//! attend has `out = 0` and `lse = −inf`, where the published code averages all keys. XLNet's
//! `bi_data`, which negates the distances of half the batch, is two problems. NeMo's global tokens
//! are three: the Conformer's with a window, a [`Full`](crate::Full) of all queries over the gathered
//! global keys, [merged](crate::merge()) into one softmax, and a `Full` of the global rows.

#[cfg(feature = "webgpu")]
pub mod config;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod inputs;
mod reference;
pub mod sinusoids;
#[cfg(feature = "webgpu")]
pub mod webgpu;

pub use inputs::{Inputs, bits_from_mask};
pub use reference::{Gradients, Output};
pub use sinusoids::{SinCos, Sinusoids, sinusoids};

use crate::problem::product;
use crate::{DType, Error, Shape, Strides, Window};

/// Where the elements of the large tensors lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Layout {
    /// Steps of the queries.
    pub q: Strides,
    /// Steps of the keys, without those of the memory.
    pub k: Strides,
    /// Steps of the values.
    pub v: Strides,
    /// Steps of the memory's keys.
    pub k_memory: Strides,
    /// Steps of the memory's values.
    pub v_memory: Strides,
    /// Steps of the position table, `[rows, heads_q, head_dim]`; it has no batch.
    pub r: Strides,
    /// Steps of the result.
    pub out: Strides,
}

/// The first keys, in tensors of their own: key `j` is row `(start + j) % rows` of `k_memory` and
/// `v_memory`, so that a ring buffer is read where it lies. Keys from `len` on are rows of `k` and
/// `v` from 0 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Memory {
    /// Keys of the memory.
    pub len: usize,
    /// Rows of the memory's tensors, at least `len`.
    pub rows: usize,
    /// The row of the first key.
    pub start: usize,
}

/// Chunked attention, as streaming encoders are trained for: with `c` the chunk of a query's position
/// minus that of the key, `0 ≤ c ≤ left`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Chunks {
    /// Positions of a chunk.
    pub size: usize,
    /// Chunks that are seen before the query's own; `None`: all.
    pub left: Option<usize>,
}

/// One problem of relative-position attention: plain data, no device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TransformerXl {
    /// Sizes; `seqlen_k` counts the keys of the memory too.
    pub shape: Shape,
    /// Storage of `q`, `k`, `v`, `r` and `out` on a device. The reference takes what it is given.
    pub dtype: DType,
    /// Where the tensors' elements lie.
    pub layout: Layout,
    /// Keys in tensors of their own.
    pub memory: Option<Memory>,
    /// Only keys of these distances: `−right ≤ δ ≤ left`. Causal is a right side of 0.
    pub window: Window,
    /// See [`Chunks`].
    pub chunks: Option<Chunks>,
    /// The query's own position is attended whatever the masks say.
    pub own_position: bool,
    /// Query `i` stands at position `targets[b, i]` (i32, `[batch, seqlen_q]`) of a segment of so
    /// many positions; else it stands at position `i` of a segment of `seqlen_q`.
    pub targets: Option<usize>,
    /// Rows of `r`.
    pub rows: usize,
    /// The row of distance 0.
    pub distance_offset: usize,
    /// Distances beyond this one, on either side, use its row.
    pub clamp_len: Option<usize>,
    /// `bias_s`, `seg_embed`, `seg_q` and `seg_k` are given.
    pub segments: bool,
    /// `perm_mask` is given.
    pub perm_mask: bool,
    /// `key_valid` (u8, `[batch, seqlen_k]`, 0 or 1) is given.
    pub key_padding: bool,
    /// What the sum of the terms is multiplied by. Default `1/sqrt(head_dim)`.
    pub softmax_scale: f64,
}

impl TransformerXl {
    /// Transformer-XL's layer: causal over `memory_len` keys and the segment itself, `k` and `v` of
    /// both, one row of `r` for each distance.
    pub fn with_memory(shape: [usize; 4], memory_len: usize, dtype: DType) -> Self {
        let problem = TransformerXl::new(shape, memory_len, dtype);
        let window = Window { left: None, right: Some(0) };
        TransformerXl { window, rows: problem.shape.seqlen_k, ..problem }
    }

    /// XLNet's content stream without a mask (`bi`): the query's own position is always attended.
    pub fn xlnet(shape: [usize; 4], memory_len: usize, dtype: DType) -> Self {
        let problem = TransformerXl::new(shape, memory_len, dtype);
        let s = &problem.shape;
        TransformerXl {
            rows: s.seqlen_k.saturating_add(s.seqlen_q),
            distance_offset: s.seqlen_q.saturating_sub(1),
            own_position: true,
            ..problem
        }
    }

    /// A Conformer's layer over `cached` earlier keys and the segment itself.
    pub fn conformer(shape: [usize; 4], cached: usize, dtype: DType) -> Self {
        let problem = TransformerXl::new(shape, cached, dtype);
        let s = &problem.shape;
        TransformerXl {
            rows: s.seqlen_k.saturating_add(s.seqlen_q).saturating_sub(1),
            distance_offset: s.seqlen_q.saturating_sub(1),
            ..problem
        }
    }

    fn new([batch, seqlen, heads, head_dim]: [usize; 4], before: usize, dtype: DType) -> Self {
        let seqlen_k = before.saturating_add(seqlen);
        let shape =
            Shape { batch, heads_q: heads, heads_kv: heads, seqlen_q: seqlen, seqlen_k, head_dim };
        let (q, k) =
            (Strides::bshd(seqlen, heads, head_dim), Strides::bshd(seqlen_k, heads, head_dim));
        let table = Strides { batch: 0, ..Strides::bshd(1, heads, head_dim) };
        TransformerXl {
            shape,
            dtype,
            layout: Layout { q, k, v: k, k_memory: k, v_memory: k, r: table, out: q },
            memory: None,
            window: Window::FULL,
            chunks: None,
            own_position: false,
            targets: None,
            rows: 0,
            distance_offset: 0,
            clamp_len: None,
            segments: false,
            perm_mask: false,
            key_padding: false,
            softmax_scale: 1.0 / (head_dim.max(1) as f64).sqrt(),
        }
    }

    /// Query heads share key/value heads; contiguous tensors.
    pub fn heads_kv(self, heads_kv: usize) -> Self {
        let shape = Shape { heads_kv, ..self.shape };
        let k = Strides::bshd(shape.seqlen_k, heads_kv, shape.head_dim);
        let layout = Layout { k, v: k, k_memory: k, v_memory: k, ..self.layout };
        TransformerXl { shape, layout, ..self }
    }

    /// The memory's keys in contiguous tensors of their own.
    pub fn memory(self, memory: Memory) -> Self {
        let s = &self.shape;
        let now = Strides::bshd(s.seqlen_k.saturating_sub(memory.len), s.heads_kv, s.head_dim);
        let before = Strides::bshd(memory.rows, s.heads_kv, s.head_dim);
        let layout = Layout { k: now, v: now, k_memory: before, v_memory: before, ..self.layout };
        TransformerXl { memory: Some(memory), layout, ..self }
    }

    /// Only keys of some distances.
    pub fn window(self, window: Window) -> Self {
        TransformerXl { window, ..self }
    }

    /// Chunked attention.
    pub fn chunks(self, chunks: Chunks) -> Self {
        TransformerXl { chunks: Some(chunks), ..self }
    }

    /// Distances beyond `clamp_len` share its row; the table ends there on either side.
    pub fn clamp_len(self, clamp_len: usize) -> Self {
        let offset = self.distance_offset.min(clamp_len);
        let past = self.rows.saturating_sub(self.distance_offset).min(clamp_len.saturating_add(1));
        TransformerXl {
            clamp_len: Some(clamp_len),
            distance_offset: offset,
            rows: offset.saturating_add(past),
            ..self
        }
    }

    /// A term for keys of the same and of another segment.
    pub fn segments(self) -> Self {
        TransformerXl { segments: true, ..self }
    }

    /// A mask per sequence, query and key.
    pub fn perm_mask(self) -> Self {
        TransformerXl { perm_mask: true, ..self }
    }

    /// A mask of valid keys.
    pub fn key_padding(self) -> Self {
        TransformerXl { key_padding: true, ..self }
    }

    /// XLNet's query stream: a query does not see its own position because it is its own.
    pub fn query_stream(self) -> Self {
        TransformerXl { own_position: false, ..self }
    }

    /// Queries of `count` positions of the segment only; `q` and `out` contiguous.
    pub fn targets(self, count: usize) -> Self {
        let shape = Shape { seqlen_q: count, ..self.shape };
        let q = Strides::bshd(count, shape.heads_q, shape.head_dim);
        let layout = Layout { q, out: q, ..self.layout };
        TransformerXl { targets: Some(self.segment_len()), shape, layout, ..self }
    }

    /// Another scale than `1/sqrt(head_dim)`.
    pub fn softmax_scale(self, softmax_scale: f64) -> Self {
        TransformerXl { softmax_scale, ..self }
    }

    /// Other strides than contiguous ones.
    pub fn layout(self, layout: Layout) -> Self {
        TransformerXl { layout, ..self }
    }

    /// Positions of the segment that the queries stand in.
    pub fn segment_len(&self) -> usize {
        self.targets.unwrap_or(self.shape.seqlen_q)
    }

    /// Keys in `k` and `v`.
    pub fn rows_k(&self) -> usize {
        self.shape.seqlen_k.saturating_sub(self.memory.map_or(0, |m| m.len))
    }

    /// u32 words of a row of `perm_mask`.
    pub fn perm_words(&self) -> usize {
        self.shape.seqlen_k.div_ceil(32)
    }

    /// The least and the largest distance that the window leaves, or `None` if there is none.
    pub fn distances(&self) -> Option<(i64, i64)> {
        let side = |x: Option<usize>| x.map_or(i64::MAX, |n| n.min(i64::MAX as usize) as i64);
        let (segment, keys) = (self.segment_len() as i64, self.shape.seqlen_k as i64);
        let least = (1 - segment).max(-side(self.window.right));
        let most = (keys - 1).min(side(self.window.left));
        let (least, most) = match self.own_position {
            true => (least.min(0), most.max(0)),
            false => (least, most),
        };
        (segment > 0 && keys > 0 && least <= most).then_some((least, most))
    }

    /// The row of `r` for a distance that occurs.
    pub fn row_of(&self, distance: i64) -> usize {
        let clamp = self.clamp_len.map_or(i64::MAX, |n| n as i64);
        (distance.clamp(-clamp, clamp) + self.distance_offset as i64) as usize
    }

    /// The keys that the window and the chunks leave a query at `position` of the segment.
    pub fn keys(&self, position: usize) -> std::ops::Range<usize> {
        let (segment, seqlen_k) = (self.segment_len(), self.shape.seqlen_k);
        let mut keys = self.window.keys(position, segment, seqlen_k);
        if let Some(Chunks { size, left }) = self.chunks {
            // Chunks count from the first key, which may lie after the first query.
            let at = position as i128 + seqlen_k as i128 - segment as i128;
            let chunk = at.div_euclid(size as i128);
            let clamp = |x: i128| x.clamp(0, seqlen_k as i128) as usize;
            let end = clamp((chunk + 1) * size as i128);
            let start = left.map_or(0, |left| clamp((chunk - left as i128) * size as i128));
            keys = keys.start.max(start)..keys.end.min(end);
            keys.end = keys.end.max(keys.start);
        }
        keys
    }

    /// Rejects what has no meaning.
    pub fn validate(&self) -> Result<(), Error> {
        let s = &self.shape;
        if s.heads_kv == 0 || s.heads_q == 0 || !s.heads_q.is_multiple_of(s.heads_kv) {
            return Err(Error::invalid(
                "shape.heads_q",
                format!("{} / heads_kv {}", s.heads_q, s.heads_kv),
                "both must be positive and heads_q a multiple of heads_kv",
            ));
        }
        if s.head_dim == 0 || s.head_dim > crate::full::MAX_HEAD_DIM {
            let rule = format!("must be from 1 to {}", crate::full::MAX_HEAD_DIM);
            return Err(Error::invalid("shape.head_dim", s.head_dim, rule));
        }
        if !(self.softmax_scale as f32).is_finite() {
            let rule = "must be finite in f32";
            return Err(Error::invalid("softmax_scale", self.softmax_scale, rule));
        }
        for (name, n) in [
            ("shape.batch", s.batch),
            ("shape.seqlen_q", s.seqlen_q),
            ("shape.seqlen_k", s.seqlen_k),
            ("rows", self.rows),
            ("distance_offset", self.distance_offset),
            ("targets", self.segment_len()),
            ("clamp_len", self.clamp_len.unwrap_or(0)),
        ] {
            if n > i32::MAX as usize {
                return Err(Error::invalid(name, n, "must be below 2^31"));
            }
        }
        if let Some(Memory { len, rows, start }) = self.memory {
            if len > s.seqlen_k || len > rows {
                let rule = format!("must be at most rows, {rows}, and seqlen_k, {}", s.seqlen_k);
                return Err(Error::invalid("memory.len", len, rule));
            }
            if start >= rows.max(1) {
                return Err(Error::invalid("memory.start", start, format!("must be below {rows}")));
            }
        }
        if self.chunks.is_some_and(|c| c.size == 0 || c.size > i32::MAX as usize) {
            let size = self.chunks.map_or(0, |c| c.size);
            return Err(Error::invalid("chunks.size", size, "must be from 1 to 2147483647"));
        }
        if self.own_position && s.seqlen_k < self.segment_len() {
            let rule = format!(
                "own_position needs a key for each of the {} positions",
                self.segment_len()
            );
            return Err(Error::invalid("shape.seqlen_k", s.seqlen_k, rule));
        }
        self.validate_table()?;
        product("shape", &[s.batch, s.heads_q, s.seqlen_q])?;
        if self.perm_mask {
            product("perm_mask", &[s.batch, self.segment_len(), self.perm_words()])?;
        }
        for (name, strides, [batch, rows, heads]) in self.tensors() {
            let span = strides
                .span(batch, rows, heads, s.head_dim)
                .filter(|&n| n <= isize::MAX as usize / 8);
            if span.is_none() {
                let value = format!("{strides:?} of [{batch}, {rows}, {heads}, {}]", s.head_dim);
                let rule = "the size overflows the address space";
                return Err(Error::invalid(format!("layout.{name}"), value, rule));
            }
        }
        if !self.layout.out.is_injective(s.batch, s.seqlen_q, s.heads_q, s.head_dim) {
            let value = format!("{:?}", self.layout.out);
            let rule = "elements of the result must not share a place";
            return Err(Error::invalid("layout.out", value, rule));
        }
        Ok(())
    }

    /// Every distance that the window leaves has a row.
    fn validate_table(&self) -> Result<(), Error> {
        let Some((least, most)) = self.distances() else { return Ok(()) };
        let clamp = self.clamp_len.map_or(i64::MAX, |n| n as i64);
        let [least, most] = [least, most].map(|x| x.clamp(-clamp, clamp));
        if least + (self.distance_offset as i64) < 0 {
            let rule = format!("distances begin at {least}, whose row must not be negative");
            return Err(Error::invalid("distance_offset", self.distance_offset, rule));
        }
        if most + self.distance_offset as i64 >= self.rows as i64 {
            let rule = format!(
                "distances go to {most}, so at least {} rows are needed",
                most + self.distance_offset as i64 + 1
            );
            return Err(Error::invalid("rows", self.rows, rule));
        }
        Ok(())
    }

    /// Elements of `lse`.
    pub fn lse_len(&self) -> usize {
        self.shape.batch * self.shape.heads_q * self.shape.seqlen_q
    }

    /// Elements spanned by the tensor called `name`. The problem must be valid.
    pub fn span(&self, name: &str) -> usize {
        let tensors = self.tensors();
        let found = tensors.iter().find(|(n, ..)| *n == name);
        found.map_or(0, |(_, strides, [batch, rows, heads])| {
            strides.span(*batch, *rows, *heads, self.shape.head_dim).unwrap_or(usize::MAX)
        })
    }

    /// Floating-point operations of the forward pass that window and chunks leave: two per
    /// multiply-add, three products. Masks that are data are not looked at.
    pub fn flops(&self) -> f64 {
        let s = &self.shape;
        let pairs: f64 = (0..self.segment_len()).map(|i| self.keys(i).len() as f64).sum();
        let share = s.seqlen_q as f64 / self.segment_len().max(1) as f64;
        6.0 * pairs * share * (s.batch * s.heads_q * s.head_dim) as f64
    }

    /// Bytes of the large tensors and `lse`: what a forward pass must at least move.
    pub fn bytes(&self) -> f64 {
        let s = &self.shape;
        let q = (s.batch * s.seqlen_q * s.heads_q) as f64;
        let k = (s.batch * s.seqlen_k * s.heads_kv) as f64;
        let r = (self.rows * s.heads_q) as f64;
        (2.0 * q + 2.0 * k + r) * (s.head_dim * self.dtype.bytes()) as f64 + 4.0 * q
    }

    /// Name, steps and `[batch, rows, heads]` of the large tensors that the problem has.
    pub(crate) fn tensors(&self) -> Vec<(&'static str, Strides, [usize; 3])> {
        let (s, l) = (&self.shape, &self.layout);
        let keys = [s.batch, self.rows_k(), s.heads_kv];
        let mut all = vec![
            ("q", l.q, [s.batch, s.seqlen_q, s.heads_q]),
            ("k", l.k, keys),
            ("v", l.v, keys),
            ("r", l.r, [1, self.rows, s.heads_q]),
            ("out", l.out, [s.batch, s.seqlen_q, s.heads_q]),
        ];
        if let Some(memory) = self.memory {
            let memory = [s.batch, memory.rows, s.heads_kv];
            all.push(("k_memory", l.k_memory, memory));
            all.push(("v_memory", l.v_memory, memory));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_distance_of_a_dialect_has_a_row() {
        let shape = [1, 5, 2, 4];
        let all = [
            TransformerXl::with_memory(shape, 3, DType::F32),
            TransformerXl::xlnet(shape, 3, DType::F32),
            TransformerXl::conformer(shape, 3, DType::F32),
        ];
        for problem in all {
            problem.validate().expect("valid");
            for clamp in 0..9 {
                problem.clamp_len(clamp).validate().expect("valid");
            }
            let (least, most) = problem.distances().expect("some");
            assert_eq!(
                (problem.row_of(least), problem.row_of(most)),
                (0, problem.distance_offset + 7)
            );
        }
        let short = TransformerXl { rows: 7, ..all[0] };
        assert!(short.validate().expect_err("a row is missing").to_string().contains("8 rows"));
    }
}
