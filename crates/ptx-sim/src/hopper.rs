//! What sm_90 adds: bulk and tensor copies, mbarriers, wgmma, clusters. And sm_80's mbarriers.

mod bulk;
mod cluster;
mod decode;
mod mbarrier;
mod tensor;
mod tma;
mod wgmma;

pub(crate) use bulk::OpKind;
pub(crate) use decode::decode;
pub(crate) use tensor::encode_case_map;
pub use tensor::{Tensor, TensorMap};

use crate::clock::{Actor, Clock};
use crate::machine::Machine;
use crate::op::{AtomOp, AtomType, Dst, Inst, Mem, Scope, Src};
use crate::warp::{State, Warp};
use std::collections::{BTreeMap, VecDeque};

/// An instruction of the set.
#[derive(Debug, Clone)]
pub(crate) enum Op90 {
    MbarInit {
        mem: Mem,
        count: Src,
    },
    MbarInval {
        mem: Mem,
    },
    /// Arrive, perhaps with `expect_tx` before it.
    MbarArrive {
        mem: Mem,
        dst: Dst,
        count: Option<Src>,
        tx: Option<Src>,
        drop: bool,
        relaxed: bool,
        scope: Scope,
    },
    MbarTx {
        mem: Mem,
        tx: Src,
        complete: bool,
    },
    MbarWait {
        mem: Mem,
        p: Option<u32>,
        state: Src,
        parity: bool,
        relaxed: bool,
    },
    MbarPending {
        dst: Dst,
        state: Src,
    },
    /// `cp.async.mbarrier.arrive`.
    MbarCopies {
        mem: Mem,
        noinc: bool,
    },
    Bulk {
        dst: Mem,
        src: Mem,
        bytes: Src,
        mbar: Option<Mem>,
        mask: Option<Src>,
        reduce: Option<(AtomOp, AtomType)>,
    },
    Tensor {
        map: Mem,
        coords: Vec<Src>,
        shared: Mem,
        mbar: Option<Mem>,
        mask: Option<Src>,
        reduce: Option<AtomOp>,
    },
    BulkCommit,
    BulkWait {
        keep: u32,
        read: bool,
    },
    /// `fence.proxy.async`.
    ProxyFence,
    /// Fences that order nothing that is watched here.
    OtherFence,
    WgmmaFence,
    WgmmaCommit,
    WgmmaWait {
        keep: u32,
    },
    Wgmma(wgmma::Product),
    Mapa {
        dst: Dst,
        src: Src,
        rank: Src,
    },
    CtaRank {
        dst: Dst,
        src: Src,
    },
    ClusterArrive {
        relaxed: bool,
        aligned: bool,
    },
    ClusterWait {
        aligned: bool,
    },
    Elect {
        dst: Dst,
        p: Option<u32>,
        mask: Src,
    },
    SetMaxRegs {
        n: u32,
        grow: bool,
    },
}

/// What a warp needs for them.
#[derive(Debug, Default)]
pub(crate) struct WarpState {
    /// wgmma.fence was executed and no operand touched since.
    pub(crate) fenced: bool,
    /// wgmma operations not committed, and committed groups.
    pub(crate) loose: Vec<Actor>,
    pub(crate) groups: VecDeque<Vec<Actor>>,
    /// Accumulators in flight: value, undefined lanes, how many operations still add to it.
    pub(crate) hidden: BTreeMap<u32, ([u32; 32], u32, u32)>,
    /// Bulk groups by lane: (operation that reads, operation that writes, read is known).
    pub(crate) bulk: BTreeMap<usize, bulk::Groups>,
    /// Cluster barriers passed; arrived at the current one.
    pub(crate) phases: u64,
    pub(crate) arrived: Option<u64>,
    /// Registers of a thread, if setmaxnreg changed them.
    pub(crate) regs: Option<u32>,
    /// By lane and mbarrier: the phase it last waited for.
    pub(crate) last_wait: BTreeMap<(usize, u32), u64>,
    /// By lane, mbarrier and instruction: the phase at its last try.
    pub(crate) tried: BTreeMap<(usize, u32, u32), u64>,
}

/// What a block needs.
#[derive(Debug, Default)]
pub(crate) struct CtaState {
    pub(crate) mbars: BTreeMap<u32, mbarrier::Mbar>,
    /// The cluster's barrier, in the state of its first block.
    pub(crate) barrier: cluster::Barrier,
    /// Registers that setmaxnreg has freed.
    pub(crate) pool: u32,
}

/// What a launch needs.
#[derive(Debug, Default)]
pub(crate) struct LaunchState {
    pub(crate) pending: Vec<bulk::Pending>,
    /// By operation: what it is.
    pub(crate) kinds: Vec<bulk::OpKind>,
    /// Warpgroups that may be complete: (slot, group).
    pub(crate) ready: Vec<(usize, u32)>,
    /// Phase of the cluster barrier at each warp's last access to a peer.
    pub(crate) remote: BTreeMap<u32, u64>,
    /// Clusters whose barrier may be complete, by their first slot.
    pub(crate) cluster_checks: Vec<usize>,
}

