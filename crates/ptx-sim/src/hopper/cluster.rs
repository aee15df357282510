//! Clusters: peers' shared memory, the cluster barrier, setmaxnreg.

use crate::clock::Clock;
use crate::machine::Machine;
use crate::op::{Dst, Src};
use crate::warp::{State, Warp};

/// The barrier of a cluster.
#[derive(Debug, Default)]
pub(crate) struct Barrier {
    phase: u64,
    arrived: u32,
    g: Clock,
    a: Clock,
    /// What the last completed phase published.
    done: (Clock, Clock),
}

impl Machine<'_> {
    fn first_of(&self, slot: usize) -> usize {
        slot - self.ctas[slot].rank as usize
    }

    pub(super) fn mapa(
        &mut self,
        warp: &mut Warp,
        pc: u32,
        exec: u32,
        dst: Dst,
        src: Src,
        rank: Src,
    ) {
        let (address, ranks) = (self.value64(warp, src), self.value32(warp, rank));
        let size = self.cluster_size;
        if let Some(lane) = crate::machine::lanes(exec).find(|&l| ranks[l] >= size) {
            self.error("CLUSTER-RANK", (warp, pc, Some(lane as u32)), || {
                format!("rank {} in a cluster of {size}", ranks[lane])
            });
        }
        let out = std::array::from_fn(|l| address[l] & !0xff00_0000 | u64::from(ranks[l]) << 24);
        warp.set64(dst, &out, exec);
    }

    pub(super) fn cluster_arrive(
        &mut self,
        warp: &mut Warp,
        pc: u32,
        exec: u32,
        relaxed: bool,
        aligned: bool,
    ) {
        if aligned && exec != warp.live() {
            self.error("BAR-DIVERGED", (warp, pc, None), || {
                format!(
                    "lanes {exec:#010x} execute an aligned barrier, {:#010x} are live",
                    warp.live()
                )
            });
        }
        if warp.hopper.arrived.is_some() {
            return self.stop("CLUSTER-BARRIER-ORDER", (warp, pc, None), || {
                "arrives at the cluster barrier twice with no wait between".into()
            });
        }
        let (g, a) = (warp.published(), warp.published_async());
        let first = self.first_of(warp.slot);
        let barrier = &mut self.ctas[first].hopper.barrier;
        warp.hopper.arrived = Some(barrier.phase);
        barrier.arrived += 1;
        if !relaxed {
            barrier.g.join(&g);
            barrier.a.join(&a);
        }
        self.hopper.cluster_checks.push(first);
    }

    pub(super) fn cluster_wait(
        &mut self,
        warp: &mut Warp,
        (s, pc, exec): (usize, u32, u32),
        aligned: bool,
    ) {
        if aligned && exec != warp.live() {
            self.error("BAR-DIVERGED", (warp, pc, None), || {
                format!(
                    "lanes {exec:#010x} execute an aligned barrier, {:#010x} are live",
                    warp.live()
                )
            });
        }
        let Some(phase) = warp.hopper.arrived else {
            return self.stop("CLUSTER-BARRIER-ORDER", (warp, pc, None), || {
                "waits at the cluster barrier without having arrived".into()
            });
        };
        let first = self.first_of(warp.slot);
        let barrier = &self.ctas[first].hopper.barrier;
        if barrier.phase > phase {
            let (g, a) = barrier.done.clone();
            pass(warp, exec, &g, &a);
        } else {
            warp.splits[s].state = State::Cluster;
            self.hopper.cluster_checks.push(first);
        }
    }

    /// Exited warps count as arrived.
    pub(super) fn cluster_exit(&mut self, slot: usize) {
        let first = self.first_of(slot);
        self.hopper.cluster_checks.push(first);
    }

    /// Completes the phase of a cluster's barrier if everyone has arrived, and lets waiters go on.
    pub(super) fn cluster_release(&mut self, first: usize) {
        if first >= self.ctas.len() {
            return;
        }
        let slots = first..first + self.cluster_size as usize;
        let running: u32 = slots.clone().map(|slot| self.ctas[slot].running).sum();
        // A warp that exits after arriving counts once.
        let exited: u32 = slots
            .clone()
            .flat_map(|slot| self.ctas[slot].warps.iter().flatten())
            .filter(|w| w.live() == 0 && w.hopper.arrived.is_some())
            .count() as u32;
        let barrier = &mut self.ctas[first].hopper.barrier;
        if barrier.arrived == 0 || barrier.arrived < running + exited {
            return;
        }
        barrier.phase += 1;
        barrier.arrived = 0;
        let (g, a) = (std::mem::take(&mut barrier.g), std::mem::take(&mut barrier.a));
        barrier.done = (g.clone(), a.clone());
        for slot in slots {
            for warp in self.ctas[slot].warps.iter_mut().flatten() {
                if warp.live() == 0 {
                    warp.hopper.arrived = None;
                }
                let mut waits = 0;
                for split in &mut warp.splits {
                    if split.state == State::Cluster {
                        split.state = State::Run;
                        waits |= split.mask;
                    }
                }
                if waits != 0 {
                    pass(warp, waits, &g, &a);
                }
            }
        }
    }

    pub(super) fn set_max_regs(
        &mut self,
        warp: &mut Warp,
        (s, pc): (usize, u32),
        n: u32,
        grow: bool,
    ) {
        let threads = (self.warps_per_cta * 32).max(1);
        let entry = (65536 / threads / 8 * 8).min(256);
        let now = warp.hopper.regs.unwrap_or(entry);
        if grow && n < now || !grow && n > now {
            return self.stop("SETMAXNREG", (warp, pc, None), || {
                format!("{} {n} with {now} registers", if grow { "inc" } else { "dec" })
            });
        }
        let pool = &mut self.ctas[warp.slot].hopper.pool;
        if grow {
            if *pool < n - now {
                // Tried again when others have given back.
                warp.splits[s].pc = pc;
                warp.splits[s].spinning = true;
                return;
            }
            *pool -= n - now;
        } else {
            *pool += now - n;
        }
        warp.hopper.regs = Some(n);
    }
}

/// A warp passes the cluster barrier.
fn pass(warp: &mut Warp, mask: u32, g: &Clock, a: &Clock) {
    warp.meet(mask);
    warp.learn(mask, g, Some(a));
    warp.hopper.arrived = None;
    warp.hopper.phases += 1;
}
