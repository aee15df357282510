//! Loads, stores, atomics, asynchronous copies, matrix loads.

use super::arith::space_of;
use super::{Decoder, Result};
use crate::alu::Class;
use crate::op::{AtomOp, AtomType, Op, Order, Scope, Space};
use crate::parse::{Operand, type_bits};

/// Order and scope among an opcode's modifiers.
fn order(parts: &[&str], strong: bool) -> Order {
    let has = |name: &str| parts.contains(&name);
    let scope = if has("cta") {
        Scope::Cta
    } else if has("cluster") {
        Scope::Cluster
    } else if has("sys") || has("volatile") {
        Scope::Sys
    } else {
        Scope::Gpu
    };
    let strong = strong
        || ["relaxed", "acquire", "release", "volatile", "mmio", "acq_rel"].iter().any(|p| has(p));
    Order {
        strong,
        acquire: has("acquire") || has("acq_rel"),
        release: has("release") || has("acq_rel"),
        scope,
    }
}

impl Decoder<'_> {
    pub(super) fn memory(&mut self, parts: &[&str]) -> Result<Option<(Op, Class)>> {
        let op = match parts[0] {
            "ld" | "ldu" => self.load(parts)?,
            "st" if parts.get(1) != Some(&"async") => self.store(parts)?,
            "atom" => self.atomic(parts, true)?,
            "red" if parts.get(1) != Some(&"async") => self.atomic(parts, false)?,
            "cp" if parts.len() > 2 && parts[1] == "async" && parts[2] != "bulk" => {
                match parts[2] {
                    "ca" | "cg" => self.cp_async(parts)?,
                    "commit_group" => Op::CpCommit,
                    "wait_group" => {
                        let n = self.immediate(&self.operand(0)?)?;
                        Op::CpWait { keep: u32::try_from(n).unwrap_or(u32::MAX) }
                    }
                    "wait_all" => Op::CpWaitAll,
                    _ => return Ok(None),
                }
            }
            "ldmatrix" => {
                self.count(2)?;
                if !parts.contains(&"m8n8") || !parts.contains(&"b16") {
                    return self.unsupported();
                }
                let dst = self.dsts(&self.operand(0)?, 32)?;
                self.matrices(parts, dst.len())?;
                let mem = self.mem(&self.operand(1)?, Space::Shared)?;
                Op::Ldmatrix { mem, dst, trans: parts.contains(&"trans") }
            }
            "stmatrix" => {
                self.count(2)?;
                if !parts.contains(&"m8n8") || !parts.contains(&"b16") {
                    return self.unsupported();
                }
                let mem = self.mem(&self.operand(0)?, Space::Shared)?;
                let src = self.srcs(&self.operand(1)?, 32)?;
                self.matrices(parts, src.len())?;
                Op::Stmatrix { mem, src, trans: parts.contains(&"trans") }
            }
            "prefetch" | "prefetchu" | "applypriority" | "discard" => {
                if parts.contains(&"tensormap") {
                    return Ok(None);
                }
                Op::Nothing
            }
            "createpolicy" => {
                // The policy is an opaque value that only hints take.
                let dst = self.dst(&self.operand(0)?, 64)?;
                Op::Mov { dst, src: crate::op::Src::Imm(0x14f0_0000_0000_0000) }
            }
            _ => return Ok(None),
        };
        Ok(Some((op, Class::Move)))
    }

    fn matrices(&self, parts: &[&str], registers: usize) -> Result<()> {
        let wanted = parts.iter().find_map(|p| match *p {
            "x1" => Some(1),
            "x2" => Some(2),
            "x4" => Some(4),
            _ => None,
        });
        match wanted {
            Some(n) if n == registers => Ok(()),
            Some(n) => self.wrong_type(&format!("has {registers} registers, expected {n}")),
            None => self.unsupported(),
        }
    }

    /// Vector length and type of a load or store.
    fn shape(&self, parts: &[&str]) -> Result<(usize, u8, bool)> {
        let vector = parts.iter().find_map(|p| match *p {
            "v2" => Some(2),
            "v4" => Some(4),
            "v8" => Some(8),
            _ => None,
        });
        let ty = parts.last().copied().unwrap_or("");
        let Some(bits) = type_bits(&format!(".{ty}")) else { return self.unsupported() };
        if !(8..=64).contains(&bits) || bits as usize / 8 * vector.unwrap_or(1) > 16 {
            return self.unsupported();
        }
        Ok((vector.unwrap_or(1), (bits / 8) as u8, ty.starts_with('s')))
    }

    fn load(&mut self, parts: &[&str]) -> Result<Op> {
        let (n, bytes, sext) = self.shape(parts)?;
        let space = space_of(parts[1..].iter().copied()).unwrap_or(Space::Generic);
        let to = Self::vector(&self.operand(0)?);
        if to.len() != n {
            return self.wrong_type(&format!("has {} registers, expected {n}", to.len()));
        }
        let mem = self.mem(&self.operand(1)?, space)?;
        let dst =
            to.iter().map(|o| self.dst_at_least(o, bytes * 8, true)).collect::<Result<_>>()?;
        Ok(Op::Ld { mem, bytes, sext, dst, order: order(parts, false), nc: parts.contains(&"nc") })
    }

    fn store(&mut self, parts: &[&str]) -> Result<Op> {
        let (n, bytes, _) = self.shape(parts)?;
        let space = space_of(parts[1..].iter().copied()).unwrap_or(Space::Generic);
        let mem = self.mem(&self.operand(0)?, space)?;
        let from = Self::vector(&self.operand(1)?);
        if from.len() != n {
            return self.wrong_type(&format!("has {} values, expected {n}", from.len()));
        }
        let src =
            from.iter().map(|o| self.src_at_least(o, bytes * 8, true)).collect::<Result<_>>()?;
        if space == Space::Param {
            return self.unsupported();
        }
        Ok(Op::St { mem, bytes, src, order: order(parts, false) })
    }

    fn atomic(&mut self, parts: &[&str], returns: bool) -> Result<Op> {
        let op = parts.iter().skip(1).find_map(|p| {
            Some(match *p {
                "add" => AtomOp::Add,
                "min" => AtomOp::Min,
                "max" => AtomOp::Max,
                "inc" => AtomOp::Inc,
                "dec" => AtomOp::Dec,
                "and" => AtomOp::And,
                "or" => AtomOp::Or,
                "xor" => AtomOp::Xor,
                "exch" => AtomOp::Exch,
                "cas" => AtomOp::Cas,
                _ => return None,
            })
        });
        let name = parts.last().copied().unwrap_or("");
        let (ty, bits) = match name {
            "u32" => (AtomType::U, 32),
            "u64" => (AtomType::U, 64),
            "s32" => (AtomType::S, 32),
            "s64" => (AtomType::S, 64),
            "b16" => (AtomType::B, 16),
            "b32" => (AtomType::B, 32),
            "b64" => (AtomType::B, 64),
            "f32" => (AtomType::F32, 32),
            "f64" => (AtomType::F64, 64),
            "f16" => (AtomType::F16, 16),
            "bf16" => (AtomType::Bf16, 16),
            "f16x2" => (AtomType::F16x2, 32),
            "bf16x2" => (AtomType::Bf16x2, 32),
            _ => return self.unsupported(),
        };
        let Some(op) = op else { return self.unsupported() };
        let float = !matches!(ty, AtomType::U | AtomType::S | AtomType::B);
        if float && op != AtomOp::Add
            || ty == AtomType::S && matches!(op, AtomOp::Inc | AtomOp::Dec)
        {
            return self.unsupported();
        }
        let space = space_of(parts[1..].iter().copied()).unwrap_or(Space::Generic);
        let first = usize::from(returns);
        let mem = self.mem(&self.operand(first)?, space)?;
        let src = self.srcs(&self.operand(first + 1)?, bits)?;
        let compare = match (op, src.as_slice()) {
            (AtomOp::Cas, [compare]) => Some(*compare),
            (AtomOp::Cas, _) => return self.wrong_type("compares one value"),
            (_, []) => return self.wrong_type("has no value"),
            _ => None,
        };
        let src = match op {
            AtomOp::Cas => self.srcs(&self.operand(first + 2)?, bits)?,
            _ => src,
        };
        if !matches!(src.len(), 1 | 2 | 4 | 8) || op == AtomOp::Cas && src.len() != 1 {
            return self.wrong_type(&format!("has {} values", src.len()));
        }
        let dst = if returns { self.dsts(&self.operand(0)?, bits)? } else { Vec::new() };
        if returns && dst.len() != src.len() {
            return self.wrong_type(&format!("has {} results of {} values", dst.len(), src.len()));
        }
        Ok(Op::Atom {
            mem,
            op,
            ty,
            bytes: bits / 8,
            dst,
            src,
            compare,
            order: order(parts, true),
            returns,
        })
    }

    fn cp_async(&mut self, parts: &[&str]) -> Result<Op> {
        let dst = self.mem(&self.operand(0)?, Space::Shared)?;
        let src = self.mem(&self.operand(1)?, Space::Global)?;
        let bytes = self.immediate(&self.operand(2)?)? as u32;
        let allowed: &[u32] = if parts[2] == "cg" { &[16] } else { &[4, 8, 16] };
        if !allowed.contains(&bytes) {
            return self.wrong_type(&format!("copies {bytes} bytes, expected one of {allowed:?}"));
        }
        let hint = parts.contains(&"L2::cache_hint");
        let (mut src_bytes, mut ignore) = (None, None);
        let mut rest = 3..self.operands() - usize::from(hint);
        if let Some(i) = rest.next() {
            let operand = self.operand(i)?;
            if self.is_pred(&operand) {
                ignore = Some(self.pred(&operand)?);
            } else {
                src_bytes = Some(self.src(&operand, 32)?);
            }
        }
        if rest.next().is_some() {
            return self.wrong_type("has too many operands");
        }
        if hint {
            self.src(&self.operand(self.operands() - 1)?, 64)?;
        }
        Ok(Op::CpAsync { dst, src, bytes, src_bytes, ignore })
    }

    /// The address operand at `i` in `space`.
    pub(crate) fn mem_at(&mut self, i: usize, space: Space) -> Result<crate::op::Mem> {
        let operand: Operand = self.operand(i)?;
        self.mem(&operand, space)
    }
}
