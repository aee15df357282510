//! Who last wrote and read every word, and whether the next access is ordered after them.
//!
//! FastTrack's idea (Flanagan and Freund, PLDI 2009): one epoch for the last write, one for reads
//! until they are concurrent. Accesses that cover part of a word split its cell into bytes.

use crate::clock::{Actor, Clock};

/// Lane of a read by several lanes.
pub(crate) const SEVERAL: u8 = 0xff;

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Write {
    pub(crate) actor: Actor,
    pub(crate) clock: u32,
    pub(crate) pc: u32,
    pub(crate) lane: u8,
    pub(crate) strong: Strong,
    /// Swizzle mode of the tensor copy that wrote it, plus one; 0 unknown.
    pub(crate) swizzle: u8,
}

/// Whether an access is a strong operation, and up to which scope.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Strong {
    #[default]
    No,
    /// Within its block.
    Cta,
    Gpu,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Read {
    pub(crate) actor: Actor,
    pub(crate) clock: u32,
    pub(crate) pc: u32,
    pub(crate) lane: u8,
    pub(crate) strong: Strong,
}

#[derive(Debug, Clone, Copy, Default)]
struct Cell {
    write: Write,
    reads: [Read; 2],
    /// Index into `more`, plus one.
    more: u32,
    /// Index into `bytes`, plus one.
    bytes: u32,
}

const PAGE: usize = 256;

/// The cells of one memory.
#[derive(Debug, Default)]
pub(crate) struct Shadow {
    pages: Vec<Option<Box<[Cell; PAGE]>>>,
    more: Vec<Vec<Read>>,
    bytes: Vec<[Cell; 4]>,
}

/// One access to be checked and recorded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Access {
    pub(crate) actor: Actor,
    pub(crate) clock: u32,
    pub(crate) pc: u32,
    pub(crate) lane: u8,
    pub(crate) write: bool,
    pub(crate) strong: Strong,
    pub(crate) swizzle: u8,
    /// A write of the same instruction that stores the same bytes is no conflict.
    pub(crate) same_value: bool,
}

/// What the accessing lane is ordered after.
pub(crate) struct Known<'a> {
    pub(crate) clock: &'a Clock,
    pub(crate) overlay: Option<&'a Clock>,
    /// Order of writes after reads, if it differs (asynchronous proxy).
    pub(crate) after_reads: Option<&'a Clock>,
    pub(crate) generic: Actor,
    pub(crate) copies: Actor,
    pub(crate) lane: u8,
    /// Own copies up to this clock are retired.
    pub(crate) retired: u32,
    /// The lane's last barrier of the warp: clock and lanes.
    pub(crate) sync: (u32, u32),
    /// Warps of a block, to tell blocks apart.
    pub(crate) warps_per_cta: u32,
    /// The accessor is an operation of the asynchronous proxy.
    pub(crate) proxy: bool,
}

/// What an access conflicts with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Conflict {
    pub(crate) actor: Actor,
    pub(crate) clock: u32,
    pub(crate) pc: u32,
    pub(crate) lane: u8,
    /// The other party wrote.
    pub(crate) wrote: bool,
    pub(crate) kind: Order,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Ordered,
    /// Lanes of one warp without a warp barrier between.
    Warp,
    /// Ordered for generic accesses, but not for the asynchronous proxy.
    Proxy,
    Unordered,
}

