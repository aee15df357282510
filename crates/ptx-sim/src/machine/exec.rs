//! One instruction of one split.

use super::Machine;
use crate::alu::{self, Kind};
use crate::hopper;
use crate::op::{BoolOp, CarryOp, CmpFn, Dst, Inst, Op, Src};
use crate::warp::Warp;

/// Blends by mask.
fn combine(op: BoolOp, a: u32, b: u32) -> u32 {
    match op {
        BoolOp::And => a & b,
        BoolOp::Or => a | b,
        BoolOp::Xor => a ^ b,
    }
}

impl<'a> Machine<'a> {
    /// Executes the next instruction of split `s`.
    pub(super) fn step(&mut self, warp: &mut Warp, s: usize) {
        let split = warp.splits[s];
        if split.join != 0 && warp.joins[split.join as usize - 1].pc == split.pc {
            warp.joins[split.join as usize - 1].arrived |= split.mask;
            warp.splits.swap_remove(s);
            self.meet_up(warp, split.join);
            return;
        }
        let program: &'a crate::module::Program = self.program;
        let pc = split.pc;
        let inst: &'a Inst = &program.code[pc as usize];
        let mut exec = split.mask;
        if let Some((p, negated)) = inst.guard {
            let meta = warp.meta[program.meta_pred(p) as usize];
            if meta.written & exec != exec {
                self.uninitialised(warp, pc, exec & !meta.written, program.meta_pred(p));
            } else if meta.undefined & exec != 0 {
                self.undefined(warp, pc, meta.undefined & exec, meta.origin, "a predicate decides");
            }
            let value = warp.preds[p as usize];
            exec &= if negated { !value } else { value };
        }
        if exec != warp.live()
            && exec != 0
            && let Some(mask) = inst.op.members()
        {
            let Some(together) = self.assemble(warp, s, exec, inst.guard, mask) else { return };
            exec = together;
        }
        warp.splits[s].pc = pc + 1;
        warp.clock += 1;
        if exec == 0 {
            return;
        }
        let lanes = u64::from(exec.count_ones());
        let counts = &mut self.counts[pc as usize];
        counts.warp_instructions += 1;
        counts.lane_instructions += lanes;
        self.lane_steps += lanes;
        let (mut und, mut origin) = (0, pc);
        for &r in &inst.reads {
            let meta = warp.meta[r as usize];
            if meta.written & exec != exec {
                self.uninitialised(warp, pc, exec & !meta.written, r);
                let missing = exec & !meta.written;
                warp.meta[r as usize].written |= missing;
                warp.meta[r as usize].undefined |= missing;
                warp.meta[r as usize].origin = pc;
                und |= missing;
            }
            if meta.undefined & exec != 0 {
                und |= meta.undefined & exec;
                origin = meta.origin;
            }
        }
        if program.wgmma {
            hopper::registers_used(self, warp, pc, inst);
        }
        // A failed wait and the branch back to it are no progress.
        if !matches!(inst.op, Op::Bra { .. } | Op::Nothing) {
            warp.splits[s].spinning = false;
        }
        self.execute(warp, s, pc, exec, inst, (und, origin));
    }

    /// Marks what an instruction wrote, with the undefinedness of what it read.
    fn wrote(warp: &mut Warp, inst: &Inst, exec: u32, (und, origin): (u32, u32)) {
        for &w in &inst.writes {
            let meta = &mut warp.meta[w as usize];
            meta.written |= exec;
            meta.undefined = meta.undefined & !exec | und;
            if und != 0 {
                meta.origin = origin;
            }
        }
    }

