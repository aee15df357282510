//! Modules, functions, and launches on the simulator.

use crate::abi::code;
use crate::state::State;
use ptx_sim::{Diag, Launch, Report};
use std::sync::Arc;

pub(crate) struct Module {
    pub(crate) context: u64,
    pub(crate) ptx: Arc<ptx_sim::Module>,
}

pub(crate) struct Function {
    pub(crate) context: u64,
    pub(crate) module: u64,
    pub(crate) ptx: Arc<ptx_sim::Module>,
    pub(crate) entry: String,
    /// What the host let launches have of dynamic shared memory, if it said anything.
    pub(crate) allowed_shared: Option<u32>,
    /// More than eight blocks to a cluster.
    pub(crate) large_clusters: bool,
}

/// A launch that passed the driver's own checks.
#[derive(Clone)]
pub(crate) struct Launching {
    pub(crate) ptx: Arc<ptx_sim::Module>,
    pub(crate) entry: String,
    pub(crate) launch: Launch,
    pub(crate) params: Vec<u8>,
    pub(crate) blocks_per_sm: u32,
}

/// Shared memory that a block may have without being asked for.
pub(crate) const SHARED_BY_DEFAULT: u32 = 48 << 10;

impl Function {
    pub(crate) fn entry(&self) -> Result<&ptx_sim::Entry, u32> {
        self.ptx.entry(&self.entry).ok_or(code::NOT_FOUND)
    }
}

impl State {
    /// Parses PTX text for the current context; on failure the code and what the log says.
    pub(crate) fn load(&mut self, text: &[u8]) -> Result<u64, (u32, String)> {
        let context = self.current().map_err(|code| (code, String::new()))?;
        self.not_capturing().map_err(|code| (code, String::new()))?;
        let rejected = |code: u32, text: String| Err((code, text));
        if text.starts_with(b"\x7fELF") || text.starts_with(&[0x50, 0xed, 0x55, 0xba]) {
            return rejected(code::NO_BINARY_FOR_GPU, "compiled code cannot be simulated".into());
        }
        let Ok(text) = std::str::from_utf8(text) else {
            return rejected(code::INVALID_PTX, "not UTF-8".into());
        };
        let mut text = text.to_owned();
        for (find, replace) in &self.settings.patches {
            text = text.replacen(find, replace, 1);
        }
        let handle = self.handle();
        let module =
            match ptx_sim::Module::parse(&text, &format!("module{}.ptx", handle >> 4 & 0xffff)) {
                Ok(module) => module,
                Err(diag) => return rejected(code::INVALID_PTX, diag.to_string()),
            };
        let (newest, sm) = (self.settings.ptx_version(), self.settings.profile().sm);
        if module.version > newest {
            let (major, minor) = module.version;
            let text =
                format!(".version {major}.{minor}: the driver knows {}.{}", newest.0, newest.1);
            return rejected(code::UNSUPPORTED_PTX_VERSION, text);
        }
        if module.target > sm || (module.arch_specific && module.target != sm) {
            let letter = if module.arch_specific { "a" } else { "" };
            let text = format!(".target sm_{}{letter}: the device is sm_{sm}", module.target);
            return rejected(code::NO_BINARY_FOR_GPU, text);
        }
        self.loaded += 1;
        self.modules.insert(handle, Module { context, ptx: Arc::new(module) });
        Ok(handle)
    }

    /// The kernel `name` of a module.
    pub(crate) fn function(&mut self, module: u64, name: &str) -> Result<u64, u32> {
        let found = self.modules.get(&module).ok_or(code::INVALID_HANDLE)?;
        let (context, ptx) = (found.context, found.ptx.clone());
        ptx.entry(name).ok_or(code::NOT_FOUND)?;
        let same = |f: &Function| f.module == module && f.entry == name;
        if let Some((handle, _)) = self.functions.iter().find(|(_, f)| same(f)) {
            return Ok(*handle);
        }
        let handle = self.handle();
        let entry = name.to_owned();
        let function =
            Function { context, module, ptx, entry, allowed_shared: None, large_clusters: false };
        self.functions.insert(handle, function);
        Ok(handle)
    }

