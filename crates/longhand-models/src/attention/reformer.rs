//! Reformer's two kinds: by hashing, and by chunks of neighbours.

use super::*;
use longhand::Lsh;

/// Chunks of a sequence, and which of them a position sees: its own, so many before it and so many
/// after. The first chunk stands after the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ring {
    /// Positions of a chunk.
    pub chunk_len: usize,
    /// Chunks before a position's own.
    pub before: usize,
    /// Chunks after it.
    pub after: usize,
    /// No position sees a later one.
    pub causal: bool,
}

/// Attention among positions whose rows of `qk` hash to like buckets, as `problem` says. `qk` and `v`
/// are `[batch, seqlen, heads · dim]`, `rotations` `[heads, dim, rounds, Σ factors / 2]`, if there are
/// buckets. Returns those too, `[batch, heads, rounds, seqlen]`, as the bits of integers
/// ([`Ints::of_bits`](crate::Ints::of_bits)), so that nobody waits for them who does not want them;
/// nothing is hashed where one chunk holds all.
/// Gradient: as of [`full`]; none flows through the hash, and the buckets are kept for it.
///
/// # Errors
///
/// If the sizes do not fit.
pub fn hashed(
    device: &Device,
    problem: &Lsh,
    [qk, v]: [&Tensor; 2],
    rotations: Option<&Tensor>,
    key_valid: Option<&[u8]>,
) -> Result<(Tensor, Option<Tensor>)> {
    let problem = Lsh { key_padding: key_valid.is_some(), ..problem.clone() };
    let shape = [problem.batch, problem.heads, problem.num_hashes, problem.seqlen];
    // The processor gives the buckets with its result.
    let rooms = match device {
        Device::Gpu(gpu) if problem.is_sorted() => {
            Some([problem.buckets_len(), problem.lse_rounds_len()].map(|len| gpu.empty(len)))
        }
        _ => None,
    };
    let (out, computed) = attend!(device, problem, lsh(qk, v)(qk, v), {
        rotations: rotations,
        key_valid: key_valid,
    }, writes {
        buckets: rooms.as_ref().map(|[buckets, _]| buckets),
        lse_rounds: rooms.as_ref().map(|[_, lse]| lse)
    });
    let bits = |buckets: Vec<i32>| buckets.into_iter().map(|b| f32::from_bits(b as u32)).collect();
    let on_gpu = rooms.map(|[buckets, _]| Tensor::on_gpu(&shape, buckets));
    let computed = computed.filter(|_| problem.is_sorted());
    let on_host = computed.map(|result| Tensor::new(&shape, bits(result.buckets)));
    Ok((out, on_gpu.or(on_host)))
}

