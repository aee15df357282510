//! Bulk and tensor copies: operations of the asynchronous proxy.

use super::{Op90, Tensor, clocks_of};
use crate::clock::{self, Actor, OPERATION};
use crate::machine::{self, Machine, Place, lanes};
use crate::op::{AtomOp, AtomType, Mem, Space};
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
    from: Option<Loc>,
    to: Loc,
    len: u32,
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

    fn location(&self, place: Place) -> Loc {
        match place {
            Place::Shared(slot, at) => Loc::Shared(self.ctas[slot].linear, at as u32),
            Place::Global(a, at) => Loc::Global(self.device.global.allocations[a].base + at as u64),
            Place::Local(_) | Place::Param(_) => Loc::Global(0),
        }
    }

    fn bytes_at(&mut self, loc: Loc, len: u32) -> (Vec<u8>, bool) {
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
    fn destinations(
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
    fn mbars_of(
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
            if n == 0 || n % 16 != 0 {
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

    fn issue(
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

    pub(super) fn tensor_copy(&mut self, warp: &mut Warp, pc: u32, exec: u32, op: &Op90) {
        let Op90::Tensor { map, coords, shared, mbar, mask, reduce } = op else { return };
        let Some(maps) = self.addresses(warp, pc, exec, map) else { return };
        let Some(at) = self.addresses(warp, pc, exec, shared) else { return };
        let coords: Vec<[u32; 32]> = coords.iter().map(|c| self.value32(warp, *c)).collect();
        let masks = mask.map(|m| self.value32(warp, m));
        let mbar_at = match mbar {
            None => None,
            Some(mem) => {
                let Some(addresses) = self.addresses(warp, pc, exec, mem) else { return };
                Some((mem, addresses))
            }
        };
        for lane in lanes(exec) {
            let Some(tensor) = self.tensor_of(warp, pc, lane, maps[lane], coords.len()) else {
                return;
            };
            let bytes = tensor.box_bytes() as u32;
            if !at[lane].is_multiple_of(128) {
                return self.stop("TMA-ALIGN", (warp, pc, Some(lane as u32)), || {
                    format!("shared address {:#x} is not a multiple of 128", at[lane])
                });
            }
            let Some(place) = self.place(warp, (pc, lane), shared.space, at[lane], bytes, 16)
            else {
                return;
            };
            let at_coords: Vec<i64> = coords.iter().map(|c| i64::from(c[lane] as i32)).collect();
            let mask = masks.map(|m| m[lane]);
            let Some(all) = self.destinations(warp, pc, lane, mask, place) else { return };
            let mut mbars = Vec::new();
            if let Some((mem, addresses)) = &mbar_at {
                let many = mask.map(|_| all.as_slice());
                let Some(found) = self.mbars_of(warp, pc, lane, mem, addresses[lane], many) else {
                    return;
                };
                mbars = found.into_iter().map(|(linear, at)| (linear, at, bytes)).collect();
            }
            let loads = mbar.is_some();
            // The swizzle in the encoding of wgmma's descriptors, where 1 is 128 bytes.
            let tag = [0, 3, 2, 1][tensor.swizzle as usize];
            let kind = if loads { OpKind::Load } else { OpKind::Store };
            let (reads, writes) = match loads {
                true => {
                    let id = self.operation(kind);
                    (id, id)
                }
                false => (self.operation(kind), self.operation(kind)),
            };
            let mut moves = Vec::new();
            for place in &all {
                let op = if loads { writes } else { reads };
                self.op_touch(warp, (pc, lane), op, *place, bytes as usize, loads, (tag, false));
                let Place::Shared(slot, offset) = *place else { return };
                let window = u64::from(self.smem_base) + offset as u64;
                let linear = self.ctas[slot].linear;
                for (global, from, len) in box_runs(&tensor, &at_coords, window) {
                    let here = Loc::Shared(linear, (from - u64::from(self.smem_base)) as u32);
                    let len = len as u32;
                    match (loads, global) {
                        (true, global) => {
                            moves.push(Move { from: global.map(Loc::Global), to: here, len })
                        }
                        (false, Some(address)) => {
                            moves.push(Move { from: Some(here), to: Loc::Global(address), len })
                        }
                        (false, None) => {}
                    }
                }
            }
            let mut missing = None;
            for m in &moves {
                for loc in [m.from, Some(m.to)].into_iter().flatten() {
                    if let Loc::Global(address) = loc {
                        match self.device.global.find(address, u64::from(m.len)) {
                            Ok((a, offset)) => {
                                let (op, write) =
                                    if loads { (writes, false) } else { (writes, true) };
                                let place = Place::Global(a, offset);
                                self.op_touch(
                                    warp,
                                    (pc, lane),
                                    op,
                                    place,
                                    m.len as usize,
                                    write,
                                    (0, reduce.is_some()),
                                );
                            }
                            Err(_) => missing = Some(address),
                        }
                    }
                }
            }
            if let Some(address) = missing {
                let what = self.device.global.describe(address);
                return self.stop("MEM-OOB-GLOBAL", (warp, pc, Some(lane as u32)), || {
                    format!("a box of the tensor reaches beyond its allocation: {what}")
                });
            }
            if !loads {
                let from: Vec<(Loc, u32)> =
                    moves.iter().filter_map(|m| Some((m.from?, m.len))).collect();
                if from.into_iter().any(|(loc, len)| !self.bytes_at(loc, len).1) {
                    self.error("MEM-UNINIT-SHARED", (warp, pc, Some(lane as u32)), || {
                        "a tensor store reads shared memory that was never written".into()
                    });
                }
            }
            let fill = if tensor.fill == 1 { [0xff, 0x7f] } else { [0, 0] };
            let ty = match tensor.element {
                2 | 4 => AtomType::U,
                3 | 5 => AtomType::S,
                6 => AtomType::F16,
                8 => AtomType::F64,
                9 => AtomType::Bf16,
                7 | 10..=12 => AtomType::F32,
                _ => AtomType::B,
            };
            let reduce = reduce.map(|op| (op, ty, tensor.element_bytes() as u32));
            self.bulk_bytes += u64::from(bytes) * all.len() as u64;
            self.issue(
                warp,
                lane,
                (reads, writes),
                mbars,
                Action::Copy { moves, fill, reduce, data: None },
            );
        }
    }

    /// The tensor that a map at `address` describes.
    fn tensor_of(
        &mut self,
        warp: &Warp,
        pc: u32,
        lane: usize,
        address: u64,
        rank: usize,
    ) -> Option<Tensor> {
        let place = self.place(warp, (pc, lane), Space::Generic, address, 128, 64)?;
        let mut words = [0u64; 16];
        for (i, word) in words.iter_mut().enumerate() {
            *word = self.read_place(warp, lane, place, 8 * i, 8).0;
        }
        let at = (warp, pc, Some(lane as u32));
        let Some(tensor) = Tensor::decode(&words) else {
            self.stop("TMA-DESC", at, || "not an encoded tensor map, or it was changed".into());
            return None;
        };
        if tensor.dims.len() != rank {
            self.stop("TMA-COORD", at, || {
                format!("{rank} coordinates for a tensor of rank {}", tensor.dims.len())
            });
            return None;
        }
        if !self.device.is_valid(tensor.address, 1) {
            self.stop("MEM-FREED", at, || "the tensor's memory is no live allocation".into());
            return None;
        }
        Some(tensor)
    }
}

/// Runs of a box: global address (none outside the tensor), shared address with the swizzle, bytes.
fn box_runs(t: &Tensor, coords: &[i64], shared: u64) -> Vec<(Option<u64>, u64, u64)> {
    let e = t.element_bytes();
    let extent: Vec<u64> =
        t.boxes.iter().zip(&t.element_strides).map(|(b, s)| u64::from(b.div_ceil(*s))).collect();
    let m = [0u64, 1, 3, 7][t.swizzle as usize];
    let swizzled = |address: u64| address ^ (address >> 7 & m) << 4;
    let rows: u64 = extent[1..].iter().product();
    let mut runs = Vec::new();
    for row in 0..rows {
        let (mut rest, mut outside, mut global) = (row, false, t.address);
        for d in 1..extent.len() {
            let i = coords[d] + (rest % extent[d] * u64::from(t.element_strides[d])) as i64;
            rest /= extent[d];
            outside |= i < 0 || i as u64 >= t.dims[d];
            global = global.wrapping_add((i as u64).wrapping_mul(t.strides[d - 1]));
        }
        let base = shared + row * extent[0] * e;
        let step = if t.interleave == 0 { 1 } else { u64::from(t.element_strides[0]) };
        let mut i = 0;
        while i < extent[0] {
            let x = coords[0] + (i * step) as i64;
            let inside = |x: i64| !outside && x >= 0 && (x as u64) < t.dims[0];
            // As many elements as stay in one 16-byte unit and on one side of the tensor's edge.
            let unit = (16 - (base + i * e) % 16) / e;
            let mut n = 1;
            while n < unit && i + n < extent[0] && step == 1 && inside(x + n as i64) == inside(x) {
                n += 1;
            }
            let from = inside(x).then(|| global.wrapping_add(x as u64 * e));
            runs.push((from, swizzled(base + i * e), n * e));
            i += n;
        }
    }
    runs
}
