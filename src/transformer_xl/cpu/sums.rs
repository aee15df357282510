//! Scores by one product, where additions have units of their own and there are registers for it.
//!
//! (q + u)·k + (q + v)·r = (q + u)·(k + r) + (v − u)·r: an element of a pair takes an addition and a
//! multiply-add, where two products take two multiply-adds. Row i and key j meet the table's row of
//! distance i − j, so keys and rows that are both as much further on share it: of K keys and G rows that
//! are K + G − 1 distances. Here q has u added.
//!
//! Lanes are two elements of eight neighbouring rows, an octet, which meet eight neighbouring distances of
//! one key, whose two elements are repeated as they are loaded; the two sums of a row meet in the end.
//! Distances are packed by octets, too, and all loads of them are whole lines of the cache: key j meets
//! octets of rows that begin at j's own place in an octet of keys, p = j mod 8. So a unit of rows has the
//! scores of its rows from p on and of p rows of the next unit's, which are carried there.

use super::packed::Packed;
use super::tile::ROWS;
use crate::cpu::Isa;
use crate::cpu::lanes::{LANES, Lanes, from_line};
use std::ops::Range;

/// Elements side by side; a row has a multiple of them.
pub(super) const PAIR: usize = 2;
/// Rows, or distances, side by side.
pub(super) const OCTET: usize = 8;
/// Rows of a unit.
pub(super) const UNIT: usize = 32;
/// Keys of a unit's sums, eight apart: with its four octets twenty registers of sums.
pub(super) const SIDE: usize = 5;
/// Keys that a unit meets together.
pub(super) const SET: usize = OCTET * SIDE;
/// Keys of a tile.
pub(super) const KEYS: usize = SETS * SET;
const SETS: usize = 2;
/// Pairs of elements whose products are summed one after the other.
const CHAIN: usize = 32;
/// Rows of a unit and those of the next that keys' places reach.
const REACH: usize = UNIT + OCTET;

/// One thread's part of the workspace.
pub(super) struct Sums<'a> {
    /// Pairs of elements of a row.
    pairs: usize,
    /// Per unit, from the one before the block on, and pair: of each row in reach.
    q: &'a mut [[[f32; PAIR]; REACH]],
    /// Of each of the unit's groups: scores, then probabilities.
    s: &'a mut [[Lanes; KEYS]],
    /// Of each set: scores of the next unit's first rows, by p and key; rows are in their lanes.
    carried: &'a mut [[[Lanes; SIDE]; OCTET]],
    /// The first key of the set and the unit that they are of.
    done: [Option<(usize, usize)>; SETS],
}

impl<'a> Sums<'a> {
    /// f32 that one needs.
    pub(super) fn len(d: usize) -> usize {
        Sums::q_len(d) + (UNIT / LANES + 1) * KEYS * LANES + LANES
    }

    fn q_len(d: usize) -> usize {
        (ROWS / UNIT + 1) * REACH * d
    }

    /// One in `all`, as long as `len` says.
    pub(super) fn new(d: usize, all: &'a mut [f32]) -> Self {
        let (q, rest) = from_line(all).split_at_mut(Sums::q_len(d));
        let lanes = rest.as_chunks_mut().0;
        let (s, carried) = lanes.split_at_mut(UNIT / LANES * KEYS);
        Sums {
            pairs: d / PAIR,
            q: q.as_chunks_mut().0.as_chunks_mut().0,
            s: s.as_chunks_mut().0,
            carried: carried.as_chunks_mut().0.as_chunks_mut().0,
            done: [None; SETS],
        }
    }

    /// Row `n` of the block. Lanes without a row keep what they hold: nothing leaves a row.
    pub(super) fn load_q(&mut self, n: usize, q: &[f32]) {
        // As a row of its unit, and of the one before.
        let (unit, row) = (n / UNIT + 1, n % UNIT);
        let places = [(unit, row), (unit - 1, row + UNIT)];
        for (unit, row) in places.into_iter().filter(|(_, row)| *row < REACH) {
            let of_unit = &mut self.q[unit * self.pairs..][..self.pairs];
            for (rows, q) in of_unit.iter_mut().zip(q.as_chunks().0) {
                rows[row] = *q;
            }
        }
    }

