//! A block of query rows over the keys that it sees.
//!
//! Floor: 6·B·H·Lq·Lk·D operations of the pairs that the masks leave, by the processor's multiply-add
//! units.

use super::band::Band;
use super::head::Head;
use super::mask::{Closed, Invalid, Sight, WORD, WORDS, add_segments, invalid, mask};
use super::packed::Packed;
use super::sums::{self, Sums};
use crate::cpu::lanes::{LANES, Lanes};
use crate::cpu::results::{Results, is_finite};
use crate::cpu::tile::{BLOCK_N, Tile};
use crate::cpu::{Element, Isa, SharedRows, prefetch, with_isa};
use crate::full::MAX_HEAD_DIM;
use crate::real::{dot, row_start};
use std::ops::Range;

/// Rows of a block, at most.
pub(super) const ROWS: usize = 512;
pub(super) const GROUPS: usize = ROWS / LANES;

/// How scores are computed, with a thread's part of the workspace.
// One for a block, and never moved after it was made.
#[allow(clippy::large_enum_variant)]
pub(super) enum Products<'a> {
    /// By two products.
    Two(Tile<'a>, Band<'a>),
    /// By one.
    One(Results<'a>, Sums<'a>, Packed<'a>),
}

/// Some rows of one head of one sequence.
pub(super) struct Block<'a, T> {
    pub(super) head: Head<'a, T>,
    pub(super) isa: Isa,
    pub(super) rows: Range<usize>,
}

/// A tile's keys.
struct Keys {
    range: Range<usize>,
    invalid: Invalid,
    /// Whether any are.
    padding: bool,
    /// Whether all their values are.
    finite: bool,
}

