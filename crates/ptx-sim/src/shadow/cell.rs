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
    /// Of an entry beside the last write: it wrote, too.
    pub(super) wrote: bool,
}

/// So many strong accesses that later ones did not follow are kept beside the last write: a cell that all blocks
/// add to must not remember all of them.
const STRONG: usize = 8;

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
            wrote: false,
        }
    }

    /// By what lists of readers are sorted.
    fn key(&self) -> (Actor, Strong, bool) {
        (self.actor, self.strong, self.wrote)
    }

    /// As word `i` of the 16 bytes sees it.
    fn part(self, i: u8) -> Self {
        Past { lane: self.lane.wrapping_add(self.step * i), step: 0, ..self }
    }
}

/// The last write, and what came before that a later access may still race with: reads, and writes that
/// a strong one replaced.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cell<const N: usize> {
    pub(super) write: Past,
    past: [Past; N],
    /// Of the parts, plus one.
    pub(super) split: u32,
    /// Of further entries, plus one.
    more: u32,
}

impl<const N: usize> Default for Cell<N> {
    fn default() -> Self {
        Cell { write: Past::default(), past: [Past::default(); N], split: 0, more: 0 }
    }
}

impl<const N: usize> Cell<N> {
    /// The cell of word `i`, or of a byte.
    pub(super) fn part(&self, i: u8, more: &mut Vec<Vec<Past>>) -> Cell<2> {
        let mut part = Cell { write: self.write.part(i), ..Cell::default() };
        for past in self.past.iter().filter(|past| past.actor != 0) {
            part.push(past.part(i), more);
        }
        if let Some(list) = self.more.checked_sub(1) {
            for k in 0..more[list as usize].len() {
                let past = more[list as usize][k].part(i);
                part.push(past, more);
            }
        }
        part
    }

    /// Forgets what came before the last write.
    pub(super) fn drop_readers(&mut self, more: &mut [Vec<Past>]) {
        self.past = [Past::default(); N];
        if self.more > 0 {
            more[self.more as usize - 1].clear();
        }
    }

    fn push(&mut self, past: Past, more: &mut Vec<Vec<Past>>) {
        match self.past.iter_mut().find(|p| p.actor == 0) {
            Some(free) => *free = past,
            None => self.spill(past, more),
        }
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
        if access.strong != Strong::No
            || self.write.strong != Strong::No
            || !(own || known.fast(&self.write, step))
        {
            return false;
        }
        if access.write {
            for read in &self.past {
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
            self.past = [Past::default(); N];
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
        for old in &mut self.past {
            if old.key() == read.key() {
                return replace(old);
            }
        }
        if let Some(list) = self.more.checked_sub(1) {
            let list = &mut more[list as usize];
            if let Ok(i) = list.binary_search_by_key(&read.key(), Past::key) {
                return replace(&mut list[i]);
            }
        }
        for old in &mut self.past {
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
        let list: &[Past] = match self.more {
            0 => &[],
            n => &more[n as usize - 1],
        };
        for past in self.past.iter().chain(list) {
            if (access.write || past.wrote) && !(past.actor == access.actor && operation) {
                found = found.or_else(|| known.conflict(past, past.wrote, access.strong));
            }
        }
        if !access.write {
            self.record(Past::of(access, 0), known, more);
            return found;
        }
        self.write = Past::of(access, 0);
        if access.strong == Strong::No {
            self.drop_readers(more);
            return found;
        }
        if same && w.lane != access.lane {
            self.write.lane = SEVERAL;
        }
        // A strong write does not order what comes after it behind weaker accesses before it, nor behind
        // strong ones that it may come before as well.
        let mut strong = 0;
        let mut keep = |past: &Past| {
            let keeps = past.actor != 0
                && (past.strong < access.strong
                    || strong < STRONG
                        && known.order(past.actor, past.clock, past.lane) != Order::Ordered);
            strong += usize::from(keeps && past.strong >= access.strong);
            keeps
        };
        for past in &mut self.past {
            if !keep(past) {
                *past = Past::default();
            }
        }
        if self.more > 0 {
            more[self.more as usize - 1].retain(&mut keep);
        }
        if keep(&w) && !same {
            self.record(Past { wrote: true, ..w }, known, more);
        }
        found
    }

    fn record(&mut self, new: Past, known: &Known<'_>, more: &mut Vec<Vec<Past>>) {
        let merge = |old: &mut Past| {
            let covered = match old.lane {
                SEVERAL => known.sync.1 == u32::MAX,
                lane => known.sync.1 >> lane & 1 == 1,
            };
            // An older access that the lane's last warp barrier covers need not be kept.
            let own = new.actor == known.generic && old.clock <= known.sync.0 && covered;
            let lane = if own || old.lane == new.lane { new.lane } else { SEVERAL };
            *old = Past { lane, ..new };
        };
        if let Some(old) = self.past.iter_mut().find(|old| old.key() == new.key()) {
            return merge(old);
        }
        if self.more > 0 {
            let list = &mut more[self.more as usize - 1];
            if let Ok(i) = list.binary_search_by_key(&new.key(), Past::key) {
                return merge(&mut list[i]);
            }
        }
        for old in &mut self.past {
            let replaces = !new.wrote
                && known.replaces(old, &new)
                && known.order(old.actor, old.clock, old.lane) == Order::Ordered;
            if old.actor == 0 || replaces {
                *old = new;
                return;
            }
        }
        self.spill(new, more);
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
        !old.wrote && old.strong >= read.strong && (!self.proxy || old.actor & OPERATION != 0)
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
        let Past { actor, pc, lane, .. } = *past;
        Some(Conflict { actor, pc, lane, wrote, kind })
    }
}
