//! Scores of neighbouring rows by one product, where additions have units of their own and there are
//! registers for them.
//!
//! (q + u)·k + (q + v)·r = q·(k + r) + u·k + v·r: an element of a pair takes an addition and a
//! multiply-add, where two products take two multiply-adds. Row i and key j meet the table's row of
//! distance i − j, so of one key neighbouring rows, which are lanes, read neighbouring distances: the
//! table is kept turned, of each element the distances one after the other. Halves of groups and keys
//! as far apart as a half is long share distances: K keys and G halves need K + G − 1 vectors of them.
//! The window of distances moves towards the future, a tile's length at a time; each is converted and
//! turned once for a block.

use super::tile::ROWS;
use crate::cpu::lanes::{LANES, Lanes, multiply_add};
use crate::cpu::products::{CHAIN, dots};
use crate::cpu::tile::PAIR;
use crate::cpu::turn::to_lanes;
use crate::cpu::{Isa, with_isa};

/// Keys of a tile: whole steps.
pub(super) const KEYS: usize = 64;
/// Distances of the window: what a tile needs, and room to move.
const WINDOW: usize = ROWS + KEYS + 4 * KEYS;
/// Lanes of a half, which is one register: loads of a longer one would cross cache lines.
const HALF: usize = LANES / 2;

/// One thread's part of the workspace.
pub(super) struct Sums<'a> {
    /// Elements of a row.
    d: usize,
    /// Of each element of the table, by distance; in the end v · r.
    table: &'a mut [[f32; WINDOW]],
    /// The window's first, the distance that it is of, and how many there are.
    first: usize,
    low: i64,
    count: usize,
    /// Rows of the table on their way, and turned.
    rows: &'a mut [f32],
    turned: &'a mut [Lanes],
    /// u · k of each key of the tile.
    of_keys: [f32; KEYS],
}

impl<'a> Sums<'a> {
    /// f32 that one needs.
    pub(super) fn len(d: usize) -> usize {
        (d + 1) * WINDOW + 2 * d * LANES
    }

