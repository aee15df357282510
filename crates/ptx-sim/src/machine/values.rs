//! Operand values.

use super::{LOCAL_WINDOW, Machine, PARAM_WINDOW, SHARED_WINDOW};
use crate::alu::{L32, L64};
use crate::device::GLOBAL_BASE;
use crate::op::{MaskKind, Space, Special, Src, Symbol};
use crate::warp::Warp;

impl Machine<'_> {
    /// A variable's address in its own space.
    fn symbol(&self, warp: &Warp, symbol: Symbol, at: u32) -> u64 {
        let window = self.ctas[warp.slot].rank << 24 | self.smem_base;
        match symbol {
            Symbol::Shared => u64::from(window.wrapping_add(at)),
            Symbol::Dynamic => u64::from(window.wrapping_add(self.dynamic_at).wrapping_add(at)),
            Symbol::Global => self.variables + u64::from(at),
            Symbol::Local | Symbol::Param => u64::from(at),
        }
    }

    fn special(&self, warp: &Warp, special: Special) -> L64 {
        let cta = &self.ctas[warp.slot];
        let Special::Tid(axis) = special else {
            let lane_mask = |kind, lane: u32| -> u64 {
                let (eq, lt) = (1u32 << lane, (1u32 << lane) - 1);
                u64::from(match kind {
                    MaskKind::Eq => eq,
                    MaskKind::Lt => lt,
                    MaskKind::Le => lt | eq,
                    MaskKind::Ge => !lt,
                    MaskKind::Gt => !(lt | eq),
                })
            };
            let one = |value: u32| [u64::from(value); 32];
            let clusters = |i: u8| self.launch.grid[i as usize] / self.launch.cluster[i as usize];
            return match special {
                Special::Laneid => std::array::from_fn(|l| l as u64),
                Special::LaneMask(kind) => std::array::from_fn(|l| lane_mask(kind, l as u32)),
                Special::Ntid(i) => one(self.launch.block[i as usize]),
                Special::Ctaid(i) => one(cta.id[i as usize]),
                Special::Nctaid(i) => one(self.launch.grid[i as usize]),
                Special::Warpid => one(warp.index),
                Special::Nwarpid => one(self.warps_per_cta),
                Special::Smid => one(cta.linear % self.device.options.sms),
                Special::Nsmid => one(self.device.profile.sm_count),
                Special::Gridid => [self.device.launches; 32],
                Special::ClusterId(i) => one(cta.id[i as usize] / self.launch.cluster[i as usize]),
                Special::NclusterId(i) => one(clusters(i)),
                Special::ClusterCtaid(i) => {
                    one(cta.id[i as usize] % self.launch.cluster[i as usize])
                }
                Special::ClusterNctaid(i) => one(self.launch.cluster[i as usize]),
                Special::ClusterRank => one(cta.rank),
                Special::ClusterSize => one(self.cluster_size),
                Special::IsExplicitCluster => one(u32::from(self.cluster_size > 1)),
                Special::Clock | Special::GlobalTimer => [self.lane_steps; 32],
                Special::DynamicSmem => one(self.launch.dynamic_smem),
                Special::TotalSmem => one(self.smem_bytes),
                Special::Tid(_) => one(0),
            };
        };
        let [x, y, _] = self.launch.block;
        std::array::from_fn(|lane| {
            let thread = warp.index * 32 + lane as u32;
            u64::from(match axis {
                0 => thread % x,
                1 => thread / x % y,
                _ => thread / (x * y),
            })
        })
    }

    pub(crate) fn value32(&self, warp: &Warp, src: Src) -> L32 {
        match src {
            Src::R32(r) => warp.r32[r as usize],
            Src::R64(r) => warp.r64[r as usize].map(|v| v as u32),
            Src::Imm(n) => [n as u32; 32],
            Src::Special(special) => self.special(warp, special).map(|v| v as u32),
            Src::Symbol(symbol, at) => [self.symbol(warp, symbol, at) as u32; 32],
        }
    }

    pub(crate) fn value64(&self, warp: &Warp, src: Src) -> L64 {
        match src {
            Src::R32(r) => warp.r32[r as usize].map(u64::from),
            Src::R64(r) => warp.r64[r as usize],
            Src::Imm(n) => [n; 32],
            Src::Special(special) => self.special(warp, special),
            Src::Symbol(symbol, at) => [self.symbol(warp, symbol, at); 32],
        }
    }

    /// One lane's value.
    pub(crate) fn lane64(&self, warp: &Warp, src: Src, lane: usize) -> u64 {
        match src {
            Src::R32(r) => u64::from(warp.r32[r as usize][lane]),
            Src::R64(r) => warp.r64[r as usize][lane],
            Src::Imm(n) => n,
            Src::Special(special) => self.special(warp, special)[lane],
            Src::Symbol(symbol, at) => self.symbol(warp, symbol, at),
        }
    }

    /// A reference where the value is a register, else `slot` filled.
    pub(crate) fn ref32<'r>(&self, warp: &'r Warp, src: Src, slot: &'r mut L32) -> &'r L32 {
        match src {
            Src::R32(r) => &warp.r32[r as usize],
            src => {
                *slot = self.value32(warp, src);
                slot
            }
        }
    }

    /// Between a space's own addresses and generic ones.
    pub(crate) fn to_generic(space: Space, address: u64) -> u64 {
        match space {
            Space::Shared | Space::Cluster => SHARED_WINDOW + (address & 0xffff_ffff),
            Space::Local => LOCAL_WINDOW + address,
            Space::Param => PARAM_WINDOW + address,
            Space::Global | Space::Generic => address,
        }
    }

    pub(crate) fn from_generic(space: Space, address: u64) -> u64 {
        match space {
            Space::Shared | Space::Cluster => address.wrapping_sub(SHARED_WINDOW),
            Space::Local => address.wrapping_sub(LOCAL_WINDOW),
            Space::Param => address.wrapping_sub(PARAM_WINDOW),
            Space::Global | Space::Generic => address,
        }
    }

    /// The space that a generic address lies in.
    pub(crate) fn space_of(address: u64) -> Space {
        match address {
            PARAM_WINDOW..LOCAL_WINDOW => Space::Param,
            LOCAL_WINDOW..SHARED_WINDOW => Space::Local,
            SHARED_WINDOW..GLOBAL_BASE => Space::Cluster,
            _ => Space::Global,
        }
    }
}
