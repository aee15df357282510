//! Who last wrote and read every byte, and whether the next access is ordered after them.
//!
//! FastTrack's idea (Flanagan and Freund, PLDI 2009): one epoch for the last write, one per reader
//! until a write is ordered after them. A cell stands for 16 bytes, what one lane of a copy or one row of
//! a matrix load covers; accesses to part of it split it into words, and those into bytes. A write of
//! the whole makes it one again.

mod cell;

use crate::clock::{Actor, Clock};
use cell::Cell;

/// Lane of a read by several lanes.
pub(crate) const SEVERAL: u8 = 0xff;

/// Whether an access is a strong operation, and up to which scope.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Strong {
    #[default]
    No,
    /// Within its block.
    Cta,
    Gpu,
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
#[derive(Clone, Copy)]
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

    fn order_after_read(&self, read: &cell::Past) -> Order {
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

/// Cells of 16 bytes on a page.
const PAGE: usize = 64;

/// The cells of one memory.
#[derive(Debug, Default)]
pub(crate) struct Shadow {
    pages: Vec<Option<Box<[Cell<4>; PAGE]>>>,
    words: Vec<[Cell<2>; 4]>,
    bytes: Vec<[Cell<2>; 4]>,
    /// Entries of `words` and `bytes` that no cell uses.
    free: [Vec<u32>; 2],
    /// Readers that do not fit a cell.
    more: Vec<Vec<cell::Past>>,
}

impl Shadow {
    /// Cells for so many words of 4 bytes.
    pub(crate) fn new(words: usize) -> Self {
        Shadow { pages: vec![None; words.div_ceil(4 * PAGE)], ..Shadow::default() }
    }

    pub(crate) fn clear(&mut self) {
        self.pages.iter_mut().for_each(|page| *page = None);
        self.words.clear();
        self.bytes.clear();
        self.free.iter_mut().for_each(Vec::clear);
        self.more.clear();
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
            let end = (at + len).min((byte / 16 + 1) * 16);
            let mask = ((1u32 << (end - byte)) - 1) << (byte % 16);
            let conflict = self.block(byte / 16, mask as u16, 0, access, known);
            found = found.or(conflict);
            byte = end;
        }
        found
    }

    /// An access to 16 aligned bytes by four neighbouring lanes, a word each; `known` holds for all four.
    pub(crate) fn access_row(
        &mut self,
        at: usize,
        access: &Access,
        known: &Known<'_>,
    ) -> Option<Conflict> {
        self.block(at / 16, u16::MAX, 1, access, known)
    }

    /// The swizzle tag of a word, 0 if unknown.
    pub(crate) fn swizzle(&self, word: usize) -> u8 {
        self.cell(4 * word).map_or(0, |write| write.swizzle)
    }

    /// Who last wrote any of the bytes, and by which instruction.
    pub(crate) fn writer(&self, at: usize, len: usize) -> Option<(Actor, u32)> {
        let found =
            (at..at + len).filter_map(|byte| self.cell(byte)).find(|write| write.actor != 0)?;
        Some((found.actor, found.pc))
    }

    /// The last write of a byte.
    fn cell(&self, byte: usize) -> Option<cell::Past> {
        let block = &self.pages.get(byte / 16 / PAGE)?.as_ref()?[byte / 16 % PAGE];
        let Some(words) = block.split.checked_sub(1) else { return Some(block.write) };
        let word = &self.words[words as usize][byte / 4 % 4];
        let Some(bytes) = word.split.checked_sub(1) else { return Some(word.write) };
        Some(self.bytes[bytes as usize][byte % 4].write)
    }

    fn block(
        &mut self,
        at: usize,
        mask: u16,
        step: u8,
        access: &Access,
        known: &Known<'_>,
    ) -> Option<Conflict> {
        let page = &mut self.pages[at / PAGE];
        let block = &mut page.get_or_insert_with(|| Box::new([Cell::default(); PAGE]))[at % PAGE];
        if block.split == 0 {
            if mask == u16::MAX && block.fast(access, step, known, &mut self.more) {
                return None;
            }
            let parts = [0, 1, 2, 3].map(|i| block.part(i, &mut self.more));
            block.drop_readers(&mut self.more);
            block.split = store(parts, &mut self.words, &mut self.free[0]);
        }
        let words = block.split as usize - 1;
        let mut found = None;
        for i in 0..4 {
            let bytes = mask >> (4 * i) & 0xf;
            if bytes == 0 {
                continue;
            }
            let lane = access.lane.wrapping_add(step * i);
            let own = Access { lane, ..*access };
            let known = Known { lane: known.lane.wrapping_add(step * i), ..*known };
            let word = &mut self.words[words][i as usize];
            let conflict = match word.split {
                0 if bytes == 0xf => word.access(&own, &known, &mut self.more),
                _ => {
                    if word.split == 0 {
                        let parts = [0; 4].map(|_: u8| word.part(0, &mut self.more));
                        word.drop_readers(&mut self.more);
                        word.split = store(parts, &mut self.bytes, &mut self.free[1]);
                    }
                    let parts = &mut self.bytes[word.split as usize - 1];
                    let mut first = None;
                    for (b, part) in parts.iter_mut().enumerate() {
                        if bytes >> b & 1 == 1 {
                            let conflict = part.access(&own, &known, &mut self.more);
                            first = first.or(conflict);
                        }
                    }
                    if bytes == 0xf && access.write && access.strong == Strong::No {
                        for part in parts.iter_mut() {
                            part.drop_readers(&mut self.more);
                        }
                        word.write = parts[0].write;
                        self.free[1].push(word.split);
                        word.split = 0;
                    }
                    first
                }
            };
            found = found.or(conflict);
        }
        if mask == u16::MAX && access.write && access.strong == Strong::No {
            for word in &mut self.words[words] {
                word.drop_readers(&mut self.more);
            }
            block.write = cell::Past { step, ..cell::Past::of(access, 0) };
            self.free[0].push(block.split);
            block.split = 0;
        }
        found
    }
}

/// Keeps the parts of a cell; their place plus one.
fn store(parts: [Cell<2>; 4], all: &mut Vec<[Cell<2>; 4]>, free: &mut Vec<u32>) -> u32 {
    match free.pop() {
        Some(place) => {
            all[place as usize - 1] = parts;
            place
        }
        None => {
            all.push(parts);
            all.len() as u32
        }
    }
}
