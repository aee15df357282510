//! The state of one warp.

use crate::clock::Clock;
use crate::module::Program;
use crate::op::{Dst, PSrc, Scope};
use std::collections::BTreeMap;

/// Why lanes do not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Run,
    /// At barrier so-and-so.
    Bar(u32),
    /// For the other lanes that its member mask names.
    Members,
    /// At the cluster barrier.
    Cluster,
    /// Waits for the other warps of its warpgroup.
    Group,
    /// Waits for registers of the block's pool.
    Registers,
}

/// Lanes that run together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Split {
    pub(crate) pc: u32,
    pub(crate) mask: u32,
    /// Index into `joins`, plus one; 0 at the top.
    pub(crate) join: u32,
    pub(crate) state: State,
    /// The last instruction was a wait that failed.
    pub(crate) spinning: bool,
}

/// A point where the sides of a branch meet.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Join {
    pub(crate) pc: u32,
    pub(crate) expected: u32,
    pub(crate) arrived: u32,
    pub(crate) parent: u32,
    pub(crate) live: bool,
}

/// What is known about a register, beside its value. One bit per lane.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Meta {
    pub(crate) written: u32,
    pub(crate) undefined: u32,
    /// Instruction the undefinedness came from.
    pub(crate) origin: u32,
    /// Identifies the wgmma in flight that it belongs to; 0 none. Odd: as accumulator.
    pub(crate) flight: u32,
    /// Accessed since the last wgmma.fence.
    pub(crate) touched: bool,
}

/// A `cp.async` that is not retired.
#[derive(Debug, Clone)]
pub(crate) struct Copy {
    pub(crate) lane: u8,
    pub(crate) group: u32,
    pub(crate) clock: u32,
    pub(crate) bytes: u8,
    pub(crate) src_bytes: u8,
    /// Offset in the block's shared memory.
    pub(crate) to: u32,
    pub(crate) from: u64,
    /// Not yet moved: with the data, if it was read at issue.
    pub(crate) pending: Option<Option<([u8; 16], bool)>>,
}

/// What fences publish and have pending, see the chapter on the happens-before engine.
#[derive(Debug, Default)]
pub(crate) struct Fences {
    /// Snapshots by scope: `released[s]` is what a strong write publishes at scope `s`.
    pub(crate) released: BTreeMap<Scope, Clock>,
    /// What strong reads saw, until an acquire.
    pub(crate) pending: BTreeMap<Scope, Clock>,
}

#[derive(Debug)]
pub(crate) struct Warp {
    /// Slot of the block among the resident ones, and the warp in the block.
    pub(crate) slot: usize,
    pub(crate) index: u32,
    /// Number over the launch.
    pub(crate) number: u32,
    /// Lanes that exist.
    pub(crate) lanes: u32,
    pub(crate) exited: u32,
    pub(crate) clock: u32,
    /// What its generic accesses are ordered after.
    pub(crate) g: Clock,
    /// What asynchronous operations that it issues are ordered after.
    pub(crate) a: Clock,
    /// What single lanes know beyond `g` and `a`.
    pub(crate) over: Vec<Option<Box<(Clock, Clock)>>>,
    pub(crate) overlays: bool,
    /// Each lane's last barrier of the warp.
    pub(crate) sync: [(u32, u32); 32],
    /// Each lane's copies up to this clock are retired.
    pub(crate) retired: [u32; 32],
    /// Groups each lane has committed.
    pub(crate) committed: [u32; 32],
    pub(crate) copies: Vec<Copy>,
    pub(crate) fences: Vec<Option<Box<Fences>>>,
    pub(crate) r32: Vec<[u32; 32]>,
    pub(crate) r64: Vec<[u64; 32]>,
    pub(crate) preds: Vec<u32>,
    pub(crate) meta: Vec<Meta>,
    pub(crate) carry: u32,
    pub(crate) splits: Vec<Split>,
    pub(crate) joins: Vec<Join>,
    pub(crate) turn: usize,
    /// It used up its last turn.
    pub(crate) tired: bool,
    /// Local memory, lane after lane.
    pub(crate) local: Vec<u8>,
    pub(crate) local_defined: Vec<bool>,
    pub(crate) hopper: crate::hopper::WarpState,
}

