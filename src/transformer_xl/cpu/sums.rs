//! Scores by one product, where additions have units of their own and there are registers for it.
//!
//! (q + u)·k + (q + v)·r = q·(k + r) + u·k + v·r: an element of a pair takes an addition and a
//! multiply-add, where two products take two multiply-adds. Row i and key j meet the table's row of
//! distance i − j, so keys and rows that are both as much further on share it: of K keys and G rows that
//! are K + G − 1 distances. Lanes are four elements of four neighbouring rows, which meet four
//! neighbouring distances of one key: elements by fours, the distances of each one after the other, are
//! vectors wherever they begin, a key's four elements are repeated as they are loaded, and the four sums
//! of a row meet in the end.
//!
//! The window of distances moves towards the future, a tile's length at a time; each is converted once
//! for a block.

use super::tile::ROWS;
use crate::cpu::lanes::{LANES, Lanes, from_line};
use crate::cpu::products::{CHAIN, dots};
use crate::cpu::{Isa, with_isa};

/// Elements side by side; a row has a multiple of them.
pub(super) const QUAD: usize = 4;
/// Four elements of a row.
type Quad = [f32; QUAD];
/// Keys whose products are summed side by side, with each fourth of a group's rows: sixteen sums, half
/// of the registers.
const SIDE: usize = 4;
/// Keys of a tile: whole steps.
pub(super) const KEYS: usize = 64;
/// Distances of the window: what a tile needs, and room to move. An odd number of the cache's lines, so
/// that those of other elements lie in other sets.
const WINDOW: usize = ROWS + KEYS + 4 * KEYS + QUAD;

/// One thread's part of the workspace.
pub(super) struct Sums<'a> {
    /// Elements of a row.
    d: usize,
    /// Per group and four elements: of each row.
    q: &'a mut [[Quad; LANES]],
    /// Per four elements: of each distance of the window.
    table: &'a mut [[Quad; WINDOW]],
    /// v · r.
    of_table: &'a mut [f32],
    /// The window's first, the distance that it is of, and how many there are.
    first: usize,
    low: i64,
    count: usize,
    /// Rows of the table on their way.
    rows: &'a mut [f32],
    /// u · k of each key of the tile.
    of_keys: [f32; KEYS],
}

impl<'a> Sums<'a> {
    /// f32 that one needs.
    pub(super) fn len(d: usize) -> usize {
        ROWS * d + (d + 1) * WINDOW + LANES * d + LANES
    }

    /// One in `all`, as long as `len` says.
    pub(super) fn new(d: usize, all: &'a mut [f32]) -> Self {
        let (q, rest) = from_line(all).split_at_mut(ROWS * d);
        let (table, rest) = rest.split_at_mut(d * WINDOW);
        let (of_table, rest) = rest.split_at_mut(WINDOW);
        Sums {
            d,
            q: bytemuck::cast_slice_mut(q),
            table: table.as_chunks_mut().0.as_chunks_mut().0,
            of_table,
            first: 0,
            low: 0,
            count: 0,
            rows: &mut rest[..LANES * d],
            of_keys: [0.0; KEYS],
        }
    }

    /// Row `n` of the block is `scale · q`. Lanes without a row keep what they hold: nothing leaves a lane.
    pub(super) fn load_q(&mut self, n: usize, q: &[f32], scale: f32) {
        let of_group = &mut self.q[n / LANES * (self.d / QUAD)..];
        for (rows, q) in of_group.iter_mut().zip(q.as_chunks().0) {
            rows[n % LANES] = q.map(|q| q * scale);
        }
    }

