//! Buckets of positions, and the order that they give.

use crate::cpu::lanes::{LANES, Lanes, key_by_key, select};
use crate::cpu::tile::{BLOCK_N, GROUPS, Tile};
use crate::cpu::{Isa, SharedRows, with_isa};
use crate::lsh::Lsh;
use std::ops::Range;

/// One head of one sequence.
pub(super) struct Hash<'a> {
    pub(super) problem: &'a Lsh,
    pub(super) rotations: &'a [f32],
    pub(super) isa: Isa,
    /// Of all sequences' heads.
    pub(super) n: usize,
}

/// Of some rows and one factor so far: the largest projection and the smallest, each with the first
/// column that has it.
#[derive(Clone, Copy)]
struct Best {
    most: Lanes,
    most_at: [i32; LANES],
    least: Lanes,
    least_at: [i32; LANES],
}

impl Best {
    const NONE: Best = Best {
        most: [f32::NEG_INFINITY; LANES],
        most_at: [0; LANES],
        least: [f32::INFINITY; LANES],
        least_at: [0; LANES],
    };
}

impl Hash<'_> {
    /// The buckets of the tile's `rows` rows, positions from `first` on, in every round.
    pub(super) fn block(
        &self,
        first: usize,
        rows: usize,
        tile: &mut Tile<'_>,
        to: &SharedRows<'_, i32>,
    ) {
        let p = self.problem;
        for round in 0..p.num_hashes {
            let row = self.n * p.num_hashes + round;
            // SAFETY: no other block has these positions of this head.
            #[allow(unsafe_code)]
            let buckets = unsafe { to.row(row * p.seqlen + first, rows) };
            self.round(round, tile, buckets);
        }
    }

    fn round(&self, round: usize, tile: &mut Tile<'_>, buckets: &mut [i32]) {
        let p = self.problem;
        buckets.fill(0);
        let mut best = [Best::NONE; GROUPS];
        for first in (0..p.columns()).step_by(BLOCK_N) {
            let columns = first..p.columns().min(first + BLOCK_N);
            self.load_columns(round, columns.clone(), tile);
            for (group, buckets) in buckets.chunks_mut(LANES).enumerate() {
                let s = tile.scores(self.isa, group, 0..columns.len());
                self.choose(columns.clone(), s, &mut best[group], buckets);
            }
        }
    }

    /// Columns of a round's rotations, turned, in the place of keys.
    fn load_columns(&self, round: usize, columns: Range<usize>, tile: &mut Tile<'_>) {
        let (p, d) = (self.problem, self.problem.head_dim);
        let k = tile.k();
        for x in 0..d {
            let at = ((self.n % p.heads * d + x) * p.num_hashes + round) * p.columns();
            let row = &self.rotations[at..][columns.clone()];
            for (n, &y) in row.iter().enumerate() {
                k[n * d + x] = y;
            }
        }
        tile.end_k(columns.len());
    }

    /// Looks at a group's projections, and adds the digit of each factor whose last column is there.
    fn choose(&self, columns: Range<usize>, s: &[Lanes], best: &mut Best, buckets: &mut [i32]) {
        let (mut begin, mut below) = (0, 1);
        for &factor in &self.problem.num_buckets {
            let end = begin + factor / 2;
            let (from, to) = (columns.start.max(begin), columns.end.min(end));
            if from < to {
                let s: &[Lanes] = &s[from - columns.start..to - columns.start];
                let at = (from - begin) as i32;
                with_isa!(self.isa, better(s: &[Lanes], at: i32, best: &mut Best));
                if to == end {
                    let mut digits = [0; LANES];
                    {
                        let (half, digits) = ((factor / 2) as i32, &mut digits);
                        let best: &Best = best;
                        type Digits<'a> = &'a mut [i32; LANES];
                        with_isa!(self.isa, digit(best: &Best, half: i32, digits: Digits<'_>));
                    }
                    for (bucket, digit) in buckets.iter_mut().zip(digits) {
                        *bucket += below as i32 * digit;
                    }
                    *best = Best::NONE;
                }
            }
            (begin, below) = (end, below * factor);
        }
    }
}

#[inline(always)]
fn better<const FMA: bool>(s: &[Lanes], at: i32, best: &mut Best) {
    // In registers meanwhile, so that whole vectors are stored, once.
    let mut now = *best;
    for (s, at) in s.iter().zip(at..) {
        key_by_key();
        for (n, &y) in s.iter().enumerate() {
            let all = |x: bool| u32::from(x).wrapping_neg();
            let (more, less) = (all(y > now.most[n]), all(y < now.least[n]));
            let number = |all: u32, x: f32| f32::from_bits(select(all, y.to_bits(), x.to_bits()));
            let place = |all: u32, x: i32| select(all, at as u32, x as u32) as i32;
            now.most[n] = number(more, now.most[n]);
            now.most_at[n] = place(more, now.most_at[n]);
            now.least[n] = number(less, now.least[n]);
            now.least_at[n] = place(less, now.least_at[n]);
        }
    }
    *best = now;
}

/// The first of the largest of [y ; −y], of a factor that has `half` columns.
#[inline(always)]
fn digit<const FMA: bool>(best: &Best, half: i32, digits: &mut [i32; LANES]) {
    for (n, digit) in digits.iter_mut().enumerate() {
        let all = u32::from(-best.least[n] > best.most[n]).wrapping_neg();
        let least_at = (half + best.least_at[n]) as u32;
        *digit = select(all, least_at, best.most_at[n] as u32) as i32;
    }
}

/// Positions by bucket, those of a bucket as they stand; invalid positions have the last bucket of
/// `counts`.
pub(super) fn sort(
    buckets: &mut [i32],
    valid: Option<&[u8]>,
    counts: &mut [i32],
    order: &mut [i32],
) {
    if let Some(valid) = valid {
        let invalid = buckets.iter_mut().zip(valid).filter(|(_, valid)| **valid == 0);
        invalid.for_each(|(bucket, _)| *bucket = counts.len() as i32 - 1);
    }
    counts.fill(0);
    buckets.iter().for_each(|&bucket| counts[bucket as usize] += 1);
    // Where each bucket begins.
    let mut sum = 0;
    for count in counts.iter_mut() {
        (*count, sum) = (sum, sum + *count);
    }
    for (i, &bucket) in buckets.iter().enumerate() {
        let place = &mut counts[bucket as usize];
        order[*place as usize] = i as i32;
        *place += 1;
    }
}
