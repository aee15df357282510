//! ldmatrix, stmatrix, movmatrix and mma.sync. Lane l holds elements (l / 4, 2 (l % 4)) and the next
//! of every 8×8 matrix.

use super::Machine;
use super::access::{Place, What};
use crate::op::{Dst, Mem, Src};
use crate::shadow::Strong;
use crate::tc::Mma;
use crate::warp::Warp;

impl Machine<'_> {
    /// Row addresses of `n` matrices, checked.
    fn rows(&mut self, warp: &Warp, pc: u32, mem: &Mem, n: usize) -> Option<[Option<Place>; 32]> {
        let used = if n == 4 { u32::MAX } else { (1 << (8 * n)) - 1 };
        let addresses = self.addresses(warp, pc, used, mem)?;
        let mut places = [None; 32];
        for lane in 0..8 * n {
            places[lane] = Some(self.place(warp, (pc, lane), mem.space, addresses[lane], 16, 16)?);
        }
        Some(places)
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn ldmatrix(
        &mut self,
        warp: &mut Warp,
        pc: u32,
        exec: u32,
        mem: &Mem,
        dst: &[Dst],
        trans: bool,
        _taint: (u32, u32),
    ) {
        if !self.converged(warp, pc, exec) {
            return;
        }
        let Some(places) = self.rows(warp, pc, mem, dst.len()) else { return };
        self.count_access(pc, &places, 16, false);
        for (i, d) in dst.iter().enumerate() {
            let mut rows = [[0u8; 16]; 8];
            // Of every element whether it is undefined.
            let mut undefined = [[false; 8]; 8];
            for (r, row) in rows.iter_mut().enumerate() {
                let Some(Place::Shared(slot, at)) = places[8 * i + r] else { return };
                let (lane, strong) = (4 * r, Strong::No);
                let what = What { pc, lane, write: false, strong, same_value: false, copy: false };
                self.touch_row(warp, slot, at, what);
                let shared = &self.ctas[slot].shared;
                row.copy_from_slice(&shared.data[at..at + 16]);
                if !shared.is_defined(at, 16) {
                    for (e, u) in undefined[r].iter_mut().enumerate() {
                        *u = !shared.is_defined(at + 2 * e, 2);
                    }
                }
            }
            let element = |r: usize, c: usize| u32::from(rows[r][2 * c]) | u32::from(rows[r][2 * c + 1]) << 8;
            let mut out = [0; 32];
            let mut und = 0;
            for (lane, value) in out.iter_mut().enumerate() {
                let (g, t) = (lane / 4, 2 * (lane % 4));
                let (lo, hi) = if trans { ((t, g), (t + 1, g)) } else { ((g, t), (g, t + 1)) };
                *value = element(lo.0, lo.1) | element(hi.0, hi.1) << 16;
                und |= u32::from(undefined[lo.0][lo.1] || undefined[hi.0][hi.1]) << lane;
            }
            warp.set32(*d, &out, exec);
            warp.mark(*d, exec, und, pc);
        }
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn stmatrix(
        &mut self,
        warp: &mut Warp,
        pc: u32,
        exec: u32,
        mem: &Mem,
        src: &[Src],
        trans: bool,
        taint: (u32, u32),
    ) {
        if !self.converged(warp, pc, exec) {
            return;
        }
        let Some(places) = self.rows(warp, pc, mem, src.len()) else { return };
        self.count_access(pc, &places, 16, true);
        for (i, s) in src.iter().enumerate() {
            let value = self.value32(warp, *s);
            let mut rows = [[0u8; 16]; 8];
            for (lane, v) in value.iter().enumerate() {
                let (g, t) = (lane / 4, 2 * (lane % 4));
                for (h, half) in [*v as u16, (*v >> 16) as u16].into_iter().enumerate() {
                    let (r, c) = if trans { (t + h, g) } else { (g, t + h) };
                    rows[r][2 * c..2 * c + 2].copy_from_slice(&half.to_le_bytes());
                }
            }
            for (r, row) in rows.iter().enumerate() {
                let Some(Place::Shared(slot, at)) = places[8 * i + r] else { return };
                let (lane, strong) = (4 * r, Strong::No);
                let what = What { pc, lane, write: true, strong, same_value: false, copy: false };
                self.touch_row(warp, slot, at, what);
                let undefined = [taint.0 != 0; 16];
                self.write_place(warp, (pc, 0), Place::Shared(slot, at), row, &undefined);
            }
        }
    }

    pub(super) fn movmatrix(&mut self, warp: &mut Warp, pc: u32, exec: u32, dst: Dst, src: Src) {
        if !self.converged(warp, pc, exec) {
            return;
        }
        let value = self.value32(warp, src);
        let element = |r: usize, c: usize| value[4 * r + c / 2] >> (16 * (c % 2)) & 0xffff;
        let out = std::array::from_fn(|lane| {
            let (g, t) = (lane / 4, 2 * (lane % 4));
            element(t, g) | element(t + 1, g) << 16
        });
        warp.set32(dst, &out, exec);
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn mma(
        &mut self,
        warp: &mut Warp,
        pc: u32,
        exec: u32,
        f: &Mma,
        d: &[Dst],
        a: &[Src],
        b: &[Src],
        c: &[Src],
        origin: u32,
    ) {
        if !self.converged(warp, pc, exec) {
            return;
        }
        let mut values = [[0u32; 32]; 16];
        let mut taints = [0u32; 16];
        let (na, nb) = (a.len(), a.len() + b.len());
        for (i, src) in a.iter().chain(b).chain(c).enumerate() {
            match src {
                Src::R32(r) => {
                    values[i] = warp.r32[*r as usize];
                    taints[i] = warp.meta[*r as usize].undefined;
                }
                src => values[i] = self.value32(warp, *src),
            }
        }
        let n = nb + c.len();
        let mut out = [[0u32; 32]; 4];
        f.run(&mut out[..d.len()], &values[..na], &values[na..nb], &values[nb..n], self.device.options.tc);
        let mut undefined = [0u32; 4];
        if taints[..n].iter().any(|t| *t != 0) {
            f.taint(&mut undefined[..d.len()], &taints[..na], &taints[na..nb], &taints[nb..n]);
        }
        for (i, d) in d.iter().enumerate() {
            warp.set32(*d, &out[i], exec);
            warp.mark(*d, exec, undefined[i], origin);
        }
        self.counts[pc as usize].tc_flops += f.flops();
    }
}