    #[allow(clippy::too_many_lines)]
    fn execute(
        &mut self,
        warp: &mut Warp,
        s: usize,
        pc: u32,
        exec: u32,
        inst: &'a Inst,
        taint: (u32, u32),
    ) {
        match &inst.op {
            Op::Alu { f, dst, src, cut, divides } => {
                if *divides {
                    self.check_divisor(warp, pc, exec, src[1]);
                }
                self.alu(warp, f, *dst, src, *cut, exec);
            }
            Op::Lop3 { dst, src, lut } => {
                let [a, b, c] = src.map(|src| self.value32(warp, src));
                let mut out = [0; 32];
                alu::lop3(&mut out, &a, &b, &c, *lut);
                warp.set32(*dst, &out, exec);
            }
            Op::Bfi { dst, src, wide } => {
                if *wide {
                    let [a, b, p, l] = src.map(|src| self.value64(warp, src));
                    let mut out = [0; 32];
                    alu::bfi64(&mut out, &a, &b, &p, &l);
                    warp.set64(*dst, &out, exec);
                } else {
                    let [a, b, p, l] = src.map(|src| self.value32(warp, src));
                    let mut out = [0; 32];
                    alu::bfi32(&mut out, &a, &b, &p, &l);
                    warp.set32(*dst, &out, exec);
                }
            }
            Op::Carry { op, wide, signed, dst, src, carry_in, carry_out } => {
                self.carry(warp, (*op, *wide, *signed), *dst, src, (*carry_in, *carry_out), exec);
            }
            Op::Setp { f, a, b, p, q, combine: with } => {
                let value = match f {
                    CmpFn::C32(f) => {
                        let (mut x, mut y) = ([0; 32], [0; 32]);
                        f(self.ref32(warp, *a, &mut x), self.ref32(warp, *b, &mut y))
                    }
                    CmpFn::C64(f) => f(&self.value64(warp, *a), &self.value64(warp, *b)),
                };
                let (mut first, mut second) = (value, !value);
                if let Some((op, c)) = with {
                    let c = warp.pred(*c);
                    first = combine(*op, first, c);
                    second = combine(*op, second, c);
                }
                warp.set_pred(*p, first, exec);
                warp.set_pred(*q, second, exec);
            }
            Op::SetpPair { f, a, b, p, q, combine: with } => {
                let (mut first, mut second) = f(&self.value32(warp, *a), &self.value32(warp, *b));
                if let Some((op, c)) = with {
                    let c = warp.pred(*c);
                    first = combine(*op, first, c);
                    second = combine(*op, second, c);
                }
                warp.set_pred(*p, first, exec);
                warp.set_pred(*q, second, exec);
            }
            Op::Selp { dst, a, b, p } => {
                let choose = warp.pred(*p);
                if matches!(dst, Dst::R64(_)) {
                    let (a, b) = (self.value64(warp, *a), self.value64(warp, *b));
                    let out =
                        std::array::from_fn(|l| if choose >> l & 1 == 1 { a[l] } else { b[l] });
                    warp.set64(*dst, &out, exec);
                } else {
                    let (mut x, mut y) = ([0; 32], [0; 32]);
                    let a = self.ref32(warp, *a, &mut x);
                    let b = self.ref32(warp, *b, &mut y);
                    let out =
                        std::array::from_fn(|l| if choose >> l & 1 == 1 { a[l] } else { b[l] });
                    warp.set32(*dst, &out, exec);
                }
                // Only the chosen side counts.
                let undefined = |src: &Src| match src {
                    Src::R32(r) => warp.meta[*r as usize].undefined,
                    Src::R64(r) => warp.meta[warp.r32.len() + *r as usize].undefined,
                    _ => 0,
                };
                let p_und = match p {
                    crate::op::PSrc::Reg(r, _) => {
                        warp.meta[self.program.meta_pred(*r) as usize].undefined
                    }
                    crate::op::PSrc::Const(_) => 0,
                };
                let und = p_und | undefined(a) & choose | undefined(b) & !choose;
                return Self::wrote(warp, inst, exec, (und & exec, taint.1));
            }
            Op::Pred { op, dst, a, b } => {
                let value = combine(*op, warp.pred(*a), warp.pred(*b));
                warp.set_pred(*dst, value, exec);
            }
            Op::Mov { dst, src } => match dst {
                Dst::R64(_) => warp.set64(*dst, &self.value64(warp, *src), exec),
                _ => warp.set32(*dst, &self.value32(warp, *src), exec),
            },
            Op::Pack { dst, src, bits } => {
                let mut out = [0u64; 32];
                for (i, part) in src.iter().enumerate() {
                    let part = self.value64(warp, *part);
                    for lane in 0..32 {
                        out[lane] |= part[lane] << (i as u32 * bits);
                    }
                }
                warp.set64(*dst, &out, exec);
            }
            Op::Unpack { dst, src, bits } => {
                let value = self.value64(warp, *src);
                let mask = if *bits >= 64 { u64::MAX } else { (1 << bits) - 1 };
                for (i, part) in dst.iter().enumerate() {
                    let out = value.map(|v| v >> (i as u32 * bits) & mask);
                    warp.set64(*part, &out, exec);
                }
            }
            Op::Cvta { dst, src, space, to } => {
                let value = self.value64(warp, *src);
                let out = value.map(|v| match to {
                    true => Self::from_generic(*space, v),
                    false => Self::to_generic(*space, v),
                });
                warp.set64(*dst, &out, exec);
            }
            Op::Isspacep { p, src, space } => {
                let value = self.value64(warp, *src);
                let mut out = 0;
                for (lane, v) in value.iter().enumerate() {
                    let found = Self::space_of(*v);
                    let same = found == *space
                        || found == crate::op::Space::Cluster && *space == crate::op::Space::Shared;
                    out |= u32::from(same) << lane;
                }
                warp.set_pred(*p, out, exec);
            }
            Op::Ld { .. } => return self.load(warp, pc, exec, inst, taint),
            Op::St { .. } => return self.store(warp, pc, exec, inst, taint),
            Op::Atom { .. } => return self.atomic(warp, pc, exec, inst, taint),
            Op::CpAsync { .. } => return self.copy_async(warp, pc, exec, inst, taint),
            Op::CpCommit => {
                for lane in lanes(exec) {
                    warp.committed[lane] += 1;
                }
            }
            Op::CpWait { keep } => self.wait_copies(warp, exec, Some(*keep)),
            Op::CpWaitAll => self.wait_copies(warp, exec, None),
            Op::Ldmatrix { mem, dst, trans } => {
                return self.ldmatrix(warp, (pc, exec), mem, dst, *trans);
            }
            Op::Stmatrix { mem, src, trans } => {
                return self.stmatrix(warp, (pc, exec), mem, src, *trans);
            }
            Op::Movmatrix { dst, src } => self.movmatrix(warp, pc, exec, *dst, *src),
            Op::Mma { f, d, a, b, c } => return self.mma(warp, pc, exec, f, d, a, b, c, taint.1),
            Op::Shfl { .. } => return self.shuffle(warp, pc, exec, inst, taint),
            Op::Vote { .. } | Op::Match { .. } | Op::Redux { .. } => {
                self.collective(warp, pc, exec, inst);
                let und = if taint.0 != 0 { exec } else { 0 };
                return Self::wrote(warp, inst, exec, (und, taint.1));
            }
            Op::Activemask { dst } => warp.set32(*dst, &[warp.splits[s].mask; 32], exec),
            Op::BarWarp { mask } => {
                let mask = self.value32(warp, *mask);
                self.check_members(warp, pc, exec, &mask);
                warp.meet(exec);
            }
            Op::Bar { kind, aligned, id, count, pred, dst, p } => {
                if taint.0 != 0 {
                    self.undefined(warp, pc, taint.0, taint.1, "a barrier operand is");
                }
                self.bar(warp, (s, pc, exec), (*kind, *aligned), *id, *count, *pred, (*dst, *p));
            }
            Op::Fence { scope } => self.fence(warp, exec, *scope),
            Op::Bra { target, uniform } => {
                if *uniform && exec != warp.splits[s].mask {
                    self.error("BRA-UNI", (warp, pc, None), || {
                        "bra.uni is taken by some lanes only".into()
                    });
                }
                return self.branch(warp, s, exec, *target, inst.join);
            }
            Op::Brx { index, targets } => {
                return self.branch_by_index(warp, s, pc, exec, *index, targets, inst.join);
            }
            Op::Exit => return self.exit(warp, s, exec),
            Op::Trap => {
                self.stop("TRAP", (warp, pc, None), || "trap".into());
            }
            Op::Nothing => {}
            Op::Hopper(op) => return hopper::execute(self, warp, s, pc, exec, inst, op, taint),
        }
        Self::wrote(warp, inst, exec, taint);
    }

