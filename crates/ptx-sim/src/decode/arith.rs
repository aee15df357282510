//! Arithmetic, moves and comparisons.

use super::{Decoder, Result};
use crate::alu::{self, Class, Kind};
use crate::op::{BoolOp, CarryOp, CmpFn, Dst, Op, PSrc, Space, Src};
use crate::parse::{Operand, type_bits};

impl Decoder<'_> {
    pub(super) fn arith(&mut self, parts: &[&str]) -> Result<(Op, Class)> {
        let ty = parts.last().copied().unwrap_or("");
        let bits = type_bits(&format!(".{ty}")).unwrap_or(0) as u8;
        let is_pred = ty == "pred";
        match parts[0] {
            "mov" if is_pred => return self.pred_logic(BoolOp::Or, false),
            "not" if is_pred => return self.pred_logic(BoolOp::Xor, true),
            "and" if is_pred => return self.pred_pair(BoolOp::And),
            "or" if is_pred => return self.pred_pair(BoolOp::Or),
            "xor" if is_pred => return self.pred_pair(BoolOp::Xor),
            "mov" => return Ok((self.mov(bits)?, Class::Move)),
            "cvta" => return Ok((self.cvta(parts)?, Class::Move)),
            "isspacep" => {
                self.count(2)?;
                let space = space_of(parts[1..].iter().copied()).unwrap_or(Space::Generic);
                let p = self.pred_dst(&self.operand(0)?)?;
                let src = self.src_at_least(&self.operand(1)?, 32, true)?;
                return Ok((Op::Isspacep { p, src, space }, Class::Cmp));
            }
            "selp" => {
                self.count(4)?;
                let dst = self.dst(&self.operand(0)?, bits)?;
                let a = self.src(&self.operand(1)?, bits)?;
                let b = self.src(&self.operand(2)?, bits)?;
                let p = self.pred(&self.operand(3)?)?;
                return Ok((Op::Selp { dst, a, b, p }, Class::Move));
            }
            "setp" => return Ok((self.setp(parts)?, Class::Cmp)),
            "lop3" if parts[1] == "b32" => {
                self.count(5)?;
                let dst = self.dst(&self.operand(0)?, 32)?;
                let src = [1, 2, 3].map(|i| self.operand(i));
                let mut slots = [Src::Imm(0); 3];
                for (slot, operand) in slots.iter_mut().zip(src) {
                    *slot = self.src(&operand?, 32)?;
                }
                let lut = self.immediate(&self.operand(4)?)? as u8;
                return Ok((Op::Lop3 { dst, src: slots, lut }, Class::Logic));
            }
            "bfi" => {
                self.count(5)?;
                let dst = self.dst(&self.operand(0)?, bits)?;
                let widths = [bits, bits, 32, 32];
                let mut src = [Src::Imm(0); 4];
                for (i, slot) in src.iter_mut().enumerate() {
                    *slot = self.src(&self.operand(i + 1)?, widths[i])?;
                }
                return Ok((Op::Bfi { dst, src, wide: bits == 64 }, Class::Int));
            }
            "add" | "addc" | "sub" | "subc" | "mad" | "madc"
                if parts[0].ends_with('c') && parts[0] != "mad" || parts.contains(&"cc") =>
            {
                return Ok((self.carry(parts, bits)?, Class::Int));
            }
            _ => {}
        }
        let Some(found) = alu::decode(&self.inst.opcode) else { return self.unsupported() };
        self.since(found.since)?;
        let sources = found.src.iter().take_while(|b| **b > 0).count();
        self.count(1 + sources)?;
        let wider = parts[0] == "cvt";
        let dst = self.dst_at_least(&self.operand(0)?, found.dst, wider)?;
        let mut src = [Src::Imm(0); 3];
        for (i, slot) in src.iter_mut().enumerate().take(sources) {
            *slot = self.src_at_least(&self.operand(i + 1)?, found.src[i], wider)?;
        }
        // `cvt` sign-extends for the wider register that its destination may be.
        let cut = match self.register_bits(&self.operand(0)?) {
            Some(bits @ (8 | 16)) => (1 << bits) - 1,
            _ => u32::MAX,
        };
        let divides = matches!(parts[0], "div" | "rem") && matches!(found.class, Class::Int);
        Ok((Op::Alu { f: found.kind, dst, src, cut, divides }, found.class))
    }

    fn pred_logic(&mut self, op: BoolOp, with: bool) -> Result<(Op, Class)> {
        self.count(2)?;
        let dst = self.pred_dst(&self.operand(0)?)?;
        let a = self.pred(&self.operand(1)?)?;
        Ok((Op::Pred { op, dst, a, b: PSrc::Const(with) }, Class::Logic))
    }

    fn pred_pair(&mut self, op: BoolOp) -> Result<(Op, Class)> {
        self.count(3)?;
        let dst = self.pred_dst(&self.operand(0)?)?;
        let a = self.pred(&self.operand(1)?)?;
        let b = self.pred(&self.operand(2)?)?;
        Ok((Op::Pred { op, dst, a, b }, Class::Logic))
    }

    fn mov(&mut self, bits: u8) -> Result<Op> {
        self.count(2)?;
        let (to, from) = (self.operand(0)?, self.operand(1)?);
        match (&to, &from) {
            (Operand::Vector(parts), _) => {
                let each = bits / parts.len().max(1) as u8;
                let src = self.src(&from, bits)?;
                let dst = parts.iter().map(|o| self.dst(o, each)).collect::<Result<_>>()?;
                Ok(Op::Unpack { dst, src, bits: u32::from(each) })
            }
            (_, Operand::Vector(parts)) => {
                let each = bits / parts.len().max(1) as u8;
                let src = parts.iter().map(|o| self.src(o, each)).collect::<Result<_>>()?;
                let dst = self.dst(&to, bits)?;
                Ok(Op::Pack { dst, src, bits: u32::from(each) })
            }
            _ => {
                let src = self.src(&from, bits)?;
                Ok(Op::Mov { dst: self.dst(&to, bits)?, src })
            }
        }
    }

    fn cvta(&mut self, parts: &[&str]) -> Result<Op> {
        self.count(2)?;
        let to = parts.contains(&"to");
        let Some(space) = space_of(parts[1..].iter().copied()) else { return self.unsupported() };
        let dst = self.dst_at_least(&self.operand(0)?, 32, true)?;
        let src = self.src_at_least(&self.operand(1)?, 32, true)?;
        Ok(Op::Cvta { dst, src, space, to })
    }

    fn setp(&mut self, parts: &[&str]) -> Result<Op> {
        let combine_op = parts.iter().find_map(|p| match *p {
            "and" => Some(BoolOp::And),
            "or" => Some(BoolOp::Or),
            "xor" => Some(BoolOp::Xor),
            _ => None,
        });
        let plain: Vec<&str> =
            parts.iter().copied().filter(|p| !matches!(*p, "and" | "or" | "xor")).collect();
        let Some(found) = alu::decode(&plain.join(".")) else { return self.unsupported() };
        self.count(if combine_op.is_some() { 4 } else { 3 })?;
        let (p, q) = match self.operand(0)? {
            Operand::Pair(p, q) => (self.pred_dst(&p)?, self.pred_dst(&q)?),
            operand => (self.pred_dst(&operand)?, None),
        };
        let bits = found.src[0];
        let a = self.src(&self.operand(1)?, bits)?;
        let b = self.src(&self.operand(2)?, found.src[1])?;
        let combine = match combine_op {
            None => None,
            Some(op) => Some((op, self.pred(&self.operand(3)?)?)),
        };
        Ok(match found.kind {
            Kind::Cmp32(f) => Op::Setp { f: CmpFn::C32(f), a, b, p, q, combine },
            Kind::Cmp64(f) => Op::Setp { f: CmpFn::C64(f), a, b, p, q, combine },
            Kind::Cmp32x2(f) => Op::SetpPair { f, a, b, p, q, combine },
            _ => return self.unsupported(),
        })
    }

    fn carry(&mut self, parts: &[&str], bits: u8) -> Result<Op> {
        if !matches!(bits, 32 | 64) {
            return self.unsupported();
        }
        let op = match parts[0] {
            "add" | "addc" => CarryOp::Add,
            "sub" | "subc" => CarryOp::Sub,
            _ if parts.contains(&"hi") => CarryOp::MadHi,
            _ => CarryOp::MadLo,
        };
        let sources = if matches!(op, CarryOp::Add | CarryOp::Sub) { 2 } else { 3 };
        self.count(1 + sources)?;
        let dst = self.dst(&self.operand(0)?, bits)?;
        let mut src = [Src::Imm(0); 3];
        for (i, slot) in src.iter_mut().enumerate().take(sources) {
            *slot = self.src(&self.operand(i + 1)?, bits)?;
        }
        Ok(Op::Carry {
            op,
            wide: bits == 64,
            signed: parts.last().is_some_and(|t| t.starts_with('s')),
            dst,
            src,
            carry_in: parts[0].ends_with('c'),
            carry_out: parts.contains(&"cc"),
        })
    }

    /// `d|p` or `d`: a register and perhaps a predicate.
    pub(super) fn dst_and_pred(
        &mut self,
        operand: &Operand,
        bits: u8,
    ) -> Result<(Dst, Option<u32>)> {
        match operand {
            Operand::Pair(d, p) => Ok((self.dst(d, bits)?, self.pred_dst(p)?)),
            operand => Ok((self.dst(operand, bits)?, None)),
        }
    }
}

/// The state space among an opcode's modifiers.
pub(crate) fn space_of<'a>(parts: impl Iterator<Item = &'a str>) -> Option<Space> {
    for part in parts {
        return Some(match part {
            "global" | "const" => Space::Global,
            "shared" | "shared::cta" => Space::Shared,
            "shared::cluster" => Space::Cluster,
            "local" => Space::Local,
            "param" | "param::entry" => Space::Param,
            _ => continue,
        });
    }
    None
}