#[allow(clippy::too_many_arguments)]
pub(crate) fn execute(
    m: &mut Machine<'_>,
    warp: &mut Warp,
    s: usize,
    pc: u32,
    exec: u32,
    inst: &Inst,
    op: &Op90,
    taint: (u32, u32),
) {
    if taint.0 != 0 {
        m.undefined(warp, pc, taint.0, taint.1, "an operand is");
    }
    match op {
        Op90::MbarInit { mem, count } => m.mbar_init(warp, pc, exec, mem, *count),
        Op90::MbarInval { mem } => m.mbar_inval(warp, pc, exec, mem),
        Op90::MbarArrive { mem, dst, count, tx, drop, relaxed, scope } => {
            m.mbar_arrive(warp, pc, exec, mem, *dst, (*count, *tx), (*drop, *relaxed, *scope));
        }
        Op90::MbarTx { mem, tx, complete } => m.mbar_tx(warp, pc, exec, mem, *tx, *complete),
        Op90::MbarWait { mem, p, state, parity, relaxed } => {
            m.mbar_wait(warp, (s, pc, exec), mem, *p, *state, *parity, *relaxed);
        }
        Op90::MbarPending { dst, state } => {
            let value = m.value64(warp, *state).map(|v| (v >> 32) as u32);
            warp.set32(*dst, &value, exec);
        }
        Op90::MbarCopies { mem, noinc } => m.mbar_copies(warp, pc, exec, mem, *noinc),
        Op90::Bulk { .. } => m.bulk_copy(warp, pc, exec, op),
        Op90::Tensor { .. } => m.tensor_copy(warp, pc, exec, op),
        Op90::BulkCommit => m.bulk_commit(warp, exec),
        Op90::BulkWait { keep, read } => m.bulk_wait(warp, exec, *keep, *read),
        Op90::ProxyFence => proxy_fence(warp, exec),
        Op90::OtherFence => {}
        Op90::WgmmaFence => {
            if m.wgmma_converged(warp, pc, exec) {
                warp.hopper.fenced = true;
                warp.meta.iter_mut().for_each(|meta| meta.touched = false);
            }
        }
        Op90::WgmmaCommit => {
            let loose = std::mem::take(&mut warp.hopper.loose);
            warp.hopper.groups.push_back(loose);
        }
        Op90::WgmmaWait { keep } => m.wgmma_wait(warp, pc, *keep),
        Op90::Wgmma(_) => {
            if m.wgmma_converged(warp, pc, exec) {
                warp.splits[s].state = State::Group;
                m.hopper.ready.push((warp.slot, warp.index / 4));
            }
            // Its registers are marked when the group is complete.
            return;
        }
        Op90::Mapa { dst, src, rank } => m.mapa(warp, pc, exec, *dst, *src, *rank),
        Op90::CtaRank { dst, src } => {
            let value = m.value64(warp, *src).map(|v| (v & 0xffff_ffff) as u32 >> 24);
            warp.set32(*dst, &value, exec);
        }
        Op90::ClusterArrive { relaxed, aligned } => {
            m.cluster_arrive(warp, pc, exec, *relaxed, *aligned)
        }
        Op90::ClusterWait { aligned } => m.cluster_wait(warp, (s, pc, exec), *aligned),
        Op90::Elect { dst, p, mask } => {
            let mask = m.value32(warp, *mask);
            m.check_members(warp, pc, exec, &mask);
            let leader = exec.trailing_zeros();
            warp.set32(*dst, &[leader; 32], exec);
            warp.set_pred(*p, 1 << leader, exec);
        }
        Op90::SetMaxRegs { n, grow } => m.set_max_regs(warp, (s, pc), *n, *grow),
    }
    for &w in &inst.writes {
        let meta = &mut warp.meta[w as usize];
        meta.written |= exec;
        meta.undefined &= !exec;
    }
}

/// `fence.proxy.async`: what generic accesses are ordered after, asynchronous ones are.
fn proxy_fence(warp: &mut Warp, exec: u32) {
    if exec == warp.live() {
        let clock = warp.published();
        warp.a.join(&clock);
    }
    for lane in crate::machine::lanes(exec) {
        if exec == warp.live() && warp.over[lane].is_none() {
            continue;
        }
        let clock = warp.published_by(lane);
        warp.overlays = true;
        warp.over[lane].get_or_insert_default().1.join(&clock);
    }
}

/// What one lane's asynchronous operations are ordered after, and its generic accesses.
pub(crate) fn clocks_of(warp: &Warp, lane: usize) -> (Clock, Clock) {
    let mut a = warp.a.clone();
    if let Some(over) = &warp.over[lane] {
        a.join(&over.1);
    }
    (a, warp.published_by(lane))
}

