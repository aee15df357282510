//! Where the lanes of a warp go: branches, meeting points, exits, and waiting for one another.

use super::Machine;
use super::exec::lanes;
use crate::op::Src;
use crate::warp::{Join, Split, State, Warp};

impl Machine<'_> {
    /// The lanes that execute an instruction with a member mask together, from this split and from those
    /// that wait at it; none while lanes are missing, for which the split then waits.
    pub(super) fn assemble(
        &self,
        warp: &mut Warp,
        s: usize,
        exec: u32,
        guard: Option<(u32, bool)>,
        mask: Src,
    ) -> Option<u32> {
        let mask = self.value32(warp, mask)[exec.trailing_zeros() as usize];
        let needed = mask & warp.live();
        if exec & !mask != 0 || needed == exec {
            return Some(exec);
        }
        let pass = match guard {
            None => u32::MAX,
            Some((p, negated)) => warp.preds[p as usize] ^ if negated { u32::MAX } else { 0 },
        };
        let pc = warp.splits[s].pc;
        let waits = |split: &Split| split.pc == pc && split.state == State::Members;
        let others = warp.splits.iter().filter(|split| waits(split));
        let together = others.fold(exec, |all, split| all | split.mask & pass);
        if together != needed {
            warp.splits[s].state = State::Members;
            return None;
        }
        for split in warp.splits.iter_mut().filter(|split| waits(split)) {
            split.state = State::Run;
            split.pc = pc + 1;
        }
        Some(together)
    }

    pub(super) fn branch(&mut self, warp: &mut Warp, s: usize, taken: u32, target: u32, join: u32) {
        let split = warp.splits[s];
        if taken == split.mask {
            warp.splits[s].pc = target;
            return;
        }
        let parent = self.join_at(warp, split, join);
        warp.splits[s].mask = split.mask & !taken;
        warp.splits[s].join = parent;
        warp.splits.push(Split { pc: target, mask: taken, join: parent, ..split });
    }

    /// The join that the sides of a split's branch go to.
    pub(super) fn join_at(&self, warp: &mut Warp, split: Split, pc: u32) -> u32 {
        if split.join != 0 && warp.joins[split.join as usize - 1].pc == pc {
            return split.join;
        }
        let join = Join { pc, expected: split.mask, arrived: 0, parent: split.join, live: true };
        match warp.joins.iter().position(|j| !j.live) {
            Some(i) => {
                warp.joins[i] = join;
                i as u32 + 1
            }
            None => {
                warp.joins.push(join);
                warp.joins.len() as u32
            }
        }
    }

    /// If all lanes expected at a join have come or exited, they go on together.
    pub(super) fn meet_up(&mut self, warp: &mut Warp, join: u32) {
        let j = warp.joins[join as usize - 1];
        if !j.live || j.arrived != j.expected {
            return;
        }
        warp.joins[join as usize - 1].live = false;
        if j.arrived != 0 {
            warp.splits.push(Split {
                pc: j.pc,
                mask: j.arrived,
                join: j.parent,
                state: State::Run,
                spinning: false,
            });
        }
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn branch_by_index(
        &mut self,
        warp: &mut Warp,
        s: usize,
        pc: u32,
        exec: u32,
        index: Src,
        targets: &[u32],
        join: u32,
    ) {
        let index = self.value32(warp, index);
        let split = warp.splits[s];
        let parent = self.join_at(warp, split, join);
        for (i, target) in targets.iter().enumerate() {
            let mask = lanes(exec).filter(|&l| index[l] == i as u32).fold(0, |m, l| m | 1 << l);
            if mask != 0 {
                warp.splits.push(Split {
                    pc: *target,
                    mask,
                    join: parent,
                    state: State::Run,
                    spinning: false,
                });
            }
        }
        if let Some(lane) = lanes(exec).find(|&l| index[l] as usize >= targets.len()) {
            self.stop("BRX-INDEX", (warp, pc, Some(lane as u32)), || {
                format!("index {} of {} targets", index[lane], targets.len())
            });
        }
        let rest = split.mask & !exec;
        if rest == 0 {
            warp.splits.swap_remove(s);
        } else {
            warp.splits[s] = Split { mask: rest, join: parent, ..warp.splits[s] };
        }
    }

    pub(super) fn exit(&mut self, warp: &mut Warp, s: usize, exec: u32) {
        warp.exited |= exec;
        warp.splits[s].mask &= !exec;
        if warp.splits[s].mask == 0 {
            warp.splits.swap_remove(s);
        }
        // Who waits for lanes of a mask may have waited for these.
        for split in warp.splits.iter_mut().filter(|split| split.state == State::Members) {
            split.state = State::Run;
        }
        for join in 0..warp.joins.len() {
            if warp.joins[join].live {
                warp.joins[join].expected &= !exec;
                self.meet_up(warp, join as u32 + 1);
            }
        }
    }
}
