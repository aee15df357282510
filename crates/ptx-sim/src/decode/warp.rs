//! Control flow, barriers, warp-wide operations, matrix products.

use super::{Decoder, Result};
use crate::alu::Class;
use crate::op::{BarKind, Dst, Op, PSrc, ReduxOp, Scope, ShflMode, Src, VoteMode};
use crate::parse::Operand;
use crate::tc;

impl Decoder<'_> {
    pub(super) fn warp(&mut self, parts: &[&str]) -> Result<Option<(Op, Class)>> {
        let op = match parts[0] {
            "bra" => {
                self.count(1)?;
                let target = self.branch_target(&self.operand(0)?)?;
                Op::Bra { target, uniform: parts.contains(&"uni") }
            }
            "brx" => {
                self.count(2)?;
                let index = self.src(&self.operand(0)?, 32)?;
                Op::Brx { index, targets: self.branch_targets(&self.operand(1)?)? }
            }
            "ret" | "exit" => Op::Exit,
            "trap" => Op::Trap,
            "brkpt" | "pmevent" | "nanosleep" => Op::Nothing,
            "membar" => Op::Fence {
                scope: match parts.get(1) {
                    Some(&"cta") => Scope::Cta,
                    Some(&"gl") => Scope::Gpu,
                    _ => Scope::Sys,
                },
            },
            "fence" if !parts.contains(&"proxy") && !parts.contains(&"mbarrier_init") => {
                Op::Fence {
                    scope: match parts.last() {
                        Some(&"cta") => Scope::Cta,
                        Some(&"cluster") => Scope::Cluster,
                        Some(&"gpu") => Scope::Gpu,
                        _ => Scope::Sys,
                    },
                }
            }
            "bar" if parts.get(1) == Some(&"warp") => {
                self.count(1)?;
                Op::BarWarp { mask: self.src(&self.operand(0)?, 32)? }
            }
            "bar" | "barrier" if parts.get(1) != Some(&"cluster") => self.barrier(parts)?,
            "activemask" => {
                self.count(1)?;
                Op::Activemask { dst: self.dst(&self.operand(0)?, 32)? }
            }
            "shfl" => {
                self.count(5)?;
                let mode = match parts.get(2) {
                    Some(&"up") => ShflMode::Up,
                    Some(&"down") => ShflMode::Down,
                    Some(&"bfly") => ShflMode::Bfly,
                    Some(&"idx") => ShflMode::Idx,
                    _ => return self.unsupported(),
                };
                let src = self.src(&self.operand(1)?, 32)?;
                let b = self.src(&self.operand(2)?, 32)?;
                let c = self.src(&self.operand(3)?, 32)?;
                let mask = self.src(&self.operand(4)?, 32)?;
                let (dst, p) = self.dst_and_pred(&self.operand(0)?, 32)?;
                Op::Shfl { mode, dst, p, src, b, c, mask }
            }
            "vote" => {
                self.count(3)?;
                let mode = match parts.get(2) {
                    Some(&"all") => VoteMode::All,
                    Some(&"any") => VoteMode::Any,
                    Some(&"uni") => VoteMode::Uni,
                    Some(&"ballot") => VoteMode::Ballot,
                    _ => return self.unsupported(),
                };
                let a = self.pred(&self.operand(1)?)?;
                let mask = self.src(&self.operand(2)?, 32)?;
                let (dst, p) = match mode {
                    VoteMode::Ballot => (self.dst(&self.operand(0)?, 32)?, None),
                    _ => (Dst::Sink, self.pred_dst(&self.operand(0)?)?),
                };
                Op::Vote { mode, dst, p, a, mask }
            }
            "match" => {
                self.count(3)?;
                let wide = parts.last() == Some(&"b64");
                let src = self.src(&self.operand(1)?, if wide { 64 } else { 32 })?;
                let mask = self.src(&self.operand(2)?, 32)?;
                let (dst, p) = self.dst_and_pred(&self.operand(0)?, 32)?;
                Op::Match { all: parts.contains(&"all"), wide, dst, p, src, mask }
            }
            "redux" => {
                self.count(3)?;
                let op = match (parts.get(2), parts.last()) {
                    (Some(&"add"), Some(&"u32" | &"s32")) => ReduxOp::AddU,
                    (Some(&"min"), Some(&"u32")) => ReduxOp::MinU,
                    (Some(&"max"), Some(&"u32")) => ReduxOp::MaxU,
                    (Some(&"min"), Some(&"s32")) => ReduxOp::MinS,
                    (Some(&"max"), Some(&"s32")) => ReduxOp::MaxS,
                    (Some(&"and"), Some(&"b32")) => ReduxOp::And,
                    (Some(&"or"), Some(&"b32")) => ReduxOp::Or,
                    (Some(&"xor"), Some(&"b32")) => ReduxOp::Xor,
                    _ => return self.unsupported(),
                };
                let src = self.src(&self.operand(1)?, 32)?;
                let mask = self.src(&self.operand(2)?, 32)?;
                Op::Redux { op, dst: self.dst(&self.operand(0)?, 32)?, src, mask }
            }
            "movmatrix" => {
                self.count(2)?;
                let src = self.src(&self.operand(1)?, 32)?;
                Op::Movmatrix { dst: self.dst(&self.operand(0)?, 32)?, src }
            }
            "mma" => {
                self.count(4)?;
                let Some(f) = tc::decode_mma(&self.inst.opcode) else { return self.unsupported() };
                let (na, nb, nc, nd) = f.regs();
                let a = self.srcs(&self.operand(1)?, 32)?;
                let b = self.srcs(&self.operand(2)?, 32)?;
                let c = self.srcs(&self.operand(3)?, 32)?;
                let d = self.dsts(&self.operand(0)?, 32)?;
                for (name, found, wanted) in
                    [("a", a.len(), na), ("b", b.len(), nb), ("c", c.len(), nc), ("d", d.len(), nd)]
                {
                    if found != wanted {
                        return self.wrong_type(&format!(
                            "{name} has {found} registers, expected {wanted}"
                        ));
                    }
                }
                Op::Mma { f, d, a, b, c }
            }
            _ => return Ok(None),
        };
        Ok(Some((op, Class::Move)))
    }

    fn barrier(&mut self, parts: &[&str]) -> Result<Op> {
        let aligned = parts[0] == "bar" || parts.contains(&"aligned");
        let kind = match (parts.contains(&"arrive"), parts.contains(&"red")) {
            (true, _) => BarKind::Arrive,
            (_, true) => match parts.iter().find(|p| matches!(**p, "popc" | "and" | "or")) {
                Some(&"popc") => BarKind::RedPopc,
                Some(&"and") => BarKind::RedAnd,
                _ => BarKind::RedOr,
            },
            _ => BarKind::Sync,
        };
        let reduces = !matches!(kind, BarKind::Sync | BarKind::Arrive);
        let mut at = 0;
        let (mut dst, mut p) = (Dst::Sink, None);
        if reduces {
            let operand = self.operand(0)?;
            match kind {
                BarKind::RedPopc => dst = self.dst(&operand, 32)?,
                _ => p = self.pred_dst(&operand)?,
            }
            at = 1;
        }
        let id = self.src(&self.operand(at)?, 32)?;
        let mut rest: Vec<Operand> =
            (at + 1..self.operands()).map(|i| self.operand(i)).collect::<Result<_>>()?;
        let pred: Option<PSrc> = match (reduces, rest.pop()) {
            (true, Some(operand)) => Some(self.pred(&operand)?),
            (false, Some(operand)) => {
                rest.push(operand);
                None
            }
            (true, None) => return self.wrong_type("has no predicate operand"),
            (false, None) => None,
        };
        let count: Option<Src> = match rest.as_slice() {
            [] => None,
            [count] => Some(self.src(count, 32)?),
            _ => return self.wrong_type("has too many operands"),
        };
        if kind == BarKind::Arrive && count.is_none() {
            return self.wrong_type("needs a thread count");
        }
        Ok(Op::Bar { kind, aligned, id, count, pred, dst, p })
    }
}
