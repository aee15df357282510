//! Bulk and tensor copies: operations of the asynchronous proxy.

use super::{Op90, clocks_of};
use crate::clock::{self, Actor, OPERATION};
use crate::machine::{self, Machine, Place, lanes};
use crate::op::{AtomOp, AtomType, Mem};
use crate::options::Completion;
use crate::shadow::{Access, Known, SEVERAL, Strong};
use crate::warp::Warp;
use std::collections::VecDeque;

/// What an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OpKind {
    /// Writes shared memory.
    Load,
    /// Reads shared memory.
    Store,
    Product,
}

/// Bytes of a block's shared memory, or of global memory.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Loc {
    Global(u64),
    Shared(u32, u32),
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Move {
    /// None: filled.
    pub(super) from: Option<Loc>,
    pub(super) to: Loc,
    pub(super) len: u32,
}

#[derive(Debug)]
pub(crate) enum Action {
    Copy {
        moves: Vec<Move>,
        fill: [u8; 2],
        reduce: Option<(AtomOp, AtomType, u32)>,
        data: Option<Vec<(Vec<u8>, bool)>>,
    },
    Product(Box<super::wgmma::Issued>),
}

/// An operation that has been issued and has not completed.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) id: Actor,
    /// The issuing block.
    pub(crate) cta: u32,
    /// (block, offset, bytes) of each mbarrier that learns of it.
    pub(crate) mbars: Vec<(u32, u32, u32)>,
    pub(crate) action: Action,
}

/// Bulk groups of one lane.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    loose: Vec<Entry>,
    committed: VecDeque<Vec<Entry>>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    reads: Actor,
    writes: Actor,
    read_known: bool,
}

impl Groups {
    /// Something may still be read.
    pub(crate) fn reads_open(&self) -> bool {
        self.loose.iter().chain(self.committed.iter().flatten()).any(|e| !e.read_known)
    }
}