impl Warp {
    pub(crate) fn new(
        program: &Program,
        slot: usize,
        index: u32,
        number: u32,
        lanes: u32,
        clock: Clock,
    ) -> Self {
        let local = 32 * program.local_bytes as usize;
        Warp {
            slot,
            index,
            number,
            lanes,
            exited: 0,
            clock: 1,
            g: clock.clone(),
            a: clock,
            over: (0..32).map(|_| None).collect(),
            overlays: false,
            sync: [(0, 0); 32],
            retired: [0; 32],
            committed: [0; 32],
            copies: Vec::new(),
            fences: (0..32).map(|_| None).collect(),
            r32: vec![[0; 32]; program.n32 as usize],
            r64: vec![[0; 32]; program.n64 as usize],
            preds: vec![0; program.preds as usize],
            meta: vec![Meta::default(); program.names.len()],
            carry: 0,
            splits: vec![Split { pc: 0, mask: lanes, join: 0, state: State::Run, spinning: false }],
            joins: Vec::new(),
            turn: 0,
            tired: false,
            local: vec![0xff; local],
            local_defined: vec![false; local],
            hopper: Default::default(),
        }
    }

    /// Stands in a warp's place while it is elsewhere.
    pub(crate) fn placeholder() -> Self {
        let program = Program {
            code: Vec::new(),
            n32: 0,
            n64: 0,
            preds: 0,
            names: Vec::new(),
            local_bytes: 0,
            labels: Vec::new(),
            wgmma: false,
        };
        Warp::new(&program, 0, 0, 0, 0, Clock::default())
    }

    /// Lanes that have not exited.
    pub(crate) fn live(&self) -> u32 {
        self.lanes & !self.exited
    }

    /// Some lanes wait for nothing.
    pub(crate) fn can_run(&self) -> bool {
        self.splits.iter().any(|split| split.state == State::Run)
    }

    pub(crate) fn pred(&self, p: PSrc) -> u32 {
        match p {
            PSrc::Reg(p, false) => self.preds[p as usize],
            PSrc::Reg(p, true) => !self.preds[p as usize],
            PSrc::Const(true) => u32::MAX,
            PSrc::Const(false) => 0,
        }
    }

    pub(crate) fn set_pred(&mut self, p: Option<u32>, value: u32, mask: u32) {
        if let Some(p) = p {
            let slot = &mut self.preds[p as usize];
            *slot = *slot & !mask | value & mask;
        }
    }

    pub(crate) fn set32(&mut self, dst: Dst, value: &[u32; 32], mask: u32) {
        match dst {
            Dst::R32(r) => {
                let slot = &mut self.r32[r as usize];
                if mask == u32::MAX {
                    *slot = *value;
                } else {
                    for lane in 0..32 {
                        if mask >> lane & 1 == 1 {
                            slot[lane] = value[lane];
                        }
                    }
                }
            }
            Dst::R64(r) => {
                for (lane, value) in value.iter().enumerate() {
                    if mask >> lane & 1 == 1 {
                        self.r64[r as usize][lane] = u64::from(*value);
                    }
                }
            }
            Dst::Sink => {}
        }
    }

    pub(crate) fn set64(&mut self, dst: Dst, value: &[u64; 32], mask: u32) {
        match dst {
            Dst::R64(r) => {
                let slot = &mut self.r64[r as usize];
                if mask == u32::MAX {
                    *slot = *value;
                } else {
                    for lane in 0..32 {
                        if mask >> lane & 1 == 1 {
                            slot[lane] = value[lane];
                        }
                    }
                }
            }
            Dst::R32(r) => {
                for (lane, value) in value.iter().enumerate() {
                    if mask >> lane & 1 == 1 {
                        self.r32[r as usize][lane] = *value as u32;
                    }
                }
            }
            Dst::Sink => {}
        }
    }