impl Known<'_> {
    fn order(&self, actor: Actor, clock: u32, lane: u8) -> Order {
        if actor == 0 {
            return Order::Ordered;
        }
        if self.proxy {
            return match self.clock.get(actor) >= clock {
                true => Order::Ordered,
                false
                    if actor == self.generic
                        || self.after_reads.is_some_and(|g| g.get(actor) >= clock) =>
                {
                    Order::Proxy
                }
                false => Order::Unordered,
            };
        }
        if actor == self.generic {
            let (at, lanes) = self.sync;
            let together = match lane {
                SEVERAL => lanes == u32::MAX,
                lane => lanes >> lane & 1 == 1,
            };
            return if lane == self.lane || (clock <= at && together) {
                Order::Ordered
            } else {
                Order::Warp
            };
        }
        let retired = actor == self.copies && lane == self.lane && self.retired >= clock;
        let known = retired
            || self.clock.get(actor) >= clock
            || self.overlay.is_some_and(|o| o.get(actor) >= clock);
        if known { Order::Ordered } else { Order::Unordered }
    }

    fn order_after_read(&self, read: &Read) -> Order {
        match (self.proxy, self.after_reads) {
            (true, Some(clock)) => {
                if read.actor == self.generic || clock.get(read.actor) >= read.clock {
                    Order::Ordered
                } else {
                    Order::Unordered
                }
            }
            _ => self.order(read.actor, read.clock, read.lane),
        }
    }

    /// Two strong accesses whose scopes include each other do not race.
    fn mutual(&self, a: Strong, b: Strong, other: Actor) -> bool {
        match (a, b) {
            (Strong::No, _) | (_, Strong::No) => false,
            (Strong::Gpu, Strong::Gpu) => true,
            _ => {
                let cta = |actor: Actor| crate::clock::warp_of(actor) / self.warps_per_cta;
                other & crate::clock::OPERATION == 0 && cta(other) == cta(self.generic)
            }
        }
    }
}

impl Shadow {
    pub(crate) fn new(words: usize) -> Self {
        Shadow { pages: vec![None; words.div_ceil(PAGE)], ..Shadow::default() }
    }

    pub(crate) fn clear(&mut self) {
        self.pages.iter_mut().for_each(|page| *page = None);
        self.more.clear();
        self.bytes.clear();
    }

    /// Checks and records an access to bytes `at..at + len`; the first conflict found.
    pub(crate) fn access(
        &mut self,
        at: usize,
        len: usize,
        access: &Access,
        known: &Known<'_>,
    ) -> Option<Conflict> {
        let mut found = None;
        let mut byte = at;
        while byte < at + len {
            let word = byte / 4;
            let end = (at + len).min(word * 4 + 4);
            let mask = ((1u8 << (end - word * 4)) - 1) & !((1u8 << (byte - word * 4)) - 1);
            let conflict = self.word(word, mask, access, known);
            found = found.or(conflict);
            byte = end;
        }
        found
    }

    /// The swizzle tag of a word, and whether anyone wrote it.
    pub(crate) fn swizzle(&self, word: usize) -> u8 {
        match self.pages.get(word / PAGE) {
            Some(Some(page)) => page[word % PAGE].write.swizzle,
            _ => 0,
        }
    }

    /// Who last wrote any of the bytes, and by which instruction.
    pub(crate) fn writer(&self, at: usize, len: usize) -> Option<(Actor, u32)> {
        (at / 4..(at + len).div_ceil(4)).find_map(|word| {
            let cell = self.pages.get(word / PAGE)?.as_ref()?[word % PAGE];
            let write = match cell.bytes {
                0 => cell.write,
                n => self.bytes[n as usize - 1].iter().map(|c| c.write).find(|w| w.actor != 0)?,
            };
            (write.actor != 0).then_some((write.actor, write.pc))
        })
    }