    /// The checks that the driver makes before it queues a launch.
    pub(crate) fn check_launch(&mut self, function: u64, launch: &mut Launch) -> Result<(), u32> {
        let profile = self.settings.profile();
        let function = self.functions.get(&function).ok_or(code::INVALID_HANDLE)?;
        let entry = function.entry()?;
        let mut refuse = Ok(());
        let mut rule = |ok: bool, code: u32, label: &str, text: String| {
            if !ok && refuse.is_ok() {
                refuse =
                    Err((code, format!("error[{label}] launch of {}: {text}", function.entry)));
            }
        };
        if let Some(cluster) = entry.cluster {
            let text = format!("cluster {:?}, .reqnctapercluster {cluster:?}", launch.cluster);
            let agree = launch.cluster == [1; 3] || launch.cluster == cluster;
            rule(agree, code::INVALID_CLUSTER_SIZE, "LAUNCH-CLUSTER", text);
            launch.cluster = cluster;
        }
        let ([gx, gy, gz], [bx, by, bz]) = (launch.grid, launch.block);
        let threads = u64::from(bx) * u64::from(by) * u64::from(bz);
        let dims = format!("grid {:?}, block {:?}", launch.grid, launch.block);
        let sizes = gx > 0 && gy > 0 && gz > 0 && threads > 0;
        rule(sizes, code::INVALID_VALUE, "LAUNCH-DIM", format!("{dims}: none may be 0"));
        let grid = gx <= i32::MAX as u32 && gy <= 65_535 && gz <= 65_535;
        rule(grid, code::INVALID_VALUE, "LAUNCH-DIM", format!("{dims}: too many blocks"));
        let block = threads <= 1024 && bx <= 1024 && by <= 1024 && bz <= 64;
        rule(block, code::INVALID_VALUE, "LAUNCH-DIM", format!("{dims}: too many threads"));
        if let Some(required) = entry.reqntid {
            let text = format!("{dims}, .reqntid {required:?}");
            rule(required == launch.block, code::INVALID_VALUE, "LAUNCH-DIM", text);
        }
        if let Some(most) = entry.maxntid {
            let most: u64 = most.iter().map(|&n| u64::from(n.max(1))).product();
            let text = format!("{dims}, .maxntid {most}");
            rule(threads <= most, code::INVALID_VALUE, "LAUNCH-DIM", text);
        }
        let static_smem = entry.static_smem;
        let allowed =
            function.allowed_shared.unwrap_or(SHARED_BY_DEFAULT.saturating_sub(static_smem));
        launch.smem_limit = SHARED_BY_DEFAULT.max(allowed.saturating_add(static_smem));
        let text = format!(
            "{} bytes of dynamic shared memory, {static_smem} of static; allowed are {allowed} dynamic (CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES)",
            launch.dynamic_smem
        );
        rule(launch.dynamic_smem <= allowed, code::INVALID_VALUE, "LAUNCH-SMEM", text);
        let registers = u64::from(registers(entry)) * threads.next_multiple_of(32);
        let text = format!("{threads} threads of {} registers", self::registers(entry));
        rule(registers <= 65_536, code::LAUNCH_OUT_OF_RESOURCES, "LAUNCH-REGS", text);
        let [cx, cy, cz] = launch.cluster;
        let blocks = u64::from(cx) * u64::from(cy) * u64::from(cz);
        let most = if function.large_clusters { 16 } else { 8 };
        let divides = cx > 0 && cy > 0 && cz > 0 && gx % cx == 0 && gy % cy == 0 && gz % cz == 0;
        let fits = divides && blocks <= most && (blocks == 1 || profile.sm >= 90);
        let text = format!("{dims}, cluster {:?} (at most {most} blocks, sm_90)", launch.cluster);
        rule(fits, code::INVALID_CLUSTER_SIZE, "LAUNCH-CLUSTER", text);
        refuse.map_err(|(code, text)| {
            self.report(text);
            code
        })
    }

    /// Runs a kernel; the error is the code of the fault.
    pub(crate) fn run_kernel(&mut self, launching: &Launching) -> Result<(), u32> {
        let Launching { ptx, entry, launch, params, blocks_per_sm } = launching;
        let result = self.simulator().launch(ptx, entry, launch, params);
        let report = match &result {
            Ok(report) => report,
            Err(report) => &**report,
        };
        self.clock += self.kernel_time(report, launch, *blocks_per_sm);
        let counters = serde_json::to_value(&report.counters).unwrap_or_default();
        self.counters.push((entry.clone(), counters));
        let texts: Vec<String> = report.diags.iter().map(Diag::to_string).collect();
        for text in texts {
            if result.is_err() || self.settings.lints {
                self.report(text);
            } else {
                self.reports.push(text);
            }
        }
        result.map(|_| ()).map_err(|report| fault(&report))
    }