/// Attention of each chunk over the chunks that it sees, by [`full`] with a chunk as a sequence of
/// the batch. All tensors are `[batch, seqlen, heads · dim]`; the length is a multiple of the
/// chunk's, or less than one. A chunk that is met twice counts twice. Gradient: as of [`full`],
/// summed over the places that a row was gathered to.
///
/// # Errors
///
/// If the sizes do not fit.
///
/// # Panics
///
/// If the length is above a chunk's and no multiple of it.
pub fn chunked(
    device: &Device,
    heads: &Heads,
    ring: &Ring,
    [q, k, v]: [&Tensor; 3],
    key_valid: Option<&[u8]>,
) -> Result<Tensor> {
    let &[batch, seqlen, width] = q.shape() else { panic!("three dimensions: {:?}", q.shape()) };
    let len = ring.chunk_len;
    if seqlen <= len {
        let mask = Mask { key_valid, causal: ring.causal, ..Mask::default() };
        return full(device, heads, [q, k, v], &mask);
    }
    assert!(seqlen.is_multiple_of(len), "{seqlen} positions in chunks of {len}");
    let count = seqlen / len;
    let seen = ring.before + 1 + ring.after;
    let mut rows = Vec::with_capacity(batch * seqlen * seen);
    let mut there = Vec::with_capacity(rows.capacity());
    for (own, n) in (0..batch * count).flat_map(|own| (0..seen).map(move |n| (own, n))) {
        let (b, c) = (own / count, own % count);
        // The chunk at place `n` of those that chunk `c` sees.
        let other = (c + n + (ring.before / count + 1) * count - ring.before) % count;
        let first = b * seqlen + other * len;
        let earlier = !ring.causal || other <= c;
        let valid = |row: usize| earlier && key_valid.is_none_or(|valid| valid[row] != 0);
        rows.extend(first..first + len);
        there.extend((first..first + len).map(|row| u8::from(valid(row))));
    }
    // Within a chunk's own positions, the same for all chunks: which keys are later.
    let later = |i: usize, key: usize| {
        let own = (key / len + count - ring.before % count).is_multiple_of(count);
        if own && key % len > i { f32::NEG_INFINITY } else { 0.0 }
    };
    let bias = ring.causal.then(|| {
        let bias = (0..len).flat_map(|i| (0..seen * len).map(move |key| later(i, key)));
        Tensor::new(&[1, 1, len, seen * len], bias.collect())
    });
    let masked = ring.causal || key_valid.is_some();
    let mask =
        Mask { key_valid: masked.then_some(&there[..]), bias: bias.as_ref(), ..Mask::default() };
    let own = q.clone().reshape(&[batch * count, len, width]);
    let [k, v] = [k, v].map(|x| crate::ops::gather(x, &rows, &[batch * count, seen * len]));
    Ok(full(device, heads, [&own, &k, &v], &mask)?.reshape(q.shape()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `chunked` by its definition: over positions.
    fn plain(heads: &Heads, ring: &Ring, [q, k, v]: [&Tensor; 3], valid: &[u8]) -> Vec<f64> {
        let (batch, seqlen, width) = (q.shape()[0], q.shape()[1], q.width());
        let count = (seqlen / ring.chunk_len) as isize;
        let mut out = vec![0.0; batch * seqlen * width];
        for b in 0..batch {
            for h in 0..heads.count {
                for i in 0..seqlen {
                    let columns = h * heads.dim..(h + 1) * heads.dim;
                    let own = &q.row(b * seqlen + i)[columns.clone()];
                    let (mut sum, mut mixed) = (0.0, vec![0.0; heads.dim]);
                    for n in -(ring.before as isize)..=ring.after as isize {
                        let chunk = ((i / ring.chunk_len) as isize + n).rem_euclid(count) as usize;
                        for j in chunk * ring.chunk_len..(chunk + 1) * ring.chunk_len {
                            if valid[b * seqlen + j] == 0 || ring.causal && j > i {
                                continue;
                            }
                            let key = &k.row(b * seqlen + j)[columns.clone()];
                            let weight = (crate::ops::dot(own, key) * heads.scale).exp();
                            let value = &v.row(b * seqlen + j)[columns.clone()];
                            sum += weight;
                            let pairs = mixed.iter_mut().zip(value);
                            pairs.for_each(|(m, &x)| *m += weight * f64::from(x));
                        }
                    }
                    let at = (b * seqlen + i) * width + columns.start;
                    let to = out[at..][..heads.dim].iter_mut().zip(mixed);
                    to.for_each(|(to, m)| *to = if sum > 0.0 { m / sum } else { 0.0 });
                }
            }
        }
        out
    }

    #[test]
    fn chunks_see_their_neighbours_round_the_ring() {
        let heads = Heads::new(2, 4);
        let random = |seed: usize| {
            let numbers = (0..2 * 24 * 8).map(|n| ((n * 7919 + seed) as f64).sin() as f32);
            Tensor::new(&[2, 24, 8], numbers.collect())
        };
        let [q, k, v] = [random(1), random(2), random(3)];
        let valid: Vec<u8> = (0..48).map(|i| u8::from(i % 11 != 3)).collect();
        for (chunk_len, before, after) in [
            (4, 1, 0),
            (4, 0, 0),
            (6, 0, 1),
            (4, 2, 1),
            (8, 1, 1),
            (8, 3, 0),
            (12, 4, 3),
            (24, 1, 0),
        ] {
            for causal in [false, true] {
                let ring = Ring { chunk_len, before, after, causal };
                let got = chunked(&Device::Cpu, &heads, &ring, [&q, &k, &v], Some(&valid)).unwrap();
                // One chunk that holds everything is seen once.
                let once = Ring { before: 0, after: 0, ..ring };
                let defined = if chunk_len == 24 { &once } else { &ring };
                let want = plain(&heads, defined, [&q, &k, &v], &valid);
                for (i, (g, w)) in got.data().iter().zip(&want).enumerate() {
                    assert!((f64::from(*g) - w).abs() < 1e-5, "{ring:?}[{i}]: {g}, not {w}");
                }
                let all = vec![1; 48];
                let got = chunked(&Device::Cpu, &heads, &ring, [&q, &k, &v], None).unwrap();
                let want = plain(&heads, defined, [&q, &k, &v], &all);
                let off = got.data().iter().zip(&want).map(|(&g, w)| (f64::from(g) - w).abs());
                assert!(off.fold(0.0, f64::max) < 1e-5, "{ring:?} without a mask");
            }
        }
    }
}
