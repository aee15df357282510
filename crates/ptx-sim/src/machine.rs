//! One launch: blocks, their warps, the order they run in, what is reported.

mod access;
mod barrier;
mod copy;
mod exec;
mod flow;
mod matrix;
mod memory;
mod schedule;
mod values;
mod vote;

pub(crate) use access::{Place, What};
pub(crate) use exec::lanes;
pub(crate) use memory::apply;

use crate::clock::{Actor, Clock};
use crate::count::{Counters, Counts};
use crate::device::{Bytes, Device, Launch};
use crate::diag::Severity;
use crate::module::{Entry, Module, Program};
use crate::op::Scope;
use crate::shadow::Shadow;
use crate::warp::Warp;
use crate::{Diag, Report, Site, hopper};
use std::collections::{BTreeMap, HashMap};

/// Diagnostics after which a launch is stopped.
const MOST_DIAGS: usize = 20;

/// Where generic addresses of the smaller spaces lie.
pub(crate) const SHARED_WINDOW: u64 = 0x7e00_0000_0000;
pub(crate) const LOCAL_WINDOW: u64 = 0x7d00_0000_0000;
pub(crate) const PARAM_WINDOW: u64 = 0x7c00_0000_0000;

/// What was published at a location: up to which scope, by which block, and what it knew.
type Published = (Scope, u32, Clock);

/// A block that is running.
pub(crate) struct Cta {
    pub(crate) linear: u32,
    pub(crate) id: [u32; 3],
    /// Rank in its cluster.
    pub(crate) rank: u32,
    pub(crate) shared: Bytes,
    pub(crate) shadow: Shadow,
    /// None while the warp executes.
    pub(crate) warps: Vec<Option<Box<Warp>>>,
    pub(crate) bars: Vec<barrier::Bar>,
    /// Warps that have not exited.
    pub(crate) running: u32,
    pub(crate) hopper: hopper::CtaState,
}

pub(crate) struct Machine<'a> {
    pub(crate) device: &'a mut Device,
    pub(crate) module: &'a Module,
    pub(crate) program: &'a Program,
    pub(crate) kernel: String,
    pub(crate) launch: Launch,
    pub(crate) params: &'a [u8],
    /// Where a block's window begins, where dynamic shared memory begins in it, and its size.
    pub(crate) smem_base: u32,
    pub(crate) dynamic_at: u32,
    pub(crate) smem_bytes: u32,
    /// Address of the module's variables.
    pub(crate) variables: u64,
    /// Resident blocks; those of a cluster side by side.
    pub(crate) ctas: Vec<Cta>,
    pub(crate) warps_per_cta: u32,
    pub(crate) cluster_size: u32,
    next_cluster: u32,
    pub(crate) counts: Vec<Counts>,
    pub(crate) bulk_bytes: u64,
    pub(crate) diags: Vec<Diag>,
    seen: HashMap<(&'static str, u32, u32), usize>,
    /// The launch must stop.
    pub(crate) fatal: bool,
    pub(crate) lane_steps: u64,
    pub(crate) random: u64,
    /// Barriers that may be complete: (slot, barrier).
    pub(crate) arrivals: Vec<(usize, u32)>,
    /// What strong writes published, by location: (scope, block, clock).
    pub(crate) published: BTreeMap<(u64, u64), Vec<Published>>,
    pub(crate) hopper: hopper::LaunchState,
    pub(crate) words: Vec<u32>,
    pub(crate) sectors: Vec<u64>,
}

