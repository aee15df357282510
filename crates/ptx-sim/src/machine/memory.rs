//! Loads, stores, atomics.

use super::Machine;
use super::access::{Place, What, strength};
use super::exec::lanes;
use crate::count;
use crate::num;
use crate::op::{AtomOp, AtomType, Dst, Inst, Op, Order};
use crate::shadow::Strong;
use crate::warp::Warp;

/// The location of a strong access.
fn key(machine: &Machine<'_>, place: Place) -> (u64, u64) {
    match place {
        Place::Global(a, at) => (a as u64, at as u64),
        Place::Shared(slot, at) => (1 << 63 | u64::from(machine.ctas[slot].linear), at as u64),
        Place::Local(at) | Place::Param(at) => (u64::MAX, at as u64),
    }
}

impl Machine<'_> {
    /// Counts wavefronts or sectors of one warp access.
    pub(crate) fn count_access(
        &mut self,
        pc: u32,
        places: &[Option<Place>; 32],
        bytes: u32,
        write: bool,
    ) {
        let phase = match bytes {
            0..=4 => 32,
            8 => 16,
            _ => 8,
        };
        let mut counts = self.counts[pc as usize];
        for lanes in places.chunks(phase) {
            self.words.clear();
            self.sectors.clear();
            let mut unique = 0u64;
            let mut last = (usize::MAX, usize::MAX);
            for place in lanes.iter().flatten() {
                match *place {
                    Place::Shared(_, at) => {
                        let words = (at / 4) as u32..=((at + bytes as usize - 1) / 4) as u32;
                        self.words.extend(words);
                    }
                    Place::Global(a, at) => {
                        let base = self.device.global.allocations[a].base + at as u64;
                        let sectors = base / 32..=(base + u64::from(bytes) - 1) / 32;
                        self.sectors.extend(sectors);
                        if last != (a, at) {
                            unique += u64::from(bytes);
                        }
                        last = (a, at);
                    }
                    _ => {}
                }
            }
            if !self.words.is_empty() {
                let (n, ideal) = count::wavefronts(&mut self.words);
                counts.shared_wavefronts += n;
                counts.shared_ideal += ideal;
            }
            if !self.sectors.is_empty() {
                if !self.sectors.is_sorted() {
                    self.sectors.sort_unstable();
                }
                self.sectors.dedup();
                let n = self.sectors.len() as u64;
                // Lanes that share an address cost nothing; more precise than the sum of bytes only
                // where lanes overlap in part.
                counts.global_sectors_ideal += unique.div_ceil(32).min(n);
                if write {
                    counts.global_sectors_store += n;
                    counts.global_store_bytes += unique;
                } else {
                    counts.global_sectors_load += n;
                    counts.global_load_bytes += unique;
                }
            }
        }
        self.counts[pc as usize] = counts;
    }

    pub(super) fn load(
        &mut self,
        warp: &mut Warp,
        pc: u32,
        exec: u32,
        inst: &Inst,
        _taint: (u32, u32),
    ) {
        let Op::Ld { mem, bytes, sext, dst, order, nc } = &inst.op else { return };
        let Some(addresses) = self.addresses(warp, pc, exec, mem) else { return };
        let each = u32::from(*bytes);
        let len = each * dst.len() as u32;
        let mut places = [None; 32];
        for lane in lanes(exec) {
            let Some(place) = self.place(warp, (pc, lane), mem.space, addresses[lane], len, len)
            else {
                return;
            };
            places[lane] = Some(place);
        }
        self.count_access(pc, &places, len, false);
        let mut undefined = [0u32; 8];
        for lane in lanes(exec) {
            let Some(place) = places[lane] else { continue };
            if order.strong {
                self.strong_read(warp, lane, place, order);
            }
            let what = What {
                pc,
                lane,
                write: false,
                strong: strength(order),
                same_value: false,
                copy: false,
            };
            self.touch(warp, place, len as usize, what);
            if *nc {
                self.check_nc(warp, pc, lane, place, len);
            }
            for (i, d) in dst.iter().enumerate() {
                let at = i * each as usize;
                let (mut value, defined) = self.read_place(warp, lane, place, at, each as usize);
                if *sext {
                    let shift = 64 - 8 * each;
                    value = ((value << shift) as i64 >> shift) as u64;
                    if matches!(d, Dst::R32(_)) {
                        value &= 0xffff_ffff;
                    }
                }
                undefined[i] |= u32::from(!defined) << lane;
                warp.set_lane(*d, lane, value);
            }
        }
        for (i, d) in dst.iter().enumerate() {
            warp.mark(*d, exec, undefined[i], pc);
        }
    }

    pub(crate) fn read_place(
        &self,
        warp: &Warp,
        lane: usize,
        place: Place,
        at: usize,
        n: usize,
    ) -> (u64, bool) {
        match place {
            Place::Global(a, offset) => {
                let bytes = &self.device.global.allocations[a].bytes;
                (bytes.word(offset + at, n), bytes.is_defined(offset + at, n))
            }
            Place::Shared(slot, offset) => {
                let bytes = &self.ctas[slot].shared;
                (bytes.word(offset + at, n), bytes.is_defined(offset + at, n))
            }
            Place::Local(offset) => {
                let from = lane * self.program.local_bytes as usize + offset + at;
                let mut word = [0; 8];
                word[..n].copy_from_slice(&warp.local[from..from + n]);
                (u64::from_le_bytes(word), warp.local_defined[from..from + n].iter().all(|d| *d))
            }
            Place::Param(offset) => {
                let mut word = [0; 8];
                word[..n].copy_from_slice(&self.params[offset + at..offset + at + n]);
                (u64::from_le_bytes(word), true)
            }
        }
    }

    /// `ld.global.nc` promises that the grid does not write what it reads.
    fn check_nc(&mut self, warp: &Warp, pc: u32, lane: usize, place: Place, len: u32) {
        if let Place::Global(a, at) = place {
            let shadow = &self.device.global.allocations[a].shadow;
            if let Some((actor, from)) = shadow.writer(at, len as usize) {
                let other = self.site_of(actor, from, crate::shadow::SEVERAL);
                self.report(
                    "MEM-NC",
                    crate::diag::Severity::Error,
                    (warp, pc, Some(lane as u32)),
                    Some((other, from)),
                    || "ld.global.nc reads what this grid writes".into(),
                );
            }
        }
    }

    pub(super) fn store(
        &mut self,
        warp: &mut Warp,
        pc: u32,
        exec: u32,
        inst: &Inst,
        _taint: (u32, u32),
    ) {
        let Op::St { mem, bytes, src, order } = &inst.op else { return };
        let Some(addresses) = self.addresses(warp, pc, exec, mem) else { return };
        let each = usize::from(*bytes);
        let len = (each * src.len()) as u32;
        let mut places = [None; 32];
        for lane in lanes(exec) {
            let Some(place) = self.place(warp, (pc, lane), mem.space, addresses[lane], len, len)
            else {
                return;
            };
            places[lane] = Some(place);
        }
        self.count_access(pc, &places, len, true);
        let meta = |warp: &Warp, src| match src {
            crate::op::Src::R32(r) => warp.meta[r as usize],
            crate::op::Src::R64(r) => warp.meta[warp.r32.len() + r as usize],
            _ => Default::default(),
        };
        let tainted = src.iter().any(|s| meta(warp, *s).undefined & exec != 0);
        for lane in lanes(exec) {
            let Some(place) = places[lane] else { continue };
            let mut data = [0u8; 16];
            let mut undefined = [false; 16];
            for (i, s) in src.iter().enumerate() {
                let value = self.lane64(warp, *s, lane);
                data[i * each..(i + 1) * each].copy_from_slice(&value.to_le_bytes()[..each]);
                if tainted && meta(warp, *s).undefined >> lane & 1 == 1 {
                    undefined[i * each..(i + 1) * each].fill(true);
                    if let Place::Global(..) = place {
                        let origin = meta(warp, *s).origin;
                        self.undefined(
                            warp,
                            pc,
                            1 << lane,
                            origin,
                            "a value stored to global memory is",
                        );
                    }
                }
            }
            if order.strong {
                self.strong_write(warp, lane, place, order);
            }
            let same = self.holds(place, &data[..len as usize]);
            let what = What {
                pc,
                lane,
                write: true,
                strong: strength(order),
                same_value: same,
                copy: false,
            };
            self.touch(warp, place, len as usize, what);
            self.write_place(
                warp,
                (pc, lane),
                place,
                &data[..len as usize],
                &undefined[..len as usize],
            );
        }
    }

    fn holds(&self, place: Place, data: &[u8]) -> bool {
        match place {
            Place::Global(a, at) => {
                self.device.global.allocations[a].bytes.data[at..].starts_with(data)
            }
            Place::Shared(slot, at) => self.ctas[slot].shared.data[at..].starts_with(data),
            _ => true,
        }
    }

    pub(crate) fn write_place(
        &mut self,
        warp: &mut Warp,
        (pc, lane): (u32, usize),
        place: Place,
        data: &[u8],
        undefined: &[bool],
    ) {
        let none = !undefined.iter().any(|u| *u);
        match place {
            Place::Global(a, at) => {
                let a = &mut self.device.global.allocations[a];
                a.bytes.write(at, data);
                if a.read_only {
                    let name = a.name.clone();
                    self.error("MEM-READONLY", (warp, pc, Some(lane as u32)), || {
                        format!("a store to {name}, which is an input")
                    });
                }
            }
            Place::Shared(slot, at) => {
                let shared = &mut self.ctas[slot].shared;
                shared.write(at, data);
                if !none {
                    for (i, u) in undefined.iter().enumerate() {
                        shared.define(at + i, 1, !u);
                    }
                }
            }
            Place::Local(at) => {
                let from = lane * self.program.local_bytes as usize + at;
                warp.local[from..from + data.len()].copy_from_slice(data);
                for (i, u) in undefined.iter().enumerate() {
                    warp.local_defined[from + i] = !u;
                }
            }
            Place::Param(_) => self.stop("MEM-SPACE", (warp, pc, Some(lane as u32)), || {
                "a store to the parameters".into()
            }),
        }
    }

    fn strong_read(&mut self, warp: &mut Warp, lane: usize, place: Place, order: &Order) {
        {
            let at = key(self, place);
            self.subscribe(warp, lane, at)
        };
        if order.acquire {
            self.acquire(warp, lane, order.scope);
        }
    }

    fn strong_write(&mut self, warp: &mut Warp, lane: usize, place: Place, order: &Order) {
        if order.release {
            self.fence(warp, 1 << lane, order.scope);
        }
        {
            let at = key(self, place);
            self.publish(warp, lane, at)
        };
    }

    pub(super) fn atomic(
        &mut self,
        warp: &mut Warp,
        pc: u32,
        exec: u32,
        inst: &Inst,
        taint: (u32, u32),
    ) {
        let Op::Atom { mem, op, ty, bytes, dst, src, compare, order, returns } = &inst.op else {
            return;
        };
        if taint.0 != 0 {
            self.undefined(warp, pc, taint.0, taint.1, "an operand of an atomic is");
        }
        let Some(addresses) = self.addresses(warp, pc, exec, mem) else { return };
        let each = usize::from(*bytes);
        let len = (each * src.len()) as u32;
        let align = if src.len() > 1 { len } else { u32::from(*bytes) };
        let mut places = [None; 32];
        for lane in lanes(exec) {
            let Some(place) = self.place(warp, (pc, lane), mem.space, addresses[lane], len, align)
            else {
                return;
            };
            places[lane] = Some(place);
        }
        self.count_access(pc, &places, len, true);
        let values: Vec<[u64; 32]> = src.iter().map(|s| self.value64(warp, *s)).collect();
        let compare = compare.map(|c| self.value64(warp, c));
        let mut undefined = 0;
        for lane in lanes(exec) {
            let Some(place) = places[lane] else { continue };
            if order.release {
                self.release_at(warp, lane, order.scope);
            }
            // `red` never takes part in acquiring.
            if *returns {
                {
                    let at = key(self, place);
                    self.subscribe(warp, lane, at)
                };
            }
            {
                let at = key(self, place);
                self.publish(warp, lane, at)
            };
            if order.acquire && *returns {
                self.acquire(warp, lane, order.scope);
            }
            let strong = if strength(order) == Strong::No { Strong::Gpu } else { strength(order) };
            let what = What { pc, lane, write: true, strong, same_value: true, copy: false };
            self.touch(warp, place, len as usize, what);
            let shared = matches!(place, Place::Shared(..));
            for (i, value) in values.iter().enumerate() {
                let (old, defined) = self.read_place(warp, lane, place, i * each, each);
                undefined |= u32::from(!defined) << lane;
                let new = apply(
                    *op,
                    *ty,
                    8 * each as u32,
                    old,
                    value[lane],
                    compare.map(|c| c[lane]),
                    shared,
                );
                let part = match place {
                    Place::Global(a, at) => Place::Global(a, at + i * each),
                    Place::Shared(slot, at) => Place::Shared(slot, at + i * each),
                    other => other,
                };
                self.write_place(
                    warp,
                    (pc, lane),
                    part,
                    &new.to_le_bytes()[..each],
                    &vec![!defined; each],
                );
                if let Some(d) = dst.get(i) {
                    warp.set_lane(*d, lane, old);
                }
            }
        }
        if undefined != 0 {
            self.undefined(warp, pc, undefined, pc, "the memory that an atomic changes is");
        }
        for d in dst {
            warp.mark(*d, exec, undefined, pc);
        }
    }
}

