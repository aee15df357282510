//! A block of a round's sorted order over the chunks that it sees.
//!
//! In the order a row sees a range, that of its chunk and its neighbours: a band, whose keys are
//! gathered once for all rows of the block. The result goes to the row's position, merged with that
//! of the rounds before.
//!
//! Floor: 4·D operations for each pair of each round, by the processor's multiply-add units.

use super::pack::Packed;
use crate::cpu::gather::{Rows, Scores};
use crate::cpu::lanes::{LANES, Lanes, exp2_wide, key_by_key, log2_wide, multiply_add};
use crate::cpu::tile::{BLOCK_M, BLOCK_N, Tile};
use crate::cpu::{Isa, SharedRows, prefetch, with_isa};
use crate::lsh::{Lsh, Wrap};
use std::f32::consts::LOG2_E;
use std::ops::Range;

/// One round of one head of one sequence.
pub(super) struct Round<'a> {
    pub(super) problem: &'a Lsh,
    pub(super) isa: Isa,
    pub(super) round: usize,
    pub(super) rows: Packed<'a>,
    /// One byte a position of the sequence.
    pub(super) valid: Option<&'a [u8]>,
    /// All rounds of the head, if there is an order.
    pub(super) order: Option<&'a [i32]>,
    /// The same of each position's chunk in the ring of all rounds, where pairs count once.
    pub(super) chunks: Option<&'a [i32]>,
}

/// The results of a head, of which each round has every row once.
pub(super) struct Merged<'a> {
    /// In f32, row after row; `o_at` is where the head's begin.
    pub(super) o: &'a SharedRows<'a, f32>,
    pub(super) o_at: usize,
    pub(super) lse: &'a SharedRows<'a, f32>,
    pub(super) lse_at: usize,
    /// The round's.
    pub(super) lse_round: Option<(&'a SharedRows<'a, f32>, usize)>,
}

/// What makes scores of a tile's products.
struct Hashed<'a> {
    round: &'a Round<'a>,
    /// Of each key: what its products are multiplied by, to units of log2.
    factor: [f32; BLOCK_N],
    valid: [bool; BLOCK_N],
    self_mask: f32,
    mask: f32,
}

impl Scores for Hashed<'_> {
    /// A chunk, or as many as a tile takes.
    fn end_of_tiles(&self) -> i32 {
        let chunk = self.round.problem.items_of_chunk();
        (chunk * (BLOCK_N / chunk).max(1)) as i32
    }

    fn see(&mut self, n: usize, j: i32) {
        self.factor[n] = self.round.rows.factors[j as usize];
        self.valid[n] = self.round.valid.is_none_or(|valid| valid[j as usize] != 0);
    }

    fn score(&self, s: &mut [Lanes], i: &[i32; LANES], j: &[i32], from: usize) {
        type Positions<'a> = &'a [i32; LANES];
        let isa = self.round.isa;
        let scores: &Hashed<'_> = self;
        with_isa!(isa, score(
            s: &mut [Lanes],
            i: Positions<'_>,
            j: &[i32],
            from: usize,
            scores: &Hashed<'_>,
        ));
        if let Some(chunks) = self.round.chunks {
            self.round.count_once(s, chunks, i, j);
        }
    }
}

