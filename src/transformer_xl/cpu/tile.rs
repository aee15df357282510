//! A block of query rows over the keys that it sees.
//!
//! Floor: 6·B·H·Lq·Lk·D operations of the pairs that the masks leave, by the processor's multiply-add
//! units.

use super::Args;
use super::band::Band;
use super::mask::{Closed, Invalid, Sight, WORD, WORDS, add_segments, invalid, mask};
use super::sums::{self, Sums};
use crate::cpu::lanes::{LANES, Lanes};
use crate::cpu::tile::{BLOCK_N, Tile};
use crate::cpu::{Element, Isa, SharedRows, prefetch, with_isa};
use crate::full::MAX_HEAD_DIM;
use crate::real::{dot, row, row_start};
use crate::transformer_xl::{Memory, TransformerXl};
use std::f64::consts::LOG2_E;
use std::ops::Range;

/// Rows of a block, at most.
pub(super) const ROWS: usize = 512;
pub(super) const GROUPS: usize = ROWS / LANES;

/// How scores get their position term.
pub(super) enum Positions<'a> {
    Band(Band<'a>),
    Sums(Sums<'a>),
}

/// Some rows of one head of one sequence.
pub(super) struct Block<'a, T> {
    pub(super) problem: &'a TransformerXl,
    pub(super) args: &'a Args<'a, T>,
    pub(super) isa: Isa,
    pub(super) head: usize,
    pub(super) batch: usize,
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
        tile: &mut Tile<'_>,
        positions: &mut Positions<'_>,
        out: &SharedRows<'_, T>,
        lse: &SharedRows<'_, f32>,
    ) {
        let mut sights = [Sight::NONE; GROUPS];
        self.load_rows(tile, positions, &mut sights);
        let sights = &sights[..self.rows.len().div_ceil(LANES)];
        let begin = sights.iter().map(|sight| sight.any().start).min().unwrap_or(0);
        let end = sights.iter().map(|sight| sight.any().end).max().unwrap_or(0);
        let block_n = match positions {
            Positions::Band(_) => BLOCK_N,
            Positions::Sums(_) => sums::KEYS,
        };
        // Tiles of one sequence are the same for all blocks: results do not depend on the rows of one.
        for from in (begin / block_n * block_n..end).step_by(block_n) {
            let range = from..end.min(from + block_n);
            let invalid = self.invalid(&range);
            let padding: usize = invalid.iter().map(|word| word.count_ones() as usize).sum();
            if padding == range.len() && !self.problem.own_position {
                continue;
            }
            let finite = self.load_tile(tile, positions, range.clone());
            let keys = Keys { range, invalid, padding: padding > 0, finite };
            for (group, sight) in sights.iter().enumerate() {
                // Some of the next tile's rows, so that they are near when it is loaded.
                let next = |n: usize| (keys.range.end + n * block_n / sights.len()).min(end);
                for j in next(group)..next(group + 1) {
                    self.key(j).into_iter().for_each(prefetch);
                }
                self.add(tile, positions, group, sight, &keys);
            }
        }
        self.store(tile, out, lse);
    }

    /// A tile's keys and values into a group's results.
    fn add(
        &self,
        tile: &mut Tile<'_>,
        positions: &mut Positions<'_>,
        group: usize,
        sight: &Sight,
        keys: &Keys,
    ) {
        let Range { start: from, end } = keys.range;
        let seen = from..sight.any().end.min(end);
        if seen.is_empty() || seen.end <= sight.any().start {
            return;
        }
        match positions {
            Positions::Band(band) => tile.scores_from(self.isa, group, seen.len(), |s| {
                self.begin_scores(band, group, &seen, s);
            }),
            Positions::Sums(sums) => {
                let near = self.distance(self.rows_of(group).start, from);
                sums.scores(self.isa, (group, near), seen.len(), tile.k_and_s());
            }
        }
        let s = &mut tile.k_and_s().1[..seen.len()];
        if let Some(segments) = self.args.seg_k {
            let of_keys = &segments[self.batch * self.problem.shape.seqlen_k..][seen.clone()];
            let (of_keys, s): (&[i32], &mut [Lanes]) = (of_keys, s);
            with_isa!(self.isa, add_segments(sight: &Sight, of_keys: &[i32], s: &mut [Lanes]));
        }
        let masked = !sight.is_whole(&seen) || self.problem.perm_mask || keys.padding;
        if masked {
            self.mask(sight, group, &seen, &keys.invalid, s);
        }
        tile.add(self.isa, group, 0..seen.len(), masked && !keys.finite);
    }

    /// Where in its segment a query stands.
    fn position(&self, i: usize) -> usize {
        let at = self.batch * self.problem.shape.seqlen_q + i;
        self.args.targets.map_or(i, |targets| targets[at] as usize)
    }

    /// How far key `j` lies in the past of a query at `position`.
    fn distance(&self, position: usize, j: usize) -> i64 {
        let p = self.problem;
        (position + p.shape.seqlen_k) as i64 - (p.segment_len() + j) as i64
    }

    /// The queries, times the scale to units of log2, and what they see.
    fn load_rows(
        &self,
        tile: &mut Tile<'_>,
        positions: &mut Positions<'_>,
        sights: &mut [Sight; GROUPS],
    ) {
        let (p, d, args) = (self.problem, self.problem.shape.head_dim, self.args);
        tile.begin(self.rows.len());
        for (n, i) in self.rows.clone().enumerate() {
            let q = row(args.q, self.batch * p.layout.q.batch, p.layout.q, i, self.head, d);
            let biased = |bias: &[f32]| {
                let mut sum = [0f32; MAX_HEAD_DIM];
                T::load(q, &mut sum[..d]);
                for (sum, bias) in sum.iter_mut().zip(self.of_head(bias)) {
                    *sum = (*sum + bias) * self.scale();
                }
                sum
            };
            match positions {
                Positions::Sums(sums) => {
                    let mut row = [0f32; MAX_HEAD_DIM];
                    T::load(q, &mut row[..d]);
                    sums.load_q(n, &row[..d], self.scale());
                }
                Positions::Band(band) => {
                    tile.load_q(self.isa, n, &biased(args.bias_u)[..d], 1.0);
                    band.load_q(n, &biased(args.bias_v)[..d]);
                }
            }
            let (position, sight) = (self.position(i), &mut sights[n / LANES]);
            let own = p.own_position.then(|| position + p.shape.seqlen_k - p.segment_len());
            sight.add(n % LANES, p.keys(position), own);
            if let (Some(bias), Some(embed), Some(segments)) =
                (args.bias_s, args.seg_embed, args.seg_q)
            {
                let q = biased(bias);
                let segment = segments[self.batch * p.segment_len() + position];
                let of = |embed: &[f32]| dot(&q[..d], self.of_head(embed));
                let (same, other) = embed.split_at(p.shape.heads_q * d);
                sight.add_segment(n % LANES, segment, [of(same), of(other)]);
            }
        }
    }

    /// The factor of scores in units of log2.
    fn scale(&self) -> f32 {
        (self.problem.softmax_scale * LOG2_E) as f32
    }

    /// The head's row of `[heads_q, head_dim]`.
    fn of_head<'x>(&self, x: &'x [f32]) -> &'x [f32] {
        let d = self.problem.shape.head_dim;
        &x[self.head * d..][..d]
    }

    /// A key's rows of `k` and `v`, wherever they lie.
    fn key(&self, j: usize) -> [&[T]; 2] {
        let (p, d, args) = (self.problem, self.problem.shape.head_dim, self.args);
        let head = self.head / (p.shape.heads_q / p.shape.heads_kv);
        let l = &p.layout;
        let (k, v, at) = match (p.memory, args.k_memory, args.v_memory) {
            (Some(Memory { len, rows, start }), Some(k), Some(v)) if j < len => {
                ((k, l.k_memory), (v, l.v_memory), (start + j) % rows)
            }
            (memory, ..) => ((args.k, l.k), (args.v, l.v), j - memory.map_or(0, |m| m.len)),
        };
        let ((k, of_k), (v, of_v), b) = (k, v, self.batch);
        // Without a map over the two, which is a call.
        [row(k, b * of_k.batch, of_k, at, head, d), row(v, b * of_v.batch, of_v, at, head, d)]
    }

    /// K and V of a tile, and what meets them of the table. Whether all of V is finite.
    fn load_tile(
        &self,
        tile: &mut Tile<'_>,
        positions: &mut Positions<'_>,
        keys: Range<usize>,
    ) -> bool {
        let (d, len) = (self.problem.shape.head_dim, keys.len());
        for (n, j) in keys.clone().enumerate() {
            let [k, v] = self.key(j);
            tile.load_k(n, k);
            tile.load_v(n, v);
        }
        let (near, rows) = (self.distance(self.rows.start, keys.start), self.rows.len());
        let load_r = |at: i64, to: &mut [f32]| self.load_r(at, to);
        match positions {
            Positions::Band(band) => {
                tile.end_k(len);
                if self.problem.targets.is_none() {
                    band.load_window(near, rows, load_r);
                }
            }
            Positions::Sums(sums) => {
                let [u, v] = [self.args.bias_u, self.args.bias_v].map(|bias| {
                    let mut scaled = [0f32; MAX_HEAD_DIM];
                    for (to, bias) in scaled.iter_mut().zip(self.of_head(bias)) {
                        *to = bias * self.scale();
                    }
                    scaled
                });
                // Scores of what lies after the keys are not looked at.
                sums.load_keys(self.isa, &u[..d], &tile.k()[..sums::KEYS * d]);
                sums.load_window(self.isa, near, rows, &v[..d], load_r);
            }
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
        if self.problem.targets.is_none() {
            band.begin_scores(self.isa, group, self.distance(rows.start, from), s);
            return;
        }
        // Lanes without a row hold what does no harm.
        s.fill([0.0; LANES]);
        for (lane, i) in rows.enumerate() {
            let near = self.distance(self.position(i), from);
            let n = group * LANES + lane;
            band.begin_row(self.isa, n, near, &mut s[..keys.len()], |at, to| self.load_r(at, to));
        }
    }

    /// The rows of a group.
    fn rows_of(&self, group: usize) -> Range<usize> {
        let first = self.rows.start + group * LANES;
        first..self.rows.end.min(first + LANES)
    }

    /// The keys of a tile that are padding.
    fn invalid(&self, keys: &Range<usize>) -> Invalid {
        let first = self.batch * self.problem.shape.seqlen_k;
        self.args.key_valid.map_or([0; WORDS], |x| invalid(keys.start, &x[first..][keys.clone()]))
    }

    fn mask(
        &self,
        sight: &Sight,
        group: usize,
        keys: &Range<usize>,
        invalid: &Invalid,
        s: &mut [Lanes],
    ) {
        let p = self.problem;
        let mut closed = [[0; LANES]; WORDS];
        closed.iter_mut().zip(invalid).for_each(|(closed, word)| closed.fill(*word));
        if let Some(mask) = self.args.perm_mask {
            for (lane, i) in self.rows_of(group).enumerate() {
                let row = self.batch * p.segment_len() + self.position(i);
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

    /// A distance's row of the table, or zeros where no pair has it.
    fn load_r(&self, distance: i64, to: &mut [f32]) {
        let (p, d) = (self.problem, self.problem.shape.head_dim);
        let clamp = p.clamp_len.map_or(i64::MAX, |n| n as i64);
        let at = usize::try_from(distance.clamp(-clamp, clamp) + p.distance_offset as i64);
        match at.ok().filter(|&at| at < p.rows) {
            Some(at) => T::load(row(self.args.r, 0, p.layout.r, at, self.head, d), to),
            None => to.fill(0.0),
        }
    }

    fn store(&self, tile: &mut Tile<'_>, out: &SharedRows<'_, T>, lse: &SharedRows<'_, f32>) {
        let (s, l) = (&self.problem.shape, &self.problem.layout);
        for (n, i) in self.rows.clone().enumerate() {
            let (row, lse_of_row) = tile.result(self.isa, n);
            let at = row_start(self.batch * l.out.batch, l.out, i, self.head);
            let lse_at = (self.batch * s.heads_q + self.head) * s.seqlen_q + i;
            // SAFETY: no other block has this row, and no two rows share an element (`validate`).
            #[allow(unsafe_code)]
            let (out, lse) = unsafe { (out.row(at, s.head_dim), lse.row(lse_at, 1)) };
            T::store(row, out);
            lse[0] = lse_of_row;
        }
    }
}
