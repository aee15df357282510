//! What is remembered of 16, 4 or 1 bytes.

use super::{Access, Conflict, Known, Order, SEVERAL, Strong};
use crate::clock::{Actor, OPERATION};

/// An access of the past.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Past {
    /// 0: nobody.
    pub(super) actor: Actor,
    pub(super) clock: u32,
    pub(super) pc: u32,
    pub(super) lane: u8,
    pub(super) strong: Strong,
    /// Swizzle mode of the tensor copy that wrote it, plus one; 0 unknown.
    pub(super) swizzle: u8,
    /// 1 where word i of 16 bytes belongs to lane `lane + i`.
    pub(super) step: u8,
}

impl Past {
    pub(super) fn of(access: &Access, step: u8) -> Self {
        Past {
            actor: access.actor,
            clock: access.clock,
            pc: access.pc,
            lane: access.lane,
            strong: access.strong,
            swizzle: access.swizzle,
            step,
        }
    }

    /// By what lists of readers are sorted.
    fn key(&self) -> (Actor, Strong) {
        (self.actor, self.strong)
    }

    /// As word `i` of the 16 bytes sees it.
    fn part(self, i: u8) -> Self {
        Past { lane: self.lane.wrapping_add(self.step * i), step: 0, ..self }
    }
}

/// The last write, and what came before that a later access may still race with: reads, and writes that
/// a stronger one replaced.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cell<const N: usize> {
    pub(super) write: Past,
    /// Reads; of a write replaced by a stronger one `wrote` has the bit.
    reads: [Past; N],
    wrote: u8,
    /// Of the parts, plus one.
    pub(super) split: u32,
    /// Of further reads, plus one.
    more: u32,
}

impl<const N: usize> Default for Cell<N> {
    fn default() -> Self {
        Cell { write: Past::default(), reads: [Past::default(); N], wrote: 0, split: 0, more: 0 }
    }
}

impl<const N: usize> Cell<N> {
    /// The cell of word `i`, or of a byte.
    pub(super) fn part(&self, i: u8, more: &mut Vec<Vec<Past>>) -> Cell<2> {
        let mut part = Cell { write: self.write.part(i), ..Cell::default() };
        for (k, past) in self.reads.iter().enumerate().filter(|(_, past)| past.actor != 0) {
            part.push(past.part(i), self.wrote >> k & 1 == 1, more);
        }
        if let Some(list) = self.more.checked_sub(1) {
            for k in 0..more[list as usize].len() {
                let past = more[list as usize][k].part(i);
                part.push(past, false, more);
            }
        }
        part
    }

    /// Forgets what came before the last write.
    pub(super) fn drop_readers(&mut self, more: &mut [Vec<Past>]) {
        self.reads = [Past::default(); N];
        self.wrote = 0;
        if self.more > 0 {
            more[self.more as usize - 1].clear();
        }
    }

    /// Adds an entry. A replaced write has its place in the cell itself.
    fn push(&mut self, past: Past, wrote: bool, more: &mut Vec<Vec<Past>>) {
        let free = self.reads.iter().position(|p| p.actor == 0);
        let at = match (free, wrote) {
            (Some(at), _) => at,
            (None, true) => {
                let at = (0..N).find(|k| self.wrote >> k & 1 == 0).unwrap_or(0);
                if self.wrote >> at & 1 == 0 {
                    self.spill(self.reads[at], more);
                }
                at
            }
            (None, false) => return self.spill(past, more),
        };
        self.reads[at] = past;
        self.wrote = self.wrote & !(1 << at) | u8::from(wrote) << at;
    }

    fn spill(&mut self, past: Past, more: &mut Vec<Vec<Past>>) {
        if self.more == 0 {
            more.push(Vec::new());
            self.more = more.len() as u32;
        }
        let list = &mut more[self.more as usize - 1];
        let at = list.partition_point(|p| p.key() < past.key());
        list.insert(at, past);
    }

    /// Checks and records an access to all of a cell by one lane, or by four in steps, without a conflict and
    /// without need to tell words apart; otherwise nothing happens.
    pub(super) fn fast(
        &mut self,
        access: &Access,
        step: u8,
        known: &Known<'_>,
        more: &mut Vec<Vec<Past>>,
    ) -> bool {
        let own = self.write.actor == access.actor && access.actor & OPERATION != 0;
        if access.strong != Strong::No || self.wrote != 0 || !(own || known.fast(&self.write, step))
        {
            return false;
        }
        if access.write {
            if self.write.strong != Strong::No {
                return false;
            }
            for read in &self.reads {
                if read.actor != 0 && !known.fast_after_read(read, step) {
                    return false;
                }
            }
            if self.more > 0 {
                let list = &mut more[self.more as usize - 1];
                if !list.iter().all(|read| known.fast_after_read(read, step)) {
                    return false;
                }
                list.clear();
            }
            self.reads = [Past::default(); N];
            self.write = Past::of(access, step);
            return true;
        }
        let read = Past::of(access, step);
        let replace = |old: &mut Past| {
            let same = (old.lane, old.step) == (read.lane, step);
            let covered = !known.proxy && old.clock <= known.sync.0 && known.sync.1 == u32::MAX;
            if same || covered {
                *old = read;
            }
            same || covered
        };
        for old in &mut self.reads {
            if old.actor == read.actor && old.strong == read.strong {
                return replace(old);
            }
        }
        if let Some(list) = self.more.checked_sub(1) {
            let list = &mut more[list as usize];
            if let Ok(i) = list.binary_search_by_key(&read.key(), Past::key) {
                return replace(&mut list[i]);
            }
        }
        for old in &mut self.reads {
            if old.actor == 0 || known.replaces(old, &read) && known.fast(old, step) {
                *old = read;
                return true;
            }
        }
        self.spill(read, more);
        true
    }