    pub(crate) fn set_lane(&mut self, dst: Dst, lane: usize, value: u64) {
        match dst {
            Dst::R32(r) => self.r32[r as usize][lane] = value as u32,
            Dst::R64(r) => self.r64[r as usize][lane] = value,
            Dst::Sink => {}
        }
    }

    /// The number of a destination register in `meta`.
    pub(crate) fn meta_of(&self, dst: Dst) -> Option<usize> {
        match dst {
            Dst::R32(r) => Some(r as usize),
            Dst::R64(r) => Some(self.r32.len() + r as usize),
            Dst::Sink => None,
        }
    }

    /// Marks lanes of a register undefined or defined.
    pub(crate) fn mark(&mut self, dst: Dst, mask: u32, undefined: u32, origin: u32) {
        if let Some(m) = self.meta_of(dst) {
            let meta = &mut self.meta[m];
            meta.written |= mask;
            meta.undefined = meta.undefined & !mask | undefined & mask;
            if undefined & mask != 0 {
                meta.origin = origin;
            }
        }
    }

    /// What the warp's later releases publish: its clock, and copies every lane has retired.
    pub(crate) fn published(&self) -> Clock {
        let mut clock = self.g.clone();
        clock.raise(crate::clock::generic(self.number), self.clock);
        clock.raise(crate::clock::copies(self.number), self.retired_by_all());
        if self.overlays {
            for over in self.over.iter().flatten() {
                clock.join(&over.0);
            }
        }
        clock
    }

    /// What asynchronous operations after a barrier are ordered after.
    pub(crate) fn published_async(&self) -> Clock {
        let mut clock = self.a.clone();
        if self.overlays {
            for over in self.over.iter().flatten() {
                clock.join(&over.1);
            }
        }
        clock
    }

    /// Up to this clock no lane has a copy in flight.
    pub(crate) fn retired_by_all(&self) -> u32 {
        let oldest = self.copies.iter().map(|copy| copy.clock).min();
        oldest.map_or(self.clock, |clock| clock - 1)
    }

    /// What one lane publishes.
    pub(crate) fn published_by(&self, lane: usize) -> Clock {
        let mut clock = self.g.clone();
        clock.raise(crate::clock::generic(self.number), self.clock);
        clock.raise(crate::clock::copies(self.number), self.retired_by_all());
        if let Some(over) = &self.over[lane] {
            clock.join(&over.0);
        }
        clock
    }

    /// All live lanes of `mask` learn what is in `clock`; the warp does if they are all that live.
    pub(crate) fn learn(&mut self, mask: u32, g: &Clock, a: Option<&Clock>) {
        if mask & self.live() == self.live() {
            self.g.join(g);
            if let Some(a) = a {
                self.a.join(a);
            }
            return;
        }
        self.overlays = true;
        for lane in (0..32).filter(|lane| mask >> lane & 1 == 1) {
            let over = self.over[lane].get_or_insert_default();
            over.0.join(g);
            if let Some(a) = a {
                over.1.join(a);
            }
        }
    }

    /// Lanes of `mask` have met at a barrier: what one knew all know, copies included.
    pub(crate) fn meet(&mut self, mask: u32) {
        let whole = mask & self.live() == self.live();
        if self.overlays || !whole {
            let (mut g, mut a) = (Clock::default(), Clock::default());
            for lane in (0..32).filter(|lane| mask >> lane & 1 == 1) {
                if let Some(over) = &self.over[lane] {
                    g.join(&over.0);
                    a.join(&over.1);
                }
            }
            if whole {
                self.overlays = false;
                self.over.iter_mut().for_each(|over| *over = None);
            }
            self.learn(mask, &g, Some(&a));
        }
        let copies = crate::clock::copies(self.number);
        let retired = self.retired_by_all();
        if whole {
            self.g.raise(copies, retired);
        } else {
            let mut known = Clock::default();
            known.raise(copies, retired);
            self.learn(mask, &known, None);
        }
        let lanes = if whole { u32::MAX } else { mask };
        for lane in (0..32).filter(|lane| mask >> lane & 1 == 1) {
            self.sync[lane] = (self.clock, lanes);
        }
    }
}
