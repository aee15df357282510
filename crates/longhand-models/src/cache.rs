//! What a model keeps of the positions it has read, so that it need not read them again.

use crate::{Tensor, ops};

/// Keys and values of positions that attention has read, `[batch, seqlen, heads · dim]` each.
pub type KeysValues = Option<[Tensor; 2]>;

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

impl BlockCache {
    /// The keys and values kept of the positions before, then `new`.
    pub fn joined(&self, new: [Tensor; 2]) -> [Tensor; 2] {
        let Some(old) = &self.own else { return new };
        [0, 1].map(|i| ops::concat(&[&old[i], &new[i]], 1))
    }

    /// How many positions before are kept.
    pub fn rows(&self) -> usize {
        self.own.as_ref().map_or(0, |[keys, _]| keys.shape()[1])
    }
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
            let kept = [&block.own, &block.cross].into_iter().flatten().flatten();
            kept.chain(&block.distances).map(|x| 4 * x.len()).sum::<usize>()
        };
        let encoded = self.encoded.as_ref().map_or(0, |(x, valid)| 4 * x.len() + valid.len());
        self.blocks.iter().map(of_block).sum::<usize>() + encoded
    }
}
