//! mbarriers: phases that complete when all arrivals came and all announced bytes landed.

use super::clocks_of;
use crate::clock::{self, Actor, Clock};
use crate::diag::Severity;
use crate::machine::{Machine, Place, What, lanes};
use crate::op::{Dst, Mem, Scope, Src};
use crate::shadow::Strong;
use crate::warp::Warp;
use std::collections::VecDeque;

/// A live mbarrier.
#[derive(Debug)]
pub(crate) struct Mbar {
    pub(crate) phase: u64,
    expected: u32,
    pending: u32,
    pub(crate) tx: i64,
    init: (Actor, u32),
    /// What the current phase publishes so far.
    g: Clock,
    a: Clock,
    /// Completed phases and what they published; the oldest fall out.
    done: VecDeque<(u64, Clock, Clock)>,
    /// The latest phase whose completion someone saw, plus one.
    seen: u64,
    /// The last operations, for reports.
    log: VecDeque<String>,
}

impl Mbar {
    pub(crate) fn describe(&self) -> String {
        let short = match (self.tx, self.pending) {
            (tx, _) if tx > 0 => format!("; tx short by {tx} bytes"),
            (tx, _) if tx < 0 => format!("; {} bytes more than announced", -tx),
            (_, 0) => String::new(),
            (_, n) => format!("; arrivals short by {n}"),
        };
        let log: Vec<&str> = self.log.iter().map(String::as_str).collect();
        format!(
            "phase {}, {} of {} arrivals pending, tx {}{short}; last: {}",
            self.phase,
            self.pending,
            self.expected,
            self.tx,
            log.join(", ")
        )
    }

    fn note(&mut self, what: String) {
        self.log.push_back(what);
        if self.log.len() > 5 {
            self.log.pop_front();
        }
    }

    fn advance(&mut self) {
        if self.pending == 0 && self.tx == 0 {
            let g = std::mem::take(&mut self.g);
            let a = std::mem::take(&mut self.a);
            self.done.push_back((self.phase, g, a));
            if self.done.len() > 4 {
                self.done.pop_front();
            }
            self.phase += 1;
            self.pending = self.expected;
        }
    }

    /// Bytes of operation `op` have landed.
    pub(crate) fn complete_tx(&mut self, op: Actor, bytes: u32) {
        self.tx -= i64::from(bytes);
        self.g.raise(op, 1);
        self.a.raise(op, 1);
        self.note(format!("complete_tx {bytes}"));
        self.advance();
    }
}

