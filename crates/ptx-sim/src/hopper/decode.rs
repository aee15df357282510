//! Decoding of the set.

use super::{Op90, wgmma};
use crate::decode::{Decoder, Result, space_of};
use crate::op::{AtomOp, AtomType, Dst, Mem, Op, Scope, Space, Src};
use crate::parse::Operand;
use crate::tc::Elem;

/// Decodes an instruction of the set; none if it is not one.
pub(crate) fn decode(d: &mut Decoder<'_>, parts: &[&str]) -> Result<Option<Op>> {
    let has = |name: &str| parts.contains(&name);
    let op = match parts[0] {
        "mbarrier" => mbarrier(d, parts)?,
        "cp" if has("mbarrier") && has("arrive") => {
            Op90::MbarCopies { mem: shared_mem(d, 0, parts)?, noinc: has("noinc") }
        }
        "cp" if parts.get(2) == Some(&"bulk") => match parts.get(3) {
            Some(&"commit_group") => Op90::BulkCommit,
            Some(&"wait_group") => {
                Op90::BulkWait { keep: d.immediate(&d.operand(0)?)? as u32, read: has("read") }
            }
            Some(&"prefetch") => return Ok(Some(Op::Nothing)),
            Some(&"tensor") => tensor(d, parts, None)?,
            _ => bulk(d, parts, None)?,
        },
        "cp" if parts.get(1) == Some(&"reduce") && has("bulk") => {
            let op = reduce_op(parts);
            let Some(op) = op else { return d.unsupported() };
            if has("tensor") { tensor(d, parts, Some(op))? } else { bulk(d, parts, Some(op))? }
        }
        "prefetch" => return Ok(Some(Op::Nothing)),
        "fence" if has("proxy") => {
            if parts.iter().any(|p| *p == "async" || p.starts_with("async::")) {
                Op90::ProxyFence
            } else {
                Op90::OtherFence
            }
        }
        "fence" => Op90::OtherFence,
        "wgmma" => match parts[1] {
            "fence" => Op90::WgmmaFence,
            "commit_group" => Op90::WgmmaCommit,
            "wait_group" => Op90::WgmmaWait { keep: d.immediate(&d.operand(0)?)? as u32 },
            "mma_async" => Op90::Wgmma(product(d, parts)?),
            _ => return d.unsupported(),
        },
        "mapa" => {
            d.count(3)?;
            let bits = if has("u64") { 64 } else { 32 };
            let src = d.src(&d.operand(1)?, bits)?;
            let rank = d.src(&d.operand(2)?, 32)?;
            Op90::Mapa { dst: d.dst(&d.operand(0)?, bits)?, src, rank }
        }
        "getctarank" => {
            d.count(2)?;
            let bits = if has("u64") { 64 } else { 32 };
            let src = d.src(&d.operand(1)?, bits)?;
            Op90::CtaRank { dst: d.dst(&d.operand(0)?, 32)?, src }
        }
        "barrier" => match parts.get(2) {
            Some(&"arrive") => {
                Op90::ClusterArrive { relaxed: has("relaxed"), aligned: has("aligned") }
            }
            Some(&"wait") => Op90::ClusterWait { aligned: has("aligned") },
            _ => return d.unsupported(),
        },
        "elect" => {
            d.count(2)?;
            let mask = d.src(&d.operand(1)?, 32)?;
            let (dst, p) = match d.operand(0)? {
                Operand::Pair(a, p) => (d.dst(&a, 32)?, d.pred_dst(&p)?),
                _ => return d.wrong_type("expected d|p"),
            };
            Op90::Elect { dst, p, mask }
        }
        "setmaxnreg" => {
            let n = d.immediate(&d.operand(0)?)? as u32;
            if !(24..=256).contains(&n) || !n.is_multiple_of(8) {
                return d.wrong_type(&format!(
                    "{n} registers; allowed are multiples of 8 from 24 to 256"
                ));
            }
            Op90::SetMaxRegs { n, grow: has("inc") }
        }
        "griddepcontrol" => return Ok(Some(Op::Nothing)),
        _ => return Ok(None),
    };
    Ok(Some(Op::Hopper(Box::new(op))))
}

/// The address operand at `i` in the shared space that the opcode names.
fn shared_mem(d: &mut Decoder<'_>, i: usize, parts: &[&str]) -> Result<Mem> {
    let space = space_of(parts[1..].iter().copied()).unwrap_or(Space::Generic);
    d.mem_at(i, space)
}

