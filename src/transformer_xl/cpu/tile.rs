//! A block of query rows over the keys that it sees.
//!
//! Floor: 6·B·H·Lq·Lk·D operations of the pairs that the masks leave, by the processor's multiply-add
//! units.

use super::Args;
use super::mask::{Closed, Invalid, Sight, WORD, WORDS, add_segments, invalid, mask};
use super::position::{GROUPS, Positions, load_row};
use crate::cpu::lanes::{LANES, Lanes};
use crate::cpu::tile::{BLOCK_N, Tile};
use crate::cpu::{Element, Isa, SharedRows, prefetch, with_isa};
use crate::full::MAX_HEAD_DIM;
use crate::real::{dot, row, row_start};
use crate::transformer_xl::{Memory, TransformerXl};
use std::f64::consts::LOG2_E;
use std::ops::Range;

/// Some rows of one head of one sequence.
pub(super) struct Block<'a, T> {
    pub(super) problem: &'a TransformerXl,
    pub(super) args: &'a Args<'a, T>,
    pub(super) isa: Isa,
    pub(super) head: usize,
    pub(super) batch: usize,
    pub(super) rows: Range<usize>,
}

impl<T: Element> Block<'_, T> {
    pub(super) fn run(
        &self,
        tile: &mut Tile<'_>,
        positions: &mut Positions<'_>,
        out: &SharedRows<'_, T>,
        lse: &SharedRows<'_, f32>,
    ) {
        let p = self.problem;
        let mut sights = [Sight::NONE; GROUPS];
        self.load_rows(tile, positions, &mut sights);
        let sights = &sights[..self.rows.len().div_ceil(LANES)];
        let begin = sights.iter().map(|sight| sight.any().start).min().unwrap_or(0);
        let end = sights.iter().map(|sight| sight.any().end).max().unwrap_or(0);
        // Tiles of one sequence are the same for all blocks: results do not depend on the rows of one.
        for from in (begin / BLOCK_N * BLOCK_N..end).step_by(BLOCK_N) {
            let keys = from..end.min(from + BLOCK_N);
            let invalid = self.invalid(&keys);
            let padding: u32 = invalid.iter().map(|word| word.count_ones()).sum();
            if padding as usize == keys.len() && !p.own_position {
                continue;
            }
            let finite = self.load_tile(tile, keys.clone());
            if p.targets.is_none() {
                let near = self.distance(self.rows.start, from);
                positions.load_window(near, self.rows.len(), |at, to| self.load_r(at, to));
            }
            for (group, sight) in sights.iter().enumerate() {
                // Some of the next tile's rows, so that they are near when it is loaded.
                let next = |n: usize| (keys.end + n * BLOCK_N / sights.len()).min(end);
                for j in next(group)..next(group + 1) {
                    self.key(j).into_iter().for_each(prefetch);
                }
                let keys = keys.start..keys.end.min(sight.any().end);
                if keys.is_empty() || keys.end <= sight.any().start {
                    continue;
                }
                let s = tile.scores_from(self.isa, group, keys.len(), |s| {
                    self.begin_scores(positions, group, sight, &keys, s);
                });
                let masked = !sight.is_whole(&keys) || p.perm_mask || padding > 0;
                if masked {
                    self.mask(sight, group, &keys, &invalid, s);
                }
                tile.add(self.isa, group, 0..keys.len(), masked && !finite);
            }
        }
        self.store(tile, out, lse);
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

    /// The queries with their biases, times the scale to units of log2, and what they see.
    fn load_rows(
        &self,
        tile: &mut Tile<'_>,
        positions: &mut Positions<'_>,
        sights: &mut [Sight; GROUPS],
    ) {
        let (p, d) = (self.problem, self.problem.shape.head_dim);
        let scale = (p.softmax_scale * LOG2_E) as f32;
        let (mut q, mut sum) = ([0f32; MAX_HEAD_DIM], [0f32; MAX_HEAD_DIM]);
        tile.begin(self.rows.len());
        for (n, i) in self.rows.clone().enumerate() {
            let (q, sum) = (&mut q[..d], &mut sum[..d]);
            T::load(
                row(self.args.q, self.batch * p.layout.q.batch, p.layout.q, i, self.head, d),
                q,
            );
            let add = |bias: &[f32], to: &mut [f32]| {
                for (to, (q, bias)) in to.iter_mut().zip(q.iter().zip(&bias[self.head * d..])) {
                    *to = (q + bias) * scale;
                }
            };
            add(self.args.bias_u, sum);
            tile.load_q(self.isa, n, sum, 1.0);
            add(self.args.bias_v, sum);
            positions.load_q(n, sum);
            let (position, sight) = (self.position(i), &mut sights[n / LANES]);
            let own = p.own_position.then(|| position + p.shape.seqlen_k - p.segment_len());
            sight.add(n % LANES, p.keys(position), own);
            if let (Some(bias), Some(embed), Some(segments)) =
                (self.args.bias_s, self.args.seg_embed, self.args.seg_q)
            {
                add(bias, sum);
                let of = |x: usize| dot(sum, &embed[(x * p.shape.heads_q + self.head) * d..][..d]);
                let segment = segments[self.batch * p.segment_len() + position];
                sight.add_segment(n % LANES, segment, [of(0), of(1)]);
            }
        }
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

    /// K and V of a tile. Whether all of V is finite.
    fn load_tile(&self, tile: &mut Tile<'_>, keys: Range<usize>) -> bool {
        let len = keys.len();
        tile.end_k(len);
        for (n, j) in keys.enumerate() {
            let [k, v] = self.key(j);
            tile.load_k(n, k);
            tile.load_v(n, v);
        }
        tile.is_finite(self.isa, len)
    }

    /// S before the product with the keys: the terms of positions and segments.
    fn begin_scores(
        &self,
        positions: &mut Positions<'_>,
        group: usize,
        sight: &Sight,
        keys: &Range<usize>,
        s: &mut [Lanes],
    ) {
        let p = self.problem;
        let (rows, from) = (self.rows_of(group), keys.start);
        if p.targets.is_none() {
            let near = self.distance(rows.start, from);
            positions.begin_scores(self.isa, group, near, s);
        } else {
            // Lanes without a row hold what does no harm.
            s.fill([0.0; LANES]);
            for (lane, i) in rows.enumerate() {
                let near = self.distance(self.position(i), from);
                let n = group * LANES + lane;
                positions.begin_row(self.isa, n, near, &mut s[..keys.len()], |at, to| {
                    self.load_r(at, to)
                });
            }
        }
        if let Some(segments) = self.args.seg_k {
            let of_keys: &[i32] = &segments[self.batch * p.shape.seqlen_k..][keys.clone()];
            with_isa!(self.isa, add_segments(sight: &Sight, of_keys: &[i32], s: &mut [Lanes]));
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

    fn load_r(&self, distance: i64, to: &mut [f32]) {
        let (p, d) = (self.problem, self.problem.shape.head_dim);
        let clamp = p.clamp_len.map_or(i64::MAX, |n| n as i64);
        let at = usize::try_from(distance.clamp(-clamp, clamp) + p.distance_offset as i64);
        let at = at.ok().filter(|&at| at < p.rows);
        load_row(at.map(|at| row(self.args.r, 0, p.layout.r, at, self.head, d)), to);
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
