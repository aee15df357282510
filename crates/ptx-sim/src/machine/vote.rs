//! Operations across the lanes of a warp.

use super::Machine;
use super::exec::lanes;
use crate::op::{Inst, Op, ReduxOp, ShflMode, VoteMode};
use crate::warp::Warp;

impl Machine<'_> {
    /// The mask must name the lanes that execute, and no live lane beside them.
    pub(crate) fn check_members(&mut self, warp: &Warp, pc: u32, exec: u32, masks: &[u32; 32]) {
        let Some(lane) =
            lanes(exec).find(|&l| masks[l] & warp.live() != exec || masks[l] & exec != exec)
        else {
            return;
        };
        let mask = masks[lane];
        self.error("WARP-MASK", (warp, pc, Some(lane as u32)), || {
            format!(
                "mask {mask:#010x}, but lanes {exec:#010x} execute; live are {:#010x}",
                warp.live()
            )
        });
    }

    pub(super) fn shuffle(
        &mut self,
        warp: &mut Warp,
        pc: u32,
        exec: u32,
        inst: &Inst,
        taint: (u32, u32),
    ) {
        let Op::Shfl { mode, dst, p, src, b, c, mask } = &inst.op else { return };
        let mask = self.value32(warp, *mask);
        self.check_members(warp, pc, exec, &mask);
        let (value, b, c) =
            (self.value32(warp, *src), self.value32(warp, *b), self.value32(warp, *c));
        let undefined = match src {
            crate::op::Src::R32(r) => warp.meta[*r as usize].undefined,
            _ => 0,
        };
        let mut out = value;
        let (mut flags, mut und) = (0, 0);
        let mut inactive = None;
        for lane in lanes(exec) {
            let (from, inside) = shuffle_source(*mode, lane as u32, b[lane], c[lane]);
            flags |= u32::from(inside) << lane;
            let from = if inside { from as usize } else { lane };
            if exec >> from & 1 == 0 {
                inactive = inactive.or(Some((lane, from)));
            }
            out[lane] = value[from];
            und |= (undefined >> from & 1) << lane;
        }
        if let Some((lane, from)) = inactive {
            self.error("SHFL-INACTIVE", (warp, pc, Some(lane as u32)), || {
                format!("reads lane {from}, which does not execute it")
            });
        }
        warp.set32(*dst, &out, exec);
        warp.set_pred(*p, flags, exec);
        warp.mark(*dst, exec, und, taint.1);
        if let Some(p) = p {
            let meta = &mut warp.meta[self.program.meta_pred(*p) as usize];
            meta.written |= exec;
            meta.undefined &= !exec;
        }
    }

    pub(super) fn collective(&mut self, warp: &mut Warp, pc: u32, exec: u32, inst: &Inst) {
        match &inst.op {
            Op::Vote { mode, dst, p, a, mask } => {
                let mask = self.value32(warp, *mask);
                self.check_members(warp, pc, exec, &mask);
                let ones = warp.pred(*a) & exec;
                let flag = match mode {
                    VoteMode::All => ones == exec,
                    VoteMode::Any => ones != 0,
                    VoteMode::Uni => ones == exec || ones == 0,
                    VoteMode::Ballot => false,
                };
                warp.set32(*dst, &[ones; 32], exec);
                warp.set_pred(*p, if flag { u32::MAX } else { 0 }, exec);
            }
            Op::Match { all, wide, dst, p, src, mask } => {
                let mask = self.value32(warp, *mask);
                self.check_members(warp, pc, exec, &mask);
                let value = match wide {
                    true => self.value64(warp, *src),
                    false => self.value32(warp, *src).map(u64::from),
                };
                let same = |lane: usize| {
                    lanes(exec).filter(|&l| value[l] == value[lane]).fold(0u32, |m, l| m | 1 << l)
                };
                let mut out = [0; 32];
                let mut flags = 0;
                for lane in lanes(exec) {
                    out[lane] = match all {
                        true if same(lane) == exec => exec,
                        true => 0,
                        false => same(lane),
                    };
                    flags |= u32::from(same(lane) == exec) << lane;
                }
                warp.set32(*dst, &out, exec);
                warp.set_pred(*p, flags, exec);
            }
            Op::Redux { op, dst, src, mask } => {
                let mask = self.value32(warp, *mask);
                self.check_members(warp, pc, exec, &mask);
                let value = self.value32(warp, *src);
                let result = lanes(exec).map(|l| value[l]).reduce(|a, b| match op {
                    ReduxOp::AddU => a.wrapping_add(b),
                    ReduxOp::MinU => a.min(b),
                    ReduxOp::MaxU => a.max(b),
                    ReduxOp::MinS => (a as i32).min(b as i32) as u32,
                    ReduxOp::MaxS => (a as i32).max(b as i32) as u32,
                    ReduxOp::And => a & b,
                    ReduxOp::Or => a | b,
                    ReduxOp::Xor => a ^ b,
                });
                warp.set32(*dst, &[result.unwrap_or(0); 32], exec);
            }
            _ => {}
        }
    }
}

/// Source lane of `shfl.sync`, and whether it is in the segment: PTX ISA, shfl.sync.
fn shuffle_source(mode: ShflMode, lane: u32, b: u32, c: u32) -> (u32, bool) {
    let (b, clamp, segment) = (b & 31, c & 31, c >> 8 & 31);
    let max = lane & segment | clamp & !segment;
    let min = lane & segment;
    let (from, inside) = match mode {
        ShflMode::Up => {
            let from = lane.wrapping_sub(b);
            (from, from as i32 >= max as i32)
        }
        ShflMode::Down => (lane + b, lane + b <= max),
        ShflMode::Bfly => (lane ^ b, lane ^ b <= max),
        ShflMode::Idx => {
            let from = min | b & !segment;
            (from, from <= max)
        }
    };
    (if inside { from } else { lane }, inside)
}