    /// Modelled nanoseconds of a launch: the unit of the device that is busy longest, by published
    /// peaks, plus what a launch costs. A model, to run code that measures; no measurement.
    fn kernel_time(&self, report: &Report, launch: &Launch, blocks_per_sm: u32) -> f64 {
        let profile = self.settings.profile();
        let sms = f64::from(profile.sm_count);
        // Clock in GHz, tensor-core operations a clock, bytes of L2 a nanosecond.
        let (clock, tensor, l2) =
            if profile.sm >= 90 { (1.83, 4096.0, 5500.0) } else { (1.41, 2048.0, 4000.0) };
        let total = &report.counters.total;
        let sectors = total.global_sectors_load + total.global_sectors_store;
        let busy = [
            total.tc_flops as f64 / (sms * tensor * clock),
            total.warp_instructions as f64 / (4.0 * sms * clock),
            total.shared_wavefronts as f64 / (sms * clock),
            (32 * sectors + report.counters.bulk_bytes) as f64 / l2,
        ];
        let longest = busy.into_iter().fold(0.0, f64::max);
        // The last round of blocks may leave multiprocessors idle.
        let blocks: f64 = launch.grid.iter().map(|&n| f64::from(n)).product();
        let at_once = sms * f64::from(blocks_per_sm.max(1));
        let rounds = (blocks / at_once).ceil() * at_once / blocks.max(1.0);
        3000.0 + longest * rounds
    }

    /// Blocks of so many threads and so much dynamic shared memory that a multiprocessor holds.
    pub(crate) fn occupancy(&self, function: u64, threads: u32, dynamic: u64) -> Result<u32, u32> {
        let profile = self.settings.profile();
        let entry = self.functions.get(&function).ok_or(code::INVALID_HANDLE)?.entry()?;
        if threads == 0 || threads > 1024 {
            return Err(code::INVALID_VALUE);
        }
        let warps = threads.div_ceil(32);
        let registers = registers(entry) * 32 * warps;
        // A kibibyte of each block's is the system's.
        let shared = u64::from(entry.static_smem) + dynamic + 1024;
        let by_shared = u64::from(profile.smem_per_sm) / shared.next_multiple_of(128);
        Ok((64 / warps).min(32).min(65_536 / registers).min(by_shared as u32))
    }
}

/// Registers of a thread as a compiler would give them: the simulator's estimate, but no more than
/// leaves room for the block that the kernel declares.
pub(crate) fn registers(entry: &ptx_sim::Entry) -> u32 {
    let threads = entry.reqntid.or(entry.maxntid).map(|n| n.iter().map(|&n| n.max(1)).product());
    let most = threads.map_or(255, |threads: u32| 65_536 / threads.next_multiple_of(32) / 8 * 8);
    entry.regs.clamp(1, most.clamp(1, 255)).next_multiple_of(8)
}

/// The driver's code for what the simulator found first.
fn fault(report: &Report) -> u32 {
    let code = |diag: &Diag| match diag.code {
        "LAUNCH-DIM" | "LAUNCH-SMEM" | "LAUNCH-PARAM" => Some(code::INVALID_VALUE),
        "LAUNCH-REGS" => Some(code::LAUNCH_OUT_OF_RESOURCES),
        "LAUNCH-CLUSTER" => Some(code::INVALID_CLUSTER_SIZE),
        "MEM-MISALIGNED" => Some(code::MISALIGNED_ADDRESS),
        "TIMEOUT" => Some(code::LAUNCH_TIMEOUT),
        "MEM-FREED" | "MEM-SPACE" => Some(code::ILLEGAL_ADDRESS),
        name if name.starts_with("MEM-OOB") => Some(code::ILLEGAL_ADDRESS),
        _ => None,
    };
    report.diags.iter().find_map(code).unwrap_or(code::LAUNCH_FAILED)
}
