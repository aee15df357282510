//! What sm_90 adds: bulk and tensor copies, mbarriers, wgmma, clusters.

use crate::decode::{Decoder, Result};
use crate::machine::Machine;
use crate::op::{Inst, Op};
use crate::warp::Warp;

/// An instruction of the sm_90 set.
#[derive(Debug, Clone)]
pub(crate) enum Op90 {}

/// What a warp needs for them.
#[derive(Debug, Default)]
pub(crate) struct WarpState {}

/// What a block needs.
#[derive(Debug, Default)]
pub(crate) struct CtaState {}

/// What a launch needs.
#[derive(Debug, Default)]
pub(crate) struct LaunchState {}

/// Decodes an instruction of the set; none if it is not one.
pub(crate) fn decode(_d: &mut Decoder<'_>, _parts: &[&str]) -> Result<Option<Op>> {
    Ok(None)
}

#[allow(clippy::too_many_arguments)]
pub(crate) fn execute(
    _m: &mut Machine<'_>,
    _warp: &mut Warp,
    _s: usize,
    _pc: u32,
    _exec: u32,
    _inst: &Inst,
    op: &Op90,
    _taint: (u32, u32),
) {
    match *op {}
}

/// A register of a kernel that uses wgmma is touched.
pub(crate) fn registers_used(_m: &mut Machine<'_>, _warp: &mut Warp, _pc: u32, _inst: &Inst) {}

/// Completes what is in flight so that waiters can go on; whether anything was.
pub(crate) fn force(_m: &mut Machine<'_>) -> bool {
    false
}

/// Code and notes of a deadlock.
pub(crate) fn deadlock(_m: &Machine<'_>) -> (&'static str, Vec<String>) {
    ("BAR-DEADLOCK", Vec::new())
}

/// A warp has exited.
pub(crate) fn warp_exits(_m: &mut Machine<'_>, _warp: &mut Warp) {}

/// All warps of a block have exited.
pub(crate) fn block_exits(_m: &mut Machine<'_>, _slot: usize) {}

/// Between two warps' turns.
pub(crate) fn after_quantum(_m: &mut Machine<'_>) {}

/// A tensor map of a case, encoded.
pub(crate) fn encode_case_map(
    _map: &serde_json::Value,
    _buffers: &std::collections::BTreeMap<String, (u64, u64)>,
) -> std::result::Result<Vec<u8>, String> {
    Err("tensor maps are not supported".into())
}
