//! What a run depends on beside the module, the launch and memory.

use crate::num::Approx;
use crate::tc::Tc;
use std::str::FromStr;

/// The device that is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// Its name.
    pub name: &'static str,
    /// Compute capability times ten: 80 or 90.
    pub sm: u32,
    /// Multiprocessors.
    pub sm_count: u32,
    /// Most shared memory of a block, in bytes, if the kernel's attribute allows it.
    pub smem_optin: u32,
    /// Shared memory of a multiprocessor, in bytes.
    pub smem_per_sm: u32,
}

impl Profile {
    /// NVIDIA A100: sm_80.
    pub const fn a100() -> Self {
        Profile { name: "sm_80", sm: 80, sm_count: 108, smem_optin: 166_912, smem_per_sm: 167_936 }
    }

    /// NVIDIA H100: sm_90.
    pub const fn h100() -> Self {
        Profile { name: "sm_90a", sm: 90, sm_count: 132, smem_optin: 232_448, smem_per_sm: 233_472 }
    }
}

/// In which order warps run. All orders are legal on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// Every warp in turn for so many instructions.
    RoundRobin(u32),
    /// One warp until it blocks, lowest first.
    Greedy,
    /// One warp until it blocks, highest first.
    GreedyDescending,
    /// Random priorities with so many points at which they change (Burckhardt et al., 2010).
    Pct(u64, u32),
    /// A random warp at every instruction.
    Random(u64),
}

/// When asynchronous operations read their source, write their destination and complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completion {
    /// All at issue.
    Eager,
    /// The source is read at issue; the destination is written as late as the rules allow.
    Late,
    /// The destination is poisoned at issue; the source is read and the data written late.
    Early,
    /// Drawn for every operation.
    Random,
}

/// Everything a run depends on beside module, launch and memory. A run is a pure function of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// Order of warps.
    pub schedule: Schedule,
    /// Timing of asynchronous operations.
    pub completion: Completion,
    /// Error of approximate instructions.
    pub approx: Approx,
    /// Numerics of tensor-core products.
    pub tc: Tc,
    /// Seed of everything random.
    pub seed: u64,
    /// Where a block's own window of shared memory begins; none: as the hardware (0 on sm_80, 1024
    /// on sm_90).
    pub smem_base: Option<u32>,
    /// Dynamic shared memory begins so many times 16 bytes after the alignment its declaration
    /// asks for, which shows what relies on more.
    pub smem_shift: u32,
    /// Multiprocessors that take blocks at a time.
    pub sms: u32,
    /// Lane-instructions after which a launch is stopped.
    pub step_budget: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            schedule: Schedule::RoundRobin(16),
            completion: Completion::Eager,
            approx: Approx::Exact,
            tc: Tc::Exact,
            seed: 1,
            smem_base: None,
            smem_shift: 0,
            sms: 4,
            step_budget: 20_000_000_000,
        }
    }
}

impl FromStr for Options {
    type Err = String;

    /// `sched=rr:1,async=late,seed=7,approx=plus,tc=trunc,sms=1`; what is not named keeps its default.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut options = Options::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| format!("option `{part}`: expected KEY=VALUE"))?;
            options.set(key, value)?;
        }
        Ok(options)
    }
}

impl Options {
    /// Sets one option by its name in [`Options::from_str`].
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let wrong = |rule: &str| format!("option {key}={value}: expected {rule}");
        let number = |text: &str| text.parse::<u64>().map_err(|_| wrong("a number"));
        let small = |text: &str| text.parse::<u32>().map_err(|_| wrong("a number below 2^32"));
        match key {
            "sched" => {
                let mut parts = value.split(':');
                let name = parts.next().unwrap_or("");
                let arguments: Vec<&str> = parts.collect();
                self.schedule = match (name, arguments.as_slice()) {
                    ("rr", []) => Schedule::RoundRobin(1),
                    ("rr", [n]) => Schedule::RoundRobin(small(n)?.max(1)),
                    ("greedy", []) => Schedule::Greedy,
                    ("greedy-desc", []) => Schedule::GreedyDescending,
                    ("pct", [seed]) => Schedule::Pct(number(seed)?, 3),
                    ("pct", [seed, depth]) => Schedule::Pct(number(seed)?, small(depth)?),
                    ("random", [seed]) => Schedule::Random(number(seed)?),
                    _ => {
                        return Err(wrong(
                            "rr:N, greedy, greedy-desc, pct:SEED:DEPTH, random:SEED",
                        ));
                    }
                }
            }
            "async" => {
                self.completion = match value {
                    "eager" => Completion::Eager,
                    "late" => Completion::Late,
                    "early" => Completion::Early,
                    "random" => Completion::Random,
                    _ => return Err(wrong("eager, late, early or random")),
                }
            }
            "approx" => {
                self.approx = match value {
                    "exact" => Approx::Exact,
                    "plus" => Approx::Plus,
                    "minus" => Approx::Minus,
                    "seeded" => Approx::Seeded,
                    _ => return Err(wrong("exact, plus, minus or seeded")),
                }
            }
            "tc" => {
                self.tc = match value {
                    "exact" => Tc::Exact,
                    "trunc" => Tc::Truncate { block: 8, extra: 1 },
                    "reverse" => Tc::Reverse,
                    _ => return Err(wrong("exact, trunc or reverse")),
                }
            }
            "seed" => self.seed = number(value)?,
            "sms" => self.sms = small(value)?.max(1),
            "smem_base" => self.smem_base = Some(small(value)?),
            "smem_shift" => self.smem_shift = small(value)?,
            "steps" => self.step_budget = number(value)?,
            _ => return Err(format!("option {key}: unknown")),
        }
        Ok(())
    }

    /// Schedules × completion modes that a kernel must pass with the same bits, and the numerics
    /// options under which it must keep its tolerance.
    pub fn matrix() -> Vec<Options> {
        let schedules = [
            Schedule::RoundRobin(1),
            Schedule::Greedy,
            Schedule::GreedyDescending,
            Schedule::Pct(1, 3),
            Schedule::Pct(2, 3),
            Schedule::Pct(3, 3),
            Schedule::Pct(4, 3),
        ];
        let completions =
            [Completion::Eager, Completion::Late, Completion::Early, Completion::Random];
        let mut all = Vec::new();
        for schedule in schedules {
            for completion in completions {
                all.push(Options { schedule, completion, ..Options::default() });
            }
        }
        all
    }

    /// Error models of approximate instructions × tensor-core numerics.
    pub fn numerics() -> Vec<Options> {
        let mut all = Vec::new();
        for approx in [Approx::Exact, Approx::Plus, Approx::Minus, Approx::Seeded] {
            for tc in [Tc::Exact, Tc::Truncate { block: 8, extra: 1 }, Tc::Reverse] {
                all.push(Options { approx, tc, ..Options::default() });
            }
        }
        all
    }
}