fn mbarrier(d: &mut Decoder<'_>, parts: &[&str]) -> Result<Op90> {
    let has = |name: &str| parts.contains(&name);
    let scope = if has("cluster") { Scope::Cluster } else { Scope::Cta };
    Ok(match parts[1] {
        "init" => {
            d.count(2)?;
            Op90::MbarInit { mem: shared_mem(d, 0, parts)?, count: d.src(&d.operand(1)?, 32)? }
        }
        "inval" => Op90::MbarInval { mem: shared_mem(d, 0, parts)? },
        "arrive" | "arrive_drop" => {
            let mem = shared_mem(d, 1, parts)?;
            let extra = match d.operands() {
                3 => Some(d.src(&d.operand(2)?, 32)?),
                _ => None,
            };
            let expects = has("expect_tx");
            if expects && extra.is_none() {
                return d.wrong_type("has no byte count");
            }
            let dst = d.dst(&d.operand(0)?, 64)?;
            Op90::MbarArrive {
                mem,
                dst,
                count: extra.filter(|_| !expects),
                tx: extra.filter(|_| expects),
                drop: parts[1] == "arrive_drop",
                relaxed: has("relaxed"),
                scope,
            }
        }
        "expect_tx" | "complete_tx" => {
            d.count(2)?;
            let mem = shared_mem(d, 0, parts)?;
            Op90::MbarTx {
                mem,
                tx: d.src(&d.operand(1)?, 32)?,
                complete: parts[1] == "complete_tx",
            }
        }
        "test_wait" | "try_wait" => {
            let parity = has("parity");
            let mem = shared_mem(d, 1, parts)?;
            let state = d.src(&d.operand(2)?, if parity { 32 } else { 64 })?;
            let p = d.pred_dst(&d.operand(0)?)?;
            Op90::MbarWait { mem, p, state, parity, relaxed: has("relaxed") }
        }
        "pending_count" => {
            d.count(2)?;
            let state = d.src(&d.operand(1)?, 64)?;
            Op90::MbarPending { dst: d.dst(&d.operand(0)?, 32)?, state }
        }
        _ => return d.unsupported(),
    })
}

fn reduce_op(parts: &[&str]) -> Option<AtomOp> {
    parts.iter().find_map(|p| {
        Some(match *p {
            "add" => AtomOp::Add,
            "min" => AtomOp::Min,
            "max" => AtomOp::Max,
            "inc" => AtomOp::Inc,
            "dec" => AtomOp::Dec,
            "and" => AtomOp::And,
            "or" => AtomOp::Or,
            "xor" => AtomOp::Xor,
            _ => return None,
        })
    })
}

/// Operands after the fixed ones: a multicast mask, a cache hint.
fn mask_and_hint(d: &mut Decoder<'_>, parts: &[&str], from: usize) -> Result<Option<Src>> {
    let mut at = from;
    let mut mask = None;
    if parts.contains(&"multicast::cluster") {
        mask = Some(d.src(&d.operand(at)?, 16)?);
        at += 1;
    }
    if parts.contains(&"L2::cache_hint") {
        d.src(&d.operand(at)?, 64)?;
        at += 1;
    }
    d.count(at)?;
    Ok(mask)
}

fn bulk(d: &mut Decoder<'_>, parts: &[&str], reduce: Option<AtomOp>) -> Result<Op90> {
    let spaces: Vec<Space> = parts.iter().filter_map(|p| space_of([*p].into_iter())).collect();
    let &[to, from] = spaces.as_slice() else { return d.unsupported() };
    let dst = d.mem_at(0, to)?;
    let src = d.mem_at(1, from)?;
    let bytes = d.src(&d.operand(2)?, 32)?;
    let completes = parts.contains(&"mbarrier::complete_tx::bytes");
    let mbar = match completes {
        true => Some(d.mem_at(3, if to == Space::Global { Space::Shared } else { to })?),
        false => None,
    };
    let mask = mask_and_hint(d, parts, 3 + usize::from(completes))?;
    let reduce = match reduce {
        None => None,
        Some(op) => Some((
            op,
            atom_type(parts.last().copied().unwrap_or("")).map_or_else(|| d.unsupported(), Ok)?,
        )),
    };
    Ok(Op90::Bulk { dst, src, bytes, mbar, mask, reduce })
}

