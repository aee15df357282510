//! Barriers of a block.

use super::Machine;
use crate::clock::Clock;
use crate::op::{BarKind, Dst, PSrc, Src};
use crate::warp::{State, Warp};

/// One of the sixteen barriers, in its current generation.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bar {
    /// Threads that have arrived, whole warps counted as 32.
    pub(crate) threads: u32,
    /// The count that the participants gave; none: every thread of the block.
    count: Option<u32>,
    clock: Clock,
    clock_async: Clock,
    ones: u32,
    all: bool,
    waiting: Vec<Waiting>,
    arrived: Vec<(u32, u32)>,
}

#[derive(Debug, Clone)]
struct Waiting {
    warp: u32,
    mask: u32,
    kind: BarKind,
    dst: Dst,
    p: Option<u32>,
}

impl Machine<'_> {
    #[allow(clippy::too_many_arguments)]
    pub(super) fn bar(
        &mut self,
        warp: &mut Warp,
        (s, pc, exec): (usize, u32, u32),
        (kind, aligned): (BarKind, bool),
        id: Src,
        count: Option<Src>,
        pred: Option<PSrc>,
        (dst, p): (Dst, Option<u32>),
    ) {
        if aligned && exec != warp.live() {
            self.error("BAR-DIVERGED", (warp, pc, None), || {
                format!(
                    "lanes {exec:#010x} execute an aligned barrier, {:#010x} are live",
                    warp.live()
                )
            });
        }
        let uniform = |values: [u32; 32]| {
            let first = values[exec.trailing_zeros() as usize];
            (0..32).all(|l| exec >> l & 1 == 0 || values[l] == first).then_some(first)
        };
        let id = match uniform(self.value32(warp, id)) {
            Some(id) if id < 16 => id,
            id => {
                return self.stop("BAR-ID", (warp, pc, None), || match id {
                    Some(id) => format!("barrier {id}; there are 0 to 15"),
                    None => "lanes name different barriers".into(),
                });
            }
        };
        let count = match count.map(|c| uniform(self.value32(warp, c))) {
            None => None,
            Some(Some(n)) if n > 0 && n % 32 == 0 => Some(n),
            Some(n) => {
                return self.stop("BAR-COUNT", (warp, pc, None), || {
                    format!("thread count {n:?} is not a multiple of 32 above 0")
                });
            }
        };
        let (clock, clock_async) = (warp.published(), warp.published_async());
        let values = pred.map_or(0, |p| warp.pred(p) & exec);
        let bar = &mut self.ctas[warp.slot].bars[id as usize];
        let (before, arrived) = (bar.count, !bar.arrived.is_empty());
        if !arrived {
            bar.count = count;
            bar.all = true;
        }
        let twice = bar.arrived.iter().any(|(w, lanes)| *w == warp.index && lanes & exec != 0);
        // A warp counts as 32 threads, once all that live have come.
        let of_warp = bar.arrived.iter().filter(|(w, _)| *w == warp.index);
        let (before_it, came) =
            of_warp.fold((0, exec), |(n, all), (_, lanes)| (n + lanes.count_ones(), all | lanes));
        let whole = !twice && came & warp.live() == warp.live();
        let threads = if whole { 32u32.saturating_sub(before_it) } else { exec.count_ones() };
        bar.threads += threads;
        bar.clock.join(&clock);
        bar.clock_async.join(&clock_async);
        bar.ones += values.count_ones();
        bar.all &= values == exec;
        bar.arrived.push((warp.index, exec));
        let (total, slot, index) = (bar.threads, warp.slot, warp.index);
        if kind != BarKind::Arrive {
            bar.waiting.push(Waiting { warp: index, mask: exec, kind, dst, p });
            warp.splits[s].state = State::Bar(id);
        }
        if arrived && before != count {
            self.error("BAR-COUNT", (warp, pc, None), || {
                format!("barrier {id}: this warp gives count {count:?}, others {before:?}")
            });
        }
        if twice && kind == BarKind::Arrive {
            self.error("BAR-COUNT", (warp, pc, None), || {
                format!("the warp arrives at barrier {id} twice in one generation")
            });
        }
        if count.is_some_and(|n| total > n) {
            self.error("BAR-COUNT", (warp, pc, None), || {
                format!("{total} threads arrive at barrier {id} of {count:?}")
            });
        }
        self.arrivals.push((slot, id));
    }

    /// Threads that complete the barrier's generation.
    pub(super) fn expected(&self, slot: usize, bar: &Bar) -> u32 {
        bar.count.unwrap_or(32 * self.ctas[slot].running)
    }

    /// Lets those who wait at a barrier go on, if it is complete.
    pub(super) fn release(&mut self, slot: usize, id: u32) {
        let bar = &self.ctas[slot].bars[id as usize];
        if bar.threads == 0 || bar.threads < self.expected(slot, bar) {
            return;
        }
        let bar = std::mem::take(&mut self.ctas[slot].bars[id as usize]);
        for waiting in &bar.waiting {
            let Some(warp) = &mut self.ctas[slot].warps[waiting.warp as usize] else { continue };
            // All of the warp's lanes that wait meet, whichever instruction brought them here.
            let of_warp = bar.waiting.iter().filter(|w| w.warp == waiting.warp);
            warp.meet(of_warp.fold(0, |all, w| all | w.mask));
            warp.learn(waiting.mask, &bar.clock, Some(&bar.clock_async));
            for split in &mut warp.splits {
                if split.state == State::Bar(id) && split.mask & waiting.mask != 0 {
                    split.state = State::Run;
                }
            }
            let value = match waiting.kind {
                BarKind::RedAnd => u32::from(bar.all),
                BarKind::RedOr => u32::from(bar.ones > 0),
                _ => bar.ones,
            };
            warp.set32(waiting.dst, &[value; 32], waiting.mask);
            let flag = if value != 0 { u32::MAX } else { 0 };
            warp.set_pred(waiting.p, flag, waiting.mask);
        }
    }
}
