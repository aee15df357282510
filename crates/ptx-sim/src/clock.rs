//! Vector clocks over actors: every warp is two (its own accesses, its retired `cp.async` copies),
//! every operation of the asynchronous proxy is one.

use std::collections::BTreeMap;

/// Who accesses memory. 0 is nobody.
pub(crate) type Actor = u32;

/// Operations of the asynchronous proxy carry this bit.
pub(crate) const OPERATION: Actor = 0x8000_0000;

/// The actor of a warp's own accesses; `warp` counts over the launch.
pub(crate) fn generic(warp: u32) -> Actor {
    2 * warp + 2
}

/// The actor of a warp's `cp.async` copies.
pub(crate) fn copies(warp: u32) -> Actor {
    2 * warp + 3
}

/// The warp, over the launch, behind an actor that is not an operation.
pub(crate) fn warp_of(actor: Actor) -> u32 {
    (actor - 2) / 2
}

pub(crate) fn is_copy(actor: Actor) -> bool {
    actor & OPERATION == 0 && actor & 1 == 1
}

pub(crate) fn is_async(actor: Actor) -> bool {
    actor & OPERATION != 0 || actor & 1 == 1
}

/// What someone's accesses are ordered after. Dense for the warps of the own cluster.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Clock {
    base: Actor,
    near: Vec<u32>,
    far: BTreeMap<Actor, u32>,
}

impl Clock {
    /// An empty clock, dense for `warps` warps from `first` on.
    pub(crate) fn near(first: u32, warps: u32) -> Self {
        Clock { base: generic(first), near: vec![0; 2 * warps as usize], far: BTreeMap::new() }
    }

    pub(crate) fn get(&self, actor: Actor) -> u32 {
        match self.near.get(actor.wrapping_sub(self.base) as usize) {
            Some(clock) => *clock,
            None if self.far.is_empty() => 0,
            None => self.far.get(&actor).copied().unwrap_or(0),
        }
    }

    pub(crate) fn raise(&mut self, actor: Actor, clock: u32) {
        if clock == 0 {
            return;
        }
        let slot = match self.near.get_mut(actor.wrapping_sub(self.base) as usize) {
            Some(slot) => slot,
            None => self.far.entry(actor).or_insert(0),
        };
        *slot = (*slot).max(clock);
    }

    pub(crate) fn join(&mut self, other: &Clock) {
        if self.base == other.base && self.near.len() == other.near.len() {
            for (a, b) in self.near.iter_mut().zip(&other.near) {
                *a = (*a).max(*b);
            }
        } else {
            for (i, clock) in other.near.iter().enumerate() {
                self.raise(other.base + i as u32, *clock);
            }
        }
        for (actor, clock) in &other.far {
            self.raise(*actor, *clock);
        }
    }

    /// What both know.
    pub(crate) fn meet(&mut self, other: &Clock) {
        let base = self.base;
        for (i, clock) in self.near.iter_mut().enumerate() {
            *clock = (*clock).min(other.get(base + i as u32));
        }
        for (actor, clock) in &mut self.far {
            *clock = (*clock).min(other.get(*actor));
        }
        self.far.retain(|_, clock| *clock > 0);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.far.is_empty() && self.near.iter().all(|c| *c == 0)
    }
}