/// Registers of a kernel that uses wgmma are touched by another instruction.
pub(crate) fn registers_used(m: &mut Machine<'_>, warp: &mut Warp, pc: u32, inst: &Inst) {
    if inst.opcode.starts_with("wgmma") {
        return;
    }
    let mut found = None;
    for (write, &r) in
        inst.reads.iter().map(|r| (false, r)).chain(inst.writes.iter().map(|r| (true, r)))
    {
        let meta = &mut warp.meta[r as usize];
        meta.touched = true;
        match meta.flight {
            0 => {}
            n if n & 1 == 1 => found = Some(("WGMMA-ACC-INFLIGHT", r)),
            _ if write => found = Some(("WGMMA-AREG-INFLIGHT", r)),
            _ => {}
        }
    }
    if let Some((code, r)) = found {
        let name = m.program.names[r as usize].clone();
        m.error(code, (warp, pc, None), || {
            format!("{name} belongs to a wgmma that no wait_group has retired")
        });
    }
}

/// Completes what is in flight so that waiters can go on; whether anything was.
pub(crate) fn force(m: &mut Machine<'_>) -> bool {
    let candidates: Vec<usize> =
        (0..m.hopper.pending.len()).filter(|&i| !m.hopper.pending[i].mbars.is_empty()).collect();
    if candidates.is_empty() {
        return false;
    }
    let random = m.device.options.completion == crate::options::Completion::Random;
    let at = if random { m.draw(candidates.len() as u32) as usize } else { 0 };
    let id = m.hopper.pending[candidates[at]].id;
    m.finish(id);
    true
}

/// Code and notes of a deadlock.
pub(crate) fn deadlock(m: &Machine<'_>) -> (&'static str, Vec<String>) {
    let mut notes = Vec::new();
    let mut code = "BAR-DEADLOCK";
    let in_state = |state: State| {
        m.ctas
            .iter()
            .flat_map(|c| c.warps.iter().flatten())
            .any(|w| w.splits.iter().any(|s| s.state == state))
    };
    let spinning = m
        .ctas
        .iter()
        .flat_map(|c| c.warps.iter().flatten())
        .any(|w| w.splits.iter().any(|s| s.state == State::Run && s.spinning));
    if in_state(State::Registers) {
        code = "SETMAXNREG";
    } else if spinning {
        code = "MBAR-DEADLOCK";
    } else if in_state(State::Group) {
        code = "WGMMA-DIVERGED";
    }
    for cta in &m.ctas {
        for (at, mbar) in &cta.hopper.mbars {
            notes.push(format!("cta {:?}: mbarrier at {at:#x}: {}", cta.id, mbar.describe()));
        }
    }
    (code, notes)
}

/// A warp has exited.
pub(crate) fn warp_exits(m: &mut Machine<'_>, warp: &mut Warp) {
    let pc = m.program.code.len() as u32 - 1;
    if !warp.hopper.loose.is_empty() {
        m.error("WGMMA-UNCOMMITTED", (warp, pc, None), || {
            "the warp exits with a wgmma that no commit_group has committed".into()
        });
    }
    let open = warp.hopper.bulk.values().any(bulk::Groups::reads_open);
    if open {
        m.error("ASYNC-EXIT", (warp, pc, None), || {
            "the warp exits while a bulk copy that it issued may still read shared memory".into()
        });
    }
    if let Some(phase) = m.hopper.remote.get(&warp.number)
        && *phase >= warp.hopper.phases
    {
        m.error("CLUSTER-PEER-EXITED", (warp, pc, None), || {
            "shared memory of a peer was accessed with no later cluster barrier: the peer may have exited".into()
        });
    }
    m.cluster_exit(warp.slot);
}

/// All warps of a block have exited.
pub(crate) fn block_exits(m: &mut Machine<'_>, slot: usize) {
    let linear = m.ctas[slot].linear;
    while let Some(id) = m.hopper.pending.iter().find(|p| p.cta == linear).map(|p| p.id) {
        m.finish(id);
    }
    let cta = &m.ctas[slot];
    let bad: Vec<String> = cta
        .hopper
        .mbars
        .iter()
        .filter(|(_, mbar)| mbar.tx != 0)
        .map(|(at, mbar)| format!("mbarrier at {at:#x}: {}", mbar.describe()))
        .collect();
    if let Some(first) = bad.first()
        && let Some(warp) = m.ctas[slot].warps[0].take()
    {
        let pc = m.program.code.len() as u32 - 1;
        m.error("MBAR-TX-MISMATCH", (&warp, pc, None), || {
            format!("the block ends with bytes announced and bytes copied unequal: {first}")
        });
        m.ctas[slot].warps[0] = Some(warp);
    }
}

/// Between two warps' turns.
pub(crate) fn after_quantum(m: &mut Machine<'_>) {
    while let Some((slot, group)) = m.hopper.ready.pop() {
        m.wgmma_group(slot, group);
    }
    while let Some(first) = m.hopper.cluster_checks.pop() {
        m.cluster_release(first);
    }
}