    /// One in `all`, as long as `len` says.
    pub(super) fn new(d: usize, all: &'a mut [f32]) -> Self {
        let (table, rest) = all.split_at_mut((d + 1) * WINDOW);
        let (rows, turned) = rest.split_at_mut(d * LANES);
        Sums {
            d,
            table: table.as_chunks_mut().0,
            first: 0,
            low: 0,
            count: 0,
            rows,
            turned: turned.as_chunks_mut().0,
            of_keys: [0.0; KEYS],
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
        let needed = rows.next_multiple_of(PAIR * LANES) + KEYS;
        // Tiles are whole numbers of their length apart, and those are whole groups of lanes.
        let new = usize::try_from(self.low - low).unwrap_or(needed);
        let new = if new < self.count { new } else { needed };
        if self.first < new {
            let kept = self.first..self.first + needed - new;
            self.first = WINDOW - kept.len();
            for of_element in self.table.iter_mut() {
                of_element.copy_within(kept.clone(), self.first);
            }
        }
        self.first -= new;
        (self.low, self.count) = (low, needed);
        let (of_elements, of_table) = self.table.split_at_mut(self.d);
        for at in (0..new).step_by(LANES) {
            for (n, row) in self.rows.chunks_exact_mut(self.d).enumerate() {
                load(low + (at + n) as i64, row);
            }
            let to = self.first + at..self.first + at + LANES;
            let (rows, sums): (&[f32], &mut [f32]) = (self.rows, &mut of_table[0][to.clone()]);
            with_isa!(isa, dots(v: &[f32], rows: &[f32], sums: &mut [f32]));
            to_lanes(isa, self.rows, 1.0, self.turned);
            for (of_element, lanes) in of_elements.iter_mut().zip(&*self.turned) {
                of_element[to.clone()].copy_from_slice(lanes);
            }
        }
    }

    /// The tile's keys are the rows `k`.
    pub(super) fn load_keys(&mut self, isa: Isa, u: &[f32], k: &[f32]) {
        let sums: &mut [f32] = &mut self.of_keys;
        with_isa!(isa, dots(u: &[f32], k: &[f32], sums: &mut [f32]));
    }

    /// S of one group or a pair of them with the tile's first `keys` keys, which are rounded up to
    /// whole steps. `near`: the distance of the first row and the tile's first key.
    pub(super) fn scores(
        &self,
        isa: Isa,
        near: i64,
        keys: usize,
        (q, k): (&[Lanes], &[f32]),
        [first, second]: [&mut [Lanes]; PAIR],
    ) {
        let (table, of_table) = self.table.split_at(self.d);
        let at = self.first + (near - self.low) as usize;
        let (of_keys, of_table) = (&self.of_keys, &of_table[0]);
        let x: &Operands<'_> = &Operands { q, k, table, of_keys, of_table, at, keys };
        let single = q.len() == self.d;
        match isa {
            // SAFETY: a plan has `Isa::Avx512` only where `Isa::all` has found its features.
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code)]
            Isa::Avx512 => unsafe {
                match single {
                    true => avx512::of_group(x, first),
                    false => avx512::of_pair(x, first, second),
                }
            },
            _ if single => with_isa!(isa, of_group(x: &Operands<'_>, first: &mut [Lanes])),
            _ => with_isa!(
                isa,
                of_pair(x: &Operands<'_>, first: &mut [Lanes], second: &mut [Lanes])
            ),
        }
    }
}

/// Of one product of rows and keys.
struct Operands<'a> {
    /// Of each group, and element.
    q: &'a [Lanes],
    k: &'a [f32],
    table: &'a [[f32; WINDOW]],
    /// u · k and v · r.
    of_keys: &'a [f32; KEYS],
    of_table: &'a [f32; WINDOW],
    /// Where the distance of the first row and the first key is.
    at: usize,
    keys: usize,
}

#[inline(always)]
fn of_group<const FMA: bool>(x: &Operands<'_>, first: &mut [Lanes]) {
    products(x, [first], add_chain::<FMA, 1, 2, 4>);
}

#[inline(always)]
fn of_pair<const FMA: bool>(x: &Operands<'_>, first: &mut [Lanes], second: &mut [Lanes]) {
    products(x, [first, second], add_chain::<FMA, 2, 4, 4>);
}

/// Of a chain of elements: queries of P groups, K keys as far apart as a half is long, the table's rows,
/// where of them the last key's distance to the first half is, and S of the keys, the first one's first.
struct Chain<'a, const P: usize, const K: usize> {
    q: [&'a [Lanes]; P],
    keys: [&'a [f32]; K],
    table: &'a [[f32; WINDOW]],
    at: usize,
    s: [&'a mut [Lanes]; P],
}

/// S = q·(k + r) + u·k + v·r of P groups, K keys a step.
#[inline(always)]
fn products<const P: usize, const K: usize>(
    x: &Operands<'_>,
    mut s: [&mut [Lanes]; P],
    add_chain: impl Fn(Chain<'_, P, K>),
) {
    let steps = x.keys.next_multiple_of(K * HALF);
    for (g, s) in s.iter_mut().enumerate() {
        for (n, s) in s[..steps].iter_mut().enumerate() {
            for (s, bias) in s.iter_mut().zip(&x.of_table[x.at + g * LANES - n..]) {
                *s = bias + x.of_keys[n];
            }
        }
    }
    let d = x.q.len() / P;
    let q: [&[Lanes]; P] = std::array::from_fn(|n| &x.q[n * d..][..d]);
    for begin in (0..d).step_by(CHAIN) {
        let chain = begin..d.min(begin + CHAIN);
        let table = &x.table[chain.clone()];
        let q = q.map(|q| &q[chain.clone()]);
        for n in (0..steps).step_by(K * HALF).flat_map(|step| step..step + HALF) {
            let keys: [&[f32]; K] =
                std::array::from_fn(|i| &x.k[(n + i * HALF) * d..][chain.clone()]);
            let at = x.at - n - (K - 1) * HALF;
            add_chain(Chain { q, keys, table, at, s: s.each_mut().map(|s| &mut s[n..]) });
        }
    }
}

/// Adds Σ q (k + r) to S, of G halves.
#[inline(always)]
fn add_chain<const FMA: bool, const P: usize, const G: usize, const K: usize>(x: Chain<'_, P, K>) {
    let Chain { q, keys, table, at, s } = x;
    let mut sums = [[[0.0; HALF]; G]; K];
    for (x, r) in table.iter().enumerate() {
        let (r, _) = r[at..at + (K + G - 1) * HALF].as_chunks::<HALF>();
        for (n, r) in r.iter().enumerate() {
            for g in 0..G {
                // The key that is as far from this half.
                let i = (g + K - 1).wrapping_sub(n);
                if i < K {
                    let (sum, q) = (&mut sums[i][g], &halves(&q[g / 2][x])[g % 2]);
                    for ((sum, q), r) in sum.iter_mut().zip(q).zip(r) {
                        *sum = multiply_add::<FMA>(*q, keys[i][x] + r, *sum);
                    }
                }
            }
        }
    }
    for (i, sums) in sums.iter().enumerate() {
        for (g, sum) in sums.iter().enumerate() {
            let s = &mut s[g / 2][i * HALF].as_chunks_mut::<HALF>().0[g % 2];
            s.iter_mut().zip(sum).for_each(|(s, sum)| *s += sum);
        }
    }
}

/// A half is a register: of two the compiler would make a longer one, whose loads cross cache lines.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{Chain, HALF, LANES, Lanes, Operands, WINDOW, products};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
    pub(super) fn of_group(x: &Operands<'_>, first: &mut [Lanes]) {
        products(x, [first], |chain| add_chain::<1, 2, 4>(chain));
    }

    /// Sixteen sums: half of the registers.
    #[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
    pub(super) fn of_pair(x: &Operands<'_>, first: &mut [Lanes], second: &mut [Lanes]) {
        products(x, [first, second], |chain| add_chain::<2, 4, 4>(chain));
    }

    /// As the other; checked once, where slices would check at each element.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
    fn add_chain<const P: usize, const G: usize, const K: usize>(x: Chain<'_, P, K>) {
        let Chain { q, keys, table, at, s } = x;
        let len = table.len();
        assert!(G == 2 * P && at + (K + G - 1) * HALF <= WINDOW);
        assert!(q.iter().all(|q| q.len() >= len) && keys.iter().all(|key| key.len() >= len));
        assert!(s.iter().all(|s| s.len() > (K - 1) * HALF));
        let keys = keys.map(|key| key.as_ptr());
        let q = q.map(|q| q.as_ptr().cast::<f32>());
        let s = s.map(|s| s.as_mut_ptr().cast::<f32>());
        let mut sums = [[_mm256_setzero_ps(); G]; K];
        // SAFETY: inside of the slices, by the assertions.
        #[allow(unsafe_code)]
        unsafe {
            for x in 0..len {
                let r = table.as_ptr().add(x).cast::<f32>().add(at);
                let key: [__m256; K] = std::array::from_fn(|i| _mm256_set1_ps(*keys[i].add(x)));
                let rows: [__m256; G] = std::array::from_fn(|g| {
                    _mm256_loadu_ps(q[g / 2].add(x * LANES + g % 2 * HALF))
                });
                for n in 0..K + G - 1 {
                    let r = _mm256_loadu_ps(r.add(n * HALF));
                    for g in 0..G {
                        // The key that is as far from this half.
                        let i = (g + K - 1).wrapping_sub(n);
                        if i < K {
                            let moved = _mm256_add_ps(key[i], r);
                            sums[i][g] = _mm256_fmadd_ps(rows[g], moved, sums[i][g]);
                        }
                    }
                }
            }
            // By index: of references the sums would have to lie in memory.
            #[allow(clippy::needless_range_loop)]
            for i in 0..K {
                for g in 0..G {
                    let s = s[g / 2].add(i * HALF * LANES + g % 2 * HALF);
                    _mm256_storeu_ps(s, _mm256_add_ps(_mm256_loadu_ps(s), sums[i][g]));
                }
            }
        }
    }
}

fn halves(x: &Lanes) -> &[[f32; HALF]; 2] {
    bytemuck::cast_ref(x)
}
