//! wgmma: products of four warps that complete when they are waited for.

use super::Op90;
use super::bulk::{Action, OpKind, Pending};
use crate::clock::{self, Actor};
use crate::machine::{Machine, Place};
use crate::op::{Op, PSrc, Src};
use crate::shadow::{Access, Known, SEVERAL, Strong};
use crate::tc::{self, Elem};
use crate::warp::{State, Warp};

/// wgmma.mma_async, decoded.
#[derive(Debug, Clone)]
pub(crate) struct Product {
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) a: Elem,
    pub(crate) b: Elem,
    /// Accumulators, as numbers of 32-bit registers.
    pub(crate) acc: Vec<u32>,
    pub(crate) a_regs: Vec<Src>,
    pub(crate) a_desc: Option<Src>,
    pub(crate) b_desc: Src,
    pub(crate) scale_d: PSrc,
    pub(crate) scale: (i32, i32),
    pub(crate) trans_a: bool,
    pub(crate) trans_b: bool,
}

/// A product that has been issued.
#[derive(Debug)]
pub(crate) struct Issued {
    slot: u32,
    group: u32,
    acc: Vec<u32>,
    n: usize,
    k: usize,
    scale_d: bool,
    /// Where the 16-byte units of A and B are, or A's values from registers.
    a: Operand,
    b: Operand,
    signs: (f32, f32),
}

#[derive(Debug)]
enum Operand {
    Values(Vec<f32>),
    Units { rows: usize, elem: Elem, trans: bool, at: Vec<u32>, data: Option<Vec<f32>> },
}