fn atom_type(name: &str) -> Option<AtomType> {
    Some(match name {
        "u32" | "u64" => AtomType::U,
        "s32" | "s64" => AtomType::S,
        "b32" | "b64" => AtomType::B,
        "f32" => AtomType::F32,
        "f64" => AtomType::F64,
        "f16" => AtomType::F16,
        "bf16" => AtomType::Bf16,
        _ => return None,
    })
}

fn tensor(d: &mut Decoder<'_>, parts: &[&str], reduce: Option<AtomOp>) -> Result<Op90> {
    if parts.iter().any(|p| p.starts_with("im2col") || p.starts_with("tile::")) {
        return d.unsupported();
    }
    let spaces: Vec<Space> = parts.iter().filter_map(|p| space_of([*p].into_iter())).collect();
    let &[to, from] = spaces.as_slice() else { return d.unsupported() };
    let loads = from == Space::Global && to != Space::Global;
    let map_at = usize::from(loads);
    let Operand::Address { coords, .. } = d.operand(map_at)? else {
        return d.wrong_type("expected [map, {coordinates}]");
    };
    let rank = parts.iter().find_map(|p| p.strip_suffix('d').and_then(|n| n.parse::<usize>().ok()));
    if rank != Some(coords.len()) {
        return d.wrong_type(&format!("has {} coordinates, expected {rank:?}", coords.len()));
    }
    let coords = coords.iter().map(|c| d.src(c, 32)).collect::<Result<Vec<Src>>>()?;
    let map = d.mem_at(map_at, Space::Generic)?;
    let shared = d.mem_at(1 - map_at, if loads { to } else { from })?;
    let mbar = if loads { Some(d.mem_at(2, to)?) } else { None };
    let mask = mask_and_hint(d, parts, 2 + usize::from(loads))?;
    Ok(Op90::Tensor { map, coords, shared, mbar, mask, reduce })
}

fn product(d: &mut Decoder<'_>, parts: &[&str]) -> Result<wgmma::Product> {
    let shape = parts.iter().find_map(|p| p.strip_prefix("m64n"));
    let Some((n, k)) = shape.and_then(|s| s.split_once('k')) else { return d.unsupported() };
    let (Ok(n), Ok(k)) = (n.parse::<usize>(), k.parse::<usize>()) else { return d.unsupported() };
    // m64nNkK.dtype.atype.btype
    let types: Vec<&str> =
        parts.iter().skip_while(|p| !p.starts_with("m64n")).skip(1).copied().collect();
    let (Some("f32"), Some(a), Some(b)) = (types.first().copied(), types.get(1), types.get(2))
    else {
        return d.unsupported();
    };
    let (Some(a), Some(b)) = (Elem::parse(a), Elem::parse(b)) else { return d.unsupported() };
    if n % 8 != 0 || !(8..=256).contains(&n) || k * a.bytes() != 32 {
        return d.unsupported();
    }
    let Operand::Vector(elements) = d.operand(0)? else {
        return d.wrong_type("the accumulators are not a list of registers");
    };
    if elements.len() != n / 2 {
        return d.wrong_type(&format!("has {} accumulators, expected {}", elements.len(), n / 2));
    }
    let registers = matches!(d.operand(1)?, Operand::Vector(_));
    let a_regs = if registers { d.srcs(&d.operand(1)?, 32)? } else { Vec::new() };
    let a_desc = if registers { None } else { Some(d.src(&d.operand(1)?, 64)?) };
    let b_desc = d.src(&d.operand(2)?, 64)?;
    let scale_d = d.pred(&d.operand(3)?)?;
    let mut imm = Vec::new();
    for i in 4..d.operands() {
        imm.push(d.immediate(&d.operand(i)?)? as i64 as i32);
    }
    let wide = a.bytes() == 2;
    let wanted = 2 + if wide { if registers { 1 } else { 2 } } else { 0 };
    if imm.len() != wanted {
        return d.wrong_type(&format!("has {} immediates, expected {wanted}", imm.len()));
    }
    let acc = d.dsts(&d.operand(0)?, 32)?.into_iter().map(|dst| match dst {
        Dst::R32(r) => Some(r),
        _ => None,
    });
    let Some(acc) = acc.collect::<Option<Vec<u32>>>() else {
        return d.wrong_type("an accumulator is missing");
    };
    Ok(wgmma::Product {
        n,
        k,
        a,
        b,
        acc,
        a_regs,
        a_desc,
        b_desc,
        scale_d,
        scale: (imm[0], imm[1]),
        trans_a: wide && !registers && imm[2] == 1,
        trans_b: wide && imm.last() == Some(&1),
    })
}