impl Machine<'_> {
    pub(super) fn operation(&mut self, kind: OpKind) -> Actor {
        self.hopper.kinds.push(kind);
        OPERATION | (self.hopper.kinds.len() as u32 - 1)
    }

    pub(super) fn slot_of(&self, linear: u32) -> Option<usize> {
        self.ctas.iter().position(|cta| cta.linear == linear)
    }

    /// Checks and records the accesses of an operation to `len` bytes.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn op_touch(
        &mut self,
        warp: &Warp,
        (pc, lane): (u32, usize),
        op: Actor,
        place: Place,
        len: usize,
        write: bool,
        (swizzle, strong): (u8, bool),
    ) {
        let (a, g) = clocks_of(warp, lane);
        let access = Access {
            actor: op,
            clock: 1,
            pc,
            lane: SEVERAL,
            write,
            strong: if strong { Strong::Gpu } else { Strong::No },
            swizzle,
            same_value: false,
        };
        let known = Known {
            clock: &a,
            overlay: None,
            after_reads: Some(&g),
            generic: clock::generic(warp.number),
            copies: clock::copies(warp.number),
            lane: lane as u8,
            retired: 0,
            sync: (0, 0),
            warps_per_cta: self.warps_per_cta,
            proxy: true,
        };
        let (conflict, shared) = match place {
            Place::Global(i, at) => {
                (self.device.global.allocations[i].shadow.access(at, len, &access, &known), false)
            }
            Place::Shared(slot, at) => {
                (self.ctas[slot].shadow.access(at, len, &access, &known), true)
            }
            _ => return,
        };
        if let Some(c) = conflict {
            self.conflict(warp, (pc, lane), write, true, shared, place, c);
        }
    }

    pub(super) fn location(&self, place: Place) -> Loc {
        match place {
            Place::Shared(slot, at) => Loc::Shared(self.ctas[slot].linear, at as u32),
            Place::Global(a, at) => Loc::Global(self.device.global.allocations[a].base + at as u64),
            Place::Local(_) | Place::Param(_) => Loc::Global(0),
        }
    }

    pub(super) fn bytes_at(&mut self, loc: Loc, len: u32) -> (Vec<u8>, bool) {
        let n = len as usize;
        match loc {
            Loc::Global(address) => match self.device.global.find(address, u64::from(len)) {
                Ok((a, at)) => {
                    let bytes = &self.device.global.allocations[a].bytes;
                    (bytes.data[at..at + n].to_vec(), bytes.is_defined(at, n))
                }
                Err(_) => (vec![0xff; n], false),
            },
            Loc::Shared(linear, at) => match self.slot_of(linear) {
                Some(slot) => {
                    let (shared, at) = (&self.ctas[slot].shared, at as usize);
                    (shared.data[at..at + n].to_vec(), shared.is_defined(at, n))
                }
                None => (vec![0xff; n], false),
            },
        }
    }

    fn put(
        &mut self,
        loc: Loc,
        data: &[u8],
        defined: bool,
        reduce: Option<(AtomOp, AtomType, u32)>,
    ) {
        let mut data = data.to_vec();
        if let Some((op, ty, bytes)) = reduce {
            let (old, _) = self.bytes_at(loc, data.len() as u32);
            let n = bytes as usize;
            let word = |b: &[u8]| {
                let mut w = [0; 8];
                w[..n].copy_from_slice(b);
                u64::from_le_bytes(w)
            };
            for (new, old) in data.chunks_mut(n).zip(old.chunks(n)) {
                let value = machine::apply(op, ty, 8 * bytes, word(old), word(new), None, false);
                new.copy_from_slice(&value.to_le_bytes()[..n]);
            }
        }
        match loc {
            Loc::Global(address) => {
                if let Ok((a, at)) = self.device.global.find(address, data.len() as u64) {
                    let bytes = &mut self.device.global.allocations[a].bytes;
                    bytes.write(at, &data);
                    bytes.define(at, data.len(), defined);
                }
            }
            Loc::Shared(linear, at) => {
                if let Some(slot) = self.slot_of(linear) {
                    let shared = &mut self.ctas[slot].shared;
                    shared.write(at as usize, &data);
                    shared.define(at as usize, data.len(), defined);
                }
            }
        }
    }

    /// Puts an operation in flight as the completion mode says.
    pub(super) fn submit(&mut self, mut pending: Pending) {
        let mode = match self.device.options.completion {
            Completion::Random => {
                [Completion::Eager, Completion::Late, Completion::Early][self.draw(3) as usize]
            }
            mode => mode,
        };
        let id = pending.id;
        if let Action::Copy { moves, data, .. } = &mut pending.action {
            match mode {
                Completion::Late => {
                    let moves = moves.clone();
                    *data = Some(
                        moves
                            .iter()
                            .map(|m| {
                                m.from
                                    .map_or_else(|| (Vec::new(), true), |f| self.bytes_at(f, m.len))
                            })
                            .collect(),
                    );
                }
                Completion::Early => {
                    for m in moves.iter() {
                        if let Loc::Shared(linear, at) = m.to
                            && let Some(slot) = self.slot_of(linear)
                        {
                            self.ctas[slot].shared.poison(at as usize, m.len as usize);
                        }
                    }
                }
                _ => {}
            }
        }
        self.hopper.pending.push(pending);
        if mode == Completion::Eager {
            self.finish(id);
        }
    }

    /// Completes an operation: moves its data, tells its mbarriers.
    pub(super) fn finish(&mut self, id: Actor) {
        let Some(at) = self.hopper.pending.iter().position(|p| p.id == id) else { return };
        let pending = self.hopper.pending.remove(at);
        match pending.action {
            Action::Copy { moves, fill, reduce, data } => {
                for (i, m) in moves.iter().enumerate() {
                    let (bytes, defined) = match (m.from, &data) {
                        (None, _) => {
                            (fill.iter().copied().cycle().take(m.len as usize).collect(), true)
                        }
                        (Some(_), Some(data)) => data[i].clone(),
                        (Some(from), None) => self.bytes_at(from, m.len),
                    };
                    self.put(m.to, &bytes, defined, reduce);
                }
            }
            Action::Product(issued) => self.wgmma_compute(*issued),
        }
        for (linear, at, bytes) in pending.mbars {
            if let Some(slot) = self.slot_of(linear)
                && let Some(mbar) = self.ctas[slot].hopper.mbars.get_mut(&at)
            {
                mbar.complete_tx(id, bytes);
            }
        }
    }

    /// Destinations of a copy: the own block, or those of a multicast mask.
    pub(super) fn destinations(
        &mut self,
        warp: &Warp,
        pc: u32,
        lane: usize,
        mask: Option<u32>,
        place: Place,
    ) -> Option<Vec<Place>> {
        let Some(mask) = mask else { return Some(vec![place]) };
        let Place::Shared(_, at) = place else { return None };
        let first = warp.slot - self.ctas[warp.slot].rank as usize;
        if mask == 0 || mask >> self.cluster_size != 0 {
            let size = self.cluster_size;
            self.stop("MULTICAST-MASK", (warp, pc, Some(lane as u32)), || {
                format!("mask {mask:#x} in a cluster of {size}")
            });
            return None;
        }
        Some(
            (0..self.cluster_size as usize)
                .filter(|r| mask >> r & 1 == 1)
                .map(|r| Place::Shared(first + r, at))
                .collect(),
        )
    }

    /// The mbarrier of each destination block.
    pub(super) fn mbars_of(
        &mut self,
        warp: &Warp,
        pc: u32,
        lane: usize,
        mem: &Mem,
        address: u64,
        many: Option<&[Place]>,
    ) -> Option<Vec<(u32, u32)>> {
        let (slot, at) = self.live_mbar(warp, pc, lane, mem, address)?;
        let Some(many) = many else { return Some(vec![(self.ctas[slot].linear, at)]) };
        let mut all = Vec::new();
        for place in many {
            if let Place::Shared(slot, _) = place {
                if !self.ctas[*slot].hopper.mbars.contains_key(&at) {
                    self.stop("MBAR-UNINIT", (warp, pc, Some(lane as u32)), || {
                        format!("a destination block has no initialised mbarrier at {at:#x}")
                    });
                    return None;
                }
                all.push((self.ctas[*slot].linear, at));
            }
        }
        Some(all)
    }

    pub(super) fn bulk_copy(&mut self, warp: &mut Warp, pc: u32, exec: u32, op: &Op90) {
        let Op90::Bulk { dst, src, bytes, mbar, mask, reduce } = op else { return };
        let Some(to) = self.addresses(warp, pc, exec, dst) else { return };
        let Some(from) = self.addresses(warp, pc, exec, src) else { return };
        let sizes = self.value32(warp, *bytes);
        let masks = mask.map(|m| self.value32(warp, m));
        let mbar_at = match mbar {
            None => None,
            Some(mem) => {
                let Some(addresses) = self.addresses(warp, pc, exec, mem) else { return };
                Some((mem, addresses))
            }
        };
        for lane in lanes(exec) {
            let n = sizes[lane];
            if n == 0 || !n.is_multiple_of(16) {
                return self.stop("BULK-SIZE", (warp, pc, Some(lane as u32)), || {
                    format!("{n} bytes are not a multiple of 16 above 0")
                });
            }
            let Some(to) = self.place(warp, (pc, lane), dst.space, to[lane], n, 16) else { return };
            let Some(from) = self.place(warp, (pc, lane), src.space, from[lane], n, 16) else {
                return;
            };
            let mask = masks.map(|m| m[lane]);
            let Some(all) = self.destinations(warp, pc, lane, mask, to) else { return };
            let loads = matches!(to, Place::Shared(..));
            let mut mbars = Vec::new();
            if let Some((mem, addresses)) = &mbar_at {
                let many = mask.map(|_| all.as_slice());
                let Some(found) = self.mbars_of(warp, pc, lane, mem, addresses[lane], many) else {
                    return;
                };
                mbars = found.into_iter().map(|(linear, at)| (linear, at, n)).collect();
            }
            let kind = if loads { OpKind::Load } else { OpKind::Store };
            let (reads, writes) = match loads {
                true => {
                    let id = self.operation(kind);
                    (id, id)
                }
                false => (self.operation(kind), self.operation(kind)),
            };
            self.op_touch(warp, (pc, lane), reads, from, n as usize, false, (0, false));
            for place in &all {
                self.op_touch(
                    warp,
                    (pc, lane),
                    writes,
                    *place,
                    n as usize,
                    true,
                    (0, reduce.is_some()),
                );
            }
            let from = self.location(from);
            let moves = all
                .iter()
                .map(|to| Move { from: Some(from), to: self.location(*to), len: n })
                .collect();
            let element = reduce.map(|(op, ty)| {
                let opcode = &self.program.code[pc as usize].opcode;
                (
                    op,
                    ty,
                    if opcode.ends_with("64") {
                        8
                    } else if opcode.ends_with("16") {
                        2
                    } else {
                        4
                    },
                )
            });
            self.bulk_bytes += u64::from(n) * all.len() as u64;
            self.issue(
                warp,
                lane,
                (reads, writes),
                mbars,
                Action::Copy { moves, fill: [0; 2], reduce: element, data: None },
            );
        }
    }

    pub(super) fn issue(
        &mut self,
        warp: &mut Warp,
        lane: usize,
        (reads, writes): (Actor, Actor),
        mbars: Vec<(u32, u32, u32)>,
        action: Action,
    ) {
        if reads != writes {
            let groups = warp.hopper.bulk.entry(lane).or_default();
            groups.loose.push(Entry { reads, writes, read_known: false });
        }
        let cta = self.ctas[warp.slot].linear;
        self.submit(Pending { id: writes, cta, mbars, action });
    }

    pub(super) fn bulk_commit(&mut self, warp: &mut Warp, exec: u32) {
        for lane in lanes(exec) {
            let groups = warp.hopper.bulk.entry(lane).or_default();
            let loose = std::mem::take(&mut groups.loose);
            groups.committed.push_back(loose);
        }
    }

    pub(super) fn bulk_wait(&mut self, warp: &mut Warp, exec: u32, keep: u32, read: bool) {
        for lane in lanes(exec) {
            let Some(groups) = warp.hopper.bulk.get_mut(&lane) else { continue };
            let n = groups.committed.len().saturating_sub(keep as usize);
            let mut known = clock::Clock::default();
            let mut finished = Vec::new();
            for entry in groups.committed.iter_mut().take(n).flatten() {
                entry.read_known = true;
                finished.push(entry.writes);
                known.raise(entry.reads, 1);
                if !read {
                    known.raise(entry.writes, 1);
                }
            }
            if !read {
                groups.committed.drain(..n);
            }
            for id in finished {
                self.finish(id);
            }
            warp.learn(1 << lane, &known, Some(&known));
        }
    }
}
