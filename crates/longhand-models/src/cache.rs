//! What a model keeps of the positions it has read, so that it need not read them again.

use crate::{Tensor, ops};

/// Keys and values of positions that attention has read, `[batch, seqlen, heads · dim]` each.
#[derive(Debug, Clone, Default)]
pub struct KeysValues(Option<[Tensor; 2]>);

impl KeysValues {
    /// These.
    pub fn of(keys: Tensor, values: Tensor) -> Self {
        KeysValues(Some([keys, values]))
    }

    /// Those kept, then `new`.
    pub fn joined(&self, new: [Tensor; 2]) -> [Tensor; 2] {
        let Some(old) = &self.0 else { return new };
        [0, 1].map(|i| ops::join_rows(&old[i], &new[i]))
    }

    /// How many positions.
    pub fn rows(&self) -> usize {
        self.0.as_ref().map_or(0, |[keys, _]| keys.shape()[1])
    }

    /// Those kept; made now if there are none yet.
    pub fn or_make(&mut self, make: impl FnOnce() -> [Tensor; 2]) -> &[Tensor; 2] {
        self.0.get_or_insert_with(make)
    }

    fn bytes(&self) -> usize {
        self.0.iter().flatten().map(|x| 4 * x.len()).sum()
    }
}

/// What one block keeps.
#[derive(Debug, Clone, Default)]
pub struct BlockCache {
    /// Of the positions before.
    pub own: KeysValues,
    /// Of an encoder's states.
    pub cross: KeysValues,
    /// Transformer-XL: the projected table of distances.
    pub distances: Option<Tensor>,
}

/// What a model has read so far: [`Model::advance`](crate::Model::advance) reads on from here.
#[derive(Debug, Clone)]
pub struct Cache {
    /// Of each block.
    pub blocks: Vec<BlockCache>,
    /// Positions read, padding too.
    pub read: usize,
    /// Positions that it may hold, if the model has a memory of its own length.
    pub memory: Option<usize>,
    /// How many positions before each sequence are padding.
    pub padding: Vec<usize>,
    /// An encoder's states, and which are there: `[batch, seqlen]`.
    pub encoded: Option<(Tensor, Vec<u8>)>,
}

impl Cache {
    /// Of `blocks` blocks that have read nothing of `batch` sequences.
    pub fn new(blocks: usize, batch: usize) -> Self {
        let blocks = vec![BlockCache::default(); blocks];
        Cache { blocks, read: 0, memory: None, padding: vec![0; batch], encoded: None }
    }

    /// Bytes of what it keeps.
    pub fn bytes(&self) -> usize {
        let of_block = |block: &BlockCache| {
            let distances = block.distances.as_ref().map_or(0, |x| 4 * x.len());
            block.own.bytes() + block.cross.bytes() + distances
        };
        let encoded = self.encoded.as_ref().map_or(0, |(x, valid)| 4 * x.len() + valid.len());
        self.blocks.iter().map(of_block).sum::<usize>() + encoded
    }
}
