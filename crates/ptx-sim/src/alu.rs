//! Arithmetic of one warp: which function an opcode stands for. No memory, no control flow.

/// One 32-bit register of a warp, lane by lane.
pub type L32 = [u32; 32];
/// One register of a warp widened to 64 bits.
pub type L64 = [u64; 32];
