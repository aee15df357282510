//! A head's keys, values and rows of the table side by side, as f32: every block of rows meets them, they
//! shall lie in few pages, and what does not depend on the row is computed once.

use super::Args;
use super::head::Head;
use super::sums::{KEYS, OCTET, PAIR, SET, SIDE, UNIT, for_each_chain};
use crate::cpu::lanes::LANES;
use crate::cpu::products::dots;
use crate::cpu::{Element, Isa, SharedRows, prefetch, with_isa};
use crate::full::MAX_HEAD_DIM;
use crate::transformer_xl::TransformerXl;
use std::ops::Range;

/// What is packed of each head.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    d: usize,
    /// Sets of keys, the last one filled up.
    sets: usize,
    /// The least distance, and how many octets of them.
    low: i64,
    pub(super) octets: usize,
}

impl Extent {
    pub(super) fn of(p: &TransformerXl) -> Self {
        let (least, most) = p.distances().unwrap_or((0, 0));
        // Where a unit meets a set of keys, a pair of it or of a later set of the tile has a distance that
        // occurs. The least is that of the octet before the unit and the last key, the most that of the
        // next unit's first octet and the tile's first key.
        let low = least - (UNIT + SET + OCTET) as i64;
        let high = most + (KEYS + UNIT + OCTET) as i64;
        // Octets begin where the first row of a unit meets the first key of a set.
        let place = p.shape.seqlen_k as i64 - p.segment_len() as i64;
        let low = low - (low - place).rem_euclid(OCTET as i64);
        Extent {
            d: p.shape.head_dim,
            sets: p.shape.seqlen_k.div_ceil(SET),
            low,
            octets: ((high - low) as usize).div_ceil(OCTET),
        }
    }

    /// f32 of a head, whole lines of the cache.
    pub(super) fn len(&self) -> usize {
        let of_sets = self.sets.saturating_mul(SET * 2 * self.d);
        let of_distances = self.octets.saturating_mul(OCTET * (self.d + 1));
        of_sets.saturating_add(of_distances).div_ceil(LANES).saturating_mul(LANES)
    }

    /// Where a part begins.
    fn first(&self, part: Part) -> usize {
        let (rows, distances) = (self.sets * SET * self.d, self.octets * OCTET);
        match part {
            Part::K => 0,
            Part::V => rows,
            Part::Table => 2 * rows,
            Part::OfTable => 2 * rows + distances * self.d,
            Part::End => 2 * rows + distances * (self.d + 1),
        }
    }

    /// Pieces of a wave's work.
    pub(super) fn pieces(&self) -> usize {
        self.sets + self.octets.div_ceil(OCTETS)
    }
}

/// What is packed of a head, in this order.
#[derive(Clone, Copy)]
enum Part {
    /// Of each set of keys, by chains of pairs of elements: of each place in an octet of keys the pairs,
    /// of each the set's keys at that place.
    K,
    /// Rows.
    V,
    /// By chains: of each octet of distances the pairs, of each its distances.
    Table,
    /// (v − u) · r, in units of scores.
    OfTable,
    End,
}

/// Octets of distances of a piece of work.
const OCTETS: usize = SET / OCTET;

/// One head's.
pub(super) struct Packed<'a> {
    pub(super) extent: &'a Extent,
    k: &'a [f32],
    v: &'a [f32],
    pub(super) table: &'a [f32],
    pub(super) of_table: &'a [f32],
}

impl<'a> Packed<'a> {
    pub(super) fn new(extent: &'a Extent, all: &'a [f32]) -> Self {
        let part = |part, end| &all[extent.first(part)..extent.first(end)];
        Packed {
            extent,
            k: part(Part::K, Part::V),
            v: part(Part::V, Part::Table),
            table: part(Part::Table, Part::OfTable),
            of_table: part(Part::OfTable, Part::End),
        }
    }

    /// Where a distance is.
    pub(super) fn at(&self, distance: i64) -> usize {
        (distance - self.extent.low) as usize
    }

    /// A set's keys.
    pub(super) fn k_of_set(&self, set: usize) -> &'a [f32] {
        let len = SET * self.extent.d;
        &self.k[set * len..][..len]
    }

    /// The values of some keys.
    pub(super) fn v(&self, keys: Range<usize>) -> &'a [f32] {
        &self.v[keys.start * self.extent.d..keys.end * self.extent.d]
    }

    /// Asks for part `n` of `parts` of what comes with the tile from key `from` on, whose first key has
    /// distance `near` to the block's first row.
    pub(super) fn ask(&self, (n, parts): (usize, usize), from: usize, near: i64) {
        let ask = |x: &[f32]| prefetch(&x[x.len() * n / parts..x.len() * (n + 1) / parts]);
        let keys = from..(from + KEYS).min(self.extent.sets * SET);
        let rows = keys.start * self.extent.d..keys.end * self.extent.d;
        [self.k, self.v].into_iter().for_each(|x| ask(&x[rows.clone()]));
        // Distances that the tile before did not need.
        let at = near - KEYS as i64 - self.extent.low;
        let Ok(octet) = usize::try_from(at / OCTET as i64) else { return };
        for_each_chain(self.extent.d / PAIR, |first, len| {
            let at = (first * self.extent.octets + octet * len) * PAIR * OCTET;
            let of_chain = self.table.get(at..).and_then(|x| x.get(..KEYS * len * PAIR));
            of_chain.into_iter().for_each(ask);
        });
    }
}