impl Round<'_> {
    /// Up to `BLOCK_M` rows, from place `first` of the order on.
    pub(super) fn attend(&self, first: usize, tile: &mut Tile<'_>, to: &Merged<'_>) {
        let (p, chunk) = (self.problem, self.problem.items_of_chunk());
        let (before, after) = p.seen_chunks();
        let places = first..p.seqlen.min(first + BLOCK_M);
        let own = first / chunk..(places.end - 1) / chunk + 1;
        let mut rows = Rows::new();
        for place in places {
            let start = (place / chunk - own.start) * chunk;
            let last = start + (before + 1 + after) * chunk - 1;
            rows.push(self.position(self.round, place), start as i32, last as i32);
        }
        tile.load_rows(self.isa, &rows, &self.rows.k, 1.0);
        let keys = (0..own.len() + before + after).flat_map(|n| {
            let (round, places) = self.chunk_seen(own.start, n);
            let at = n * chunk..;
            places.zip(at).map(move |(place, at)| (self.position(round, place), at as i32))
        });
        let mut scores = Hashed {
            round: self,
            factor: [0.0; BLOCK_N],
            valid: [true; BLOCK_N],
            self_mask: p.self_mask_value as f32 * LOG2_E,
            mask: p.mask_value as f32 * LOG2_E,
        };
        tile.attend(self.isa, &rows, (&self.rows.k, &self.rows.v), keys, &mut scores);
        self.ask_for(&rows, 0, to);
        for first in (0..rows.len).step_by(LANES) {
            self.ask_for(&rows, first + LANES, to);
            let (x, lse) = tile.results(self.isa, first / LANES);
            self.merge(&rows, first, x, lse, to);
        }
    }

    /// Asks for the results of all rounds of a group of rows.
    fn ask_for(&self, rows: &Rows, first: usize, to: &Merged<'_>) {
        for n in first..rows.len.min(first + LANES) {
            let (i, d) = (rows.position(n), self.problem.head_dim);
            // SAFETY: as in `merge`.
            #[allow(unsafe_code)]
            prefetch(unsafe { to.o.row(to.o_at + i * d, d) });
            // SAFETY: the same.
            #[allow(unsafe_code)]
            prefetch(unsafe { to.lse.row(to.lse_at + i, 1) });
        }
    }

    /// The position at a place of a round's order.
    fn position(&self, round: usize, place: usize) -> i32 {
        self.order.map_or(place as i32, |order| order[round * self.problem.seqlen + place])
    }

    /// Chunk `n` of those that chunk `first` of the round and later ones see: its round and places.
    fn chunk_seen(&self, first: usize, n: usize) -> (usize, Range<usize>) {
        let p = self.problem;
        let (of_round, ring, chunk) = (p.chunks_of_round(), p.ring(), p.items_of_chunk());
        let before = p.seen_chunks().0 % ring;
        let (base, first) = match p.wrap {
            Wrap::AcrossRounds => (0, self.round * of_round + first),
            Wrap::PerRound => (self.round * of_round, first),
        };
        let seen = base + (first + n + ring - before) % ring;
        let place = seen % of_round * chunk;
        (seen / of_round, place..p.seqlen.min(place + chunk))
    }

    /// A score loses log2 N for the N times that its row meets the key.
    fn count_once(&self, s: &mut [Lanes], chunks: &[i32], i: &[i32; LANES], j: &[i32]) {
        let p = self.problem;
        let (before, after) = p.seen_chunks();
        let ring = p.ring() as i32;
        // Whole turns of the ring that a row sees, and chunks beyond.
        let (turns, rest) =
            ((before + 1 + after) as i32 / ring, (before + 1 + after) as i32 % ring);
        let before = before as i32 % ring;
        let mut times = [[0i32; LANES]; BLOCK_N];
        let of_round = |r: usize| &chunks[r * p.seqlen..][..p.seqlen];
        for mine in 0..p.num_hashes {
            // Lanes without a row have position −1.
            let i = i.map(|i| of_round(mine).get(i as usize).map_or(0, |&c| c - before));
            let rounds = match p.wrap {
                Wrap::AcrossRounds => 0..p.num_hashes,
                Wrap::PerRound => mine..mine + 1,
            };
            for theirs in rounds {
                for (times, &j) in times.iter_mut().zip(j) {
                    let c = of_round(theirs)[j as usize];
                    for (times, i) in times.iter_mut().zip(i) {
                        // Of the chunks that the row sees, the first that is the key's.
                        let at = c - i;
                        let at = if at < 0 { at + ring } else { at };
                        let at = if at >= ring { at - ring } else { at };
                        *times += turns + i32::from(at < rest);
                    }
                }
            }
        }
        for (s, times) in s.iter_mut().zip(times) {
            for (s, times) in s.iter_mut().zip(times).filter(|(_, times)| *times > 1) {
                *s -= (times as f32).log2();
            }
        }
    }

    /// Results of this round, of the group of rows from `first` on, into those of all.
    fn merge(&self, rows: &Rows, first: usize, x: &[f32], lse: &Lanes, to: &Merged<'_>) {
        let d = self.problem.head_dim;
        let group = || (first..rows.len.min(first + LANES)).map(|n| rows.position(n));
        // SAFETY: a round has each position of a head once, and rounds are one after another.
        #[allow(unsafe_code)]
        let of_all = |i: usize| unsafe { &mut to.lse.row(to.lse_at + i, 1)[0] };
        if let Some((of_round, at)) = to.lse_round {
            for (i, lse) in group().zip(lse) {
                // SAFETY: as above.
                #[allow(unsafe_code)]
                let of_round = unsafe { of_round.row(at + i, 1) };
                of_round[0] = *lse;
            }
        }
        let (mut all, mut weights) = (*lse, [1.0; LANES]);
        if self.round > 0 {
            for (i, all) in group().zip(&mut all) {
                *all = *of_all(i);
            }
            let (all, weights): (&mut Lanes, &mut Lanes) = (&mut all, &mut weights);
            with_isa!(self.isa, weigh(all: &mut Lanes, lse: &Lanes, weights: &mut Lanes));
        }
        for (n, i) in group().enumerate() {
            *of_all(i) = all[n];
            // SAFETY: as above.
            #[allow(unsafe_code)]
            let o: &mut [f32] = unsafe { to.o.row(to.o_at + i * d, d) };
            let (x, weight): (&[f32], f32) = (&x[n * d..][..d], weights[n]);
            match self.round {
                0 => o.copy_from_slice(x),
                _ => with_isa!(self.isa, share(o: &mut [f32], x: &[f32], weight: f32)),
            }
        }
    }
}

