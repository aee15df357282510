//! Tensor copies: boxes of a tensor that a map describes.

use super::bulk::{Action, Loc, Move, OpKind};
use super::{Op90, Tensor};
use crate::machine::{Machine, Place, lanes};
use crate::op::{AtomType, Space};
use crate::warp::Warp;

impl Machine<'_> {
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
