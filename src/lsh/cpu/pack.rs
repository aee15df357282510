//! A head's rows side by side, as f32: gathered over and over in each round, they shall lie in few
//! pages and be converted once.

use super::hash::Hash;
use super::{Args, Lsh};
use crate::cpu::gather::Head;
use crate::cpu::tile::{BLOCK_M, Tile};
use crate::cpu::{Element, SharedRows, prefetch};
use crate::real::{dot, row_start};

/// The rows of one head of one sequence.
pub(super) struct Packed<'a> {
    pub(super) k: Head<'a, f32>,
    pub(super) v: Head<'a, f32>,
    /// What the products with each key are multiplied by, to units of log2.
    pub(super) factors: &'a [f32],
}

impl<'a> Packed<'a> {
    /// Of a key and a value after each other.
    pub(super) fn new(kv: &'a [f32], factors: &'a [f32], d: usize) -> Self {
        Packed { k: Head::of(kv, 2 * d, d), v: Head::of(&kv[d..], 2 * d, d), factors }
    }
}

/// Where a head's rows are packed to.
pub(super) struct Packing<'a> {
    pub(super) kv: &'a SharedRows<'a, f32>,
    pub(super) factors: &'a SharedRows<'a, f32>,
    /// The first of the head's rows.
    pub(super) at: usize,
}

/// Rows that are asked for before they are read or written.
const AHEAD: usize = 8;

/// Packs up to `BLOCK_M` positions of head `n` of all sequences', from `first` on, and hashes them.
pub(super) fn pack<T: Element>(
    (p, args): (&Lsh, &Args<'_, T>),
    n: usize,
    first: usize,
    to: &Packing<'_>,
    hash: Option<(Hash<'_>, &mut Tile<'_>, &SharedRows<'_, i32>)>,
) {
    let (d, rows) = (p.head_dim, BLOCK_M.min(p.seqlen - first));
    // SAFETY: each block of a head has rows of its own.
    #[allow(unsafe_code)]
    let (kv, factors) = unsafe {
        (to.kv.row((to.at + first) * 2 * d, rows * 2 * d), to.factors.row(to.at + first, rows))
    };
    let (b, h) = (n / p.heads, n % p.heads);
    let qk = Head::new(args.qk, p.layout.qk, b, h, d);
    let v = Head::new(args.v, p.layout.v, b, h, d);
    let scale = p.softmax_scale * std::f64::consts::LOG2_E;
    for (i, (kv, factor)) in kv.chunks_exact_mut(2 * d).zip(factors).enumerate() {
        let ahead = (first + i + AHEAD).min(p.seqlen - 1);
        prefetch(qk.row(ahead));
        prefetch(v.row(ahead));
        let (to_k, to_v) = kv.split_at_mut(d);
        T::load(qk.row(first + i), to_k);
        T::load(v.row(first + i), to_v);
        let square = f64::from(dot(to_k, to_k)) / d as f64;
        *factor = (scale / (square + p.key_norm_eps).sqrt()) as f32;
    }
    if let Some((hash, tile, buckets)) = hash {
        tile.begin(rows);
        for (n, kv) in kv.chunks_exact(2 * d).enumerate() {
            tile.load_q(hash.isa, n, &kv[..d], 1.0);
        }
        hash.block(first, rows, tile, buckets);
    }
}

/// The results of up to `BLOCK_M` positions of head `n`, from `first` on, as the problem stores them.
pub(super) fn store<T: Element>(
    p: &Lsh,
    n: usize,
    first: usize,
    o: &[f32],
    out: &SharedRows<'_, T>,
) {
    let (d, l) = (p.head_dim, &p.layout.out);
    let rows = BLOCK_M.min(p.seqlen - first);
    let start = |i: usize| row_start(n / p.heads * l.batch, *l, i, n % p.heads);
    for (i, o) in (first..).zip(o[first * d..][..rows * d].chunks_exact(d)) {
        let (at, ahead) = (start(i), start((i + AHEAD).min(first + rows - 1)));
        // SAFETY: as below.
        #[allow(unsafe_code)]
        prefetch(unsafe { out.row(ahead, d) });
        // SAFETY: no other block has this row, and no two rows share an element (`validate`).
        #[allow(unsafe_code)]
        T::store(o, unsafe { out.row(at, d) });
    }
}
