//! A problem whose tensors are larger than the device binds is computed in several dispatches.

use crate::full::Full;
use crate::full::config::Slot;
use crate::webgpu::Caps;
use crate::{Declined, Error, Strides};

/// Sequences and heads that one dispatch computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) batch: usize,
    pub(super) batches: usize,
    pub(super) head_kv: usize,
    pub(super) heads_kv: usize,
}

/// Elements of each tensor that `chunk` touches, and the first of them.
pub(super) fn range(problem: &Full, slot: Slot, chunk: &Chunk) -> (u64, u64) {
    let s = &problem.shape;
    let group = s.heads_q / s.heads_kv;
    let (head, heads) = (chunk.head_kv * group, chunk.heads_kv * group);
    let ragged = problem.ragged.is_some();
    let (batch, batches) = if ragged { (0, 1) } else { (chunk.batch, chunk.batches) };
    let tensor = |strides: &Strides, rows: usize, head: usize, heads: usize| {
        let span = strides.span(batches, rows, heads, s.head_dim).unwrap_or(usize::MAX);
        (batch * strides.batch + head * strides.head, span)
    };
    let l = &problem.layout;
    let (first, len) = match slot {
        Slot::Q => tensor(&l.q, problem.rows_q(), head, heads),
        Slot::Out => tensor(&l.out, problem.rows_q(), head, heads),
        Slot::K => tensor(&l.k, problem.rows_k(), chunk.head_kv, chunk.heads_kv),
        Slot::V => tensor(&l.v, problem.rows_k(), chunk.head_kv, chunk.heads_kv),
        Slot::Lse => {
            let rows = problem.rows_q();
            ((batch * s.heads_q + head) * rows, ((batches - 1) * s.heads_q + heads) * rows)
        }
        Slot::Alibi => (0, s.heads_q),
        Slot::BiasTable => (0, problem.buckets.map_or(0, |b| b.num_buckets) * s.heads_q),
        Slot::KeyValid => (batch * s.seqlen_k, batches * s.seqlen_k),
        Slot::CuQ | Slot::CuK => (0, s.batch + 1),
        Slot::Bias => problem.bias.as_ref().map_or((0, 0), |bias| {
            let [_, all, lq, lk] = problem.bias_dims(bias);
            let (b, nb) = if bias.per_batch { (batch, batches) } else { (0, 1) };
            let (h, nh) = if bias.per_head { (head, heads) } else { (0, 1) };
            ((b * all + h) * lq * lk, ((nb - 1) * all + nh) * lq * lk)
        }),
        _ => (0, 0),
    };
    (first as u64, len as u64)
}

pub(super) fn element_bytes(problem: &Full, slot: Slot) -> u64 {
    match slot {
        Slot::Q | Slot::K | Slot::V | Slot::Out => problem.dtype.bytes() as u64,
        Slot::KeyValid => 1,
        _ => 4,
    }
}

/// Cuts the problem by sequences, then by heads, until every binding is within the device's limit.
pub(super) fn chunks(problem: &Full, caps: &Caps) -> Result<Vec<Chunk>, Error> {
    let s = &problem.shape;
    if s.batch == 0 || problem.rows_q() == 0 {
        return Ok(vec![]);
    }
    let whole = Chunk { batch: 0, batches: s.batch, head_kv: 0, heads_kv: s.heads_kv };
    // A binding begins up to one alignment early and ends on a whole word.
    let room = caps.max_binding_size.saturating_sub(u64::from(caps.offset_alignment) + 16);
    let slots = [Slot::Q, Slot::K, Slot::V, Slot::Out, Slot::Lse, Slot::Bias, Slot::KeyValid];
    let largest = |chunk: &Chunk| {
        let bytes = |slot: &Slot| range(problem, *slot, chunk).1 * element_bytes(problem, *slot);
        slots
            .iter()
            .map(|slot| (bytes(slot), *slot))
            .max_by_key(|(bytes, _)| *bytes)
            .expect("some slots")
    };
    let mut size = whole;
    while largest(&size).0 > room {
        if size.batches > 1 && problem.ragged.is_none() {
            size.batches = size.batches.div_ceil(2);
        } else if size.heads_kv > 1 {
            size.heads_kv = size.heads_kv.div_ceil(2);
        } else {
            let (bytes, slot) = largest(&size);
            let reason = format!(
                "one head of one sequence spans {bytes} bytes of {}, the device binds at most {} at once",
                slot.name(),
                caps.max_binding_size
            );
            return Err(Declined::new(reason).into());
        }
    }
    let mut all = vec![];
    for batch in (0..s.batch).step_by(size.batches) {
        for head_kv in (0..s.heads_kv).step_by(size.heads_kv) {
            all.push(Chunk {
                batch,
                batches: size.batches.min(s.batch - batch),
                head_kv,
                heads_kv: size.heads_kv.min(s.heads_kv - head_kv),
            });
        }
    }
    Ok(all)
}