/// What is packed, and where to.
pub(super) struct Packing<'a, T> {
    pub(super) extent: &'a Extent,
    pub(super) isa: Isa,
    pub(super) problem: &'a TransformerXl,
    pub(super) args: &'a Args<'a, T>,
    /// Heads of all sequences', one after the other in `to`.
    pub(super) wave: Range<usize>,
    pub(super) to: SharedRows<'a, f32>,
}

impl<T: Element> Packing<'_, T> {
    /// One of [`Extent::pieces`], of each of the heads: a page of memory has rows of several. `rows` has
    /// room for as many rows as a set has keys.
    pub(super) fn pack(&self, piece: usize, rows: &mut [f32]) {
        for n in self.wave.clone() {
            match piece.checked_sub(self.extent.sets) {
                None => self.pack_set(n, piece, rows),
                Some(piece) => self.pack_octets(n, piece * OCTETS, rows),
            }
        }
    }

    /// Of head `n` some elements of a part, from `at` on.
    ///
    /// # Safety
    ///
    /// They are of the piece that is being packed.
    #[allow(unsafe_code, clippy::mut_from_ref)]
    unsafe fn part(&self, n: usize, part: Part, at: usize, len: usize) -> &mut [f32] {
        let first = (n - self.wave.start) * self.extent.len() + self.extent.first(part);
        // SAFETY: no other piece has them.
        unsafe { self.to.row(first + at, len) }
    }

    /// The head after `n` in the wave, whose rows are asked for in the meantime.
    fn next(&self, n: usize) -> Option<Head<'_, T>> {
        (n + 1 < self.wave.end).then(|| Head::new(self.problem, self.args, n + 1))
    }

    fn pack_set(&self, n: usize, set: usize, rows: &mut [f32]) {
        let (d, end) = (self.extent.d, self.problem.shape.seqlen_k);
        let (head, next) = (Head::new(self.problem, self.args, n), self.next(n));
        let first = set * SET;
        // SAFETY: the set's own.
        #[allow(unsafe_code)]
        let [k, v] =
            [Part::K, Part::V].map(|part| unsafe { self.part(n, part, first * d, SET * d) });
        for (i, j) in (first..end.min(first + SET)).enumerate() {
            next.iter().flat_map(|next| next.key(j)).for_each(prefetch);
            let [from_k, from_v] = head.key(j);
            T::load(from_k, &mut rows[i * d..][..d]);
            T::load(from_v, &mut v[i * d..][..d]);
        }
        for_each_chain(d / PAIR, |first, len| {
            let to = &mut k[first * PAIR * SET..][..len * PAIR * SET];
            for (i, row) in rows.chunks_exact(d).take(SET).enumerate() {
                let row = row[first * PAIR..].as_chunks::<PAIR>().0;
                let to = to[i % OCTET * len * PAIR * SIDE..].as_chunks_mut::<{ PAIR * SIDE }>().0;
                for (to, pair) in to.iter_mut().zip(row) {
                    to[i / OCTET * PAIR..][..PAIR].copy_from_slice(pair);
                }
            }
        });
    }

    fn pack_octets(&self, n: usize, first: usize, rows: &mut [f32]) {
        let (d, octets) = (self.extent.d, self.extent.octets);
        let (head, next) = (Head::new(self.problem, self.args, n), self.next(n));
        let count = OCTETS.min(octets - first);
        let rows = &mut rows[..count * OCTET * d];
        for (i, row) in rows.chunks_exact_mut(d).enumerate() {
            let distance = self.extent.low + (first * OCTET + i) as i64;
            next.iter().flat_map(|next| next.r(distance)).for_each(prefetch);
            head.load_r(distance, row);
        }
        for_each_chain(d / PAIR, |pairs, len| {
            let at = (pairs * octets + first * len) * PAIR * OCTET;
            // SAFETY: the octets' own.
            #[allow(unsafe_code)]
            let to = unsafe { self.part(n, Part::Table, at, count * len * PAIR * OCTET) };
            for (i, row) in rows.chunks_exact(d).enumerate() {
                let row = row[pairs * PAIR..].as_chunks::<PAIR>().0;
                let to = to[i / OCTET * len * PAIR * OCTET..][..len * PAIR * OCTET]
                    .as_chunks_mut::<{ PAIR * OCTET }>()
                    .0;
                for (to, pair) in to.iter_mut().zip(row) {
                    to[i % OCTET * PAIR..][..PAIR].copy_from_slice(pair);
                }
            }
        });
        // SAFETY: the same.
        #[allow(unsafe_code)]
        let of_table = unsafe { self.part(n, Part::OfTable, first * OCTET, count * OCTET) };
        let mut biases = [0f32; MAX_HEAD_DIM];
        let [u, v] = [self.args.bias_u, self.args.bias_v].map(|bias| head.of_head(bias));
        for (to, (u, v)) in biases.iter_mut().zip(u.iter().zip(v)) {
            *to = (v - u) * head.scale();
        }
        let (x, rows): (&[f32], &[f32]) = (&biases[..d], rows);
        with_isa!(self.isa, dots(x: &[f32], rows: &[f32], of_table: &mut [f32]));
    }
}