impl Machine<'_> {
    pub(super) fn wgmma_converged(&mut self, warp: &Warp, pc: u32, exec: u32) -> bool {
        if exec != warp.live() || warp.live() != u32::MAX {
            self.stop("WGMMA-DIVERGED", (warp, pc, None), || {
                format!("lanes {exec:#010x} execute it, all 32 must")
            });
            return false;
        }
        true
    }

    /// If all four warps of a group stand at the same wgmma, it is issued.
    pub(super) fn wgmma_group(&mut self, slot: usize, group: u32) {
        let first = 4 * group as usize;
        let at = |m: &Self, i: usize| -> Option<(usize, u32)> {
            let warp = m.ctas[slot].warps.get(first + i)?.as_ref()?;
            let s = warp.splits.iter().position(|s| s.state == State::Group)?;
            Some((s, warp.splits[s].pc))
        };
        let places: Vec<(usize, u32)> = (0..4).filter_map(|i| at(self, i)).collect();
        if places.len() < 4 {
            return;
        }
        let pc = places[0].1 - 1;
        let mut warps: Vec<Box<Warp>> =
            (0..4).filter_map(|i| self.ctas[slot].warps[first + i].take()).collect();
        if places.iter().any(|(_, other)| *other != pc + 1) {
            self.stop("WGMMA-DIVERGED", (&warps[0], pc, None), || {
                "the four warps stand at different instructions".into()
            });
        } else {
            let program = self.program;
            if let Op::Hopper(op) = &program.code[pc as usize].op
                && let Op90::Wgmma(product) = &**op
            {
                self.wgmma_issue(&mut warps, pc, product);
            }
            for (warp, (s, _)) in warps.iter_mut().zip(&places) {
                warp.splits[*s].state = State::Run;
            }
        }
        for (i, warp) in warps.into_iter().enumerate() {
            self.ctas[slot].warps[first + i] = Some(warp);
        }
    }

    fn wgmma_issue(&mut self, warps: &mut [Box<Warp>], pc: u32, p: &Product) {
        let id = self.operation(OpKind::Product);
        let a_regs: Vec<u32> = p
            .a_regs
            .iter()
            .filter_map(|s| if let Src::R32(r) = s { Some(*r) } else { None })
            .collect();
        let scale_d = warps[0].pred(p.scale_d) & 1 == 1;
        let mut fence_missing = false;
        let mut uninit = None;
        for warp in warps.iter_mut() {
            fence_missing |= !warp.hopper.fenced
                || p.acc.iter().chain(&a_regs).any(|r| warp.meta[*r as usize].touched);
            for r in &p.acc {
                let meta = &mut warp.meta[*r as usize];
                if scale_d && meta.written != u32::MAX {
                    uninit = Some(*r);
                }
                meta.written = u32::MAX;
                meta.flight = id << 1 | 1;
                let value = warp.r32[*r as usize];
                let undefined = if scale_d { warp.meta[*r as usize].undefined } else { 0 };
                let hidden = warp.hopper.hidden.entry(*r).or_insert((value, undefined, 0));
                hidden.2 += 1;
                warp.r32[*r as usize] = [u32::MAX; 32];
            }
            for r in &a_regs {
                warp.meta[*r as usize].flight = id << 1;
            }
            warp.hopper.loose.push(id);
        }
        if fence_missing {
            self.error("WGMMA-FENCE", (&warps[0], pc, None), || {
                "an accumulator or A register was accessed with no wgmma.fence after it".into()
            });
        }
        if let Some(r) = uninit {
            self.uninitialised(&warps[0], pc, 1, r);
        }
        // What every one of the four warps has observed.
        let mut known = warps[0].a.clone();
        let mut generic = warps[0].published();
        for warp in &warps[1..] {
            known.meet(&warp.a);
            generic.meet(&warp.published());
        }
        let a = match p.a_desc {
            None => Operand::Values(self.a_from_registers(warps, p)),
            Some(desc) => {
                let desc = self.value64(&warps[0], desc)[0];
                let Some(at) = self.units(
                    &warps[0],
                    pc,
                    id,
                    desc,
                    (64, p.k, p.a, p.trans_a),
                    &known,
                    &generic,
                ) else {
                    return;
                };
                Operand::Units { rows: 64, elem: p.a, trans: p.trans_a, at, data: None }
            }
        };
        let desc = self.value64(&warps[0], p.b_desc)[0];
        let Some(at) =
            self.units(&warps[0], pc, id, desc, (p.n, p.k, p.b, p.trans_b), &known, &generic)
        else {
            return;
        };
        let mut issued = Issued {
            slot: self.ctas[warps[0].slot].linear,
            group: warps[0].index / 4,
            acc: p.acc.clone(),
            n: p.n,
            k: p.k,
            scale_d,
            a,
            b: Operand::Units { rows: p.n, elem: p.b, trans: p.trans_b, at, data: None },
            signs: (p.scale.0 as f32, p.scale.1 as f32),
        };
        let late = match self.device.options.completion {
            crate::options::Completion::Early => false,
            crate::options::Completion::Random => self.draw(2) == 0,
            _ => true,
        };
        if late {
            self.gather(&mut issued);
        }
        self.counts[pc as usize].tc_flops += 2 * 64 * (p.n * p.k) as u64;
        let cta = issued.slot;
        self.hopper.pending.push(Pending {
            id,
            cta,
            mbars: Vec::new(),
            action: Action::Product(Box::new(issued)),
        });
    }

    /// A's fragments: the layout of mma.sync with 16 rows of each warp.
    fn a_from_registers(&self, warps: &[Box<Warp>], p: &Product) -> Vec<f32> {
        let mut a = vec![0.0; 64 * p.k];
        let per = 4 / p.a.bytes();
        for (w, warp) in warps.iter().enumerate() {
            for (i, src) in p.a_regs.iter().enumerate() {
                let value = self.value32(warp, *src);
                for (lane, v) in value.iter().enumerate() {
                    let (g, t) = (lane / 4, lane % 4);
                    let row = 16 * w + g + 8 * (i & 1);
                    let k = per * t + 4 * per * (i >> 1);
                    for z in 0..per {
                        a[row * p.k + k + z] = p.a.value(v >> (8 * p.a.bytes() * z));
                    }
                }
            }
        }
        a
    }

    /// Offsets of an operand's 16-byte units in the block's shared memory, in the order in which
    /// [`Self::read_units`] goes through them; checked and recorded.
    #[allow(clippy::too_many_arguments)]
    fn units(
        &mut self,
        warp: &Warp,
        pc: u32,
        op: Actor,
        desc: u64,
        (rows, k, elem, trans): (usize, usize, Elem, bool),
        known: &clock::Clock,
        generic: &clock::Clock,
    ) -> Option<Vec<u32>> {
        let field = |shift: u32| (desc >> shift & 0x3fff) << 4;
        let (start, lbo, sbo) = (field(0), field(16), field(32));
        let swizzle = desc >> 62;
        let span = [1, 8, 4, 2][swizzle as usize] as usize;
        let mask = [0u64, 7, 3, 1][swizzle as usize];
        let other = desc & !(0x3fff | 0x3fff << 16 | 0x3fff << 32 | 3 << 62);
        if other != 0 {
            self.stop("WGMMA-DESC", (warp, pc, None), || {
                format!("descriptor {desc:#018x}: bits {other:#x} must be 0 (a base offset is not supported: align the tile to 1024 bytes)")
            });
            return None;
        }
        let per = 16 / elem.bytes();
        let mut at = Vec::new();
        let mut push = |offset: u64| {
            let address = start + offset;
            at.push(address ^ (address >> 7 & mask) << 4);
        };
        if trans {
            for kk in 0..k {
                for r in (0..rows).step_by(per) {
                    let unit = (r / per) as u64;
                    push(match swizzle {
                        0 => unit * sbo + (kk % 8 * 16) as u64 + (kk / 8) as u64 * lbo,
                        _ => {
                            let (group, within) = (r / (per * span), r % (per * span));
                            (within * elem.bytes()) as u64
                                + group as u64 * lbo
                                + (kk % 8 * span * 16) as u64
                                + (kk / 8) as u64 * sbo
                        }
                    });
                }
            }
        } else {
            for r in 0..rows {
                for kk in (0..k).step_by(per) {
                    let (row, group) = (r % 8, (r / 8) as u64);
                    push(match swizzle {
                        0 => (row * 16) as u64 + group * sbo + (kk / per) as u64 * lbo,
                        _ => (row * span * 16) as u64 + group * sbo + (kk * elem.bytes()) as u64,
                    });
                }
            }
        }
        let mut offsets = Vec::with_capacity(at.len());
        let (mut mismatch, mut undefined) = (None, None);
        for address in at {
            let Some(Place::Shared(slot, offset)) = self.place(
                warp,
                (pc, 0),
                crate::op::Space::Shared,
                address | u64::from(self.ctas[warp.slot].rank) << 24,
                16,
                16,
            ) else {
                return None;
            };
            let access = Access {
                actor: op,
                clock: 1,
                pc,
                lane: SEVERAL,
                write: false,
                strong: Strong::No,
                swizzle: 0,
                same_value: false,
            };
            let who = Known {
                clock: known,
                overlay: None,
                after_reads: Some(generic),
                generic: clock::generic(warp.number),
                copies: clock::copies(warp.number),
                lane: 0,
                retired: 0,
                sync: (0, 0),
                warps_per_cta: self.warps_per_cta,
                proxy: true,
            };
            let conflict = self.ctas[slot].shadow.access(offset, 16, &access, &who);
            if let Some(c) = conflict {
                self.conflict(warp, (pc, 0), false, true, true, Place::Shared(slot, offset), c);
            }
            let tag = self.ctas[slot].shadow.swizzle(offset / 4);
            if tag != 0 && u64::from(tag) != swizzle {
                mismatch = Some((tag, offset));
            }
            if !self.ctas[slot].shared.is_defined(offset, 16)
                && self.device.options.completion != crate::options::Completion::Early
            {
                undefined = Some(offset);
            }
            offsets.push(offset as u32);
        }
        if let Some((tag, offset)) = mismatch {
            let name = |code: u64| ["none", "128B", "64B", "32B"][code as usize & 3];
            self.error("WGMMA-SWIZZLE-MISMATCH", (warp, pc, None), || {
                format!("the descriptor says swizzle {}, shared memory at {offset:#x} was written with {}", name(swizzle), name(u64::from(tag)))
            });
        }
        if let Some(offset) = undefined {
            self.error("MEM-UNINIT-SHARED", (warp, pc, None), || {
                format!("a wgmma operand at {offset:#x} was never written")
            });
        }
        Some(offsets)
    }

    /// Reads the operands that are in shared memory.
    fn gather(&mut self, issued: &mut Issued) {
        let Some(slot) = self.slot_of(issued.slot) else { return };
        let shared = &self.ctas[slot].shared;
        let k = issued.k;
        for operand in [&mut issued.a, &mut issued.b] {
            let Operand::Units { rows, elem, trans, at, data } = operand else { continue };
            if data.is_some() {
                continue;
            }
            let per = 16 / elem.bytes();
            let mut out = vec![0.0; *rows * k];
            for (i, offset) in at.iter().enumerate() {
                for z in 0..per {
                    let bits =
                        shared.word(*offset as usize + z * elem.bytes(), elem.bytes()) as u32;
                    let (r, kk) = match trans {
                        true => (i % (*rows / per) * per + z, i / (*rows / per)),
                        false => (i / (k / per), i % (k / per) * per + z),
                    };
                    out[r * k + kk] = elem.value(bits);
                }
            }
            *data = Some(out);
        }
    }

    /// Adds a product to the accumulators; what no other product in flight adds to becomes visible.
    pub(super) fn wgmma_compute(&mut self, mut issued: Issued) {
        self.gather(&mut issued);
        let Some(slot) = self.slot_of(issued.slot) else { return };
        let values = |operand: Operand, sign: f32| -> Vec<f32> {
            let mut all = match operand {
                Operand::Values(v) => v,
                Operand::Units { data, .. } => data.unwrap_or_default(),
            };
            if sign < 0.0 {
                all.iter_mut().for_each(|x| *x = -*x);
            }
            all
        };
        let a = values(issued.a, issued.signs.0);
        let b = values(issued.b, issued.signs.1);
        let n = issued.n;
        let position = |w: usize, lane: usize, i: usize| {
            let (g, t) = (lane / 4, lane % 4);
            (16 * w + g + 8 * (i >> 1 & 1)) * n + 8 * (i >> 2) + 2 * t + (i & 1)
        };
        let mut c = vec![0f32; 64 * n];
        let first = 4 * issued.group as usize;
        for w in 0..4 {
            let Some(warp) = self.ctas[slot].warps[first + w].as_ref() else { continue };
            for (i, r) in issued.acc.iter().enumerate() {
                if let Some((value, ..)) = warp.hopper.hidden.get(r)
                    && issued.scale_d
                {
                    for (lane, v) in value.iter().enumerate() {
                        c[position(w, lane, i)] = f32::from_bits(*v);
                    }
                }
            }
        }
        tc::product(64, n, issued.k, &a, &b, &mut c, self.device.options.tc);
        for w in 0..4 {
            let Some(warp) = self.ctas[slot].warps[first + w].as_mut() else { continue };
            for (i, r) in issued.acc.iter().enumerate() {
                let Some(hidden) = warp.hopper.hidden.get_mut(r) else { continue };
                for (lane, v) in hidden.0.iter_mut().enumerate() {
                    *v = c[position(w, lane, i)].to_bits();
                }
                hidden.2 -= 1;
                if hidden.2 == 0
                    && let Some((value, undefined, _)) = warp.hopper.hidden.remove(r)
                {
                    warp.r32[*r as usize] = value;
                    warp.meta[*r as usize].undefined = undefined;
                }
            }
        }
    }

    pub(super) fn wgmma_wait(&mut self, warp: &mut Warp, pc: u32, keep: u32) {
        if !warp.hopper.loose.is_empty() {
            self.error("WGMMA-UNCOMMITTED", (warp, pc, None), || {
                "a wait_group with a wgmma that no commit_group has committed".into()
            });
        }
        let mut retired = Vec::new();
        while warp.hopper.groups.len() > keep as usize {
            retired.extend(warp.hopper.groups.pop_front().into_iter().flatten());
        }
        if retired.is_empty() {
            return;
        }
        // The products belong to four warps: this one must be in its place.
        let (slot, index) = (warp.slot, warp.index as usize);
        let placeholder = Box::new(std::mem::replace(warp, Warp::placeholder()));
        self.ctas[slot].warps[index] = Some(placeholder);
        for id in &retired {
            self.finish(*id);
        }
        if let Some(back) = self.ctas[slot].warps[index].take() {
            *warp = *back;
        }
        for id in retired {
            warp.g.raise(id, 1);
            warp.a.raise(id, 1);
            for meta in &mut warp.meta {
                if meta.flight >> 1 == id & 0x7fff_ffff {
                    meta.flight = 0;
                }
            }
        }
    }
}