/// Checks the launch against limits and runs it.
pub(crate) fn run(
    device: &mut Device,
    module: &Module,
    entry: &str,
    launch: &Launch,
    params: &[u8],
) -> Result<Report, Box<Report>> {
    let Some(entry) = module.entry(entry) else {
        let message = format!("the module has no kernel {entry}");
        return Err(Report::of(Diag::new("LAUNCH-NAME", entry, message)));
    };
    if let Err(diag) = check(device, module, entry, launch, params) {
        return Err(Report::of(*diag));
    }
    let variables = match variables(device, module) {
        Ok(address) => address,
        Err(diag) => return Err(Report::of(*diag)),
    };
    device.launches += 1;
    for allocation in &mut device.global.allocations {
        allocation.shadow.clear();
    }
    let options = device.options;
    let hardware = if device.profile.sm >= 90 { 1024 } else { 0 };
    let dynamic_at =
        entry.static_smem.next_multiple_of(entry.dynamic_align.max(1)) + options.smem_shift * 16;
    let [x, y, z] = launch.block;
    let mut machine = Machine {
        program: &entry.program,
        kernel: entry.name.clone(),
        launch: *launch,
        params,
        smem_base: options.smem_base.unwrap_or(hardware),
        dynamic_at,
        smem_bytes: dynamic_at + launch.dynamic_smem,
        variables,
        ctas: Vec::new(),
        warps_per_cta: (x * y * z).div_ceil(32),
        cluster_size: launch.cluster.iter().product(),
        next_cluster: 0,
        counts: vec![Counts::default(); entry.program.code.len()],
        bulk_bytes: 0,
        diags: Vec::new(),
        seen: HashMap::new(),
        fatal: false,
        lane_steps: 0,
        random: options.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        arrivals: Vec::new(),
        published: BTreeMap::new(),
        hopper: hopper::LaunchState::default(),
        words: Vec::with_capacity(32),
        sectors: Vec::with_capacity(64),
        device,
        module,
    };
    machine.run_all(entry);
    let counters = Counters::of(
        machine.program,
        &machine.counts,
        u64::from(machine.next_cluster * machine.cluster_size),
        machine.bulk_bytes,
    );
    let report = Report { diags: machine.diags, counters };
    match report.diags.iter().any(|d| d.severity == Severity::Error) {
        true => Err(Box::new(report)),
        false => Ok(report),
    }
}

fn check(
    device: &Device,
    module: &Module,
    entry: &Entry,
    launch: &Launch,
    params: &[u8],
) -> Result<(), Box<Diag>> {
    let fail = |code, message: String| Err(Box::new(Diag::new(code, &entry.name, message)));
    let (profile, [gx, gy, gz], [x, y, z]) = (&device.profile, launch.grid, launch.block);
    let exact = !module.arch_specific || module.target == profile.sm;
    if module.target > profile.sm || !exact {
        let suffix = if module.arch_specific { "a" } else { "" };
        let message = format!(
            "the module is for sm_{}{suffix}, the device is {}",
            module.target, profile.name
        );
        return fail("LAUNCH-TARGET", message);
    }
    if params.len() != entry.param_bytes as usize {
        let message =
            format!("{} bytes of parameters, the kernel takes {}", params.len(), entry.param_bytes);
        return fail("LAUNCH-PARAM", message);
    }
    if u64::from(gx) * u64::from(gy) * u64::from(gz) > 1 << 31 {
        let message =
            format!("grid ({gx}, {gy}, {gz}) of more than 2^31 blocks cannot be simulated");
        return fail("LAUNCH-DIM", message);
    }
    if gx == 0 || gy == 0 || gz == 0 || gx > i32::MAX as u32 || gy > 65535 || gz > 65535 {
        let message = format!("grid ({gx}, {gy}, {gz}); x may be 1 to 2^31-1, y and z 1 to 65535");
        return fail("LAUNCH-DIM", message);
    }
    let threads = u64::from(x) * u64::from(y) * u64::from(z);
    if threads == 0 || threads > 1024 || z > 64 {
        let message = format!(
            "block ({x}, {y}, {z}) of {threads} threads; allowed are 1 to 1024, z up to 64"
        );
        return fail("LAUNCH-DIM", message);
    }
    if let Some(wanted) = entry.reqntid.filter(|wanted| *wanted != launch.block) {
        return fail(
            "LAUNCH-DIM",
            format!("block {:?}, the kernel requires {wanted:?}", launch.block),
        );
    }
    if let Some(most) = entry.maxntid
        && threads > most.iter().map(|n| u64::from(*n)).product()
    {
        return fail("LAUNCH-DIM", format!("{threads} threads, the kernel allows {most:?}"));
    }
    let [cx, cy, cz] = launch.cluster;
    let cluster = u64::from(cx) * u64::from(cy) * u64::from(cz);
    let divides = cluster > 0 && gx % cx == 0 && gy % cy == 0 && gz % cz == 0;
    if !divides || cluster > 16 || (cluster > 1 && profile.sm < 90) {
        let message = format!(
            "clusters of ({cx}, {cy}, {cz}) blocks on {} in grid ({gx}, {gy}, {gz})",
            profile.name
        );
        return fail("LAUNCH-CLUSTER", message);
    }
    if let Some(wanted) = entry.cluster.filter(|wanted| *wanted != launch.cluster) {
        let message = format!("clusters {:?}, the kernel requires {wanted:?}", launch.cluster);
        return fail("LAUNCH-CLUSTER", message);
    }
    let shared = u64::from(entry.static_smem) + u64::from(launch.dynamic_smem);
    let limit = profile.smem_optin.min(launch.smem_limit);
    if entry.static_smem > 49152 || shared > u64::from(limit) {
        let message = format!(
            "{shared} bytes of shared memory; the device allows {}, the function's attributes {}",
            profile.smem_optin, launch.smem_limit
        );
        return fail("LAUNCH-SMEM", message);
    }
    let regs = u64::from(entry.regs.next_multiple_of(8));
    if regs * threads.next_multiple_of(32) > 65536 {
        let message =
            format!("{threads} threads of {regs} registers exceed the 65536 of a multiprocessor");
        return fail("LAUNCH-REGS", message);
    }
    Ok(())
}