impl<T: Element> Block<'_, T> {
    pub(super) fn run(
        &self,
        products: &mut Products<'_>,
        out: &SharedRows<'_, T>,
        lse: &SharedRows<'_, f32>,
    ) {
        let mut sights = [Sight::NONE; GROUPS];
        self.load_rows(products, &mut sights);
        let sights = &sights[..self.rows.len().div_ceil(LANES)];
        let begin = sights.iter().map(|sight| sight.any().start).min().unwrap_or(0);
        let end = sights.iter().map(|sight| sight.any().end).max().unwrap_or(0);
        let block_n = match products {
            Products::Two(..) => BLOCK_N,
            Products::One(..) => sums::KEYS,
        };
        // Tiles of one sequence are the same for all blocks: results do not depend on the rows of one.
        for from in (begin / block_n * block_n..end).step_by(block_n) {
            let range = from..end.min(from + block_n);
            let invalid = self.invalid(&range);
            let padding: usize = invalid.iter().map(|word| word.count_ones() as usize).sum();
            if padding == range.len() && !self.head.problem.own_position {
                continue;
            }
            let finite = self.load_tile(products, range.clone());
            let keys = Keys { range, invalid, padding: padding > 0, finite };
            for (group, sight) in sights.iter().enumerate() {
                self.ask(products, (group, sights.len()), keys.range.end..end);
                self.add(products, group, sight, &keys);
            }
        }
        self.store(products, out, lse);
    }

    /// Asks for part `n` of `parts` of the next tile, so that it is near when it is loaded.
    fn ask(&self, products: &Products<'_>, (n, parts): (usize, usize), keys: Range<usize>) {
        if keys.is_empty() {
            return;
        }
        match products {
            Products::Two(..) => {
                let next = |n: usize| (keys.start + n * BLOCK_N / parts).min(keys.end);
                for j in next(n)..next(n + 1) {
                    self.head.key(j).into_iter().for_each(prefetch);
                }
            }
            Products::One(.., packed) => {
                let near = self.distance(self.rows.start, keys.start);
                packed.ask((n, parts), keys.start, near);
            }
        }
    }

    /// A tile's keys and values into a group's results.
    fn add(&self, products: &mut Products<'_>, group: usize, sight: &Sight, keys: &Keys) {
        let Range { start: from, end } = keys.range;
        let seen = from..sight.any().end.min(end);
        if seen.is_empty() || seen.end <= sight.any().start {
            return;
        }
        let (results, s, v) = match products {
            Products::Two(tile, band) => {
                tile.scores_from(self.isa, group, seen.len(), |s| {
                    self.begin_scores(band, group, &seen, s);
                });
                tile.apart(0..seen.len())
            }
            Products::One(results, sums, packed) => {
                let unit = self.rows.start + group * LANES / sums::UNIT * sums::UNIT;
                let near = self.distance(unit, from);
                let s = sums.scores(self.isa, packed, (group, near), seen.clone());
                (results, s, packed.v(seen.clone()))
            }
        };
        let p = self.head.problem;
        if let Some(segments) = self.head.args.seg_k {
            let of_keys = &segments[self.head.batch * p.shape.seqlen_k..][seen.clone()];
            let (of_keys, s): (&[i32], &mut [Lanes]) = (of_keys, s);
            with_isa!(self.isa, add_segments(sight: &Sight, of_keys: &[i32], s: &mut [Lanes]));
        }
        let masked = !sight.is_whole(&seen) || p.perm_mask || keys.padding;
        if masked {
            self.mask(sight, group, &seen, &keys.invalid, s);
        }
        results.add(self.isa, group, s, v, masked && !keys.finite);
    }

    /// Where in its segment a query stands.
    fn position(&self, i: usize) -> usize {
        let at = self.head.batch * self.head.problem.shape.seqlen_q + i;
        self.head.args.targets.map_or(i, |targets| targets[at] as usize)
    }

    /// How far key `j` lies in the past of a query at `position`.
    fn distance(&self, position: usize, j: usize) -> i64 {
        let p = self.head.problem;
        (position + p.shape.seqlen_k) as i64 - (p.segment_len() + j) as i64
    }

    /// The queries, times the scale to units of log2, and what they see.
    fn load_rows(&self, products: &mut Products<'_>, sights: &mut [Sight; GROUPS]) {
        let Head { problem: p, args, .. } = self.head;
        let (d, scale) = (p.shape.head_dim, self.head.scale());
        match products {
            Products::Two(tile, _) => tile.begin(self.rows.len()),
            Products::One(results, ..) => results.begin(self.rows.len()),
        }
        for (n, i) in self.rows.clone().enumerate() {
            let mut q = [0f32; MAX_HEAD_DIM];
            T::load(self.head.q(i), &mut q[..d]);
            let biased = |bias: &[f32]| {
                let mut sum = q;
                for (sum, bias) in sum.iter_mut().zip(self.head.of_head(bias)) {
                    *sum = (*sum + bias) * scale;
                }
                sum
            };
            match products {
                Products::Two(tile, band) => {
                    tile.load_q(self.isa, n, &biased(args.bias_u)[..d], 1.0);
                    band.load_q(n, &biased(args.bias_v)[..d]);
                }
                Products::One(_, sums, _) => sums.load_q(n, &biased(args.bias_u)[..d]),
            }
            let (position, sight) = (self.position(i), &mut sights[n / LANES]);
            let own = p.own_position.then(|| position + p.shape.seqlen_k - p.segment_len());
            sight.add(n % LANES, p.keys(position), own);
            if let (Some(bias), Some(embed), Some(segments)) =
                (args.bias_s, args.seg_embed, args.seg_q)
            {
                let q = biased(bias);
                let segment = segments[self.head.batch * p.segment_len() + position];
                let of = |embed: &[f32]| dot(&q[..d], self.head.of_head(embed));
                let (same, other) = embed.split_at(p.shape.heads_q * d);
                sight.add_segment(n % LANES, segment, [of(same), of(other)]);
            }
        }
    }

    /// K and V of a tile, and what meets them of the table. Whether all of V is finite.
    fn load_tile(&self, products: &mut Products<'_>, keys: Range<usize>) -> bool {
        let (tile, band) = match products {
            Products::One(.., packed) => return is_finite(self.isa, packed.v(keys)),
            Products::Two(tile, band) => (tile, band),
        };
        let (first, len) = (keys.start, keys.len());
        for (n, j) in keys.enumerate() {
            let [k, v] = self.head.key(j);
            tile.load_k(n, k);
            tile.load_v(n, v);
        }
        tile.end_k(len);
        if self.head.problem.targets.is_none() {
            let (near, rows) = (self.distance(self.rows.start, first), self.rows.len());
            band.load_window(near, rows, |at, to| self.head.load_r(at, to));
        }
        tile.is_finite(self.isa, len)
    }

    /// S before the product with the keys: the position term.
    fn begin_scores(
        &self,
        band: &mut Band<'_>,
        group: usize,
        keys: &Range<usize>,
        s: &mut [Lanes],
    ) {
        let (rows, from) = (self.rows_of(group), keys.start);
        if self.head.problem.targets.is_none() {
            band.begin_scores(self.isa, group, self.distance(rows.start, from), s);
            return;
        }
        // Lanes without a row hold what does no harm.
        s.fill([0.0; LANES]);
        for (lane, i) in rows.enumerate() {
            let near = self.distance(self.position(i), from);
            let n = group * LANES + lane;
            band.begin_row(self.isa, n, near, &mut s[..keys.len()], |at, to| {
                self.head.load_r(at, to)
            });
        }
    }

    /// The rows of a group.
    fn rows_of(&self, group: usize) -> Range<usize> {
        let first = self.rows.start + group * LANES;
        first..self.rows.end.min(first + LANES)
    }

    /// The keys of a tile that are padding.
    fn invalid(&self, keys: &Range<usize>) -> Invalid {
        let first = self.head.batch * self.head.problem.shape.seqlen_k;
        self.head
            .args
            .key_valid
            .map_or([0; WORDS], |x| invalid(keys.start, &x[first..][keys.clone()]))
    }

    fn mask(
        &self,
        sight: &Sight,
        group: usize,
        keys: &Range<usize>,
        invalid: &Invalid,
        s: &mut [Lanes],
    ) {
        let p = self.head.problem;
        let mut closed = [[0; LANES]; WORDS];
        closed.iter_mut().zip(invalid).for_each(|(closed, word)| closed.fill(*word));
        if let Some(mask) = self.head.args.perm_mask {
            for (lane, i) in self.rows_of(group).enumerate() {
                let row = self.head.batch * p.segment_len() + self.position(i);
                let words = &mask[row * p.perm_words()..][keys.start / WORD..p.perm_words()];
                for (closed, word) in closed.iter_mut().zip(words) {
                    closed[lane] |= word;
                }
            }
        }
        if sight.close(self.isa, keys, &mut closed) {
            let (closed, first): (&Closed, usize) = (&closed, keys.start);
            with_isa!(self.isa, mask(closed: &Closed, first: usize, s: &mut [Lanes]));
        }
    }

    fn store(
        &self,
        products: &mut Products<'_>,
        out: &SharedRows<'_, T>,
        lse: &SharedRows<'_, f32>,
    ) {
        let Head { problem, batch, head, .. } = self.head;
        let (s, l) = (&problem.shape, &problem.layout);
        for (n, i) in self.rows.clone().enumerate() {
            let (row, lse_of_row) = match products {
                Products::Two(tile, _) => tile.result(self.isa, n),
                Products::One(results, ..) => results.result(self.isa, n),
            };
            let at = row_start(batch * l.out.batch, l.out, i, head);
            let lse_at = (batch * s.heads_q + head) * s.seqlen_q + i;
            // SAFETY: no other block has this row, and no two rows share an element (`validate`).
            #[allow(unsafe_code)]
            let (out, lse) = unsafe { (out.row(at, s.head_dim), lse.row(lse_at, 1)) };
            T::store(row, out);
            lse[0] = lse_of_row;
        }
    }
}
