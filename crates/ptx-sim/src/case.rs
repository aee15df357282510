//! Cases: a kernel, a launch, inputs and the bits that must come out, as a JSON file beside the PTX.

use crate::{Counters, Device, Diag, Launch, Module, Options, Profile};
use serde::Deserialize;
use std::collections::BTreeMap;

/// A case as its file holds it.
#[derive(Debug, Clone, Deserialize)]
pub struct Case {
    /// Name; the PTX file is called so.
    pub case: String,
    /// Kernel.
    pub entry: String,
    /// `sm_80`, `sm_90a`.
    pub target: String,
    /// Shape of the launch.
    pub launch: CaseLaunch,
    /// Memory before the launch.
    pub buffers: Vec<Buffer>,
    /// Kernel arguments in order.
    pub args: Vec<Arg>,
    /// Memory after it.
    pub expect: Vec<Expect>,
    /// Counters that must come out.
    #[serde(default)]
    pub counters: serde_json::Map<String, serde_json::Value>,
    /// Changes that must be noticed.
    #[serde(default)]
    pub mutations: Vec<Mutation>,
}

/// Shape of a launch.
#[derive(Debug, Clone, Deserialize)]
pub struct CaseLaunch {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Blocks of a cluster.
    #[serde(default = "one_block")]
    pub cluster: [u32; 3],
    /// Bytes of dynamic shared memory.
    #[serde(default)]
    pub dyn_smem: u32,
}

fn one_block() -> [u32; 3] {
    [1, 1, 1]
}

/// One allocation: `hex` contents or `poison_bytes` undefined ones.
#[derive(Debug, Clone, Deserialize)]
pub struct Buffer {
    /// Name.
    pub name: String,
    /// Contents.
    #[serde(default)]
    pub hex: Option<String>,
    /// Bytes without contents.
    #[serde(default)]
    pub poison_bytes: Option<u64>,
}

/// One kernel argument.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arg {
    /// Address of a buffer.
    Ptr(String),
    /// A float.
    F32(f32),
    /// An integer.
    U32(u32),
    /// A 64-bit integer.
    U64(u64),
    /// A tensor map.
    Tensormap(serde_json::Value),
}

/// Expected contents of a buffer.
#[derive(Debug, Clone, Deserialize)]
pub struct Expect {
    /// Buffer.
    pub name: String,
    /// Contents.
    pub hex: String,
    /// Allowed difference; none: the same bits.
    #[serde(default)]
    pub abs_tol: Option<f64>,
    /// `bf16` or `f32`, where a difference is allowed.
    #[serde(default, rename = "type")]
    pub ty: Option<String>,
}

/// A change of the text that the simulator must notice.
#[derive(Debug, Clone, Deserialize)]
pub struct Mutation {
    /// Name.
    pub id: String,
    /// Text that occurs once.
    pub find: String,
    /// Text put in its place.
    pub replace: String,
    /// One of these codes must be reported.
    #[serde(default)]
    pub any_of: Vec<String>,
    /// The result is wrong instead.
    #[serde(default)]
    pub wrong_result: bool,
}

/// What running a case gave.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Diagnostics, lints included.
    pub diags: Vec<Diag>,
    /// First difference from the expected contents.
    pub mismatch: Option<String>,
    /// Counters, if the launch ran.
    pub counters: Counters,
    /// Contents of the buffers afterwards.
    pub memory: BTreeMap<String, Vec<u8>>,
}

impl Outcome {
    /// No diagnostics and the expected contents.
    pub fn is_clean(&self) -> bool {
        self.diags.is_empty() && self.mismatch.is_none()
    }
}