    /// S of a group and `keys`, which begin a tile. `near`: the distance of the first row of the group's
    /// unit and the first key. Groups come in order.
    pub(super) fn scores(
        &mut self,
        isa: Isa,
        packed: &Packed<'_>,
        (group, near): (usize, i64),
        keys: Range<usize>,
    ) -> &mut [Lanes] {
        let unit = group * LANES / UNIT;
        for (n, from) in keys.clone().step_by(SET).enumerate() {
            let before = self.done[n].replace((from, unit));
            if before == Some((from, unit)) {
                continue;
            }
            let x = Operands {
                q: &self.q[unit * self.pairs..][..2 * self.pairs],
                k: packed.k_of_set(from / SET),
                table: packed.table,
                octets: packed.extent.octets,
                of_table: packed.of_table,
                at: packed.at(near - (n * SET) as i64),
                carried: unit.checked_sub(1).is_some_and(|unit| before == Some((from, unit))),
            };
            let of_set = n * SET..(n + 1) * SET;
            let (low, high) = self.s.split_at_mut(1);
            let s = [low, high].map(|s| &mut s[0][of_set.clone()]);
            match isa {
                // SAFETY: a plan has `Isa::Avx512` only where `Isa::all` has found its features.
                #[cfg(target_arch = "x86_64")]
                #[allow(unsafe_code)]
                Isa::Avx512 => unsafe { avx512::scores(&x, &mut self.carried[n], s) },
                _ => scores(&x, s),
            }
        }
        &mut self.s[group % (UNIT / LANES)][..keys.len()]
    }
}

/// Of one product of a unit and a set of keys.
struct Operands<'a> {
    /// Of the unit before, and the unit.
    q: &'a [[[f32; PAIR]; REACH]],
    k: &'a [f32],
    table: &'a [f32],
    octets: usize,
    /// (v − u) · r.
    of_table: &'a [f32],
    /// Where the distance of the first row and the first key is: a multiple of [`OCTET`].
    at: usize,
    /// Whether the unit before has carried.
    carried: bool,
}

/// A chain of pairs of elements: the first, and how many.
type Chain = (usize, usize);

/// The first chain and the rest.
fn chains(pairs: usize) -> (Chain, impl Iterator<Item = Chain>) {
    let chain = move |first: usize| (first, CHAIN.min(pairs - first));
    (chain(0), (CHAIN..pairs).step_by(CHAIN).map(chain))
}

/// The same, one after the other.
pub(super) fn for_each_chain(pairs: usize, mut with: impl FnMut(usize, usize)) {
    let (first, rest) = chains(pairs);
    std::iter::once(first).chain(rest).for_each(|(first, len)| with(first, len));
}

/// S = q·(k + r) + (v − u)·r.
fn scores(x: &Operands<'_>, s: [&mut [Lanes]; 2]) {
    let pairs = x.q.len() / 2;
    for (row, key) in (0..UNIT).flat_map(|row| (0..SET).map(move |key| (row, key))) {
        let at = x.at + row - key;
        let mut sum = 0.0;
        for_each_chain(pairs, |first, len| {
            let table = &x.table[(first * x.octets + at / OCTET * len) * PAIR * OCTET..];
            let k = &x.k[(first * OCTET + key % OCTET * len) * PAIR * SIDE..];
            let mut sums = [0.0; PAIR];
            for (n, i) in (0..len).flat_map(|n| (0..PAIR).map(move |i| (n, i))) {
                let r = table[(n * OCTET + at % OCTET) * PAIR + i];
                let k = k[(n * SIDE + key / OCTET) * PAIR + i];
                sums[i] += x.q[pairs + first + n][row][i] * (k + r);
            }
            sum += sums.iter().sum::<f32>();
        });
        s[row / LANES][key][row % LANES] = sum + x.of_table[at];
    }
}

