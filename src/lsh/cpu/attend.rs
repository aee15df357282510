//! A block of a round's sorted order over the chunks that it sees.
//!
//! In the order a row sees a range, that of its chunk and its neighbours: a band, whose keys are
//! gathered once for all rows of the block. The result goes to the row's position, merged with that
//! of the rounds before.
//!
//! Floor: 4·D operations for each pair of each round, by the processor's multiply-add units.

use super::{Args, Lsh};
use crate::cpu::gather::{Head, Keys, Rows};
use crate::cpu::lanes::{LANES, Lanes};
use crate::cpu::tile::{BLOCK_M, BLOCK_N, Tile};
use crate::cpu::{Element, Isa, SharedRows, with_isa};
use crate::lsh::Wrap;
use crate::real::{dot, row_start};
use std::f32::consts::LOG2_E;
use std::ops::Range;

/// One round of one head of one sequence.
pub(super) struct Round<'a, T> {
    pub(super) problem: &'a Lsh,
    pub(super) args: &'a Args<'a, T>,
    pub(super) isa: Isa,
    pub(super) batch: usize,
    pub(super) head: usize,
    pub(super) round: usize,
    /// All rounds of the head, if there is an order.
    pub(super) order: Option<&'a [i32]>,
    /// The same of each position's chunk in the ring of all rounds, where pairs count once.
    pub(super) chunks: Option<&'a [i32]>,
}

/// The results, of which each round has every row once.
pub(super) struct Merged<'a, T> {
    pub(super) out: SharedRows<'a, T>,
    pub(super) lse: SharedRows<'a, f32>,
    pub(super) lse_rounds: Option<SharedRows<'a, f32>>,
}

/// What makes scores of one tile's products.
struct Scores {
    /// Of each key: what its products are multiplied by, to units of log2.
    factor: [f32; BLOCK_N],
    valid: [bool; BLOCK_N],
    causal: bool,
    self_mask: f32,
    mask: f32,
}

impl<T: Element> Round<'_, T> {
    /// Up to `BLOCK_M` rows, from place `first` of the order on.
    pub(super) fn attend(&self, first: usize, tile: &mut Tile<'_>, to: &Merged<'_, T>) {
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
        let (l, d) = (&p.layout, p.head_dim);
        let head = |x, strides| Head::new(x, strides, self.batch, self.head, d);
        let (qk, v) = (head(self.args.qk, l.qk), head(self.args.v, l.v));
        let scale = p.softmax_scale * std::f64::consts::LOG2_E;
        tile.begin(rows.len);
        for n in 0..rows.len {
            tile.load_q(n, qk.row(rows.position(n)), 1.0);
        }
        let mut keys = Keys::new();
        let mut scores = Scores {
            factor: [0.0; BLOCK_N],
            valid: [true; BLOCK_N],
            causal: p.causal,
            self_mask: p.self_mask_value as f32 * LOG2_E,
            mask: p.mask_value as f32 * LOG2_E,
        };
        let seen = own.len() + before + after;
        for n in 0..seen {
            let (round, places) = self.chunk_seen(own.start, n);
            for (at, place) in (n * chunk..).zip(places) {
                let j = self.position(round, place);
                let k = tile.load_k(keys.len, qk.row(j as usize));
                let square = f64::from(dot(k, k)) / d as f64;
                scores.factor[keys.len] = (scale / (square + p.key_norm_eps).sqrt()) as f32;
                let finite = tile.load_v(keys.len, v.row(j as usize));
                scores.valid[keys.len] = self.is_valid(j);
                keys.push(j, at as i32, finite);
                if keys.is_full() {
                    self.add(tile, &rows, &keys, &scores);
                    keys = Keys::new();
                }
            }
        }
        self.add(tile, &rows, &keys, &scores);
        for n in 0..rows.len {
            let (row, lse) = tile.result(n);
            self.merge(rows.position(n), row, lse, to);
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

    fn is_valid(&self, i: i32) -> bool {
        self.args.key_valid.is_none_or(|x| x[self.batch * self.problem.seqlen + i as usize] != 0)
    }

    /// A tile of keys for all rows.
    fn add(&self, tile: &mut Tile<'_>, rows: &Rows, keys: &Keys, scores: &Scores) {
        tile.attend(self.isa, rows, keys, |s, group| {
            let (i, j) = (&rows.position[group], &keys.position[..keys.len]);
            type Positions<'a> = &'a [i32; LANES];
            with_isa!(
                self.isa,
                score(s: &mut [Lanes], i: Positions<'_>, j: &[i32], scores: &Scores)
            );
            if let Some(chunks) = self.chunks {
                self.count_once(s, chunks, i, j);
            }
        });
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

    /// Row `i`'s result of this round into that of all.
    fn merge(&self, i: usize, row: &mut [f32], lse: f32, to: &Merged<'_, T>) {
        let p = self.problem;
        let at = row_start(self.batch * p.layout.out.batch, p.layout.out, i, self.head);
        let n = self.batch * p.heads + self.head;
        // SAFETY: a round has each position once, rounds are one after another, and no two rows share
        // an element (`validate`).
        #[allow(unsafe_code)]
        let (out, all, of_round) = unsafe {
            let of_round = to.lse_rounds.as_ref();
            let at_round = (n * p.num_hashes + self.round) * p.seqlen + i;
            (
                to.out.row(at, p.head_dim),
                to.lse.row(n * p.seqlen + i, 1),
                of_round.map(|x| x.row(at_round, 1)),
            )
        };
        if let Some(of_round) = of_round {
            of_round[0] = lse;
        }
        if self.round == 0 {
            T::store(row, out);
            all[0] = lse;
            return;
        }
        let (a, b) = (f64::from(all[0]), f64::from(lse));
        let most = a.max(b);
        let sum = most + ((a - most).exp() + (b - most).exp()).ln();
        let weight = (b - sum).exp() as f32;
        let mut before = [0f32; crate::full::MAX_HEAD_DIM];
        let before = &mut before[..p.head_dim];
        T::load(out, before);
        // A share of the difference keeps every bit of a row whose rounds agree.
        row.iter_mut().zip(before).for_each(|(x, before)| *x = *before + weight * (*x - *before));
        T::store(row, out);
        all[0] = sum as f32;
    }
}

/// Scores from products: scaled, then the masks', the position's own last.
#[inline(always)]
fn score<const FMA: bool>(s: &mut [Lanes], i: &[i32; LANES], j: &[i32], scores: &Scores) {
    for (key, (s, &j)) in s.iter_mut().zip(j).enumerate() {
        let factor = scores.factor[key];
        // Rows before this position have the mask's score.
        let seen_from = match (scores.valid[key], scores.causal) {
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