    /// The window has the distances that a tile of rows `0..rows` needs, where row 0 has distance
    /// `near` to the tile's first key. `load` writes a distance's row of the table.
    pub(super) fn load_window(
        &mut self,
        isa: Isa,
        near: i64,
        rows: usize,
        v: &[f32],
        mut load: impl FnMut(i64, &mut [f32]),
    ) {
        let low = near - KEYS as i64;
        let needed = rows.next_multiple_of(LANES) + KEYS;
        // Tiles are whole numbers of their length apart, and those are whole groups of lanes.
        let new = usize::try_from(self.low - low).unwrap_or(needed);
        let new = if new < self.count { new } else { needed };
        if self.first < new {
            let kept = self.first..self.first + needed - new;
            self.first = WINDOW - kept.len();
            for of_quad in self.table.iter_mut() {
                of_quad.copy_within(kept.clone(), self.first);
            }
            self.of_table.copy_within(kept, self.first);
        }
        self.first -= new;
        (self.low, self.count) = (low, needed);
        for at in (0..new).step_by(LANES) {
            for (n, row) in self.rows.chunks_exact_mut(self.d).enumerate() {
                load(low + (at + n) as i64, row);
            }
            let to = self.first + at..self.first + at + LANES;
            let (rows, sums): (&[f32], &mut [f32]) = (self.rows, &mut self.of_table[to.clone()]);
            with_isa!(isa, dots(v: &[f32], rows: &[f32], sums: &mut [f32]));
            for (x, of_quad) in self.table.iter_mut().enumerate() {
                for (to, row) in of_quad[to.clone()].iter_mut().zip(rows.chunks_exact(self.d)) {
                    *to = row.as_chunks().0[x];
                }
            }
        }
    }

    /// The tile's keys are the rows `k`.
    pub(super) fn load_keys(&mut self, isa: Isa, u: &[f32], k: &[f32]) {
        let sums: &mut [f32] = &mut self.of_keys;
        with_isa!(isa, dots(u: &[f32], k: &[f32], sums: &mut [f32]));
    }

    /// S of a group and the tile's first `keys` keys, which may be rounded up to a whole step.
    /// `near`: the distance of the group's first row and the tile's first key.
    pub(super) fn scores(
        &self,
        isa: Isa,
        (group, near): (usize, i64),
        keys: usize,
        (k, s): (&[f32], &mut [Lanes]),
    ) {
        let quads = self.d / QUAD;
        let x = Operands {
            q: &self.q[group * quads..][..quads],
            k: k.as_chunks().0,
            table: self.table,
            of_keys: &self.of_keys,
            of_table: self.of_table,
            at: self.first + (near - self.low) as usize,
            keys,
        };
        match isa {
            // SAFETY: a plan has `Isa::Avx512` only where `Isa::all` has found its features.
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code)]
            Isa::Avx512 => unsafe { avx512::scores(&x, s) },
            _ => scores(&x, s),
        }
    }
}

/// Of one product of a group and the tile's keys.
struct Operands<'a> {
    q: &'a [[Quad; LANES]],
    k: &'a [Quad],
    table: &'a [[Quad; WINDOW]],
    /// u · k and v · r.
    of_keys: &'a [f32; KEYS],
    of_table: &'a [f32],
    /// Where the distance of the first row and the first key is.
    at: usize,
    keys: usize,
}

/// S = q·(k + r) + u·k + v·r.
fn scores(x: &Operands<'_>, s: &mut [Lanes]) {
    for ((n, s), k) in s[..x.keys].iter_mut().enumerate().zip(x.k.chunks_exact(x.q.len())) {
        for (lane, s) in s.iter_mut().enumerate() {
            let at = x.at + lane - n;
            let mut sums = [0.0; QUAD];
            for ((q, k), r) in x.q.iter().zip(k).zip(x.table) {
                for (i, sum) in sums.iter_mut().enumerate() {
                    *sum += q[lane][i] * (k[i] + r[at][i]);
                }
            }
            *s = sums.iter().sum::<f32>() + (x.of_keys[n] + x.of_table[at]);
        }
    }
}