    fn alu(&mut self, warp: &mut Warp, f: &Kind, dst: Dst, src: &[Src; 3], cut: u32, exec: u32) {
        match f {
            Kind::W32(f) => {
                let (mut x, mut y, mut z, mut out) = ([0; 32], [0; 32], [0; 32], [0; 32]);
                f(
                    &mut out,
                    self.ref32(warp, src[0], &mut x),
                    self.ref32(warp, src[1], &mut y),
                    self.ref32(warp, src[2], &mut z),
                );
                if cut != u32::MAX {
                    out.iter_mut().for_each(|v| *v &= cut);
                }
                warp.set32(dst, &out, exec);
            }
            Kind::W64(f) => {
                let [a, b, c] = src.map(|src| self.value64(warp, src));
                let mut out = [0; 32];
                f(&mut out, &a, &b, &c);
                warp.set64(dst, &out, exec);
            }
            Kind::Approx(f) => {
                let (mut x, mut y, mut out) = ([0; 32], [0; 32], [0; 32]);
                let options = &self.device.options;
                f(
                    &mut out,
                    self.ref32(warp, src[0], &mut x),
                    self.ref32(warp, src[1], &mut y),
                    options.approx,
                    options.seed,
                );
                warp.set32(dst, &out, exec);
            }
            // Decoded as operations of their own.
            _ => {}
        }
    }