/// Logarithms of sums of exponentials, with those of a round added, and the round's share of each.
#[inline(always)]
fn weigh<const FMA: bool>(all: &mut Lanes, lse: &Lanes, weights: &mut Lanes) {
    let mut less = [0f64; LANES];
    for n in 0..LANES {
        less[n] = -(f64::from(lse[n]) - f64::from(all[n])).abs() * std::f64::consts::LOG2_E;
    }
    exp2_wide(&mut less);
    let mut sum = less.map(|less| 1.0 + less);
    for n in 0..LANES {
        weights[n] = (if lse[n] > all[n] { 1.0 } else { less[n] } / sum[n]) as f32;
    }
    log2_wide(&mut sum);
    for n in 0..LANES {
        let most = if lse[n] > all[n] { lse[n] } else { all[n] };
        all[n] = (f64::from(most) + sum[n] * std::f64::consts::LN_2) as f32;
    }
}

/// A share of the difference keeps every bit of a row whose rounds agree.
#[inline(always)]
fn share<const FMA: bool>(o: &mut [f32], x: &[f32], weight: f32) {
    for (o, x) in o.iter_mut().zip(x) {
        *o = multiply_add::<FMA>(weight, x - *o, *o);
    }
}

/// Scores from products: scaled, then the masks', the position's own last.
#[inline(always)]
fn score<const FMA: bool>(
    s: &mut [Lanes],
    i: &[i32; LANES],
    j: &[i32],
    from: usize,
    scores: &Hashed<'_>,
) {
    let causal = scores.round.problem.causal;
    for (key, (s, &j)) in (from..).zip(s.iter_mut().zip(j)) {
        key_by_key();
        let factor = scores.factor[key];
        // Rows before this position have the mask's score.
        let seen_from = match (scores.valid[key], causal) {
            (false, _) => i32::MAX,
            (true, true) => j,
            (true, false) => i32::MIN,
        };
        for n in 0..LANES {
            let product = s[n] * factor;
            let masked = if i[n] < seen_from { scores.mask } else { product };
            s[n] = if i[n] == j { scores.self_mask } else { masked };
        }
    }
}
