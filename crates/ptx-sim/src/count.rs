//! Exact counters, per instruction of the text.

use crate::module::Program;
use serde::Serialize;
use std::collections::BTreeMap;

/// Counters of one instruction, or of many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Times a warp executed it with at least one lane.
    pub warp_instructions: u64,
    /// Lanes that executed it.
    pub lane_instructions: u64,
    /// Shared-memory wavefronts of one 128-byte pass over the banks each.
    pub shared_wavefronts: u64,
    /// What conflict-free accesses to the same bytes would take.
    pub shared_ideal: u64,
    /// 32-byte sectors of global memory touched by loads.
    pub global_sectors_load: u64,
    /// Likewise by stores and atomics.
    pub global_sectors_store: u64,
    /// What contiguous accesses to as many bytes would touch.
    pub global_sectors_ideal: u64,
    /// Distinct bytes loaded by each warp instruction, summed.
    pub global_load_bytes: u64,
    /// Likewise stored.
    pub global_store_bytes: u64,
    /// Tensor-core operations: 2·M·N·K of every product.
    pub tc_flops: u64,
}

impl Counts {
    fn add(&mut self, other: &Counts) {
        self.warp_instructions += other.warp_instructions;
        self.lane_instructions += other.lane_instructions;
        self.shared_wavefronts += other.shared_wavefronts;
        self.shared_ideal += other.shared_ideal;
        self.global_sectors_load += other.global_sectors_load;
        self.global_sectors_store += other.global_sectors_store;
        self.global_sectors_ideal += other.global_sectors_ideal;
        self.global_load_bytes += other.global_load_bytes;
        self.global_store_bytes += other.global_store_bytes;
        self.tc_flops += other.tc_flops;
    }
}

/// Counters of a launch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Everything.
    pub total: Counts,
    /// By opcode as written.
    pub opcodes: BTreeMap<String, Counts>,
    /// By group of instructions: `Int`, `F32`, `Mufu` and so on; loads, stores and control are `Move`.
    pub classes: BTreeMap<String, Counts>,
    /// By the label that stands before the instruction.
    pub regions: BTreeMap<String, Counts>,
    /// Blocks that ran.
    pub blocks: u64,
    /// Bytes of bulk and tensor copies.
    pub bulk_bytes: u64,
}

impl Counters {
    pub(crate) fn of(program: &Program, per_pc: &[Counts], blocks: u64, bulk_bytes: u64) -> Self {
        let mut all = Counters { blocks, bulk_bytes, ..Counters::default() };
        for (pc, counts) in per_pc.iter().enumerate().filter(|(_, c)| c.warp_instructions > 0) {
            all.total.add(counts);
            let opcode = &program.code[pc].opcode;
            if !all.opcodes.contains_key(opcode) {
                all.opcodes.insert(opcode.clone(), Counts::default());
            }
            if let Some(sum) = all.opcodes.get_mut(opcode) {
                sum.add(counts);
            }
            let class = format!("{:?}", program.code[pc].class);
            all.classes.entry(class).or_default().add(counts);
            all.regions.entry(program.label_of(pc).to_owned()).or_default().add(counts);
        }
        all
    }

    /// Sums the opcodes that begin with `prefix`.
    pub fn opcodes_from(&self, prefix: &str) -> Counts {
        let mut sum = Counts::default();
        for counts in self.opcodes.iter().filter(|(o, _)| o.starts_with(prefix)).map(|(_, c)| c) {
            sum.add(counts);
        }
        sum
    }
}

/// Wavefronts and their ideal of one phase: distinct 4-byte words by bank.
pub(crate) fn wavefronts(words: &mut Vec<u32>) -> (u64, u64) {
    // Without conflict every bank holds one word.
    let mut held = [u32::MAX; 32];
    let mut distinct = 0;
    let mut clean = true;
    for word in words.iter() {
        let bank = &mut held[*word as usize % 32];
        distinct += u64::from(*bank == u32::MAX);
        clean &= *bank == u32::MAX || *bank == *word;
        *bank = *word;
    }
    if clean {
        return (1, distinct.div_ceil(32).max(1));
    }
    words.sort_unstable();
    words.dedup();
    let mut banks = [0u8; 32];
    for word in words.iter() {
        banks[*word as usize % 32] += 1;
    }
    let most = banks.iter().copied().max().unwrap_or(0);
    (u64::from(most.max(1)), (words.len() as u64).div_ceil(32).max(1))
}

/// Wavefronts and their ideal of a phase of rows of 16 bytes, given their offsets.
pub(crate) fn row_wavefronts(rows: &[usize]) -> (u64, u64) {
    let mut distinct = 0u64;
    let mut banks = [0u64; 8];
    for (i, row) in rows.iter().enumerate() {
        if !rows[..i].contains(row) {
            distinct += 1;
            banks[row / 16 % 8] += 1;
        }
    }
    (banks.iter().copied().max().unwrap_or(0).max(1), distinct.div_ceil(8).max(1))
}
