//! `cp.async`: copies of the generic proxy that land when they are waited for.

use super::Machine;
use super::access::{Place, What};
use super::exec::lanes;
use crate::op::{Inst, Op};
use crate::options::Completion;
use crate::shadow::Strong;
use crate::warp::{Copy, Warp};

impl Machine<'_> {
    pub(super) fn copy_async(
        &mut self,
        warp: &mut Warp,
        pc: u32,
        exec: u32,
        inst: &Inst,
        taint: (u32, u32),
    ) {
        let Op::CpAsync { dst, src, bytes, src_bytes, ignore } = &inst.op else { return };
        if taint.0 != 0 {
            self.undefined(warp, pc, taint.0, taint.1, "an operand of a copy is");
        }
        let Some(to) = self.addresses(warp, pc, exec, dst) else { return };
        let Some(from) = self.addresses(warp, pc, exec, src) else { return };
        let sizes = src_bytes.map_or([*bytes; 32], |s| self.value32(warp, s));
        let ignored = ignore.map_or(0, |p| warp.pred(p));
        let (mut reads, mut writes) = ([None; 32], [None; 32]);
        let mut takes = [0u32; 32];
        for lane in lanes(exec) {
            let n = if ignored >> lane & 1 == 1 { 0 } else { sizes[lane] };
            if n > *bytes {
                return self.stop("ASYNC-SRC-SIZE", (warp, pc, Some(lane as u32)), || {
                    format!("src-size {n} exceeds the {bytes} bytes of the copy")
                });
            }
            takes[lane] = n;
            let Some(place) = self.place(warp, (pc, lane), dst.space, to[lane], *bytes, *bytes)
            else {
                return;
            };
            writes[lane] = Some(place);
            if n > 0 {
                let place = self.place(warp, (pc, lane), src.space, from[lane], n, *bytes);
                let Some(place) = place else { return };
                reads[lane] = Some(place);
            }
        }
        self.count_access(pc, &writes, *bytes, true);
        self.count_access(pc, &reads, *bytes, false);
        for lane in lanes(exec) {
            let what =
                What { pc, lane, write: false, strong: Strong::No, same_value: false, copy: true };
            if let Some(place) = reads[lane] {
                self.touch(warp, place, takes[lane] as usize, what);
            }
            let Some(Place::Shared(_, at)) = writes[lane] else { continue };
            self.touch(
                warp,
                Place::Shared(warp.slot, at),
                *bytes as usize,
                What { write: true, ..what },
            );
            let mut copy = Copy {
                lane: lane as u8,
                group: warp.committed[lane],
                clock: warp.clock,
                bytes: *bytes as u8,
                src_bytes: takes[lane] as u8,
                to: at as u32,
                from: from[lane],
                pending: None,
            };
            let mode = match self.device.options.completion {
                Completion::Random => {
                    [Completion::Eager, Completion::Late, Completion::Early][self.draw(3) as usize]
                }
                mode => mode,
            };
            match mode {
                Completion::Eager => self.land(warp.slot, &copy, None),
                Completion::Late => copy.pending = Some(Some(self.fetch(&copy))),
                _ => {
                    self.ctas[warp.slot].shared.poison(at, *bytes as usize);
                    copy.pending = Some(None);
                }
            }
            warp.copies.push(copy);
        }
    }

    /// The source's bytes as they are now, zero-filled, and whether they are defined.
    fn fetch(&mut self, copy: &Copy) -> ([u8; 16], bool) {
        let mut data = [0; 16];
        let n = copy.src_bytes as usize;
        let mut defined = true;
        if n > 0
            && let Ok((a, at)) = self.device.global.find(copy.from, n as u64)
        {
            let bytes = &self.device.global.allocations[a].bytes;
            data[..n].copy_from_slice(&bytes.data[at..at + n]);
            defined = bytes.is_defined(at, n);
        }
        (data, defined)
    }

    fn land(&mut self, slot: usize, copy: &Copy, data: Option<([u8; 16], bool)>) {
        let (data, defined) = data.unwrap_or_else(|| self.fetch(copy));
        let shared = &mut self.ctas[slot].shared;
        let (at, n) = (copy.to as usize, copy.bytes as usize);
        shared.write(at, &data[..n]);
        if !defined {
            shared.define(at, n, false);
        }
    }

    /// Retires copies of the executing lanes: all but the newest `keep` groups, or all.
    pub(super) fn wait_copies(&mut self, warp: &mut Warp, exec: u32, keep: Option<u32>) {
        let mut copies = std::mem::take(&mut warp.copies);
        copies.retain(|copy| {
            let lane = copy.lane as usize;
            let waits = exec >> lane & 1 == 1;
            // Group numbers count commits: a copy is committed if its number is below.
            let retires = waits
                && keep.is_none_or(|keep| copy.group.saturating_add(keep) < warp.committed[lane]);
            if retires && let Some(data) = copy.pending {
                self.land(warp.slot, copy, data);
            }
            !retires
        });
        let mut oldest = [u32::MAX; 32];
        for copy in &copies {
            let slot = &mut oldest[copy.lane as usize];
            *slot = (*slot).min(copy.clock);
        }
        for lane in lanes(exec) {
            warp.retired[lane] = oldest[lane].saturating_sub(1).min(warp.clock);
        }
        warp.copies = copies;
    }

    /// Lands every copy of the executing lanes.
    pub(crate) fn retire_copies(&mut self, warp: &mut Warp, exec: u32) {
        self.wait_copies(warp, exec, None);
    }

    /// At the warp's end everything lands.
    pub(super) fn finish_copies(&mut self, warp: &mut Warp) {
        for copy in std::mem::take(&mut warp.copies) {
            if let Some(data) = copy.pending {
                self.land(warp.slot, &copy, data);
            }
        }
    }
}
