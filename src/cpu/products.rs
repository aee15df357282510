//! Products of rows that are lanes with keys: scores, and whatever is computed like them.

use super::lanes::{LANES, Lanes, multiply_add};
use super::tile::SIDE;

/// Products that are summed one after the other. Of n in one chain the variance of the roundings is
/// n / 2 of the last one's, in chains of c it is (c + n / c) / 2; these cost 2 to 3 % of full
/// attention's time.
pub(crate) const CHAIN: usize = 16;

/// Keys side by side. Of NEON's 32 registers, of four numbers each, six keys' sums are 24, and the
/// compiler asks for more than the rest: it would move and spill them at each element.
const KEYS: usize = if cfg!(target_arch = "aarch64") { 4 } else { SIDE };

/// S = K Qᵀ: a key's element times all rows. As many keys as `s` has, an even number.
#[inline(always)]
pub(crate) fn scores<const FMA: bool>(q: &[Lanes], k: &[f32], s: &mut [Lanes]) {
    products::<FMA, false>(q, k, s);
}

/// S += K Qᵀ, a sum of its own first: fewer roundings in a row.
#[inline(always)]
pub(crate) fn add_scores<const FMA: bool>(q: &[Lanes], k: &[f32], s: &mut [Lanes]) {
    products::<FMA, true>(q, k, s);
}

/// Products of a row are summed in chains, and then these.
#[inline(always)]
fn products<const FMA: bool, const ADD: bool>(q: &[Lanes], k: &[f32], s: &mut [Lanes]) {
    let d = q.len();
    let (steps, rest) = s.as_chunks_mut::<KEYS>();
    let (k, k_of_rest) = k.split_at(steps.len() * KEYS * d);
    for (k, s) in k.chunks_exact(KEYS * d).zip(steps) {
        products_of_step::<FMA, ADD, KEYS>(q, k, s);
    }
    let (fours, rest) = rest.as_chunks_mut::<4>();
    for s in fours {
        products_of_step::<FMA, ADD, 4>(q, k_of_rest, s);
    }
    let (twos, _) = rest.as_chunks_mut::<2>();
    for s in twos {
        products_of_step::<FMA, ADD, 2>(q, k_of_rest, s);
    }
}

/// The same of keys side by side.
#[inline(always)]
fn products_of_step<const FMA: bool, const ADD: bool, const N: usize>(
    q: &[Lanes],
    k: &[f32],
    s: &mut [Lanes; N],
) {
    let d = q.len();
    let (chains, rest) = q.as_chunks::<CHAIN>();
    let keys = std::array::from_fn::<_, N, _>(|n| k[n * d..][..d].as_chunks::<CHAIN>());
    for (n, q) in chains.iter().enumerate() {
        let keys = keys.map(|key| &key.0[n]);
        let mut sums = [[0f32; LANES]; N];
        for x in 0..CHAIN {
            multiply_by::<FMA, N>(keys.map(|key| key[x]), &q[x], &mut sums);
        }
        end_chain(sums, s, ADD || n > 0);
    }
    if !rest.is_empty() {
        let mut sums = [[0f32; LANES]; N];
        for (x, q) in rest.iter().enumerate() {
            multiply_by::<FMA, N>(keys.map(|key| key.1[x]), q, &mut sums);
        }
        end_chain(sums, s, ADD || !chains.is_empty());
    }
}

/// An element of some keys times that of the rows, added to their sums.
#[inline(always)]
fn multiply_by<const FMA: bool, const N: usize>(keys: [f32; N], q: &Lanes, sums: &mut [Lanes; N]) {
    for (sum, key) in sums.iter_mut().zip(keys) {
        for (sum, q) in sum.iter_mut().zip(q) {
            *sum = multiply_add::<FMA>(key, *q, *sum);
        }
    }
}

/// Sums of a chain of products into the scores: added, or the first.
#[inline(always)]
fn end_chain<const N: usize>(mut sums: [Lanes; N], s: &mut [Lanes; N], add: bool) {
    if add {
        for (sum, s) in sums.as_flattened_mut().iter_mut().zip(s.as_flattened()) {
            *sum += s;
        }
    }
    *s = sums;
}

/// Products of `x` with rows.
#[inline(always)]
pub(crate) fn dots<const FMA: bool>(x: &[f32], rows: &[f32], to: &mut [f32]) {
    for (to, row) in to.iter_mut().zip(rows.chunks_exact(x.len())) {
        let mut sums = [0f32; LANES];
        let (x, rest_x) = x.as_chunks::<LANES>();
        let (row, rest) = row.as_chunks::<LANES>();
        for (x, row) in x.iter().zip(row) {
            for (sum, (x, row)) in sums.iter_mut().zip(x.iter().zip(row)) {
                *sum = multiply_add::<FMA>(*x, *row, *sum);
            }
        }
        let rest: f32 = rest_x.iter().zip(rest).map(|(x, row)| x * row).sum();
        *to = sums.iter().sum::<f32>() + rest;
    }
}
