//! Addresses, and whether accesses are allowed and ordered.

use super::Machine;
use crate::clock::{self, Actor, Clock};
use crate::device::Fault;
use crate::diag::Severity;
use crate::op::{Mem, Order, Scope, Space};
use crate::shadow::{self, Access, Conflict, Known, Strong};
use crate::warp::{Fences, Warp};

/// Where bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Allocation and offset.
    Global(usize, usize),
    /// Slot of the block and offset in its shared memory.
    Shared(usize, usize),
    /// Offset in the lane's local memory.
    Local(usize),
    Param(usize),
}

/// What an access is, apart from its place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct What {
    pub(crate) pc: u32,
    pub(crate) lane: usize,
    pub(crate) write: bool,
    pub(crate) strong: Strong,
    pub(crate) same_value: bool,
    /// By a `cp.async`.
    pub(crate) copy: bool,
}

pub(crate) fn strength(order: &Order) -> Strong {
    match (order.strong, order.scope) {
        (false, _) => Strong::No,
        (true, Scope::Cta) => Strong::Cta,
        (true, _) => Strong::Gpu,
    }
}

impl Machine<'_> {
    /// Addresses of a memory operand; stops the launch if one is undefined.
    pub(crate) fn addresses(
        &mut self,
        warp: &Warp,
        pc: u32,
        exec: u32,
        mem: &Mem,
    ) -> Option<[u64; 32]> {
        let meta = match mem.base {
            crate::op::Src::R32(r) => warp.meta[r as usize],
            crate::op::Src::R64(r) => warp.meta[warp.r32.len() + r as usize],
            _ => Default::default(),
        };
        if meta.undefined & exec != 0 {
            self.undefined(warp, pc, meta.undefined & exec, meta.origin, "an address is");
            self.fatal = true;
            return None;
        }
        let narrow = matches!(mem.space, Space::Shared | Space::Cluster);
        let base = self.value64(warp, mem.base);
        Some(base.map(|b| {
            let address = b.wrapping_add(mem.offset as u64);
            if narrow && b >> 32 == 0 { address & 0xffff_ffff } else { address }
        }))
    }

    /// Resolves an address; none after a report that stops the launch.
    pub(crate) fn place(
        &mut self,
        warp: &Warp,
        (pc, lane): (u32, usize),
        space: Space,
        address: u64,
        len: u32,
        align: u32,
    ) -> Option<Place> {
        let at = (warp, pc, Some(lane as u32));
        if !address.is_multiple_of(u64::from(align)) {
            self.stop("MEM-MISALIGNED", at, || {
                format!("address {address:#x} is not a multiple of {align}")
            });
            return None;
        }
        let (space, address) = match space {
            Space::Generic => {
                let found = Self::space_of(address);
                (found, Self::from_generic(found, address))
            }
            space => (space, address),
        };
        let fits = |at: u64, bytes: usize| {
            at.checked_add(u64::from(len)).is_some_and(|end| end <= bytes as u64)
        };
        match space {
            Space::Global | Space::Generic => {
                match self.device.global.find(address, u64::from(len)) {
                    Ok((a, offset)) => return Some(Place::Global(a, offset)),
                    Err(fault) => {
                        let code = match fault {
                            Fault::Freed => "MEM-FREED",
                            Fault::OutOfBounds if address < 1 << 32 => "MEM-SPACE",
                            Fault::OutOfBounds => "MEM-OOB-GLOBAL",
                        };
                        let what = self.device.global.describe(address);
                        self.stop(code, at, || format!("{len} bytes: {what}"));
                    }
                }
            }
            Space::Shared | Space::Cluster => {
                let own = self.ctas[warp.slot].rank;
                let rank = (address >> 24) as u32;
                let first = warp.slot - own as usize;
                if address >> 32 != 0 {
                    self.stop("MEM-SPACE", at, || {
                        format!("{address:#x} is no address of shared memory")
                    });
                } else if rank >= self.cluster_size {
                    let code =
                        if self.cluster_size > 1 { "CLUSTER-RANK" } else { "MEM-OOB-SHARED" };
                    let size = self.cluster_size;
                    self.stop(code, at, || {
                        format!("{address:#x} is in block {rank} of a cluster of {size}")
                    });
                } else if rank != own && space == Space::Shared {
                    self.stop("MEM-SPACE", at, || {
                        format!("{address:#x} is in the window of block {rank}, not in the own one")
                    });
                } else {
                    if rank != own {
                        if warp.hopper.phases == 0 {
                            self.error("CLUSTER-PEER-NOT-STARTED", at, || {
                                "a peer's shared memory before a cluster barrier: it may not have started".into()
                            });
                        }
                        self.hopper.remote.insert(warp.number, warp.hopper.phases);
                    }
                    let offset = (address & 0xff_ffff).wrapping_sub(u64::from(self.smem_base));
                    if offset < 1 << 24 && fits(offset, self.smem_bytes as usize) {
                        return Some(Place::Shared(first + rank as usize, offset as usize));
                    }
                    let bytes = self.smem_bytes;
                    self.stop("MEM-OOB-SHARED", at, || {
                        format!(
                            "{len} bytes at offset {:#x} of {bytes} bytes of shared memory",
                            offset as i32
                        )
                    });
                }
            }
            Space::Local => {
                if fits(address, self.program.local_bytes as usize) {
                    return Some(Place::Local(address as usize));
                }
                self.stop("MEM-OOB-LOCAL", at, || {
                    format!("{len} bytes at {address:#x} of local memory")
                });
            }
            Space::Param => {
                if fits(address, self.params.len()) {
                    return Some(Place::Param(address as usize));
                }
                self.stop("MEM-OOB-PARAM", at, || {
                    format!("{len} bytes at {address:#x} of the parameters")
                });
            }
        }
        None
    }

    /// Checks order against earlier accesses and records this one.
    pub(crate) fn touch(&mut self, warp: &Warp, place: Place, len: usize, what: What) {
        if let Place::Global(a, _) = place
            && !what.write
            && self.device.global.allocations[a].read_only
        {
            // Nothing may write it, so nothing races with reads.
            return;
        }
        let (access, known) = self.access(warp, what);
        let (conflict, shared) = match place {
            Place::Global(a, at) => {
                let shadow = &mut self.device.global.allocations[a].shadow;
                (shadow.access(at, len, &access, &known), false)
            }
            Place::Shared(slot, at) => {
                (self.ctas[slot].shadow.access(at, len, &access, &known), true)
            }
            _ => return,
        };
        if let Some(conflict) = conflict {
            self.conflict(
                warp,
                (what.pc, what.lane),
                what.write,
                what.copy,
                shared,
                place,
                conflict,
            );
        }
    }

    /// Rows of matrices: 16 bytes of shared memory each, row r's words by lanes 4 (r % 8) to 4 (r % 8) + 3.
    pub(super) fn touch_rows(&mut self, warp: &Warp, pc: u32, offsets: &[usize], write: bool) {
        let slot = warp.slot;
        let what = What { pc, lane: 0, write, strong: Strong::No, same_value: false, copy: false };
        let alike =
            |lane: usize| warp.sync[lane] == warp.sync[0] && warp.retired[lane] == warp.retired[0];
        if warp.overlays || !(1..32).all(alike) {
            for (r, at) in offsets.iter().enumerate() {
                for word in 0..4 {
                    let what = What { lane: 4 * (r % 8) + word, ..what };
                    self.touch(warp, Place::Shared(slot, at + 4 * word), 4, what);
                }
            }
            return;
        }
        let (access, known) = self.access(warp, what);
        for (r, &at) in offsets.iter().enumerate() {
            let lane = 4 * (r % 8) as u8;
            let shadow = &mut self.ctas[slot].shadow;
            let conflict =
                shadow.access_row(at, &Access { lane, ..access }, &Known { lane, ..known });
            if let Some(conflict) = conflict {
                let place = Place::Shared(slot, at);
                self.conflict(warp, (pc, lane as usize), write, false, true, place, conflict);
            }
        }
    }

    fn access<'w>(&self, warp: &'w Warp, what: What) -> (Access, Known<'w>) {
        let actor =
            if what.copy { clock::copies(warp.number) } else { clock::generic(warp.number) };
        let access = Access {
            actor,
            clock: warp.clock,
            pc: what.pc,
            lane: what.lane as u8,
            write: what.write,
            strong: what.strong,
            swizzle: 0,
            same_value: what.same_value,
        };
        let known = Known {
            clock: &warp.g,
            overlay: warp.over[what.lane].as_ref().map(|o| &o.0),
            after_reads: None,
            generic: clock::generic(warp.number),
            copies: clock::copies(warp.number),
            lane: what.lane as u8,
            retired: warp.retired[what.lane],
            sync: warp.sync[what.lane],
            warps_per_cta: self.warps_per_cta,
            proxy: false,
        };
        (access, known)
    }

    /// Reports a conflict under the name of its rule.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn conflict(
        &mut self,
        warp: &Warp,
        (pc, lane): (u32, usize),
        write: bool,
        asynchronous: bool,
        shared: bool,
        place: Place,
        c: Conflict,
    ) {
        let other_async = clock::is_async(c.actor);
        let race = if shared { "RACE-SHARED" } else { "RACE-GLOBAL" };
        let early =
            if clock::is_copy(c.actor) { "ASYNC-CPASYNC-EARLY" } else { "ASYNC-BULK-EARLY" };
        let code = match (c.kind, c.wrote) {
            (shadow::Order::Warp, _) => "RACE-WARP",
            (shadow::Order::Proxy, true) if c.actor & clock::OPERATION == 0 => "RACE-PROXY",
            (_, true) if other_async && asynchronous && write => "ASYNC-WW",
            (_, true) if other_async => early,
            (_, true) => race,
            (_, false) if self.is_store(c.actor) && !asynchronous => "ASYNC-SRC-REUSE",
            (_, false) if asynchronous || other_async => "ASYNC-WAR",
            (_, false) => race,
        };
        let verb = |wrote| if wrote { "writes" } else { "reads" };
        let where_ = match place {
            Place::Global(a, at) => {
                let a = &self.device.global.allocations[a];
                format!(
                    "byte {at} of {}",
                    if a.name.is_empty() { "an allocation" } else { &a.name }
                )
            }
            Place::Shared(_, at) => format!("shared memory at {at:#x}"),
            _ => String::new(),
        };
        let what = match c.kind {
            shadow::Order::Warp => "by another lane of the warp without bar.warp.sync between",
            shadow::Order::Proxy => "through the generic proxy without fence.proxy.async between",
            _ if other_async => "by an asynchronous operation that is not known to be complete",
            _ => "by a warp that nothing orders before this",
        };
        let other = self.site_of(c.actor, c.pc, c.lane);
        self.report(
            code,
            Severity::Error,
            (warp, pc, Some(lane as u32)),
            Some((other, c.pc)),
            || {
                format!(
                    "{} {where_}, which is {} {what}",
                    verb(write),
                    if c.wrote { "written" } else { "read" }
                )
            },
        );
    }

    pub(crate) fn uninitialised(&mut self, warp: &Warp, pc: u32, lanes: u32, register: u32) {
        let name = self.program.names[register as usize].clone();
        self.error("REG-UNINIT", (warp, pc, Some(lanes.trailing_zeros())), || {
            format!("{name} is read and was never written")
        });
    }

    /// Reports a value that is undefined and matters, under the name of where it came from.
    pub(crate) fn undefined(&mut self, warp: &Warp, pc: u32, lanes: u32, origin: u32, what: &str) {
        let space = match &self.program.code[origin as usize].op {
            crate::op::Op::Ld { mem, .. } | crate::op::Op::Atom { mem, .. } => mem.space,
            crate::op::Op::Ldmatrix { .. } => Space::Shared,
            _ => Space::Param,
        };
        let code = match space {
            Space::Global | Space::Generic => "MEM-UNINIT-GLOBAL",
            Space::Shared | Space::Cluster => "MEM-UNINIT-SHARED",
            Space::Local => "MEM-UNINIT-LOCAL",
            Space::Param => "REG-UNDEFINED",
        };
        let other = self.site(origin, Some(warp), None);
        self.report(
            code,
            Severity::Error,
            (warp, pc, Some(lanes.trailing_zeros())),
            Some((other, origin)),
            || format!("{what} undefined: it comes from memory that was never written"),
        );
    }

    /// `.aligned` instructions need every live lane.
    pub(crate) fn converged(&mut self, warp: &Warp, pc: u32, exec: u32) -> bool {
        let live = warp.live();
        if exec != live || live != u32::MAX {
            self.stop("WARP-DIVERGED", (warp, pc, None), || {
                format!("lanes {exec:#010x} execute it, all 32 must; live are {live:#010x}")
            });
            return false;
        }
        true
    }

    // ---- fences and strong accesses ----------------------------------------------------------------

    pub(crate) fn fence(&mut self, warp: &mut Warp, exec: u32, scope: Scope) {
        for lane in super::exec::lanes(exec) {
            self.acquire(warp, lane, scope);
            self.release_at(warp, lane, scope);
        }
    }

    /// What the lane's later strong writes publish is what is known now.
    pub(crate) fn release_at(&mut self, warp: &mut Warp, lane: usize, scope: Scope) {
        let clock = warp.published_by(lane);
        warp.fences[lane].get_or_insert_with(Box::<Fences>::default).released.insert(scope, clock);
    }

    /// The lane learns what its earlier strong reads saw, as far as the scope spans it.
    pub(crate) fn acquire(&mut self, warp: &mut Warp, lane: usize, scope: Scope) {
        let Some(fences) = &warp.fences[lane] else { return };
        let mut gained = Clock::default();
        for (s, clock) in &fences.pending {
            if *s <= scope {
                gained.join(clock);
            }
        }
        if !gained.is_empty() {
            warp.learn(1 << lane, &gained, None);
        }
    }

    /// Before a strong write: what the fence before it publishes at this location.
    pub(crate) fn publish(&mut self, warp: &Warp, lane: usize, key: (u64, u64)) {
        let Some(fences) = &warp.fences[lane] else { return };
        let cta = self.ctas[warp.slot].linear;
        let list = self.published.entry(key).or_default();
        for (scope, clock) in &fences.released {
            match list.iter_mut().find(|(s, c, _)| s == scope && *c == cta) {
                Some((_, _, known)) => known.join(clock),
                None => list.push((*scope, cta, clock.clone())),
            }
        }
    }

    /// After a strong read: what an acquire will learn.
    pub(crate) fn subscribe(&mut self, warp: &mut Warp, lane: usize, key: (u64, u64)) {
        let Some(list) = self.published.get(&key) else { return };
        let cta = self.ctas[warp.slot].linear;
        let mine = cta / self.cluster_size;
        for (scope, from, clock) in list {
            // A release reaches only parties within its scope; which scope an acquire needs
            // follows from where the releasing block is.
            let needs = match from {
                from if *from == cta => Scope::Cta,
                from if *from / self.cluster_size == mine => Scope::Cluster,
                _ => Scope::Gpu,
            };
            if *scope >= needs {
                let fences = warp.fences[lane].get_or_insert_with(Box::<Fences>::default);
                fences.pending.entry(needs).or_default().join(clock);
            }
        }
    }

    /// A bulk copy out of shared memory.
    fn is_store(&self, actor: Actor) -> bool {
        let index = (actor & !clock::OPERATION) as usize;
        actor & clock::OPERATION != 0
            && self.hopper.kinds.get(index) == Some(&crate::hopper::OpKind::Store)
    }
}
