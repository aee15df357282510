//! Which warp runs next.

use super::Machine;
use crate::diag::Severity;
use crate::options::{Options, Schedule};
use crate::warp::State;
use crate::{Diag, hopper};

/// Instructions after which even a greedy schedule lets others run: what a warp may be waiting for
/// without saying so.
const GREEDY: u32 = 20_000;

/// Sweeps without progress after which every wait has been tried again: a wait and its loop are a
/// few instructions.
const IDLE: u32 = 8;

pub(super) struct Scheduler {
    options: Options,
    /// Priorities of (slot, warp) pairs by launch-wide warp number.
    priorities: Vec<u64>,
    /// Warp instructions until the next change of priorities.
    change_in: u64,
    changes: u32,
    state: u64,
    /// Warps that can run, kept for its memory: slot, warp, number.
    all: Vec<(usize, usize, u32)>,
}

impl Scheduler {
    pub(super) fn new(options: Options) -> Self {
        let seed = match options.schedule {
            Schedule::Pct(seed, _) | Schedule::Random(seed) => seed,
            _ => options.seed,
        };
        let changes = match options.schedule {
            Schedule::Pct(_, depth) => depth,
            _ => 0,
        };
        let mut s = Scheduler {
            options,
            priorities: Vec::new(),
            change_in: 0,
            changes,
            state: seed.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1,
            all: Vec::new(),
        };
        s.change_in = 100 + s.draw(5000);
        s
    }

    fn draw(&mut self, n: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 32) % n.max(1)
    }

    /// Runs the resident blocks until one finishes or the launch stops.
    pub(super) fn run(&mut self, machine: &mut Machine<'_>) {
        let resident = machine.ctas.len();
        let mut idle = 0;
        while machine.ctas.len() == resident && !machine.fatal {
            if machine.lane_steps > self.options.step_budget {
                timeout(machine);
                return;
            }
            idle = if self.sweep(machine) { 0 } else { idle + 1 };
            if idle >= IDLE && machine.ctas.len() == resident && !machine.fatal {
                // Nothing but failed waits: what is in flight must land, or nothing ever happens.
                if !hopper::force(machine) {
                    deadlock(machine);
                    return;
                }
                idle = 0;
            }
            machine.retire();
        }
    }

    /// Every warp once, or as the schedule says; whether anything happened.
    fn sweep(&mut self, machine: &mut Machine<'_>) -> bool {
        if let Schedule::Random(_) = self.options.schedule {
            return self.any(machine);
        }
        let mut all = std::mem::take(&mut self.all);
        all.clear();
        for (slot, cta) in machine.ctas.iter().enumerate() {
            for (w, warp) in cta.warps.iter().enumerate() {
                if let Some(warp) = warp
                    && warp.can_run()
                {
                    all.push((slot, w, warp.number));
                }
            }
        }
        let progress = match self.options.schedule {
            Schedule::RoundRobin(n) => {
                let mut progress = false;
                for &(slot, w, _) in &all {
                    progress |= machine.quantum(slot, w, n);
                    if machine.fatal {
                        break;
                    }
                }
                progress
            }
            Schedule::GreedyDescending => {
                all.reverse();
                first(machine, &all, GREEDY)
            }
            Schedule::Pct(..) => self.by_priority(machine, &mut all),
            Schedule::Greedy | Schedule::Random(_) => first(machine, &all, GREEDY),
        };
        self.all = all;
        progress
    }

    /// One instruction of some warp: the first that gets on from a random one on.
    fn any(&mut self, machine: &mut Machine<'_>) -> bool {
        let each = machine.warps_per_cta as usize;
        let n = machine.ctas.len() * each;
        let from = self.draw(n as u64) as usize;
        for i in 0..n {
            let i = (from + i) % n;
            let runs = machine.ctas[i / each].warps[i % each].as_ref().is_some_and(|w| w.can_run());
            if runs && machine.quantum(i / each, i % each, 1) {
                return true;
            }
            if machine.fatal || machine.ctas.len() * each != n {
                break;
            }
        }
        false
    }

    fn by_priority(&mut self, machine: &mut Machine<'_>, all: &mut [(usize, usize, u32)]) -> bool {
        let most = all.iter().map(|(_, _, n)| *n as usize + 1).max().unwrap_or(0);
        while self.priorities.len() < most {
            let priority = (1 << 32) + self.draw(1 << 31);
            self.priorities.push(priority);
        }
        all.sort_by_key(|(_, _, n)| std::cmp::Reverse(self.priorities[*n as usize]));
        let n = self.change_in.clamp(1, u64::from(GREEDY)) as u32;
        let Some(&(_, _, highest)) = all.first() else { return false };
        let progress = first(machine, all, n);
        self.change_in -= u64::from(n).min(self.change_in);
        if self.change_in == 0 && self.changes > 0 {
            self.changes -= 1;
            self.change_in = 100 + self.draw(5000);
            // The running warp falls behind all others.
            self.priorities[highest as usize] = u64::from(self.changes);
        }
        if self.changes == 0 {
            self.change_in = u64::MAX;
        }
        progress
    }
}