    pub(super) fn access(
        &mut self,
        access: &Access,
        known: &Known<'_>,
        more: &mut Vec<Vec<Past>>,
    ) -> Option<Conflict> {
        let w = self.write;
        let operation = access.actor & OPERATION != 0;
        // Lanes of one instruction that store the same, and an operation that touches a byte twice.
        let same =
            access.write && access.same_value && w.actor == access.actor && w.clock == access.clock;
        let own = w.actor == access.actor && operation;
        let mut found = None;
        if !own && !same {
            found = known.conflict(&w, true, access.strong);
        }
        for (i, past) in self.reads.iter().enumerate() {
            let wrote = self.wrote >> i & 1 == 1;
            if (access.write || wrote) && !(past.actor == access.actor && operation) {
                found = found.or_else(|| known.conflict(past, wrote, access.strong));
            }
        }
        if !access.write {
            self.record(Past::of(access, 0), known, more);
            return found;
        }
        let weaker = |past: &Past| past.actor != 0 && past.strong < access.strong;
        if self.more > 0 {
            let list = &mut more[self.more as usize - 1];
            let others = list.iter().filter(|past| past.actor != access.actor || !operation);
            found = found.or_else(|| {
                others.clone().find_map(|past| known.conflict(past, false, access.strong))
            });
            list.retain(weaker);
        }
        // A strong write does not order what comes after it behind weaker accesses before it.
        for (i, past) in self.reads.iter_mut().enumerate() {
            if !weaker(past) {
                *past = Past::default();
                self.wrote &= !(1 << i);
            }
        }
        self.write = Past::of(access, 0);
        if weaker(&w) {
            let known_already =
                (0..N).find(|i| self.wrote >> i & 1 == 1 && self.reads[*i].actor == w.actor);
            match known_already {
                Some(i) => self.reads[i] = w,
                None => self.push(w, true, more),
            }
        }
        found
    }

    fn record(&mut self, read: Past, known: &Known<'_>, more: &mut Vec<Vec<Past>>) {
        let merge = |old: &mut Past| {
            let covered = match old.lane {
                SEVERAL => known.sync.1 == u32::MAX,
                lane => known.sync.1 >> lane & 1 == 1,
            };
            // An older read that the lane's last warp barrier covers need not be kept.
            let lane = match old.clock <= known.sync.0 && covered || old.lane == read.lane {
                true => read.lane,
                false => SEVERAL,
            };
            *old = Past { lane, ..read };
        };
        let mergeable = |old: &Past| old.actor == read.actor && old.strong == read.strong;
        for (i, old) in self.reads.iter_mut().enumerate() {
            if mergeable(old) && self.wrote >> i & 1 == 0 {
                return merge(old);
            }
        }
        if self.more > 0 {
            let list = &mut more[self.more as usize - 1];
            if let Ok(i) = list.binary_search_by_key(&read.key(), Past::key) {
                return merge(&mut list[i]);
            }
        }
        for (i, old) in self.reads.iter_mut().enumerate() {
            let replaces = self.wrote >> i & 1 == 0
                && known.replaces(old, &read)
                && known.order(old.actor, old.clock, old.lane) == Order::Ordered;
            if old.actor == 0 || replaces {
                *old = read;
                return;
            }
        }
        self.spill(read, more);
    }
}

impl Known<'_> {
    /// Whether all of a cell's past access is ordered before, without a look at its parts.
    fn fast(&self, past: &Past, step: u8) -> bool {
        if past.actor == 0 {
            return true;
        }
        if !self.proxy && past.actor == self.generic {
            return (past.lane, past.step) == (self.lane, step)
                || (past.clock <= self.sync.0 && self.sync.1 == u32::MAX);
        }
        let retired = step == 0
            && past.actor == self.copies
            && past.lane == self.lane
            && self.retired >= past.clock
            && !self.proxy;
        retired || self.clock.get(past.actor) >= past.clock
    }

    /// Whether a read may stand for an earlier one that is ordered before it: what is ordered after the later
    /// is then ordered after the earlier. Of a copy of the asynchronous proxy that holds for copies that are
    /// complete.
    fn replaces(&self, old: &Past, read: &Past) -> bool {
        old.strong >= read.strong && (!self.proxy || old.actor & OPERATION != 0)
    }

    fn fast_after_read(&self, read: &Past, step: u8) -> bool {
        match self.proxy {
            true => read.actor == 0 || self.order_after_read(read) == Order::Ordered,
            false => self.fast(read, step),
        }
    }

    /// The conflict with a past access, if there is one.
    fn conflict(&self, past: &Past, wrote: bool, strong: Strong) -> Option<Conflict> {
        if past.actor == 0 {
            return None;
        }
        let kind = match wrote {
            true => self.order(past.actor, past.clock, past.lane),
            false => self.order_after_read(past),
        };
        if kind == Order::Ordered || self.mutual(past.strong, strong, past.actor) {
            return None;
        }
        let Past { actor, clock, pc, lane, .. } = *past;
        Some(Conflict { actor, clock, pc, lane, wrote, kind })
    }
}