impl Case {
    /// Reads a case from JSON.
    ///
    /// # Errors
    ///
    /// What is wrong and where.
    pub fn from_json(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|e| e.to_string())
    }

    /// Runs `ptx` as the case says. Errors of the text and of the launch are diagnostics.
    ///
    /// # Errors
    ///
    /// What is wrong with the case itself.
    pub fn run(&self, ptx: &str, options: Options) -> Result<Outcome, String> {
        let mut outcome = Outcome {
            diags: Vec::new(),
            mismatch: None,
            counters: Counters::default(),
            memory: BTreeMap::new(),
        };
        let module = match Module::parse(ptx, &format!("{}.ptx", self.case)) {
            Ok(module) => module,
            Err(diag) => {
                outcome.diags.push(*diag);
                return Ok(outcome);
            }
        };
        let profile = if self.target.contains("90") { Profile::h100() } else { Profile::a100() };
        let mut device = Device::new(profile, options);
        let mut addresses = BTreeMap::new();
        for buffer in &self.buffers {
            let contents = match &buffer.hex {
                Some(hex) => Some(unhex(hex)?),
                None => None,
            };
            let bytes = match (&contents, buffer.poison_bytes) {
                (Some(c), _) => c.len() as u64,
                (None, Some(n)) => n,
                (None, None) => {
                    return Err(format!("buffer {}: needs hex or poison_bytes", buffer.name));
                }
            };
            let address = device.alloc(bytes).map_err(|d| d.to_string())?;
            device.tag(address, false, &buffer.name);
            if let Some(contents) = contents {
                device.write(address, &contents).map_err(|d| d.to_string())?;
            }
            addresses.insert(buffer.name.clone(), (address, bytes));
        }
        let Some(entry) = module.entry(&self.entry) else {
            return Err(format!("the text has no kernel {}", self.entry));
        };
        let mut params = vec![0u8; entry.param_bytes as usize];
        if self.args.len() != entry.params.len() {
            return Err(format!(
                "{} arguments, the kernel takes {}",
                self.args.len(),
                entry.params.len()
            ));
        }
        for (arg, param) in self.args.iter().zip(&entry.params) {
            let bytes = match arg {
                Arg::Ptr(name) => {
                    let (address, _) =
                        addresses.get(name).ok_or_else(|| format!("no buffer is called {name}"))?;
                    address.to_le_bytes().to_vec()
                }
                Arg::F32(x) => x.to_le_bytes().to_vec(),
                Arg::U32(n) => n.to_le_bytes().to_vec(),
                Arg::U64(n) => n.to_le_bytes().to_vec(),
                Arg::Tensormap(map) => crate::hopper::encode_case_map(map, &addresses)?,
            };
            if bytes.len() != param.size as usize {
                return Err(format!(
                    "argument {}: {} bytes, expected {}",
                    param.name,
                    bytes.len(),
                    param.size
                ));
            }
            params[param.offset as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
        let launch = Launch {
            grid: self.launch.grid,
            block: self.launch.block,
            cluster: self.launch.cluster,
            dynamic_smem: self.launch.dyn_smem,
            smem_limit: u32::MAX,
        };
        let report = match device.launch(&module, &self.entry, &launch, &params) {
            Ok(report) => report,
            Err(report) => *report,
        };
        outcome.diags = report.diags;
        outcome.counters = report.counters;
        for (name, (address, bytes)) in &addresses {
            let mut contents = vec![0; *bytes as usize];
            device.read(*address, &mut contents).map_err(|d| d.to_string())?;
            outcome.memory.insert(name.clone(), contents);
        }
        for expect in &self.expect {
            let wanted = unhex(&expect.hex)?;
            let found = outcome
                .memory
                .get(&expect.name)
                .ok_or_else(|| format!("no buffer is called {}", expect.name))?;
            outcome.mismatch = outcome.mismatch.or_else(|| expect.differs(found, &wanted));
        }
        Ok(outcome)
    }
}

impl Expect {
    fn differs(&self, found: &[u8], wanted: &[u8]) -> Option<String> {
        let size = if self.ty.as_deref() == Some("bf16") { 2 } else { 4 };
        let value = |bytes: &[u8]| match bytes {
            [a, b] => f64::from(f32::from_bits(u32::from(u16::from_le_bytes([*a, *b])) << 16)),
            [a, b, c, d] => f64::from(f32::from_le_bytes([*a, *b, *c, *d])),
            _ => f64::NAN,
        };
        let pairs = found.chunks(size).zip(wanted.chunks(size)).enumerate();
        for (i, (f, w)) in pairs {
            let close = match self.abs_tol {
                None => f == w,
                Some(tol) => (value(f) - value(w)).abs() <= tol,
            };
            if !close {
                return Some(format!(
                    "{}[{i}] is {} ({f:02x?}), expected {} ({w:02x?})",
                    self.name,
                    value(f),
                    value(w)
                ));
            }
        }
        (found.len() < wanted.len()).then(|| format!("{} is shorter than expected", self.name))
    }
}

fn unhex(text: &str) -> Result<Vec<u8>, String> {
    let bytes = text.as_bytes();
    let digit =
        |b: u8| (b as char).to_digit(16).ok_or_else(|| format!("{:?} is no hex digit", b as char));
    if !bytes.len().is_multiple_of(2) {
        return Err("an odd number of hex digits".into());
    }
    bytes.chunks(2).map(|p| Ok((digit(p[0])? * 16 + digit(p[1])?) as u8)).collect()
}