/// The compiler would keep the sums of such a loop in memory.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{CHAIN, KEYS, LANES, Lanes, Operands, QUAD, SIDE, WINDOW};
    use std::arch::x86_64::*;
    use std::ops::Range;

    /// As the other, rounded up to whole steps.
    #[target_feature(enable = "avx512f")]
    pub(super) fn scores(x: &Operands<'_>, s: &mut [Lanes]) {
        let (quads, steps) = (x.q.len(), x.keys.next_multiple_of(SIDE * QUAD));
        // Of the last row and the first key, and of the first row and the last key.
        assert!(x.at + LANES <= WINDOW && x.at + 1 >= steps && steps <= KEYS.min(s.len()));
        assert!(x.k.len() >= steps * quads && x.table.len() >= quads && x.of_table.len() >= WINDOW);
        for begin in (0..quads).step_by(CHAIN) {
            let chain = begin..quads.min(begin + CHAIN);
            for step in (0..steps).step_by(SIDE * QUAD) {
                for key in step..step + QUAD {
                    // SAFETY: by the assertions all keys of the step, and their distances, are inside.
                    #[allow(unsafe_code)]
                    unsafe {
                        add_chain(x, chain.clone(), key, s.as_mut_ptr().add(key).cast());
                    }
                }
            }
        }
    }

    /// Adds Σ q·(k + r) of a chain of elements to `s`, of the key and each fourth one after it, or begins
    /// it.
    ///
    /// # Safety
    ///
    /// The chain, the keys, their distances and `s` are inside of the operands.
    #[inline]
    #[allow(unsafe_code)]
    #[target_feature(enable = "avx512f")]
    unsafe fn add_chain(x: &Operands<'_>, chain: Range<usize>, key: usize, s: *mut f32) {
        let (quads, begins) = (x.q.len(), chain.start == 0);
        // The distance of the first row and the last key.
        let at = x.at - key - (SIDE - 1) * QUAD;
        let mut sums = [[_mm512_setzero_ps(); QUAD]; SIDE];
        // SAFETY: the caller's promise.
        unsafe {
            let k = x.k.as_ptr().add(key * quads);
            for x4 in chain {
                let q = x.q.as_ptr().add(x4).cast::<f32>();
                let q: [__m512; QUAD] = std::array::from_fn(|g| _mm512_loadu_ps(q.add(g * LANES)));
                let k: [__m512; SIDE] = std::array::from_fn(|i| {
                    _mm512_broadcast_f32x4(_mm_loadu_ps(k.add(i * QUAD * quads + x4).cast()))
                });
                let r = x.table.as_ptr().add(x4).cast::<f32>().add(at * QUAD);
                for n in 0..SIDE + QUAD - 1 {
                    let r = _mm512_loadu_ps(r.add(n * LANES));
                    for g in 0..QUAD {
                        // The key that is as far from these rows.
                        let i = (g + SIDE - 1).wrapping_sub(n);
                        if i < SIDE {
                            sums[i][g] = _mm512_fmadd_ps(q[g], _mm512_add_ps(k[i], r), sums[i][g]);
                        }
                    }
                }
            }
            for (i, sums) in sums.into_iter().enumerate() {
                let s = s.add(i * QUAD * LANES);
                let before = if begins {
                    let of_table = x.of_table.as_ptr().add(at + (SIDE - 1 - i) * QUAD);
                    let of_key = _mm512_set1_ps(x.of_keys[key + i * QUAD]);
                    _mm512_add_ps(_mm512_loadu_ps(of_table), of_key)
                } else {
                    _mm512_loadu_ps(s)
                };
                _mm512_storeu_ps(s, _mm512_add_ps(before, rows(sums)));
            }
        }
    }

    /// Sums of fours of elements of four rows each, to the rows in their order.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn rows([a, b, c, d]: [__m512; QUAD]) -> __m512 {
        // Of each row: a two, a two, b two, b two.
        let halves = |a, b| {
            let (first, second) =
                (_mm512_mask_blend_ps(0xcccc, a, b), _mm512_shuffle_ps::<0x4e>(a, b));
            _mm512_add_ps(first, second)
        };
        let (ab, cd) = (halves(a, b), halves(c, d));
        let sums =
            _mm512_add_ps(_mm512_shuffle_ps::<0x88>(ab, cd), _mm512_shuffle_ps::<0xdd>(ab, cd));
        // Now of each row a, b, c, d.
        let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        _mm512_permutexvar_ps(order, sums)
    }
}