/// The first warp that gets on runs. One that used up a whole long turn, perhaps waiting in a loop for
/// another, comes after those that did not.
fn first(machine: &mut Machine<'_>, all: &[(usize, usize, u32)], n: u32) -> bool {
    for round in 0..2 {
        for &(slot, w, _) in all {
            let Some(warp) = &mut machine.ctas[slot].warps[w] else { continue };
            if warp.tired {
                continue;
            }
            let before = warp.clock;
            let progress = machine.quantum(slot, w, n);
            if let Some(warp) = &mut machine.ctas[slot].warps[w] {
                warp.tired = n >= GREEDY && warp.clock - before >= GREEDY;
            }
            if progress {
                return true;
            }
            if machine.fatal {
                return false;
            }
        }
        if round == 0 {
            // Everyone else waits: the tired begin again, in order.
            let mut any = false;
            for &(slot, w, _) in all {
                if let Some(warp) = &mut machine.ctas[slot].warps[w] {
                    any |= warp.tired;
                    warp.tired = false;
                }
            }
            if !any {
                break;
            }
        }
    }
    false
}

impl Machine<'_> {
    /// Lets a warp execute up to `n` instructions; whether it did more than wait.
    pub(super) fn quantum(&mut self, slot: usize, w: usize, n: u32) -> bool {
        let Some(mut warp) = self.ctas[slot].warps[w].take() else { return false };
        let mut progress = false;
        let mut turn = warp.turn;
        for _ in 0..n {
            let splits = warp.splits.len();
            let Some(at) = (0..splits)
                .map(|i| (turn + i) % splits)
                .find(|&i| warp.splits[i].state == State::Run)
            else {
                break;
            };
            self.step(&mut warp, at);
            // With several splits every one gets its turn.
            turn = at + usize::from(splits > 1);
            let spins = warp.splits.get(at).is_some_and(|s| s.spinning);
            progress |= !spins;
            if self.fatal || spins || !self.arrivals.is_empty() {
                break;
            }
        }
        warp.turn = turn;
        if warp.live() == 0 && warp.splits.is_empty() {
            self.ctas[slot].running -= 1;
            self.finish_copies(&mut warp);
            for bar in 0..16 {
                self.arrivals.push((slot, bar));
            }
            hopper::warp_exits(self, &mut warp);
        }
        self.ctas[slot].warps[w] = Some(warp);
        while let Some((slot, bar)) = self.arrivals.pop() {
            self.release(slot, bar);
        }
        hopper::after_quantum(self);
        progress
    }
}

/// Stops a launch that used up its steps, and says where it spent them.
fn timeout(machine: &mut Machine<'_>) {
    let message = format!("stopped after {} lane-instructions", machine.lane_steps);
    let hottest = (0..machine.counts.len()).max_by_key(|&pc| machine.counts[pc].lane_instructions);
    let pc = hottest.unwrap_or(0);
    let label = machine.program.label_of(pc);
    let site = machine.site(pc as u32, None, None);
    let mut notes = vec![format!("most of them after label {label:?}: {site}")];
    let code = match machine.blocks_waiting() {
        0 => "TIMEOUT",
        n => {
            notes.push(format!(
                "{n} blocks have not begun: where blocks wait for one another, all must be resident"
            ));
            "GRID-COPROGRESS"
        }
    };
    machine.diags.push(Diag { notes, ..Diag::new(code, &machine.kernel, message) });
    machine.fatal = true;
}

/// Says who waits for what.
fn deadlock(machine: &mut Machine<'_>) {
    let (mut code, mut notes) = hopper::deadlock(machine);
    let mut splits =
        machine.ctas.iter().flat_map(|c| c.warps.iter().flatten()).flat_map(|w| &w.splits);
    if splits.any(|split| split.state == State::Members) {
        code = "WARP-MASK";
    }
    for (slot, cta) in machine.ctas.iter().enumerate() {
        for (id, bar) in cta.bars.iter().enumerate().filter(|(_, bar)| bar.threads > 0) {
            notes.push(format!(
                "cta {:?}: barrier {id} has {} of {} threads; {} warps of the block have not exited",
                cta.id,
                bar.threads,
                machine.expected(slot, bar),
                cta.running
            ));
        }
        for warp in cta.warps.iter().flatten() {
            for split in &warp.splits {
                let what = match split.state {
                    State::Run => "waits in a loop".to_owned(),
                    State::Bar(id) => format!("waits at barrier {id}"),
                    State::Members => "waits for the lanes that its mask names".into(),
                    State::Cluster => "waits at the cluster barrier".into(),
                    State::Group => "waits for its warpgroup".into(),
                    State::Registers => "waits for registers".into(),
                };
                let site = machine.site(
                    (split.pc.max(1) - 1).min(machine.program.code.len() as u32 - 1),
                    Some(warp),
                    None,
                );
                notes.push(format!("lanes {:#010x} {what}: {site}", split.mask));
            }
        }
    }
    notes.truncate(24);
    let kernel = machine.kernel.clone();
    let diag = Diag {
        severity: Severity::Error,
        notes,
        ..Diag::new(code, &kernel, "no warp can go on, and nothing is in flight")
    };
    machine.diags.push(diag);
    machine.fatal = true;
}
