//! What a block of query rows has seen so far: an online softmax, one pass (FlashAttention-2,
//! algorithm 1), as the GPU kernels.
//!
//! Query rows are the lanes of a vector: the maximum and the sum of a row never leave their lane, and a
//! value's element is one number for all lanes.

use super::lanes::{LANES, Lanes, exp2, from_line, log2_wide, multiply_add};
use super::tile::SIDE;
use super::turn::to_rows;
use super::{Isa, with_isa};

/// One thread's results of a block. Row `n` of the block is lane `n % LANES` of group `n / LANES`.
pub(crate) struct Results<'a> {
    /// Elements of a row.
    d: usize,
    /// Per group of rows and element.
    o: &'a mut [Lanes],
    /// Per group: the largest score, in units of log2, and the sum.
    m: &'a mut [Lanes],
    l: &'a mut [Lanes],
    /// As many rows as lanes, on their way to q or from O.
    pub(super) rows: &'a mut [f32],
    /// Of the last group whose results were asked for: natural logarithms of the sums.
    lse: Lanes,
}

/// The row length of a tile's values and of O.
pub(super) fn padded(d: usize) -> usize {
    d.next_multiple_of(2)
}

impl<'a> Results<'a> {
    /// f32 that those of so many rows need, a multiple of the lanes.
    pub(crate) fn len_of(rows: usize, d: usize) -> usize {
        (rows / LANES * (padded(d) + 2) + d + 1) * LANES
    }

    /// Those of so many rows in `all`, as long as `len_of` says.
    pub(crate) fn of(rows: usize, d: usize, all: &'a mut [f32]) -> Self {
        let groups = rows / LANES;
        let lanes = from_line(all).as_chunks_mut::<LANES>().0;
        let (o, lanes) = lanes.split_at_mut(groups * padded(d));
        let (m, lanes) = lanes.split_at_mut(groups);
        let (l, lanes) = lanes.split_at_mut(groups);
        Results { d, o, m, l, rows: lanes[..d].as_flattened_mut(), lse: [0.0; LANES] }
    }

    /// A new block of `rows` rows, none of which has seen a key.
    pub(crate) fn begin(&mut self, rows: usize) {
        let groups = rows.div_ceil(LANES);
        self.o[..groups * padded(self.d)].fill([0.0; LANES]);
        self.m[..groups].fill([f32::NEG_INFINITY; LANES]);
        self.l[..groups].fill([0.0; LANES]);
    }

    /// S of a group and a tile's keys, in units of log2 and −∞ where it is masked, into the group's running
    /// result; probabilities are left there. `v` begins with the keys' values. `careful`: a value that is
    /// not finite must not reach rows that give its key no weight.
    pub(crate) fn add(
        &mut self,
        isa: Isa,
        group: usize,
        s: &mut [Lanes],
        v: &[f32],
        careful: bool,
    ) {
        let o: &mut [Lanes] = &mut self.o[group * padded(self.d)..][..padded(self.d)];
        let (m, l): (&mut Lanes, &mut Lanes) = (&mut self.m[group], &mut self.l[group]);
        with_isa!(isa, softmax(s: &mut [Lanes], m: &mut Lanes, l: &mut Lanes, o: &mut [Lanes]));
        let (s, v): (&[Lanes], &[f32]) = (s, &v[..s.len() * padded(self.d)]);
        match careful {
            // 0 · NaN would reach rows that do not see the key.
            true => with_isa!(isa, careful_values(s: &[Lanes], v: &[f32], o: &mut [Lanes])),
            false => with_isa!(isa, values(s: &[Lanes], v: &[f32], o: &mut [Lanes])),
        }
    }

    /// The result of row `n`: its elements, and the natural logarithm of its sum of exponentials
    /// (−∞ of a row that has seen nothing). Asked for in order, as a group's first has all turned.
    pub(crate) fn result(&mut self, isa: Isa, n: usize) -> (&mut [f32], f32) {
        let (lane, d) = (n % LANES, self.d);
        if lane == 0 {
            self.results(isa, n / LANES);
        }
        (&mut self.rows[lane * d..][..d], self.lse[lane])
    }

    /// The results of a group: row after row, and the logarithms.
    pub(crate) fn results(&mut self, isa: Isa, group: usize) -> (&mut [f32], &Lanes) {
        let (m, l) = (&self.m[group], &self.l[group]);
        let inverse = l.map(|l| if l == 0.0 { 0.0 } else { 1.0 / l });
        to_rows(isa, &self.o[group * padded(self.d)..][..self.d], &inverse, self.rows);
        let lse: &mut Lanes = &mut self.lse;
        with_isa!(isa, end(m: &Lanes, l: &Lanes, lse: &mut Lanes));
        (self.rows, &self.lse)
    }
}

/// ln Σ exp of rows: the maximum and the sum, in units of log2.
#[inline(always)]
fn end<const FMA: bool>(m: &Lanes, l: &Lanes, lse: &mut Lanes) {
    let mut log2 = l.map(f64::from);
    log2_wide(&mut log2);
    for n in 0..LANES {
        let of_row = ((f64::from(m[n]) + log2[n]) * std::f64::consts::LN_2) as f32;
        lse[n] = if l[n] == 0.0 { f32::NEG_INFINITY } else { of_row };
    }
}