impl Machine<'_> {
    /// The block and offset of an mbarrier operand of one lane.
    fn mbar_place(
        &mut self,
        warp: &Warp,
        pc: u32,
        lane: usize,
        mem: &Mem,
        address: u64,
    ) -> Option<(usize, u32)> {
        match self.place(warp, (pc, lane), mem.space, address, 8, 8)? {
            Place::Shared(slot, at) => Some((slot, at as u32)),
            _ => {
                self.stop("MEM-SPACE", (warp, pc, Some(lane as u32)), || {
                    "an mbarrier must be in shared memory".into()
                });
                None
            }
        }
    }

    /// Checks that there is an initialised mbarrier, known to the lane.
    pub(super) fn live_mbar(
        &mut self,
        warp: &Warp,
        pc: u32,
        lane: usize,
        mem: &Mem,
        address: u64,
    ) -> Option<(usize, u32)> {
        let (slot, at) = self.mbar_place(warp, pc, lane, mem, address)?;
        let Some(mbar) = self.ctas[slot].hopper.mbars.get(&at) else {
            self.stop("MBAR-UNINIT", (warp, pc, Some(lane as u32)), || {
                format!("there is no initialised mbarrier at {at:#x}")
            });
            return None;
        };
        let (actor, clock) = mbar.init;
        let known =
            actor == clock::generic(warp.number) || warp.published_by(lane).get(actor) >= clock;
        if !known {
            self.error("MBAR-UNINIT", (warp, pc, Some(lane as u32)), || {
                format!("nothing orders this after the initialisation of the mbarrier at {at:#x}")
            });
        }
        Some((slot, at))
    }

    fn mbar(&mut self, (slot, at): (usize, u32)) -> Option<&mut Mbar> {
        self.ctas[slot].hopper.mbars.get_mut(&at)
    }

    pub(super) fn mbar_init(&mut self, warp: &Warp, pc: u32, exec: u32, mem: &Mem, count: Src) {
        let Some(addresses) = self.addresses(warp, pc, exec, mem) else { return };
        let counts = self.value32(warp, count);
        for lane in lanes(exec) {
            let Some((slot, at)) = self.mbar_place(warp, pc, lane, mem, addresses[lane]) else {
                return;
            };
            let count = counts[lane];
            if count == 0 || count >= 1 << 20 {
                return self.stop("MBAR-RANGE", (warp, pc, Some(lane as u32)), || {
                    format!("{count} arrivals; allowed are 1 to 2^20 - 1")
                });
            }
            if self.ctas[slot].hopper.mbars.remove(&at).is_some() {
                self.error("MBAR-REINIT", (warp, pc, Some(lane as u32)), || {
                    format!("the mbarrier at {at:#x} is live")
                });
            }
            let what =
                What { pc, lane, write: true, strong: Strong::Gpu, same_value: false, copy: false };
            self.touch(warp, Place::Shared(slot, at as usize), 8, what);
            self.ctas[slot].shared.define(at as usize, 8, true);
            let mbar = Mbar {
                phase: 0,
                expected: count,
                pending: count,
                tx: 0,
                init: (clock::generic(warp.number), warp.clock),
                g: Clock::default(),
                a: Clock::default(),
                done: VecDeque::new(),
                seen: 0,
                log: VecDeque::new(),
            };
            self.ctas[slot].hopper.mbars.insert(at, mbar);
        }
    }

    pub(super) fn mbar_inval(&mut self, warp: &Warp, pc: u32, exec: u32, mem: &Mem) {
        let Some(addresses) = self.addresses(warp, pc, exec, mem) else { return };
        for lane in lanes(exec) {
            let Some((slot, at)) = self.live_mbar(warp, pc, lane, mem, addresses[lane]) else {
                return;
            };
            self.ctas[slot].hopper.mbars.remove(&at);
            self.ctas[slot].shared.poison(at as usize, 8);
        }
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn mbar_arrive(
        &mut self,
        warp: &mut Warp,
        pc: u32,
        exec: u32,
        mem: &Mem,
        dst: Dst,
        (count, tx): (Option<Src>, Option<Src>),
        (drop, relaxed, scope): (bool, bool, Scope),
    ) {
        let Some(addresses) = self.addresses(warp, pc, exec, mem) else { return };
        let counts = count.map_or([1; 32], |c| self.value32(warp, c));
        let bytes = tx.map(|t| self.value32(warp, t));
        for lane in lanes(exec) {
            let Some(place) = self.live_mbar(warp, pc, lane, mem, addresses[lane]) else { return };
            let remote = place.0 != warp.slot;
            let (a, g) = clocks_of(warp, lane);
            let line = self.program.code[pc as usize].line;
            let Some(mbar) = self.mbar(place) else { return };
            let skipped = mbar.phase > 0 && mbar.pending == mbar.expected && mbar.seen < mbar.phase;
            let state = mbar.phase | u64::from(mbar.pending) << 32;
            if let Some(bytes) = bytes {
                mbar.tx += i64::from(bytes[lane]);
                mbar.note(format!("line {line}: expect_tx {}", bytes[lane]));
            }
            // A release whose scope excludes the waiters publishes nothing to them.
            if !relaxed && (!remote || scope > Scope::Cta) {
                mbar.g.join(&g);
                mbar.a.join(&a);
            }
            let n = counts[lane];
            let over = n > mbar.pending;
            mbar.pending = mbar.pending.saturating_sub(n);
            if drop {
                mbar.expected = mbar.expected.saturating_sub(n);
            }
            mbar.note(format!("line {line}: warp {} lane {lane} arrives", warp.index));
            mbar.advance();
            warp.set_lane(dst, lane, state);
            if over {
                self.error("MBAR-RANGE", (warp, pc, Some(lane as u32)), || {
                    format!("{n} arrivals, fewer are pending")
                });
            }
            if skipped {
                self.error("MBAR-PHASE-SKIP", (warp, pc, Some(lane as u32)), || {
                    "an arrival begins a phase though no thread saw the one before complete".into()
                });
            }
        }
    }

    pub(super) fn mbar_tx(
        &mut self,
        warp: &Warp,
        pc: u32,
        exec: u32,
        mem: &Mem,
        tx: Src,
        complete: bool,
    ) {
        let Some(addresses) = self.addresses(warp, pc, exec, mem) else { return };
        let bytes = self.value32(warp, tx);
        for lane in lanes(exec) {
            let Some(place) = self.live_mbar(warp, pc, lane, mem, addresses[lane]) else { return };
            let Some(mbar) = self.mbar(place) else { return };
            let n = i64::from(bytes[lane]);
            mbar.tx += if complete { -n } else { n };
            mbar.note(format!("{} {n}", if complete { "complete_tx" } else { "expect_tx" }));
            if complete {
                mbar.advance();
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn mbar_wait(
        &mut self,
        warp: &mut Warp,
        (s, pc, exec): (usize, u32, u32),
        mem: &Mem,
        p: Option<u32>,
        state: Src,
        parity: bool,
        relaxed: bool,
    ) {
        let Some(addresses) = self.addresses(warp, pc, exec, mem) else { return };
        let states = self.value64(warp, state);
        let mut passed = 0;
        let (mut g, mut a) = (Clock::default(), Clock::default());
        let mut stale = None;
        let mut lane_clocks = Vec::new();
        for lane in lanes(exec) {
            let Some(place) = self.live_mbar(warp, pc, lane, mem, addresses[lane]) else { return };
            if place.0 != warp.slot {
                return self.stop("MBAR-REMOTE-WAIT", (warp, pc, Some(lane as u32)), || {
                    "a wait on another block's mbarrier".into()
                });
            }
            let Some(mbar) = self.mbar(place) else { return };
            // A wait may give up at any time, so the first on every phase does: whoever goes on
            // regardless is found out whatever the schedule.
            let key = (lane, place.1, pc);
            let phase_now = mbar.phase;
            let ready = match parity {
                true => mbar.phase & 1 != states[lane] & 1,
                false => mbar.phase > states[lane] & 0xffff_ffff,
            };
            if warp.hopper.tried.insert(key, phase_now) != Some(phase_now) || !ready {
                continue;
            }
            let Some(mbar) = self.mbar(place) else { return };
            passed |= 1 << lane;
            if mbar.phase == 0 {
                continue;
            }
            let phase = mbar.phase - 1;
            mbar.seen = mbar.seen.max(mbar.phase);
            if !relaxed && let Some((_, dg, da)) = mbar.done.iter().find(|(n, ..)| *n == phase) {
                lane_clocks.push((lane, dg.clone(), da.clone()));
            }
            let key = (lane, place.1);
            if warp.hopper.last_wait.insert(key, phase) == Some(phase) {
                stale = Some(lane);
            }
        }
        if passed == warp.live() {
            for (_, dg, da) in &lane_clocks {
                g.join(dg);
                a.join(da);
            }
            warp.learn(passed, &g, Some(&a));
        } else {
            for (lane, dg, da) in &lane_clocks {
                warp.learn(1 << lane, dg, Some(da));
            }
        }
        warp.set_pred(p, passed, exec);
        if passed != exec {
            warp.splits[s].spinning = true;
        }
        if let Some(lane) = stale {
            let severity = Severity::Lint;
            self.report("MBAR-STALE-PHASE", severity, (warp, pc, Some(lane as u32)), None, || {
                "the wait succeeds on a phase that this thread has already waited for".into()
            });
        }
    }

    /// `cp.async.mbarrier.arrive`: an arrival when the lane's copies so far have landed. Done at
    /// once: the copies are landed with it, which is one of the legal times.
    pub(super) fn mbar_copies(
        &mut self,
        warp: &mut Warp,
        pc: u32,
        exec: u32,
        mem: &Mem,
        noinc: bool,
    ) {
        let Some(addresses) = self.addresses(warp, pc, exec, mem) else { return };
        self.retire_copies(warp, exec);
        for lane in lanes(exec) {
            let Some(place) = self.live_mbar(warp, pc, lane, mem, addresses[lane]) else { return };
            let (a, g) = clocks_of(warp, lane);
            let index = warp.index;
            let retired = warp.retired[lane];
            let copies = clock::copies(warp.number);
            let Some(mbar) = self.mbar(place) else { return };
            mbar.g.join(&g);
            mbar.a.join(&a);
            mbar.g.raise(copies, retired);
            if noinc {
                mbar.pending = mbar.pending.saturating_sub(1);
            }
            mbar.note(format!("warp {index} lane {lane}: copies arrive"));
            mbar.advance();
        }
    }
}
