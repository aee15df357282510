//! ldmatrix, stmatrix, movmatrix and mma.sync. Lane l holds elements (l / 4, 2 (l % 4)) and the next
//! of every 8×8 matrix.

use super::Machine;
use super::access::Place;
use crate::count;
use crate::op::{Dst, Mem, Src};
use crate::tc::Mma;
use crate::warp::Warp;

impl Machine<'_> {
    /// Offsets of the rows of `n` matrices in the block's shared memory, checked and recorded.
    fn rows(
        &mut self,
        warp: &Warp,
        pc: u32,
        mem: &Mem,
        n: usize,
        write: bool,
    ) -> Option<[usize; 32]> {
        let used = if n == 4 { u32::MAX } else { (1 << (8 * n)) - 1 };
        let addresses = self.addresses(warp, pc, used, mem)?;
        let mut offsets = [0; 32];
        for lane in 0..8 * n {
            match self.place(warp, (pc, lane), mem.space, addresses[lane], 16, 16)? {
                Place::Shared(_, at) => offsets[lane] = at,
                _ => {
                    self.stop("MEM-SPACE", (warp, pc, Some(lane as u32)), || {
                        format!("{:#x} is no address of shared memory", addresses[lane])
                    });
                    return None;
                }
            }
        }
        let (mut passes, mut ideal) = (0, 0);
        for rows in offsets[..8 * n].chunks(8) {
            let (wavefronts, least) = count::row_wavefronts(rows);
            passes += wavefronts;
            ideal += least;
        }
        let counts = &mut self.counts[pc as usize];
        counts.shared_wavefronts += passes;
        counts.shared_ideal += ideal;
        self.touch_rows(warp, pc, &offsets[..8 * n], write);
        Some(offsets)
    }

    pub(super) fn ldmatrix(
        &mut self,
        warp: &mut Warp,
        (pc, exec): (u32, u32),
        mem: &Mem,
        dst: &[Dst],
        trans: bool,
    ) {
        if !self.converged(warp, pc, exec) {
            return;
        }
        let Some(offsets) = self.rows(warp, pc, mem, dst.len(), false) else { return };
        let shared = &self.ctas[warp.slot].shared;
        for (offsets, d) in offsets.chunks(8).zip(dst) {
            let mut words = [[0u32; 4]; 8];
            let mut defined = true;
            for (row, &at) in words.iter_mut().zip(offsets) {
                let bytes = &shared.data[at..at + 16];
                for (word, bytes) in row.iter_mut().zip(bytes.chunks_exact(4)) {
                    *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                }
                defined &= shared.is_defined(at, 16);
            }
            let half = |r: usize, c: usize| words[r][c / 2] >> (16 * (c % 2)) & 0xffff;
            let mut und = 0;
            let out: [u32; 32] = match trans {
                false => std::array::from_fn(|lane| words[lane / 4][lane % 4]),
                true => std::array::from_fn(|lane| {
                    let (g, t) = (lane / 4, 2 * (lane % 4));
                    half(t, g) | half(t + 1, g) << 16
                }),
            };
            if !defined {
                let missing = |r: usize, c: usize| !shared.is_defined(offsets[r] + 2 * c, 2);
                for lane in 0..32 {
                    let (g, t) = (lane / 4, 2 * (lane % 4));
                    let any = match trans {
                        false => missing(g, t) || missing(g, t + 1),
                        true => missing(t, g) || missing(t + 1, g),
                    };
                    und |= u32::from(any) << lane;
                }
            }
            warp.set32(*d, &out, exec);
            warp.mark(*d, exec, und, pc);
        }
    }

    pub(super) fn stmatrix(
        &mut self,
        warp: &mut Warp,
        (pc, exec): (u32, u32),
        mem: &Mem,
        src: &[Src],
        trans: bool,
    ) {
        if !self.converged(warp, pc, exec) {
            return;
        }
        let Some(offsets) = self.rows(warp, pc, mem, src.len(), true) else { return };
        for (offsets, s) in offsets.chunks(8).zip(src) {
            let value = self.value32(warp, *s);
            let undefined = match s {
                Src::R32(r) => warp.meta[*r as usize].undefined,
                _ => 0,
            };
            let shared = &mut self.ctas[warp.slot].shared;
            for (lane, v) in value.iter().enumerate() {
                let (g, t) = (lane / 4, 2 * (lane % 4));
                for (h, half) in [*v as u16, (*v >> 16) as u16].into_iter().enumerate() {
                    let (r, c) = if trans { (t + h, g) } else { (g, t + h) };
                    let at = offsets[r] + 2 * c;
                    shared.write(at, &half.to_le_bytes());
                    if undefined >> lane & 1 == 1 {
                        shared.define(at, 2, false);
                    }
                }
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
        f.run(
            &mut out[..d.len()],
            &values[..na],
            &values[na..nb],
            &values[nb..n],
            self.device.options.tc,
        );
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