/// One atomic read-modify-write. Global `add.f32` flushes subnormals, shared does not.
pub(crate) fn apply(
    op: AtomOp,
    ty: AtomType,
    bits: u32,
    old: u64,
    value: u64,
    compare: Option<u64>,
    shared: bool,
) -> u64 {
    let mask = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
    let signed = |v: u64| ((v << (64 - bits)) as i64) >> (64 - bits);
    let near = num::Round::Near;
    let new = match (op, ty) {
        (AtomOp::Add, AtomType::F32) => num::add(&num::F32, old, value, near, !shared),
        (AtomOp::Add, AtomType::F64) => num::add(&num::F64, old, value, near, false),
        (AtomOp::Add, AtomType::F16) => num::add(&num::F16, old, value, near, false),
        (AtomOp::Add, AtomType::Bf16) => num::add(&num::BF16, old, value, near, false),
        (AtomOp::Add, AtomType::F16x2 | AtomType::Bf16x2) => {
            let f = if ty == AtomType::F16x2 { &num::F16 } else { &num::BF16 };
            let half = |shift: u32| {
                num::add(f, old >> shift & 0xffff, value >> shift & 0xffff, near, false)
            };
            half(0) | half(16) << 16
        }
        (AtomOp::Add, _) => old.wrapping_add(value),
        (AtomOp::Min, AtomType::S) => {
            if signed(old) < signed(value) {
                old
            } else {
                value
            }
        }
        (AtomOp::Max, AtomType::S) => {
            if signed(old) > signed(value) {
                old
            } else {
                value
            }
        }
        (AtomOp::Min, _) => old.min(value),
        (AtomOp::Max, _) => old.max(value),
        (AtomOp::Inc, _) => {
            if old >= value {
                0
            } else {
                old + 1
            }
        }
        (AtomOp::Dec, _) => {
            if old == 0 || old > value {
                value
            } else {
                old - 1
            }
        }
        (AtomOp::And, _) => old & value,
        (AtomOp::Or, _) => old | value,
        (AtomOp::Xor, _) => old ^ value,
        (AtomOp::Exch, _) => value,
        (AtomOp::Cas, _) => {
            if compare == Some(old) {
                value
            } else {
                old
            }
        }
    };
    new & mask
}
