//! What can be chosen: the device, the driver's version, when work runs, the simulator's options.

use ptx_sim::{Options, Profile};

/// When queued work runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// In the call that queues it; a fault is that call's result.
    Immediate,
    /// At the latest when a call waits for it, streams that nothing orders in an order drawn from
    /// the seed; a fault is the result of a later call, as on a device.
    Deferred,
}

#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// `a100` or `h100`.
    pub(crate) device: String,
    /// As `cuDriverGetVersion` says it.
    pub(crate) driver: u32,
    pub(crate) mode: Mode,
    /// Whether the device has memory pools; hosts allocate with `cuMemAllocAsync` then.
    pub(crate) pools: bool,
    /// Bytes of device memory.
    pub(crate) memory: u64,
    pub(crate) seed: u64,
    /// Reports of mere lints go to stderr too.
    pub(crate) lints: bool,
    /// Texts to be replaced in modules before they are loaded: tests break kernels with it.
    pub(crate) patches: Vec<(String, String)>,
    /// Options of the simulator, in its own spelling.
    pub(crate) simulator: Vec<(String, String)>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            device: "a100".to_owned(),
            driver: if cfg!(feature = "drv1200") { 12_000 } else { 13_040 },
            mode: Mode::Deferred,
            pools: true,
            memory: 80 << 30,
            seed: 0,
            lints: false,
            patches: Vec::new(),
            simulator: Vec::new(),
        }
    }
}

impl Settings {
    /// From `LONGHAND_SIM`, `LONGHAND_SIM_DEVICE` and `LONGHAND_SIM_DRIVER`.
    pub(crate) fn from_environment() -> Self {
        let mut settings = Settings::default();
        let variable = |name: &str| std::env::var(name).unwrap_or_default();
        let mut list = variable("LONGHAND_SIM");
        for (key, name) in [("device", "LONGHAND_SIM_DEVICE"), ("driver", "LONGHAND_SIM_DRIVER")] {
            let value = variable(name);
            if !value.is_empty() {
                list += &format!(",{key}={value}");
            }
        }
        for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            if let Err(e) = settings.set(key, value) {
                eprintln!("mock-cuda: LONGHAND_SIM: {e}");
            }
        }
        settings
    }

    /// Sets one by name. What is not the stand-in's own goes to the simulator.
    pub(crate) fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let number = || value.parse::<u64>().map_err(|e| format!("{key}={value}: {e}"));
        match (key, value) {
            // Which text, and after a unit separator (U+001F) what replaces it.
            ("patch", _) => {
                let (find, replace) = value.split_once('\u{1f}').ok_or("patch: no separator")?;
                self.patches.push((find.to_owned(), replace.to_owned()));
            }
            ("device", "a100" | "h100") => self.device = value.to_owned(),
            ("device", _) => return Err(format!("device={value}: must be a100 or h100")),
            ("driver", _) => {
                let driver = number()?;
                // Hosts of an older driver call functions that are not here.
                if !(11_040..=13_990).contains(&driver) {
                    return Err(format!("driver={value}: must be as 12040 for CUDA 12.4"));
                }
                self.driver = driver as u32;
            }
            ("mode", "immediate") => self.mode = Mode::Immediate,
            ("mode", "deferred") => self.mode = Mode::Deferred,
            ("mode", _) => return Err(format!("mode={value}: must be immediate or deferred")),
            ("pools", "0" | "1") => self.pools = value == "1",
            ("lints", "0" | "1") => self.lints = value == "1",
            ("memory", _) => self.memory = number()?,
            _ => {
                if key == "seed" {
                    self.seed = number()?;
                }
                let mut changed = self.simulator.clone();
                changed.retain(|(k, _)| k != key);
                changed.push((key.to_owned(), value.to_owned()));
                parse(&changed)?;
                self.simulator = changed;
            }
        }
        Ok(())
    }

    pub(crate) fn profile(&self) -> Profile {
        match self.device.as_str() {
            "h100" => Profile::h100(),
            _ => Profile::a100(),
        }
    }

    pub(crate) fn options(&self) -> Options {
        parse(&self.simulator).unwrap_or_default()
    }

    /// The newest PTX version that the driver compiles.
    pub(crate) fn ptx_version(&self) -> (u32, u32) {
        let (major, minor) = (self.driver / 1000, self.driver / 10 % 100);
        match (major, minor) {
            (11, minor) => (7, minor),
            // Two releases of CUDA 12 brought no new version of PTX.
            (12, 0..=5) => (8, minor),
            (12, minor) => (8, minor - 1),
            (_, minor) => (9, minor),
        }
    }
}

fn parse(pairs: &[(String, String)]) -> Result<Options, String> {
    let list: Vec<String> = pairs.iter().map(|(key, value)| format!("{key}={value}")).collect();
    list.join(",").parse::<Options>().map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_compiles_what_its_release_brought() {
        let mut settings = Settings::default();
        for (driver, ptx) in [
            ("11040", (7, 4)),
            ("11080", (7, 8)),
            ("12000", (8, 0)),
            ("12040", (8, 4)),
            ("12060", (8, 5)),
            ("12080", (8, 7)),
            ("12090", (8, 8)),
            ("13000", (9, 0)),
            ("13040", (9, 4)),
        ] {
            settings.set("driver", driver).expect("a driver");
            assert_eq!(settings.ptx_version(), ptx, "{driver}");
        }
    }

    #[test]
    fn what_is_set_is_ours_or_the_simulators_and_anything_else_is_refused() {
        let mut settings = Settings::default();
        for (key, value) in [
            ("device", "v100"),
            ("driver", "12.4"),
            ("driver", "9000"),
            ("mode", "later"),
            ("pools", "2"),
            ("memory", "much"),
            ("sched", "fair"),
            ("shed", "greedy"),
        ] {
            assert!(settings.set(key, value).is_err(), "{key}={value}");
        }
        assert_eq!(settings.options(), Options::default(), "nothing was kept");
        settings.set("async", "late").expect("an option of the simulator");
        settings.set("async", "early").expect("it may be set again");
        settings.set("seed", "7").expect("both have a seed");
        let options = settings.options();
        assert_eq!((options.completion, options.seed), (ptx_sim::Completion::Early, 7));
        assert_eq!(settings.seed, 7);
    }
}