    fn word(
        &mut self,
        word: usize,
        mask: u8,
        access: &Access,
        known: &Known<'_>,
    ) -> Option<Conflict> {
        let page = self.pages[word / PAGE].get_or_insert_with(|| Box::new([Cell::default(); PAGE]));
        let cell = &mut page[word % PAGE];
        if cell.bytes == 0 {
            if mask == 0xf {
                return cell.access(access, known, &mut self.more);
            }
            let whole = Cell { bytes: 0, ..*cell };
            let mut parts = [whole; 4];
            if whole.more > 0 {
                // Every byte keeps its own list of readers.
                for part in parts.iter_mut().skip(1) {
                    let list = self.more[whole.more as usize - 1].clone();
                    self.more.push(list);
                    part.more = self.more.len() as u32;
                }
            }
            self.bytes.push(parts);
            cell.bytes = self.bytes.len() as u32;
        }
        let parts = &mut self.bytes[cell.bytes as usize - 1];
        let mut found = None;
        for (i, part) in parts.iter_mut().enumerate() {
            if mask >> i & 1 == 1 {
                let conflict = part.access(access, known, &mut self.more);
                found = found.or(conflict);
            }
        }
        found
    }
}

impl Cell {
    fn access(
        &mut self,
        access: &Access,
        known: &Known<'_>,
        more: &mut Vec<Vec<Read>>,
    ) -> Option<Conflict> {
        let w = &self.write;
        let mut found = None;
        let same =
            access.write && access.same_value && w.actor == access.actor && w.clock == access.clock;
        // An operation of the asynchronous proxy may touch a byte twice.
        let own = w.actor == access.actor && access.actor & crate::clock::OPERATION != 0;
        if w.actor != 0 && !own && !same {
            let kind = known.order(w.actor, w.clock, w.lane);
            if kind != Order::Ordered && !known.mutual(w.strong, access.strong, w.actor) {
                found = Some(Conflict {
                    actor: w.actor,
                    clock: w.clock,
                    pc: w.pc,
                    lane: w.lane,
                    wrote: true,
                    kind,
                });
            }
        }
        if access.write {
            let check = |read: &Read| {
                if read.actor == 0 || known.mutual(read.strong, access.strong, read.actor) {
                    return None;
                }
                if read.actor == access.actor && access.actor & crate::clock::OPERATION != 0 {
                    return None;
                }
                let kind = known.order_after_read(read);
                (kind != Order::Ordered).then_some(Conflict {
                    actor: read.actor,
                    clock: read.clock,
                    pc: read.pc,
                    lane: read.lane,
                    wrote: false,
                    kind,
                })
            };
            for read in &self.reads {
                found = found.or_else(|| check(read));
            }
            if self.more > 0 {
                let list = &mut more[self.more as usize - 1];
                found = found.or_else(|| list.iter().find_map(check));
                list.clear();
            }
            self.write = Write {
                actor: access.actor,
                clock: access.clock,
                pc: access.pc,
                lane: access.lane,
                strong: access.strong,
                swizzle: access.swizzle,
            };
            self.reads = [Read::default(); 2];
            return found;
        }
        let read = Read {
            actor: access.actor,
            clock: access.clock,
            pc: access.pc,
            lane: access.lane,
            strong: access.strong,
        };
        self.record(read, known, more);
        found
    }

    fn record(&mut self, read: Read, known: &Known<'_>, more: &mut Vec<Vec<Read>>) {
        let merge = |old: &mut Read| {
            let lane = if old.lane == read.lane { read.lane } else { SEVERAL };
            // An older read that the lane's last warp barrier covers need not be kept.
            let lane = if old.clock <= known.sync.0 { read.lane } else { lane };
            let strong = if old.strong == Strong::No { Strong::No } else { read.strong };
            *old = Read { lane, strong, ..read };
        };
        for old in &mut self.reads {
            if old.actor == read.actor {
                return merge(old);
            }
        }
        if self.more > 0 {
            let list = &mut more[self.more as usize - 1];
            if let Some(old) = list.iter_mut().rev().find(|old| old.actor == read.actor) {
                return merge(old);
            }
        }
        for old in &mut self.reads {
            if old.actor == 0
                || (!known.proxy && known.order(old.actor, old.clock, old.lane) == Order::Ordered)
            {
                *old = read;
                return;
            }
        }
        if self.more == 0 {
            more.push(Vec::new());
            self.more = more.len() as u32;
        }
        more[self.more as usize - 1].push(read);
    }
}