/// Places the module's `.global` and `.const` variables, once per launch of a module.
fn variables(device: &mut Device, module: &Module) -> Result<u64, Box<Diag>> {
    if module.global_bytes == 0 {
        return Ok(0);
    }
    let address = device.alloc(u64::from(module.global_bytes))?;
    for (variable, at) in &module.globals {
        device.fill(address + u64::from(*at), u64::from(variable.size.unwrap_or(0)), 0)?;
        device.write(address + u64::from(*at), &variable.initial)?;
    }
    Ok(address)
}

impl Machine<'_> {
    fn run_all(&mut self, entry: &Entry) {
        let clusters = self.launch.grid.iter().product::<u32>() / self.cluster_size;
        let per_sm = self.occupancy(entry);
        let most = (self.device.options.sms * per_sm).max(self.cluster_size) / self.cluster_size;
        let mut scheduler = schedule::Scheduler::new(self.device.options);
        loop {
            while (self.ctas.len() as u32) < most * self.cluster_size
                && self.next_cluster < clusters
            {
                self.admit();
            }
            if self.ctas.is_empty() || self.fatal {
                break;
            }
            scheduler.run(self);
        }
    }

    /// Blocks that wait for others to finish before they begin.
    pub(crate) fn blocks_waiting(&self) -> u32 {
        self.launch.grid.iter().product::<u32>() - self.next_cluster * self.cluster_size
    }

    fn occupancy(&self, entry: &Entry) -> u32 {
        let profile = &self.device.profile;
        let by_smem = profile.smem_per_sm / (self.smem_bytes + 1024);
        let threads = self.warps_per_cta * 32;
        let by_regs = 65536 / (entry.regs.next_multiple_of(8) * threads);
        by_smem.min(by_regs).min(2048 / threads).clamp(1, 32)
    }

    /// Starts the next cluster.
    fn admit(&mut self) {
        let cluster = self.next_cluster;
        self.next_cluster += 1;
        let [cx, cy, _] = self.launch.cluster;
        let [gx, gy, _] = self.launch.grid;
        let (ncx, ncy) = (gx / cx, gy / cy);
        let origin = [cluster % ncx, cluster / ncx % ncy, cluster / ncx / ncy];
        let first = cluster * self.cluster_size * self.warps_per_cta;
        let threads: u32 = self.launch.block.iter().product();
        for rank in 0..self.cluster_size {
            let within = [rank % cx, rank / cx % cy, rank / cx / cy];
            let id = [0, 1, 2].map(|i| origin[i] * self.launch.cluster[i] + within[i]);
            let slot = self.ctas.len();
            let clock = Clock::near(first, self.cluster_size * self.warps_per_cta);
            let warps = (0..self.warps_per_cta)
                .map(|w| {
                    let lanes = threads - w * 32;
                    let lanes = if lanes >= 32 { u32::MAX } else { (1 << lanes) - 1 };
                    let number = first + rank * self.warps_per_cta + w;
                    Some(Box::new(Warp::new(self.program, slot, w, number, lanes, clock.clone())))
                })
                .collect();
            self.ctas.push(Cta {
                linear: cluster * self.cluster_size + rank,
                id,
                rank,
                shared: Bytes::poisoned(self.smem_bytes as usize),
                shadow: Shadow::new((self.smem_bytes as usize).div_ceil(4)),
                warps,
                bars: vec![barrier::Bar::default(); 16],
                running: self.warps_per_cta,
                hopper: hopper::CtaState::default(),
            });
        }
    }

    /// Removes clusters whose blocks have all finished.
    pub(crate) fn retire(&mut self) {
        let n = self.cluster_size as usize;
        let mut at = 0;
        while at < self.ctas.len() {
            if self.ctas[at..at + n].iter().any(|cta| cta.running > 0) {
                at += n;
                continue;
            }
            for slot in at..at + n {
                hopper::block_exits(self, slot);
            }
            self.ctas.drain(at..at + n);
            for (slot, cta) in self.ctas.iter_mut().enumerate().skip(at) {
                for warp in cta.warps.iter_mut().flatten() {
                    warp.slot = slot;
                }
            }
        }
    }

    /// A number below `n` from the run's seed: xorshift.
    pub(crate) fn draw(&mut self, n: u32) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        ((self.random >> 33) % u64::from(n.max(1))) as u32
    }

    pub(crate) fn site(&self, pc: u32, warp: Option<&Warp>, lane: Option<u32>) -> Site {
        let inst = &self.program.code[pc as usize];
        let mut site = Site {
            line: inst.line,
            origin: self.module.origin(inst.line),
            text: self.module.text[inst.span.0..inst.span.1].to_owned(),
            lane,
            ..Site::default()
        };
        if let Some(warp) = warp {
            site.cta = self.ctas[warp.slot].id;
            site.warp = warp.index;
        }
        site
    }

    /// The place of an earlier access.
    pub(crate) fn site_of(&self, actor: Actor, pc: u32, lane: u8) -> Site {
        let lane = (lane != crate::shadow::SEVERAL).then_some(u32::from(lane));
        let mut site = self.site(pc, None, lane);
        if actor & crate::clock::OPERATION == 0 {
            let number = crate::clock::warp_of(actor);
            let linear = number / self.warps_per_cta;
            site.warp = number % self.warps_per_cta;
            site.cta = self
                .ctas
                .iter()
                .find(|cta| cta.linear == linear)
                .map_or_else(|| self.block_id(linear), |cta| cta.id);
        }
        site
    }

    fn block_id(&self, linear: u32) -> [u32; 3] {
        let [gx, gy, _] = self.launch.grid;
        [linear % gx, linear / gx % gy, linear / gx / gy]
    }

    /// Reports once per code and pair of instructions.
    pub(crate) fn report(
        &mut self,
        code: &'static str,
        severity: Severity,
        (warp, pc, lane): (&Warp, u32, Option<u32>),
        other: Option<(Site, u32)>,
        message: impl FnOnce() -> String,
    ) {
        let key = (code, pc, other.as_ref().map_or(u32::MAX, |(_, pc)| *pc));
        if let Some(&i) = self.seen.get(&key) {
            self.diags[i].count += 1;
            return;
        }
        self.seen.insert(key, self.diags.len());
        let site = self.site(pc, Some(warp), lane);
        self.diags.push(Diag {
            severity,
            site: Some(site),
            other: other.map(|(site, _)| site),
            ..Diag::new(code, &self.kernel.clone(), message())
        });
        if self.diags.iter().filter(|d| d.severity == Severity::Error).count() >= MOST_DIAGS {
            self.fatal = true;
        }
    }

    pub(crate) fn error(
        &mut self,
        code: &'static str,
        at: (&Warp, u32, Option<u32>),
        message: impl FnOnce() -> String,
    ) {
        self.report(code, Severity::Error, at, None, message);
    }

    /// An error after which the launch cannot go on.
    pub(crate) fn stop(
        &mut self,
        code: &'static str,
        at: (&Warp, u32, Option<u32>),
        message: impl FnOnce() -> String,
    ) {
        self.report(code, Severity::Error, at, None, message);
        self.fatal = true;
    }
}