    fn check_divisor(&mut self, warp: &Warp, pc: u32, exec: u32, divisor: Src) {
        let value = self.value64(warp, divisor);
        if let Some(lane) = lanes(exec).find(|&l| value[l] == 0) {
            self.error("NUM-DIV0", (warp, pc, Some(lane as u32)), || {
                "integer division by zero: the result is unspecified".into()
            });
        }
    }

    fn carry(
        &mut self,
        warp: &mut Warp,
        (op, wide, signed): (CarryOp, bool, bool),
        dst: Dst,
        src: &[Src; 3],
        (carry_in, carry_out): (bool, bool),
        exec: u32,
    ) {
        let [a, b, c] = src.map(|src| self.value64(warp, src));
        let bits = if wide { 64 } else { 32 };
        let mask = if wide { u64::MAX } else { u64::from(u32::MAX) };
        let mut out = [0; 32];
        for lane in lanes(exec) {
            let carry = u128::from(carry_in && warp.carry >> lane & 1 == 1);
            let product = || -> u128 {
                let (x, y) = (u128::from(a[lane]), u128::from(b[lane]));
                if signed {
                    let sign = |v: u128| ((v as i128) << (128 - bits)) >> (128 - bits);
                    sign(x).wrapping_mul(sign(y)) as u128
                } else {
                    x.wrapping_mul(y)
                }
            };
            let part = |v: u128| v & u128::from(mask);
            let (sum, flag) = match op {
                CarryOp::Add => {
                    let sum = u128::from(a[lane]) + u128::from(b[lane]) + carry;
                    (sum, sum >> bits & 1)
                }
                CarryOp::Sub => {
                    // The flag is a borrow.
                    let sum =
                        u128::from(a[lane]).wrapping_sub(u128::from(b[lane])).wrapping_sub(carry);
                    (sum, sum >> bits & 1)
                }
                CarryOp::MadLo => {
                    let sum = part(product()) + u128::from(c[lane]) + carry;
                    (sum, sum >> bits & 1)
                }
                CarryOp::MadHi => {
                    let sum = part(product() >> bits) + u128::from(c[lane]) + carry;
                    (sum, sum >> bits & 1)
                }
            };
            out[lane] = sum as u64 & mask;
            if carry_out {
                warp.carry = warp.carry & !(1 << lane) | (flag as u32) << lane;
            }
        }
        warp.set64(dst, &out, exec);
    }
}

/// The lanes of a mask.
pub(crate) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    (0..32).filter(move |lane| mask >> lane & 1 == 1)
}