/// Whether values are finite.
pub(crate) fn is_finite(isa: Isa, v: &[f32]) -> bool {
    let mut all = true;
    {
        let all: &mut bool = &mut all;
        with_isa!(isa, all_finite(v: &[f32], all: &mut bool));
    }
    all
}

#[inline(always)]
fn all_finite<const FMA: bool>(x: &[f32], all: &mut bool) {
    // Adding one to an exponent of all ones carries into the sign.
    let carry = |x: f32| x.abs().to_bits() + (1 << 23);
    let mut carries = [0; 4 * LANES];
    let (chunks, rest) = x.as_chunks::<{ 4 * LANES }>();
    for x in chunks {
        carries.iter_mut().zip(x).for_each(|(all, x)| *all |= carry(*x));
    }
    carries.iter_mut().zip(rest).for_each(|(all, x)| *all |= carry(*x));
    *all = carries.iter().fold(0, |all, x| all | x) >> 31 == 0;
}

/// The larger of each.
#[inline(always)]
fn raise(most: &mut Lanes, by: &Lanes) {
    for (most, by) in most.iter_mut().zip(by) {
        *most = if *by > *most { *by } else { *most };
    }
}

/// 2^(s − base) into `s` of some keys, and added to `l`.
#[inline(always)]
fn weigh<const FMA: bool, const N: usize>(s: &mut [f32; N], base: &Lanes, l: &mut Lanes) {
    for s in s.as_chunks_mut::<LANES>().0 {
        for (s, base) in s.iter_mut().zip(base) {
            *s -= base;
        }
    }
    exp2::<FMA, N>(s);
    for s in s.as_chunks::<LANES>().0 {
        for (l, s) in l.iter_mut().zip(s) {
            *l += s;
        }
    }
}

/// Scores to probabilities relative to the largest score so far; l and O follow it.
#[inline(always)]
fn softmax<const FMA: bool>(s: &mut [Lanes], m: &mut Lanes, l: &mut Lanes, o: &mut [Lanes]) {
    let mut most = *m;
    for s in s.iter() {
        raise(&mut most, s);
    }
    let (mut base, mut alpha) = ([0f32; LANES], [0f32; LANES]);
    let mut grew = false;
    for n in 0..LANES {
        // Of a row that has seen nothing, anything finite.
        base[n] = if most[n] == f32::NEG_INFINITY { 0.0 } else { most[n] };
        alpha[n] = m[n] - base[n];
        grew |= most[n] != m[n];
    }
    *m = most;
    if grew {
        exp2::<FMA, LANES>(&mut alpha);
        for o in o.iter_mut().chain([&mut *l]) {
            for (o, alpha) in o.iter_mut().zip(alpha) {
                *o *= alpha;
            }
        }
    }
    // Of the tile alone first: over a long row one chain would round at each key.
    let mut sum = [0f32; LANES];
    let (pairs, rest) = s.as_flattened_mut().as_chunks_mut::<{ 2 * LANES }>();
    for s in pairs {
        weigh::<FMA, { 2 * LANES }>(s, &base, &mut sum);
    }
    for s in rest.as_chunks_mut::<LANES>().0 {
        weigh::<FMA, LANES>(s, &base, &mut sum);
    }
    for (l, sum) in l.iter_mut().zip(sum) {
        *l += sum;
    }
}

/// O += Vᵀ P.
#[inline(always)]
fn values<const FMA: bool>(p: &[Lanes], v: &[f32], o: &mut [Lanes]) {
    let pitch = o.len();
    // As many side by side as registers hold, and two fours rather than six and two.
    let narrow = match pitch % SIDE {
        2 if pitch > SIDE => SIDE + 2,
        rest => rest,
    };
    let (wide, rest) = o.split_at_mut(pitch - narrow);
    for (n, o) in wide.as_chunks_mut::<SIDE>().0.iter_mut().enumerate() {
        columns::<FMA, SIDE>(p, &v[n * SIDE..], pitch, o);
    }
    let at = wide.len();
    let (fours, rest) = rest.as_chunks_mut::<4>();
    for (n, o) in fours.iter_mut().enumerate() {
        columns::<FMA, 4>(p, &v[at + n * 4..], pitch, o);
    }
    for o in rest.as_chunks_mut::<2>().0 {
        columns::<FMA, 2>(p, &v[pitch - 2..], pitch, o);
    }
}

/// O += Vᵀ P of N elements of the values, whose rows are `pitch` apart.
#[inline(always)]
fn columns<const FMA: bool, const N: usize>(
    p: &[Lanes],
    v: &[f32],
    pitch: usize,
    o: &mut [Lanes; N],
) {
    let mut sums = *o;
    for (p, v) in p.iter().zip(v.chunks(pitch)) {
        for (sum, v) in sums.iter_mut().zip(&v[..N]) {
            for (sum, p) in sum.iter_mut().zip(p) {
                *sum = multiply_add::<FMA>(*v, *p, *sum);
            }
        }
    }
    *o = sums;
}

/// The same where P is not 0, in the same order and rounded alike: which of the two runs is nothing
/// that results depend on.
#[inline(always)]
fn careful_values<const FMA: bool>(p: &[Lanes], v: &[f32], o: &mut [Lanes]) {
    for (p, v) in p.iter().zip(v.chunks_exact(o.len())) {
        for (o, v) in o.iter_mut().zip(v) {
            for (o, p) in o.iter_mut().zip(p) {
                if *p != 0.0 {
                    *o = multiply_add::<FMA>(*v, *p, *o);
                }
            }
        }
    }
}