/// The compiler would keep the sums of such a loop in memory, and repeat elements by an instruction that
/// takes turns of the adding units.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{
        CHAIN, Chain, LANES, Lanes, OCTET, Operands, PAIR, REACH, SET, SIDE, UNIT, chains,
    };
    use std::arch::{asm, x86_64::*};

    /// A vector of an octet's pairs.
    const VECTOR: usize = PAIR * OCTET;

    /// As the other.
    #[target_feature(enable = "avx512f")]
    pub(super) fn scores(
        x: &Operands<'_>,
        carried: &mut [[Lanes; SIDE]; OCTET],
        s: [&mut [Lanes]; 2],
    ) {
        let pairs = x.q.len() / 2;
        // The octets of distances from the last keys' and the row before the first to the last row's.
        assert!(x.at.is_multiple_of(OCTET) && x.at >= SET && x.at + UNIT <= x.octets * OCTET);
        assert!(x.k.len() >= pairs * PAIR * SET && x.table.len() >= pairs * VECTOR * x.octets);
        assert!(x.of_table.len() >= x.octets * OCTET);
        for (p, carried) in carried.iter_mut().enumerate() {
            // Rows by their lanes: row p is the first that was computed.
            let order = order(p);
            let next = (1 << p) - 1;
            if p > 0 && !x.carried {
                // SAFETY: by the assertions all octets are inside.
                #[allow(unsafe_code)]
                let sums = unsafe { octet(x, p) };
                for (carried, sums) in carried.iter_mut().zip(sums) {
                    store(carried, _mm512_permutexvar_ps(order, sums));
                }
            }
            // SAFETY: the same.
            #[allow(unsafe_code)]
            let sums = unsafe { unit(x, p) };
            for (i, (carried, [low, high])) in carried.iter_mut().zip(sums).enumerate() {
                let key = p + i * OCTET;
                let [low, high] = [low, high].map(|x| _mm512_permutexvar_ps(order, x));
                let of_rows = [
                    _mm512_mask_blend_ps(next, low, load(carried)),
                    _mm512_mask_blend_ps(next, high, low),
                ];
                store(carried, high);
                for (n, sums) in of_rows.into_iter().enumerate() {
                    let of_table = x.of_table[x.at - key + n * LANES..].first_chunk().unwrap();
                    store(&mut s[n][key], _mm512_add_ps(sums, load(of_table)));
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(x: &Lanes) -> __m512 {
        // SAFETY: as long as a register.
        #[allow(unsafe_code)]
        unsafe {
            _mm512_loadu_ps(x.as_ptr())
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn store(x: &mut Lanes, y: __m512) {
        // SAFETY: as long as a register.
        #[allow(unsafe_code)]
        unsafe {
            _mm512_storeu_ps(x.as_mut_ptr(), y);
        }
    }

    /// Where [`meet`] has left the row of each lane, of rows from `p` on.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn order(p: usize) -> __m512i {
        // Of each fourth of a register two rows of the first octet and two of the second.
        let lanes = _mm512_setr_epi32(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
        let lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let row = _mm512_sub_epi32(lane, _mm512_set1_epi32(p as i32));
        _mm512_permutexvar_epi32(row, lanes)
    }

    /// The two sums of each row, of two octets.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn meet(a: __m512, b: __m512) -> __m512 {
        _mm512_add_ps(_mm512_shuffle_ps::<0x88>(a, b), _mm512_shuffle_ps::<0xdd>(a, b))
    }

    /// Where operands of keys p, p + 8 and so on begin, in a chain: rows from p after `row` on, of the unit
    /// before or the unit; the keys; distances of that row from the last of the keys on.
    ///
    /// # Safety
    ///
    /// They are inside.
    #[inline]
    #[allow(unsafe_code)]
    unsafe fn operands(
        x: &Operands<'_>,
        p: usize,
        (first, len): Chain,
        row: usize,
    ) -> [*const f32; 3] {
        let unit = row / UNIT * (x.q.len() / 2);
        let at = x.at + row - UNIT - (SIDE - 1) * OCTET;
        // SAFETY: the caller's promise.
        unsafe {
            [
                x.q.as_ptr().add(unit + first).cast::<f32>().add((p + row % UNIT) * PAIR),
                x.k.as_ptr().add((first * OCTET + p * len) * PAIR * SIDE),
                x.table.as_ptr().add((first * x.octets + at / OCTET * len) * VECTOR),
            ]
        }
    }

    /// Σ q·(k + r) of the last octet of the unit before, its rows from `p` on, with keys p, p + 8 and so
    /// on: the second half of what has met.
    ///
    /// # Safety
    ///
    /// All operands are inside.
    #[inline]
    #[allow(unsafe_code)]
    #[target_feature(enable = "avx512f")]
    unsafe fn octet(x: &Operands<'_>, p: usize) -> [__m512; SIDE] {
        let of_chain = |chain: Chain| {
            let mut sums = [_mm512_setzero_ps(); SIDE];
            // SAFETY: the caller's promise.
            unsafe {
                let [q, k, r] = operands(x, p, chain, UNIT - OCTET);
                for n in 0..chain.1 {
                    let q = _mm512_loadu_ps(q.add(n * REACH * PAIR));
                    for (i, sum) in sums.iter_mut().enumerate() {
                        let k = k.add((n * SIDE + i) * PAIR).cast::<f64>();
                        let k = _mm512_castpd_ps(_mm512_set1_pd(k.read_unaligned()));
                        let r = r.add(((SIDE - 1 - i) * chain.1 + n) * VECTOR);
                        *sum = _mm512_fmadd_ps(q, _mm512_add_ps(k, _mm512_loadu_ps(r)), *sum);
                    }
                }
            }
            sums.map(|sum| meet(_mm512_setzero_ps(), sum))
        };
        let (first, rest) = chains(x.q.len() / 2);
        rest.fold(of_chain(first), |met, chain| {
            let next = of_chain(chain);
            std::array::from_fn(|i| _mm512_add_ps(met[i], next[i]))
        })
    }

    /// Σ q·(k + r) of the unit's rows from `p` on, sixteen and sixteen, with keys p, p + 8 and so on.
    ///
    /// # Safety
    ///
    /// All operands are inside.
    #[inline]
    #[allow(unsafe_code)]
    #[target_feature(enable = "avx512f")]
    unsafe fn unit(x: &Operands<'_>, p: usize) -> [[__m512; 2]; SIDE] {
        let of_chain = |chain: Chain| {
            // SAFETY: the caller's promise.
            let sums = unsafe {
                let [q, k, r] = operands(x, p, chain, UNIT);
                sums(q, k, r, chain.1)
            };
            sums.map(|[a, b, c, d]| [meet(a, b), meet(c, d)])
        };
        let (first, rest) = chains(x.q.len() / 2);
        rest.fold(of_chain(first), |met, chain| {
            let next = of_chain(chain);
            std::array::from_fn(|i| [0, 1].map(|n| _mm512_add_ps(met[i][n], next[i][n])))
        })
    }

    /// An octet of q times the sum of a key's pair and distances, to a sum.
    macro_rules! add {
        ($k:literal, $q:literal, $sum:literal) => {
            concat!(
                "vaddps zmm29, zmm",
                $k,
                ", zmm24\n",
                "vfmadd231ps zmm",
                $sum,
                ", zmm",
                $q,
                ", zmm29",
            )
        };
    }

    /// Σ q·(k + r) of `len` pairs, four octets and five keys: pairs of q lie a unit's reach apart, of k its
    /// keys, of r an octet; octets of r lie `len` of them apart.
    ///
    /// # Safety
    ///
    /// All of them are inside of what the pointers are of.
    #[inline]
    #[allow(unsafe_code)]
    #[target_feature(enable = "avx512f")]
    unsafe fn sums(q: *const f32, k: *const f32, r: *const f32, len: usize) -> [[__m512; 4]; SIDE] {
        const { assert!(UNIT == 4 * OCTET && SIDE == 5 && CHAIN > 0) };
        let mut s = [[_mm512_setzero_ps(); 4]; SIDE];
        let [s0, s1, s2, s3, s4] = &mut s;
        let ([s00, s01, s02, s03], [s10, s11, s12, s13]) = (s0, s1);
        let ([s20, s21, s22, s23], [s30, s31, s32, s33]) = (s2, s3);
        let [s40, s41, s42, s43] = s4;
        let octet = len * VECTOR * size_of::<f32>();
        // SAFETY: it reads what the caller promises is there, and writes registers.
        unsafe {
            asm!(
                ".p2align 5",
                "2:",
                "vmovups zmm20, [{q}]",
                "vmovups zmm21, [{q} + 64]",
                "vmovups zmm22, [{q} + 128]",
                "vmovups zmm23, [{q} + 192]",
                "vpbroadcastq zmm25, [{k} + 32]",
                "vmovups zmm24, [{r}]",
                add!(25, 20, 16),
                "vpbroadcastq zmm26, [{k} + 24]",
                "vmovups zmm24, [{r} + {octet}]",
                add!(25, 21, 17),
                add!(26, 20, 12),
                "vpbroadcastq zmm27, [{k} + 16]",
                "vmovups zmm24, [{r} + 2*{octet}]",
                add!(25, 22, 18),
                add!(26, 21, 13),
                add!(27, 20, 8),
                "vpbroadcastq zmm28, [{k} + 8]",
                "vmovups zmm24, [{r} + {octets3}]",
                add!(25, 23, 19),
                add!(26, 22, 14),
                add!(27, 21, 9),
                add!(28, 20, 4),
                "vpbroadcastq zmm25, [{k}]",
                "vmovups zmm24, [{r} + 4*{octet}]",
                add!(26, 23, 15),
                add!(27, 22, 10),
                add!(28, 21, 5),
                add!(25, 20, 0),
                "vmovups zmm24, [{r} + {octets5}]",
                add!(27, 23, 11),
                add!(28, 22, 6),
                add!(25, 21, 1),
                "vmovups zmm24, [{r} + 2*{octets3}]",
                add!(28, 23, 7),
                add!(25, 22, 2),
                "vmovups zmm24, [{r} + {octets7}]",
                add!(25, 23, 3),
                "add {q}, {q_step}",
                "add {k}, {k_step}",
                "add {r}, {r_step}",
                "dec {len}",
                "jnz 2b",
                q = inout(reg) q => _,
                k = inout(reg) k => _,
                r = inout(reg) r => _,
                len = inout(reg) len => _,
                octet = in(reg) octet,
                octets3 = in(reg) 3 * octet,
                octets5 = in(reg) 5 * octet,
                octets7 = in(reg) 7 * octet,
                q_step = const REACH * PAIR * size_of::<f32>(),
                k_step = const SIDE * PAIR * size_of::<f32>(),
                r_step = const VECTOR * size_of::<f32>(),
                inout("zmm0") *s00,
                inout("zmm1") *s01,
                inout("zmm2") *s02,
                inout("zmm3") *s03,
                inout("zmm4") *s10,
                inout("zmm5") *s11,
                inout("zmm6") *s12,
                inout("zmm7") *s13,
                inout("zmm8") *s20,
                inout("zmm9") *s21,
                inout("zmm10") *s22,
                inout("zmm11") *s23,
                inout("zmm12") *s30,
                inout("zmm13") *s31,
                inout("zmm14") *s32,
                inout("zmm15") *s33,
                inout("zmm16") *s40,
                inout("zmm17") *s41,
                inout("zmm18") *s42,
                inout("zmm19") *s43,
                out("zmm20") _,
                out("zmm21") _,
                out("zmm22") _,
                out("zmm23") _,
                out("zmm24") _,
                out("zmm25") _,
                out("zmm26") _,
                out("zmm27") _,
                out("zmm28") _,
                out("zmm29") _,
                options(readonly, nostack),
            );
        }
        s
    }
}
